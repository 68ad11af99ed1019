//! Links the smallest possible program: static, and without a runtime before its first instruction.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        for argument in ["-static", "-nostartfiles", "-no-pie"] {
            println!("cargo::rustc-link-arg-bin=dflow-bench-first-instruction={argument}");
        }
    }
}
