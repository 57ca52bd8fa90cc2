//! What the stand-in's own tests share: a test's body runs in a process of its own that finds the stand-in as its driver, and the test looks at how that process ended.
//! It knows no test. Invariant: no process outlives its test, and none waits longer than a minute.

#![allow(dead_code, reason = "every test file uses its own part")]

use cudarc::driver::{CudaContext, CudaStream, sys};
use hfr_standin::{Report, library_folder, report};
use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Calls the driver and returns its code.
#[macro_export]
macro_rules! code {
    ($call:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: the stand-in checks what it is given, or the test is about what it does then; places to write are references.
        #[allow(clippy::macro_metavars_in_unsafe, reason = "arguments are plain values")]
        let code = unsafe { ::cudarc::driver::sys::$call($($argument),*) };
        code
    }};
}

/// Calls the driver and insists on success.
#[macro_export]
macro_rules! cu {
    ($call:ident($($argument:expr),* $(,)?)) => {
        assert_eq!($crate::code!($call($($argument),*)), ::cudarc::driver::sys::CUresult::CUDA_SUCCESS, stringify!($call))
    };
}

const CHILD: &str = "STANDIN_TESTS_CHILD";

/// How a body's process ended.
pub struct Ended {
    pub status: ExitStatus,
    pub stderr: String,
    pub report: Option<Report>,
}

impl Ended {
    /// It ended well; what it reports.
    #[track_caller]
    pub fn well(self) -> Report {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        self.report.expect("a report")
    }

    /// It was ended for a misuse that the line on stderr names.
    #[track_caller]
    pub fn for_misuse(self, what: &str) {
        assert_eq!(
            self.status.signal(),
            Some(6),
            "{}: {}",
            self.status,
            self.stderr
        );
        let said = self
            .stderr
            .lines()
            .any(|l| l.starts_with("stand-in cuda: misuse: ") && l.contains(what));
        assert!(said, "{}", self.stderr);
    }
}

/// Runs the body of the test of this name in a process of its own, with these settings.
pub fn on_standin(name: &str, settings: &[(&str, &str)], body: impl FnOnce()) -> Ended {
    if env::var_os(CHILD).is_some() {
        body();
        std::process::exit(0);
    }
    let folder = library_folder();
    let (stderr, reported) = (folder.path().join("stderr"), folder.path().join("report"));
    let mut child = Command::new(env::current_exe().expect("this program"))
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env("LD_LIBRARY_PATH", folder.search_path())
        .env("STANDIN_REPORT", &reported)
        .env_remove("RUST_BACKTRACE")
        .envs(settings.iter().copied())
        .stdout(fs::File::create(folder.path().join("stdout")).expect("a file"))
        .stderr(fs::File::create(&stderr).expect("a file"))
        .spawn()
        .expect("a process");
    let latest = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child's status") {
            break status;
        }
        if Instant::now() > latest {
            child.kill().expect("a child that is there");
            child.wait().expect("a child's status");
            panic!(
                "{name} did not end: {}",
                fs::read_to_string(&stderr).unwrap_or_default()
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Ended {
        status,
        stderr: fs::read_to_string(&stderr).expect("a file"),
        report: reported.is_file().then(|| report(&reported)),
    }
}

/// Device 0's primary context, current on this thread.
pub fn context() -> Arc<CudaContext> {
    CudaContext::new(0).expect("a context")
}

/// A stream of its own.
pub fn stream(context: &Arc<CudaContext>) -> Arc<CudaStream> {
    context.new_stream().expect("a stream")
}

/// Bytes that differ from place to place and from seed to seed, never zero.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64)
        .map(|n| ((n * 31 + n / 251 + seed * 17) % 255 + 1) as u8)
        .collect()
}

/// Device memory of some bytes, freed by the driver alone.
pub fn device(len: usize) -> sys::CUdeviceptr {
    let mut at = 0;
    cu!(cuMemAlloc_v2(&mut at, len));
    at
}

/// Host memory that is pinned until it is dropped.
pub struct Pinned {
    words: Vec<AtomicU64>,
}

impl Pinned {
    pub fn new(len: usize) -> Self {
        let words = (0..len.div_ceil(8))
            .map(|n| AtomicU64::new(n as u64 + 1))
            .collect();
        let own = Self { words };
        cu!(cuMemHostRegister_v2(
            own.at(),
            own.len(),
            sys::CU_MEMHOSTREGISTER_PORTABLE
        ));
        own
    }

    pub fn len(&self) -> usize {
        8 * self.words.len()
    }

    pub fn at(&self) -> *mut std::ffi::c_void {
        self.words.as_ptr() as *mut _
    }

    /// Its address as the device sees it.
    pub fn on_device(&self) -> sys::CUdeviceptr {
        self.at() as sys::CUdeviceptr
    }

    pub fn word(&self, n: usize) -> &AtomicU64 {
        &self.words[n]
    }

    pub fn read(&self) -> Vec<u8> {
        self.words
            .iter()
            .flat_map(|w| w.load(Ordering::Acquire).to_ne_bytes())
            .collect()
    }

    pub fn write(&self, bytes: &[u8]) {
        for (word, eight) in self.words.iter().zip(bytes.chunks_exact(8)) {
            word.store(
                u64::from_ne_bytes(eight.try_into().expect("eight")),
                Ordering::Release,
            );
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        cu!(cuMemHostUnregister(self.at()));
    }
}

/// Holds streams until it is opened.
pub struct Gate(Pinned);

impl Gate {
    pub fn new() -> Self {
        let word = Pinned::new(8);
        word.word(0).store(3, Ordering::Release);
        Self(word)
    }

    /// What is given to the stream from now on waits.
    pub fn close(&self, stream: &CudaStream) {
        self.close_raw(stream.cu_stream());
    }

    pub fn close_raw(&self, stream: sys::CUstream) {
        cu!(cuStreamWaitValue64_v2(stream, self.0.on_device(), 4, 0));
    }

    pub fn open(&self) {
        self.0.word(0).store(4, Ordering::Release);
    }
}

/// Whether the stream has nothing left to do.
pub fn idle(stream: sys::CUstream) -> bool {
    match code!(cuStreamQuery(stream)) {
        sys::CUresult::CUDA_SUCCESS => true,
        sys::CUresult::CUDA_ERROR_NOT_READY => false,
        other => panic!("{other:?}"),
    }
}

/// Device memory with these bytes.
pub fn upload(bytes: &[u8]) -> sys::CUdeviceptr {
    let at = device(bytes.len());
    cu!(cuMemcpyHtoD_v2(at, bytes.as_ptr().cast(), bytes.len()));
    at
}

/// The bytes of device memory.
pub fn download(at: sys::CUdeviceptr, len: usize) -> Vec<u8> {
    let mut bytes = vec![1; len];
    cu!(cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), at, len));
    bytes
}
