//! Names the shared library for the dynamic linker, so that a program finds the release whose interface it was built for.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdflow.so.0");
}
