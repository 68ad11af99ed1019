//! The policies. Each assigns a place to every instance; all of them are compared by the same prediction.

mod dflow;
mod faasflow;
mod heft;
mod improve;
mod one_node;
mod round_robin;

use super::graph::{Graph, Kind, TaskId};
use super::problem::Problem;
use crate::options::Place;
use std::fmt;
use std::str::FromStr;

/// How places are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// The least predicted end, with consumers that overlap with their producers.
    #[default]
    Dflow,
    /// HEFT: earliest finish time in the order of upward ranks. A consumer waits for its producer's end.
    Heft,
    /// Functions of the critical path are grouped on a node, as in FaaSFlow.
    FaasFlow,
    /// One node after the other, in the order of the workflow file.
    RoundRobin,
    /// Everything on the first node.
    OneNode,
}

/// The name of a policy that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no policy `{name}`; the policies are dflow, heft, faasflow, round-robin, one-node")]
pub struct UnknownPolicy {
    /// The name that was given.
    pub name: String,
}

impl Policy {
    /// All policies, the default one first.
    pub const ALL: [Self; 5] = [Self::Dflow, Self::Heft, Self::FaasFlow, Self::RoundRobin, Self::OneNode];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dflow => "dflow",
            Self::Heft => "heft",
            Self::FaasFlow => "faasflow",
            Self::RoundRobin => "round-robin",
            Self::OneNode => "one-node",
        }
    }

    /// The place of each task.
    pub(super) fn assign(self, problem: &Problem<'_>, graph: &Graph) -> Vec<Place> {
        match self {
            Self::Dflow => dflow::assign(problem, graph),
            Self::Heft => heft::assign(problem, graph),
            Self::FaasFlow => faasflow::assign(problem, graph),
            Self::RoundRobin => round_robin::assign(problem, graph),
            Self::OneNode => one_node::assign(problem, graph),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or_else(|| UnknownPolicy { name: name.to_owned() })
    }
}

/// Where a task must be: inputs and outputs of the workflow at the first node, pinned functions where the user wants
/// them. `None` if it is free.
pub(super) fn fixed_place(problem: &Problem<'_>, graph: &Graph, task: TaskId) -> Option<Place> {
    match graph.unit(task).kind {
        Kind::Input | Kind::Sink => Some(0),
        Kind::Function(function) => {
            let pins = problem.pins.places_of(function);
            pins.get(graph.instance(task) % pins.len().max(1)).copied()
        }
    }
}

/// The fixed place of each task.
fn fixed_places(problem: &Problem<'_>, graph: &Graph) -> Vec<Option<Place>> {
    (0..graph.tasks.len()).map(|task| fixed_place(problem, graph, task)).collect()
}
