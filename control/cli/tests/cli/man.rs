//! `man`.

use std::fs::read_to_string;
use std::process::Command;

use crate::harness::Directory;

#[test]
fn the_pages() {
    let directory = Directory::with(&[]);
    let call = directory.call(&["man", "pages/of/dflow"]);
    assert_eq!((call.status, call.err.as_str()), (Some(0), ""), "{call:#?}");
    let names: Vec<&str> = call.out.lines().collect();
    for name in ["dflow.1", "dflow-run.1", "dflow-cluster-create.1", "dflow-man.1", "dflow-workflow.5"] {
        assert!(names.contains(&format!("pages/of/dflow/{name}").as_str()), "{name} is missing in {}", call.out);
    }
    for name in names {
        assert!(read_to_string(directory.path(name)).unwrap().contains(".SH DESCRIPTION"), "{name}");
    }
}

/// Only where there is a `groff`, which is what `man` renders a page with.
#[test]
fn the_pages_render_without_a_warning() {
    let directory = Directory::with(&[]);
    let call = directory.call(&["man", "."]);
    for name in call.out.lines() {
        let groff = Command::new("groff")
            .args(["-man", "-Kutf8", "-Tutf8", "-ww", "-P-cbou"])
            .arg(directory.path(name))
            .output();
        let Ok(groff) = groff else { return };
        let (page, warnings) = (String::from_utf8_lossy(&groff.stdout), String::from_utf8_lossy(&groff.stderr));
        assert!(groff.status.success() && warnings.is_empty(), "{name}: {warnings}");
        assert!(page.contains("NAME") && page.contains("SEE ALSO"), "{name}: {page}");
    }
}

#[test]
fn a_directory_that_cannot_be_written() {
    let directory = Directory::with(&[("file", "")]);
    let call = directory.call(&["man", "file/pages"]);
    assert_eq!((call.status, call.out.as_str()), (Some(2), ""), "{call:#?}");
    assert!(call.err.contains("file/pages cannot be written") && call.err.contains("help: "), "{}", call.err);
}
