//! Everything on the first node, which has the inputs and gets the outputs.

use super::fixed_places;
use crate::options::Place;
use crate::planner::graph::Graph;
use crate::planner::problem::Problem;

pub(super) fn assign(problem: &Problem<'_>, graph: &Graph) -> Vec<Place> {
    fixed_places(problem, graph).into_iter().map(|fixed| fixed.unwrap_or(0)).collect()
}
