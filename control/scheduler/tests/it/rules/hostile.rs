//! Invalid and late events: a function must not be able to harm the run.

use crate::build::{Flow, flow, fun, out};
use crate::script::Script;
use dflow_scheduler::limits::MAX_PARTS;
use dflow_scheduler::{Epoch, Event, InstanceId, InstanceState, Outcome, StreamId};
use dflow_workflow::Partition;

/// A function that misbehaves, beside one that does not.
fn pair() -> Flow {
    flow().add(fun("bad").writes().writes_parts(Partition::Discovered).retries(1)).add(fun("good"))
}

/// The misbehaving function fails alone.
#[track_caller]
fn fails_alone(run: &mut Script) {
    run.expect(&["kill bad#1"]).expect_none("kill good").expect_none("failed");
    run.end("bad").expect(&["prepare bad#2"]);
    assert_eq!(run.state("good"), InstanceState::Running);
}

#[test]
fn ready_twice() {
    let mut run = Script::new(pair());
    run.ready("good").ready("bad").ready("bad");
    fails_alone(&mut run);
}

#[test]
fn bytes_before_the_start() {
    let mut run = Script::new(pair());
    run.ready("good").bytes("bad:0.0");
    fails_alone(&mut run);
}

#[test]
fn parts_on_an_output_without_parts() {
    for output in [0, 7] {
        let mut run = Script::new(pair());
        run.ready("good").ready("bad");
        let (instance, attempt) = run.attempt("bad");
        run.event(Event::PartOpened { instance, attempt, output });
        fails_alone(&mut run);
    }
}

#[test]
fn parts_after_the_last() {
    let mut run = Script::new(pair());
    run.ready("good").ready("bad");
    let (instance, attempt) = run.attempt("bad");
    run.event(Event::PartsComplete { instance, attempt, output: 1 });
    run.event(Event::PartOpened { instance, attempt, output: 1 });
    fails_alone(&mut run);
}

#[test]
fn too_many_parts() {
    let mut run = Script::new(pair());
    run.ready("good").ready("bad");
    let (instance, attempt) = run.attempt("bad");
    for _ in 0..MAX_PARTS {
        run.machine.handle(run.now, Event::PartOpened { instance, attempt, output: 1 });
    }
    assert_eq!(run.state("bad"), InstanceState::Running);
    run.event(Event::PartOpened { instance, attempt, output: 1 });
    fails_alone(&mut run);
}

#[test]
fn ended_before_the_start() {
    let mut run = Script::new(pair());
    run.ready("good").end("bad").expect(&["prepare bad#2"]);
}

#[test]
fn unknown_ids_and_old_attempts_are_ignored() {
    let mut run = Script::new(flow().add(fun("a").writes().retries(1)).add(fun("b").reads(out(0))));
    run.ready("a");
    let (instance, _) = run.attempt("a");
    let (stream, old) = run.stream("a:0.0");
    run.fail("a");
    let reason = String::new();
    let (nobody, nothing, epoch) = (InstanceId(9999), StreamId(u32::MAX), Epoch(0));
    for event in [
        Event::Ready { instance, attempt: 1 },
        Event::Ready { instance: nobody, attempt: 1 },
        Event::FirstBytes { stream, epoch: old },
        Event::FirstBytes { stream: nothing, epoch },
        Event::Finished { stream, epoch: old, length: 1 },
        Event::Finished { stream: nothing, epoch, length: 1 },
        Event::PartOpened { instance, attempt: 1, output: 0 },
        Event::PartsComplete { instance: nobody, attempt: 0, output: 0 },
        Event::Value { stream, epoch: old, text: Ok(String::new()) },
        Event::Value { stream: nothing, epoch, text: Ok(String::new()) },
        Event::Diverged { stream, epoch: old },
        Event::Diverged { stream: nothing, epoch },
        Event::Ended { instance, attempt: 1, outcome: Outcome::Succeeded },
        Event::Ended { instance: nobody, attempt: 1, outcome: Outcome::Failed { reason } },
        Event::Parked { instance, attempt: 1 },
        Event::Resumed { instance: nobody, attempt: 1 },
        Event::TimerFired,
    ] {
        let text = format!("{event:?}");
        run.event(event);
        assert!(run.last.is_empty(), "{text}: {:?}", run.last);
    }
}
