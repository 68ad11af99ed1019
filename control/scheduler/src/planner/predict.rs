//! The timeline of a placement.

use super::capacity::Time;
use super::graph::{Consumer, Graph, Kind, TaskId, UnitId};
use super::problem::Problem;
use super::schedule::Schedule;
use crate::options::Place;
use dflow_workflow::FunctionId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::Duration;

/// The predicted course of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The instances of functions, in the order of the workflow and of their parts.
    pub instances: Vec<Predicted>,
    /// When the last byte of the workflow's outputs is on the first node and everything has ended.
    pub end: Duration,
    /// The bytes between nodes: pairs without any are left out.
    pub links: Vec<LinkLoad>,
}

impl Timeline {
    /// The bytes over the network.
    #[must_use]
    pub fn bytes_moved(&self) -> u64 {
        self.links.iter().map(|link| link.bytes).fold(0, u64::saturating_add)
    }
}

/// The predicted life of an instance. Times are since the start of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predicted {
    /// Its function.
    pub function: FunctionId,
    /// Its part, if the function is a `foreach`.
    pub part: Option<u32>,
    /// Where it runs.
    pub place: Place,
    /// When its gate is open.
    pub ready: Duration,
    /// When it starts.
    pub start: Duration,
    /// When it writes its first output byte.
    pub first_output: Duration,
    /// From when to when its slots are counted: as long as it computes, as late as possible.
    pub busy: (Duration, Duration),
    /// When it ends.
    pub end: Duration,
    /// The slots that it holds while it computes.
    pub slots: u32,
    /// Bytes that it reads.
    pub bytes_read: u64,
    /// Bytes that it writes.
    pub bytes_written: u64,
}

/// The bytes from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLoad {
    /// The sender.
    pub from: Place,
    /// The receiver.
    pub to: Place,
    /// How many.
    pub bytes: u64,
}

impl Timeline {
    pub(super) fn new(problem: &Problem<'_>, graph: &Graph, schedule: &Schedule<'_>) -> Self {
        let mut instances = Vec::with_capacity(graph.tasks.len());
        for unit in &graph.units {
            let Kind::Function(function) = unit.kind else { continue };
            for (part, task) in (0..).zip(unit.tasks.clone()) {
                let (times, place) = (schedule.times[task], schedule.places[task]);
                let at = Duration::from_nanos;
                instances.push(Predicted {
                    function,
                    part: unit.each.then_some(part),
                    place,
                    ready: at(times.gate),
                    start: at(times.start),
                    first_output: at(times.first),
                    busy: (at(times.busy), at(times.busy.saturating_add(graph.tasks[task].work.total))),
                    end: at(times.end),
                    slots: problem.slots_taken(unit.slots, place),
                    bytes_read: graph.tasks[task].input,
                    bytes_written: graph
                        .written(task)
                        .map(|stream| graph.streams[stream].bytes)
                        .fold(0, u64::saturating_add),
                });
            }
        }
        let mut links: Vec<LinkLoad> =
            schedule.loads.iter().map(|(&(from, to), &bytes)| LinkLoad { from, to, bytes }).collect();
        links.retain(|link| link.bytes > 0);
        links.sort_by_key(|link| (link.from, link.to));
        Self { instances, end: Duration::from_nanos(schedule.end), links }
    }
}

/// Adds all instances to a schedule as a run would start them: by the time at which they can start, and of several at
/// the same time the one furthest downstream first.
pub(super) fn simulate<'a>(problem: &'a Problem<'a>, graph: &'a Graph, places: &[Place]) -> Schedule<'a> {
    let mut schedule = Schedule::new(problem, graph, true);
    let mut ready = Ready::new(graph);
    while let Some(task) = ready.next() {
        schedule.add(task, places[task]);
        ready.added(task, &schedule);
    }
    schedule
}

/// The tasks whose producers have all been added, in the order in which they start.
pub(super) struct Ready<'a> {
    graph: &'a Graph,
    heap: BinaryHeap<Reverse<(Time, Reverse<u32>, TaskId)>>,
    /// For each task, the sources that are not complete.
    missing: Vec<u32>,
    /// For each unit, the tasks that have not been added.
    left: Vec<usize>,
}

impl<'a> Ready<'a> {
    pub(super) fn new(graph: &'a Graph) -> Self {
        let mut ready = Self {
            graph,
            heap: BinaryHeap::with_capacity(graph.tasks.len()),
            missing: graph.tasks.iter().map(|task| graph.units[task.unit].sources as u32).collect(),
            left: graph.units.iter().map(|unit| unit.tasks.len()).collect(),
        };
        for unit in graph.units.iter().filter(|unit| unit.sources == 0) {
            ready.heap.extend(unit.tasks.clone().map(|task| Reverse((0, Reverse(unit.depth), task))));
        }
        ready
    }

    pub(super) fn next(&mut self) -> Option<TaskId> {
        self.heap.pop().map(|Reverse((_, _, task))| task)
    }

    /// A task has been added to the schedule.
    pub(super) fn added(&mut self, task: TaskId, schedule: &Schedule<'_>) {
        let unit = self.graph.tasks[task].unit;
        self.left[unit] -= 1;
        let is_complete = self.left[unit] == 0;
        let instance = self.graph.instance(task);
        for &Consumer { unit: consumer, each, output } in &self.graph.units[unit].consumers {
            if each {
                let per_task = self.graph.units[unit].outputs[output].per_task;
                self.supplied(consumer, instance * per_task..(instance + 1) * per_task, schedule);
            } else if is_complete {
                self.supplied(consumer, 0..self.graph.units[consumer].tasks.len(), schedule);
            }
        }
    }

    /// One more source of these instances is complete.
    fn supplied(&mut self, unit: UnitId, instances: Range<usize>, schedule: &Schedule<'_>) {
        let unit = &self.graph.units[unit];
        for task in unit.tasks.clone().skip(instances.start).take(instances.len()) {
            self.missing[task] -= 1;
            if self.missing[task] == 0 {
                self.heap.push(Reverse((schedule.earliest_gate(task), Reverse(unit.depth), task)));
            }
        }
    }
}
