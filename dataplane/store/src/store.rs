//! The store: streams come and go.

use crate::ProcessId;
use crate::backend::{Backend, Completion, Outcome};
use crate::memory::Budget;
use crate::process::{Arena, Process};
use crate::stream::{PieceState, Place, Stream, Subscriber, SubscriberState};
use dflow_disk::DiskError;
use dflow_protocol::limits::{ARENA_SLOT, MIN_WINDOW};
use dflow_protocol::message::ToFunction;
use dflow_protocol::{PortId, StreamId};
use dflow_shm::{Bells, SegmentError};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How much the store may use, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// The memory budget in bytes, at least [`Config::MIN_MEMORY`].
    pub memory: u64,
    /// The window of a stream whose readers keep up, in bytes; rounded up to a power of two.
    pub window: u64,
}

impl Config {
    /// The smallest budget: one window, one arena slot, and as much again on its way to disk.
    pub const MIN_MEMORY: u64 = 4 * MIN_WINDOW;
    /// The usual window. Twice a core's own cache is better than once: what the producer writes next has then left the
    /// reader's cache, and a shared cache hands it over faster than the other core takes it back.
    pub const WINDOW: u64 = 2 << 20;

    /// Whether a store can work with this.
    ///
    /// # Errors
    /// If the budget is smaller than [`Config::MIN_MEMORY`].
    pub fn check(&self) -> Result<(), StoreError> {
        if self.memory < Self::MIN_MEMORY {
            return Err(StoreError::Limit(format!(
                "a memory budget of {} bytes is too small for streams: {} bytes (256 KiB) is the least, 64 MiB a sensible one",
                self.memory,
                Self::MIN_MEMORY
            )));
        }
        Ok(())
    }
}

/// DStore on one node.
pub struct Store {
    pub(crate) config: Config,
    pub(crate) budget: Budget,
    pub(crate) backend: Box<dyn Backend>,
    /// The latest time that the store was told.
    pub(crate) now: Duration,
    /// Bytes on their way to disk.
    pub(crate) spilling: u64,
    /// Bytes that wait to be hashed.
    pub(crate) hashing: u64,
    /// Streams for which a window is being backed.
    pub(crate) backing: BTreeSet<StreamId>,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    pub(crate) processes: BTreeMap<ProcessId, Process>,
    pub(crate) outgoing: Vec<Outgoing>,
    pub(crate) events: Vec<StoreEvent>,
    /// Why the last window could not be written to disk.
    pub(crate) disk_full: Option<String>,
    /// Since when nothing has moved although somebody waits for memory and the disk is full.
    stalled: Option<(u64, Duration)>,
    pub(crate) spilled: u64,
    /// The arenas of live processes; pieces keep those of others.
    pub(crate) arenas: BTreeMap<ProcessId, Arc<Arena>>,
    pub(crate) bells: Bells,
    pub(crate) free_bells: Vec<u32>,
    pub(crate) next_bell: u32,
}

/// A message to an attempt, in the order in which it must be queued.
#[derive(Debug)]
pub struct Outgoing {
    /// Whom it is for.
    pub process: ProcessId,
    /// The attempt's bell, to be rung when the message is queued.
    pub bell: u32,
    /// What it says.
    pub message: ToFunction,
    /// A descriptor that goes with it.
    pub fd: Option<OwnedFd>,
}

/// What has happened, for the scheduler and the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// The program is ready for its gate.
    Ready(ProcessId),
    /// A stream has its first bytes.
    FirstBytes(StreamId),
    /// A stream is complete.
    Finished(StreamId, u64),
    /// The attempt that continues a stream does not write what the one before has written, as it says here.
    Diverged(StreamId, String),
    /// The attempt wants one more part of this output.
    PartWanted(ProcessId, u32),
    /// The attempt sleeps; [`Store::is_waiting`] tells when it no longer does.
    Parked(ProcessId),
    /// The function has ended: well, or with a reason; `true` if it ended because nobody reads its outputs.
    Ended(ProcessId, Result<(), (String, bool)>),
    /// The attempt has said or written what cannot be.
    Misbehaved(ProcessId, String),
    /// The run cannot go on.
    Failed(String),
}

/// Why the store cannot do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Shared memory.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The spill directory.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A descriptor cannot be duplicated.
    #[error("cannot hand over a descriptor: {0}; if there are too many, raise the limit with 'ulimit -n'")]
    Descriptor(Errno),
    /// A thread.
    #[error("cannot start the {name} thread: {source}")]
    Thread {
        /// What it would do.
        name: &'static str,
        /// Why there is none.
        source: std::io::Error,
    },
    /// Too many of something.
    #[error("{0}")]
    Limit(String),
}

impl Store {
    /// An empty store.
    ///
    /// # Errors
    /// If the budget is too small ([`Config::check`]), or there is no memory for the page of bells.
    pub fn new(config: Config, backend: Box<dyn Backend>) -> Result<Self, StoreError> {
        config.check()?;
        Ok(Self {
            budget: Budget::new(config.memory),
            config,
            backend,
            now: Duration::ZERO,
            spilling: 0,
            hashing: 0,
            backing: BTreeSet::new(),
            streams: BTreeMap::new(),
            processes: BTreeMap::new(),
            outgoing: Vec::new(),
            events: Vec::new(),
            disk_full: None,
            stalled: None,
            spilled: 0,
            arenas: BTreeMap::new(),
            bells: Bells::create()?,
            free_bells: Vec::new(),
            next_bell: 1,
        })
    }

    /// A job that the backend was given is done, or has failed.
    ///
    /// # Errors
    /// If a producer or reader that waited for it could then not be served.
    pub fn complete(&mut self, now: Duration, completion: Completion) -> Result<(), StoreError> {
        self.advance(now);
        match completion.0 {
            Outcome::Spill(done) => self.spilled(done),
            Outcome::Hash(done) => self.hashed(done),
            Outcome::Back(done) => self.backed(done),
        }
    }

    /// Takes note of the time. Calls may come from several places that looked at the clock in another order.
    pub(crate) fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// How long ago something was.
    pub(crate) fn since(&self, then: Duration) -> Duration {
        self.now.saturating_sub(then)
    }

    /// Messages to be queued, in this order, since the last call.
    pub fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<StoreEvent> {
        std::mem::take(&mut self.events)
    }

    /// The daemon's page of bells.
    #[must_use]
    pub fn bells(&self) -> &Bells {
        &self.bells
    }

    /// A new stream, which a process will write. `keep`: all its bytes stay until every subscription is given up.
    pub fn open_stream(&mut self, id: StreamId, keep: bool) {
        self.streams.insert(id, Stream { keep, ..Stream::default() });
    }

    /// A stream begins again, empty: a new epoch. Its subscriptions stay.
    pub fn reopen_stream(&mut self, id: StreamId, keep: bool) {
        if self.streams.contains_key(&id) {
            self.abort(id);
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.keep = keep;
            }
        } else {
            self.open_stream(id, keep);
        }
    }

    /// Whether an attempt has been told that nobody reads any of its outputs any more; those that it has finished do not
    /// count.
    #[must_use]
    pub fn was_told_unread(&self, id: ProcessId) -> bool {
        self.processes.get(&id).is_some_and(|process| self.is_all_unread(process))
    }

    fn is_all_unread(&self, process: &Process) -> bool {
        let mut streams = process.outputs.values().filter_map(|id| self.streams.get(id));
        self.first_read_output(process).is_none() && streams.any(|stream| stream.is_subscribed() && stream.unread_told)
    }

    /// An output that the attempt still writes and that somebody may read. It is sought first where it was found last: so
    /// one with thousands of outputs that are finished in turn is not gone through for each of them.
    fn first_read_output(&self, process: &Process) -> Option<PortId> {
        let is_read = |id: &StreamId| self.streams.get(id).is_some_and(Stream::is_read);
        let (before, from) =
            (process.outputs.range(..process.read_output), process.outputs.range(process.read_output..));
        from.chain(before).find(|(_, id)| is_read(id)).map(|(&port, _)| port)
    }

    /// A finished stream that consists of files of these lengths, one after the other.
    pub fn open_files(&mut self, id: StreamId, files: Vec<(OwnedFd, u64)>) {
        let mut stream = Stream { first_bytes: true, ..Stream::default() };
        let mut base = 0;
        for (file, length) in files {
            if length > 0 {
                let place = Place::Input(Rc::new(file));
                let end = Some(base + length);
                stream.pieces.push(PieceState::new(base, end, place));
                base += length;
            }
        }
        stream.finished = Some(base);
        stream.watermark = base;
        self.streams.insert(id, stream);
    }

    /// An input of an instance will read this stream. `keep`: it may do so more than once, or wants all of it at once.
    pub fn subscribe(&mut self, now: Duration, id: StreamId, subscriber: Subscriber, keep: bool) {
        self.advance(now);
        if let Some(stream) = self.streams.get_mut(&id) {
            let state = SubscriberState {
                keep,
                reader: None,
                asked: None,
                verifies: false,
                registered: false,
                closed: false,
                gone: false,
                position: 0,
                since: self.now,
                overslept: None,
            };
            stream.subscribers.insert(subscriber, state);
        }
    }

    /// An input will not read this stream any more, nor again.
    pub fn unsubscribe(&mut self, id: StreamId, subscriber: Subscriber) {
        if let Some(state) = self.streams.get_mut(&id).and_then(|stream| stream.subscribers.get_mut(&subscriber)) {
            state.keep = false;
            state.closed = true;
            state.gone = true;
            state.asked = None;
            self.tell_unread(id);
            self.release(id);
        }
    }

    /// Not all subscriptions of this stream are known yet: all its bytes stay until [`Store::unhold`].
    pub fn hold(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.holds += 1;
        }
    }

    /// The opposite of [`Store::hold`].
    pub fn unhold(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.holds = stream.holds.saturating_sub(1);
            self.tell_unread(id);
            self.release(id);
        }
    }

    /// The bytes of a stream are void: its epoch is aborted. Its subscriptions stay.
    pub fn abort(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.finished = None;
        stream.ended = None;
        stream.first_bytes = false;
        stream.watermark = 0;
        stream.granted = 0;
        stream.unread_told = false;
        let producer = stream.producer.take();
        stream.spill = None;
        stream.fingerprint = None;
        stream.hashed = 0;
        stream.promised = None;
        stream.overread = false;
        for subscriber in stream.subscribers.values_mut() {
            // Whoever reads void bytes is being ended; its words mean nothing any more.
            subscriber.reader = None;
            subscriber.registered = false;
            subscriber.closed = subscriber.gone;
            subscriber.position = 0;
            subscriber.asked = None;
        }
        let mut pieces = std::mem::take(&mut stream.pieces);
        pieces.extend(stream.ahead.take());
        if let Some((process, port)) = producer
            && let Some(process) = self.processes.get_mut(&process)
            && let Some(carrier) = &mut process.carrier
        {
            // Another node may still write there: the carrier says when it does not.
            process.starved.remove(&port);
            process.outputs.remove(&port);
            carrier.ahead.remove(&id);
            carrier.quarantine.insert(port, pieces);
            return;
        }
        for piece in pieces {
            self.free(piece);
        }
        self.drop_replay(id);
    }

    /// To be called now and then (a few times a second): tries again what had no memory or no disk, and notices when
    /// nothing will ever move again.
    ///
    /// # Errors
    /// If a waiting producer could not be served.
    pub fn tick(&mut self, now: Duration) -> Result<(), StoreError> {
        /// So long nothing moves before a run that lacks disk is given up.
        const PATIENCE: Duration = Duration::from_secs(3);
        self.advance(now);
        self.serve_put_off()?;
        self.feed_starved()?;
        let waiting = self.processes.values().any(|process| !process.starved.is_empty());
        let (Some(reason), true) = (&self.disk_full, waiting) else {
            self.stalled = None;
            return Ok(());
        };
        let reason = reason.clone();
        let processes: Vec<ProcessId> = self.processes.keys().copied().collect();
        let moved = processes
            .into_iter()
            .map(|id| self.traffic(id))
            .fold(0u64, |sum, traffic| sum.wrapping_add(traffic.read).wrapping_add(traffic.written));
        match self.stalled {
            Some((before, since)) if before == moved => {
                if self.since(since) >= PATIENCE {
                    self.stalled = None;
                    self.events.push(StoreEvent::Failed(format!("no stream can go on: {reason}")));
                }
            }
            _ => self.stalled = Some((moved, self.now)),
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, process: ProcessId, message: ToFunction, fd: Option<OwnedFd>) {
        if let Some(state) = self.processes.get(&process) {
            self.outgoing.push(Outgoing { process, bell: state.bell, message, fd });
        }
    }

    /// Gives up pieces that nobody needs.
    pub(crate) fn release(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        for memory in stream.pieces.iter_mut().filter_map(PieceState::take_unheld) {
            self.budget.free(memory);
        }
        let needed = stream.needed_from();
        let done = |piece: &mut PieceState| {
            piece.end.is_some_and(|end| end <= needed)
                && piece.users.is_empty()
                && piece.held.is_none()
                && !matches!(piece.place, Place::Input(_))
        };
        let released: Vec<PieceState> = stream.pieces.extract_if(.., done).collect();
        for piece in released {
            self.free(piece);
        }
    }

    pub(crate) fn free(&mut self, piece: PieceState) {
        if let Some(held) = piece.held {
            self.budget.free(held.memory);
        }
        match piece.place {
            Place::Arena { arena, offset, charged } => {
                if arena.long_lived {
                    arena.segment.give_back(offset, ARENA_SLOT);
                }
                self.budget.discharge(charged);
            }
            // Whoever reads it gives it back.
            Place::Window { .. } if piece.lent => {}
            Place::Window { memory, .. } => self.budget.free(memory),
            Place::Spill(file) => {
                file.punch(piece.base..piece.end.unwrap_or(piece.base));
            }
            Place::Input(_) => {}
        }
    }

    /// Tells a producer that nobody reads its output any more.
    pub(crate) fn tell_unread(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.is_unread()
            && !stream.unread_told
            && stream.finished.is_none()
            && let Some((process, port)) = stream.producer
        {
            stream.unread_told = true;
            if let Some(process) = self.processes.get_mut(&process) {
                process.unread_told = true;
            }
            self.send(process, ToFunction::Unread { port }, None);
            self.tell_about_the_rest(process);
        }
    }

    /// Outputs that nothing was ever meant to read do not keep a producer going when nobody reads the others any more.
    pub(crate) fn tell_about_the_rest(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get(&id).filter(|process| process.unread_told) else { return };
        if let Some(port) = self.first_read_output(process) {
            if let Some(process) = self.processes.get_mut(&id) {
                process.read_output = port;
            }
            return;
        }
        if !self.is_all_unread(process) {
            return;
        }
        let never_read = |stream: &StreamId| self.streams.get(stream).is_some_and(|stream| !stream.is_subscribed());
        let rest: Vec<PortId> =
            process.outputs.iter().filter(|(_, stream)| never_read(stream)).map(|(&port, _)| port).collect();
        for port in rest {
            self.send(id, ToFunction::Unread { port }, None);
        }
    }
}
