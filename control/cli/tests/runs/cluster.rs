//! Workflows on several nodes: the results are the same as on one node, and so are failures.

use crate::nodes::Cluster;
use crate::support::{Case, Ran, eventually, switch_on_what_was_written, test_bytes};
use serde_json::json;

/// Runs a case on one node, then on several: the outputs are the same, and each attempt reports its node.
#[track_caller]
fn same_as_on_one_node(case: &Case, cluster: &Cluster, places: &[&str]) -> Ran {
    case.run(&["--slots", "4"]).succeeded();
    let alone = case.outputs();
    let ran = cluster.run(case, places, &["--slots", "4"]);
    ran.succeeded();
    assert!(case.outputs() == alone, "the outputs differ from those of one node");
    for place in places {
        let (function, nodes) = place.split_once('=').unwrap();
        let nodes: Vec<&str> = nodes.split(',').collect();
        for attempt in ran.instances().filter(|attempt| attempt["function"] == function) {
            let part = attempt["part"].as_str().map_or(0, |part| part.parse::<usize>().unwrap());
            assert_eq!(attempt["node"], nodes[part % nodes.len()], "{attempt}");
        }
    }
    for link in ran.report["links"].as_array().unwrap() {
        assert_eq!(link["path"], "QUIC", "{link}");
        assert_eq!((&link["paths"], &link["violations"]), (&1.into(), &0.into()), "{link}");
    }
    ran
}

/// The links that a node reports.
fn links<'a>(ran: &'a Ran, node: &'a str) -> impl Iterator<Item = &'a serde_json::Value> {
    ran.report["links"].as_array().unwrap().iter().filter(move |link| link["from"] == node)
}

/// Bytes of streams that the driver has sent to other nodes.
fn sent(ran: &Ran) -> u64 {
    links(ran, "a").map(|link| link["bytes_sent"].as_u64().unwrap()).sum()
}

/// Bytes of streams that the driver has received from other nodes.
fn received(ran: &Ran) -> u64 {
    links(ran, "a").map(|link| link["bytes_received"].as_u64().unwrap()).sum()
}

#[test]
fn a_chain_from_node_to_node() {
    let case = Case::new(
        "x: { program: dflow-probe, outputs: [o], params: { bytes: 3000000 } }
         y: { program: dflow-probe, inputs: { i: x.o }, outputs: [o], params: { check: true } }
         z: { program: dflow-probe, inputs: { i: y.o }, outputs: [o], params: { check: true } }",
        "{ o: z.o, early: x.o }",
    );
    let cluster = Cluster::new(&["b", "c"]);
    let ran = same_as_on_one_node(&case, &cluster, &["x=b", "y=c", "z=a"]);
    assert!(case.output("o") == test_bytes(3_000_000));
    for name in ["x", "y", "z"] {
        assert_eq!(ran.attempts(name).len(), 1);
    }
    assert_eq!(ran.attempts("output:o")[0]["node"], "a", "outputs are where the run is driven");
    // There and back, and the same with every gate at the end of all predecessors.
    same_as_on_one_node(&case, &cluster, &["x=a", "y=b", "z=a"]);
    let ran = cluster.run(&case, &["x=b", "y=c", "z=b"], &["--invocation", "control-flow"]);
    ran.succeeded();
    assert!(case.output("o") == test_bytes(3_000_000));
}

/// What a node is told of such a function is longer than most messages between nodes.
#[test]
fn a_function_with_thousands_of_ports_runs_on_another_node() {
    const COUNT: usize = 4_000;
    let list = |item: &dyn Fn(usize) -> String| (0..COUNT).map(item).collect::<Vec<_>>().join(", ");
    let long = "an-output-with-a-name-as-long-as-those-of-programs-are-that-make-workflows";
    let outputs = list(&|n| format!("{long}.{n}"));
    let inputs = list(&|n| format!("{long}.{n}: w.{long}.{n}"));
    let case = Case::new(
        &format!(
            "w: {{ program: dflow-probe, outputs: [{outputs}], params: {{ bytes: 10 }} }}
             r: {{ program: dflow-probe, inputs: {{ {inputs} }}, outputs: [o], params: {{ check: true }} }}"
        ),
        "{ o: r.o }",
    );
    let cluster = Cluster::new(&["b"]);
    for places in [["w=b", "r=b"], ["w=a", "r=b"]] {
        cluster.run(&case, &places, &[]).succeeded();
        assert_eq!(case.output("o").len(), 10 * COUNT);
    }
}

#[test]
fn links_between_other_nodes_are_reported() {
    const LENGTH: u64 = 3_000_000;
    let case = Case::new(
        &format!(
            "x: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LENGTH} }} }}
             y: {{ program: dflow-probe, inputs: {{ i: x.o }}, outputs: [o] }}
             z: {{ program: dflow-probe, inputs: {{ i: y.o }} }}"
        ),
        "{ }",
    );
    let cluster = Cluster::new(&["b", "c"]);
    let ran = cluster.run(&case, &["x=b", "y=c", "z=b"], &[]);
    ran.succeeded();
    let [link] = links(&ran, "b").collect::<Vec<_>>()[..] else { panic!("{}", ran.report["links"]) };
    assert_eq!((&link["node"], &link["path"]), (&"c".into(), &"QUIC".into()), "{link}");
    assert_eq!((&link["bytes_sent"], &link["bytes_received"]), (&LENGTH.into(), &LENGTH.into()), "{link}");
    // Each pair once.
    assert_eq!(ran.report["links"].as_array().unwrap().len(), 3, "{}", ran.report["links"]);
    assert_eq!((sent(&ran), received(&ran)), (0, 0));
}

#[test]
fn a_stream_crosses_to_a_node_once_and_is_forwarded() {
    const LENGTH: u64 = 8_000_000;
    let readers: String = (0..5)
        .map(|index| format!("r{index}: {{ program: dflow-probe, inputs: {{ i: s.o }}, params: {{ check: true }} }}\n"))
        .collect();
    let case = Case::new(
        &format!("s: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LENGTH} }} }}\n{readers}"),
        "{ o: s.o }",
    );
    let cluster = Cluster::new(&["b", "c"]);
    // Four readers on two nodes, and the writer's link carries it once.
    let ran = same_as_on_one_node(&case, &cluster, &["r0=b", "r1=c", "r2=b", "r3=c", "r4=a"]);
    assert_eq!((sent(&ran), received(&ran)), (LENGTH, 0), "{}", ran.report["links"]);
    for index in 0..5 {
        assert_eq!(ran.attempts(&format!("r{index}"))[0]["bytes_read"], LENGTH);
    }
    // From another node: the stream comes here for the output, and reaches the third node from either.
    let ran = same_as_on_one_node(&case, &cluster, &["s=b", "r0=b", "r1=c", "r2=b", "r3=c", "r4=a"]);
    assert_eq!(received(&ran), LENGTH, "{}", ran.report["links"]);
    assert!(sent(&ran) == LENGTH || sent(&ran) == 0, "{}", ran.report["links"]);
}

#[test]
fn a_fan_in_from_three_nodes() {
    let case = Case::new(
        "x: { program: dflow-probe, outputs: [o], params: { bytes: 3000000 } }
         y: { program: dflow-probe, outputs: [o], params: { bytes: 100 } }
         z: { program: dflow-probe, outputs: [o], params: { bytes: 0 } }
         m: { program: dflow-probe, inputs: { i: [x.o, y.o, z.o] }, outputs: [o], params: { check: true, order: one-by-one } }",
        "{ o: m.o }",
    );
    let cluster = Cluster::new(&["b", "c"]);
    for places in [["x=a", "y=b", "z=c", "m=b"], ["x=b", "y=b", "z=b", "m=c"], ["x=c", "y=b", "z=a", "m=a"]] {
        same_as_on_one_node(&case, &cluster, &places);
    }
    assert_eq!(case.output("o").len(), 3_000_100);
}

/// `r` reads `s` only after it has read the whole output of `g`, which reads `s`: far more than any window holds.
#[test]
fn a_reader_that_waits_for_another_reader_of_the_same_stream() {
    let case = Case::new(
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 20000000 } }
         g: { program: dflow-probe, inputs: { i: s.o }, outputs: [o], params: { check: true } }
         r: { program: dflow-probe, inputs: { j: g.o, i: s.o }, outputs: [o], params: { order: one-by-one } }",
        "{ o: r.o }",
    );
    let cluster = Cluster::with_options(&["b", "c"], &["--memory", "8MiB"]);
    for places in [["s=a", "g=b", "r=b"], ["s=b", "g=b", "r=c"], ["s=a", "g=c", "r=b"], ["s=c", "g=a", "r=a"]] {
        same_as_on_one_node(&case, &cluster, &places);
    }
    assert_eq!(case.output("o").len(), 40_000_000);
}

#[test]
fn parts_are_spread_over_the_nodes() {
    let cluster = Cluster::new(&["b", "c"]);
    for partition in ["5", "discovered"] {
        let case = Case::new(
            &format!(
                "s: {{ program: dflow-probe, outputs: {{ o: {{ partition: {partition} }} }}, params: {{ bytes: 300000, parts: 5 }} }}
                 p: {{ program: dflow-probe, foreach: s.o, outputs: [n], params: {{ check: true }} }}
                 m: {{ program: dflow-probe, inputs: {{ i: p.n }}, outputs: [o] }}"
            ),
            "{ o: m.o, parts: p.n }",
        );
        // Without a placement, they are spread over all nodes.
        let ran = cluster.run(&case, &["s=b", "m=c"], &[]);
        ran.succeeded();
        let nodes: Vec<_> = (0..5).map(|part| ran.attempts(&format!("p[{part}]"))[0]["node"].clone()).collect();
        assert_eq!(nodes, ["a", "b", "c", "a", "b"], "{partition}");
        assert_eq!(case.output("o").len(), 1_500_000, "{partition}");
        for part in 0..5 {
            assert!(case.output(&format!("parts/{part:05}")) == test_bytes(300_000), "{partition}: part {part}");
        }
        let ran = cluster.run(&case, &["s=a", "p=c,b", "m=a"], &["--slots", "1"]);
        ran.succeeded();
        assert_eq!(ran.attempts("p[4]")[0]["node"], "c");
        assert_eq!(case.output("o").len(), 1_500_000, "{partition}");
    }
}

#[test]
fn a_switch_on_a_value_from_another_node() {
    let case = switch_on_what_was_written();
    let cluster = Cluster::new(&["b", "c"]);
    let ran = same_as_on_one_node(&case, &cluster, &["probe=b", "s=c", "l=a"]);
    assert!(ran.attempts("l").is_empty(), "what was not chosen was started");
    let ran = cluster.run(&case, &["probe=b", "s=c", "l=c"], &["--overwrite", "--param", "mode=large"]);
    ran.succeeded();
    assert_eq!(case.output("o"), b"was-large\n");
    let ran = cluster.run(&case, &["probe=b", "s=c", "l=c"], &["--overwrite", "--param", "mode=other"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.report["error"]["reason"].as_str().unwrap().contains("`other`"), "{}", ran.report["error"]);
}

#[test]
fn the_first_k_of_n_win_on_other_nodes() {
    let case = Case::new(
        "w: { command: [echo, w] }
         x: { program: dflow-probe, outputs: [out], params: { fail: hang } }
         y: { command: [echo, y] }
         m: { command: [cat], inputs: { i: { from: [w.out, x.out, y.out], need: 2, gate: whole } } }",
        "{ o: m.out }",
    );
    let cluster = Cluster::new(&["b", "c"]);
    let ran = same_as_on_one_node(&case, &cluster, &["w=b", "x=c", "y=a", "m=b"]);
    assert_eq!(case.output("o"), b"w\ny\n");
    assert_eq!(ran.attempts("x")[0]["end"], "unread");
}

#[test]
fn existing_programs_with_whole_and_kept_streams() {
    let case = Case::with_header(
        "inputs: [text]",
        "sort: { command: [sort, -n], inputs: [inputs.text] }
         head: { command: [head, -n, '1000'], inputs: [sort.out] }
         whole: { command: [wc, -l], inputs: { i: { from: sort.out, gate: whole } } }
         kept: { command: [tail, -n, '7', '{in.i}'], inputs: { i: { from: sort.out, keep: true } } }
         both: { command: [cat, '{in.x}', '{in.y}'], inputs: { x: head.out, y: kept.out } }",
        "{ whole: whole.out, both: both.out }",
    );
    let text: String = (0..200_000).map(|line| format!("{}\n", line * 7919 % 200_000)).collect();
    std::fs::write(case.path("text"), text).unwrap();
    let cluster = Cluster::new(&["b", "c"]);
    let input = format!("text={}", case.path("text").display());
    case.run(&["--input", &input]).succeeded();
    let alone = case.outputs();
    for places in [
        ["sort=b", "head=c", "whole=a", "kept=c", "both=b"],
        ["sort=c", "head=a", "whole=b", "kept=b", "both=a"],
        ["sort=a", "head=b", "whole=c", "kept=b", "both=c"],
    ] {
        cluster.run(&case, &places, &["--input", &input]).succeeded();
        assert!(case.outputs() == alone, "{places:?}");
    }
    assert_eq!(case.output("whole"), b"200000\n");
    assert_eq!(case.output("both").iter().filter(|byte| **byte == b'\n').count(), 1007);
}

#[test]
fn a_slice_over_a_whole_stream_of_another_node() {
    let case = Case::new(
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 20000000 } }
         w: { program: dflow-probe, inputs: { i: { from: s.o, gate: whole } }, outputs: [o], params: { check: true } }
         k: { program: dflow-probe, inputs: { i: { from: s.o, keep: true } }, outputs: [o], params: { check: true } }",
        "{ w: w.o, k: k.o }",
    );
    let cluster = Cluster::with_options(&["b", "c"], &["--memory", "8MiB"]);
    same_as_on_one_node(&case, &cluster, &["s=b", "w=c", "k=a"]);
    same_as_on_one_node(&case, &cluster, &["s=a", "w=b", "k=b"]);
}

const LENGTH: u64 = 4_000_000;

/// `s` fails twice on another node. One reader is on that node, two are on other nodes, and one on another node starts late.
fn failing(params: &str, more: &str) -> Case {
    Case::new(
        &format!(
            "s: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LENGTH}, {params}, pause_us: 500 }}, retries: {{ count: 2, backoff: 1ms }}, {more} }}
             r: {{ program: dflow-probe, inputs: {{ i: s.o }}, outputs: [o] }}
             there: {{ program: dflow-probe, inputs: {{ i: s.o }}, outputs: [o] }}
             late: {{ program: dflow-probe, inputs: {{ i: {{ from: s.o, gate: whole }} }}, outputs: [o] }}"
        ),
        "{ r: r.o, there: there.o, late: late.o, direct: s.o }",
    )
}

const FAILING_PLACES: [&str; 4] = ["s=b", "r=c", "there=b", "late=c"];

/// All outputs of [`failing`] are these bytes.
#[track_caller]
fn outputs_are(case: &Case, expected: &[u8], how: &str) {
    for output in ["r", "there", "late", "direct"] {
        assert!(case.output(output) == expected, "{how}: {output} is wrong");
    }
}

#[test]
fn readers_of_a_void_epoch_on_other_nodes_restart() {
    let cluster = Cluster::new(&["b", "c"]);
    for how in ["error", "kill-in-chunk"] {
        let case = failing(&format!("vary: 70000, fail: {how}, fail_at: 3000000, fail_attempts: 2"), "");
        let ran = cluster.run(&case, &FAILING_PLACES, &[]);
        ran.succeeded();
        assert_eq!(ran.attempts("s").len(), 3, "{how}");
        for reader in ["r", "there"] {
            assert!(ran.attempts(reader).len() >= 2, "{how}: {reader} has read what is void");
        }
        let began = |attempt: &&serde_json::Value| !attempt["started_ns"].is_null();
        assert_eq!(ran.attempts("late").into_iter().filter(began).count(), 1, "{how}: its gate opens once");
        // All bytes of the last attempt, and none of earlier ones.
        let mut expected = test_bytes(LENGTH);
        expected[70_000] = expected[70_000].wrapping_add(3);
        outputs_are(&case, &expected, how);
    }
}

#[test]
fn readers_of_a_deterministic_function_on_another_node_continue() {
    let cluster = Cluster::new(&["b", "c"]);
    for how in ["exit", "kill"] {
        let case = failing(&format!("fail: {how}, fail_at: 3000000, fail_attempts: 2"), "deterministic: true");
        let ran = cluster.run(&case, &FAILING_PLACES, &[]);
        ran.succeeded();
        assert_eq!(ran.attempts("s").len(), 3, "{how}");
        for reader in ["r", "there", "late", "output:direct"] {
            assert_eq!(ran.attempts(reader).len(), 1, "{how}: {reader} was started again");
        }
        outputs_are(&case, &test_bytes(LENGTH), how);
    }
}

#[test]
fn a_function_on_another_node_that_is_declared_deterministic_but_is_not() {
    let cluster = Cluster::new(&["b", "c"]);
    let params = "vary: 70000, fail: kill, fail_at: 3000000, fail_attempts: 1";
    let case = failing(params, "deterministic: true");
    let ran = cluster.run(&case, &FAILING_PLACES, &[]);
    ran.succeeded();
    assert_eq!(ran.attempts("s").len(), 3, "one that diverged, and one that is free");
    let mut expected = test_bytes(LENGTH);
    expected[70_000] = expected[70_000].wrapping_add(3);
    outputs_are(&case, &expected, "varied");
}

#[test]
fn a_reader_on_another_node_that_fails_reads_everything_again() {
    let case = Case::new(
        &format!(
            "s: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LENGTH} }} }}
             r: {{ program: dflow-probe, inputs: {{ i: s.o }}, outputs: [o], params: {{ check: true, fail: kill, fail_at: 2000000, fail_attempts: 2 }}, retries: {{ count: 2, backoff: 1ms }} }}"
        ),
        "{ o: r.o }",
    );
    let cluster = Cluster::new(&["b"]);
    let ran = cluster.run(&case, &["r=b"], &[]);
    ran.succeeded();
    assert_eq!((ran.attempts("s").len(), ran.attempts("r").len()), (1, 3));
    assert!(case.output("o") == test_bytes(LENGTH));
    // The bytes that it reads again are already on its node.
    assert_eq!(sent(&ran), LENGTH, "{}", ran.report["links"]);
}

#[test]
fn failures_on_another_node_have_their_reason() {
    let case = Case::new(
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 100000000000 } }
         r: { command: [sh, -c, 'head -c 1000000 > /dev/null; echo oops >&2; exit 3'], inputs: [s.o] }
         other: { program: dflow-probe, inputs: { i: s.o }, outputs: [o] }",
        "{ o: r.out, p: other.o }",
    );
    let cluster = Cluster::new(&["b", "c"]);
    let ran = cluster.run(&case, &["r=b", "other=c"], &[]);
    ran.failed("r", &["exit status 3", "oops"]);
    assert!(!case.path("out").exists());
}

#[test]
fn a_producer_without_readers_on_another_node() {
    let case = Case::new(
        "s: { command: [yes, dflow] }
         h: { command: [head, -n, '1000'], inputs: [s.out] }",
        "{ o: h.out }",
    );
    let cluster = Cluster::new(&["b", "c"]);
    same_as_on_one_node(&case, &cluster, &["s=b", "h=c"]);
    assert_eq!(case.output("o"), b"dflow\n".repeat(1000));
}

#[test]
fn a_long_stream_waits_on_the_disk_of_its_producer() {
    const LONG: u64 = 60 << 20;
    const MIB: u64 = 1 << 20;
    // r starts when the test opens the gate.
    let case = Case::new(
        &format!(
            "s: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LONG}, chunk: 262144 }} }}
             t: {{ command: [head, -n1, GATE] }}
             r: {{ program: dflow-probe, inputs: {{ i: s.o, j: {{ from: t.out, gate: whole }} }}, outputs: [o], params: {{ order: one-by-one }} }}"
        ),
        "{ o: r.o }",
    );
    let mut gate = case.gate();
    let mut cluster = Cluster::with_options(&["b"], &["--memory", "8MiB"]);
    let places = ["s=b", "t=a", "r=a"];
    let running = cluster.spawn_with(&case, &places, &["--memory", "8MiB"]);
    let worker = cluster.worker("b");
    eventually("the producer's node does not spill", || worker.spilled() > 40 * MIB);
    gate.open();
    let ran = case.finish(running.wait());
    ran.succeeded();
    let mut expected = test_bytes(LONG);
    expected.extend(b"go\n");
    assert!(case.output("o") == expected);
    let memory = &ran.report["memory"];
    assert!(memory["spilled_bytes"].as_u64().unwrap() < 20 * MIB, "it was to wait at its producer: {memory}");
    assert!(memory["peak_bytes"].as_u64().unwrap() <= 9 * MIB, "{memory}");
    cluster.assert_idle();
}

#[test]
fn a_node_runs_no_more_than_it_has_slots() {
    let functions = |name: &str| -> String {
        (0..4).map(|index| format!("{name}{index}: {{ command: [sh, -c, 'sleep 0.05'] }}\n")).collect()
    };
    let case = Case::new(&(functions("h") + &functions("t")), "{ o: h0.out }");
    let cluster = Cluster::with_options(&["b"], &["--slots", "1"]);
    let places: Vec<String> = (0..4).map(|index| format!("t{index}=b")).collect();
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let ran = cluster.run(&case, &places, &["--slots", "2"]);
    ran.succeeded();
    let nodes = serde_json::json!([{ "name": "a", "slots": 2 }, { "name": "b", "slots": 1 }]);
    assert_eq!(ran.report["nodes"], nodes, "{}", ran.report);
    let time = |attempt: &serde_json::Value, what: &str| attempt[what].as_u64().unwrap();
    for (node, slots) in [("a", 2), ("b", 1)] {
        let there: Vec<_> = ran.instances().filter(|it| it["node"] == node && !it["function"].is_null()).collect();
        assert_eq!(there.len(), 4, "{node}");
        for attempt in &there {
            let start = time(attempt, "started_ns");
            let at_work = there.iter().filter(|it| time(it, "started_ns") <= start && start < time(it, "ended_ns"));
            assert!(at_work.count() <= slots, "too many on {node}: {}", ran.report["instances"]);
        }
    }
}

#[test]
fn one_slot_on_each_node_is_enough() {
    let case = Case::new(
        "x: { program: dflow-probe, outputs: [o, p], params: { bytes: 3000000 } }
         y: { program: dflow-probe, inputs: { i: x.o }, outputs: [o], params: { check: true } }
         z: { program: dflow-probe, inputs: { i: y.o }, outputs: [o], params: { check: true } }
         w: { program: dflow-probe, inputs: { i: x.p }, outputs: [o], params: { check: true } }
         m: { program: dflow-probe, inputs: { i: [w.o, z.o] }, outputs: [o], params: { order: one-by-one } }",
        "{ o: m.o }",
    );
    let cluster = Cluster::with_options(&["b"], &["--slots", "1", "--memory", "8MiB"]);
    for places in [["x=a", "y=b", "z=a", "w=b", "m=a"], ["x=b", "y=b", "z=a", "w=b", "m=b"]] {
        cluster.run(&case, &places, &["--slots", "1", "--memory", "8MiB"]).succeeded();
        assert_eq!(case.output("o"), [test_bytes(3_000_000), test_bytes(3_000_000)].concat(), "{places:?}");
    }
}

#[test]
fn two_runs_at_the_same_time() {
    let case = |bytes: u64| {
        Case::new(
            &format!(
                "s: {{ program: dflow-probe, outputs: {{ o: {{ partition: 4 }} }}, params: {{ bytes: {bytes}, pause_us: 2000 }} }}
                 p: {{ program: dflow-probe, foreach: s.o, outputs: [n], params: {{ check: true }} }}"
            ),
            "{ parts: p.n }",
        )
    };
    let cases = [case(1_500_000), case(2_000_000)];
    let cluster = Cluster::new(&["b", "c"]);
    let running: Vec<_> = cases.iter().map(|case| cluster.spawn(case, &["s=b", "p=c,b"])).collect();
    for ((case, running), bytes) in cases.iter().zip(running).zip([1_500_000, 2_000_000]) {
        let ran = case.finish(running.wait());
        ran.succeeded();
        for part in 0..4 {
            assert!(case.output(&format!("parts/{part:05}")) == test_bytes(bytes), "{bytes}: part {part}");
        }
    }
    cluster.assert_idle();
}

#[test]
fn a_dry_run_reaches_the_nodes_and_starts_nothing_there() {
    let case = Case::new(
        "x: { program: dflow-probe, outputs: { o: { partition: 3 } } }
         y: { program: dflow-probe, foreach: x.o, outputs: [o] }
         z: { program: dflow-probe, inputs: { i: y.o }, outputs: [o] }",
        "{ o: z.o }",
    );
    let mut cluster = Cluster::with_options(&["b"], &["--slots", "3"]);
    let preview = cluster.run(&case, &["z=b"], &["--dry-run", "--slots", "2"]);
    assert_eq!((preview.code, preview.stderr.as_str()), (Some(0), ""), "{}", preview.report);
    let nodes = preview.report["nodes"].as_array().unwrap();
    let slots: Vec<_> = nodes.iter().map(|node| (node["name"].as_str(), node["slots"].as_u64())).collect();
    assert_eq!(slots, [(Some("a"), Some(2)), (Some("b"), Some(3))]);
    let functions = preview.report["functions"].as_array().unwrap();
    let places: Vec<_> = functions.iter().map(|function| (&function["instances"], &function["nodes"])).collect();
    let [here, both, there] = [json!(["a"]), json!(["a", "b"]), json!(["b"])];
    assert_eq!(places, [(&json!(1), &here), (&json!(3), &both), (&json!(1), &there)]);
    assert!(!case.path("out").exists());
    assert!(!cluster.log("b").contains("the run begins"), "{}", cluster.log("b"));

    let args = cluster.args(&["z=b"]);
    cluster.kill("b");
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--dry-run"]).collect();
    let preview = case.run(&args);
    assert_eq!(preview.code, Some(2), "{}", preview.report);
    assert!(preview.stderr.contains("no connection to node b"), "{}", preview.stderr);
}
