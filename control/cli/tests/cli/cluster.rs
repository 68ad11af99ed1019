//! `cluster`: what is made, and what is not left behind.

use crate::harness::Folder;

#[test]
fn an_authority_and_nodes() {
    let folder = Folder::with(&[]);
    let call = folder.call(&["cluster", "create", "lab", "--node", "a", "--node", "b.rack-2"]);
    assert_eq!((call.status, call.out.as_str()), (Some(0), "a: lab/a\nb.rack-2: lab/b.rack-2\n"), "{call:?}");
    assert!(folder.path("lab/authority/ca.key").is_file() && folder.path("lab/b.rack-2/node.key").is_file());

    // Another authority in its place would part the cluster.
    let key = std::fs::read(folder.path("lab/authority/ca.key")).unwrap();
    assert_eq!(folder.call(&["cluster", "create", "lab", "--node", "c"]).status, Some(2));
    assert_eq!(std::fs::read(folder.path("lab/authority/ca.key")).unwrap(), key);

    // One that is there is renewed.
    let before = std::fs::read(folder.path("lab/a/node.pem")).unwrap();
    assert_eq!(folder.call(&["cluster", "add", "lab", "--node", "a"]).status, Some(0));
    assert_ne!(std::fs::read(folder.path("lab/a/node.pem")).unwrap(), before);
}

#[test]
fn a_name_that_cannot_be_one_leaves_nothing_behind() {
    let folder = Folder::with(&[]);
    for (name, expected) in [("B", "lower-case"), ("authority", "directory of the authority"), ("../a", "lower-case")] {
        let call = folder.call(&["cluster", "create", "lab", "--node", "a", "--node", name]);
        assert_eq!((call.status, call.out.as_str()), (Some(2), ""));
        assert!(call.err.contains(expected), "{name}: {}", call.err);
        assert!(!folder.path("lab").exists(), "{name}");
    }
    let call = folder.call(&["cluster", "create", "lab", "--node", "a", "--validity", "0s"]);
    assert!(call.status == Some(2) && call.err.contains("at least 1s"), "{}", call.err);
}
