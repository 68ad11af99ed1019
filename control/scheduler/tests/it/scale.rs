//! A run with many parts: the work per event must not grow with the run.

use crate::build::{Flow, flow, fun, out};
use crate::script::on_one_node;
use dflow_scheduler::{Action, Event, InstanceId, Outcome, Producer, RunMachine, RunState};
use dflow_workflow::{Gate, Partition};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

const PARTS: usize = 10_000;

#[test]
fn ten_thousand_discovered_parts() {
    let flow = flow()
        .add(fun("discover").writes_parts(Partition::Discovered).retries(1))
        .add(fun("count").foreach(out(0)).writes().retries(1))
        .add(fun("merge").gathers(&[out(1)], Gate::Stream).writes())
        .output("total", &[out(2)], false)
        .output("counts", &[out(1)], true);
    let actions = drive(flow);
    // Of each part: two streams, three readers that subscribe and close, two instances that are started and given their
    // stream, and a stream for the fan-in.
    assert!(actions < 20 * PARTS, "{actions}");
}

#[test]
fn ten_thousand_readers_of_one_stream() {
    let flow = flow()
        .add(fun("table").writes().retries(1))
        .add(fun("split").writes_parts(Partition::Fixed(PARTS as u32)).retries(1))
        .add(fun("join").foreach(out(1)).reads(out(0)).writes())
        .add(fun("first").needs(&[out(2)], 1, Gate::Whole));
    let actions = drive(flow);
    assert!(actions < 20 * PARTS, "{actions}");
}

/// Everything succeeds at once, in the order in which it was asked for. Returns how many actions there were.
fn drive(flow: Flow) -> usize {
    let options = on_one_node(&flow.0, 16, 16, 100);
    let (mut machine, first) = RunMachine::new(Arc::new(flow.0), options).expect("the options fit");
    let mut count = first.len();
    let mut actions = VecDeque::from(first);
    let mut events = VecDeque::new();
    loop {
        while let Some(action) = actions.pop_front() {
            answer(&machine, &action, &mut events);
        }
        let Some(event) = events.pop_front() else { break };
        actions.extend(machine.handle(Duration::ZERO, event));
        count += actions.len();
    }
    assert_eq!(*machine.state(), RunState::Committed);
    count
}

fn answer(machine: &RunMachine, action: &Action, events: &mut VecDeque<Event>) {
    match *action {
        Action::Prepare { instance, attempt } => events.push_back(Event::Ready { instance, attempt }),
        Action::Start { instance, attempt } => {
            if discovers(machine, instance) {
                let part = Event::PartOpened { instance, attempt, output: 0 };
                events.extend(std::iter::repeat_n(part, PARTS));
            }
            events.push_back(Event::Parked { instance, attempt });
            events.push_back(Event::Resumed { instance, attempt });
            events.push_back(Event::Ended { instance, attempt, outcome: Outcome::Succeeded });
        }
        Action::Kill { instance, attempt, .. } => {
            events.push_back(Event::Ended { instance, attempt, outcome: Outcome::Unread });
        }
        Action::OpenStream { stream, epoch, producer: Producer::Instance { instance, .. }, .. }
            if discovers(machine, instance) =>
        {
            events.push_front(Event::FirstBytes { stream, epoch });
        }
        _ => {}
    }
}

fn discovers(machine: &RunMachine, instance: InstanceId) -> bool {
    machine.view(instance).is_some_and(|view| view.name == "discover")
}
