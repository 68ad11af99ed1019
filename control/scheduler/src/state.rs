//! What the machine remembers of nodes, instances, streams and switches.

use crate::options::Place;
use crate::part::PartPath;
use crate::plan::NodeId;
use crate::report::AttemptRecord;
use dflow_protocol::{Epoch, InstanceId, StreamId};
use std::collections::BTreeMap;
use std::time::Duration;

/// What the switches have made of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// A switch above it is open.
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
    /// All instances that ever were, in the order in which they appeared.
    pub(crate) instances: Vec<InstanceId>,
    /// Those of them that exist, in the order of their parts, as far as it is certain that none comes in between.
    pub(crate) order: Vec<InstanceId>,
    /// `order` has all of them.
    pub(crate) order_complete: bool,
    /// The set of instances cannot change any more.
    pub(crate) members_settled: bool,
    pub(crate) ports: Vec<PortList>,
    /// How many instances exist, and how many of those are settled.
    pub(crate) present: usize,
    pub(crate) settled: usize,
    /// Status, members and every instance are settled: nothing of this node is ever undone.
    pub(crate) sealed: bool,
}

/// The streams of one output port over all instances, in the order of their parts.
#[derive(Debug, Default)]
pub(crate) struct PortList {
    /// As far as it is certain that none comes in between.
    pub(crate) streams: Vec<StreamId>,
    /// Index in [`NodeState::order`] of the instance whose streams come next.
    pub(crate) next: usize,
    /// `streams` has all of them.
    pub(crate) complete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No attempt: it does not exist, is not chosen, or the next attempt is about to begin.
    Idle,
    /// Between two attempts; the timer says until when.
    Pausing,
    /// The attempt has begun (its streams are open), its program is not made ready yet.
    Waiting,
    Preparing,
    Ready,
    Running {
        parked: bool,
    },
    /// Killed, but not dead yet. What it held as a running instance it holds until then.
    Stopping {
        started: bool,
        parked: bool,
    },
    Ended {
        unread: bool,
    },
}

impl Phase {
    /// A process of the attempt runs, and it was not told to end.
    pub(crate) fn lives(self) -> bool {
        matches!(self, Self::Preparing | Self::Ready | Self::Running { .. })
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
    /// The stream because of which it exists.
    pub(crate) each: Option<StreamId>,
    /// That stream is part of the workflow at present.
    pub(crate) present: bool,
    pub(crate) phase: Phase,
    /// The present attempt; 0 before the first.
    pub(crate) attempt: u32,
    pub(crate) retries_used: u32,
    /// The next attempt begins its work no earlier.
    pub(crate) not_before: Duration,
    /// The attempt's streams continue those of the one before.
    pub(crate) continuing: bool,
    /// It was declared deterministic and is not.
    pub(crate) diverged: bool,
    pub(crate) gate_open: bool,
    pub(crate) timer: Option<Duration>,
    pub(crate) inputs: Vec<InputState>,
    pub(crate) outputs: Vec<PortState>,
    /// Its place in [`NodeState::order`].
    pub(crate) position: Option<usize>,
    /// Subscriptions to its streams that are not closed.
    pub(crate) open_readers: usize,
    /// Nobody needs it: a loser of a k-of-n fan-in.
    pub(crate) dropped: bool,
    /// All its readers have ended: whatever becomes of it counts as a success.
    pub(crate) released: bool,
    /// Its present attempt is never undone (unless the run fails).
    pub(crate) settled: bool,
    /// It will never read again.
    pub(crate) retired: bool,
    /// It waits to be looked at.
    pub(crate) queued: bool,
    pub(crate) records: Vec<AttemptRecord>,
}

#[derive(Debug, Default)]
pub(crate) struct InputState {
    /// All subscriptions, with their index in [`Stream::subscriptions`].
    pub(crate) subscriptions: BTreeMap<StreamId, usize>,
    /// How many of the open ones say what.
    pub(crate) tally: Tally,
    /// What the attempt was given so far.
    pub(crate) attached: u32,
    /// Where in the sources' lists the next stream is: index of the source, index in its list.
    pub(crate) next: (usize, usize),
    /// The attempt was told that it has all.
    pub(crate) told_complete: bool,
    /// k-of-n: the streams that were first.
    pub(crate) winners: Vec<StreamId>,
    /// k-of-n: the choice is never undone.
    pub(crate) choice_settled: bool,
}

/// One output port of one instance.
#[derive(Debug, Default)]
pub(crate) struct PortState {
    /// All streams that ever were; their index is their part.
    pub(crate) streams: Vec<StreamId>,
    /// How many of them are part of the workflow at present.
    pub(crate) listed: u32,
    /// For a discovered port: how many the present attempt has opened.
    pub(crate) opened: u32,
    /// For a discovered port: the present attempt opens no more.
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
    pub(crate) state: StreamState,
    pub(crate) length: Option<u64>,
    /// It was finished, by this epoch or one that it continues.
    pub(crate) was_finished: bool,
    pub(crate) signal: Signal,
    pub(crate) subscriptions: Vec<Subscription>,
    /// The instances that exist because of this stream.
    pub(crate) children: Vec<(NodeId, InstanceId)>,
    /// The driver knows it.
    pub(crate) announced: bool,
    pub(crate) held: bool,
}

#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) consumer: InstanceId,
    pub(crate) input: usize,
    /// The consumer's present attempt was given the present epoch (or the one that it continues).
    pub(crate) attached: bool,
    pub(crate) announced: bool,
    pub(crate) closed: Option<Closed>,
}

/// Why a subscription is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The consumer has what it needs.
    Done,
    /// The stream was not among the first of a k-of-n fan-in, or its reader is not needed any more for such a reason.
    Lost,
    /// The consumer does not run at all.
    Gone,
}

/// What a stream says to the gates of its readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signal {
    /// It is part of the workflow and its node is active.
    pub(crate) listed: bool,
    pub(crate) open: bool,
    pub(crate) bytes: bool,
    pub(crate) finished: bool,
    /// Its producer has ended well.
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
    /// The decision is never undone.
    pub(crate) settled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The value is not known.
    Open,
    /// The value was asked for.
    Reading,
    /// These nodes run.
    Chosen(Vec<NodeId>),
    /// The function that would decide is skipped itself, and so is everything under the switch.
    Void,
    /// The value fits no case; fails the run as soon as it is certain.
    NoCase(String),
}
