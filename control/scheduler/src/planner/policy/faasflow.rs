//! The grouping of FaaSFlow (Li et al., ASPLOS 2022), algorithm 1.
//!
//! Each function begins as a group of its own. Again and again, the critical path of the workflow is determined, and
//! the groups at both ends of its most expensive edge are merged if a node has room for the result; a transfer within a
//! group costs nothing. It ends when no edge of the critical path can be merged. All instances of a function are in one
//! group, and a group is on one node.
//!
//! FaaSFlow limits a group by the containers that a node can hold. A dflow node can hold any number of instances, so
//! the room of a node is twice its share of all instances, by its slots: groups can form, and the nodes share the work.
//! Pairs of functions that the user declares as conflicting do not exist here.

use super::fixed_place;
use crate::options::Place;
use crate::planner::capacity::Time;
use crate::planner::graph::{Graph, Kind, UnitId};
use crate::planner::problem::Problem;
use crate::planner::schedule::{duration, latency};
use std::cmp::Reverse;

/// The room of a node, as a multiple of its share of all instances.
const SPARE: u64 = 2;
/// How many edges may be looked at in search of critical paths. Each merge takes such a search, so the time of the
/// algorithm grows with the square of the workflow; beyond this, the groups stay as they are.
const MAX_STEPS: usize = 1 << 30;
/// The number of searches that even the largest workflow gets.
const MIN_ROUNDS: usize = 1000;

pub(super) fn assign(problem: &Problem<'_>, graph: &Graph) -> Vec<Place> {
    let mut grouping = Grouping::new(problem, graph);
    for _ in 0..(MAX_STEPS / grouping.edges.len().max(1)).max(MIN_ROUNDS) {
        if !grouping.merge_one() {
            break;
        }
    }
    let of_unit: Vec<Place> = (0..graph.units.len()).map(|unit| grouping.place(unit)).collect();
    let place = |task: usize| fixed_place(problem, graph, task).unwrap_or(of_unit[graph.tasks[task].unit]);
    (0..graph.tasks.len()).map(place).collect()
}

struct Edge {
    from: UnitId,
    to: UnitId,
    cost: Time,
}

struct Group {
    /// Its units; none once it is part of another group.
    units: Vec<UnitId>,
    /// Slots of all of its instances.
    demand: u64,
    place: Place,
    /// One of its functions is pinned there.
    fixed: Option<Place>,
}

struct Grouping {
    /// By producer, in the order of the graph.
    edges: Vec<Edge>,
    /// The work of the longest instance of each unit.
    work: Vec<Time>,
    /// The group of each unit.
    group_of: Vec<usize>,
    groups: Vec<Group>,
    /// How much each node can hold, and holds.
    room: Vec<u64>,
    used: Vec<u64>,
}

impl Grouping {
    fn new(problem: &Problem<'_>, graph: &Graph) -> Self {
        let link = problem.network.default;
        let mut edges = Vec::new();
        for (from, unit) in graph.units.iter().enumerate() {
            for consumer in &unit.consumers {
                let streams = unit.outputs[consumer.output].streams.clone();
                let bytes = graph.streams[streams].iter().map(|stream| stream.bytes).fold(0, u64::saturating_add);
                let cost = duration(bytes, link.bandwidth).saturating_add(latency(problem, 0, 1));
                edges.push(Edge { from, to: consumer.unit, cost });
            }
        }
        let demand = |unit: &crate::planner::graph::Unit| unit.tasks.len() as u64 * u64::from(unit.slots);
        let total: u64 = graph.units.iter().map(demand).sum();
        let slots: u64 = problem.nodes.iter().map(|node| u64::from(node.slots)).sum();
        let room = problem.nodes.iter().map(|node| {
            let share = u128::from(SPARE * total) * u128::from(node.slots);
            (share.div_ceil(u128::from(slots.max(1))) as u64).max(u64::from(node.slots))
        });
        let mut grouping = Self {
            edges,
            work: Vec::with_capacity(graph.units.len()),
            group_of: (0..graph.units.len()).collect(),
            groups: Vec::with_capacity(graph.units.len()),
            room: room.collect(),
            used: vec![0; problem.nodes.len()],
        };
        for (id, unit) in graph.units.iter().enumerate() {
            let work = unit.tasks.clone().map(|task| graph.tasks[task].work.total).max();
            grouping.work.push(work.unwrap_or(0));
            let fixed = match unit.kind {
                Kind::Input | Kind::Sink => Some(0),
                Kind::Function(function) => problem.pins.places_of(function).first().copied(),
            };
            let demand = demand(unit);
            let place = fixed.unwrap_or_else(|| grouping.emptiest());
            grouping.used[place as usize] += demand;
            grouping.groups.push(Group { units: vec![id], demand, place, fixed });
        }
        grouping
    }

    fn place(&self, unit: UnitId) -> Place {
        self.groups[self.group_of[unit]].place
    }

    /// The node with most room left.
    fn emptiest(&self) -> Place {
        let left = |place: &usize| self.room[*place].saturating_sub(self.used[*place]);
        let place = (0..self.room.len()).min_by_key(|place| Reverse(left(place))).unwrap_or(0);
        place as Place
    }

    /// Merges two groups along the critical path. `false` if no edge of it can be merged.
    fn merge_one(&mut self) -> bool {
        let mut path = self.critical_path();
        path.sort_by_key(|edge| Reverse(self.edges[*edge].cost));
        for edge in path {
            let (from, to) = (self.group_of[self.edges[edge].from], self.group_of[self.edges[edge].to]);
            if from != to && self.merge(from, to) {
                return true;
            }
        }
        false
    }

    fn merge(&mut self, from: usize, to: usize) -> bool {
        let demand = self.groups[from].demand + self.groups[to].demand;
        let fixed = match (self.groups[from].fixed, self.groups[to].fixed) {
            (Some(one), Some(other)) if one != other => return false,
            (one, other) => one.or(other),
        };
        for group in [from, to] {
            self.used[self.groups[group].place as usize] -= self.groups[group].demand;
        }
        // Best fit, as FaaSFlow's bin packing: the node that is left with the least room.
        let left = |place: usize| self.room[place].checked_sub(self.used[place] + demand);
        let may = |place: &usize| left(*place).is_some() && fixed.is_none_or(|fixed| fixed as usize == *place);
        let fits = (0..self.room.len()).filter(may).min_by_key(|place| left(*place));
        match fits {
            Some(place) => {
                self.used[place] += demand;
                // The smaller one joins the larger: a unit changes its group only a logarithmic number of times.
                let is_smaller = self.groups[from].units.len() < self.groups[to].units.len();
                let (into, from) = if is_smaller { (to, from) } else { (from, to) };
                let mut joining = std::mem::take(&mut self.groups[from].units);
                joining.iter().for_each(|unit| self.group_of[*unit] = into);
                let mut units = std::mem::take(&mut self.groups[into].units);
                units.append(&mut joining);
                self.groups[into] = Group { units, demand, place: place as Place, fixed };
            }
            None => {
                for group in [from, to] {
                    self.used[self.groups[group].place as usize] += self.groups[group].demand;
                }
            }
        }
        fits.is_some()
    }

    /// The edges of the longest path, counting only transfers between groups.
    fn critical_path(&self) -> Vec<usize> {
        let mut finish = self.work.clone();
        let mut by: Vec<Option<usize>> = vec![None; finish.len()];
        // Edges are in the order of their producers, so a producer is complete when its edges are reached.
        for (index, Edge { from, to, cost }) in self.edges.iter().enumerate() {
            let is_inside = self.group_of[*from] == self.group_of[*to];
            let cost = if is_inside { 0 } else { *cost };
            let reached = finish[*from].saturating_add(cost).saturating_add(self.work[*to]);
            if reached > finish[*to] || by[*to].is_none() {
                finish[*to] = finish[*to].max(reached);
                by[*to] = Some(index);
            }
        }
        let mut path = Vec::new();
        let mut at = (0..finish.len()).max_by_key(|unit| finish[*unit]);
        while let Some(edge) = at.and_then(|unit| by[unit]) {
            path.push(edge);
            at = Some(self.edges[edge].from);
        }
        path
    }
}
