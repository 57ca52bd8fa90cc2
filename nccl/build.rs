//! Gives the shared library NCCL's soname, so that a program that needs `libnccl.so.2` is content with it, and keeps the C interface's own functions
//! inside: a program that links both libraries has two of each. Knows nothing of the code. Invariant: what is exported is what this
//! package's sources export.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnccl.so.2");
    println!("cargo::rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
    println!("cargo::rerun-if-changed=build.rs");
}
