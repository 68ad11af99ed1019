//! Readers that end early, and producers that have no reader left.

use crate::build::{flow, fun, out, out_of};
use crate::script::Script;
use dflow_scheduler::{InstanceState, Outcome};
use dflow_workflow::{Gate, Partition, SwitchOn};

#[test]
fn a_reader_that_ends_early_closes_its_subscription() {
    let mut run = Script::new(flow().add(fun("yes").writes()).add(fun("head").reads(out(0))));
    run.ready("yes").bytes("yes:0.0").ready("head");
    run.end("head").expect(&["unsubscribe yes:0.0 head.0"]).expect_none("kill");
    run.ended("yes", Outcome::Unread).expect(&["committed"]);
    assert_eq!(run.state("yes"), InstanceState::Unread);
}

#[test]
fn it_does_so_although_the_producer_has_retries_left() {
    let flow = flow().add(fun("yes").writes().retries(3)).add(fun("head").reads(out(0)).retries(3));
    let mut run = Script::new(flow);
    run.ready("yes").bytes("yes:0.0").ready("head");
    run.end("head").expect(&["unsubscribe yes:0.0 head.0"]);
    // Its outcome no longer matters to any reader.
    run.fail("yes").expect(&["committed"]);
}

#[test]
fn two_producers_that_wait_for_each_other_are_released() {
    let flow = flow()
        .add(fun("yes").writes().retries(1))
        .add(fun("no").writes().retries(1))
        .add(fun("filter").reads(out(0)).writes().retries(1))
        .add(fun("head").gathers(&[out(1), out(2)], Gate::Stream))
        .add(fun("tee").reads(out(1)));
    let mut run = Script::new(flow);
    run.ready("yes").ready("no").bytes("yes:0.0").bytes("no:0.0");
    run.ready("filter").ready("head").ready("tee");
    run.end("head").expect_none("unsubscribe");
    // Now `no` has no reader, so `head` cannot be restarted.
    run.end("tee").expect(&["unsubscribe no:0.0 head.0"]);
    run.expect(&["unsubscribe filter:0.0 head.0"]).expect(&["unsubscribe no:0.0 tee.0"]);
    run.ended("no", Outcome::Unread).ended("filter", Outcome::Unread).expect(&["unsubscribe yes:0.0 filter.0"]);
    run.ended("yes", Outcome::Unread).expect(&["committed"]);
}

#[test]
fn a_released_reader_does_not_take_a_truncated_stream_for_complete() {
    let flow = flow()
        .add(fun("yes").writes().retries(1))
        .add(fun("filter").reads(out(0)).writes().retries(1))
        .add(fun("head").reads(out(1)));
    let mut run = Script::new(flow);
    run.ready("yes").bytes("yes:0.0").ready("filter").bytes("filter:0.0").ready("head");
    run.end("head").expect(&["unsubscribe filter:0.0 head.0"]).expect_none("unsubscribe yes");
    run.fail("yes").expect(&["unsubscribe yes:0.0 filter.0", "kill filter#1"]).expect_none("committed");
    run.fail("filter").expect(&["committed"]);
}

#[test]
fn a_function_that_decides_a_switch_is_not_released() {
    let flow = flow()
        .add(fun("a").writes().writes().retries(1))
        .add(fun("early").reads(out_of(0, 1)))
        .add(fun("b"))
        .switch(SwitchOn::Value(out(0)), &[("x", &[2])], None);
    let mut run = Script::new(flow);
    run.ready("a").bytes("a:1.0").ready("early").end("early").expect_none("unsubscribe");
    run.fail("a").expect(&["abort a:0.0@1", "prepare a#2"]);
}

#[test]
fn a_function_with_later_readers_is_not_released() {
    let flow = flow()
        .add(fun("table").writes().retries(1))
        .add(fun("split").writes_parts(Partition::Discovered))
        .add(fun("join").foreach(out(1)).reads(out(0)));
    let mut run = Script::new(flow);
    run.ready("table").bytes("table:0.0").ready("split").part("split").bytes("split:0.0");
    run.ready("join[0]").end("join[0]").expect_none("unsubscribe");
    run.fail("table").expect(&["abort table:0.0@1", "prepare table#2"]);
}

#[test]
fn an_attempt_that_had_not_started_is_retried_as_usual() {
    let flow = flow().add(fun("late").writes().retries(1)).add(fun("early").reads_at_once(out(0)));
    let mut run = Script::new(flow);
    run.ready("early").end("early").expect(&["unsubscribe late:0.0 early.0"]);
    run.ready("late").fail("late").expect(&["abort late:0.0@1", "prepare late#2"]);
    run.ready("late").fail("late").expect(&["failed"]);
}

#[test]
fn a_producer_that_has_written_everything_must_still_succeed() {
    let flow = flow().add(fun("a").writes().retries(1)).add(fun("b").reads(out(0)));
    let mut run = Script::new(flow);
    run.ready("a").finish("a:0.0").ready("b").end("b");
    run.fail("a").expect(&["abort a:0.0@1", "open a:0.0@2"]);
    assert_eq!(run.state("b"), InstanceState::Waiting);
}

#[test]
fn an_output_with_a_reader_left_is_not_released() {
    let flow = flow()
        .add(fun("a").writes().writes().retries(1))
        .add(fun("early").reads(out(0)))
        .add(fun("late").reads(out_of(0, 1)));
    let mut run = Script::new(flow);
    run.ready("a").bytes("a:0.0").bytes("a:1.0").ready("early").ready("late");
    run.end("early").expect_none("unsubscribe");
    run.fail("a").expect(&["abort a:0.0@1", "abort a:1.0@1", "kill late#1"]);
    assert_eq!(run.state("early"), InstanceState::Waiting, "it starts again");
}

#[test]
fn a_run_without_functions_commits_at_once() {
    Script::new(flow()).expect(&["committed"]);
}
