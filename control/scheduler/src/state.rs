//! The state that the machine keeps for nodes, instances, streams and switches.

use crate::options::Place;
use crate::part::PartPath;
use crate::plan::NodeId;
use crate::record::AttemptRecord;
use dflow_protocol::{Epoch, InstanceId, StreamId};
use std::collections::BTreeMap;
use std::time::Duration;

/// The decision of the switches about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// A switch upstream is undecided.
    Undecided,
    Active,
    /// Not chosen, or everything that it reads on some input is skipped.
    Skipped,
}

#[derive(Debug)]
pub(crate) struct NodeState {
    pub(crate) status: Status,
    /// The status cannot change any more.
    pub(crate) status_settled: bool,
    /// All instances that ever existed, in order of appearance.
    pub(crate) instances: Vec<InstanceId>,
    /// The instances that exist now, in the order of their parts, up to the first position where another may still be
    /// inserted.
    pub(crate) order: Vec<InstanceId>,
    /// `order` is complete.
    pub(crate) order_complete: bool,
    /// The set of instances cannot change any more.
    pub(crate) members_settled: bool,
    pub(crate) ports: Vec<PortList>,
    /// How many instances exist, and how many of those are settled.
    pub(crate) present: usize,
    pub(crate) settled: usize,
    /// Status, members and every instance are settled: no result of this node will ever be undone.
    pub(crate) sealed: bool,
}

/// The streams of one output port over all instances, in the order of their parts.
#[derive(Debug, Default)]
pub(crate) struct PortList {
    /// Up to the first position where another stream may still be inserted.
    pub(crate) streams: Vec<StreamId>,
    /// Index in [`NodeState::order`] of the instance whose streams come next.
    pub(crate) next: usize,
    /// `streams` is complete.
    pub(crate) complete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// There is no attempt: the instance does not exist, is not chosen, or is about to begin its next attempt.
    Idle,
    /// Backing off between two attempts, until the timer fires.
    Pausing,
    /// The attempt has begun (its streams are open), but its program is not being prepared yet.
    Waiting,
    Preparing,
    Ready,
    Running {
        parked: bool,
    },
    /// Killed, but not dead yet. It keeps the slots that it held until then.
    Stopping {
        started: bool,
        parked: bool,
    },
    Ended {
        unread: bool,
    },
}

impl Phase {
    /// Whether a process of the attempt runs and has not been asked to end.
    pub(crate) fn lives(self) -> bool {
        matches!(self, Self::Preparing | Self::Ready | Self::Running { .. })
    }

    /// Whether a process of the attempt runs, even if it has been asked to end.
    pub(crate) fn has_process(self) -> bool {
        self.lives() || matches!(self, Self::Stopping { .. })
    }

    pub(crate) fn ended(self) -> bool {
        matches!(self, Self::Ended { .. })
    }
}

#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) node: NodeId,
    pub(crate) path: PartPath,
    /// Where it runs.
    pub(crate) place: Place,
    /// The stream for which it exists.
    pub(crate) each: Option<StreamId>,
    /// Whether that stream is currently part of the workflow.
    pub(crate) present: bool,
    pub(crate) phase: Phase,
    /// The present attempt; 0 before the first.
    pub(crate) attempt: u32,
    /// The last attempt of which others were told that it is void.
    pub(crate) voided: u32,
    /// The attempt with which the bytes of its streams begin.
    pub(crate) base: u32,
    pub(crate) retries_used: u32,
    /// The next attempt does not begin before this time.
    pub(crate) not_before: Duration,
    /// The attempt's streams continue those of the previous attempt.
    pub(crate) continuing: bool,
    /// It was declared deterministic, but has written different bytes.
    pub(crate) diverged: bool,
    pub(crate) gate_open: bool,
    /// How many of its inputs keep the gate shut, as of when they were last looked at.
    pub(crate) shut: usize,
    /// The inputs that are to be looked at.
    pub(crate) changed: Changed,
    /// A list that an attempt was given may have lost streams since, or is no longer complete.
    pub(crate) lists_undone: bool,
    /// Where the search for something that is not settled goes on: index of the input, index of its source. Whatever lies
    /// before it is settled for good.
    pub(crate) settled_until: (usize, usize),
    pub(crate) timer: Option<Duration>,
    pub(crate) inputs: Vec<InputState>,
    pub(crate) outputs: Vec<PortState>,
    /// Its index in [`NodeState::order`].
    pub(crate) position: Option<usize>,
    /// Subscriptions to its streams that are not closed.
    pub(crate) open_readers: usize,
    /// It is not needed: it has lost a k-of-n fan-in.
    pub(crate) dropped: bool,
    /// It has ended without its unfinished streams being complete, and its readers are not needed either.
    pub(crate) cut: bool,
    /// Why it failed for good, if the run continues without it.
    pub(crate) lost: Option<String>,
    /// All its readers have ended, so any outcome counts as a success.
    pub(crate) released: bool,
    /// Its present attempt will never be undone, unless the run fails.
    pub(crate) settled: bool,
    /// It will never read again.
    pub(crate) retired: bool,
    /// It is queued for re-evaluation.
    pub(crate) queued: bool,
    pub(crate) records: Vec<AttemptRecord>,
}

/// Inputs of an instance whose streams have changed. One function may have thousands of inputs, and each of their streams
/// changes several times, so that looking at all inputs after each change would take quadratic time.
#[derive(Debug)]
pub(crate) enum Changed {
    All,
    /// Without duplicates.
    These(Vec<usize>),
}

#[derive(Debug, Default)]
pub(crate) struct InputState {
    /// It does not keep the gate shut, as of when it was last looked at.
    pub(crate) open: bool,
    /// It is among the inputs that are to be looked at.
    pub(crate) noted: bool,
    /// How many sources, from the first on, are known to be complete.
    pub(crate) complete_sources: usize,
    /// All subscriptions, with their index in [`Stream::subscriptions`].
    pub(crate) subscriptions: BTreeMap<StreamId, usize>,
    /// The signals of the open ones, counted.
    pub(crate) tally: Tally,
    /// The streams attached to the attempt so far.
    pub(crate) attached: u32,
    /// The position of the next stream in the sources' lists: index of the source, index in its list.
    pub(crate) next: (usize, usize),
    /// The attempt was told that the list is complete.
    pub(crate) told_complete: bool,
    /// k-of-n: the winners so far.
    pub(crate) winners: Vec<StreamId>,
    /// k-of-n: the choice will never be undone.
    pub(crate) choice_settled: bool,
}

/// One output port of one instance.
#[derive(Debug, Default)]
pub(crate) struct PortState {
    /// All streams that ever existed; the index is the part.
    pub(crate) streams: Vec<StreamId>,
    /// For a discovered port of a run that several nodes decide: the ids from which what exists because of each of them is
    /// numbered.
    pub(crate) first: Vec<(InstanceId, StreamId)>,
    /// How many of them are currently part of the workflow.
    pub(crate) listed: u32,
    /// For a discovered port: how many parts the present attempt has opened.
    pub(crate) opened: u32,
    /// For a discovered port: the present attempt will open no more.
    pub(crate) closed: bool,
    /// There will be no more than `listed`.
    pub(crate) complete: bool,
    /// Where its streams start in [`PortList::streams`].
    pub(crate) offset: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamState {
    /// No epoch is open.
    Absent,
    Open {
        bytes: bool,
    },
    Finished,
    Suspended {
        bytes: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) instance: InstanceId,
    pub(crate) port: usize,
    pub(crate) part: u32,
    pub(crate) path: PartPath,
    pub(crate) epoch: Epoch,
    /// The epoch with which its bytes begin.
    pub(crate) base: Epoch,
    pub(crate) state: StreamState,
    pub(crate) length: Option<u64>,
    /// It has been finished, by this epoch or by one that it continues.
    pub(crate) was_finished: bool,
    pub(crate) signal: Signal,
    pub(crate) subscriptions: Vec<Subscription>,
    /// The instances that exist because of this stream.
    pub(crate) children: Vec<(NodeId, InstanceId)>,
    /// The driver has received it.
    pub(crate) announced: bool,
    pub(crate) held: bool,
}

#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) consumer: InstanceId,
    pub(crate) input: usize,
    /// The present epoch (or the one that it continues) is attached to the consumer's present attempt.
    pub(crate) attached: bool,
    pub(crate) announced: bool,
    pub(crate) closed: Option<Closed>,
}

/// Why a subscription is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The consumer has everything that it needs.
    Done,
    /// The stream lost a k-of-n fan-in, or its reader is no longer needed because of one.
    Lost,
    /// The consumer will not run.
    Gone,
}

/// The state of a stream that matters for the gates of its readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signal {
    /// It is part of the workflow and its node is active.
    pub(crate) listed: bool,
    pub(crate) open: bool,
    pub(crate) bytes: bool,
    pub(crate) finished: bool,
    /// Its producer has ended successfully.
    pub(crate) ended: bool,
}

/// The signals of all streams of an input, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) listed: usize,
    pub(crate) open: usize,
    pub(crate) bytes: usize,
    pub(crate) finished: usize,
    pub(crate) ended: usize,
}

impl Tally {
    pub(crate) fn add(&mut self, signal: Signal) {
        self.listed += usize::from(signal.listed);
        self.open += usize::from(signal.open);
        self.bytes += usize::from(signal.bytes);
        self.finished += usize::from(signal.finished);
        self.ended += usize::from(signal.ended);
    }

    pub(crate) fn remove(&mut self, signal: Signal) {
        self.listed -= usize::from(signal.listed);
        self.open -= usize::from(signal.open);
        self.bytes -= usize::from(signal.bytes);
        self.finished -= usize::from(signal.finished);
        self.ended -= usize::from(signal.ended);
    }
}

#[derive(Debug)]
pub(crate) struct SwitchState {
    pub(crate) decision: Decision,
    /// The decision will never be undone.
    pub(crate) settled: bool,
    /// The value behind it.
    pub(crate) value: Option<String>,
    /// The decision is settled, but the attempt that made it was lost with its node: the next one must write the same value.
    pub(crate) unverified: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The value is not known yet.
    Open,
    /// The value has been requested.
    Reading,
    /// These nodes run.
    Chosen(Vec<NodeId>),
    /// The deciding function is skipped, and so is everything under the switch.
    Void,
    /// No case matches the value; the run fails as soon as the value is certain.
    NoCase(String),
}
