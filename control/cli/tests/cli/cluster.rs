//! `cluster`: the created files, and the cleanup after errors.

use crate::harness::Directory;

#[test]
fn an_authority_and_nodes() {
    let directory = Directory::with(&[]);
    let call = directory.call(&["cluster", "create", "lab", "--node", "a", "--node", "b.rack-2"]);
    assert_eq!((call.status, call.out.as_str()), (Some(0), "a: lab/a\nb.rack-2: lab/b.rack-2\n"), "{call:?}");
    assert!(directory.path("lab/authority/ca.key").is_file() && directory.path("lab/b.rack-2/node.key").is_file());

    // Replacing the authority would split the cluster.
    let key = std::fs::read(directory.path("lab/authority/ca.key")).unwrap();
    assert_eq!(directory.call(&["cluster", "create", "lab", "--node", "c"]).status, Some(2));
    assert_eq!(std::fs::read(directory.path("lab/authority/ca.key")).unwrap(), key);

    // An existing node is renewed.
    let before = std::fs::read(directory.path("lab/a/node.pem")).unwrap();
    assert_eq!(directory.call(&["cluster", "add", "lab", "--node", "a"]).status, Some(0));
    assert_ne!(std::fs::read(directory.path("lab/a/node.pem")).unwrap(), before);
}

#[test]
fn an_invalid_name_leaves_nothing_behind() {
    let directory = Directory::with(&[]);
    for (name, expected) in [("B", "lower-case"), ("authority", "directory of the authority"), ("../a", "lower-case")] {
        let call = directory.call(&["cluster", "create", "lab", "--node", "a", "--node", name]);
        assert_eq!((call.status, call.out.as_str()), (Some(2), ""));
        assert!(call.err.contains(expected), "{name}: {}", call.err);
        assert!(!directory.path("lab").exists(), "{name}");
    }
    let call = directory.call(&["cluster", "create", "lab", "--node", "a", "--validity", "0s"]);
    assert!(call.status == Some(2) && call.err.contains("at least 1s"), "{}", call.err);
}

#[test]
fn other_nodes_need_an_identity_of_this_one() {
    let workflow = "workflow: w\nfunctions: { a: { command: [\"true\"] } }\n";
    let directory = Directory::with(&[("w.yaml", workflow)]);
    for (args, option) in [
        (&["run", "w.yaml", "--with", "b=127.0.0.1:1"][..], "--with"),
        (&["doctor", "--peer", "b=127.0.0.1:1"], "--peer"),
    ] {
        let call = directory.call(args);
        assert_eq!((call.status, call.out.as_str()), (Some(2), ""), "{call:?}");
        assert!(call.err.contains(&format!("{option} needs --identity DIR")), "{}", call.err);
        assert!(call.err.contains("`dflow cluster create` makes it"), "{}", call.err);
    }
    assert_eq!(directory.call(&["cluster", "create", "lab", "--node", "b"]).status, Some(0));
    let call = directory.call(&["run", "w.yaml", "--identity", "lab/b", "--with", "b=127.0.0.1:1"]);
    assert_eq!(call.status, Some(2), "{call:?}");
    assert!(call.err.contains("--with names b, but --identity lab/b makes this node b too"), "{}", call.err);
}
