//! On which nodes the functions of a run are placed.

use std::os::unix::fs::PermissionsExt;

use crate::nodes::Cluster;
use crate::support::{Case, Ran};

/// Two functions that are expected to take so long that a second node is worth it.
fn two_long_ones() -> Case {
    Case::new(
        "x: { command: [echo, x], expect: { time: 5s, output: 2B } }
         y: { command: [echo, y], expect: { time: 5s, output: 2B } }",
        "{ x: x.out, y: y.out }",
    )
}

/// The node of an instance.
fn node(ran: &Ran, instance: &str) -> String {
    ran.attempts(instance)[0]["node"].as_str().unwrap().to_owned()
}

/// The nodes of `x` and `y`, in alphabetical order.
fn nodes_of_both(ran: &Ran) -> Vec<String> {
    let mut nodes = vec![node(ran, "x"), node(ran, "y")];
    nodes.sort();
    nodes
}

#[test]
fn declared_times_and_policies_decide() {
    let cluster = Cluster::with_options(&["b"], &["--slots", "1"]);
    let case = two_long_ones();
    let run = |more: &[&str]| cluster.run(&case, &[], &[&["--slots", "1", "--overwrite"], more].concat());
    let ran = run(&[]);
    assert_eq!(nodes_of_both(ran.succeeded()), ["a", "b"]);
    assert!(ran.stderr.contains("note: the policy dflow places '"), "{}", ran.stderr);
    assert!(ran.report["notes"][0].as_str().unwrap().contains("on other nodes than 'a'"), "{}", ran.report["notes"]);
    let ran = run(&["--policy", "one-node"]);
    assert_eq!(nodes_of_both(ran.succeeded()), ["a", "a"]);
    assert!(ran.stderr.contains("note: nothing runs on 'b': with --policy one-node"), "{}", ran.stderr);
    // A transfer that takes longer than both of them.
    let ran = run(&["--latency", "1m"]);
    assert_eq!(nodes_of_both(ran.succeeded()), ["a", "a"]);
    assert!(ran.stderr.contains("note: nothing runs on 'b': the policy dflow does not need it"), "{}", ran.stderr);
    let preview = run(&["--dry-run"]).report;
    let planned = preview["functions"].as_array().unwrap().iter().map(|function| function["nodes"][0].clone());
    let mut planned: Vec<_> = planned.map(|node| node.as_str().unwrap().to_owned()).collect();
    planned.sort();
    assert_eq!(planned, ["a", "b"]);
}

#[test]
fn a_node_that_lacks_a_program_is_not_asked_to_run_it() {
    let cluster = Cluster::with_options(&["b"], &["--slots", "1"]);
    let case = two_long_ones();
    case.replace("[echo, x]", "[only-here, x]");
    case.replace("[echo, y]", "[only-here, y]");
    let directory = case.path("bin");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("only-here"), "#!/bin/sh\necho $1\n").unwrap();
    std::fs::set_permissions(directory.join("only-here"), PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
    let output = cluster.command(&case, &[], &["--slots", "1"]).env("PATH", path).output().unwrap();
    let ran = case.finish(output);
    assert_eq!(nodes_of_both(ran.succeeded()), ["a", "a"]);
    assert_eq!(case.output("x"), b"x\n");
    cluster.assert_idle();
}

#[test]
fn learned_times_decide_in_later_runs() {
    let cluster = Cluster::with_options(&["b"], &["--slots", "1"]);
    let case = Case::new(
        "x: { command: [sh, -c, 'sleep 0.4; echo x'] }
         y: { command: [sh, -c, 'sleep 0.4; echo y'] }",
        "{ x: x.out, y: y.out }",
    );
    let run = |policy: &str| {
        let mut command = cluster.command(&case, &[], &["--slots", "1", "--overwrite", "--policy", policy]);
        case.finish(command.env("DFLOW_LOGS", case.path("records")).output().unwrap())
    };
    let first = run("dflow");
    assert_eq!(nodes_of_both(first.succeeded()), ["a", "a"], "nothing is known");
    assert_eq!(nodes_of_both(run("dflow").succeeded()), ["a", "b"]);
    assert_eq!(nodes_of_both(run("one-node").succeeded()), ["a", "a"]);
    cluster.assert_idle();
}

#[test]
fn parts_with_unknown_times_are_dealt_by_slots() {
    let cluster = Cluster::with_options(&["b"], &["--slots", "3"]);
    let case = Case::new(
        "s: { program: dflow-probe, outputs: { o: { partition: 6 } }, params: { bytes: 10, parts: 6 } }
         p: { program: dflow-probe, foreach: s.o, outputs: [n] }
         q: { program: dflow-probe, foreach: p.n, outputs: [n] }",
        "{ o: q.n }",
    );
    let ran = cluster.run(&case, &[], &["--slots", "1"]);
    ran.succeeded();
    let nodes = |function: &str| (0..6).map(|part| node(&ran, &format!("{function}[{part}]"))).collect::<Vec<_>>();
    assert_eq!(nodes("p"), ["a", "b", "b", "b", "a", "b"]);
    assert_eq!(nodes("q"), nodes("p"), "beside the part that it reads");
}
