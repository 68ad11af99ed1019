//! The streams between this node and one other, whatever path connects them.
//!
//! [`Exchange`] is a pure state machine. It is told what the local streams do (bytes written, room for more), what
//! comes from the peer, and which paths there are; it says what to send ([`Action`], [`Exchange::next_write`]) and what
//! has arrived. Both ends run the same machine; each is at once the reading end of some flows and the writing end of
//! others.
//!
//! **Why nothing is lost or doubled.** A path is reliable while it lives: messages come in order, bytes in any order. When
//! it dies, all that was under way on it is forgotten by both ends. The next path begins with the subscriptions anew, each
//! with the offset up to which everything has arrived; the writing end goes on from there, and it still has those bytes,
//! for it lets go of a byte only when told that it has arrived ([`Action::Release`]).
//!
//! **Why a flow cannot harm another.** Each has its own credit, so a slow reader holds back its own stream alone. Writes
//! are handed out in turns, a limited number of bytes each, new flows first, so that a small stream never waits for a
//! large one to end.

mod inflow;
mod outflow;
mod peer;
mod ranges;
mod reading;
mod turns;
mod writing;

use crate::limits::{MAX_FLOWS, PEER_VERSION};
use crate::wire::{FlowId, Grant, PeerMessage, StreamKey};
use inflow::Inflow;
use outflow::Outflow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use turns::Turns;

/// The streams between this node and one other.
#[derive(Debug)]
pub struct Exchange {
    life: u64,
    peer_life: Option<u64>,
    path: Path,
    /// What this node reads from the peer.
    incoming: BTreeMap<FlowId, Inflow>,
    /// Incoming flows of which the peer does not know everything.
    lagging: BTreeSet<FlowId>,
    /// What this node read, and of which something may be under way.
    closing: BTreeSet<FlowId>,
    /// What the peer reads from this node.
    outgoing: BTreeMap<FlowId, Outflow>,
    next_flow: u32,
    next_grant: u32,
    /// The highest number of a flow that the peer's present life has used.
    last_peer_flow: Option<FlowId>,
    turns: Turns,
    actions: VecDeque<Action>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Down,
    /// The peer has not said [`PeerMessage::Begin`].
    Silent {
        incarnation: u64,
    },
    /// So many of the peer's subscriptions are still to come.
    Resuming {
        incarnation: u64,
        left: u32,
    },
    Up {
        incarnation: u64,
    },
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send this to the peer, behind everything sent before.
    Send(PeerMessage),
    /// Incoming: the path is new, and the flow's present window must be granted on it ([`Exchange::grant`]).
    Regrant(FlowId),
    /// Incoming: all bytes below this offset have arrived.
    Commit {
        /// The flow.
        flow: FlowId,
        /// Offset in the stream.
        upto: u64,
    },
    /// Incoming: all of the stream has arrived. The flow is over and quiet.
    Ended {
        /// The flow.
        flow: FlowId,
        /// The stream's length.
        length: u64,
    },
    /// Incoming: after [`Exchange::unsubscribe`], nothing of the flow is under way any more, and its window may be used
    /// for something else.
    Quiet {
        /// The flow.
        flow: FlowId,
    },
    /// Incoming: the stream was given up. The flow is over and quiet.
    Aborted {
        /// The flow.
        flow: FlowId,
        /// Why.
        reason: String,
    },
    /// Outgoing: the peer reads this stream from now on. [`Exchange::available`] tells what there is of it.
    Subscribed {
        /// The flow.
        flow: FlowId,
        /// The stream.
        stream: StreamKey,
        /// The offset from which it is needed.
        from: u64,
    },
    /// Outgoing: bytes below this offset have arrived and are not needed for this flow any more.
    Release {
        /// The flow.
        flow: FlowId,
        /// Offset in the stream.
        upto: u64,
    },
    /// Outgoing: whether the peer's readers are stuck, so that waiting for them does not help.
    Stuck {
        /// The flow.
        flow: FlowId,
        /// Whether they are.
        stuck: bool,
    },
    /// Outgoing: the peer does not read the stream any more. The flow is over.
    Unsubscribed {
        /// The flow.
        flow: FlowId,
    },
}

/// Bytes that may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Of which flow.
    pub flow: FlowId,
    /// Where they go; `None`: with [`PeerMessage::Inline`].
    pub grant: Option<Grant>,
    /// The stream offset of the first of them.
    pub at: u64,
    /// How many they are at most.
    pub most: u64,
}

/// What a peer that keeps to the protocol does not do. The connection is to be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Another version.
    #[error(
        "the peer speaks version {theirs} of the protocol between nodes, this node {ours}; run the same release on both"
    )]
    Version {
        /// Of this node.
        ours: u32,
        /// Of the peer.
        theirs: u32,
    },
    /// A message at the wrong time.
    #[error("the peer sent {message} {when}")]
    Order {
        /// Which message.
        message: &'static str,
        /// When.
        when: &'static str,
    },
    /// A number that is not right.
    #[error("the peer sent {what} for {flow}: {value}, where {expected} was expected")]
    Value {
        /// The flow.
        flow: FlowId,
        /// What it is.
        what: &'static str,
        /// What came.
        value: u64,
        /// What could have come.
        expected: String,
    },
    /// Too much of something.
    #[error("the peer has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
}

/// There are as many flows from this peer as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node reads {MAX_FLOWS} streams from one other already, which is the most")]
pub struct TooManyFlows;

impl Exchange {
    /// Without a path and without flows. `life`: a random number that this process has chosen at its start.
    #[must_use]
    pub fn new(life: u64) -> Self {
        Self {
            life,
            peer_life: None,
            path: Path::Down,
            incoming: BTreeMap::new(),
            lagging: BTreeSet::new(),
            closing: BTreeSet::new(),
            outgoing: BTreeMap::new(),
            next_flow: 1,
            next_grant: 1,
            last_peer_flow: None,
            turns: Turns::default(),
            actions: VecDeque::new(),
        }
    }

    /// What is to be done next.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A new path to the peer. Whatever was under way on the one before must not arrive any more.
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
        for (flow, _) in resumed.into_iter().filter(|(_, granted)| *granted) {
            self.actions.push_back(Action::Regrant(flow));
        }
    }

    /// There is no path to the peer at present.
    pub fn path_down(&mut self) {
        self.path = Path::Down;
        self.turns.clear();
        // The next path begins with everything that the peer should know.
        self.lagging.clear();
        for outflow in self.outgoing.values_mut() {
            outflow.suspend();
        }
        for inflow in self.incoming.values_mut() {
            inflow.suspend();
        }
        self.actions.retain(|action| !matches!(action, Action::Send(_) | Action::Regrant(_)));
        self.actions.extend(std::mem::take(&mut self.closing).into_iter().map(|flow| Action::Quiet { flow }));
    }

    /// The peer is gone for good, or too long: every flow is over.
    pub fn peer_lost(&mut self, reason: &str) {
        self.path_down();
        for (flow, _) in std::mem::take(&mut self.incoming) {
            self.actions.push_back(Action::Aborted { flow, reason: reason.to_owned() });
        }
        for (flow, _) in std::mem::take(&mut self.outgoing) {
            self.actions.push_back(Action::Unsubscribed { flow });
        }
        self.last_peer_flow = None;
        self.peer_life = None;
    }

    /// Whether bytes and messages can pass at present.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.path, Path::Up { .. })
    }

    pub(super) fn send(&mut self, message: PeerMessage) {
        if self.path != Path::Down {
            self.actions.push_back(Action::Send(message));
        }
    }
}
