//! One node after the other, in the order of the workflow file.

use super::fixed_places;
use crate::options::Place;
use crate::planner::graph::Graph;
use crate::planner::problem::Problem;

pub(super) fn assign(problem: &Problem<'_>, graph: &Graph) -> Vec<Place> {
    let mut turns = problem.places().cycle();
    // Only free instances take a turn.
    fixed_places(problem, graph).into_iter().map(|fixed| fixed.or_else(|| turns.next()).unwrap_or(0)).collect()
}
