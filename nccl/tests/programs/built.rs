//! The library and the programs that run over it: what is exported and what others need of it, how a program is compiled against a stranger's
//! `libnccl.so.2`, and a run of one. Knows nothing of what programs do. Invariant: the stranger's library ends whoever calls it, so that a
//! program that ends well has called ours.

use hfr_standin::{LibraryFolder, library_folder};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// A program that runs longer has hung. Each of its ranks ends by itself much earlier.
const LONGEST: Duration = Duration::from_secs(300);

/// This package's folder.
fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What `program` prints when it succeeds.
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {}",
        text(&done.stderr)
    );
    text(&done.stdout)
}

/// Whether C programs can be built and looked at here; says what is missing.
pub fn tools_there() -> bool {
    for name in ["cc", "nm", "readelf"] {
        let there = Command::new(name).arg("--version").output();
        if !there.is_ok_and(|done| done.status.success()) {
            eprintln!(
                "skipped: there is no `{name}`; install gcc and binutils to test the interface with NCCL's names"
            );
            return false;
        }
    }
    true
}

/// The library: the one that is installed where `HFR_C_PREFIX` says, else the one that cargo has put beside this program.
pub fn library() -> String {
    let path = match std::env::var_os("HFR_C_PREFIX") {
        Some(prefix) => Path::new(&prefix).join("lib/libhfr_nccl.so.2"),
        None => {
            let own = std::env::current_exe().expect("the path of this program");
            own.with_file_name("libhfr_nccl.so")
        }
    };
    assert!(path.is_file(), "there is no {}", path.display());
    path.into_os_string().into_string().expect("a plain path")
}

fn last_words(listed: &str) -> BTreeSet<String> {
    let names = listed.lines().filter_map(|l| l.split_whitespace().last());
    names.map(str::to_owned).collect()
}

/// What the library exports.
pub fn exported() -> BTreeSet<String> {
    last_words(&tool("nm", &["-D", "--defined-only", &library()]))
}

/// What it is to export.
pub fn named() -> BTreeSet<String> {
    last_words(&fs::read_to_string(here().join("symbols.txt")).expect("the list"))
}

/// What a library needs of NCCL.
pub fn needed(library: &Path) -> BTreeSet<String> {
    let path = library.to_str().expect("a plain path");
    let all = last_words(&tool("nm", &["-D", "--undefined-only", path]));
    let ours = |name: &String| name.starts_with("nccl") || name.starts_with("pnccl");
    all.into_iter().filter(ours).collect()
}

/// Where torch is on this machine, as `ci/torch.sh` leaves it; says so if nowhere.
pub fn torches() -> Vec<PathBuf> {
    let cache = std::env::var_os("HFR_CI_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/hfreduce-ci"));
    let mut found = Vec::new();
    for version in ["2.15.0", "2.9.1"] {
        let environment = cache.clone().or_else(|| home.clone()).unwrap_or_default();
        let libraries = environment.join(format!("torch-{version}/lib"));
        let pythons = fs::read_dir(libraries).into_iter().flatten().flatten();
        let packages = pythons.map(|python| python.path().join("site-packages"));
        found.extend(packages.filter(|at| at.join("torch/lib/libtorch_cuda.so").is_file()));
    }
    if found.is_empty() {
        eprintln!(
            "skipped: there is no torch, nor NCCL's header; ci/torch_env.sh 2.15.0 2.9.1 brings both"
        );
    }
    found
}

/// Which declarations a program is compiled with.
pub enum Header {
    /// `shape.h`.
    Own,
    /// The folder of NCCL's own `nccl.h`.
    Real(PathBuf),
}

/// NCCL's own headers on this machine: torch brings them.
pub fn real_headers() -> Vec<Header> {
    let folders = torches()
        .into_iter()
        .map(|at| at.join("nvidia/nccl/include"));
    let there = folders.filter(|at| at.join("nccl.h").is_file());
    there.map(Header::Real).collect()
}

/// A file name that no other test of this run uses.
fn fresh(stem: &str) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{stem}-{number}"))
}

/// A folder with a stranger's `libnccl.so.2`, which ends whoever calls it.
fn strangers() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = fresh("strangers");
        fs::create_dir_all(&folder).expect("a folder");
        let source = folder.join("nccl.c");
        let calls = named()
            .into_iter()
            .map(|name| format!("void {name}(void) {{ abort(); }}\n"));
        fs::write(
            &source,
            format!("#include <stdlib.h>\n{}", calls.collect::<String>()),
        )
        .expect("a file");
        let text = |path: PathBuf| path.into_os_string().into_string().expect("a plain path");
        let (source, library) = (text(source), text(folder.join("libnccl.so.2")));
        let soname = "-Wl,-soname,libnccl.so.2";
        tool("cc", &["-shared", "-fPIC", soname, &source, "-o", &library]);
        folder
    })
}

/// A program that was compiled, and the stand-in for its driver.
pub struct Program {
    path: PathBuf,
    driver: LibraryFolder,
}

impl Program {
    /// Compiles `source`; any warning is an error. None where there is no compiler.
    pub fn of(source: &str, header: &Header) -> Option<Program> {
        if !tools_there() {
            return None;
        }
        let (path, driver) = (fresh(source.trim_end_matches(".c")), library_folder());
        let mut compiler = Command::new("cc");
        compiler.args([
            "-std=gnu11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-O1",
            "-pthread",
        ]);
        if let Header::Real(folder) = header {
            let cuda = here().join("tests/without_cuda");
            compiler.arg("-DREAL_NCCL").arg("-isystem").arg(folder);
            compiler.arg("-I").arg(cuda);
        }
        let done = compiler
            .arg("-I")
            .arg(here().join("../c/tests"))
            .arg(here().join("tests").join(source))
            .arg("-o")
            .arg(&path)
            .arg("-L")
            .arg(strangers())
            .arg("-L")
            .arg(driver.path())
            .args(["-l:libnccl.so.2", "-l:libcuda.so.1", "-lm"])
            .output()
            .expect("the compiler runs");
        let complained = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{source}: {complained}");
        Some(Program { path, driver })
    }

    /// Runs it to its end, which must be a good one; what it said on standard output.
    pub fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> String {
        let (said, complained) = (fresh("said"), fresh("complained"));
        let file = |path: &Path| File::create(path).expect("a file");
        let mut search = strangers().as_os_str().to_owned();
        search.push(":");
        search.push(self.driver.search_path());
        let mut child = Command::new(&self.path)
            .args(arguments)
            .envs(variables.iter().copied())
            .env("LD_LIBRARY_PATH", search)
            .env("LD_PRELOAD", library())
            .stdin(Stdio::null())
            .stdout(file(&said))
            .stderr(file(&complained))
            .spawn()
            .expect("the program starts");
        let until = Instant::now() + LONGEST;
        let status = loop {
            match child.try_wait().expect("a child") {
                Some(status) => break Some(status),
                None if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                None => {
                    // Its ranks end with it.
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
            }
        };
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let story = format!("{}\n{}", text(&said), text(&complained));
        let name = self.path.display();
        assert!(
            status.is_some_and(|s| s.success()),
            "{name} {arguments:?}: {status:?}\n{story}"
        );
        text(&said)
    }
}
