//! Attempts begin and end, with the streams that they read and write.

use crate::ProcessId;
use crate::error::StoreError;
use crate::pieces::Piece;
use crate::process::{Arena, Process};
use crate::subscription::Subscriber;
use crate::{RunStream, Store};
use dflow_protocol::limits::{ARENA_SLOT, MAX_PORTS};
use dflow_protocol::message::{OutputStreams, SegmentUse, Setup, ToFunction};
use dflow_protocol::{PortId, RunId, StreamId};
use dflow_shm::{Segment, SegmentKind};
use rustix::process::{Resource, getrlimit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Arena slots of an attempt whose outputs are not all known at the start: one for each port that it can have, so that
/// no stream needs a segment for its first bytes. Only touched pages cost memory, but every reader of one of its
/// streams maps the whole arena.
const ARENA_SLOTS: u64 = MAX_PORTS as u64;
/// The same where `ulimit -v` limits the address space of processes.
const FEW_ARENA_SLOTS: u64 = 16 * 1024;

impl Store {
    /// An attempt of a run is being started. `outputs` are its streams, in the order of `setup.outputs`. Ports, bell
    /// and arena are filled in here, and the setup is sent.
    ///
    /// # Errors
    /// If there is no memory, descriptor or bell for it.
    pub fn begin(
        &mut self,
        run: RunId,
        id: ProcessId,
        setup: Setup,
        outputs: &[Vec<StreamId>],
    ) -> Result<(), StoreError> {
        self.begin_attempt(run, id, setup, outputs, false)
    }

    /// As [`Store::begin`], for an attempt that carries streams from and to other nodes: it has no ports but those of
    /// [`Store::export`] and [`Store::import`].
    ///
    /// # Errors
    /// As [`Store::begin`].
    pub fn begin_carrier(&mut self, run: RunId, id: ProcessId, setup: Setup) -> Result<(), StoreError> {
        self.begin_attempt(run, id, setup, &[], true)
    }

    fn begin_attempt(
        &mut self,
        run: RunId,
        id: ProcessId,
        mut setup: Setup,
        outputs: &[Vec<StreamId>],
        is_carrier: bool,
    ) -> Result<(), StoreError> {
        let Some(owner) = self.memory.owner(run) else { return Err(StoreError::Unknown(run)) };
        let slicing = (0..).zip(&setup.inputs).filter(|(_, input)| input.keep).map(|(index, _)| index).collect();
        let count: usize = outputs.iter().map(Vec::len).sum();
        if count > MAX_PORTS as usize / 2 {
            return Err(StoreError::Limit(format!(
                "'{}' has {count} output streams; {} is the most for one instance",
                setup.instance,
                MAX_PORTS / 2
            )));
        }
        let discovers = setup.outputs.iter().any(|output| output.streams == OutputStreams::Discovered);
        let least = (count as u64).max(1);
        let slots = if discovers || is_carrier { open_arena_slots().max(least) } else { least };
        let length = usize::try_from(slots * ARENA_SLOT).unwrap_or(usize::MAX);
        let segment = Segment::create("dflow-arena", length, SegmentKind::FunctionWritten)?;
        let page = duplicate(self.bells().segment().as_fd())?;
        let memory = duplicate(segment.as_fd())?;
        let arena =
            Arc::new(Arena { owner, id: self.outbox.next_segment(), segment, carrier: is_carrier.then_some(id) });
        // From here on nothing fails, so that no bell is lost.
        let bell = self.processes.take_bell()?;
        let mut process = Process::new(bell, Arc::clone(&arena), slicing, is_carrier);
        for (spec, streams) in setup.outputs.iter_mut().zip(outputs) {
            let first = process.add_outputs(streams.iter().map(|&stream| RunStream { run, stream }));
            spec.streams = match spec.streams {
                OutputStreams::Single(_) => OutputStreams::Single(first),
                OutputStreams::Fixed(..) => OutputStreams::Fixed(first, streams.len() as u32),
                OutputStreams::Discovered => OutputStreams::Discovered,
            };
        }
        setup.bell = bell;
        setup.arena = arena.id;
        self.memory.admit(id);
        self.processes.insert(id, process);
        self.send(id, ToFunction::Setup(setup), Some(page));
        let kind = SegmentUse::OwnArena(length as u64);
        self.send(id, ToFunction::Segment { segment: arena.id, kind }, Some(memory));
        for (port, stream) in self.processes.outputs(id) {
            self.attach_producer(id, port, stream, &arena);
        }
        Ok(())
    }

    fn attach_producer(&mut self, process: ProcessId, port: PortId, id: RunStream, arena: &Arc<Arena>) {
        self.runs.set_producer(id, Some((process, port)));
        let Some(stream) = self.runs.stream_mut(id) else { return };
        let piece = Piece::slot(Arc::clone(arena), port);
        if stream.epoch.replay.is_some() {
            self.replay_in_slot(process, port, id, piece);
        } else {
            stream.epoch.add_piece(piece);
        }
        // All readers of a stream that is continued may have left meanwhile.
        self.tell_unread(id);
    }

    /// One more stream for an input of an attempt.
    ///
    /// # Errors
    /// If the attempt has too many streams.
    pub fn add_input(&mut self, id: ProcessId, subscriber: Subscriber, stream: RunStream) -> Result<(), StoreError> {
        if let Some(port) = self.attach_reader(id, subscriber, stream)? {
            self.send(id, ToFunction::AddStream { input: subscriber.input, port }, None);
        }
        Ok(())
    }

    /// The carrier reads this stream for another node. Returns the port through which it reads; `None` if there is no
    /// such attempt.
    ///
    /// # Errors
    /// If it has used up its ports.
    pub fn export(
        &mut self,
        id: ProcessId,
        subscriber: Subscriber,
        stream: RunStream,
    ) -> Result<Option<PortId>, StoreError> {
        self.attach_reader(id, subscriber, stream)
    }

    /// The carrier writes this stream, which comes from another node. Returns the port through which it writes; `None`
    /// if there is no such attempt or stream.
    ///
    /// # Errors
    /// If it has used up its ports.
    pub fn import(&mut self, id: ProcessId, stream: RunStream) -> Result<Option<PortId>, StoreError> {
        let (Some(process), true) = (self.processes.get_mut(id), self.runs.stream(stream).is_some()) else {
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
        stream: RunStream,
    ) -> Result<Option<PortId>, StoreError> {
        let Some(process) = self.processes.get_mut(id) else { return Ok(None) };
        let port = process.new_port()?;
        process.inputs.insert(port, (stream, subscriber));
        if let Some(state) = self.runs.stream_mut(stream).and_then(|stream| stream.subscribers.get_mut(&subscriber)) {
            state.attach((id, port));
        }
        Ok(Some(port))
    }

    /// An input of an attempt gets no more streams.
    pub fn inputs_complete(&mut self, id: ProcessId, input: u32) {
        self.send(id, ToFunction::StreamsComplete { input }, None);
    }

    /// Answers [`crate::StoreEvent::PartWanted`].
    pub fn open_part(&mut self, id: ProcessId, output: u32, part: Result<RunStream, String>) {
        let Some(process) = self.processes.get_mut(id) else { return };
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
    fn attach_output(&mut self, id: ProcessId, port: PortId, stream: RunStream) {
        let arena = self.processes.get(id).map(|process| Arc::clone(&process.arena));
        let mut is_empty = |port| self.processes.carrier_mut(id).is_none_or(|carrier| carrier.ports.occupy_slot(port));
        if let Some(arena) = arena
            && (u64::from(port.0) + 1) * ARENA_SLOT <= arena.segment.length() as u64
            && is_empty(port)
        {
            self.attach_producer(id, port, stream, &arena);
        } else {
            // No slot is left, so the stream begins with a window of its own.
            self.runs.set_producer(stream, Some((id, port)));
        }
    }

    /// Whether the gate of an attempt is open and it only waits for a slot. As long as it does, producers do not run far
    /// ahead of it: they wait, which leaves their slots to others.
    pub fn set_queued(&mut self, id: ProcessId, queued: bool) {
        if let Some(process) = self.processes.get_mut(id) {
            process.queued = queued;
        }
    }

    /// The gate of an attempt opens.
    pub fn start(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(id) {
            process.started = true;
            self.send(id, ToFunction::Start, None);
            for (_, stream) in self.processes.outputs(id) {
                self.check_readers(stream);
            }
        }
    }

    /// Nothing of an attempt runs any more. Streams that it has not finished end where they are; if it has not
    /// succeeded, they are to be aborted ([`Store::abort`]) or continued ([`Store::continue_stream`]).
    pub fn end(&mut self, now: Duration, id: ProcessId, succeeded: bool) {
        self.advance(now);
        let Some(run) = self.processes.run(id) else { return };
        let condemned = self.processes.is_condemned(id);
        for (port, stream) in self.processes.outputs(id) {
            let finished = if succeeded && !condemned { self.finish(id, port, stream) } else { Ok(()) };
            self.drop_replay(stream);
            self.close_live(stream);
            self.runs.set_producer(stream, None);
            if condemned && let Some(stream) = self.runs.stream_mut(stream) {
                // Its words lied, so what its readers have seen is unknown.
                stream.epoch.note_overread();
            }
            let served = self.serve_waiting_readers(stream);
            self.attribute(run, finished.and(served));
        }
        let Some(process) = self.processes.remove(id) else { return };
        if let Some(run) = self.runs.get_mut(run) {
            run.stop_all_waiting(id);
        }
        // An attempt that was not started has read nothing: the next one reads its streams from their start.
        let has_read = process.started || process.carrier.is_some();
        for piece in process.carrier.into_iter().flat_map(|carrier| carrier.quarantine.into_values().flatten()) {
            self.free(piece);
        }
        for (&port, &(stream_id, subscriber)) in &process.inputs {
            let Some(stream) = self.runs.stream_mut(stream_id) else { continue };
            let subscription = match has_read {
                true => stream.close_reader(subscriber, (id, port)),
                false => stream.leave_reader(subscriber, (id, port)),
            };
            if let Some(subscription) = subscription {
                subscription.detach();
            }
            if let (Some((producer, out)), Some(control)) = (stream.epoch.producer(), &process.control) {
                let message = ToFunction::DropReader { port: out, control: control.id, reader: port };
                if self.processes.get(producer).is_some_and(|producer| producer.known.contains(&control.id)) {
                    self.send(producer, message, None);
                }
            }
            self.tell_unread(stream_id);
            self.release(stream_id);
        }
        self.memory.retire(id, self.now);
        self.serve_waiting_outputs(Some(run));
    }

    /// An attempt that carries streams says that neither it nor the other node writes through this port any more.
    pub(crate) fn close_output(&mut self, id: ProcessId, port: PortId) {
        let Some(process) = self.processes.get_mut(id) else { return };
        let run = process.run;
        let pieces = process.carrier.as_mut().and_then(|carrier| carrier.quarantine.remove(&port)).unwrap_or_default();
        let stream = process.outputs.get(&port).copied();
        self.stop_waiting(run, (id, port));
        match stream {
            // The bytes that have arrived stay. Readers that need more are told the reason when the stream is ended.
            Some(stream) => {
                self.close_live(stream);
                self.leave_output(id, port, stream);
            }
            None => self.retire((id, port)),
        }
        for piece in pieces {
            self.free(piece);
        }
        self.serve_waiting_outputs(Some(run));
    }

    /// A carrier writes no more through this port. Its stream keeps its bytes.
    pub(crate) fn leave_output(&mut self, id: ProcessId, port: PortId, stream: RunStream) {
        if let Some(process) = self.processes.get_mut(id) {
            process.remove_output(port);
        }
        if !self.is_written_by(stream, (id, port)) {
            return self.retire((id, port));
        }
        self.runs.set_producer(stream, None);
        if let Some(stream) = self.runs.stream_mut(stream) {
            stream.epoch.leave_port((id, port));
        }
        self.retire_output(stream);
    }
}

fn open_arena_slots() -> u64 {
    if getrlimit(Resource::As).current.is_none() { ARENA_SLOTS } else { FEW_ARENA_SLOTS }
}

pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, StoreError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(StoreError::Descriptor)
}
