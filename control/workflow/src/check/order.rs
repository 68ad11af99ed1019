//! The order of functions: producers before consumers, otherwise as in the file; and the cycles that prevent it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::scope::Scope;
use crate::diagnostics::{Diagnostic, Span};
use crate::model::FunctionId;
use crate::report::Report;

/// How many places of a cycle are shown; the path in the message has all of them.
const MAX_SHOWN_EDGES: usize = 8;

/// `to` needs what `from` writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub(super) from: FunctionId,
    pub(super) to: FunctionId,
    /// Where the file says so.
    pub(super) span: Span,
    /// `Some`: `from` does not feed `to` but decides through this switch whether it runs.
    pub(super) switch: Option<usize>,
}

/// Functions in the order in which they become the functions of the workflow. `None` if there is a cycle, which is
/// reported.
pub(super) fn sort(scope: &Scope, edges: &[Edge], report: &mut Report) -> Option<Vec<FunctionId>> {
    let count = scope.functions.len();
    let mut consumers = vec![Vec::new(); count];
    let mut missing = vec![0_usize; count];
    for edge in edges {
        consumers[edge.from.0 as usize].push(*edge);
        missing[edge.to.0 as usize] += 1;
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..count).filter(|&index| missing[index] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(count);
    while let Some(Reverse(index)) = ready.pop() {
        order.push(FunctionId(u32::try_from(index).unwrap_or(u32::MAX)));
        for edge in &consumers[index] {
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
    let mut reported = vec![false; count];
    for start in (0..count).filter(|&index| missing[index] > 0) {
        if reported[start] {
            continue;
        }
        let Some(cycle) = shortest_cycle(start, &consumers, &missing) else { continue };
        if !cycle.iter().any(|edge| reported[edge.from.0 as usize]) {
            report.push(describe(scope, &cycle));
        }
        for edge in &cycle {
            reported[edge.from.0 as usize] = true;
        }
    }
    None
}

/// The shortest way from a function back to itself, among those that no order was found for.
fn shortest_cycle(start: usize, consumers: &[Vec<Edge>], missing: &[usize]) -> Option<Vec<Edge>> {
    let mut reached_by: Vec<Option<Edge>> = vec![None; consumers.len()];
    let mut queue = VecDeque::from([start]);
    while let Some(index) = queue.pop_front() {
        for edge in &consumers[index] {
            let to = edge.to.0 as usize;
            if missing[to] == 0 || reached_by[to].is_some() {
                continue;
            }
            reached_by[to] = Some(*edge);
            if to != start {
                queue.push_back(to);
                continue;
            }
            let mut cycle = vec![*edge];
            let mut at = edge.from.0 as usize;
            while at != start {
                let edge = reached_by[at]?;
                cycle.push(edge);
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
    for edge in cycle {
        path.push_str(name(edge.from));
        path.push_str(" -> ");
        if let Some(switch) = edge.switch {
            path.push_str(&scope.switches[switch].0.text);
            path.push_str(" -> ");
        }
    }
    // A cycle has at least one edge: the one that was found first.
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
