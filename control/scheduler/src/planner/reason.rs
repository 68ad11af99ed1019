//! Why a function is where it is.

use super::graph::{Graph, Kind, TaskId};
use super::policy::Policy;
use super::predict::Ready;
use super::problem::Problem;
use super::schedule::Schedule;
use crate::options::Place;
use dflow_workflow::Source;
use std::collections::BTreeSet;
use std::time::Duration;

/// Why the instances of a function are where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is only one node.
    OnlyNode,
    /// The user has chosen.
    Pinned,
    /// It has no instance: a switch on a parameter does not choose it, or there are no parts.
    NotRun,
    /// It is where most of its input is.
    Beside {
        /// The largest of the streams there.
        source: Source,
        /// The bytes that need not cross the network, over all instances.
        bytes: u64,
    },
    /// It reads nothing, and the first node is as good as any.
    NoInput,
    /// It is not where its input is, because it ends earlier here.
    Earlier {
        /// The node with most of its input.
        than: Place,
        /// How much earlier its slowest instance ends.
        by: Duration,
    },
    /// It ends no earlier than where its input is, but the run as a whole does.
    WholeRun,
    /// Its instances share the slots of several nodes.
    Spread {
        /// How many nodes.
        nodes: u32,
    },
    /// The same, because nothing is known about how long they take.
    SpreadUnknown {
        /// How many nodes.
        nodes: u32,
    },
    /// The policy does not look at the input.
    Policy(Policy),
}

/// The reason for one instance.
#[derive(Clone, Copy)]
enum Here {
    Beside(Source, u64),
    NoInput,
    Earlier(Place, u64),
    Other,
}

/// Simulates a placement, and finds a reason for each function on the way.
pub(super) fn explain<'a>(
    problem: &'a Problem<'a>,
    graph: &'a Graph,
    places: &[Place],
    policy: Policy,
) -> (Schedule<'a>, Vec<Reason>) {
    let mut schedule = Schedule::new(problem, graph, true);
    let mut ready = Ready::new(graph);
    let mut here: Vec<Here> = vec![Here::Other; graph.tasks.len()];
    while let Some(task) = ready.next() {
        if graph.is_function(task) {
            here[task] = why(problem, graph, &schedule, task, places[task]);
        }
        schedule.add(task, places[task]);
        ready.added(task, &schedule);
    }
    let functions = graph.units.iter().filter_map(|unit| match unit.kind {
        Kind::Function(function) => Some((function, unit)),
        Kind::Input | Kind::Sink => None,
    });
    let reasons = functions.map(|(function, unit)| {
        let tasks = unit.tasks.clone();
        let nodes: BTreeSet<Place> = places[tasks.clone()].iter().copied().collect();
        let count = nodes.len() as u32;
        if tasks.is_empty() {
            Reason::NotRun
        } else if problem.nodes.len() == 1 {
            Reason::OnlyNode
        } else if !problem.pins.places_of(function).is_empty() {
            Reason::Pinned
        } else if matches!(policy, Policy::RoundRobin | Policy::OneNode) {
            Reason::Policy(policy)
        } else if count > 1 && unit.each && !unit.is_timed && policy == Policy::Dflow {
            Reason::SpreadUnknown { nodes: count }
        } else if count > 1 {
            Reason::Spread { nodes: count }
        } else {
            of_instances(&here[tasks], policy)
        }
    });
    let reasons = reasons.collect();
    (schedule, reasons)
}

fn why(problem: &Problem<'_>, graph: &Graph, schedule: &Schedule<'_>, task: TaskId, place: Place) -> Here {
    let Some((home, bytes, stream)) = schedule.home(task) else { return Here::NoInput };
    if home == place {
        let producer = graph.streams[stream].task;
        return Here::Beside(source(problem, graph, producer, stream), bytes);
    }
    let (here, there) = (schedule.estimate(task, place).times.end, schedule.estimate(task, home).times.end);
    if here < there { Here::Earlier(home, there - here) } else { Here::Other }
}

fn source(problem: &Problem<'_>, graph: &Graph, producer: TaskId, stream: usize) -> Source {
    let unit = graph.unit(producer);
    let output = unit.outputs.partition_point(|output| output.streams.end <= stream);
    match unit.kind {
        Kind::Function(function) => Source::Output { function, output: output as u32 },
        Kind::Input | Kind::Sink => {
            let input = graph.tasks[producer].unit.min(problem.workflow.inputs.len());
            Source::WorkflowInput(input as u32)
        }
    }
}

/// The reason for a function on one node: one that holds for all of its instances, or for the one that gains most.
fn of_instances(here: &[Here], policy: Policy) -> Reason {
    let mut local: Option<(Source, u64)> = None;
    let mut gain: Option<(Place, u64)> = None;
    let mut reads = false;
    for instance in here {
        match *instance {
            Here::NoInput => {}
            Here::Beside(source, bytes) => {
                reads = true;
                local = Some(local.map_or((source, bytes), |(first, sum)| (first, sum.saturating_add(bytes))));
            }
            Here::Earlier(than, by) => {
                reads = true;
                gain = Some(gain.filter(|(_, most)| *most >= by).unwrap_or((than, by)));
            }
            Here::Other => reads = true,
        }
    }
    match (local, gain) {
        (Some((source, bytes)), _) => Reason::Beside { source, bytes },
        (None, Some((than, by))) => Reason::Earlier { than, by: Duration::from_nanos(by) },
        (None, None) if !reads => Reason::NoInput,
        (None, None) if matches!(policy, Policy::Dflow) => Reason::WholeRun,
        (None, None) => Reason::Policy(policy),
    }
}
