//! Predictions computed by hand from the formulae in the documentation of the planner. Times in milliseconds: start,
//! first output, end.

use super::{MB, alone, placed, problem, told, workflow};
use dflow_scheduler::Invocation;
use dflow_scheduler::planner::{LinkLoad, Placement, Timeline, predict};
use std::time::Duration;

const CHAIN: &str = "
  make: { command: [x], expect: { time: 10s, output: 100MB } }
  use: { command: [x], inputs: [make.out], expect: { time: 1s } }
";

/// 100 MB are a second on the link, and a millisecond of latency.
fn over_the_network(functions: &str) -> (Vec<String>, Timeline) {
    let workflow = workflow(functions);
    let problem = problem(&workflow, &[1, 1]);
    let timeline = predict(&problem, &placed(&workflow, &[("make", &[1])])).unwrap();
    (told(&workflow, &timeline), timeline)
}

#[test]
fn a_consumer_overlaps_with_its_producer() {
    assert_eq!(alone(CHAIN, 2), ["make@0 0 0 10000", "use@0 0 0 10000"]);
    // The consumer cannot end before its producer; with one slot, its second of work comes after that.
    assert_eq!(alone(CHAIN, 1), ["make@0 0 0 10000", "use@0 1000 1000 11000"]);
}

#[test]
fn a_slow_consumer_holds_its_slot_beside_its_producer() {
    let slow = CHAIN.replace("time: 1s", "time: 30s");
    assert_eq!(alone(&slow, 2), ["make@0 0 0 10000", "use@0 0 0 30000"]);
    assert_eq!(alone(&slow, 1), ["make@0 0 0 10000", "use@0 10000 10000 40000"]);
}

#[test]
fn a_tail_comes_after_the_last_byte() {
    let tail = CHAIN.replace("time: 1s", "time: 1s, tail: 400ms, first_output: 900ms");
    // Of its 600 ms before the tail, all are before the producer's end. 100 ms of work follow the first output.
    assert_eq!(alone(&tail, 2), ["make@0 0 0 10000", "use@0 0 10300 10400"]);
    let early = CHAIN.replace("time: 1s", "time: 1s, tail: 400ms, first_output: 300ms");
    // Half of the 600 ms, spread over the 10 s of the producer.
    assert_eq!(alone(&early, 2), ["make@0 0 0 10000", "use@0 0 5000 10400"]);
}

#[test]
fn a_whole_gate_and_control_flow_wait_for_the_end() {
    let whole = CHAIN.replace("inputs: [make.out]", "inputs: { in: { from: make.out, gate: whole } }");
    assert_eq!(alone(&whole, 2), ["make@0 0 0 10000", "use@0 10000 10000 11000"]);
    let workflow = workflow(CHAIN);
    let mut problem = problem(&workflow, &[2]);
    problem.invocation = Invocation::ControlFlow;
    let timeline = predict(&problem, &Placement::default()).unwrap();
    assert_eq!(told(&workflow, &timeline), ["make@0 0 0 10000", "use@0 10000 10000 11000"]);
}

#[test]
fn a_transfer_takes_latency_and_hides_behind_its_producer() {
    let (told, timeline) = over_the_network(CHAIN);
    assert_eq!(told, ["make@1 0 0 10000", "use@0 1 1 10001"]);
    assert_eq!(timeline.links, [LinkLoad { from: 1, to: 0, bytes: 100 * MB }]);
    assert_eq!(timeline.end, Duration::from_millis(10_001));
    // With all output at the end, the second of the transfer shows.
    let (late, _) = over_the_network(&CHAIN.replace("time: 10s", "time: 10s, first_output: 10s"));
    assert_eq!(late, ["make@1 0 10000 10000", "use@0 10001 10001 11001"]);
}

#[test]
fn transfers_to_a_node_take_turns() {
    let workflow = workflow(
        "
  a: { command: [x], expect: { time: 1s, first_output: 1s, output: 100MB } }
  b: { command: [x], expect: { time: 1s, first_output: 1s, output: 100MB } }
  join: { command: [x, '{in.a}', '{in.b}'], inputs: { a: a.out, b: b.out }, expect: { time: 0s } }
",
    );
    let timeline = predict(&problem(&workflow, &[1, 1, 1]), &placed(&workflow, &[("a", &[1]), ("b", &[2])])).unwrap();
    assert_eq!(told(&workflow, &timeline)[2], "join@0 2001 2001 3001", "the second second begins after the first");
    // Of two readers on the same node, the second needs no transfer.
    assert_eq!(timeline.bytes_moved(), 200 * MB);
}

#[test]
fn a_broadcast_leaves_its_node_once() {
    let workflow = workflow(
        "
  make: { command: [x], expect: { time: 1s, first_output: 1s, output: 100MB } }
  r: { command: [x], inputs: [make.out], expect: { time: 0s } }
  s: { command: [x], inputs: [make.out], expect: { time: 0s } }
  t: { command: [x], inputs: [make.out], expect: { time: 0s } }
",
    );
    let places = placed(&workflow, &[("r", &[1]), ("s", &[2]), ("t", &[2])]);
    let timeline = predict(&problem(&workflow, &[1, 1, 1]), &places).unwrap();
    // Node 2 gets the bytes from node 1 as they arrive there: a millisecond later, not a second.
    assert_eq!(told(&workflow, &timeline)[1..], ["r@1 1001 1001 2001", "s@2 1002 1002 2002", "t@2 1002 1002 2002"]);
    let (first, second) = (LinkLoad { from: 0, to: 1, bytes: 100 * MB }, LinkLoad { from: 1, to: 2, bytes: 100 * MB });
    assert_eq!(timeline.links, [first, second]);
}

#[test]
fn a_large_instance_takes_the_slots_that_there_are() {
    let text = "
  small: { command: [x], expect: { time: 1s } }
  large: { command: [x], resources: { cpu: 8 }, expect: { time: 1s } }
";
    assert_eq!(alone(text, 8), ["small@0 0 0 1000", "large@0 1000 1000 2000"]);
    assert_eq!(alone(text, 9), ["small@0 0 0 1000", "large@0 0 0 1000"]);
    assert_eq!(alone(text, 2)[1], "large@0 1000 1000 2000");
}

#[test]
fn the_earliest_of_a_choice_count() {
    let text = "
  a: { command: [x], expect: { time: 1s, first_output: 1s } }
  b: { command: [x], expect: { time: 2s, first_output: 2s } }
  c: { command: [x], expect: { time: 3s, first_output: 3s } }
  two: { program: x, inputs: { in: { from: [a.out, b.out, c.out], need: 2 } }, expect: { time: 1s } }
  all: { program: x, inputs: { in: { from: [a.out, b.out, c.out], gate: whole } }, expect: { time: 1s } }
";
    assert_eq!(alone(text, 8)[3..], ["two@0 2000 2000 3000", "all@0 3000 3000 4000"]);
}

#[test]
fn bytes_beyond_the_memory_take_time() {
    let workflow = workflow(&CHAIN.replace("inputs: [make.out]", "inputs: { in: { from: make.out, keep: true } }"));
    let mut problem = problem(&workflow, &[2]);
    problem.nodes[0].memory = 40 * MB;
    let timeline = predict(&problem, &Placement::default()).unwrap();
    // 60 MB are written and read again at 1 GB/s.
    assert_eq!(told(&workflow, &timeline)[1], "use@0 0 0 10120");
}

#[test]
fn instances_of_a_foreach_follow_their_parts() {
    let text = "
  each: { command: [x], foreach: inputs.files, expect: { time: 1s, output: 50% } }
  then: { command: [x], foreach: each.out, expect: { time: 1s, tail: 1s } }
  sum: { program: x, inputs: [then.out], expect: { time: 1s, tail: 1s } }
";
    assert_eq!(
        alone(text, 2),
        [
            "each[0]@0 0 0 1000",
            "each[1]@0 0 0 1000",
            "then[0]@0 0 1000 2000",
            "then[1]@0 0 1000 2000",
            "sum@0 1000 2000 3000"
        ]
    );
    let workflow = workflow(text);
    let timeline = predict(&problem(&workflow, &[2]), &Placement::default()).unwrap();
    assert_eq!((timeline.instances[0].bytes_written, timeline.instances[4].bytes_read), (MB / 2, MB));
}

#[test]
fn discovered_parts_are_estimated() {
    let text = "
  split: { program: x, inputs: [inputs.data], outputs: { parts: { partition: discovered } }, expect: { time: 1s, parts: 3 } }
  each: { program: x, foreach: split.parts, expect: { time: 1s } }
";
    assert_eq!(alone(text, 4).len(), 4);
    assert_eq!(alone(&text.replace(", parts: 3", ""), 5).len(), 6, "one for each slot");
}

#[test]
fn a_switch_on_a_parameter_chooses_before_the_run() {
    let text = "
  pick: { switch: '${params.mode}', cases: { fast: a }, default: b }
  a: { command: [x], inputs: [inputs.data], expect: { time: 1s } }
  b: { command: [x], inputs: [inputs.data], expect: { time: 2s } }
  after: { command: [x], inputs: [b.out], expect: { time: 1s } }
  join: { program: x, inputs: { in: [a.out, b.out] }, expect: { time: 0s } }
params: { mode: fast }
";
    assert_eq!(alone(text, 4), ["a@0 0 0 1000", "join@0 0 0 1000"]);
    let other = alone(&text.replace("mode: fast", "mode: slow"), 4);
    assert_eq!(other, ["b@0 0 0 2000", "after@0 0 0 2000", "join@0 0 0 2000"]);
}

#[test]
fn a_switch_on_a_value_waits_for_it() {
    let text = "
  probe: { command: [x], inputs: [inputs.data], expect: { time: 1s, output: 1kB } }
  pick: { switch: probe.out, cases: { fast: a }, default: b }
  a: { command: [x], inputs: [inputs.data], expect: { time: 1s } }
  b: { command: [x], inputs: [inputs.data], expect: { time: 2s } }
";
    assert_eq!(alone(text, 4), ["probe@0 0 0 1000", "a@0 1000 1000 2000", "b@0 1000 1000 3000"]);
}
