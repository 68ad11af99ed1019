//! A path: one queue pair with its buffers and credit.

use super::arrivals::Arrivals;
use super::credit::{Credit, SPENT_SHARE};
use super::device::RdmaDevice;
use super::endpoint::Hello;
use super::fence::Fenced;
use super::flight::Flight;
use super::inbox::{BATCH, Inbox};
use super::outbox::{Header, Outbox};
use super::sequence::{Sequence, Unexpected, immediate};
use super::sources::Sources;
use super::watch::Watched;
use super::{MAX_DEPTH, MAX_INLINE_REQUEST, MIN_DEPTH, RdmaConfig, RdmaError};
use crate::chunk::Chunk;
use crate::path::{Path, PathError, PathEvent, PathKind, RemoteWindow};
use dflow_protocol::exchange::Order;
use dflow_protocol::wire::{FlowId, GrantId, PeerMessage};
use dflow_shm::{Idle, Landing, Memory};
use dflow_verbs::{
    Completion, CompletionQueue, Data, Operation, ProtectionDomain, QueuePair, QueuePairConfig, RemoteKey,
    RemoteMemory, SendOperation, SendRequest, Status,
};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

/// This fraction of the send queue, at least two slots, is reserved for messages.
const MESSAGE_SHARE: usize = 8;
/// The most completions that are taken in one turn.
const TURN: usize = 8 * BATCH;
/// After this long without activity, delayed work is done even by a path that never sleeps. Longer than a round trip: otherwise
/// a ping-pong of chunks would cost a message for each.
const QUIET: Duration = Duration::from_millis(1);
/// The clock is read once in this many polls: reading it costs as much as a poll.
const LOOKS: u32 = 16;

/// An end that is ready to be connected: its receives are posted.
#[derive(Debug)]
pub struct Prepared {
    path: RdmaPath,
    config: RdmaConfig,
}

/// One end of a connection over RDMA.
#[derive(Debug)]
pub struct RdmaPath {
    // Dropped first: once the queue pair is closed, nothing lands and nothing is read.
    pair: Fenced,
    watched: Watched,
    completions: CompletionQueue,
    arrivals: Arrivals,
    sources: Sources,
    inbox: Inbox,
    outbox: Outbox,
    domain: ProtectionDomain,
    credit: Credit,
    came: Sequence,
    /// Consumed receives that were not reposted, and how many of them are worth a call.
    spent: Vec<u64>,
    worth: usize,
    flight: Flight,
    /// Bytes that may be in flight.
    limit: u64,
    /// Slots of the send queue that data leaves free.
    reserve: usize,
    /// Events that were found while going to rest.
    found: Vec<PathEvent>,
    had_room: bool,
    idle: Idle,
    /// There was activity since the last [`Path::rest`].
    moved: bool,
    /// The number of polls without activity, since when, and for how long, as of the last reading of the clock.
    looks: u32,
    since: Option<Instant>,
    silence: Duration,
    lost: Option<PathError>,
    _device: RdmaDevice,
}

impl RdmaPath {
    /// Prepares an end. `waker` is called when [`Path::poll`] has events after [`Path::rest`].
    ///
    /// # Errors
    /// If a depth is out of range, or if the device has no more room for queues or memory.
    pub fn prepare(device: &RdmaDevice, config: &RdmaConfig, waker: Waker) -> Result<Prepared, RdmaError> {
        for (what, value) in [("send queue", config.send_depth), ("receive queue", config.receive_depth)] {
            if !(MIN_DEPTH..=MAX_DEPTH).contains(&value) {
                return Err(RdmaError::Depth { what, value });
            }
        }
        let context = device.context();
        let domain = ProtectionDomain::new(context)?;
        let completions = CompletionQueue::new(context, config.send_depth + config.receive_depth, true)?;
        let pair = Fenced::new(QueuePair::new(
            &domain,
            &completions,
            &completions,
            &QueuePairConfig {
                port: device.port(),
                gid: device.gid().clone(),
                send_depth: config.send_depth,
                receive_depth: config.receive_depth,
                inline: config.inline.min(MAX_INLINE_REQUEST),
                remote_write: true,
                remote_read: false,
            },
        )?);
        let watched =
            device.watch().add(&completions, pair.number(), waker).map_err(|error| RdmaError::Events(error.into()))?;
        let inbox = Inbox::new(&domain, &pair, config.receive_depth)?;
        let outbox = Outbox::new(&domain, config.send_depth)?;
        let depth = config.send_depth as usize;
        let path = Self {
            pair,
            watched,
            completions,
            arrivals: Arrivals::default(),
            sources: Sources::new(),
            inbox,
            outbox,
            domain,
            // The peer's receives are known once it is connected.
            credit: Credit::new(config.receive_depth, MIN_DEPTH),
            came: Sequence::default(),
            spent: Vec::with_capacity(config.receive_depth as usize),
            worth: (config.receive_depth / SPENT_SHARE).max(1) as usize,
            flight: Flight::new(depth, config.in_flight),
            limit: config.in_flight.max(1),
            reserve: (depth / MESSAGE_SHARE).max(2),
            found: Vec::new(),
            had_room: true,
            idle: config.idle,
            moved: true,
            looks: 0,
            since: None,
            silence: Duration::ZERO,
            lost: None,
            _device: device.clone(),
        };
        Ok(Prepared { path, config: *config })
    }

    /// Moves its queue pair to the error state, as a failing device does, so that a test can see what follows.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn fail_queue_pair(&self) -> Result<(), RdmaError> {
        Ok(self.pair.fail()?)
    }

    /// The number of regions that were registered only when their first chunk was sent, because [`Path::ready`] had not
    /// announced them in time.
    #[must_use]
    pub fn registered_late(&self) -> u64 {
        self.sources.late()
    }
}

impl Prepared {
    /// What the peer needs to connect to this end, less than 64 bytes.
    #[must_use]
    pub fn endpoint(&self) -> Vec<u8> {
        Hello { receives: self.config.receive_depth, endpoint: self.path.pair.endpoint() }.to_bytes()
    }

    /// Connects to the peer's end. The peer must do the same within the time of the retries ([`RdmaConfig::connection`]): what
    /// is sent before is retransmitted.
    ///
    /// # Errors
    /// If the peer's endpoint is malformed, of another version, or cannot be reached.
    pub fn connect(mut self, peer: &[u8]) -> Result<RdmaPath, RdmaError> {
        let peer = Hello::from_bytes(peer)?;
        self.path.credit = Credit::new(self.config.receive_depth, peer.receives);
        self.path.pair.connect(&peer.endpoint, &self.config.connection)?;
        Ok(self.path)
    }
}

impl Path for RdmaPath {
    fn kind(&self) -> PathKind {
        PathKind::Rdma
    }

    fn send(&mut self, message: &PeerMessage) -> Result<(), PathError> {
        self.check()?;
        let message = message.encode()?;
        if self.outbox.is_empty() && self.takes_message() {
            self.post(&message)?;
        } else if !self.outbox.push(message) {
            return Err(self.dead("too many messages wait for the peer, which takes none"));
        }
        self.had_room = self.has_room();
        Ok(())
    }

    fn offer(&mut self, flow: FlowId, grant: GrantId, landing: &Arc<Landing>) -> Result<RemoteWindow, PathError> {
        self.check()?;
        if self.arrivals.has(grant) {
            return Err(self.dead("it has counted once around the numbers of its windows"));
        }
        let resource = |error: dflow_verbs::MemoryError| PathError::Resource(error.to_string());
        self.arrivals.offer(&self.domain, flow, grant, landing).map_err(resource)
    }

    fn withdraw(&mut self, flow: FlowId) {
        self.arrivals.withdraw(flow);
    }

    fn ready(&mut self, memory: &Arc<Memory>) {
        self.sources.expect(memory);
    }

    fn has_room(&self) -> bool {
        self.lost.is_none()
            && self.outbox.is_empty()
            && self.flight.free() > self.reserve
            && self.flight.bytes() < self.limit
            && self.credit.takes_data()
    }

    fn write(&mut self, order: &Order, chunk: Chunk) -> Result<(), PathError> {
        self.check()?;
        if !self.has_room() {
            return Err(self.dead("bytes were to be sent for which there is no room yet"));
        }
        let Some(grant) = &order.grant else {
            return Err(self.dead("bytes were to be sent without a window for them"));
        };
        let resource = |error: dflow_verbs::MemoryError| PathError::Resource(error.to_string());
        let (region, start) = self.sources.region(&self.domain, &chunk).map_err(resource)?;
        let posted = region.slice(start..start + chunk.len()).and_then(|slice| {
            let place = RemoteMemory { address: grant.address_of(order.at), key: RemoteKey::from_number(grant.key) };
            let inline = chunk.len() <= self.pair.max_inline();
            let (id, signaled) = self.flight.push(chunk.len() as u64);
            let number = self.credit.spend();
            self.moved = true;
            self.pair.post(&[SendRequest {
                id,
                operation: SendOperation::WriteWithImmediate(place, immediate(grant.id, number)),
                data: if inline { Data::InlineMemory(slice) } else { Data::Memory(slice) },
                signaled,
            }])
        });
        posted.map_err(|error| self.dead(&error.to_string()))?;
        self.had_room = self.has_room();
        Ok(())
    }

    fn finish(&mut self, _: FlowId) {}

    fn poll(&mut self, events: &mut Vec<PathEvent>) {
        events.append(&mut self.found);
        if self.lost.is_none()
            && let Err(error) = self.advance(events)
        {
            return self.lose(error, events);
        }
        self.sources.prepare(&self.domain);
    }

    fn rest(&mut self) {
        if self.lost.is_some() {
            return;
        }
        if self.sources.is_behind() {
            self.watched.wake();
        }
        self.listen();
        if self.silence >= QUIET.min(self.idle.spin) {
            self.flight.rest();
            self.sources.rest();
        }
        if self.idle == Idle::SPIN || self.silence < self.idle.spin {
            return self.watched.wake();
        }
        let mut found = std::mem::take(&mut self.found);
        let left = self.settle(&mut found).unwrap_or_else(|error| {
            self.lose(error, &mut found);
            false
        });
        if left || !found.is_empty() {
            self.watched.wake();
        }
        self.found = found;
    }
}

impl RdmaPath {
    fn dead(&self, reason: &str) -> PathError {
        PathError::Lost { kind: PathKind::Rdma, reason: reason.to_owned() }
    }

    fn check(&self) -> Result<(), PathError> {
        self.lost.clone().map_or(Ok(()), Err)
    }

    fn lose(&mut self, error: PathError, events: &mut Vec<PathEvent>) {
        self.lost = Some(error.clone());
        events.push(PathEvent::Lost(error));
    }

    /// Updates the time without activity.
    fn listen(&mut self) {
        if std::mem::take(&mut self.moved) {
            (self.looks, self.since, self.silence) = (0, None, Duration::ZERO);
        }
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(LOOKS) && !self.idle.spin.is_zero() {
            let now = Instant::now();
            self.silence = now.saturating_duration_since(*self.since.get_or_insert(now));
        }
    }

    /// Arms the wake-up and polls once more, because earlier completions wake nobody. Returns whether there was anything.
    fn settle(&mut self, found: &mut Vec<PathEvent>) -> Result<bool, PathError> {
        self.watched.arm().map_err(|error| self.dead(&error.to_string()))?;
        let left = self.advance(found)?;
        // The next poll may be far away.
        self.post_receives()?;
        self.flush()?;
        Ok(left)
    }

    /// Takes completions and continues with queued messages. Returns whether there may be more completions.
    fn advance(&mut self, events: &mut Vec<PathEvent>) -> Result<bool, PathError> {
        if let Some(error) = self.watched.failure() {
            return Err(error.clone());
        }
        // Before reposting receives: what has arrived is more urgent.
        if self.spent.len() >= self.worth {
            self.post_receives()?;
        }
        let mut left = true;
        let mut done = [Completion::default(); BATCH];
        for _ in 0..TURN / BATCH {
            let count = self.completions.poll(&mut done).map_err(|error| self.dead(&error.to_string()))?;
            self.moved |= count > 0;
            let done = &done[..count];
            for completion in done {
                if completion.status != Status::Success {
                    return Err(self.failed(completion));
                }
                match completion.operation {
                    Operation::Receive => {
                        self.spent.push(completion.id);
                        events.extend(self.received(completion)?);
                    }
                    _ => self.flight.complete(completion.id),
                }
            }
            if count < BATCH {
                left = false;
                break;
            }
        }
        self.flush()?;
        let room = self.has_room();
        if room && !self.had_room {
            events.push(PathEvent::Room);
        }
        self.had_room = room;
        Ok(left)
    }

    /// Reposts consumed receives.
    fn post_receives(&mut self) -> Result<(), PathError> {
        for slots in self.spent.chunks(BATCH) {
            let posted = self.inbox.post(&self.pair, slots.iter().copied());
            self.credit.post(posted.map_err(|error| self.dead(&error.to_string()))?);
        }
        self.spent.clear();
        Ok(())
    }

    fn received(&mut self, completion: &Completion) -> Result<Option<PathEvent>, PathError> {
        // An empty message is never sent.
        if completion.bytes == 0 {
            return Err(self.unexpected(Unexpected));
        }
        if let Some(immediate) = completion.immediate {
            let length = u64::from(completion.bytes);
            let mark = self.came.write(immediate).map_err(|wrong| self.unexpected(wrong))?;
            let (flow, at) = self.arrivals.came(mark, length)?;
            return Ok(Some(PathEvent::Placed { flow, at, length }));
        }
        let (head, message) = self.inbox.read(completion)?;
        self.came.message(head.number).map_err(|wrong| self.unexpected(wrong))?;
        let impossible = |_| PathError::Protocol("more receives than there can be".to_owned());
        self.credit.hear(head.posted).map_err(impossible)?;
        if let Some(PeerMessage::Inline { flow, at, bytes }) = &message {
            self.arrivals.came_inline(*flow, at.saturating_add(bytes.len() as u64));
        }
        Ok(message.map(PathEvent::Message))
    }

    fn unexpected(&self, _: Unexpected) -> PathError {
        self.dead(
            "what came does not follow what came before it: a device has repeated what it had delivered, as soft-RoCE does \
             on a machine that is too busy to acknowledge in time, or has lost something",
        )
    }

    /// Why a request has failed.
    fn failed(&self, completion: &Completion) -> PathError {
        match (completion.operation, completion.status) {
            // A flushed request only says that an earlier one failed. If that was the peer's doing, the device reports it by an
            // event, if at all ([`super`]).
            (_, Status::Flushed) => {
                self.watched.failure_by_now().cloned().unwrap_or_else(|| self.dead("its queue pair was ended"))
            }
            (Operation::Receive, status @ (Status::LocalLength | Status::LocalAccess | Status::RemoteAccess)) => {
                PathError::Protocol(status.to_string())
            }
            (_, status) => self.dead(&status.to_string()),
        }
    }

    fn takes_message(&self) -> bool {
        self.flight.free() > 1 && self.credit.takes_message()
    }

    /// Sends queued messages as far as there is room, and announces reposted receives if no message does.
    fn flush(&mut self) -> Result<(), PathError> {
        while self.takes_message() {
            let Some(message) = self.outbox.pop() else { break };
            self.post(&message)?;
        }
        if self.credit.is_worth_telling() && self.flight.free() > 0 {
            self.post(&[])?;
        }
        Ok(())
    }

    fn post(&mut self, message: &[u8]) -> Result<(), PathError> {
        let slot = self.flight.slot();
        let request = self.flight.push(0);
        let number = self.credit.spend();
        self.moved = true;
        let head = Header { posted: self.credit.tell(), number };
        self.outbox.post(&self.pair, request, slot, head, message).map_err(|error| self.dead(&error.to_string()))
    }
}
