//! `foreach`, discovered parts, and the order of lists.

use crate::build::{flow, fun, out};
use crate::script::{Script, on_one_node, options};
use dflow_scheduler::{Event, InstanceState, Outcome, RunOptions};
use dflow_workflow::{Gate, Partition, Source};

#[test]
fn a_fixed_partition_has_its_instances_from_the_start() {
    let flow = flow()
        .add(fun("split").writes_parts(Partition::Fixed(2)))
        .add(fun("count").foreach(out(0)).writes())
        .add(fun("merge").gathers(&[out(1)], Gate::Stream))
        .output("counts", &[out(1)], true);
    let run = Script::new(flow);
    run.expect(&["open split:0.0@1", "subscribe split:0.0 count[0].0"]);
    run.expect(&["open count[1]:0.0@1", "subscribe count[1]:0.0 output:counts[1].0", "subscribe count[1]:0.0 merge.0"]);
    run.expect_none("hold");
}

#[test]
fn discovered_parts_create_instances_one_by_one() {
    let flow = flow()
        .add(fun("split").writes_parts(Partition::Discovered))
        .add(fun("count").foreach(out(0)).writes())
        .add(fun("again").foreach(out(1)).writes())
        .add(fun("merge").gathers(&[out(2)], Gate::Start));
    let mut run = Script::new(flow);
    run.ready("merge").ready("split");
    run.part("split").expect(&["subscribe split:0.0 count[0].0"]);
    run.expect(&["open count[0]:0.0@1", "open again[0]:0.0@1", "add merge#1.0 again[0]:0.0@1"]);
    run.part("split").expect(&["add merge#1.0 again[1]:0.0@1"]).expect_none("complete merge");
    run.bytes("split:0.1").expect(&["prepare count[1]#1"]);
    run.parts_complete("split").expect(&["complete merge#1.0"]);
}

#[test]
fn no_parts_at_all() {
    let flow = flow()
        .add(fun("split").writes_parts(Partition::Discovered))
        .add(fun("count").foreach(out(0)).writes())
        .add(fun("merge").gathers(&[out(1)], Gate::Whole));
    let mut run = Script::new(flow);
    run.ready("split").end("split").expect(&["prepare merge#1", "complete merge#1.0"]);
    run.ready("merge").end("merge").expect(&["committed"]);
}

#[test]
fn files_of_a_workflow_input_are_parts() {
    let flow = flow().input("logs", true).add(fun("grep").foreach(Source::WorkflowInput(0)).writes());
    let options = RunOptions { input_parts: vec![2], ..options(&flow.0) };
    let run = Script::with(flow, options);
    run.expect(&["open in0:0.1@1", "prepare grep[0]#1", "prepare grep[1]#1"]);
}

#[test]
fn lists_are_in_the_order_of_the_parts_not_of_arrival() {
    let flow = flow()
        .input("files", true)
        .add(fun("split").foreach(Source::WorkflowInput(0)).writes_parts(Partition::Discovered))
        .add(fun("merge").gathers(&[out(0)], Gate::Start));
    let options = RunOptions { input_parts: vec![2], ..options(&flow.0) };
    let mut run = Script::with(flow, options);
    run.ready("merge").ready("split[0]").ready("split[1]");
    // The place of the second one's parts is not certain before the first is complete.
    run.part("split[1]").expect(&["subscribe split[1]:0.0 merge.0"]).expect_none("add");
    run.part("split[0]").expect(&["add merge#1.0 split[0]:0.0@1"]);
    run.parts_complete("split[0]").expect(&["add merge#1.0 split[1]:0.0@1"]);
    run.end("split[1]").expect(&["complete merge#1.0"]);
}

#[test]
fn streams_are_held_for_later_instances() {
    let flow = flow()
        .add(fun("table").writes())
        .add(fun("split").writes_parts(Partition::Discovered))
        .add(fun("join").foreach(out(1)).reads(out(0)));
    let mut run = Script::new(flow);
    run.expect(&["open table:0.0@1", "hold table:0.0"]);
    run.ready("table").ready("split");
    run.part("split").expect(&["subscribe table:0.0 join[0].1"]);
    run.parts_complete("split").expect(&["unhold table:0.0"]);
}

#[test]
fn streams_are_held_while_parts_could_be_discovered_anew() {
    let flow = flow()
        .add(fun("table").writes())
        .add(fun("split").writes_parts(Partition::Discovered).retries(1))
        .add(fun("join").foreach(out(1)).reads(out(0)));
    let mut run = Script::new(flow);
    run.ready("table").ready("split");
    run.part("split").parts_complete("split").expect_none("unhold");
    run.end("split").expect(&["unhold table:0.0"]);
}

#[test]
fn a_new_attempt_may_open_fewer_parts() {
    let flow = flow()
        .add(fun("split").writes_parts(Partition::Discovered).retries(1))
        .add(fun("count").foreach(out(0)).writes())
        .add(fun("merge").gathers(&[out(1)], Gate::Start));
    let options = on_one_node(&flow.0, 3, 0, 100);
    let mut run = Script::with(flow, options);
    run.ready("merge").ready("split");
    run.part("split").part("split").bytes("split:0.1");
    run.ready("count[1]");
    let (second, attempt) = run.attempt("count[1]");
    run.fail("split").expect(&["abort split:0.0@1", "abort split:0.1@1", "kill count[1]#1", "abort count[1]:0.0@1"]);
    run.expect(&["kill merge#1"]);
    run.event(Event::Ended { instance: second, attempt, outcome: Outcome::Succeeded });
    assert_eq!(run.machine.instances().count(), 2, "the parts are gone");
    run.fail("merge").expect(&["prepare merge#2"]);
    run.ready("split").part("split").expect(&["open split:0.0@2", "add merge#2.0 count[0]:0.0@2"]);
    run.end("split").expect(&["unsubscribe split:0.1 count[1].0", "complete merge#2.0"]);
    assert_eq!(run.machine.view(second).expect("it was there").state, InstanceState::Gone);
}

#[test]
fn parts_of_parts_have_paths() {
    let flow = flow()
        .add(fun("a").writes_parts(Partition::Fixed(2)))
        .add(fun("b").foreach(out(0)).writes_parts(Partition::Fixed(2)))
        .add(fun("c").foreach(out(1)).writes())
        .output("all", &[out(2)], true);
    let run = Script::new(flow);
    let names: Vec<String> = run.machine.instances().map(|view| view.name).filter(|n| n.starts_with('c')).collect();
    assert_eq!(names, ["c[0.0]", "c[0.1]", "c[1.0]", "c[1.1]"]);
    let order: Vec<String> = run
        .machine
        .output_streams(0)
        .iter()
        .map(|stream| run.machine.view(stream.sink).expect("it exists").name)
        .collect();
    assert_eq!(order, ["output:all[0.0]", "output:all[0.1]", "output:all[1.0]", "output:all[1.1]"]);
}

#[test]
fn an_empty_list_of_parts_is_provisional_too() {
    let flow = flow()
        .add(fun("split").writes_parts(Partition::Discovered).retries(1))
        .add(fun("count").foreach(out(0)).writes())
        .add(fun("merge").gathers(&[out(1)], Gate::Stream).writes());
    let mut run = Script::new(flow);
    run.ready("split").parts_complete("split").expect(&["prepare merge#1", "complete merge#1.0"]);
    run.ready("merge").end("merge").expect_none("committed");
    run.fail("split").expect(&["abort merge:0.0@1", "open merge:0.0@2"]);
    run.ready("split").part("split").end("split").expect(&["prepare count[0]#1"]);
}

#[test]
fn a_part_inserted_later_restarts_readers_beyond_it() {
    let flow = flow()
        .input("files", true)
        .add(fun("split").foreach(Source::WorkflowInput(0)).writes_parts(Partition::Discovered).retries(1))
        .add(fun("merge").gathers(&[out(0)], Gate::Start));
    let options = RunOptions { input_parts: vec![2], ..options(&flow.0) };
    let mut run = Script::with(flow, options);
    run.ready("merge").ready("split[0]").ready("split[1]");
    run.part("split[1]").parts_complete("split[0]").expect(&["add merge#1.0 split[1]:0.0@1"]);
    run.fail("split[0]").expect(&["kill merge#1"]);
    run.end("merge").ready("split[0]").part("split[0]").expect(&["add merge#2.0 split[0]:0.0@2"]);
    run.end("split[0]").expect(&["add merge#2.0 split[1]:0.0@1"]);
}
