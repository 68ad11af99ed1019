//! What a run's scheduler orders from its node.

use crate::node::program::Wanted;
use dflow_protocol::message::Setup;
use dflow_protocol::{Epoch, InstanceId, StreamId};

/// An order to a node. Orders are carried out in sequence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Order {
    /// Open a stream that is written on this node.
    OpenStream {
        stream: StreamId,
        epoch: Epoch,
        /// The output to which it belongs.
        producer: (InstanceId, u32),
        keep: bool,
        /// It continues where the previous epoch stopped.
        continues: bool,
        /// A later epoch may continue where this one stops.
        remember: bool,
    },
    /// Receive a stream from another node.
    Import {
        stream: StreamId,
        epoch: Epoch,
        from: u32,
        keep: bool,
    },
    /// Send a stream of this node to another one.
    Export {
        stream: StreamId,
        epoch: Epoch,
        to: u32,
    },
    Subscribe {
        stream: StreamId,
        instance: InstanceId,
        input: u32,
        keep: bool,
    },
    Unsubscribe {
        stream: StreamId,
        instance: InstanceId,
        input: u32,
    },
    /// Another node is lost: no stream comes from it or goes to it any more.
    Forsake {
        place: u32,
        /// The streams that went to it.
        exports: Vec<StreamId>,
    },
    Hold {
        stream: StreamId,
    },
    Unhold {
        stream: StreamId,
    },
    Prepare(Box<Preparation>),
    AddInput {
        instance: InstanceId,
        attempt: u32,
        input: u32,
        stream: StreamId,
    },
    InputsComplete {
        instance: InstanceId,
        attempt: u32,
        input: u32,
    },
    Start {
        instance: InstanceId,
        attempt: u32,
    },
    Kill {
        instance: InstanceId,
        attempt: u32,
        reason: String,
    },
    Abort {
        stream: StreamId,
        epoch: Epoch,
    },
    ReadValue {
        stream: StreamId,
        epoch: Epoch,
    },
}

/// Everything that a node needs to prepare the program of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Preparation {
    pub(crate) instance: InstanceId,
    pub(crate) attempt: u32,
    /// The store fills in ports, bell and arena.
    pub(crate) setup: Setup,
    /// The streams of each output.
    pub(crate) outputs: Vec<Vec<StreamId>>,
    /// Its program; for a command the one that it runs.
    pub(crate) program: Wanted,
    pub(crate) is_command: bool,
    /// For a command: the exit statuses that count as success.
    pub(crate) success: Vec<u8>,
    /// Its own variables, beside the [`Surroundings`](crate::surroundings::Surroundings) of the run.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) memory_limit: Option<u64>,
    /// The slots that it holds while it computes.
    pub(crate) slots: u32,
    pub(crate) limits: Limits,
    /// For each input the outputs that it reads, for errors.
    pub(crate) sources: Vec<String>,
}

/// The time that an attempt has, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Until it is ready.
    pub(crate) start: u64,
    /// For computing.
    pub(crate) computing: Option<u64>,
    /// From its start.
    pub(crate) total: Option<u64>,
    /// After its SIGTERM.
    pub(crate) grace: u64,
}
