//! The shared library stays in its process once it is loaded, as the driver does: its threads and its report outlive whoever loaded it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
