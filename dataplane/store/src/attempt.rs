//! Attempts come and go, with the streams that they read and write.

use crate::ProcessId;
use crate::process::{Arena, Carrier, Process};
use crate::store::{Store, StoreError};
use crate::stream::{PieceState, Subscriber};
use dflow_protocol::limits::{ARENA_SLOT, MAX_BELLS, MAX_PORTS};
use dflow_protocol::message::{OutputStreams, SegmentUse, Setup, ToFunction};
use dflow_protocol::{PortId, StreamId};
use dflow_shm::{Segment, SegmentKind};
use rustix::process::{Resource, getrlimit};
use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Arena slots of an attempt whose outputs are not all known at the start: one for each port that it can have, so that no
/// stream has to begin with a segment of its own. Only what is touched costs memory, but all of it is mapped by every
/// reader of one of its streams.
const ARENA_SLOTS: u64 = MAX_PORTS as u64;
/// The same where processes may map only so much.
const FEW_ARENA_SLOTS: u64 = 16 * 1024;

impl Store {
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
            known: HashSet::new(),
            outputs: BTreeMap::new(),
            inputs: BTreeMap::new(),
            slicing: (0..).zip(&setup.inputs).filter(|(_, input)| input.keep).map(|(index, _)| index).collect(),
            next_port: 0,
            started: false,
            unread_told: false,
            read_output: PortId(0),
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
        let least = u64::from(process.next_port).max(1);
        let slots = if discovers || is_carrier { open_arena_slots().max(least) } else { least };
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

    /// Answers [`crate::StoreEvent::PartWanted`].
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
    pub fn end(&mut self, now: Duration, id: ProcessId, succeeded: bool) -> Result<(), StoreError> {
        self.advance(now);
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
            if let Some(state) = stream.close_reader(subscriber, (id, port)) {
                state.reader = None;
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
}

fn open_arena_slots() -> u64 {
    if getrlimit(Resource::As).current.is_none() { ARENA_SLOTS } else { FEW_ARENA_SLOTS }
}

pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, StoreError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(StoreError::Descriptor)
}
