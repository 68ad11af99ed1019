//! What a run is started with, and why it cannot be.

use crate::limits::{MAX_INSTANCES, MAX_STREAMS, MAX_SUBSCRIPTIONS};
use dflow_workflow::FunctionId;
use std::collections::BTreeMap;

/// What lets an instance start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Invocation {
    /// The gates of the workflow: by default the first bytes of the inputs.
    #[default]
    Dataflow,
    /// Every gate opens when all predecessors have ended. Programs are made ready ahead in this mode too, so that a
    /// comparison of the two shows the gates and nothing else.
    ControlFlow,
}

/// A node that takes part in a run: its index in [`RunOptions::places`]. (A node of the workflow's graph is something
/// else.)
pub type Place = u32;

/// What a run may use on one of the nodes that take part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceOptions {
    /// Slots: how much may compute there at the same time; at least 1.
    pub slots: u32,
    /// How many programs may be ready there, or on their way, ahead of their start. Programs that could start at once are
    /// made ready beyond it.
    pub prepare_ahead: u32,
    /// How many started attempts of functions may exist there at the same time, parked ones included. It is exceeded, one
    /// instance at a time, when all of them are parked, so that no run can get stuck on it. At the first place also how many
    /// of the workflow's output streams may be taken at the same time, at least 1.
    pub max_started: u32,
}

/// What a run is started with.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The nodes that take part, at least one. The first gives the workflow's inputs and takes its outputs.
    pub places: Vec<PlaceOptions>,
    /// For a function the places of its instances: that of part 0, of part 1 and so on, and again from the first.
    /// Functions that are not here run at the first place of all.
    pub placement: BTreeMap<FunctionId, Vec<Place>>,
    /// What lets an instance start.
    pub invocation: Invocation,
    /// Values of workflow parameters; those without a value here keep their default.
    pub params: BTreeMap<String, String>,
    /// How many streams each workflow input consists of: 1 for one that is not partitioned.
    pub input_parts: Vec<u32>,
}

/// Why a workflow cannot be run with the given options.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There is no place, or one without slots.
    #[error("a run needs at least one slot on each of its nodes, and 0 were given; give 1 or more")]
    NoSlots,
    /// A function is to run where there is no node.
    #[error("function `{function}` is placed on node {place}, and there are only {places}; count them from 0")]
    UnknownPlace {
        /// The function's name.
        function: String,
        /// Where it was to run.
        place: Place,
        /// How many places there are.
        places: usize,
    },
    /// The number of inputs is another one than the workflow's.
    #[error("the workflow has {expected} inputs, and streams were given for {given}; give each input its files")]
    InputCount {
        /// Inputs of the workflow.
        expected: usize,
        /// Inputs for which streams were given.
        given: usize,
    },
    /// An input that is one stream got another number of them.
    #[error("input `{input}` is one stream, and {given} were given; only a partitioned input can have many")]
    InputParts {
        /// The input's name.
        input: String,
        /// How many streams were given.
        given: u32,
    },
    /// A parameter without a default has no value.
    #[error("parameter `{param}` has no default and was given no value; give it one")]
    MissingParam {
        /// The parameter's name.
        param: String,
    },
    /// A value was given for a parameter that the workflow does not have.
    #[error("the workflow has no parameter `{param}`; it has {known}")]
    UnknownParam {
        /// The name that was given.
        param: String,
        /// The parameters that there are.
        known: String,
    },
    /// No case of a switch matches the parameter that decides it, and there is no default.
    #[error("{0}")]
    NoCase(String),
    /// The value that decides a switch does not come from exactly one stream.
    #[error("switch `{switch}` is decided by a source of several streams; a switch needs exactly one")]
    SwitchSource {
        /// The switch's name.
        switch: String,
    },
    /// The workflow expands to more than a run may have.
    #[error("the workflow expands to more than {limit} {what}; use fewer parts")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
}

/// What a run has too much of.
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
