//! Nodes on a network with little bandwidth, in namespaces: streams share it as they should, and a node that is cut off
//! is reported.

use crate::network::Network;
use crate::nodes::Cluster;
use crate::support::{Case, eventually, test_bytes};
use std::time::{Duration, Instant};

const MB: u64 = 1_000_000;

#[test]
fn over_slow_cables_the_result_is_the_same() {
    let network = Network::new(&["a", "b", "c"]);
    for node in ["a", "b", "c"] {
        network.cap(node, 10 * MB);
    }
    let cluster = Cluster::in_network(network, &["b", "c"], &[]);
    let case = Case::new(
        "x: { program: dflow-probe, outputs: [o], params: { bytes: 5000000 } }
         y: { program: dflow-probe, inputs: { i: x.o }, outputs: [o], params: { check: true } }
         z: { program: dflow-probe, inputs: { i: y.o }, outputs: [o], params: { check: true } }",
        "{ o: z.o, early: x.o }",
    );
    let ran = cluster.run(&case, &["x=b", "y=c", "z=a"], &[]);
    ran.succeeded();
    assert!(case.output("o") == test_bytes(5 * MB) && case.output("early") == test_bytes(5 * MB));
    // From b to c and to a, over one cable.
    assert!(ran.report["duration_ns"].as_u64().unwrap() > 900_000_000, "the cables are not slow: {}", ran.report);
}

#[test]
fn the_cable_of_a_producer_carries_a_broadcast_about_once() {
    const LENGTH: u64 = 10 * MB;
    let network = Network::new(&["a", "b", "c", "d"]);
    network.cap("b", 10 * MB);
    let cluster = Cluster::in_network(network, &["b", "c", "d"], &[]);
    let case = Case::new(
        &format!(
            "s: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LENGTH} }} }}
             r0: {{ program: dflow-probe, inputs: {{ i: s.o }}, params: {{ check: true }} }}
             r1: {{ program: dflow-probe, inputs: {{ i: s.o }}, params: {{ check: true }} }}
             r2: {{ program: dflow-probe, inputs: {{ i: s.o }}, params: {{ check: true }} }}
             r3: {{ program: dflow-probe, inputs: {{ i: s.o }}, params: {{ check: true }} }}"
        ),
        "{}",
    );
    let network = cluster.network();
    let before = network.sent("b");
    let ran = cluster.run(&case, &["s=b", "r0=a", "r1=c", "r2=d", "r3=c"], &[]);
    ran.succeeded();
    for reader in 0..4 {
        assert_eq!(ran.attempts(&format!("r{reader}"))[0]["bytes_read"], LENGTH);
    }
    let carried = network.sent("b") - before;
    assert!((LENGTH..LENGTH * 3 / 2).contains(&carried), "{carried} bytes for a stream of {LENGTH}");
}

#[test]
fn a_small_stream_is_not_stuck_behind_a_large_one() {
    const LARGE: u64 = 60 * MB;
    const SMALL: u64 = 100_000;
    let network = Network::new(&["a", "b"]);
    network.cap("b", 6 * MB);
    let cluster = Cluster::in_network(network, &["b"], &[]);
    let case = Case::new(
        &format!(
            "large: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LARGE} }} }}
             small: {{ command: [sh, -c, 'read go < GATE; head -c {SMALL} /dev/zero'] }}"
        ),
        "{ large: large.o, small: small.out }",
    );
    let mut gate = case.gate();
    let mut running = cluster.spawn(&case, &["large=b", "small=b"]);
    eventually("the large stream does not move", || case.staged("large") > 3 * MB);
    gate.open();
    let before = case.staged("large");
    eventually("the small stream does not come", || case.staged("small") == SMALL);
    let meanwhile = case.staged("large") - before;
    assert!(meanwhile < LARGE / 10, "{meanwhile} bytes of the large stream went first");
    // All of the large one would take long.
    running.kill();
    cluster.assert_idle();
}

#[test]
fn a_node_that_is_cut_off_is_lost_after_the_silence() {
    let cluster = Cluster::in_network(Network::new(&["a", "b", "c"]), &["b", "c"], &[]);
    let case = Case::new(
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 100000000000 } }
         r: { program: dflow-probe, inputs: { i: s.o }, outputs: [o], params: { pause_us: 1000 } }",
        "{ o: r.o }",
    );
    let running = cluster.spawn(&case, &["s=b", "r=c"]);
    eventually("the stream does not move", || case.staged("o") > MB);
    let start = Instant::now();
    cluster.network().plug("b", false);
    let ran = case.finish(running.wait());
    let took = start.elapsed();
    // The silence is two seconds.
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(6), "noticed after {took:?}");
    ran.lost("b");
    // The one that was cut off has noticed, too, and works again when it is back.
    cluster.assert_idle();
    cluster.network().plug("b", true);
    let case = Case::new("s: { program: dflow-probe, outputs: [o], params: { bytes: 1000000 } }", "{ o: s.o }");
    cluster.run(&case, &["s=b"], &[]).succeeded();
    assert!(case.output("o") == test_bytes(MB));
}

#[test]
fn a_node_that_is_slow_to_answer_the_first_packet_is_not_given_up() {
    let cluster = Cluster::in_network(Network::new(&["a", "b"]), &["b"], &[]);
    let network = cluster.network();
    let case = Case::new("s: { program: dflow-probe, outputs: [o], params: { bytes: 1000000 } }", "{ o: s.o }");
    // Now each knows where the other is on the network, and every packet leaves.
    cluster.run(&case, &["s=b"], &[]).succeeded();
    network.silence("b", "a", true);
    let before = network.sent("a");
    let running = cluster.spawn(&case, &["s=b"]);
    // One packet of 1200 bytes, then two each after 150 ms and twice as long each time. With the ninth more than the two
    // seconds have passed for which a node may be silent later.
    eventually("it is not called again", || network.sent("a") - before > 10_000);
    network.silence("b", "a", false);
    case.finish(running.wait()).succeeded();
    assert!(case.output("o") == test_bytes(MB));
}

#[test]
fn workers_that_cannot_reach_each_other() {
    let cluster = Cluster::in_network(Network::new(&["a", "b", "c"]), &["b", "c"], &[]);
    cluster.network().part("b", "c");
    let case = Case::new(
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 1000000 } }
         r: { program: dflow-probe, inputs: { i: s.o }, outputs: [o] }",
        "{ o: r.o }",
    );
    for (places, reader, writer) in [(["s=b", "r=c"], "c", "b"), (["s=c", "r=b"], "b", "c")] {
        let start = Instant::now();
        let ran = cluster.run(&case, &places, &[]);
        assert!(start.elapsed() < Duration::from_secs(8), "noticed after {:?}", start.elapsed());
        assert_eq!(ran.code, Some(1), "{}\n{}", ran.stderr, ran.report);
        let reason = ran.report["error"]["reason"].as_str().unwrap();
        assert!(
            reason.contains(&format!("node {writer} is lost: node {reader} cannot go on with it: it is unreachable")),
            "{reason}"
        );
        assert!(reason.contains("--with"), "{reason}");
    }
    // Where the functions may run on either, the run goes on without one of them.
    for places in [["s=b,c", "r=c,b"], ["s=c,b", "r=b,c"]] {
        let ran = cluster.run(&case, &places, &[]);
        ran.succeeded();
        assert!(ran.stderr.contains("cannot go on with it"), "{}", ran.stderr);
        assert!(case.output("o") == test_bytes(1_000_000));
        std::fs::remove_dir_all(case.path("out")).unwrap();
    }
    // As long as no stream goes from the one to the other, that is no matter.
    let case = Case::new("s: { program: dflow-probe, outputs: [o], params: { bytes: 1000000 } }", "{ o: s.o }");
    cluster.run(&case, &["s=b"], &[]).succeeded();
}
