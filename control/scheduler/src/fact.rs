//! What the nodes of a run tell each other.
//!
//! Each node decides for its own instances. What others must know of that is a [`Fact`], told by the node that decides for
//! the instance to the nodes whose decisions depend on it: those of its readers and producers and, where parts are
//! discovered, those of everything that exists because of the parts. The coordinator hears all of them.
//!
//! What can still be undone may be acted on before all nodes agree: a gate that opened too early is closed again by the
//! facts that follow, because those from one node arrive in order. What is final ([`Fact::Settled`], a final
//! [`Fact::Chose`]) is only ever decided by the node that owns it, after it has heard everything that it depends on.
//!
//! Bytes are facts of their own: that a stream of another node has its first bytes, or is finished, a node learns from its
//! own store. And every node knows by itself that an instance begins its first attempt as soon as it is part of the run.
//! So a run in which nothing fails starts its functions without any message but the data.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use crate::options::Place;
use crate::record::AttemptRecord;
use dflow_protocol::{Epoch, InstanceId, StreamId};
use rkyv::{Archive, Deserialize, Serialize};

/// A fact about the sender's part of a run.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Fact {
    /// A later attempt than the first has begun, and opens the next epoch of its streams.
    Began {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
    },
    /// An attempt has started. Told to the coordinator alone.
    Started {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
    },
    /// An attempt has opened its next part on an output whose parts are discovered.
    PartOpened {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Index of the output.
        output: u32,
        /// The ids from which the instances and streams are numbered that exist because of the part, if it is a new one.
        first: Option<(InstanceId, StreamId)>,
    },
    /// An attempt opens no more parts on an output.
    PartsComplete {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Index of the output.
        output: u32,
    },
    /// The value of a stream that decides switches.
    Value {
        /// The stream.
        stream: StreamId,
        /// The epoch that was read.
        epoch: Epoch,
        /// Its text, of at most [`dflow_workflow::MAX_SWITCH_VALUE`] bytes.
        text: String,
    },
    /// What an attempt has written is void.
    Voided {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Why.
        reason: String,
    },
    /// An attempt is gone, and the next one writes the same bytes.
    Suspended {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
    },
    /// An attempt has succeeded.
    Ended {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Its outputs had no reader.
        unread: bool,
    },
    /// Nothing but a failure of the run undoes the present attempt of the instance.
    Settled {
        /// The instance.
        instance: InstanceId,
    },
    /// The streams that a k-of-n fan-in has chosen.
    Chose {
        /// The fan-in.
        instance: InstanceId,
        /// Index of its input.
        input: u32,
        /// The streams.
        winners: Vec<StreamId>,
        /// The choice will never be undone.
        is_final: bool,
    },
    /// The instance is not needed.
    Dropped {
        /// The instance.
        instance: InstanceId,
    },
    /// A candidate of k-of-n fan-ins has failed for good.
    Lost {
        /// The instance.
        instance: InstanceId,
        /// Why it failed.
        reason: String,
    },
    /// An instance that is not needed has failed: its unfinished streams stay so, and their readers are not needed either.
    Cut {
        /// The instance.
        instance: InstanceId,
    },
    /// The times of an attempt that has ended. Told to the coordinator alone.
    Recorded {
        /// The instance.
        instance: InstanceId,
        /// The times, since the start of the run on the sender's node.
        record: AttemptRecord,
        /// How many of its retries are spent.
        retries_used: u32,
    },
    /// The run has failed. Told to the coordinator alone.
    Failed {
        /// The instance that failed, if it was one.
        instance: Option<InstanceId>,
        /// Why.
        reason: String,
    },
    /// The coordinator ends the run.
    Stop {
        /// Why.
        reason: String,
    },
    /// Nothing of the run is left on the node, after it was to end.
    Emptied,
    /// The coordinator asks to be told from now on when nothing makes progress on a node by itself: the run may have come
    /// to a dead end.
    Watch,
    /// Nothing makes progress on the node by itself.
    Quiet {
        /// How many facts it has told, each counted for every node that it was told to.
        told: u64,
        /// How many it has heard.
        heard: u64,
    },
    /// The coordinator asks whether these instances are as it has heard, so that none of them is undone any more.
    Proposed {
        /// The number of the proposal.
        round: u64,
        /// The instances of the receiver's node that it is about.
        members: Vec<Standing>,
    },
    /// The answer: the node leaves them as they are until it hears [`Fact::Decided`], or they are not.
    Answered {
        /// The number of the proposal.
        round: u64,
        /// They are as proposed.
        holds: bool,
    },
    /// The end of a proposal.
    Decided {
        /// The number of the proposal.
        round: u64,
        /// All nodes agree: the instances are released.
        released: bool,
    },
}

impl Fact {
    /// The instance that it is about, if it is about one.
    pub(crate) fn instance(&self) -> Option<InstanceId> {
        match self {
            Self::Began { instance, .. }
            | Self::Started { instance, .. }
            | Self::PartOpened { instance, .. }
            | Self::PartsComplete { instance, .. }
            | Self::Voided { instance, .. }
            | Self::Suspended { instance, .. }
            | Self::Ended { instance, .. }
            | Self::Settled { instance }
            | Self::Chose { instance, .. }
            | Self::Dropped { instance }
            | Self::Lost { instance, .. }
            | Self::Cut { instance }
            | Self::Recorded { instance, .. } => Some(*instance),
            Self::Failed { instance, .. } => *instance,
            Self::Value { .. }
            | Self::Stop { .. }
            | Self::Emptied
            | Self::Watch
            | Self::Quiet { .. }
            | Self::Proposed { .. }
            | Self::Answered { .. }
            | Self::Decided { .. } => None,
        }
    }
}

/// An instance as the coordinator has heard of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Standing {
    /// The instance.
    pub instance: InstanceId,
    /// Its attempt.
    pub attempt: u32,
    /// It has started, and is released if all agree. Otherwise it has written nothing yet.
    pub has_started: bool,
}

/// The nodes to which a fact is told.
pub(crate) type Audience = std::sync::Arc<[Place]>;
