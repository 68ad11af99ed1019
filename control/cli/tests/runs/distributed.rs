//! Nodes decide by themselves: once the plan is out, nothing waits for the driver.

use crate::nodes::{Cluster, kill};
use crate::support::{Case, eventually};

/// Everything that is decided while a run goes on: gates, a retry, a void epoch that others have read, a switch, parts that
/// are discovered, a choice, a producer without a reader. The functions are on b and c in turn, and end with `last`, on c.
/// `first` waits for the gate.
fn everything() -> Case {
    Case::new(
        "first: { command: [sh, -c, 'touch begun; read line < GATE; seq 3'] }
         fails: { command: [sh, -c, 'cat; [ -e failed ] || { touch failed; exit 1; }'], inputs: [first.out], retries: 1 }
         reads: { command: [cat], inputs: [fails.out] }
         value: { command: [sh, -c, 'cat >/dev/null; echo yes'], inputs: [reads.out] }
         decide: { switch: value.out, cases: { yes: [chosen], no: [other] } }
         chosen: { command: [sort, -rn], inputs: [reads.out] }
         other: { command: [cat], inputs: [reads.out] }
         parts: { program: dflow-probe, inputs: { i: chosen.out }, outputs: { o: { partition: discovered } },
                  params: { bytes: 1000, parts: 4 } }
         each: { command: [wc, -c], foreach: parts.o }
         yes: { command: [yes], retries: 1 }
         head: { command: [head, -1], inputs: [yes.out] }
         slow: { command: [sh, -c, 'sleep 600'], inputs: [chosen.out] }
         either: { command: [cat], inputs: { i: { from: [each, slow.out], need: 1 } } }
         last: { command: [sh, -c, 'cat; touch done'], inputs: { all: [each, head.out] } }",
        "{ o: last.out }",
    )
}

#[test]
fn a_stopped_driver_holds_nothing_back() {
    let cluster = Cluster::new(&["b", "c"]).with_silence("30s");
    let case = everything();
    let mut gate = case.gate();
    let places =
        "first=b fails=c reads=b value=c chosen=b other=c parts=c each=b,c yes=b head=c slow=b either=c last=c";
    let places: Vec<&str> = places.split(' ').collect();
    let running = cluster.spawn(&case, &places);
    eventually("the run does not begin", || case.path("begun").exists());
    kill("-STOP", running.id());
    gate.open();
    eventually("functions wait for the driver", || case.path("done").exists());
    assert!(!case.path("out").exists(), "nobody has committed the run");
    kill("-CONT", running.id());
    let ran = case.finish(running.wait());
    ran.succeeded();
    assert_eq!(String::from_utf8_lossy(&case.output("o")), "1000\n1000\n1000\n1000\ny\n");
    assert_eq!(ran.attempts("fails").len(), 2, "{}", ran.report["instances"]);
    cluster.assert_idle();
}
