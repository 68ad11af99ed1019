//! The cost model: instances are added one by one, producers first, and take slots, links and memory.
//!
//! The formulae are in the documentation of the planner.

use super::capacity::{Capacity, Time};
use super::graph::{Graph, Kind, Port, StreamId, TaskId};
use super::problem::{DISK_SPEED, Problem};
use super::profile::Work;
use crate::options::Place;
use dflow_workflow::Gate;
use std::collections::HashMap;
use std::ops::Range;

const NANOS: u128 = 1_000_000_000;

/// The times of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// Its gate is open.
    pub(super) gate: Time,
    pub(super) start: Time,
    /// Its first output byte.
    pub(super) first: Time,
    /// It holds its slots from here to `busy + work`.
    pub(super) busy: Time,
    pub(super) end: Time,
}

/// When a stream is on a node.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    place: Place,
    first: Time,
    last: Time,
}

/// The inputs of an instance on a node.
#[derive(Clone, Copy, Debug, Default)]
struct Inputs {
    gate: Time,
    /// The last byte of all inputs.
    last: Time,
    /// The first byte of any input.
    first: Option<Time>,
    /// Bytes of inputs that are kept in memory as a whole.
    kept: u64,
    /// Other bytes.
    passing: u64,
}

/// A candidate for the place of an instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    pub(super) times: Times,
    /// Bytes that come from other nodes.
    pub(super) moved: u64,
    /// Bytes that it holds in memory, and since when.
    held: u64,
    held_from: Time,
}

/// The instances that have been added.
pub(super) struct Schedule<'a> {
    problem: &'a Problem<'a>,
    graph: &'a Graph,
    /// Whether a consumer overlaps with its producer; otherwise every gate waits for the whole input.
    overlap: bool,
    nodes: Vec<Node>,
    /// Where each stream is written, and from when to when.
    origins: Vec<Arrival>,
    /// The other nodes that have it, in the order in which they got it.
    copies: Vec<Vec<Arrival>>,
    pub(super) times: Vec<Times>,
    pub(super) places: Vec<Place>,
    pub(super) loads: HashMap<(Place, Place), u64>,
    pub(super) end: Time,
}

struct Node {
    slots: Capacity,
    outgoing: Capacity,
    incoming: Capacity,
    memory: Capacity,
}

impl<'a> Schedule<'a> {
    pub(super) fn new(problem: &'a Problem<'a>, graph: &'a Graph, overlap: bool) -> Self {
        let node = |node: &super::PlanNode| Node {
            slots: Capacity::new(u64::from(node.slots), node.slots),
            outgoing: Capacity::new(1, 1),
            incoming: Capacity::new(1, 1),
            memory: Capacity::new(node.memory, node.slots),
        };
        Self {
            problem,
            graph,
            overlap,
            nodes: problem.nodes.iter().map(node).collect(),
            origins: vec![Arrival { place: 0, first: 0, last: 0 }; graph.streams.len()],
            copies: vec![Vec::new(); graph.streams.len()],
            times: vec![Times::default(); graph.tasks.len()],
            places: vec![0; graph.tasks.len()],
            loads: HashMap::new(),
            end: 0,
        }
    }

    /// When the gate of an instance would open if all of its inputs were on its node: a lower bound.
    pub(super) fn earliest_gate(&self, task: TaskId) -> Time {
        self.gather(task, |schedule, stream, _| schedule.origins[stream]).gate
    }

    /// The time from which on a slot of a node is free.
    pub(super) fn open_from(&self, place: Place) -> Time {
        self.nodes[place as usize].slots.open_from()
    }

    /// Estimates an instance on a node. Its producers have been added.
    pub(super) fn estimate(&self, task: TaskId, place: Place) -> Estimate {
        // Transfers to this node take turns; those of the same instance are not reserved yet.
        let mut incoming = 0;
        let mut moved = 0_u64;
        let inputs = self.gather(task, |schedule, stream, port| match schedule.on(stream, place) {
            Some(arrival) => arrival,
            None if port.is_switch => schedule.told(stream, place),
            None => {
                let (begin, length, mut arrival) = schedule.transfer(stream, place, incoming);
                incoming = begin.saturating_add(length);
                moved = moved.saturating_add(schedule.graph.streams[stream].bytes);
                arrival.place = place;
                arrival
            }
        });
        Estimate { moved, ..self.fit(task, place, inputs) }
    }

    /// Adds an instance on a node.
    pub(super) fn add(&mut self, task: TaskId, place: Place) {
        let mut missing: Vec<StreamId> = Vec::new();
        for (port, streams) in self.graph.read(task) {
            if !port.is_switch {
                missing.extend(streams.filter(|stream| self.on(*stream, place).is_none()));
            }
        }
        missing.sort_by_key(|stream| self.origins[*stream].last);
        for stream in missing {
            self.carry(stream, place);
        }
        let Estimate { times, held, held_from, .. } = self.estimate(task, place);
        let unit = self.graph.unit(task);
        let node = &mut self.nodes[place as usize];
        let slots = u64::from(self.problem.slots_taken(unit.slots, place));
        node.slots.reserve(times.busy, times.busy.saturating_add(self.graph.tasks[task].work.total), slots);
        node.memory.reserve(held_from, times.end, held);
        for stream in self.graph.written(task) {
            self.origins[stream] = Arrival { place, first: times.first, last: times.end };
        }
        self.times[task] = times;
        self.places[task] = place;
        self.end = self.end.max(times.end);
    }

    /// The node with most of the input of an instance: the bytes there, and one of the streams.
    pub(super) fn home(&self, task: TaskId) -> Option<(Place, u64, StreamId)> {
        let mut on: Vec<(Place, u64, StreamId, u64)> = Vec::new();
        for (port, streams) in self.graph.read(task) {
            for stream in streams.filter(|_| !port.is_switch) {
                let (place, bytes) = (self.origins[stream].place, self.graph.streams[stream].bytes);
                match on.iter_mut().find(|entry| entry.0 == place) {
                    Some((_, sum, largest, most)) => {
                        *sum = sum.saturating_add(bytes);
                        if bytes > *most {
                            (*largest, *most) = (stream, bytes);
                        }
                    }
                    None => on.push((place, bytes, stream, bytes)),
                }
            }
        }
        // Of several with as many bytes, the first.
        let best = on.into_iter().rev().max_by_key(|(_, sum, ..)| *sum)?;
        Some((best.0, best.1, best.2))
    }

    /// Where a stream is written.
    pub(super) fn origin(&self, stream: StreamId) -> Place {
        self.origins[stream].place
    }

    /// The arrival of all inputs of an instance; `arrive` gives that of each stream.
    fn gather(&self, task: TaskId, mut arrive: impl FnMut(&Self, StreamId, &Port) -> Arrival) -> Inputs {
        let instance = self.graph.instance(task);
        let mut inputs = Inputs::default();
        for port in &self.graph.unit(task).inputs {
            let ranges = port.streams(instance);
            let Some(Read { first, last, bytes }) = self.read(port, ranges, &mut arrive) else { continue };
            let opens = match (port.gate, self.overlap) {
                (Gate::Start, _) => 0,
                (Gate::Stream, true) => first,
                (Gate::Whole, _) | (Gate::Stream, false) => last,
            };
            inputs.gate = inputs.gate.max(opens);
            if port.is_switch {
                continue;
            }
            inputs.last = inputs.last.max(last);
            inputs.first = Some(inputs.first.map_or(first, |earlier| earlier.min(first)));
            match port.keep || !self.overlap {
                true => inputs.kept = inputs.kept.saturating_add(bytes),
                false => inputs.passing = inputs.passing.saturating_add(bytes),
            }
        }
        inputs
    }

    /// When an input has its first and its last byte, and how many bytes there are.
    fn read(
        &self,
        port: &Port,
        ranges: impl Iterator<Item = Range<StreamId>>,
        arrive: &mut impl FnMut(&Self, StreamId, &Port) -> Arrival,
    ) -> Option<Read> {
        let Some(need) = port.need else {
            let mut read: Option<Read> = None;
            for stream in ranges.flatten() {
                let Arrival { first, last, .. } = arrive(self, stream, port);
                let bytes = self.graph.streams[stream].bytes;
                read = Some(match read {
                    None => Read { first, last, bytes },
                    Some(so_far) => Read {
                        first: so_far.first.min(first),
                        last: so_far.last.max(last),
                        bytes: so_far.bytes.saturating_add(bytes),
                    },
                });
            }
            return read;
        };
        // A k-of-n choice: the k that are earliest.
        let mut all: Vec<(Arrival, u64)> =
            ranges.flatten().map(|stream| (arrive(self, stream, port), self.graph.streams[stream].bytes)).collect();
        all.sort_by_key(|(arrival, _)| if port.gate == Gate::Whole { arrival.last } else { arrival.first });
        all.truncate(need);
        Some(Read {
            first: all.iter().map(|(arrival, _)| arrival.first).max()?,
            last: all.iter().map(|(arrival, _)| arrival.last).max()?,
            bytes: all.iter().map(|(_, bytes)| *bytes).fold(0, u64::saturating_add),
        })
    }

    /// Finds the earliest time at which an instance with these inputs fits on a node.
    fn fit(&self, task: TaskId, place: Place, inputs: Inputs) -> Estimate {
        let (unit, work) = (self.graph.unit(task), self.graph.tasks[task].work);
        let node = &self.nodes[place as usize];
        let slots = u64::from(self.problem.slots_taken(unit.slots, place));
        let fit = |spill: Time| {
            let whole = inputs.last.saturating_add(work.tail).saturating_sub(work.total);
            let release = inputs.gate.max(whole).saturating_add(spill);
            let busy = node.slots.earliest(release, work.total, slots);
            let start = inputs.gate.saturating_add(busy - release);
            let end = busy.saturating_add(work.total);
            Times { gate: inputs.gate, start, first: first_output(start, end, work), busy, end }
        };
        let mut times = fit(0);
        // A sink writes to a file and holds no memory.
        if unit.kind == Kind::Sink {
            return Estimate { times, moved: 0, held: 0, held_from: 0 };
        }
        let held_from = inputs.first.unwrap_or(times.start);
        let arriving = inputs.last.saturating_sub(held_from);
        let waiting = times.start.saturating_sub(held_from).min(arriving);
        let passing = match arriving {
            0 => inputs.passing,
            _ => (u128::from(inputs.passing) * u128::from(waiting) / u128::from(arriving)) as u64,
        };
        let held = inputs.kept.saturating_add(passing);
        let free = node.memory.free_during(held_from, times.end);
        if held > free {
            times = fit(duration((held - free).saturating_mul(2), DISK_SPEED));
        }
        Estimate { times, moved: 0, held: held.min(free), held_from }
    }

    /// When a stream is on a node, if it is there.
    fn on(&self, stream: StreamId, place: Place) -> Option<Arrival> {
        let origin = self.origins[stream];
        if origin.place == place {
            return Some(origin);
        }
        self.copies[stream].iter().find(|copy| copy.place == place).copied()
    }

    /// The value of a switch travels as a message, beside the streams.
    fn told(&self, stream: StreamId, place: Place) -> Arrival {
        let origin = self.origins[stream];
        let latency = latency(self.problem, origin.place, place);
        Arrival { place, first: origin.first.saturating_add(latency), last: origin.last.saturating_add(latency) }
    }

    /// The transfer of a stream to a node, not before `floor`: when it begins, how long it takes, and when it arrives.
    /// The place of the arrival is the sender's.
    fn transfer(&self, stream: StreamId, place: Place, floor: Time) -> (Time, Time, Arrival) {
        let sender = self.copies[stream].last().copied().unwrap_or(self.origins[stream]);
        let link = self.problem.network.link(sender.place, place);
        let length = duration(self.graph.streams[stream].bytes, link.bandwidth);
        let release = sender.first.max(sender.last.saturating_sub(length));
        let (outgoing, incoming) = (&self.nodes[sender.place as usize].outgoing, &self.nodes[place as usize].incoming);
        let mut begin = release.max(floor);
        loop {
            let sent = outgoing.earliest(begin, length, 1);
            let received = incoming.earliest(sent, length, 1);
            if received == begin {
                break;
            }
            begin = received;
        }
        let latency = latency(self.problem, sender.place, place);
        let arrival = Arrival {
            place: sender.place,
            first: sender.first.saturating_add(begin - release).saturating_add(latency),
            last: begin.saturating_add(length).saturating_add(latency),
        };
        (begin, length, arrival)
    }

    /// Sends a stream to a node.
    fn carry(&mut self, stream: StreamId, place: Place) {
        // Two inputs of an instance may read the same stream.
        if self.on(stream, place).is_some() {
            return;
        }
        let (begin, length, arrival) = self.transfer(stream, place, 0);
        let end = begin.saturating_add(length);
        self.nodes[arrival.place as usize].outgoing.reserve(begin, end, 1);
        self.nodes[place as usize].incoming.reserve(begin, end, 1);
        let load = self.loads.entry((arrival.place, place)).or_default();
        *load = load.saturating_add(self.graph.streams[stream].bytes);
        self.copies[stream].push(Arrival { place, ..arrival });
    }
}

/// An input of an instance.
struct Read {
    first: Time,
    last: Time,
    bytes: u64,
}

/// When an instance that starts and ends at these times writes its first byte.
fn first_output(start: Time, end: Time, Work { total, head, tail }: Work) -> Time {
    let during = total - tail;
    // Without any work, bytes pass through as they come.
    if total == 0 {
        return start;
    }
    if head >= during {
        return end - (total - head);
    }
    let stretched = u128::from((end - start).saturating_sub(tail));
    start.saturating_add((u128::from(head) * stretched / u128::from(during)) as Time)
}

/// The time for so many bytes, rounded up.
pub(super) fn duration(bytes: u64, per_second: u64) -> Time {
    let nanos = (u128::from(bytes) * NANOS).div_ceil(u128::from(per_second.max(1)));
    // Whatever is longer than the longest declared time makes no difference.
    u64::try_from(nanos).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

pub(super) fn latency(problem: &Problem<'_>, from: Place, to: Place) -> Time {
    u64::try_from(problem.network.link(from, to).latency.as_nanos()).unwrap_or(u64::MAX / 4)
}
