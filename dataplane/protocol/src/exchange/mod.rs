//! The streams between this node and one other, over any kind of path.
//!
//! [`Exchange`] is a pure state machine. Its inputs are what the local streams do (bytes written, new credit), the peer's
//! messages, and the state of the path; its outputs are messages and events ([`Action`]) and the bytes to send next
//! ([`Exchange::next_write`]). Both ends run the same machine; each is the reading end of some flows and the writing end of
//! others.
//!
//! **Why no byte is lost or duplicated.** A path is reliable while it lives: messages arrive in order, bytes in any order.
//! When it is lost, both ends forget everything in flight. The next path begins with all subscriptions, each with the offset
//! up to which everything has arrived. The writing end continues from there; it still has those bytes, because it keeps
//! every byte until it is acknowledged ([`FlowEvent::Acknowledged`]).
//!
//! **Why flows and runs do not disturb each other.** Each flow has its own credit, so a slow reader holds back its own stream
//! alone. Runs take turns to send, and the flows of a run share its turns (`turns`): a small stream never waits for a
//! large one to end, nor for a run with many streams.
//!
//! **Credit** is an offset in a stream: bytes below it may be sent. Messages and methods call it `until`. **Acknowledgements**
//! say up to which offset everything has arrived; they carry the credit with them.

mod inflow;
mod outflow;
mod peer;
mod ranges;
mod reading;
mod traffic;
mod turns;
mod writing;

use crate::ids::RunId;
use crate::limits::{MAX_FLOWS, PEER_VERSION};
use crate::wire::{FlowId, Grant, PeerMessage, StreamKey};
use inflow::Inflow;
use outflow::Outflow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use traffic::Traffic;
use turns::Turns;

pub use traffic::RunTraffic;

/// The streams between this node and one other.
#[derive(Debug)]
pub struct Exchange {
    life: u64,
    peer_life: Option<u64>,
    path: Path,
    /// Flows that this node reads.
    incoming: BTreeMap<FlowId, Inflow>,
    /// Incoming flows with a delayed acknowledgement.
    unacknowledged: BTreeSet<FlowId>,
    /// Flows that this node has unsubscribed, and of which bytes may be in flight, each with its run.
    closing: BTreeMap<FlowId, RunId>,
    /// Flows that the peer reads.
    outgoing: BTreeMap<FlowId, Outflow>,
    next_flow: u64,
    next_grant: u32,
    /// The highest flow number that the peer's present process has used.
    last_peer_flow: Option<FlowId>,
    turns: Turns,
    traffic: Traffic,
    actions: VecDeque<Action>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Down,
    /// The peer has not sent [`PeerMessage::Begin`].
    Silent {
        incarnation: u64,
    },
    /// This many of the peer's subscriptions are still to come.
    Resuming {
        incarnation: u64,
        left: u32,
    },
    Up {
        incarnation: u64,
    },
}

/// What the caller has to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send this to the peer, behind everything sent before.
    Send(PeerMessage),
    /// The path is new: grant the flow's present window on it ([`Exchange::grant`]).
    Regrant(FlowId),
    /// Something has happened to a flow.
    Flow(FlowId, FlowEvent),
}

/// What has happened to a flow. Offsets are those of the stream, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum FlowEvent {
    /// Outgoing: the peer reads this stream from now on. [`Exchange::available`] tells the machine what there is of it.
    Subscribed {
        /// The stream.
        stream: StreamKey,
        /// The offset from which the peer needs it.
        from: u64,
    },
    /// Outgoing: the peer has all bytes below this offset; the flow does not need them any more.
    Acknowledged(u64),
    /// Outgoing: whether the peer's readers are stuck. It does not help to wait for readers that are.
    Stuck(bool),
    /// Outgoing: the peer does not read the stream any more. The flow is over.
    Unsubscribed,
    /// Incoming: all bytes below this offset have arrived.
    Arrived(u64),
    /// Incoming: the stream is complete, and this is its length. The flow is over, and nothing of it is in flight.
    Finished(u64),
    /// Incoming: the stream was aborted, for this reason. The flow is over, and nothing of it is in flight.
    Aborted(String),
    /// Incoming, after [`Exchange::unsubscribe`]: nothing of the flow is in flight any more, and its window may be used for
    /// something else.
    Drained,
}

/// Bytes that may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The flow.
    pub flow: FlowId,
    /// The window for them; `None`: send them with [`PeerMessage::Inline`].
    pub grant: Option<Grant>,
    /// The stream offset of the first of them.
    pub at: u64,
    /// Their maximum number.
    pub most: u64,
}

/// A violation of the protocol by the peer. The connection must be closed: what the peer's process says cannot be trusted
/// for any run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The peer speaks another version.
    #[error(
        "the peer speaks version {theirs} of the protocol between nodes, this node {ours}; run the same release on both"
    )]
    Version {
        /// Of this node.
        ours: u32,
        /// Of the peer.
        theirs: u32,
    },
    /// A message came at the wrong time.
    #[error("the peer sent {message} {when}")]
    Order {
        /// Which message.
        message: &'static str,
        /// When.
        when: &'static str,
    },
    /// A value is out of range.
    #[error("the peer sent {what} for {flow}{}: {value}, where {expected} was expected", of_stream(*stream))]
    Value {
        /// The flow.
        flow: FlowId,
        /// The stream that it carries, if the flow is known.
        stream: Option<StreamKey>,
        /// What the value is.
        what: &'static str,
        /// The value.
        value: u64,
        /// The range.
        expected: String,
    },
    /// A limit is exceeded.
    #[error("the peer has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

impl Violation {
    fn value(flow: FlowId, what: &'static str, value: u64, expected: String) -> Self {
        Self::Value { flow, stream: None, what, value, expected }
    }

    /// Names the stream, and with it the run.
    fn of(mut self, key: StreamKey) -> Self {
        if let Self::Value { stream, .. } = &mut self {
            *stream = Some(key);
        }
        self
    }
}

fn of_stream(stream: Option<StreamKey>) -> String {
    stream.map(|stream| format!(" ({stream})")).unwrap_or_default()
}

/// A run reads as many streams from the peer as are left of [`MAX_FLOWS`] already, so that some are always left for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this run already reads {run} streams from the peer, and all runs together {all}: a run may have as many as are left of \
     {MAX_FLOWS}. Use fewer, larger streams, or place the functions that write them on more nodes"
)]
pub struct TooManyFlows {
    /// Streams that the run reads from the peer.
    pub run: usize,
    /// Streams that all runs read from it.
    pub all: usize,
}

impl Exchange {
    /// A machine without a path and without flows. `life`: a random number that this process chose at its start.
    #[must_use]
    pub fn new(life: u64) -> Self {
        Self {
            life,
            peer_life: None,
            path: Path::Down,
            incoming: BTreeMap::new(),
            unacknowledged: BTreeSet::new(),
            closing: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            next_flow: 1,
            next_grant: 1,
            last_peer_flow: None,
            turns: Turns::default(),
            traffic: Traffic::default(),
            actions: VecDeque::new(),
        }
    }

    /// The next action.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// There is a new path. Nothing of the one before may arrive after this call.
    pub fn path_up(&mut self, incarnation: u64) {
        self.path_down();
        self.path = Path::Silent { incarnation };
        let flows = u32::try_from(self.incoming.len()).unwrap_or(u32::MAX);
        self.send(PeerMessage::Begin { version: PEER_VERSION, life: self.life, incarnation, flows });
        let resumed: Vec<(FlowId, bool)> =
            self.incoming.iter().map(|(&flow, inflow)| (flow, inflow.is_granted())).collect();
        for (flow, inflow) in &mut self.incoming {
            self.actions.push_back(Action::Send(inflow.resume(*flow)));
        }
        // Behind all subscriptions: the peer takes nothing else before it has them all.
        for (flow, _) in resumed.into_iter().filter(|(_, granted)| *granted) {
            self.actions.push_back(Action::Regrant(flow));
        }
    }

    /// The path is lost.
    pub fn path_down(&mut self) {
        self.path = Path::Down;
        self.turns.clear();
        // The subscriptions of the next path acknowledge everything.
        self.unacknowledged.clear();
        for outflow in self.outgoing.values_mut() {
            outflow.suspend();
        }
        for inflow in self.incoming.values_mut() {
            inflow.suspend();
        }
        // Messages of this path mean nothing on the next one. Events stay: what has arrived has arrived.
        self.actions.retain(|action| !matches!(action, Action::Send(_) | Action::Regrant(_)));
        // The answers of the peer to these will not come, and nothing can arrive on a path that is lost.
        for (flow, run) in std::mem::take(&mut self.closing) {
            self.drained(flow, run);
        }
    }

    /// How many streams this node reads from the peer, and the peer from this node.
    #[must_use]
    pub fn streams(&self) -> (usize, usize) {
        (self.incoming.len() + self.closing.len(), self.outgoing.len())
    }

    /// Keeps the figures of a run until [`Exchange::release_traffic`]; those of other runs are dropped with their last
    /// stream.
    pub fn keep_traffic(&mut self, run: RunId) {
        self.traffic.keep(run);
    }

    /// The figures of a run are not needed any more.
    pub fn release_traffic(&mut self, run: RunId) {
        self.traffic.release(run);
    }

    /// The figures of a run, as far as they are kept.
    #[must_use]
    pub fn traffic(&self, run: RunId) -> Option<RunTraffic> {
        self.traffic.get(run)
    }

    /// The kept figures that have changed since the last call.
    pub fn take_changed_traffic(&mut self) -> Vec<(RunId, RunTraffic)> {
        self.traffic.take_changed()
    }

    /// Whether bytes and messages can pass at present.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.path, Path::Up { .. })
    }

    /// Whether the peer has begun the present path, so that it is known which process it is.
    pub(super) fn has_begun(&self) -> bool {
        matches!(self.path, Path::Resuming { .. } | Path::Up { .. })
    }

    /// Nothing of a flow that this node has unsubscribed is in flight any more.
    pub(super) fn drained(&mut self, flow: FlowId, run: RunId) {
        self.traffic.note(run, |run| run.streams_in -= 1);
        self.event(flow, FlowEvent::Drained);
    }

    /// The peer does not read this flow any more.
    pub(super) fn unsubscribed(&mut self, flow: FlowId, run: RunId) {
        self.traffic.note(run, |run| run.streams_out -= 1);
        self.event(flow, FlowEvent::Unsubscribed);
    }

    pub(super) fn event(&mut self, flow: FlowId, event: FlowEvent) {
        self.actions.push_back(Action::Flow(flow, event));
    }

    pub(super) fn send(&mut self, message: PeerMessage) {
        if self.path != Path::Down {
            self.actions.push_back(Action::Send(message));
        }
    }
}
