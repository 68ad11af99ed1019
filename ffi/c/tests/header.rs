//! `dflow.h` is what the sources say. `DFLOW_WRITE_HEADER=1 cargo test -p dflow-c --test header` writes it anew.

use std::path::Path;

#[test]
fn the_header_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::generate_with_config(folder, config).unwrap();
    let mut generated = Vec::new();
    bindings.write(&mut generated);
    let generated = without_safety(&String::from_utf8(generated).unwrap());
    let path = folder.join("include/dflow.h");
    if std::env::var_os("DFLOW_WRITE_HEADER").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let present = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        present == generated,
        "{} differs from the sources: run DFLOW_WRITE_HEADER=1 cargo test -p dflow-c --test header",
        path.display()
    );
}

/// Without the paragraphs for readers of the Rust sources: what they say follows from the types in C.
fn without_safety(header: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut skipping = false;
    for line in header.lines() {
        if line == "// # Safety" {
            skipping = true;
            if kept.last() == Some(&"//") {
                kept.pop();
            }
        }
        skipping &= line.starts_with("//");
        if !skipping {
            kept.push(line);
        }
    }
    kept.join("\n") + "\n"
}
