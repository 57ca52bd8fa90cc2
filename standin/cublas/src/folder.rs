//! How a test puts the stand-in for cuBLAS in a process's way: a link in the folder where the driver's stand-in is. It knows where cargo puts what it
//! builds. Invariant: the folder belongs to whoever made it.

use std::{
    env,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// The built library: cargo puts it beside the test's executable, or where that folder's programs go.
fn library() -> PathBuf {
    let here = env::current_exe().expect("the path of this program");
    let places = here.ancestors().skip(1).take(2);
    let places = places.flat_map(|place| [place.to_owned(), place.join("deps")]);
    let found = places
        .map(|place| place.join("libhfr_standin_cublas.so"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no libhfr_standin_cublas.so beside {}", here.display()))
}

/// Puts it into `folder`, under the two names that programs try first and last.
///
/// # Panics
///
/// If the library has not been built, or the folder has one.
pub fn add_to(folder: &Path) {
    for name in ["libcublas.so", "libcublas.so.12"] {
        symlink(library(), folder.join(name)).unwrap_or_else(|e| panic!("no link {name}: {e}"));
    }
}
