//! The streams between this node and one other, over the path that there is.

use crate::chunk::Chunk;
use crate::path::{Path, PathError, PathEvent, PathKind};
use dflow_protocol::exchange::{Action, Exchange, TooManyFlows, Violation};
use dflow_protocol::wire::{FlowId, Grant, PeerMessage, StreamKey};
use dflow_shm::{Landing, Memory};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Writes that are handed out before the link looks again at what has come.
const BATCH: usize = 32;
/// So long the peer waits at most to hear of what it could hardly be waiting for: that a few bytes have arrived. A stream
/// of small messages then costs one message of ours in this time, not one for each of its own.
const CREDIT_DELAY: Duration = Duration::from_millis(1);
/// A path is asked for a sign of life when it has given none for this part of the time after which it is lost.
const ASK_AFTER: u32 = 4;
/// At most this part of that time passes from one look to the next, as far as it counts.
const MOST_UNSEEN: u32 = 4;

/// This node's streams, as a link sees them: where the bytes are that it sends, and where those go that it gets.
pub trait Local {
    /// The peer reads this stream, from this offset on; what there is of it is told with [`Link::available`].
    fn subscribed(&mut self, flow: FlowId, stream: StreamKey, from: u64);

    /// Bytes of a stream that the peer reads, from this offset on and at most so many; fewer if they do not lie in one
    /// piece. `None` if they cannot be had at present: [`Link::available`] says when they can.
    fn chunk(&mut self, flow: FlowId, at: u64, most: u64) -> Option<Chunk>;

    /// The memory in which the next bytes of a stream lie or are going to lie, where that is known and it holds nothing
    /// else. Those that come later are told to the link ([`Link::ready`]).
    fn memory(&mut self, flow: FlowId) -> Option<Arc<Memory>> {
        let _ = flow;
        None
    }

    /// The peer has all bytes below this offset.
    fn release(&mut self, flow: FlowId, upto: u64);

    /// The peer's readers of the stream do not move for now, or do again.
    fn stuck(&mut self, flow: FlowId, stuck: bool);

    /// The peer does not read the stream any more.
    fn unsubscribed(&mut self, flow: FlowId);

    /// Where the bytes of a stream arrive at present.
    fn landing(&mut self, flow: FlowId) -> Option<Arc<Landing>>;

    /// Where they arrive after that, if that was told to the link already ([`Link::window`]).
    fn next_landing(&mut self, flow: FlowId) -> Option<Arc<Landing>> {
        let _ = flow;
        None
    }

    /// All bytes below this offset have arrived.
    fn commit(&mut self, flow: FlowId, upto: u64);

    /// All of the stream has arrived.
    fn ended(&mut self, flow: FlowId, length: u64);

    /// The peer, or the way to it, has given the stream up.
    fn aborted(&mut self, flow: FlowId, reason: &str);

    /// After [`Link::unsubscribe`]: nothing of the stream can arrive any more.
    fn quiet(&mut self, flow: FlowId);
}

/// What has become of a link's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It is dead, and the link waits for another one.
    PathLost(PathError),
    /// The peer broke the protocol; the path was closed.
    Violated(String),
}

/// What has passed over a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of streams that were sent, those that were sent again among them.
    pub sent: u64,
    /// Bytes of streams that arrived, those that arrived again among them.
    pub received: u64,
    /// Messages that were sent.
    pub messages_sent: u64,
    /// Messages that came.
    pub messages_received: u64,
    /// Paths that there have been.
    pub paths: u64,
    /// The number of the last path over which something came ([`Link::connect`]); 0 before the first.
    pub heard_on: u64,
    /// How often the peer broke the protocol.
    pub violations: u64,
}

/// The streams between this node and one other.
pub struct Link {
    exchange: Exchange,
    path: Option<Box<dyn Path>>,
    events: Vec<PathEvent>,
    link_events: Vec<LinkEvent>,
    traffic: Traffic,
    /// The number of the last path.
    incarnation: u64,
    /// For how long nothing has come, as far as this side has looked; and when it looked last.
    quiet: Duration,
    looked: Instant,
    asked: bool,
    ping: u64,
    /// Since when the peer has not been told everything.
    owing: Option<Instant>,
}

impl Link {
    /// Without a path. `life`: a random number that this process has chosen at its start.
    #[must_use]
    pub fn new(life: u64) -> Self {
        Self {
            exchange: Exchange::new(life),
            path: None,
            events: Vec::new(),
            link_events: Vec::new(),
            traffic: Traffic::default(),
            incarnation: 0,
            quiet: Duration::ZERO,
            looked: Instant::now(),
            asked: false,
            ping: 0,
            owing: None,
        }
    }

    /// Uses this path from now on. The one before is closed first. `incarnation`: a number on which both sides agree,
    /// another for each path.
    pub fn connect(&mut self, path: Box<dyn Path>, incarnation: u64) {
        self.disconnect();
        self.path = Some(path);
        self.traffic.paths += 1;
        self.incarnation = incarnation;
        self.has_heard(Instant::now());
        self.exchange.path_up(incarnation);
    }

    /// The number of the last path ([`Link::connect`]); 0 before the first.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Closes the path, if there is one. The flows wait for the next.
    pub fn disconnect(&mut self) {
        // Closed before the state machine is told: nothing lands and nothing is read after that.
        self.path = None;
        self.events.clear();
        self.exchange.path_down();
    }

    /// The peer is gone for good: every flow ends.
    pub fn give_up(&mut self, reason: &str) {
        self.disconnect();
        self.exchange.peer_lost(reason);
    }

    /// What kind of path there is.
    #[must_use]
    pub fn path_kind(&self) -> Option<PathKind> {
        self.path.as_ref().map(|path| path.kind())
    }

    /// Whether bytes pass at present: there is a path, and the peer has said how far it is.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.exchange.is_up()
    }

    /// What has passed so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// What has become of the path since the last call.
    pub fn take_events(&mut self) -> Vec<LinkEvent> {
        std::mem::take(&mut self.link_events)
    }

    /// Reads a stream of the peer's. `until`: so much of it may come before a window is there ([`Link::window`]).
    ///
    /// # Errors
    /// If there are too many flows from this peer.
    pub fn subscribe(&mut self, stream: StreamKey, until: u64) -> Result<FlowId, TooManyFlows> {
        self.exchange.subscribe(stream, until)
    }

    /// Reads the stream no more.
    pub fn unsubscribe(&mut self, flow: FlowId) {
        self.exchange.unsubscribe(flow);
    }

    /// From the landing's base on the flow's bytes arrive there, those below `until` at once.
    pub fn window(&mut self, flow: FlowId, landing: &Arc<Landing>, until: u64) {
        let id = self.exchange.next_grant();
        let mut grant =
            Grant { id, base: landing.base(), size: landing.size(), ring: landing.is_ring(), address: 0, key: 0 };
        match self.path.as_mut().map(|path| path.offer(flow, id, landing)) {
            Some(Ok(remote)) => (grant.address, grant.key) = (remote.address, remote.key),
            Some(Err(error)) => self.lost(error),
            None => {}
        }
        self.exchange.grant(flow, grant, until);
    }

    /// There is room for the flow's bytes below `until`, in the window that it has.
    pub fn room(&mut self, flow: FlowId, until: u64) {
        self.exchange.room(flow, until);
    }

    /// The readers of the flow's stream on this node are stuck, or not any more.
    pub fn stuck(&mut self, flow: FlowId, stuck: bool) {
        self.exchange.stuck(flow, stuck);
    }

    /// Bytes of a stream that the peer reads are going to lie in this memory ([`Path::ready`]).
    pub fn ready(&mut self, memory: &Arc<Memory>) {
        if let Some(path) = &mut self.path {
            path.ready(memory);
        }
    }

    /// The stream of this flow, which the peer reads, has so many bytes.
    pub fn available(&mut self, flow: FlowId, watermark: u64) {
        self.exchange.available(flow, watermark);
    }

    /// The stream of this flow, which the peer reads, is complete.
    pub fn finish(&mut self, flow: FlowId, length: u64) {
        self.exchange.finish(flow, length);
    }

    /// The stream of this flow, which the peer reads, is given up.
    pub fn abort(&mut self, flow: FlowId, reason: &str) {
        self.exchange.abort(flow, reason);
    }

    /// Does what there is to do, without waiting; whether there was something.
    pub fn step(&mut self, local: &mut impl Local) -> bool {
        // First what there is to say: a new path begins with it, and the other side may already have asked for a sign of
        // life.
        let mut busy = self.act(local);
        let mut events = std::mem::take(&mut self.events);
        if let Some(path) = &mut self.path {
            path.poll(&mut events);
        }
        if !events.is_empty() {
            busy = true;
            let now = Instant::now();
            self.has_heard(now);
            // Who never comes to rest has to be told, too.
            self.pay(now);
        }
        for event in events.drain(..) {
            if let Err(error) = self.take_event(event, local) {
                self.lost(error);
                break;
            }
        }
        self.events = events;
        self.events.clear();
        busy |= self.act(local);
        busy |= self.write(local);
        busy
    }

    /// Nothing else is to be done at present, and the caller is about to wait: what the peer could be waiting for is said
    /// now. What can be put off for a little longer is said at the latest in the next call after the time returned, or in
    /// the next [`Link::tick`].
    #[must_use = "who waits longer owes the other side what it may need to go on"]
    pub fn settle(&mut self, local: &mut impl Local) -> Option<Instant> {
        self.exchange.settle();
        if self.exchange.owes_credit() {
            self.pay(Instant::now());
        } else {
            self.owing = None;
        }
        self.act(local);
        if let Some(path) = &mut self.path {
            path.rest();
        }
        self.owing.map(|since| since + CREDIT_DELAY)
    }

    /// Tells the peer what was put off, if that was long enough ago.
    fn pay(&mut self, now: Instant) {
        if !self.exchange.owes_credit() {
            self.owing = None;
        } else if now.saturating_duration_since(*self.owing.get_or_insert(now)) >= CREDIT_DELAY {
            self.exchange.tell_all();
            self.owing = None;
        }
    }

    /// To be called several times within `limit`: a path on which nothing has come for so long is lost. Asks for a sign of
    /// life before. Time in which nobody has looked does not count: this process may have been stopped.
    pub fn tick(&mut self, now: Instant, limit: Duration) {
        self.pay(now);
        self.quiet += now.saturating_duration_since(self.looked).min(limit / MOST_UNSEEN);
        self.looked = now;
        let silence = self.quiet;
        let Some(path) = &mut self.path else { return };
        if silence >= limit {
            let reason = format!("the peer has not been heard of for {silence:.1?}");
            let kind = path.kind();
            self.lost(PathError::Lost { kind, reason });
        } else if silence >= limit / ASK_AFTER && !self.asked {
            self.asked = true;
            self.ping += 1;
            let ping = PeerMessage::Ping(self.ping);
            self.send(&ping);
        }
    }

    fn has_heard(&mut self, now: Instant) {
        (self.quiet, self.looked, self.asked) = (Duration::ZERO, now, false);
    }

    fn take_event(&mut self, event: PathEvent, local: &mut impl Local) -> Result<(), PathError> {
        if matches!(event, PathEvent::Message(_) | PathEvent::Placed { .. }) {
            self.traffic.heard_on = self.incarnation;
        }
        match event {
            PathEvent::Message(message) => {
                self.traffic.messages_received += 1;
                if let PeerMessage::Ping(number) = message {
                    self.send(&PeerMessage::Pong(number));
                    return Ok(());
                }
                self.take_inline(&message, local)?;
                self.exchange.receive(message).map_err(broken)
            }
            PathEvent::Placed { flow, at, length } => {
                self.traffic.received += length;
                self.exchange.placed(flow, at, length).map_err(broken)
            }
            PathEvent::Room => Ok(()),
            PathEvent::Lost(error) => Err(error),
        }
    }

    /// Copies bytes that came inside of a message to their place.
    fn take_inline(&mut self, message: &PeerMessage, local: &mut impl Local) -> Result<(), PathError> {
        let PeerMessage::Inline { flow, at, bytes } = message else { return Ok(()) };
        // Without a landing the flow is over, which the peer does not know yet.
        let Some(landing) = local.landing(*flow) else { return Ok(()) };
        landing.place(*at, bytes)?;
        self.traffic.received += bytes.len() as u64;
        self.exchange.placed(*flow, *at, bytes.len() as u64).map_err(broken)
    }

    /// Carries out what the state machine wants; whether there was something.
    fn act(&mut self, local: &mut impl Local) -> bool {
        let mut busy = false;
        while let Some(action) = self.exchange.next_action() {
            busy = true;
            match action {
                Action::Send(message) => self.send(&message),
                Action::Regrant(flow) => {
                    for landing in [local.landing(flow), local.next_landing(flow)].into_iter().flatten() {
                        self.window(flow, &landing, landing.room().end);
                    }
                }
                Action::Commit { flow, upto } => local.commit(flow, upto),
                Action::Ended { flow, length } => {
                    self.withdraw(flow);
                    local.ended(flow, length);
                }
                Action::Aborted { flow, reason } => {
                    self.withdraw(flow);
                    local.aborted(flow, &reason);
                }
                Action::Quiet { flow } => {
                    self.withdraw(flow);
                    local.quiet(flow);
                }
                Action::Subscribed { flow, stream, from } => {
                    local.subscribed(flow, stream, from);
                    if let Some(memory) = local.memory(flow) {
                        self.ready(&memory);
                    }
                }
                Action::Release { flow, upto } => local.release(flow, upto),
                Action::Stuck { flow, stuck } => local.stuck(flow, stuck),
                Action::Unsubscribed { flow } => {
                    if let Some(path) = &mut self.path {
                        path.finish(flow);
                    }
                    local.unsubscribed(flow);
                }
            }
        }
        busy
    }

    fn write(&mut self, local: &mut impl Local) -> bool {
        let mut busy = false;
        for _ in 0..BATCH {
            let Some(path) = self.path.as_mut().filter(|path| path.has_room()) else { break };
            let Some(order) = self.exchange.next_write() else { break };
            let Some(chunk) = local.chunk(order.flow, order.at, order.most).filter(|chunk| !chunk.is_empty()) else {
                self.exchange.cannot_write(order.flow);
                continue;
            };
            busy = true;
            let length = chunk.len() as u64;
            let sent = if order.grant.is_some() {
                path.write(&order, chunk)
            } else {
                self.traffic.messages_sent += 1;
                path.send(&PeerMessage::Inline { flow: order.flow, at: order.at, bytes: chunk.to_vec() })
            };
            self.traffic.sent += length;
            self.exchange.wrote(order.flow, length);
            if let Err(error) = sent {
                self.lost(error);
            }
        }
        busy
    }

    fn withdraw(&mut self, flow: FlowId) {
        if let Some(path) = &mut self.path {
            path.withdraw(flow);
        }
    }

    fn send(&mut self, message: &PeerMessage) {
        if let Some(path) = &mut self.path {
            self.traffic.messages_sent += 1;
            if let Err(error) = path.send(message) {
                self.lost(error);
            }
        }
    }

    fn lost(&mut self, error: PathError) {
        if self.path.is_none() {
            return;
        }
        self.disconnect();
        if error.is_violation() {
            self.traffic.violations += 1;
            self.link_events.push(LinkEvent::Violated(error.to_string()));
        } else {
            self.link_events.push(LinkEvent::PathLost(error));
        }
    }
}

fn broken(violation: Violation) -> PathError {
    PathError::Protocol(violation.to_string())
}
