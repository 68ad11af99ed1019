//! The order in which instances start and are prepared.

use crate::build::{Flow, flow, fun, out, out_of};
use crate::script::{Script, on_one_node, options};
use dflow_scheduler::{InstanceState, Place, PlaceOptions, RunOptions};
use dflow_workflow::{FunctionId, Partition, Source, SwitchOn};

fn run(flow: Flow, slots: u32, prepare_ahead: u32, max_started: u32) -> Script {
    let options = on_one_node(&flow.0, slots, prepare_ahead, max_started);
    Script::with(flow, options)
}

fn three() -> Flow {
    flow().add(fun("a").slots(2)).add(fun("b").slots(1)).add(fun("c").slots(9))
}

#[test]
fn running_instances_hold_slots_and_parked_ones_do_not() {
    let mut run = run(three(), 2, 3, 9);
    run.ready("a").expect(&["start a#1"]);
    run.ready("b").ready("c").expect_none("start");
    run.park("a").expect(&["start b#1"]);
    assert_eq!(run.machine.slots_used(0), 1);
    run.resume("a").expect_none("start");
    assert_eq!(run.machine.slots_used(0), 3, "waking may exceed the slots");
    run.end("b").expect_none("start");
    // `c` wants more slots than there are; it gets all of them.
    run.end("a").expect(&["start c#1"]);
    run.end("c").expect(&["committed"]);
}

#[test]
fn a_dying_instance_holds_its_slots() {
    let flow = flow().add(fun("a").retries(1)).add(fun("b"));
    let mut run = run(flow, 1, 2, 9);
    run.ready("a").expect(&["start a#1"]);
    // It has no output that could have parts.
    run.ready("b").part("a").expect(&["kill a#1"]).expect_none("start");
    run.fail("a").expect(&["start b#1"]);
}

#[test]
fn sinks_start_a_few_at_a_time() {
    let flow = flow().add(fun("a").writes().writes().writes());
    let flow = (0..3).fold(flow, |flow, output| flow.output(&format!("o{output}"), &[out_of(0, output)], false));
    let mut run = run(flow, 1, 1, 2);
    run.ready("a").bytes("a:0.0").expect(&["start output:o0#1"]);
    run.bytes("a:1.0").expect(&["start output:o1#1"]);
    run.bytes("a:2.0").expect_none("start");
    run.end("a").expect_none("start");
    run.end("output:o0").expect(&["start output:o2#1"]);
    run.end("output:o1").end("output:o2").expect(&["committed"]);
}

#[test]
fn the_furthest_downstream_starts_first() {
    let flow = flow()
        .add(fun("a").writes())
        .add(fun("other"))
        .add(fun("b").reads(out(0)).writes())
        .add(fun("c").reads(out(2)));
    let mut run = run(flow, 1, 9, 9);
    for name in ["a", "other", "b", "c"] {
        run.ready(name);
    }
    run.bytes("a:0.0").expect_none("start");
    run.park("a").expect(&["start b#1"]);
    run.bytes("b:0.0").park("b").expect(&["start c#1"]);
    run.end("c").expect(&["start other#1"]);
}

#[test]
fn programs_are_prepared_ahead_up_to_the_limit() {
    let flow = flow()
        .add(fun("a").writes())
        .add(fun("b").reads(out(0)).writes())
        .add(fun("c").reads(out(1)).writes())
        .add(fun("d").reads(out(2)));
    let mut run = run(flow, 9, 2, 9);
    run.expect(&["prepare a#1", "prepare b#1"]).expect_none("prepare c");
    run.ready("a").expect(&["start a#1", "prepare c#1"]);
    run.bytes("a:0.0");
    // `b` is not ready yet, so it still counts; `d` waits.
    run.expect_none("prepare");
    run.ready("b").expect(&["start b#1", "prepare d#1"]);
}

#[test]
fn an_open_gate_prepares_beyond_the_limit_if_slots_are_free() {
    let flow = flow().input("files", true).add(fun("a").foreach(Source::WorkflowInput(0)));
    let options = RunOptions { input_parts: vec![9], ..on_one_node(&flow.0, 3, 0, 100) };
    let mut run = Script::with(flow, options);
    assert_eq!(run.last.iter().filter(|action| action.starts_with("prepare")).count(), 3);
    run.ready("a[0]").expect_none("prepare");
    run.end("a[0]").expect(&["prepare a[3]#1"]);
}

#[test]
fn started_instances_are_limited_unless_all_are_parked() {
    let flow = flow().add(fun("a")).add(fun("b")).add(fun("c"));
    let mut run = run(flow, 9, 9, 2);
    run.ready("a").ready("b").ready("c").expect_none("start");
    run.park("a").expect_none("start");
    run.park("b").expect(&["start c#1"]);
    assert_eq!(run.state("a"), InstanceState::Parked);
    run.end("c").end("a").end("b").expect(&["committed"]);
}

#[test]
fn one_slot_is_enough_for_a_chain_that_waits() {
    let flow = flow().add(fun("a").writes()).add(fun("b").reads(out(0)).writes()).output("total", &[out(1)], false);
    let mut run = run(flow, 1, 0, 1);
    run.ready("a").bytes("a:0.0").park("a").ready("b").expect(&["start b#1"]);
    run.park("b").resume("a").end("a").resume("b").end("b").expect(&["start output:total#1"]);
    run.end("output:total").expect(&["committed"]);
}

/// A run on nodes with these numbers of slots, with these functions on these nodes.
fn run_on(flow: Flow, slots: &[u32], placement: &[(u32, &[Place])]) -> Script {
    let place = |&slots: &u32| PlaceOptions { slots, prepare_ahead: 9, max_started: 9 };
    let options = RunOptions {
        scope: dflow_scheduler::Scope::WholeRun,
        places: slots.iter().map(place).collect(),
        placement: placement.iter().map(|(function, places)| (FunctionId(*function), places.to_vec())).collect(),
        ..options(&flow.0)
    };
    Script::with(flow, options)
}

#[test]
fn each_node_has_its_own_slots() {
    let flow = flow().add(fun("a")).add(fun("b")).add(fun("c")).add(fun("d").slots(9));
    let mut run = run_on(flow, &[1, 2], &[(1, &[1]), (2, &[1]), (3, &[1])]);
    run.ready("a").expect(&["start a#1"]);
    run.ready("b").expect(&["start b#1"]);
    // One more than the first node has, but the second has two.
    run.ready("c").expect(&["start c#1"]);
    assert_eq!((run.machine.slots_used(0), run.machine.slots_used(1)), (1, 2));
    // A free slot on one node does not help another.
    run.end("a").ready("d").expect_none("start");
    run.park("b").expect_none("start");
    // It wants more slots than its node has, and gets all of them.
    run.end("c").expect(&["start d#1"]);
    assert_eq!((run.machine.slots_used(0), run.machine.slots_used(1)), (0, 2));
    run.resume("b").end("b").end("d").expect(&["committed"]);
}

#[test]
fn parts_are_spread_and_stay_on_their_node() {
    let flow =
        flow().add(fun("a").writes_parts(Partition::Fixed(4))).add(fun("b").foreach(out(0)).retries(1)).add(fun("c"));
    let mut run = run_on(flow, &[9, 9, 1], &[(1, &[2, 1])]);
    let places = |run: &Script| -> Vec<(String, Place)> {
        run.machine.instances().map(|view| (view.name, view.place)).collect()
    };
    let first = places(&run);
    let of = |name: &str| first.iter().find(|(other, _)| other == name).map(|(_, place)| *place);
    assert_eq!([of("a"), of("b[0]"), of("b[1]"), of("b[2]"), of("b[3]"), of("c")], [0, 2, 1, 2, 1, 0].map(Some));
    run.ready("a").bytes("a:0.0").ready("b[0]").expect(&["start b[0]#1"]);
    run.fail("b[0]");
    assert_eq!(places(&run), first);
}

#[test]
fn one_slot_on_each_node_is_enough_for_a_chain_there_and_back() {
    let flow = flow()
        .add(fun("a").writes())
        .add(fun("b").reads(out(0)).writes())
        .add(fun("c").reads(out(1)).writes())
        .output("total", &[out(2)], false);
    let mut run = run_on(flow, &[1, 1], &[(1, &[1])]);
    run.ready("a").bytes("a:0.0").ready("b").expect(&["start b#1"]);
    // c is where a is, which waits for b.
    run.bytes("b:0.0").ready("c").expect_none("start");
    run.park("a").expect(&["start c#1"]);
    run.park("b").park("c").resume("a").end("a").resume("b").end("b").resume("c").end("c");
    run.expect(&["start output:total#1"]);
    run.end("output:total").expect(&["committed"]);
}

#[test]
fn functions_that_a_switch_may_skip_are_not_prepared() {
    let flow = flow().add(fun("probe").writes()).add(fun("b")).add(fun("after")).switch(
        SwitchOn::Value(out(0)),
        &[("x", &[1])],
        Some(&[]),
    );
    let mut run = run(flow, 9, 9, 9);
    run.expect(&["prepare probe#1", "prepare after#1"]).expect_none("prepare b");
    run.ready("probe").finish("probe:0.0").expect(&["read probe:0.0@1"]);
    run.value("probe:0.0", "x").expect(&["prepare b#1"]);
}

#[test]
fn counts_add_up() {
    let flow = flow().add(fun("a").writes_parts(Partition::Fixed(3))).add(fun("b").foreach(out(0)));
    let mut run = run(flow, 9, 2, 9);
    run.ready("a");
    let counts = run.machine.counts();
    assert_eq!((counts.running, counts.preparing, counts.waiting), (1, 2, 1));
    run.park("a");
    assert_eq!(run.machine.counts().parked, 1);
}
