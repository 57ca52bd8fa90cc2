//! An installation of the C library for the tests, the programs compiled against it, and a run of one. Knows nothing of what the programs do.
//! Invariant: there is one installation per test run; it is made by `c/install.sh`, or it is the one that `HFR_C_PREFIX` names.

use std::{
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
const LONGEST: Duration = Duration::from_secs(400);

/// Which library a program is linked with.
#[derive(Clone, Copy, Debug)]
pub enum Link {
    Shared,
    Static,
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
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

/// Whether C programs can be built here; says what is missing.
pub fn tools_there() -> bool {
    for name in ["cc", "c++", "pkg-config", "nm"] {
        let there = Command::new(name).arg("--version").output();
        if !there.is_ok_and(|done| done.status.success()) {
            eprintln!(
                "skipped: there is no `{name}`; install gcc, g++, binutils and pkg-config to test the C interface"
            );
            return false;
        }
    }
    true
}

/// Where the library is installed.
pub fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        if let Some(prefix) = std::env::var_os("HFR_C_PREFIX") {
            return prefix.into();
        }
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("installed");
        // Cargo has put the libraries beside this test. To build them anew by themselves would mean other features, so all crates again.
        let own = std::env::current_exe().expect("this program");
        let done = Command::new(root().join("c/install.sh"))
            .arg("--built")
            .arg(own.parent().expect("target/PROFILE/deps"))
            .arg(&prefix)
            .output()
            .expect("bash runs");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        prefix
    })
}

/// The flags that pkg-config gives for a package.
fn flags(package: &str) -> Vec<String> {
    let given = Command::new("pkg-config")
        .args(["--cflags", "--libs", package])
        .env("PKG_CONFIG_PATH", prefix().join("lib/pkgconfig"))
        .output()
        .expect("pkg-config runs");
    assert!(
        given.status.success(),
        "{}",
        String::from_utf8_lossy(&given.stderr)
    );
    let given = String::from_utf8_lossy(&given.stdout).into_owned();
    given.split_whitespace().map(str::to_owned).collect()
}

/// A file name that no other test of this run uses.
fn fresh(stem: &str) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{stem}-{number}"))
}

/// Compiles a program; any warning is an error.
pub fn build(compiler: &str, options: &[&str], source: &str, link: Link) -> PathBuf {
    let stem = Path::new(source)
        .file_stem()
        .expect("a file")
        .to_str()
        .expect("a plain name");
    let program = fresh(stem);
    let package = match link {
        Link::Shared => "hfreduce",
        Link::Static => "hfreduce-static",
    };
    let done = Command::new(compiler)
        .args(options)
        .arg(root().join(source))
        .arg("-o")
        .arg(&program)
        .arg("-pthread")
        // What is said in C++ of a source must not be taken for one of the libraries.
        .args(["-xnone"])
        .args(flags(package))
        .arg(format!("-Wl,-rpath,{}", prefix().join("lib").display()))
        .output()
        .expect("the compiler runs");
    assert!(
        done.status.success(),
        "{source}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    program
}

/// Runs a program to its end, which must be a good one; what it said on standard output.
pub fn run(program: &Path, arguments: &[&str], variable: (&str, &str)) -> String {
    let (said, complained) = (fresh("said"), fresh("complained"));
    let file = |path: &Path| File::create(path).expect("a file");
    let mut child = Command::new(program)
        .args(arguments)
        .env(variable.0, variable.1)
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
    assert!(
        status.is_some_and(|s| s.success()),
        "{} {arguments:?}: {status:?}\n{story}",
        program.display()
    );
    text(&said)
}
