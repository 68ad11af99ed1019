//! Retries, void epochs, time-outs, and functions that are declared deterministic.

use crate::build::{flow, fun, out};
use crate::script::Script;
use dflow_scheduler::{AttemptEnd, Event, InstanceState, Outcome};
use dflow_workflow::{Gate, Partition};
use std::time::Duration;

#[test]
fn a_failure_without_retries_fails_the_run_after_everything_is_dead() {
    let mut run = Script::new(flow().add(fun("a")).add(fun("b")));
    run.ready("a").ready("b");
    run.fail("a").expect(&["kill b#1"]).expect_none("failed");
    run.end("b").expect(&["failed"]);
    assert_eq!((run.state("a"), run.state("b")), (InstanceState::Stopped, InstanceState::Ended));
    assert_eq!(run.failure.as_deref(), Some("boom"));
    run.tick(1);
    assert!(run.last.is_empty(), "nothing comes after the end");
}

#[test]
fn a_retry_opens_the_next_epoch_after_a_pause() {
    let flow = flow().add(fun("a").writes().retries(2).backoff(Duration::from_secs(2)));
    let mut run = Script::new(flow);
    run.ready("a").fail("a").expect(&["abort a:0.0@1", "open a:0.0@2", "wake 2s"]).expect_none("prepare");
    assert_eq!(run.state("a"), InstanceState::Pausing);
    run.tick(2).expect(&["prepare a#2"]);
    run.ready("a").fail("a").expect(&["wake 6s"]);
    run.tick(4).expect(&["prepare a#3"]);
    run.ready("a").fail("a").expect(&["failed"]);
}

#[test]
fn readers_of_a_void_epoch_restart_without_spending_retries() {
    let flow = flow()
        .add(fun("a").writes().retries(1))
        .add(fun("b").reads(out(0)).writes())
        .add(fun("c").reads(out(1)).writes())
        .output("total", &[out(2)], false);
    let mut run = Script::new(flow);
    run.ready("a").bytes("a:0.0").ready("b").bytes("b:0.0").ready("c");
    // `b` ends before `a`, so its success is provisional.
    run.finish("a:0.0").end("b");
    assert_eq!(run.state("b"), InstanceState::Ended);
    run.fail("a").expect(&["abort a:0.0@1", "abort b:0.0@1", "kill c#1"]);
    run.expect(&["open a:0.0@2"]).expect(&["open b:0.0@2"]);
    // The next epoch of `c` opens only when its first attempt is dead.
    run.expect_none("open c").expect_none("open b:0.0@3");
    run.end("c").expect(&["open c:0.0@2"]);
    run.ready("a").end("a").ready("b").end("b").ready("c").end("c").expect(&["start output:total#1"]);
    run.end("output:total").expect(&["committed"]);
    let view = run.machine.instances().find(|view| view.name == "b").expect("it exists");
    assert_eq!((view.retries_used, view.attempts.len()), (0, 2));
    assert!(matches!(view.attempts[0].end, Some(AttemptEnd::Superseded { .. })));
    assert_eq!(view.attempts[1].end, Some(AttemptEnd::Succeeded));
}

#[test]
fn an_instance_without_the_void_stream_continues() {
    let flow = flow()
        .add(fun("a").writes().retries(1))
        .add(fun("b").writes_parts(Partition::Discovered))
        .add(fun("c").gathers(&[out(1), out(0)], Gate::Start));
    let mut run = Script::new(flow);
    run.ready("a").ready("b").ready("c").expect(&["start c#1"]);
    run.fail("a").expect(&["abort a:0.0@1"]).expect_none("kill");
    run.end("b").expect(&["add c#1.0 a:0.0@2"]);
}

#[test]
fn a_final_instance_closes_its_subscriptions_and_a_provisional_one_does_not() {
    let flow = flow().add(fun("a").writes().retries(1)).add(fun("b").reads(out(0)));
    let mut run = Script::new(flow);
    run.ready("a").finish("a:0.0").ready("b").end("b").expect_none("unsubscribe");
    run.end("a").expect(&["unsubscribe a:0.0 b.0", "committed"]);
}

#[test]
fn cancelling_ends_everything() {
    let mut run = Script::new(flow().add(fun("a").retries(9)));
    run.ready("a").event(Event::Cancel { reason: "Ctrl-C".to_owned() }).expect(&["kill a#1"]);
    run.fail("a").expect(&["failed"]).expect_none("prepare");
    assert_eq!(run.failure.as_deref(), Some("the run was cancelled: Ctrl-C"));
}

#[test]
fn a_failed_store_fails_the_run() {
    let mut run = Script::new(flow().add(fun("a")));
    run.ready("a").event(Event::StoreFailed { reason: "disk full".to_owned() }).expect(&["kill a#1"]);
    run.end("a").expect(&["failed"]);
}

#[test]
fn a_deterministic_function_spares_its_readers() {
    let flow = flow().add(fun("a").writes().retries(1).deterministic()).add(fun("b").reads(out(0)));
    let mut run = Script::new(flow);
    run.ready("a").bytes("a:0.0").ready("b");
    run.fail("a").expect(&["suspend a:0.0@1", "open a:0.0@2 continues", "prepare a#2"]).expect_none("kill");
    run.ready("a").end("a");
    run.end("b").expect(&["committed"]);
}

#[test]
fn a_difference_restarts_the_readers_after_all() {
    let flow = flow().add(fun("a").writes().retries(1).deterministic()).add(fun("b").reads(out(0)));
    let mut run = Script::new(flow);
    run.ready("a").bytes("a:0.0").ready("b").fail("a").ready("a");
    let (stream, epoch) = run.stream("a:0.0");
    run.event(Event::Diverged { stream, epoch }).expect(&["kill a#2", "abort a:0.0@2", "kill b#1"]);
    run.end("a").expect(&["open a:0.0@3", "prepare a#3"]);
    let view = run.machine.instances().find(|view| view.name == "a").expect("it exists");
    assert_eq!(view.retries_used, 1, "it does not spend a retry");
}

#[test]
fn fewer_parts_are_a_difference_too() {
    let flow = flow().add(fun("a").writes_parts(Partition::Discovered).retries(1).deterministic());
    let mut run = Script::new(flow.add(fun("b").foreach(out(0))));
    run.ready("a").part("a").part("a").bytes("a:0.1").ready("b[1]");
    run.fail("a").expect(&["suspend a:0.0@1", "suspend a:0.1@1"]).expect_none("open");
    run.ready("a").part("a").expect(&["open a:0.0@2 continues"]);
    run.end("a").expect(&["abort a:0.0@2", "abort a:0.1@1", "kill b[1]#1", "prepare a#3"]);
}

#[test]
fn void_input_makes_a_deterministic_attempt_void_even_between_its_attempts() {
    let flow = flow()
        .add(fun("a").writes().retries(1))
        .add(fun("b").reads(out(0)).writes().retries(1).deterministic().backoff(Duration::from_secs(9)))
        .add(fun("c").reads(out(1)));
    let mut run = Script::new(flow);
    run.ready("a").bytes("a:0.0").ready("b").bytes("b:0.0").ready("c");
    run.fail("b").expect(&["suspend b:0.0@1", "open b:0.0@2 continues"]).expect_none("kill");
    run.fail("a").expect(&["abort a:0.0@1", "abort b:0.0@2", "kill c#1"]).expect(&["open b:0.0@3"]);
}

#[test]
fn unread_is_a_success_only_if_no_reader_may_return() {
    let flow = flow().add(fun("a").writes()).add(fun("b").reads(out(0)).retries(1));
    let mut run = Script::new(flow);
    run.ready("a").bytes("a:0.0").ready("b");
    run.ended("a", Outcome::Unread).expect(&["kill b#1"]);
    run.end("b").expect(&["failed"]);
}
