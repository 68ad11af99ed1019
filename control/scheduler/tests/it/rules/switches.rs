//! Which functions run at all.

use crate::build::{Flow, flow, fun, out};
use crate::script::{Script, options};
use dflow_scheduler::{Event, InstanceState, PlanError, RunMachine, RunOptions};
use dflow_workflow::{Gate, Source, SwitchOn};
use std::sync::Arc;

/// A probe decides between two ways that come together again.
fn fork(retries: u32) -> Flow {
    flow()
        .input("text", false)
        .add(fun("probe").writes().retries(retries))
        .add(fun("left").reads(Source::WorkflowInput(0)).writes())
        .add(fun("right").reads(Source::WorkflowInput(0)).writes())
        .add(fun("after").reads(out(2)))
        .add(fun("join").gathers(&[out(1), out(2)], Gate::Start))
        .switch(SwitchOn::Value(out(0)), &[("l", &[1]), ("r", &[2])], None)
        .output("result", &[out(1), out(2)], false)
}

#[test]
fn functions_that_are_not_chosen_are_skipped_with_their_readers() {
    let mut run = Script::new(fork(0));
    run.expect(&["hold probe:0.0", "prepare probe#1"]).expect_none("prepare left");
    run.ready("probe").finish("probe:0.0").expect(&["read probe:0.0@1"]);
    run.value("probe:0.0", "l").expect(&["unhold probe:0.0", "open left:0.0@1"]).expect(&["prepare left#1"]);
    run.expect(&["unsubscribe in0:0.0 right.0"]);
    run.expect(&["prepare join#1", "add join#1.0 left:0.0@1", "complete join#1.0"]);
    assert_eq!(run.state("after"), InstanceState::Skipped);
    run.end("probe").ready("left").end("left").ready("join").end("join").end("output:result");
    run.expect(&["committed"]);
    assert_eq!(run.machine.output_streams(0).len(), 1);
}

#[test]
fn a_decision_is_as_provisional_as_its_value() {
    let mut run = Script::new(fork(1));
    run.ready("probe").finish("probe:0.0").value("probe:0.0", "l").expect_none("unsubscribe");
    run.ready("left").bytes("left:0.0");
    run.ready("join");
    run.fail("probe").expect(&[
        "abort probe:0.0@1",
        "hold probe:0.0",
        "kill left#1",
        "abort left:0.0@1",
        "kill join#1",
    ]);
    run.expect(&["kill output:result#1"]);
    run.end("left").end("join").end("output:result");
    run.ready("probe").end("probe").expect(&["read probe:0.0@2"]);
    run.value("probe:0.0", "r").expect(&["open right:0.0@1"]).expect(&["unsubscribe in0:0.0 left.0"]);
    run.expect(&["prepare right#1"]);
    assert_eq!(run.state("left"), InstanceState::Skipped);
}

#[test]
fn a_value_without_a_case_fails_the_run_when_it_is_certain() {
    let mut run = Script::new(fork(1));
    run.ready("probe").finish("probe:0.0").value("probe:0.0", "x").expect_none("failed");
    run.end("probe").expect(&["failed"]);
    let failure = run.failure.expect("it says why");
    assert!(failure.contains("`x`") && failure.contains("`l`, `r`"), "{failure}");
}

#[test]
fn a_retry_may_write_a_better_value() {
    let mut run = Script::new(fork(1));
    run.ready("probe").finish("probe:0.0").value("probe:0.0", "x");
    run.fail("probe").ready("probe").end("probe").value("probe:0.0", "l").expect(&["prepare left#1"]);
}

#[test]
fn an_invalid_value_fails_its_producer() {
    let mut run = Script::new(fork(1));
    run.ready("probe").finish("probe:0.0");
    let (stream, epoch) = run.stream("probe:0.0");
    run.event(Event::Value { stream, epoch, text: Err("not UTF-8".to_owned()) }).expect(&["kill probe#1"]);
    run.end("probe").expect(&["prepare probe#2"]);
    run.ready("probe").finish("probe:0.0");
    let (stream, epoch) = run.stream("probe:0.0");
    run.event(Event::Value { stream, epoch, text: Ok("x".repeat(257)) }).expect(&["kill probe#2"]);
    run.end("probe").expect(&["failed"]);
}

#[test]
fn a_parameter_decides_before_the_run() {
    let switch = || {
        flow().param("mode", Some("fast")).add(fun("a")).add(fun("b")).switch(
            SwitchOn::Param("mode".to_owned()),
            &[("fast", &[0]), ("slow", &[1])],
            None,
        )
    };
    let run = Script::new(switch());
    run.expect(&["prepare a#1"]).expect_none("prepare b");
    let with = |value: &str| {
        let workflow = switch().0;
        let params = [("mode".to_owned(), value.to_owned())].into();
        let options = RunOptions { params, ..options(&workflow) };
        RunMachine::new(Arc::new(workflow), options).map(|(_, actions)| actions.len())
    };
    assert!(with("slow").is_ok());
    assert!(matches!(with("medium"), Err(PlanError::NoCase(reason)) if reason.contains("`medium`")));
}

#[test]
fn a_switch_below_a_skipped_function_chooses_nothing() {
    let flow = flow()
        .param("mode", Some("off"))
        .add(fun("probe").writes())
        .add(fun("a"))
        .add(fun("b"))
        .switch(SwitchOn::Param("mode".to_owned()), &[("on", &[0])], Some(&[]))
        .switch(SwitchOn::Value(out(0)), &[("x", &[1])], Some(&[2]));
    let run = Script::new(flow);
    run.expect(&["committed"]);
}
