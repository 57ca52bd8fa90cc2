//! Gives the shared library its soname, `libhfreduce.so.0`: programs keep running with every later version that keeps the interface. Knows
//! nothing of the code. Invariant: the number changes when, and only when, programs must be compiled anew.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libhfreduce.so.0");
    println!("cargo::rerun-if-changed=build.rs");
}
