//! HEFT (Topcuoglu, Hariri and Wu, 2002): tasks in the order of their upward ranks, each on the node where it finishes
//! first, in a gap if there is one.
//!
//! It is the published algorithm, so a consumer waits for its producer's end while places are chosen. The prediction
//! that compares policies lets it overlap.

use super::fixed_place;
use crate::options::Place;
use crate::planner::graph::Graph;
use crate::planner::problem::Problem;
use crate::planner::rank::{order, ranks};
use crate::planner::schedule::Schedule;

pub(super) fn assign(problem: &Problem<'_>, graph: &Graph) -> Vec<Place> {
    let mut schedule = Schedule::new(problem, graph, false);
    for task in order(&ranks(problem, graph, false)) {
        let place = fixed_place(problem, graph, task).unwrap_or_else(|| {
            let finish = |place: &Place| schedule.estimate(task, *place).times.end;
            problem.places().min_by_key(finish).unwrap_or(0)
        });
        schedule.add(task, place);
    }
    schedule.places
}
