//! The store: streams come and go, attempts come and go.

use crate::ProcessId;
use crate::backer::Backer;
use crate::hasher::Hasher;
use crate::memory::Budget;
use crate::process::{Arena, Carrier, Process};
use crate::spill::Spiller;
use crate::stream::{PieceState, Place, Stream, Subscriber, SubscriberState};
use dflow_disk::DiskError;
use dflow_protocol::limits::{ARENA_SLOT, MAX_BELLS, MAX_PORTS, MIN_WINDOW};
use dflow_protocol::message::{OutputStreams, SegmentUse, Setup, ToFunction};
use dflow_protocol::{PortId, StreamId};
use dflow_shm::{Bells, Segment, SegmentError, SegmentKind};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
}

/// DStore on one node.
pub struct Store {
    pub(crate) config: Config,
    pub(crate) budget: Budget,
    pub(crate) spiller: Spiller,
    pub(crate) hasher: Hasher,
    pub(crate) backer: Option<Backer>,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    pub(crate) processes: BTreeMap<ProcessId, Process>,
    pub(crate) outgoing: Vec<Outgoing>,
    pub(crate) events: Vec<StoreEvent>,
    /// Why the last window could not be written to disk.
    pub(crate) disk_full: Option<String>,
    /// Since when nothing has moved although somebody waits for memory and the disk is full.
    stalled: Option<(u64, Instant)>,
    pub(crate) spilled: u64,
    /// The arenas of live processes; pieces keep those of others.
    arenas: BTreeMap<ProcessId, Arc<Arena>>,
    bells: Bells,
    free_bells: Vec<u32>,
    next_bell: u32,
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
    /// Too many of something.
    #[error("{0}")]
    Limit(String),
}

impl Store {
    /// An empty store.
    ///
    /// # Errors
    /// If the budget is too small, or there is no memory for the page of bells.
    pub fn new(config: Config, spiller: Spiller, hasher: Hasher) -> Result<Self, StoreError> {
        if config.memory < Config::MIN_MEMORY {
            return Err(StoreError::Limit(format!(
                "a memory budget of {} bytes is too small for streams: {} bytes (256 KiB) is the least, 64 MiB a sensible one",
                config.memory,
                Config::MIN_MEMORY
            )));
        }
        Ok(Self {
            budget: Budget::new(config.memory),
            config,
            spiller,
            hasher,
            backer: None,
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
        let read: Vec<&Stream> = process
            .outputs
            .values()
            .filter_map(|id| self.streams.get(id))
            .filter(|stream| stream.is_subscribed() && (stream.unread_told || stream.finished.is_none()))
            .collect();
        !read.is_empty() && read.iter().all(|stream| stream.unread_told)
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
    pub fn subscribe(&mut self, id: StreamId, subscriber: Subscriber, keep: bool) {
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
                since: Instant::now(),
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

    /// An attempt is being started. Its outputs are the streams given, in the order of `setup.outputs`; ports, bell and
    /// arena are filled in here, and the setup is sent.
    ///
    /// # Errors
    /// If there is no memory, descriptor or bell for it.
    pub fn begin(&mut self, id: ProcessId, setup: Setup, outputs: &[Vec<StreamId>]) -> Result<(), StoreError> {
        self.begin_attempt(id, setup, outputs, false)
    }

    /// As [`Store::begin`], for an attempt that carries streams from and to other nodes: it has no ports but those of
    /// [`Store::export`] and [`Store::import`].
    ///
    /// # Errors
    /// As [`Store::begin`].
    pub fn begin_carrier(&mut self, id: ProcessId, setup: Setup) -> Result<(), StoreError> {
        self.begin_attempt(id, setup, &[], true)
    }

    fn begin_attempt(
        &mut self,
        id: ProcessId,
        mut setup: Setup,
        outputs: &[Vec<StreamId>],
        is_carrier: bool,
    ) -> Result<(), StoreError> {
        let bell = self.free_bells.pop().map_or_else(|| self.new_bell(), Ok)?;
        let mut process = Process {
            bell,
            control: None,
            known: std::collections::HashSet::new(),
            outputs: BTreeMap::new(),
            inputs: BTreeMap::new(),
            slicing: (0..).zip(&setup.inputs).filter(|(_, input)| input.keep).map(|(index, _)| index).collect(),
            next_port: 0,
            started: false,
            unread_told: false,
            condemned: false,
            starved: BTreeMap::new(),
            carrier: is_carrier.then(Carrier::default),
        };
        for (spec, streams) in setup.outputs.iter_mut().zip(outputs) {
            let first = PortId(process.next_port);
            for &stream in streams {
                process.outputs.insert(PortId(process.next_port), stream);
                process.next_port += 1;
            }
            spec.streams = match spec.streams {
                OutputStreams::Single(_) => OutputStreams::Single(first),
                OutputStreams::Fixed(..) => OutputStreams::Fixed(first, process.next_port - first.0),
                OutputStreams::Discovered => OutputStreams::Discovered,
            };
        }
        if process.next_port > MAX_PORTS / 2 {
            return Err(StoreError::Limit(format!(
                "'{}' has {} output streams; {} is the most for one instance",
                setup.instance,
                process.next_port,
                MAX_PORTS / 2
            )));
        }
        let discovers = setup.outputs.iter().any(|output| output.streams == OutputStreams::Discovered);
        let reserve = if discovers || is_carrier { ARENA_RESERVE } else { 0 };
        // Only what is touched costs memory.
        let slots = u64::from(process.next_port).max(1) + reserve;
        let length = usize::try_from(slots * ARENA_SLOT).unwrap_or(usize::MAX);
        let segment = Segment::create("dflow-arena", length, SegmentKind::FunctionWritten)?;
        let arena = Arc::new(Arena { id: self.budget.next_id(), segment, long_lived: is_carrier });
        setup.bell = bell;
        setup.arena = arena.id;
        let arena_id = arena.id;
        let page = duplicate(self.bells.segment().as_fd())?;
        let memory = duplicate(arena.segment.as_fd())?;
        let ports: Vec<(PortId, StreamId)> = process.outputs.iter().map(|(&port, &stream)| (port, stream)).collect();
        self.budget.admit(id);
        process.known.insert(arena_id);
        self.processes.insert(id, process);
        self.send(id, ToFunction::Setup(setup), Some(page));
        let kind = SegmentUse::OwnArena(length as u64);
        self.send(id, ToFunction::Segment { segment: arena_id, kind }, Some(memory));
        for (port, stream) in ports {
            self.attach_producer(id, port, stream, &arena);
        }
        self.arenas.insert(id, arena);
        Ok(())
    }

    fn new_bell(&mut self) -> Result<u32, StoreError> {
        if self.next_bell as usize >= MAX_BELLS {
            return Err(StoreError::Limit(format!("{MAX_BELLS} processes at the same time is the most")));
        }
        self.next_bell += 1;
        Ok(self.next_bell - 1)
    }

    fn attach_producer(&mut self, process: ProcessId, port: PortId, id: StreamId, arena: &Arc<Arena>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.producer = Some((process, port));
        let piece = PieceState::slot(Arc::clone(arena), port);
        if stream.replay.is_some() {
            self.replay_in_slot(process, port, id, piece);
        } else {
            stream.granted = stream.granted.max(ARENA_SLOT);
            stream.pieces.push(piece);
        }
        // Of a stream that it continues, every reader may have left already.
        self.tell_unread(id);
    }

    /// One more stream for an input of an attempt.
    ///
    /// # Errors
    /// If the attempt has too many streams.
    pub fn add_input(&mut self, id: ProcessId, subscriber: Subscriber, stream: StreamId) -> Result<(), StoreError> {
        if let Some(port) = self.attach_reader(id, subscriber, stream)? {
            self.send(id, ToFunction::AddStream { input: subscriber.input, port }, None);
        }
        Ok(())
    }

    /// An attempt that carries streams lends this one to another node. The port through which it reads; `None` if there
    /// is no such attempt.
    ///
    /// # Errors
    /// If it has carried too many streams.
    pub fn export(
        &mut self,
        id: ProcessId,
        subscriber: Subscriber,
        stream: StreamId,
    ) -> Result<Option<PortId>, StoreError> {
        self.attach_reader(id, subscriber, stream)
    }

    /// An attempt that carries streams brings this one from another node. The port through which it writes; `None` if
    /// there is no such attempt or stream.
    ///
    /// # Errors
    /// If it has carried too many streams.
    pub fn import(&mut self, id: ProcessId, stream: StreamId) -> Result<Option<PortId>, StoreError> {
        let (Some(process), true) = (self.processes.get_mut(&id), self.streams.contains_key(&stream)) else {
            return Ok(None);
        };
        let port = process.new_port()?;
        process.outputs.insert(port, stream);
        self.attach_output(id, port, stream);
        Ok(Some(port))
    }

    fn attach_reader(
        &mut self,
        id: ProcessId,
        subscriber: Subscriber,
        stream: StreamId,
    ) -> Result<Option<PortId>, StoreError> {
        let Some(process) = self.processes.get_mut(&id) else { return Ok(None) };
        let port = process.new_port()?;
        process.inputs.insert(port, (stream, subscriber));
        if let Some(state) = self.streams.get_mut(&stream).and_then(|stream| stream.subscribers.get_mut(&subscriber)) {
            state.reader = Some((id, port));
            state.closed = false;
            state.registered = false;
            state.position = 0;
            state.asked = None;
        }
        Ok(Some(port))
    }

    /// An input of an attempt gets no more streams.
    pub fn inputs_complete(&mut self, id: ProcessId, input: u32) {
        self.send(id, ToFunction::StreamsComplete { input }, None);
    }

    /// Answers [`StoreEvent::PartWanted`].
    pub fn open_part(&mut self, id: ProcessId, output: u32, part: Result<StreamId, String>) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let opened = part.and_then(|stream| {
            let port = process.new_port().map_err(|error| error.to_string())?;
            process.outputs.insert(port, stream);
            Ok((port, stream))
        });
        if let Ok((port, stream)) = opened {
            self.attach_output(id, port, stream);
            self.check_readers(stream);
        }
        self.send(id, ToFunction::PartOpened { output, port: opened.map(|(port, _)| port) }, None);
    }

    /// The stream of a new output begins in the attempt's arena, as long as there are slots.
    fn attach_output(&mut self, id: ProcessId, port: PortId, stream: StreamId) {
        let arena = self.arenas.get(&id).cloned();
        if let Some(arena) = arena
            && (u64::from(port.0) + 1) * ARENA_SLOT <= arena.segment.length() as u64
        {
            self.attach_producer(id, port, stream, &arena);
        } else if let Some(stream) = self.streams.get_mut(&stream) {
            // No slot left: it begins with a window of its own.
            stream.producer = Some((id, port));
        }
    }

    /// The gate of an attempt opens.
    pub fn start(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.started = true;
            let outputs: Vec<StreamId> = process.outputs.values().copied().collect();
            self.send(id, ToFunction::Start, None);
            for stream in outputs {
                self.check_readers(stream);
            }
        }
    }

    /// Nothing of an attempt runs any more. Streams that it has not finished end where they are; if it has not
    /// succeeded, they are to be aborted ([`Store::abort`]) or continued ([`Store::continue_stream`]).
    ///
    /// # Errors
    /// If somebody who waited for its memory could then not be served.
    pub fn end(&mut self, id: ProcessId, succeeded: bool) -> Result<(), StoreError> {
        let ports: Vec<_> =
            self.processes.get(&id).map(|process| process.outputs.clone()).into_iter().flatten().collect();
        let condemned = self.is_condemned(id);
        for (port, stream) in ports {
            if succeeded && !condemned {
                self.finish(id, port, stream)?;
            }
            self.drop_replay(stream);
            self.close_live(stream);
            if let Some(stream) = self.streams.get_mut(&stream) {
                stream.producer = None;
                // Nobody knows what its readers have seen.
                stream.overread |= condemned;
            }
            self.serve_waiting_readers(stream)?;
        }
        let Some(process) = self.processes.remove(&id) else { return Ok(()) };
        for piece in process.carrier.into_iter().flat_map(|carrier| carrier.quarantine).flat_map(|(_, pieces)| pieces) {
            self.free(piece);
        }
        self.arenas.remove(&id);
        self.free_bells.push(process.bell);
        for (&port, &(stream_id, subscriber)) in &process.inputs {
            let Some(stream) = self.streams.get_mut(&stream_id) else { continue };
            for piece in &mut stream.pieces {
                piece.leave((id, port));
            }
            if let Some(state) = stream.subscribers.get_mut(&subscriber)
                && state.reader == Some((id, port))
            {
                state.reader = None;
                state.asked = None;
                state.closed = true;
            }
            if let (Some((producer, out)), Some(control)) = (stream.producer, &process.control) {
                let message = ToFunction::DropReader { port: out, control: control.id, reader: port };
                if self.processes.get(&producer).is_some_and(|producer| producer.known.contains(&control.id)) {
                    self.send(producer, message, None);
                }
            }
            self.tell_unread(stream_id);
            self.release(stream_id);
        }
        self.budget.retire(id);
        self.feed_starved()
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
        let pieces = std::mem::take(&mut stream.pieces);
        if let Some((process, port)) = producer
            && let Some(process) = self.processes.get_mut(&process)
            && let Some(carrier) = &mut process.carrier
        {
            // Another node may still write there: the carrier says when it does not.
            process.starved.remove(&port);
            process.outputs.remove(&port);
            carrier.quarantine.insert(port, pieces);
            return;
        }
        for piece in pieces {
            self.free(piece);
        }
        self.drop_replay(id);
    }

    /// An attempt that carries streams says that nothing is written through this port any more, by nobody.
    pub(crate) fn close_output(&mut self, id: ProcessId, port: PortId) -> Result<(), StoreError> {
        let Some(process) = self.processes.get_mut(&id) else { return Ok(()) };
        let pieces = process.carrier.as_mut().and_then(|carrier| carrier.quarantine.remove(&port)).unwrap_or_default();
        process.starved.remove(&port);
        if let Some(stream) = process.outputs.remove(&port) {
            // What has come of it stays; whoever needs more of it is told by whoever knows why there is none.
            self.close_live(stream);
            if let Some(stream) = self.streams.get_mut(&stream).filter(|stream| stream.producer == Some((id, port))) {
                stream.producer = None;
            }
        }
        for piece in pieces {
            self.free(piece);
        }
        self.feed_starved()
    }

    /// To be called now and then (a few times a second): tries again what had no memory or no disk, and notices when
    /// nothing will ever move again.
    ///
    /// # Errors
    /// If a waiting producer could not be served.
    pub fn tick(&mut self) -> Result<(), StoreError> {
        /// So long nothing moves before a run that lacks disk is given up.
        const PATIENCE: Duration = Duration::from_secs(3);
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
                if since.elapsed() >= PATIENCE {
                    self.stalled = None;
                    self.events.push(StoreEvent::Failed(format!("no stream can go on: {reason}")));
                }
            }
            _ => self.stalled = Some((moved, Instant::now())),
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
        if stream.keep && stream.subscribers.values().any(|subscriber| !subscriber.closed || subscriber.keep) {
            return;
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
        let all_unread = |process: &&Process| process.unread_told && self.is_all_unread(process);
        let Some(process) = self.processes.get(&id).filter(all_unread) else { return };
        let never_read = |stream: &StreamId| self.streams.get(stream).is_some_and(|stream| !stream.is_subscribed());
        let rest: Vec<PortId> =
            process.outputs.iter().filter(|(_, stream)| never_read(stream)).map(|(&port, _)| port).collect();
        for port in rest {
            self.send(id, ToFunction::Unread { port }, None);
        }
    }
}

/// Arena slots beyond the outputs known at the start, for discovered parts.
const ARENA_RESERVE: u64 = 16 * 1024;

pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, StoreError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(StoreError::Descriptor)
}
