//! The link to one other node: its flows, over whichever path there is.
//!
//! The owner of a link drives it: it calls [`Link::step`] while that is busy, then [`Link::settle`], and sleeps. The link calls
//! back into [`Local`] for bytes, windows and events; [`Local`] never calls the link.

use crate::chunk::Chunk;
use crate::path::{Path, PathError, PathEvent, PathKind};
use crate::stats::LinkStats;
use dflow_protocol::RunId;
use dflow_protocol::exchange::{Action, Exchange, FlowEvent, RunTraffic, TooManyFlows, Violation};
use dflow_protocol::wire::{FlowId, Grant, PeerMessage, StreamKey};
use dflow_shm::{Landing, Memory};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most writes in one step, before the link polls the path again.
const BATCH: usize = 32;
/// The maximum delay before small writes are acknowledged. A stream of small messages then costs one acknowledgement in
/// this time instead of one for each message.
const ACK_DELAY: Duration = Duration::from_millis(1);
/// A path that was silent for this fraction of the silence limit is asked for a sign of life.
const PING_FRACTION: u32 = 4;
/// Between two ticks at most this fraction of the silence limit counts as silence.
const TICK_FRACTION: u32 = 4;

/// The local side of the streams: the source of the bytes that are sent, and the windows for those that arrive.
pub trait Local {
    /// At most `most` bytes of an outgoing stream from offset `at` on; fewer if they are not contiguous in memory. `None` if
    /// they are not available at present: call [`Link::available`] when they are.
    fn chunk(&mut self, flow: FlowId, at: u64, most: u64) -> Option<Chunk>;

    /// The memory of the next bytes of an outgoing stream, if that is known and holds nothing else. Announce later ones with
    /// [`Link::ready`].
    fn memory(&mut self, flow: FlowId) -> Option<Arc<Memory>> {
        let _ = flow;
        None
    }

    /// The present window of an incoming stream.
    fn landing(&mut self, flow: FlowId) -> Option<Arc<Landing>>;

    /// The window after that, if it was granted already ([`Link::window`]).
    fn next_landing(&mut self, flow: FlowId) -> Option<Arc<Landing>> {
        let _ = flow;
        None
    }

    /// Something has happened to a flow.
    fn handle(&mut self, flow: FlowId, event: FlowEvent);
}

/// An event of a link's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The path is lost; the link waits for another one.
    PathLost(PathError),
    /// The peer broke the protocol; the path was closed.
    Violated(String),
}

/// The streams between this node and one other.
pub struct Link {
    exchange: Exchange,
    path: Option<Box<dyn Path>>,
    events: Vec<PathEvent>,
    link_events: Vec<LinkEvent>,
    stats: LinkStats,
    /// The number of the last path.
    incarnation: u64,
    /// How long the peer has been silent, counted only while this side was running; and when that was updated last.
    silence: Duration,
    looked: Instant,
    asked: bool,
    ping: u64,
    /// Since when an acknowledgement is delayed.
    delayed_since: Option<Instant>,
}

impl Link {
    /// A link without a path. `life`: a random number that this process chose at its start.
    #[must_use]
    pub fn new(life: u64) -> Self {
        Self {
            exchange: Exchange::new(life),
            path: None,
            events: Vec::new(),
            link_events: Vec::new(),
            stats: LinkStats::default(),
            incarnation: 0,
            silence: Duration::ZERO,
            looked: Instant::now(),
            asked: false,
            ping: 0,
            delayed_since: None,
        }
    }

    /// Uses this path from now on, after closing the one before. `incarnation`: the path's number, the same on both sides
    /// and different for each path.
    pub fn connect(&mut self, path: Box<dyn Path>, incarnation: u64) {
        self.disconnect();
        (self.stats.path, self.stats.last_path) = (Some(path.kind()), Some(path.kind()));
        self.path = Some(path);
        self.stats.paths += 1;
        self.incarnation = incarnation;
        self.heard(Instant::now());
        self.exchange.path_up(incarnation);
    }

    /// The number of the last path ([`Link::connect`]); 0 before the first.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Closes the path, if there is one. The flows wait for the next one.
    pub fn disconnect(&mut self) {
        // The fence: the path is closed before the state machine may reuse windows or resend bytes.
        self.path = None;
        self.stats.path = None;
        self.events.clear();
        self.exchange.path_down();
    }

    /// The kind of the present path.
    #[must_use]
    pub fn path_kind(&self) -> Option<PathKind> {
        self.path.as_ref().map(|path| path.kind())
    }

    /// Whether bytes can pass: there is a path, and the peer has subscribed on it.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.exchange.is_up()
    }

    /// The figures so far. Those of streams count what the other side has not given up yet.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let (streams_in, streams_out) = self.exchange.streams();
        LinkStats { streams_in: streams_in as u64, streams_out: streams_out as u64, ..self.stats }
    }

    /// Keeps the figures of a run, also while none of its streams passes, until [`Link::release_traffic`].
    pub fn keep_traffic(&mut self, run: RunId) {
        self.exchange.keep_traffic(run);
    }

    /// The figures of a run are not needed any more: they are dropped with its last stream.
    pub fn release_traffic(&mut self, run: RunId) {
        self.exchange.release_traffic(run);
    }

    /// What of a run has passed, if it is kept or has streams.
    #[must_use]
    pub fn traffic(&self, run: RunId) -> Option<RunTraffic> {
        self.exchange.traffic(run)
    }

    /// The figures of runs that are kept and have changed since the last call.
    pub fn take_changed_traffic(&mut self) -> Vec<(RunId, RunTraffic)> {
        self.exchange.take_changed_traffic()
    }

    /// The path's events since the last call.
    pub fn take_events(&mut self) -> Vec<LinkEvent> {
        std::mem::take(&mut self.link_events)
    }

    /// Subscribes to a stream of the peer, with credit for bytes below `until` before the first window ([`Link::window`]).
    ///
    /// # Errors
    /// [`TooManyFlows`]
    pub fn subscribe(&mut self, stream: StreamKey, until: u64) -> Result<FlowId, TooManyFlows> {
        self.exchange.subscribe(stream, until)
    }

    /// Unsubscribes. [`FlowEvent::Drained`] follows when nothing of the flow can arrive any more.
    pub fn unsubscribe(&mut self, flow: FlowId) {
        self.exchange.unsubscribe(flow);
    }

    /// Grants a window: the flow's bytes from the landing's base on arrive there, with credit for those below `until`.
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

    /// Extends the credit of a flow to `until`, within the windows that it has.
    pub fn credit(&mut self, flow: FlowId, until: u64) {
        self.exchange.credit(flow, until);
    }

    /// Whether the readers of an incoming flow are stuck.
    pub fn stuck(&mut self, flow: FlowId, stuck: bool) {
        self.exchange.stuck(flow, stuck);
    }

    /// Announces memory of an outgoing stream ([`Path::ready`]).
    pub fn ready(&mut self, memory: &Arc<Memory>) {
        if let Some(path) = &mut self.path {
            path.ready(memory);
        }
    }

    /// The stream of an outgoing flow has this many bytes.
    pub fn available(&mut self, flow: FlowId, watermark: u64) {
        self.exchange.available(flow, watermark);
    }

    /// The stream of an outgoing flow is complete.
    pub fn finish(&mut self, flow: FlowId, length: u64) {
        self.exchange.finish(flow, length);
    }

    /// The stream of an outgoing flow is aborted.
    pub fn abort(&mut self, flow: FlowId, reason: &str) {
        self.exchange.abort(flow, reason);
    }

    /// Does what can be done without waiting. Returns whether there was anything.
    pub fn step(&mut self, local: &mut impl Local) -> bool {
        // Pending messages first: a new path must begin with the subscriptions, even before the answer to a ping.
        let mut busy = self.act(local);
        let mut events = std::mem::take(&mut self.events);
        if let Some(path) = &mut self.path {
            path.poll(&mut events);
        }
        if !events.is_empty() {
            busy = true;
            let now = Instant::now();
            self.heard(now);
            // A busy link never settles, so delayed acknowledgements have to be sent from here as well.
            self.flush_delayed(now);
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

    /// The caller is about to wait: acknowledges what the peer may be waiting for. Returns when delayed acknowledgements are
    /// due; the next call after that time, or the next [`Link::tick`], sends them.
    #[must_use = "the peer may need the delayed acknowledgements to go on"]
    pub fn settle(&mut self, local: &mut impl Local) -> Option<Instant> {
        self.exchange.settle();
        if self.exchange.has_delayed_acks() {
            self.flush_delayed(Instant::now());
        } else {
            self.delayed_since = None;
        }
        self.act(local);
        if let Some(path) = &mut self.path {
            path.rest();
        }
        self.delayed_since.map(|since| since + ACK_DELAY)
    }

    /// Sends delayed acknowledgements that are due.
    fn flush_delayed(&mut self, now: Instant) {
        if !self.exchange.has_delayed_acks() {
            self.delayed_since = None;
        } else if now.saturating_duration_since(*self.delayed_since.get_or_insert(now)) >= ACK_DELAY {
            self.exchange.flush_acks();
            self.delayed_since = None;
        }
    }

    /// Checks liveness; to be called several times within `limit`. A path that is silent for `limit` is lost; a ping is sent
    /// before that. Only time during which this process ran counts: it may have been stopped.
    pub fn tick(&mut self, now: Instant, limit: Duration) {
        self.flush_delayed(now);
        self.silence += now.saturating_duration_since(self.looked).min(limit / TICK_FRACTION);
        self.looked = now;
        let silence = self.silence;
        let Some(path) = &mut self.path else { return };
        if silence >= limit {
            let reason = format!("the peer has been silent for {silence:.1?}");
            let kind = path.kind();
            self.lost(PathError::Lost { kind, reason });
        } else if silence >= limit / PING_FRACTION && !self.asked {
            self.asked = true;
            self.ping += 1;
            let ping = PeerMessage::Ping(self.ping);
            self.send(&ping);
        }
    }

    fn heard(&mut self, now: Instant) {
        (self.silence, self.looked, self.asked) = (Duration::ZERO, now, false);
    }

    fn take_event(&mut self, event: PathEvent, local: &mut impl Local) -> Result<(), PathError> {
        if matches!(event, PathEvent::Message(_) | PathEvent::Placed { .. }) {
            self.stats.heard_on = self.incarnation;
        }
        match event {
            PathEvent::Message(message) => {
                self.stats.messages_received += 1;
                if let PeerMessage::Ping(number) = message {
                    self.send(&PeerMessage::Pong(number));
                    return Ok(());
                }
                self.take_inline(&message, local)?;
                self.exchange.receive(message).map_err(broken)
            }
            PathEvent::Placed { flow, at, length } => {
                self.received(length);
                self.exchange.placed(flow, at, length).map_err(broken)
            }
            PathEvent::Room => Ok(()),
            PathEvent::Lost(error) => Err(error),
        }
    }

    /// Copies bytes that came inside a message into their window.
    fn take_inline(&mut self, message: &PeerMessage, local: &mut impl Local) -> Result<(), PathError> {
        let PeerMessage::Inline { flow, at, bytes } = message else { return Ok(()) };
        // No landing: the flow is over, and the peer does not know yet.
        let Some(landing) = local.landing(*flow) else { return Ok(()) };
        landing.place(*at, bytes)?;
        self.received(bytes.len() as u64);
        self.exchange.placed(*flow, *at, bytes.len() as u64).map_err(broken)
    }

    /// Carries out the actions of the state machine. Returns whether there were any.
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
                Action::Flow(flow, event) => {
                    // Before the event: its receiver may use the window for something else.
                    match &event {
                        FlowEvent::Finished(_) | FlowEvent::Aborted(_) | FlowEvent::Drained => self.withdraw(flow),
                        FlowEvent::Unsubscribed => {
                            if let Some(path) = &mut self.path {
                                path.finish(flow);
                            }
                        }
                        _ => {}
                    }
                    let is_new = matches!(event, FlowEvent::Subscribed { .. });
                    local.handle(flow, event);
                    if is_new && let Some(memory) = local.memory(flow) {
                        self.ready(&memory);
                    }
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
                self.stats.messages_sent += 1;
                path.send(&PeerMessage::Inline { flow: order.flow, at: order.at, bytes: chunk.to_vec() })
            };
            if let Some(bytes) = self.stats.present() {
                bytes.sent += length;
            }
            self.exchange.wrote(order.flow, length);
            if let Err(error) = sent {
                self.lost(error);
            }
        }
        busy
    }

    fn received(&mut self, length: u64) {
        if let Some(bytes) = self.stats.present() {
            bytes.received += length;
        }
    }

    fn withdraw(&mut self, flow: FlowId) {
        if let Some(path) = &mut self.path {
            path.withdraw(flow);
        }
    }

    fn send(&mut self, message: &PeerMessage) {
        if let Some(path) = &mut self.path {
            self.stats.messages_sent += 1;
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
            self.stats.violations += 1;
            self.link_events.push(LinkEvent::Violated(error.to_string()));
        } else {
            self.link_events.push(LinkEvent::PathLost(error));
        }
    }
}

fn broken(violation: Violation) -> PathError {
    PathError::Protocol(violation.to_string())
}
