//! The input of a plan.

use super::placement::Placement;
use super::profile::{Learned, Profile};
use crate::limits::{MAX_INSTANCES, MAX_STREAMS, MAX_SUBSCRIPTIONS};
use crate::options::{Invocation, Place};
use dflow_workflow::{Function, Source, Workflow, WorkflowInput};
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything that is known before a run.
#[derive(Clone, Debug)]
pub struct Problem<'a> {
    /// The workflow.
    pub workflow: &'a Workflow,
    /// The nodes, at least one. The first has the inputs of the workflow and gets its outputs.
    pub nodes: Vec<PlanNode>,
    /// The links between them.
    pub network: Network,
    /// For each input of the workflow, the bytes of each of its streams: one, or as many as it has parts.
    pub inputs: Vec<Vec<u64>>,
    /// The values of the workflow's parameters; they decide which cases of a switch on a parameter run.
    pub params: BTreeMap<String, String>,
    /// Functions whose places the user has chosen; the instances of one with several places are dealt over these.
    pub pins: Placement,
    /// The profile of each function.
    pub profiles: Vec<Profile>,
    /// When instances start.
    pub invocation: Invocation,
}

/// A node that can run instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanNode {
    /// Its name.
    pub name: String,
    /// How many instances may compute on it at the same time; at least 1.
    pub slots: u32,
    /// Its memory for streams, in bytes.
    pub memory: u64,
}

/// One direction of the connection between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Bytes per second; at least 1.
    pub bandwidth: u64,
    /// The time from the sending of a byte until a function on the other node can start because of it.
    pub latency: Duration,
}

/// The link that is assumed if nothing is known: 1 Gbit/s, and the time in which a ready function starts on another
/// node.
pub const DEFAULT_LINK: Link = Link { bandwidth: 125_000_000, latency: Duration::from_millis(1) };

/// Maximum number of nodes of a plan.
pub const MAX_PLAN_NODES: usize = 16_384;

/// How fast streams that do not fit into memory are written to disk and read again, in bytes per second.
pub(super) const DISK_SPEED: u64 = 1_000_000_000;

/// The links between all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The link of each pair that is not listed.
    pub default: Link,
    /// The links of other pairs: from the first node to the second.
    pub pairs: BTreeMap<(Place, Place), Link>,
}

impl Default for Network {
    fn default() -> Self {
        Self { default: DEFAULT_LINK, pairs: BTreeMap::new() }
    }
}

impl Network {
    /// The link from one node to another.
    #[must_use]
    pub fn link(&self, from: Place, to: Place) -> Link {
        if self.pairs.is_empty() {
            return self.default;
        }
        self.pairs.get(&(from, to)).copied().unwrap_or(self.default)
    }
}

/// Why a run cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProblemError {
    /// There is no node, or one without slots.
    #[error("a plan needs at least one slot on each of its nodes, but {node} has none")]
    NoSlots {
        /// The node, or words for all of them.
        node: String,
    },
    /// A link has no bandwidth.
    #[error("a link without bandwidth carries nothing; give at least 1 B/s")]
    NoBandwidth,
    /// A function is placed on a node that does not exist.
    #[error("function `{function}` is placed on node {place}, but there are only {places} nodes, counted from 0")]
    UnknownPlace {
        /// The function's name.
        function: String,
        /// Where it was to run.
        place: Place,
        /// How many nodes there are.
        places: usize,
    },
    /// The number of inputs differs from the workflow's.
    #[error("the workflow has {expected} inputs, but sizes were given for {given}")]
    InputCount {
        /// Inputs of the workflow.
        expected: usize,
        /// Inputs with sizes.
        given: usize,
    },
    /// The number of profiles differs from the number of functions.
    #[error("the workflow has {expected} functions, but there are {given} profiles")]
    ProfileCount {
        /// Functions of the workflow.
        expected: usize,
        /// Profiles.
        given: usize,
    },
    /// The workflow expands beyond the limits of a run, or there are too many nodes.
    #[error("the plan has more than {limit} {what}; use fewer parts or nodes")]
    TooLarge {
        /// The kind of objects.
        what: &'static str,
        /// Their maximum number.
        limit: usize,
    },
}

impl ProblemError {
    pub(super) fn too_many_instances() -> Self {
        Self::TooLarge { what: "instances", limit: MAX_INSTANCES }
    }

    pub(super) fn too_many_subscriptions() -> Self {
        Self::TooLarge { what: "subscriptions", limit: MAX_SUBSCRIPTIONS }
    }

    pub(super) fn too_many_streams() -> Self {
        Self::TooLarge { what: "streams", limit: MAX_STREAMS }
    }
}

/// The size that is assumed of an input that nothing is known about: small, so that functions stay beside it.
const UNKNOWN_INPUT: u64 = 1_000_000;

impl Problem<'_> {
    /// The bytes of each stream of an input: the known sizes, or else those that the workflow file expects, or else the
    /// [learned](Self::learned_sizes) one. If the number of parts is not known, there is one for each of these slots,
    /// so that all nodes can work.
    #[must_use]
    pub fn input_sizes(
        input: &WorkflowInput,
        known: Option<&[Option<u64>]>,
        learned: Option<u64>,
        slots: u32,
    ) -> Vec<u64> {
        let parts = match (known, input.partitioned) {
            (Some(known), _) => known.len(),
            (None, true) => input.expect.parts.unwrap_or(slots.max(1)) as usize,
            (None, false) => 1,
        };
        let share = |size: u64| size.checked_div(parts as u64).unwrap_or(0);
        let each = input.expect.size.map(share).or(learned).unwrap_or_else(|| share(UNKNOWN_INPUT));
        (0..parts).map(|part| known.and_then(|known| known[part]).unwrap_or(each)).collect()
    }

    /// For each input, the bytes of one of its streams in earlier runs, as learned by a function that reads nothing
    /// else.
    #[must_use]
    pub fn learned_sizes<'l>(
        workflow: &Workflow,
        learned: impl Fn(&Function) -> Option<&'l Learned>,
    ) -> Vec<Option<u64>> {
        let mut sizes = vec![None; workflow.inputs.len()];
        for function in &workflow.functions {
            let [only] = &function.inputs[..] else { continue };
            let [Source::WorkflowInput(input)] = only.sources[..] else { continue };
            let input = input as usize;
            if sizes[input].is_none() && only.each == workflow.inputs[input].partitioned {
                sizes[input] = learned(function).map(|learned| learned.input);
            }
        }
        sizes
    }

    pub(super) fn check(&self) -> Result<(), ProblemError> {
        if self.nodes.is_empty() {
            return Err(ProblemError::NoSlots { node: "there is no node, and so it".into() });
        }
        if self.nodes.len() > MAX_PLAN_NODES {
            return Err(ProblemError::TooLarge { what: "nodes", limit: MAX_PLAN_NODES });
        }
        if let Some(node) = self.nodes.iter().find(|node| node.slots == 0) {
            return Err(ProblemError::NoSlots { node: format!("`{}`", node.name) });
        }
        if self.network.default.bandwidth == 0 || self.network.pairs.values().any(|link| link.bandwidth == 0) {
            return Err(ProblemError::NoBandwidth);
        }
        let (expected, given) = (self.workflow.inputs.len(), self.inputs.len());
        if expected != given {
            return Err(ProblemError::InputCount { expected, given });
        }
        let (expected, given) = (self.workflow.functions.len(), self.profiles.len());
        if expected != given {
            return Err(ProblemError::ProfileCount { expected, given });
        }
        self.check_places(&self.pins)
    }

    /// Checks that all places are nodes.
    pub(super) fn check_places(&self, placement: &Placement) -> Result<(), ProblemError> {
        for (function, chosen) in placement.iter() {
            if let Some(&place) = chosen.iter().find(|place| **place as usize >= self.nodes.len()) {
                let known = self.workflow.functions.get(function.0 as usize);
                let function = known.map(|function| function.name.clone()).unwrap_or_default();
                return Err(ProblemError::UnknownPlace { function, place, places: self.nodes.len() });
            }
        }
        Ok(())
    }

    /// All nodes.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> + Clone + use<> {
        (0..).take(self.nodes.len())
    }

    /// The slots that an instance takes on a node: no more than there are, as in a run.
    pub(super) fn slots_taken(&self, slots: u32, place: Place) -> u32 {
        slots.min(self.nodes[place as usize].slots)
    }
}
