//! How a test puts the stand-in in a process's way: a folder of its own where the built library has the names under which programs look for the driver. It knows
//! where cargo puts what it builds, and nothing of the driver. Invariant: the folder is gone when its owner is.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

/// A temporary folder with the stand-in as `libcuda.so.1`; it is removed on drop.
#[derive(Debug)]
pub struct LibraryFolder(PathBuf);

impl LibraryFolder {
    /// The folder, where tests may put their reports too.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What `LD_LIBRARY_PATH` has to be for a process that is to find the stand-in: this folder before all that is searched already.
    #[must_use]
    pub fn search_path(&self) -> OsString {
        let mut path = self.0.clone().into_os_string();
        if let Some(others) = env::var_os("LD_LIBRARY_PATH").filter(|p| !p.is_empty()) {
            path.push(":");
            path.push(others);
        }
        path
    }
}

impl Drop for LibraryFolder {
    fn drop(&mut self) {
        // What cannot be removed is left in the temporary folder; a test's outcome is not about that.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The built library: cargo puts it beside the test's executable, or where that folder's programs go.
fn library() -> PathBuf {
    let here = env::current_exe().expect("the path of this program");
    let beside: Vec<&Path> = here.ancestors().skip(1).take(2).collect();
    let places = [
        beside[0].to_owned(),
        beside[0].join("deps"),
        beside[1].to_owned(),
        beside[1].join("deps"),
    ];
    let found = places
        .iter()
        .map(|place| place.join("libhfr_standin.so"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no libhfr_standin.so beside {}", here.display()))
}

/// Makes a folder with the stand-in in it.
///
/// # Panics
///
/// If the library has not been built, or no folder can be made.
#[must_use]
pub fn library_folder() -> LibraryFolder {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let name = format!(
        "hfr-standin-{}-{}",
        std::process::id(),
        MADE.fetch_add(1, Ordering::Relaxed)
    );
    let folder = LibraryFolder(env::temp_dir().join(name));
    // The rest of a process that had our number and was killed.
    let _ = fs::remove_dir_all(folder.path());
    fs::create_dir(folder.path())
        .unwrap_or_else(|e| panic!("no folder at {}: {e}", folder.path().display()));
    let library = library();
    // Programs look for the second name; some look for the first before, and would find a real driver's.
    for name in ["libcuda.so", "libcuda.so.1"] {
        symlink(&library, folder.path().join(name))
            .unwrap_or_else(|e| panic!("no link {name}: {e}"));
    }
    folder
}
