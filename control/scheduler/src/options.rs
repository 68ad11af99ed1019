//! The options of a run, and why a run may be refused.

use crate::limits::{MAX_INSTANCES, MAX_STREAMS, MAX_SUBSCRIPTIONS};
use crate::planner::Placement;
use std::collections::BTreeMap;

/// When an instance may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Invocation {
    /// The gates of the workflow; by default the first bytes of the inputs.
    #[default]
    Dataflow,
    /// Every gate opens when all predecessors have ended. Programs are prepared ahead in this mode too, so that a
    /// comparison of the two modes shows the gates and nothing else.
    ControlFlow,
}

/// A node that takes part in a run: its index in [`RunOptions::places`]. (A node of the workflow's graph is something
/// else.)
pub type Place = u32;

/// The resources of a run on one of its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceOptions {
    /// Slots: how many instances may compute there at the same time; at least 1.
    pub slots: u32,
    /// How many programs may be ready or in preparation there ahead of their start. Programs that could start at once
    /// are prepared beyond this limit.
    pub prepare_ahead: u32,
    /// How many started attempts of functions may exist there at the same time, parked ones included. The limit is
    /// exceeded by one instance at a time when all of them are parked, so that it cannot block a run. At the first
    /// place it also limits how many output streams of the workflow are written at the same time (at least 1).
    pub max_started: u32,
}

/// For which instances a machine decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scope {
    /// For all of them, on every place.
    #[default]
    WholeRun,
    /// For those of one place. The machines of all places decide a run together: they exchange [`crate::Fact`]s. The one
    /// at place 0 is the coordinator as well: it decides when the run is over.
    Node(Place),
}

impl Scope {
    pub(crate) fn place(self) -> Option<Place> {
        match self {
            Self::WholeRun => None,
            Self::Node(place) => Some(place),
        }
    }
}

/// The options of a run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// For which instances the machine decides.
    pub scope: Scope,
    /// The nodes that take part, at least one. The first supplies the workflow's inputs and receives its outputs.
    pub places: Vec<PlaceOptions>,
    /// Where the instances of each function run.
    pub placement: Placement,
    /// When an instance may start.
    pub invocation: Invocation,
    /// Values of workflow parameters; those without a value here keep their default.
    pub params: BTreeMap<String, String>,
    /// The number of streams of each workflow input: 1 unless it is partitioned.
    pub input_parts: Vec<u32>,
}

/// Why a workflow cannot be run with the given options.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There is no node, or one without slots.
    #[error("a run needs at least one slot on each of its nodes, but one has 0; set --slots to 1 or more")]
    NoSlots,
    /// The machine is to decide for a node that does not exist.
    #[error("node {place} is to decide for its part of a run, but there are only {places} nodes, counted from 0")]
    UnknownScope {
        /// The place.
        place: Place,
        /// How many places there are.
        places: usize,
    },
    /// A function is placed on a node that does not exist.
    #[error("function `{function}` is placed on node {place}, but there are only {places} nodes, counted from 0")]
    UnknownPlace {
        /// The function's name.
        function: String,
        /// Where it was to run.
        place: Place,
        /// How many places there are.
        places: usize,
    },
    /// The number of inputs differs from the workflow's.
    #[error("the workflow has {expected} inputs, but files were given for {given}; give each input its files")]
    InputCount {
        /// Inputs of the workflow.
        expected: usize,
        /// Inputs for which streams were given.
        given: usize,
    },
    /// An input that is a single stream was given a different number of streams.
    #[error("input `{input}` is a single stream, but {given} were given; only a partitioned input can have many")]
    InputParts {
        /// The input's name.
        input: String,
        /// How many streams were given.
        given: u32,
    },
    /// A parameter without a default has no value.
    #[error("parameter `{param}` has no default and no value; add --param {param}=VALUE")]
    MissingParam {
        /// The parameter's name.
        param: String,
    },
    /// A value was given for an unknown parameter.
    #[error("the workflow has no parameter `{param}`; it has {known}")]
    UnknownParam {
        /// The name that was given.
        param: String,
        /// The parameters of the workflow.
        known: String,
    },
    /// No case of a switch matches the parameter that decides it, and there is no default.
    #[error("{0}")]
    NoCase(String),
    /// The value of a switch does not come from exactly one stream.
    #[error("switch `{switch}` takes its value from a source with several streams, but a switch needs exactly one")]
    SwitchSource {
        /// The switch's name.
        switch: String,
    },
    /// The workflow expands beyond the limits of a run.
    #[error("the workflow expands to more than {limit} {what}; use fewer parts")]
    TooLarge {
        /// The kind of objects.
        what: &'static str,
        /// Their maximum number.
        limit: usize,
    },
}

/// The limit that a run exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    Instances,
    Streams,
    Subscriptions,
}

impl Excess {
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Instances => "instances",
            Self::Streams => "streams",
            Self::Subscriptions => "subscriptions",
        }
    }

    pub(crate) fn limit(self) -> usize {
        match self {
            Self::Instances => MAX_INSTANCES,
            Self::Streams => MAX_STREAMS,
            Self::Subscriptions => MAX_SUBSCRIPTIONS,
        }
    }
}
