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
        /// All instances that it is about.
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
    /// Nodes are lost: decide nothing until [`Fact::Resume`], and report what is there. Facts of the lost nodes, and
    /// those of others that arrive until then, are void: what follows says everything again.
    Freeze {
        /// Counts the recoveries of the run, from 1.
        generation: u64,
        /// All nodes that have been lost so far.
        lost: Vec<Place>,
    },
    /// A piece of a node's answer.
    Frozen {
        /// The recovery.
        generation: u64,
        /// What the node has.
        inventory: Inventory,
        /// It is the last piece.
        is_last: bool,
    },
    /// From here to [`Fact::Resume`] the coordinator tells how the run stands, on all nodes.
    Restoring {
        /// The recovery.
        generation: u64,
    },
    /// The next part that an instance has ever opened on an output.
    PartKnown {
        /// The instance.
        instance: InstanceId,
        /// Index of the output.
        output: u32,
        /// The part.
        part: u32,
        /// The ids from which what exists because of the part is numbered.
        first: (InstanceId, StreamId),
    },
    /// How instances stand.
    Stands {
        /// The instances, each after those for whose streams it exists.
        instances: Vec<InstanceStanding>,
    },
    /// The parts that the present attempt of an instance has opened on an output.
    PartsStand {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Index of the output.
        output: u32,
        /// For each the attempt with which its bytes begin.
        bases: Vec<u32>,
        /// There will be no more.
        is_closed: bool,
    },
    /// The end of a recovery.
    Resume {
        /// The recovery.
        generation: u64,
        /// The places of the functions that had one which is lost, by part.
        places: Vec<(u32, Vec<Place>)>,
        /// Instances whose present attempts are void, with these attempts.
        again: Vec<(InstanceId, u32)>,
        /// The switches that are decided for good.
        decided: Vec<u32>,
    },
    /// What the sender tells from here on happens after its recovery.
    Resumed {
        /// The recovery.
        generation: u64,
    },
}

/// What a node has, as far as a recovery depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Inventory {
    /// The streams in its store.
    pub copies: Vec<StreamCopy>,
    /// Its own instances whose living attempt has been given a stream.
    pub reading: Vec<InstanceId>,
    /// Its own instances that have not run and never will, as far as it knows: it keeps nothing for them.
    pub retired: Vec<InstanceId>,
    /// Instances of lost nodes, with the latest attempt of which it has heard, and whether that has not been voided.
    pub lost: Vec<(InstanceId, u32, bool)>,
    /// The parts of such instances.
    pub parts: Vec<KnownParts>,
}

/// The parts that an instance has ever opened on an output, as far as a node has heard.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KnownParts {
    /// The instance.
    pub instance: InstanceId,
    /// Index of the output.
    pub output: u32,
    /// For each part the ids from which what exists because of it is numbered.
    pub first: Vec<(InstanceId, StreamId)>,
}

impl Inventory {
    /// How many entries it has.
    pub(crate) fn len(&self) -> usize {
        let parts: usize = self.parts.iter().map(|parts| 1 + parts.first.len()).sum();
        self.copies.len() + self.reading.len() + self.retired.len() + self.lost.len() + parts
    }
}

/// What a node's store has of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct StreamCopy {
    /// The stream.
    pub stream: StreamId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Every byte from offset 0 up to what has come so far can be read, and what is still to come will come.
    pub is_whole: bool,
    /// It has come to its end.
    pub is_complete: bool,
    /// It came from a lost node, and not to its end.
    pub is_broken: bool,
}

/// How an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct InstanceStanding {
    /// The instance.
    pub instance: InstanceId,
    /// Its attempt.
    pub attempt: u32,
    /// The attempt with which the bytes of its streams begin.
    pub base: u32,
    /// How many of its retries are spent.
    pub retries_used: u32,
    /// What the attempt does.
    pub progress: AttemptProgress,
    /// It is not needed.
    pub is_dropped: bool,
    /// It has ended without its unfinished streams being complete: their readers are not needed either.
    pub is_cut: bool,
}

/// What an attempt does, as far as other nodes have to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum AttemptProgress {
    /// It is void.
    Void,
    /// It is gone, and the next one writes the same bytes.
    Suspended,
    /// It goes on.
    Alive,
    /// It has succeeded.
    Ended,
    /// It has ended without a reader of its outputs.
    Unread,
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
            | Self::Recorded { instance, .. }
            | Self::PartKnown { instance, .. }
            | Self::PartsStand { instance, .. } => Some(*instance),
            Self::Failed { instance, .. } => *instance,
            Self::Value { .. }
            | Self::Stop { .. }
            | Self::Emptied
            | Self::Watch
            | Self::Quiet { .. }
            | Self::Proposed { .. }
            | Self::Answered { .. }
            | Self::Decided { .. }
            | Self::Freeze { .. }
            | Self::Frozen { .. }
            | Self::Restoring { .. }
            | Self::Stands { .. }
            | Self::Resume { .. }
            | Self::Resumed { .. } => None,
        }
    }

    /// Whether it counts as one of the facts that must have arrived before nothing moves any more.
    pub(crate) fn is_counted(&self) -> bool {
        !matches!(
            self,
            Self::Quiet { .. }
                | Self::Freeze { .. }
                | Self::Frozen { .. }
                | Self::Restoring { .. }
                | Self::PartKnown { .. }
                | Self::Stands { .. }
                | Self::PartsStand { .. }
                | Self::Resume { .. }
                | Self::Resumed { .. }
        )
    }

    /// Its size in a message, in units of a small fact.
    #[must_use]
    pub fn weight(&self) -> usize {
        let entries = match self {
            Self::Proposed { members, .. } => members.len(),
            Self::Chose { winners, .. } => winners.len(),
            Self::PartsStand { bases, .. } => bases.len(),
            Self::Frozen { inventory, .. } => inventory.len(),
            Self::Stands { instances } => instances.len(),
            Self::Resume { places, again, .. } => {
                again.len() + places.iter().map(|(_, list)| 1 + list.len()).sum::<usize>()
            }
            _ => 0,
        };
        1 + entries
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
