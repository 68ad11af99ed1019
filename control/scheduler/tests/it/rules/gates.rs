//! When an instance may start.

use crate::build::{flow, fun, out};
use crate::script::{Script, on_one_node};
use dflow_scheduler::{InstanceState, Invocation, RunOptions};
use dflow_workflow::{Gate, Source};

fn ahead(flow: &crate::build::Flow) -> RunOptions {
    on_one_node(&flow.0, 100, 100, 100)
}

#[test]
fn a_stream_gate_opens_with_the_first_bytes() {
    let flow = flow().add(fun("a").writes()).add(fun("b").reads(out(0)));
    let options = ahead(&flow);
    let mut run = Script::with(flow, options);
    run.expect(&["open a:0.0@1", "subscribe a:0.0 b.0", "prepare a#1", "prepare b#1", "add b#1.0 a:0.0@1"]);
    run.ready("b").expect_none("start");
    run.ready("a").expect(&["start a#1"]);
    run.bytes("a:0.0").expect(&["start b#1"]);
}

#[test]
fn a_stream_gate_opens_when_the_stream_ends_empty() {
    let mut run = Script::new(flow().add(fun("a").writes()).add(fun("b").reads(out(0))));
    run.ready("a").end("a").expect(&["prepare b#1"]);
    run.ready("b").expect(&["start b#1"]);
    run.end("b").expect(&["unsubscribe a:0.0 b.0", "committed"]);
}

#[test]
fn a_whole_gate_waits_for_the_end_of_the_stream() {
    let mut run = Script::new(flow().add(fun("a").writes()).add(fun("b").reads_whole(out(0))));
    run.ready("a").bytes("a:0.0").expect_none("prepare b");
    run.finish("a:0.0").expect(&["prepare b#1"]);
}

#[test]
fn a_start_gate_is_open_at_once() {
    let flow = flow().add(fun("a").writes()).add(fun("b").reads_at_once(out(0)));
    let mut run = Script::new(flow);
    run.expect(&["prepare b#1", "add b#1.0 a:0.0@1", "complete b#1.0"]);
    run.ready("b").expect(&["start b#1"]);
}

#[test]
fn a_fan_in_starts_with_any_and_a_whole_one_with_all() {
    let flow = flow()
        .add(fun("a").writes())
        .add(fun("b").writes())
        .add(fun("any").gathers(&[out(0), out(1)], Gate::Stream))
        .add(fun("all").gathers(&[out(0), out(1)], Gate::Whole));
    let options = ahead(&flow);
    let mut run = Script::with(flow, options);
    for name in ["a", "b", "any", "all"] {
        run.ready(name);
    }
    run.bytes("b:0.0").expect(&["start any#1"]).expect_none("start all");
    run.finish("b:0.0").expect_none("start");
    run.finish("a:0.0").expect(&["start all#1"]);
}

#[test]
fn a_command_gets_a_list_only_when_it_is_complete() {
    let flow = flow()
        .add(fun("a").writes_parts(dflow_workflow::Partition::Discovered))
        .add(fun("b").gathers(&[out(0)], Gate::Stream).command());
    let mut run = Script::new(flow);
    run.ready("a").part("a");
    run.bytes("a:0.0").expect_none("prepare b");
    run.parts_complete("a").expect(&["prepare b#1", "add b#1.0 a:0.0@1", "complete b#1.0"]);
}

#[test]
fn workflow_inputs_exist_from_the_start() {
    let flow = flow().input("text", false).add(fun("a").reads_whole(Source::WorkflowInput(0)));
    let mut run = Script::new(flow);
    run.expect(&["open in0:0.0@1", "subscribe in0:0.0 a.0", "prepare a#1", "add a#1.0 in0:0.0@1"]);
    run.ready("a").end("a").expect(&["unsubscribe in0:0.0 a.0", "committed"]);
}

#[test]
fn in_control_flow_mode_all_predecessors_have_ended() {
    let flow = flow()
        .add(fun("a").writes())
        .add(fun("b").writes())
        .add(fun("c").gathers(&[out(0), out(1)], Gate::Start))
        .output("total", &[out(0)], false);
    let options = RunOptions { invocation: Invocation::ControlFlow, ..ahead(&flow) };
    let mut run = Script::with(flow, options);
    for name in ["a", "b", "c"] {
        run.ready(name);
    }
    run.finish("a:0.0").expect_none("start");
    run.end("b").expect_none("start");
    run.end("a").expect(&["start output:total#1", "start c#1"]);
}

#[test]
fn k_of_n_takes_the_first_and_closes_the_others() {
    let flow = flow().add(fun("a").writes()).add(fun("b").writes()).add(fun("c").writes()).add(fun("d").needs(
        &[out(0), out(1), out(2)],
        2,
        Gate::Whole,
    ));
    let options = ahead(&flow);
    let mut run = Script::with(flow, options);
    for name in ["a", "b", "c", "d"] {
        run.ready(name);
    }
    run.finish("c:0.0").expect_none("start");
    run.finish("a:0.0").expect(&["start d#1"]);
    run.expect(&["add d#1.0 a:0.0@1", "add d#1.0 c:0.0@1", "complete d#1.0"]);
    run.expect_none("kill");
    // Only now is it certain that their streams are valid.
    run.end("a").end("c").expect(&["unsubscribe b:0.0 d.0", "kill b#1"]);
    run.fail("b");
    assert_eq!(run.state("b"), InstanceState::Unread);
    run.end("d").expect(&["committed"]);
}

#[test]
fn k_of_n_never_starts_a_loser() {
    let flow =
        flow().add(fun("a").writes()).add(fun("b").writes()).add(fun("c").needs(&[out(0), out(1)], 1, Gate::Stream));
    let options = on_one_node(&flow.0, 1, 0, 100);
    let mut run = Script::with(flow, options);
    run.ready("a").bytes("a:0.0");
    assert_eq!(run.state("b"), InstanceState::Unread);
    run.end("a").ready("c").end("c").expect(&["committed"]);
}

#[test]
fn a_choice_that_can_be_undone_keeps_the_losers() {
    let flow = flow().add(fun("a").writes().retries(1)).add(fun("b").writes()).add(fun("c").needs(
        &[out(0), out(1)],
        1,
        Gate::Stream,
    ));
    let options = ahead(&flow);
    let mut run = Script::with(flow, options);
    for name in ["a", "b", "c"] {
        run.ready(name);
    }
    run.bytes("a:0.0").expect(&["add c#1.0 a:0.0@1", "start c#1"]).expect_none("unsubscribe");
    run.bytes("b:0.0");
    run.fail("a").expect(&["abort a:0.0@1", "kill c#1"]);
    run.fail("c").expect(&["prepare c#2", "add c#2.0 b:0.0@1"]);
    // `b` cannot fail without failing the run, so now the choice is certain, and `a` is not needed.
    assert_eq!(run.state("a"), InstanceState::Unread);
}

#[test]
fn too_few_streams_for_k_of_n_fail_the_run() {
    let flow = flow().add(fun("a").writes_parts(dflow_workflow::Partition::Discovered)).add(fun("b").needs(
        &[out(0)],
        2,
        Gate::Stream,
    ));
    let mut run = Script::new(flow);
    run.ready("a").part("a");
    run.end("a").expect(&["failed"]);
    let failure = run.failure.expect("it says why");
    assert_eq!(failure, "an input of `b` needs 2 streams, and there are 1; lower `need` or add sources");
}

fn race(need: u32, gate: Gate) -> Script {
    let candidates = flow().add(fun("a").writes()).add(fun("b").writes()).add(fun("c").writes().retries(1));
    let flow = candidates.add(fun("d").needs(&[out(0), out(1), out(2)], need, gate));
    let options = ahead(&flow);
    let mut run = Script::with(flow, options);
    for name in ["a", "b", "c", "d"] {
        run.ready(name);
    }
    run
}

#[test]
fn a_candidate_that_fails_first_drops_out_of_the_race() {
    let mut run = race(1, Gate::Stream);
    run.fail("a").expect(&["abort a:0.0@1", "unsubscribe a:0.0 d.0"]).expect_none("failed");
    assert_eq!(run.state("a"), InstanceState::Lost);
    run.fail("c").expect(&["prepare c#2"]);
    run.bytes("b:0.0").expect(&["unsubscribe c:0.0 d.0", "kill c#2", "start d#1"]);
    run.end("b").fail("c").end("d").expect(&["committed"]);
}

#[test]
fn a_whole_stream_wins_only_if_its_producer_succeeds() {
    let mut run = race(1, Gate::Whole);
    run.finish("a:0.0").expect(&["start d#1"]).expect_none("kill");
    run.fail("a").expect(&["abort a:0.0@1", "kill d#1"]).expect_none("failed");
    run.fail("d").finish("b:0.0").ready("d").expect(&["start d#2"]);
    run.end("b").expect(&["kill c#1"]);
    run.fail("c").end("d").expect(&["committed"]);
}

#[test]
fn too_few_candidates_left_fail_the_run_and_are_named() {
    let mut run = race(2, Gate::Stream);
    run.fail("a").expect_none("failed");
    run.fail("b").expect(&["kill c#1", "kill d#1"]);
    run.fail("c").fail("d").expect(&["failed"]);
    let failure = run.failure.expect("it says why");
    assert_eq!(failure, "an input of `d` needs 2 streams, and 1 is left: `a` failed: boom; `b` failed: boom");
}

#[test]
fn a_winner_that_fails_after_the_choice_fails_the_run() {
    let mut run = race(1, Gate::Stream);
    run.bytes("a:0.0").expect(&["kill b#1", "kill c#1", "start d#1"]);
    run.fail("b").fail("c").fail("a").expect(&["kill d#1"]);
    run.fail("d").expect(&["failed"]);
    assert_eq!(run.failure.as_deref(), Some("boom"));
}

#[test]
fn a_candidate_that_something_else_reads_fails_the_run() {
    let candidates = flow().add(fun("a").writes()).add(fun("b").writes());
    let flow = candidates.add(fun("c").needs(&[out(0), out(1)], 1, Gate::Stream)).add(fun("d").reads(out(0)));
    let mut run = Script::new(flow);
    run.ready("a").ready("b").fail("a").expect(&["kill b#1"]);
    run.fail("b").expect(&["failed"]);
}

#[test]
fn a_suspended_winner_is_not_waited_for() {
    let flow = flow()
        .add(fun("a").writes().retries(1).deterministic().backoff(std::time::Duration::from_secs(60)))
        .add(fun("b").writes())
        .add(fun("other").writes())
        .add(fun("c").needs(&[out(0), out(1)], 1, Gate::Whole).reads(out(2)));
    let mut run = Script::new(flow);
    run.ready("a").ready("b").ready("other").finish("a:0.0");
    run.fail("a").expect(&["suspend a:0.0@1"]);
    run.finish("b:0.0").bytes("other:0.0").expect(&["prepare c#1", "add c#1.0 b:0.0@1", "complete c#1.0"]);
}
