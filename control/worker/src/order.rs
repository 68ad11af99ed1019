//! What a run's scheduler orders from its node, and what the node notices. Of the notices, some are sent to the driver of the
//! run, for its user.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use crate::node::program::Wanted;
use dflow_protocol::message::Setup;
use dflow_protocol::{Epoch, InstanceId, StreamId};
use dflow_scheduler::Outcome;
use rkyv::{Archive, Deserialize, Serialize};

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

/// A report of what has happened on a node.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) enum Notice {
    Ready {
        instance: InstanceId,
        attempt: u32,
    },
    FirstBytes {
        stream: StreamId,
        epoch: Epoch,
    },
    Finished {
        stream: StreamId,
        epoch: Epoch,
        length: u64,
    },
    Diverged {
        stream: StreamId,
        epoch: Epoch,
    },
    PartWanted {
        instance: InstanceId,
        attempt: u32,
        output: u32,
    },
    Value {
        stream: StreamId,
        epoch: Epoch,
        text: Result<String, String>,
    },
    Parked {
        instance: InstanceId,
        attempt: u32,
    },
    Resumed {
        instance: InstanceId,
        attempt: u32,
    },
    /// An attempt waits for its slots, which other runs hold.
    Queued {
        instance: InstanceId,
        attempt: u32,
    },
    /// An attempt that had to wait for its slots has started.
    Started {
        instance: InstanceId,
        attempt: u32,
    },
    Ended {
        instance: InstanceId,
        attempt: u32,
        end: End,
        record: Record,
    },
    /// The program of an attempt has ended, and these processes hold its outputs open.
    HeldOpen {
        instance: InstanceId,
        attempt: u32,
        by: String,
    },
    /// An attempt has printed this; `lost` bytes before it were dropped on the way.
    Printed {
        instance: InstanceId,
        attempt: u32,
        bytes: Vec<u8>,
        lost: u64,
    },
    /// The node cannot continue the run.
    Failed {
        reason: String,
    },
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) enum End {
    Succeeded,
    Unread,
    Failed(String),
}

/// The measurements of an ended attempt. Times are in nanoseconds since the run's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) first_read: Option<u64>,
    pub(crate) first_written: Option<u64>,
    pub(crate) user: u64,
    pub(crate) system: u64,
    pub(crate) max_rss: u64,
    /// It failed, and another attempt may do better.
    pub(crate) transient: bool,
    /// How it ended when it was told to.
    pub(crate) stopped: Option<Stopped>,
}

/// How an attempt ended that was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) enum Stopped {
    /// By itself, at its SIGTERM.
    ByItself,
    /// It was killed when its grace was over, or at once.
    Killed,
}

impl From<End> for Outcome {
    fn from(end: End) -> Self {
        match end {
            End::Succeeded => Self::Succeeded,
            End::Unread => Self::Unread,
            End::Failed(reason) => Self::Failed { reason },
        }
    }
}

impl From<Outcome> for End {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Succeeded,
            Outcome::Unread => Self::Unread,
            Outcome::Failed { reason } => Self::Failed(reason),
        }
    }
}
