//! A node that is lost costs what was on it, not the run.

use crate::nodes::Cluster;
use crate::support::{Case, Ran, Running, eventually, test_bytes};
use std::time::Duration;

/// Attempts of functions on a node.
fn attempts_on<'a>(ran: &'a Ran, node: &'a str) -> impl Iterator<Item = &'a serde_json::Value> {
    ran.instances().filter(move |attempt| attempt["node"] == node)
}

/// What was on the node was done again elsewhere, no retry was spent for it, and the user was told.
#[track_caller]
fn went_on_without(ran: &Ran, node: &str) {
    ran.succeeded();
    assert!(ran.instances().all(|attempt| attempt["end"] != "failed"), "{}", ran.report["instances"]);
    assert!(ran.stderr.contains(&format!("node {node} is lost")), "{}", ran.stderr);
}

/// Parts on all nodes, of which those on b and c wait until `go` exists.
fn parts() -> Case {
    Case::new(
        "make: { program: dflow-probe, outputs: { o: { partition: discovered } }, params: { bytes: 300000, parts: 9 } }
         work: { command: [sh, -c, 'touch begun-$DFLOW_PART; while [ ! -e go ]; do sleep 0.05; done; cat'],
                 foreach: make.o }
         all: { command: [cat], inputs: { i: [work] } }",
        "{ o: all.out, parts: work.out }",
    )
}

/// Starts it, and waits until every node works on parts.
fn under_way(case: &Case, cluster: &Cluster) -> Running {
    let running = cluster.spawn(case, &["make=a", "work=b,c"]);
    let begun = || (0..9).filter(|part| case.path(&format!("begun-{part}")).exists()).count();
    eventually("the parts do not begin", || begun() >= 2);
    running
}

#[track_caller]
fn all_parts(case: &Case) {
    let part = |bytes: &[u8]| bytes == test_bytes(300_000);
    let outputs = case.outputs();
    let parts = outputs.iter().filter(|(name, _)| name.contains("/parts/"));
    assert_eq!(parts.filter(|(_, bytes)| part(bytes)).count(), 9, "{:?}", outputs.keys());
    let all = case.output("o");
    assert!(all.len() == 9 * 300_000 && all.chunks(300_000).all(part), "{} bytes", all.len());
}

#[test]
fn a_worker_is_killed_and_its_parts_run_elsewhere() {
    let mut cluster = Cluster::new(&["b", "c"]);
    let case = parts();
    let running = under_way(&case, &cluster);
    cluster.kill("b");
    std::fs::write(case.path("go"), "").unwrap();
    let ran = case.finish(running.wait());
    went_on_without(&ran, "b");
    all_parts(&case);
    let lost: Vec<_> = attempts_on(&ran, "b").map(|attempt| &attempt["end"]).collect();
    assert!(!lost.is_empty() && lost.iter().all(|state| **state == "superseded" || **state == "succeeded"), "{lost:?}");
    cluster.assert_idle();
}

#[test]
fn a_worker_that_is_stopped_runs_elsewhere() {
    let mut cluster = Cluster::new(&["b", "c"]);
    let case = parts();
    let running = under_way(&case, &cluster);
    let worker = cluster.take("c");
    worker.signal("-TERM");
    assert_eq!(worker.exit_code(), Some(143));
    std::fs::write(case.path("go"), "").unwrap();
    let ran = case.finish(running.wait());
    went_on_without(&ran, "c");
    assert!(ran.stderr.contains("its worker was stopped (SIGTERM)"), "{}", ran.stderr);
    all_parts(&case);
    cluster.assert_idle();
}

#[test]
fn a_worker_that_wakes_up_too_late_changes_nothing() {
    let mut cluster = Cluster::new(&["b", "c"]);
    let case = parts();
    let running = under_way(&case, &cluster);
    cluster.worker("b").signal("-STOP");
    // The other node is done with its parts before the loss is noticed.
    std::fs::write(case.path("go"), "").unwrap();
    let ran = case.finish(running.wait());
    cluster.worker("b").signal("-CONT");
    went_on_without(&ran, "b");
    all_parts(&case);
    cluster.assert_idle();
    let case = parts();
    std::fs::write(case.path("go"), "").unwrap();
    cluster.run(&case, &["make=b", "work=b,c"], &[]).succeeded();
    all_parts(&case);
}

#[test]
fn a_function_that_may_run_nowhere_else_ends_the_run() {
    let mut cluster = Cluster::new(&["b", "c"]);
    let case = Case::new("f: { command: [sh, -c, 'touch begun; sleep 600'] }", "{ o: f.out }");
    let running = cluster.spawn(&case, &["f=b"]);
    eventually("the function does not begin", || case.path("begun").exists());
    cluster.kill("b");
    let ran = case.finish(running.wait());
    ran.lost("b");
    let reason = ran.report["error"]["reason"].as_str().unwrap();
    assert!(reason.contains("`f`") && reason.contains("--place"), "{reason}");
    cluster.assert_idle();
}

/// A chain whose functions are on b and c in turn, a discovered list, a switch, a choice, an endless producer, a broadcast.
/// Each function may run on either node.
fn everything() -> Case {
    Case::new(
        "first: { command: [sh, -c, 'i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; sleep 0.01; done'] }
         reads: { command: [cat], inputs: [first.out] }
         value: { command: [sh, -c, 'cat >/dev/null; echo yes'], inputs: [reads.out] }
         decide: { switch: value.out, cases: { yes: [chosen], no: [other] } }
         chosen: { command: [sort, -rn], inputs: [reads.out] }
         other: { command: [cat], inputs: [reads.out] }
         parts: { program: dflow-probe, inputs: { i: chosen.out }, outputs: { o: { partition: discovered } },
                  params: { bytes: 1000, parts: 4 } }
         each: { command: [sh, -c, 'sleep 0.05; wc -c'], foreach: parts.o }
         yes: { command: [yes], retries: 1 }
         head: { command: [head, -1], inputs: [yes.out] }
         slow: { command: [sh, -c, 'sleep 600'], inputs: [chosen.out] }
         quick: { command: [sh, -c, 'sleep 0.2; cat'], inputs: [chosen.out] }
         either: { command: [wc, -l], inputs: { i: { from: [quick.out, slow.out], need: 1 } } }
         again: { command: [sort, -n], inputs: [reads.out] }
         last: { command: [cat], inputs: { all: [each, head.out, either.out, again.out] } }",
        "{ o: last.out }",
    )
}

const EVERYWHERE: &str = "first=b,c reads=c,b value=b,c chosen=c,b other=b,c parts=c,b each=b,c yes=c,b head=b,c slow=c,b \
                          quick=b,c either=c,b again=b,c last=c,b";

/// What it writes when nothing goes wrong.
const EVERYTHING: &str = "1000\n1000\n1000\n1000\ny\n40\n";

/// Kills or stops (`-KILL`, `-STOP`) one of the nodes so many times, at moments that are spread over a run.
fn lose_nodes(signal: &str, times: u32) {
    let places: Vec<&str> = EVERYWHERE.split(' ').collect();
    let numbers: String = (1..=40).map(|number| format!("{number}\n")).collect();
    for time in 0..times {
        let node = if time % 2 == 0 { "b" } else { "c" };
        let delay = Duration::from_millis(u64::from(30 + time * 900 / times));
        let mut cluster = Cluster::new(&["b", "c"]);
        let case = everything();
        let running = cluster.spawn(&case, &places);
        // The moment is the point of the test; whatever it is, the outputs are the same.
        std::thread::sleep(delay);
        cluster.worker(node).signal(signal);
        let ran = case.finish(running.wait());
        cluster.take(node).signal("-KILL");
        // It may have been lost before the run began there.
        if ran.code != Some(2) {
            ran.succeeded();
            let output = String::from_utf8(case.output("o")).unwrap();
            assert_eq!(output, format!("{EVERYTHING}{numbers}"), "{node} after {delay:?}\n{}", ran.stderr);
        }
        cluster.assert_idle();
    }
}

/// More with `DFLOW_LOSSES`.
fn times() -> u32 {
    std::env::var("DFLOW_LOSSES").ok().and_then(|times| times.parse().ok()).unwrap_or(5)
}

#[test]
fn a_worker_is_killed_at_any_moment() {
    lose_nodes("-KILL", times());
}

#[test]
fn a_worker_is_stopped_at_any_moment() {
    lose_nodes("-STOP", times());
}
