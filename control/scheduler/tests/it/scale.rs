//! A run with many parts: the work per event must not grow with the run.

use crate::build::{Flow, Fun, flow, fun, out, out_of};
use crate::script::on_one_node;
use dflow_scheduler::{Action, Epoch, Event, InstanceId, Outcome, Producer, RunMachine, RunState, StreamId};
use dflow_workflow::{Gate, Partition, Source};
use std::collections::{BTreeMap, VecDeque};
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

/// How a function with many ports may be connected.
fn many_ports(ports: u32) -> Vec<(&'static str, Flow)> {
    let writer = (0..ports).fold(fun("write"), |writer, _| writer.writes());
    let writers = (0..ports).fold(flow(), |flow, index| flow.add(fun(&format!("write{index}")).writes()));
    let reader = |source: &dyn Fn(u32) -> Source, gate: fn(Fun, Source) -> Fun| {
        (0..ports).fold(fun("read").writes(), |reader, port| gate(reader, source(port)))
    };
    let of_one = |port| out_of(0, port);
    let all: Vec<Source> = (0..ports).map(out).collect();
    vec![
        ("one writer", flow().add(writer.clone()).add(reader(&of_one, Fun::reads)).output("o", &[out(1)], false)),
        (
            "one writer, whole streams",
            flow().add(writer).add(reader(&of_one, Fun::reads_whole)).output("o", &[out(1)], false),
        ),
        ("many writers", writers.clone().add(reader(&out, Fun::reads)).output("o", &[out(ports)], false)),
        (
            "many writers, one input",
            writers.add(fun("read").gathers(&all, Gate::Whole).writes()).output("o", &[out(ports)], false),
        ),
    ]
}

/// Eight times the ports may take more than eight times as long, as caches are what they are, but not 64 times.
#[test]
fn the_work_for_an_event_does_not_grow_with_the_ports_of_a_function() {
    let took = |ports: u32| -> Vec<(&str, Duration)> {
        let measure = |flow: Flow| {
            let before = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            drive_streams(flow);
            let after = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            Duration::try_from(after).unwrap() - Duration::try_from(before).unwrap()
        };
        many_ports(ports).into_iter().map(|(name, flow)| (name, measure(flow))).collect()
    };
    for ((name, few), (_, many)) in took(2_000).into_iter().zip(took(16_000)) {
        assert!(many < 30 * few, "{name}: {few:?} with 2000 ports, {many:?} with 16000");
    }
}

/// As [`drive`], with events for the bytes of each stream.
fn drive_streams(flow: Flow) {
    let options = on_one_node(&flow.0, 16, 16, 100);
    let (mut machine, first) = RunMachine::new(Arc::new(flow.0), options).expect("the options fit");
    let mut streams: BTreeMap<InstanceId, Vec<(StreamId, Epoch)>> = BTreeMap::new();
    let mut actions = VecDeque::from(first);
    let mut events = VecDeque::new();
    loop {
        while let Some(action) = actions.pop_front() {
            match action {
                Action::OpenStream { stream, epoch, producer: Producer::Instance { instance, .. }, .. } => {
                    streams.entry(instance).or_default().push((stream, epoch));
                }
                Action::Prepare { instance, attempt } => events.push_back(Event::Ready { instance, attempt }),
                Action::Start { instance, attempt } => {
                    let streams = streams.remove(&instance).unwrap_or_default();
                    events.extend(streams.iter().map(|&(stream, epoch)| Event::FirstBytes { stream, epoch }));
                    events.extend(streams.iter().map(|&(stream, epoch)| Event::Finished { stream, epoch, length: 1 }));
                    events.push_back(Event::Ended { instance, attempt, outcome: Outcome::Succeeded });
                }
                _ => {}
            }
        }
        let Some(event) = events.pop_front() else { break };
        actions.extend(machine.handle(Duration::ZERO, event));
    }
    assert_eq!(*machine.state(), RunState::Committed);
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
