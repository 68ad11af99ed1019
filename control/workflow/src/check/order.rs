//! Sorts functions: producers before consumers, otherwise in the order of the file. Reports cycles.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use super::scope::Scope;
use crate::diagnostics::{Diagnostic, Span};
use crate::model::FunctionId;
use crate::report::Report;

/// Maximum number of places of a cycle that are shown.
const MAX_SHOWN_EDGES: usize = 8;

/// Maximum number of functions of a cycle that are named.
const MAX_NAMED: usize = 32;

/// `to` depends on `from`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub(super) from: FunctionId,
    pub(super) to: FunctionId,
    /// Where the file states it.
    pub(super) span: Span,
    /// `Some`: `to` does not read from `from`; instead, `from` decides through this switch whether `to` runs.
    pub(super) switch: Option<usize>,
}

/// The edges by their first function: one list, because most functions have one or two.
struct Consumers {
    edges: Vec<Edge>,
    /// Where the edges of each function begin, and the end of all.
    starts: Vec<usize>,
}

impl Consumers {
    fn new(mut edges: Vec<Edge>, functions: usize) -> Self {
        let mut starts = vec![0; functions + 1];
        for edge in &edges {
            starts[edge.from.0 as usize + 1] += 1;
        }
        for function in 0..functions {
            starts[function + 1] += starts[function];
        }
        // Stable: the edges of a function stay in the order of the file.
        edges.sort_by_key(|edge| edge.from);
        Self { edges, starts }
    }

    /// The edges that begin at this function.
    fn of(&self, function: usize) -> &[Edge] {
        &self.edges[self.starts[function]..self.starts[function + 1]]
    }
}

/// Functions in the order in which they become the functions of the workflow. `None` if there is a cycle, which is
/// reported.
pub(super) fn sort(scope: &Scope, edges: Vec<Edge>, report: &mut Report) -> Option<Vec<FunctionId>> {
    let count = scope.functions.len();
    let mut missing = vec![0_usize; count];
    for edge in &edges {
        missing[edge.to.0 as usize] += 1;
    }
    let consumers = Consumers::new(edges, count);
    // A heap and not a queue: functions that do not depend on each other keep the order of the file, in which users look
    // for them.
    let mut ready: BinaryHeap<Reverse<usize>> = (0..count).filter(|&index| missing[index] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(count);
    while let Some(Reverse(index)) = ready.pop() {
        order.push(FunctionId(u32::try_from(index).unwrap_or(u32::MAX)));
        for edge in consumers.of(index) {
            let to = edge.to.0 as usize;
            missing[to] -= 1;
            if missing[to] == 0 {
                ready.push(Reverse(to));
            }
        }
    }
    if order.len() == count {
        return Some(order);
    }
    // One error for each component: its cycles may be exponentially many, and to break one often breaks the others.
    for members in components(&consumers, &missing) {
        if let Some(cycle) = shortest_cycle(&members, &consumers) {
            report.push(describe(scope, &cycle));
        }
    }
    None
}

/// The strongly connected components (Tarjan) of the functions that could not be sorted: each is one cycle or several
/// connected ones, or a single function. Every function and edge is visited once, so that reporting a large file with
/// cycles is as fast as sorting a correct one.
fn components(consumers: &Consumers, missing: &[usize]) -> Vec<Vec<usize>> {
    const UNSEEN: usize = usize::MAX;
    let count = missing.len();
    let (mut index, mut low, mut on_path) = (vec![UNSEEN; count], vec![0; count], vec![false; count]);
    let mut components = Vec::new();
    let mut path = Vec::new();
    let mut next = 0;
    for start in (0..count).filter(|&start| missing[start] > 0) {
        // An explicit stack of functions, each with the edge to follow next: recursion along a long chain would
        // overflow the thread's stack.
        let mut open = vec![(start, 0)];
        while let Some((at, edge)) = open.pop() {
            if edge == 0 {
                if index[at] != UNSEEN {
                    continue;
                }
                (index[at], low[at], on_path[at]) = (next, next, true);
                next += 1;
                path.push(at);
            } else {
                let before = consumers.of(at)[edge - 1].to.0 as usize;
                if on_path[before] {
                    low[at] = low[at].min(low[before]);
                }
            }
            if let Some(follow) = consumers.of(at).get(edge) {
                open.push((at, edge + 1));
                let to = follow.to.0 as usize;
                if missing[to] > 0 && index[to] == UNSEEN {
                    open.push((to, 0));
                }
                continue;
            }
            if low[at] == index[at] {
                let from = path.iter().rposition(|&member| member == at).unwrap_or(0);
                let mut members = path.split_off(from);
                members.iter().for_each(|&member| on_path[member] = false);
                members.sort_unstable();
                components.push(members);
            }
        }
    }
    components.sort_unstable();
    components
}

/// The shortest path from the first of these functions back to itself, if there is one within them.
fn shortest_cycle(members: &[usize], consumers: &Consumers) -> Option<Vec<Edge>> {
    let start = *members.first()?;
    let mut reached_by: HashMap<usize, Edge> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(index) = queue.pop_front() {
        for edge in consumers.of(index) {
            let to = edge.to.0 as usize;
            if reached_by.contains_key(&to) || members.binary_search(&to).is_err() {
                continue;
            }
            reached_by.insert(to, *edge);
            if to != start {
                queue.push_back(to);
                continue;
            }
            let mut cycle = vec![*edge];
            let mut at = edge.from.0 as usize;
            while at != start {
                let edge = reached_by.get(&at)?;
                cycle.push(*edge);
                at = edge.from.0 as usize;
            }
            cycle.reverse();
            return Some(cycle);
        }
    }
    None
}

fn describe(scope: &Scope, cycle: &[Edge]) -> Diagnostic {
    let name = |id: FunctionId| scope.function(id).name.text.as_str();
    let mut path = String::new();
    for (index, edge) in cycle.iter().enumerate() {
        if index == MAX_NAMED {
            path.push_str(&format!("… ({} more) -> ", cycle.len() - MAX_NAMED));
            break;
        }
        path.push_str(name(edge.from));
        path.push_str(" -> ");
        if let Some(switch) = edge.switch {
            path.push_str(&scope.switches[switch].0.text);
            path.push_str(" -> ");
        }
    }
    // A cycle has at least one edge.
    let (last, others) = cycle.split_last().map_or((cycle[0], &[][..]), |(last, others)| (*last, others));
    path.push_str(name(last.to));
    let label = |edge: &Edge| match edge.switch {
        Some(_) => format!("whether `{}` runs depends on `{}`", name(edge.to), name(edge.from)),
        None => format!("`{}` reads from `{}`", name(edge.to), name(edge.from)),
    };
    let mut diagnostic =
        Diagnostic::at(last.span, format!("the functions form a cycle: {path}")).with_label(label(&last));
    for edge in others.iter().take(MAX_SHOWN_EDGES) {
        diagnostic = diagnostic.with_related(edge.span, label(edge));
    }
    diagnostic.with_help("data flows one way through a workflow: remove one of these links")
}
