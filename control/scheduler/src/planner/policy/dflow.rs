//! The default: the least predicted end.
//!
//! 1. Instances of a `foreach` whose run time is not known are dealt over all slots; one that reads the part of another
//!    `foreach` is beside it. Nothing else can be said about them, and their author asked for many.
//! 2. Placements are made: everything on the first node; instances in the order of their ranks, each where it ends
//!    first; the same in the order in which they can start; those of HEFT and of FaaSFlow, unless the workflow is
//!    large.
//! 3. Each is improved by moving instances, as long as the budget for that lasts. The best result is the plan.
//!
//! So no plan is predicted to end later than one on the first node alone, except because of step 1.

use super::improve::improve;
use super::{faasflow, fixed_places, heft, one_node};
use crate::options::Place;
use crate::planner::capacity::Time;
use crate::planner::graph::{Graph, TaskId};
use crate::planner::predict::{Ready, simulate};
use crate::planner::problem::Problem;
use crate::planner::rank::{order, ranks};
use crate::planner::schedule::Schedule;
use std::collections::BTreeSet;

/// With at most so many nodes, all of them are candidates for each instance.
const FEW_NODES: usize = 8;
/// With more, the nodes of so many inputs and the ones that are free first.
const MAX_CANDIDATES: usize = 4;
/// An instance leaves its data only if it ends earlier by more than this share of its work: 1/64. A placement is better
/// only if its end is earlier by more than this share of the average time that the run has for an instance.
const WORTH: u64 = 64;
/// HEFT looks at each node for each instance. Beyond so many pairs, that takes longer than it is worth.
const MAX_PAIRS: usize = 20_000;

pub(super) fn assign(problem: &Problem<'_>, graph: &Graph) -> Vec<Place> {
    let mut fixed = fixed_places(problem, graph);
    if problem.nodes.len() == 1 {
        return one_node::assign(problem, graph);
    }
    deal(problem, graph, &mut fixed);
    let local = fixed.iter().map(|fixed| fixed.unwrap_or(0)).collect();
    if fixed.iter().all(Option::is_some) {
        return local;
    }
    let mut best = improve(problem, graph, &fixed, local);
    // Different beginnings end in different local optima.
    let mut beginnings = vec![by_rank(problem, graph, &fixed), by_start(problem, graph, &fixed)];
    if graph.tasks.len().saturating_mul(problem.nodes.len()) <= MAX_PAIRS {
        for mut places in [heft::assign(problem, graph), faasflow::assign(problem, graph)] {
            places.iter_mut().zip(&fixed).for_each(|(place, fixed)| *place = fixed.unwrap_or(*place));
            beginnings.push(places);
        }
    }
    for places in beginnings {
        let other = improve(problem, graph, &fixed, places);
        if other.0.is_better_than(best.0, graph) {
            best = other;
        }
    }
    best.1
}

/// The quality of a placement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Score {
    /// The predicted end.
    end: Time,
    /// Bytes over the network.
    moved: u64,
}

impl Score {
    pub(super) fn of(problem: &Problem<'_>, graph: &Graph, places: &[Place]) -> Self {
        let schedule = simulate(problem, graph, places);
        Self { end: schedule.end, moved: schedule.loads.values().copied().fold(0, u64::saturating_add) }
    }

    /// The predicted end.
    pub(super) fn end(self) -> Time {
        self.end
    }

    /// Whether the run ends earlier, or as early with fewer bytes over the network. A gain that is small against the
    /// run and the number of its instances is below the accuracy of a prediction, and does not count.
    pub(super) fn is_better_than(self, other: Self, graph: &Graph) -> bool {
        let small = other.end / (WORTH * graph.tasks.len().max(1) as u64);
        self.end < other.end - small || self.end <= other.end && self.moved < other.moved
    }
}

/// Fixes the instances of each `foreach` whose run time is not known.
pub(super) fn deal(problem: &Problem<'_>, graph: &Graph, fixed: &mut [Option<Place>]) {
    let order = turns(problem);
    for unit in graph.units.iter().filter(|unit| unit.each && !unit.is_timed) {
        let part = unit.inputs.iter().find(|port| port.each);
        for (index, task) in
            unit.tasks.clone().enumerate().filter(|(_, task)| fixed[*task].is_none()).collect::<Vec<_>>()
        {
            let stream = part.and_then(|port| port.streams(index).flatten().next());
            let producer = stream.map(|stream| graph.streams[stream].task);
            let beside = producer.filter(|producer| graph.unit(*producer).each).and_then(|producer| fixed[producer]);
            fixed[task] = beside.or_else(|| order.get(index % order.len().max(1)).copied());
        }
    }
}

/// Each node as often as it has slots: one of each node, then one more of each that has more, and so on.
fn turns(problem: &Problem<'_>) -> Vec<Place> {
    let most = problem.nodes.iter().map(|node| node.slots).max().unwrap_or(0);
    let has = move |place: Place, round: u32| problem.nodes[place as usize].slots > round;
    (0..most).flat_map(|round| problem.places().filter(move |place| has(*place, round))).collect()
}

fn by_rank(problem: &Problem<'_>, graph: &Graph, fixed: &[Option<Place>]) -> Vec<Place> {
    let mut placing = Placing::new(problem, graph, fixed);
    for task in order(&ranks(problem, graph, true)) {
        placing.add(task);
    }
    placing.schedule.places
}

fn by_start(problem: &Problem<'_>, graph: &Graph, fixed: &[Option<Place>]) -> Vec<Place> {
    let mut placing = Placing::new(problem, graph, fixed);
    let mut ready = Ready::new(graph);
    while let Some(task) = ready.next() {
        placing.add(task);
        ready.added(task, &placing.schedule);
    }
    placing.schedule.places
}

/// Places instances one by one, each where it ends first.
struct Placing<'a> {
    problem: &'a Problem<'a>,
    graph: &'a Graph,
    fixed: &'a [Option<Place>],
    schedule: Schedule<'a>,
    /// The nodes by the time from which on a slot is free. Empty with few nodes.
    open: BTreeSet<(Time, Place)>,
    candidates: Vec<Place>,
}

impl<'a> Placing<'a> {
    fn new(problem: &'a Problem<'a>, graph: &'a Graph, fixed: &'a [Option<Place>]) -> Self {
        let many = problem.nodes.len() > FEW_NODES;
        Self {
            problem,
            graph,
            fixed,
            schedule: Schedule::new(problem, graph, true),
            open: problem.places().filter(|_| many).map(|place| (0, place)).collect(),
            candidates: Vec::new(),
        }
    }

    fn add(&mut self, task: TaskId) {
        let place = self.fixed[task].unwrap_or_else(|| self.choose(task));
        let was = self.schedule.open_from(place);
        self.schedule.add(task, place);
        if self.open.remove(&(was, place)) {
            self.open.insert((self.schedule.open_from(place), place));
        }
    }

    fn choose(&mut self, task: TaskId) -> Place {
        let home = self.schedule.home(task).map_or(0, |(place, ..)| place);
        self.gather_candidates(task, home);
        let at_home = self.schedule.estimate(task, home);
        let mut best = (at_home, home);
        for &place in self.candidates.iter().filter(|place| **place != home) {
            let there = self.schedule.estimate(task, place);
            if (there.times.end, there.moved) < (best.0.times.end, best.0.moved) {
                best = (there, place);
            }
        }
        let gain = at_home.times.end - best.0.times.end.min(at_home.times.end);
        if gain <= self.graph.tasks[task].work.total / WORTH { home } else { best.1 }
    }

    /// The nodes to consider.
    fn gather_candidates(&mut self, task: TaskId, home: Place) {
        self.candidates.clear();
        if self.open.is_empty() {
            self.candidates.extend(self.problem.places());
            return;
        }
        self.candidates.push(home);
        let open = self.open.iter().map(|(_, place)| *place).take(MAX_CANDIDATES);
        let inputs = self.graph.read(task).flat_map(|(_, streams)| streams).take(MAX_CANDIDATES);
        for place in open.chain(inputs.map(|stream| self.schedule.origin(stream))) {
            if !self.candidates.contains(&place) {
                self.candidates.push(place);
            }
        }
    }
}
