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
mod ranges;
mod turns;

use crate::limits::{MAX_FLOWS, PEER_VERSION};
use crate::wire::{FlowId, Grant, GrantId, PeerMessage, StreamKey, cut_reason};
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

    // ---- The reading end ----

    /// This node reads a stream of the peer's. Up to `until` bytes of it may come inline.
    ///
    /// # Errors
    /// If there are [`MAX_FLOWS`] flows from this peer already.
    pub fn subscribe(&mut self, stream: StreamKey, until: u64) -> Result<FlowId, TooManyFlows> {
        if self.incoming.len() >= MAX_FLOWS || self.next_flow == u32::MAX {
            return Err(TooManyFlows);
        }
        let flow = FlowId(self.next_flow);
        self.next_flow += 1;
        let mut inflow = Inflow::new(stream, until);
        if self.path != Path::Down {
            let message = inflow.resume(flow);
            self.send(message);
        }
        self.incoming.insert(flow, inflow);
        Ok(flow)
    }

    /// This node reads the stream no more. [`Action::Quiet`] says when nothing of it can arrive any more.
    pub fn unsubscribe(&mut self, flow: FlowId) {
        if let Some(inflow) = self.incoming.remove(&flow) {
            if self.path == Path::Down {
                self.actions.push_back(Action::Quiet { flow });
            } else {
                self.closing.insert(flow);
                self.send(PeerMessage::Close { flow, received: inflow.received() });
            }
        }
    }

    /// A flow is over from which nothing is under way.
    fn forget(&mut self, flow: FlowId) {
        if let Some(inflow) = self.incoming.remove(&flow) {
            self.send(PeerMessage::Close { flow, received: inflow.received() });
        }
    }

    /// A number for the next window.
    pub fn next_grant(&mut self) -> GrantId {
        let id = GrantId(self.next_grant);
        self.next_grant = self.next_grant.wrapping_add(1).max(1);
        id
    }

    /// From `grant.base` on the flow's bytes go into this window, those below `until` at once.
    pub fn grant(&mut self, flow: FlowId, grant: Grant, until: u64) {
        let up = self.path != Path::Down;
        if let Some(inflow) = self.incoming.get_mut(&flow) {
            inflow.granted(grant.size, until);
            if up {
                self.send(PeerMessage::Grant { flow, grant, until });
            }
        }
    }

    /// There is room for the flow's bytes below `until`.
    pub fn room(&mut self, flow: FlowId, until: u64) {
        if let Some(inflow) = self.incoming.get_mut(&flow) {
            inflow.room(until);
            self.credit(flow, false);
        }
    }

    /// The readers of the flow's stream are stuck, or not any more.
    pub fn stuck(&mut self, flow: FlowId, stuck: bool) {
        if self.path != Path::Down && self.incoming.get_mut(&flow).is_some_and(|inflow| inflow.set_stuck(stuck)) {
            self.send(PeerMessage::Stuck { flow, stuck });
        }
    }

    /// Bytes of a flow have arrived in its window. Bytes of a flow that is over are of no interest.
    ///
    /// # Errors
    /// If they are where none may arrive.
    pub fn placed(&mut self, flow: FlowId, at: u64, length: u64) -> Result<(), Violation> {
        let Some(inflow) = self.incoming.get_mut(&flow) else { return Ok(()) };
        let before = inflow.received();
        inflow.placed(flow, at, length)?;
        let upto = inflow.received();
        if upto > before {
            self.actions.push_back(Action::Commit { flow, upto });
            self.arrived(flow);
        }
        Ok(())
    }

    /// Nothing else is to be done at present: what could be put off is said now.
    pub fn settle(&mut self) {
        if self.path == Path::Down {
            return;
        }
        for flow in std::mem::take(&mut self.lagging) {
            self.credit(flow, true);
        }
    }

    // ---- The writing end ----

    /// The stream of this flow has `watermark` bytes.
    pub fn available(&mut self, flow: FlowId, watermark: u64) {
        if let Some(outflow) = self.outgoing.get_mut(&flow) {
            outflow.available(watermark);
            self.enlist(flow);
        }
    }

    /// The stream of this flow is complete.
    pub fn finish(&mut self, flow: FlowId, length: u64) {
        if let Some(outflow) = self.outgoing.get_mut(&flow) {
            outflow.finish(length);
            self.tell_end(flow);
            self.enlist(flow);
        }
    }

    /// The stream of this flow is given up.
    pub fn abort(&mut self, flow: FlowId, reason: &str) {
        if let Some(outflow) = self.outgoing.get_mut(&flow) {
            outflow.abort(cut_reason(reason));
            self.tell_end(flow);
        }
    }

    /// Bytes that may be sent now; [`Exchange::wrote`] or [`Exchange::cannot_write`] must follow.
    pub fn next_write(&mut self) -> Option<Order> {
        while let Some(flow) = self.turns.next() {
            if let Some(order) = self.outgoing.get_mut(&flow).and_then(|outflow| outflow.order(flow)) {
                return Some(order);
            }
            self.turns.done(flow);
        }
        None
    }

    /// The first `length` bytes of the last order are on their way.
    pub fn wrote(&mut self, flow: FlowId, length: u64) {
        let Some(outflow) = self.outgoing.get_mut(&flow) else { return };
        outflow.wrote(length);
        if outflow.order(flow).is_some() {
            self.turns.served(flow, length);
        } else {
            self.turns.done(flow);
        }
    }

    /// The bytes of the last order cannot be had at present; [`Exchange::available`] says when they can.
    pub fn cannot_write(&mut self, flow: FlowId) {
        self.turns.done(flow);
    }

    // ---- The peer ----

    /// A message has come.
    ///
    /// # Errors
    /// If a peer that keeps to the protocol would not have sent it.
    pub fn receive(&mut self, message: PeerMessage) -> Result<(), Violation> {
        let name = name(&message);
        match (&self.path, &message) {
            (Path::Down, _) => return Ok(()),
            (Path::Silent { .. }, PeerMessage::Begin { .. })
            | (Path::Resuming { .. }, PeerMessage::Subscribe { .. }) => {}
            (Path::Silent { .. }, _) => return Err(Violation::Order { message: name, when: "before it began" }),
            (Path::Resuming { .. }, _) => {
                return Err(Violation::Order { message: name, when: "before all its subscriptions" });
            }
            (Path::Up { .. }, _) => {}
        }
        match message {
            PeerMessage::Begin { version, life, incarnation, flows } => self.begin(version, life, incarnation, flows),
            PeerMessage::Subscribe { flow, stream, received, until } => {
                self.peer_subscribes(flow, stream, received, until)
            }
            PeerMessage::Close { flow, received } => {
                if let Some(mut outflow) = self.known(flow)? {
                    let released = outflow.acknowledge(flow, received);
                    self.actions.push_back(Action::Unsubscribed { flow });
                    released?;
                }
                self.turns.done(flow);
                self.send(PeerMessage::Closed { flow });
                Ok(())
            }
            PeerMessage::Closed { flow } => {
                if self.closing.remove(&flow) {
                    self.actions.push_back(Action::Quiet { flow });
                }
                Ok(())
            }
            PeerMessage::Credit { flow, received, until } => self.with_outflow(flow, |outflow, actions| {
                if let Some(upto) = outflow.acknowledge(flow, received)? {
                    actions.push_back(Action::Release { flow, upto });
                }
                outflow.credit(flow, until)
            }),
            PeerMessage::Grant { flow, grant, until } => self.with_outflow(flow, |outflow, _| {
                outflow.grant(flow, grant)?;
                outflow.credit(flow, until)
            }),
            PeerMessage::Stuck { flow, stuck } => self.with_outflow(flow, |_, actions| {
                actions.push_back(Action::Stuck { flow, stuck });
                Ok(())
            }),
            // The bytes themselves are the caller's to copy, who then says `placed`.
            PeerMessage::Inline { .. } | PeerMessage::Ping(_) | PeerMessage::Pong(_) => Ok(()),
            PeerMessage::Finished { flow, length } => {
                if let Some(inflow) = self.incoming.get_mut(&flow) {
                    inflow.finish(flow, length)?;
                    self.arrived(flow);
                }
                Ok(())
            }
            PeerMessage::Aborted { flow, reason } => {
                if self.incoming.contains_key(&flow) {
                    self.actions.push_back(Action::Aborted { flow, reason });
                    self.forget(flow);
                }
                Ok(())
            }
        }
    }

    fn begin(&mut self, version: u32, life: u64, theirs: u64, flows: u32) -> Result<(), Violation> {
        let Path::Silent { incarnation } = self.path else {
            return Err(Violation::Order { message: "a beginning", when: "in the middle of a path" });
        };
        if version != PEER_VERSION {
            return Err(Violation::Version { ours: PEER_VERSION, theirs: version });
        }
        if theirs != incarnation {
            return Err(Violation::Order { message: "the beginning of another path", when: "on this one" });
        }
        if flows as usize > MAX_FLOWS {
            return Err(Violation::TooMany { what: "flows", limit: MAX_FLOWS });
        }
        if self.peer_life.replace(life).is_some_and(|before| before != life) {
            // What the peer's process knew is gone with it. Its new life gets our subscriptions, but not the streams.
            self.last_peer_flow = None;
            for (flow, _) in std::mem::take(&mut self.outgoing) {
                self.actions.push_back(Action::Unsubscribed { flow });
            }
            for flow in self.incoming.keys().copied().collect::<Vec<_>>() {
                let reason = "the node that has it was restarted".to_owned();
                self.actions.push_back(Action::Aborted { flow, reason });
                self.forget(flow);
            }
        }
        self.path = Path::Resuming { incarnation, left: flows };
        self.resumed(0);
        Ok(())
    }

    fn peer_subscribes(&mut self, flow: FlowId, stream: StreamKey, received: u64, until: u64) -> Result<(), Violation> {
        if let Some(outflow) = self.outgoing.get_mut(&flow) {
            if let Some(upto) = outflow.resume(flow, stream, received, until)? {
                self.actions.push_back(Action::Release { flow, upto });
            }
        } else {
            if self.last_peer_flow.is_some_and(|last| flow <= last) {
                let expected = "a number that it has not used before".to_owned();
                return Err(Violation::Value { flow, what: "a subscription", value: flow.0.into(), expected });
            }
            if self.outgoing.len() >= MAX_FLOWS {
                return Err(Violation::TooMany { what: "flows", limit: MAX_FLOWS });
            }
            self.last_peer_flow = Some(flow);
            self.outgoing.insert(flow, Outflow::new(stream, received, until));
            self.actions.push_back(Action::Subscribed { flow, stream, from: received });
        }
        self.tell_end(flow);
        self.enlist(flow);
        self.resumed(1);
        Ok(())
    }

    /// So many more of the peer's subscriptions have come; after the last one, those that it no longer has are over.
    fn resumed(&mut self, more: u32) {
        let Path::Resuming { incarnation, left } = self.path else { return };
        let left = left.saturating_sub(more);
        self.path = Path::Resuming { incarnation, left };
        if left > 0 {
            return;
        }
        self.path = Path::Up { incarnation };
        let over: Vec<FlowId> =
            self.outgoing.iter().filter(|(_, outflow)| !outflow.is_resumed()).map(|(&flow, _)| flow).collect();
        for flow in over {
            self.outgoing.remove(&flow);
            self.actions.push_back(Action::Unsubscribed { flow });
        }
    }

    /// Takes out an outgoing flow; `None` if it is over already, as it may be while messages cross.
    fn known(&mut self, flow: FlowId) -> Result<Option<Outflow>, Violation> {
        self.check_number(flow)?;
        Ok(self.outgoing.remove(&flow))
    }

    fn with_outflow(
        &mut self,
        flow: FlowId,
        change: impl FnOnce(&mut Outflow, &mut VecDeque<Action>) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        self.check_number(flow)?;
        if let Some(outflow) = self.outgoing.get_mut(&flow) {
            change(outflow, &mut self.actions)?;
            self.enlist(flow);
        }
        Ok(())
    }

    fn check_number(&self, flow: FlowId) -> Result<(), Violation> {
        if self.last_peer_flow.is_some_and(|last| flow <= last) {
            return Ok(());
        }
        let expected = "one that it has subscribed".to_owned();
        Err(Violation::Value { flow, what: "a message", value: flow.0.into(), expected })
    }

    /// Bytes or the end of an incoming flow have come.
    fn arrived(&mut self, flow: FlowId) {
        let Some(inflow) = self.incoming.get(&flow) else { return };
        if let Some(length) = inflow.is_complete() {
            self.actions.push_back(Action::Ended { flow, length });
            self.forget(flow);
        } else {
            self.credit(flow, false);
        }
    }

    /// Tells the writing end how far a flow is, if it is worth a message; `now`: whatever it is worth.
    fn credit(&mut self, flow: FlowId, now: bool) {
        if self.path == Path::Down {
            return;
        }
        let Some(inflow) = self.incoming.get_mut(&flow) else { return };
        if let Some(message) = inflow.credit(flow, now) {
            self.lagging.remove(&flow);
            self.send(message);
        } else if inflow.has_news() {
            self.lagging.insert(flow);
        }
    }

    fn tell_end(&mut self, flow: FlowId) {
        if let Some(message) = self.outgoing.get_mut(&flow).and_then(|outflow| outflow.end(flow)) {
            self.send(message);
        }
    }

    /// An outgoing flow may have something to send.
    fn enlist(&mut self, flow: FlowId) {
        if let Some(order) = self.outgoing.get(&flow).and_then(|outflow| outflow.order(flow)) {
            self.turns.add(flow, order.at);
        }
    }

    fn send(&mut self, message: PeerMessage) {
        if self.path != Path::Down {
            self.actions.push_back(Action::Send(message));
        }
    }
}

fn name(message: &PeerMessage) -> &'static str {
    match message {
        PeerMessage::Begin { .. } => "a beginning",
        PeerMessage::Subscribe { .. } => "a subscription",
        PeerMessage::Close { .. } => "the end of a subscription",
        PeerMessage::Closed { .. } => "the answer to the end of a subscription",
        PeerMessage::Credit { .. } => "credit",
        PeerMessage::Grant { .. } => "a grant",
        PeerMessage::Stuck { .. } => "a note on its readers",
        PeerMessage::Inline { .. } => "bytes",
        PeerMessage::Finished { .. } => "the end of a stream",
        PeerMessage::Aborted { .. } => "the failure of a stream",
        PeerMessage::Ping(_) | PeerMessage::Pong(_) => "a sign of life",
    }
}
