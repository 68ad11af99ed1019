//! Which piece a reader gets next.

use crate::attempt::duplicate;
use crate::error::StoreError;
use crate::pieces::Place;
use crate::process::{Arena, Endpoint};
use crate::subscription::{Question, Subscriber};
use crate::{ProcessId, RunStream, Store};
use dflow_protocol::message::{Piece, SegmentUse, ToFunction, Window};
use dflow_protocol::words::State;
use dflow_protocol::{PortId, RunId, SegmentId, StreamId};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

impl Store {
    /// A reader has finished its piece and wants the one with this offset. With `lends` it still needs the bytes of
    /// earlier pieces from its published position on.
    pub(crate) fn next_piece(
        &mut self,
        process: ProcessId,
        port: PortId,
        at: u64,
        lends: bool,
    ) -> Result<(), StoreError> {
        let Some((id, subscriber)) = self.processes.input(process, port) else {
            return Ok(());
        };
        self.sample_readers(id);
        let Some(stream) = self.runs.stream_mut(id) else { return Ok(()) };
        let Some(state) = stream.subscribers.get_mut(&subscriber) else { return Ok(()) };
        if !state.is_read_by((process, port)) {
            // The stream has begun again, and this reader is not the one that reads it now.
            return Ok(());
        }
        state.ask(Question { at, verifies: false });
        let state = self.processes.get(process);
        // With `lends` it says which ones it has left.
        if !lends && !state.is_some_and(|process| process.slicing.contains(&subscriber.input)) {
            stream.epoch.pieces.leave((process, port));
        }
        self.runs.note_question(id);
        self.release(id);
        self.serve(id, subscriber)?;
        self.serve_waiting_outputs(Some(id.run));
        Ok(())
    }

    /// A reader has seen a producer's words say that the stream ends here, or something that cannot be true. It is
    /// answered when that is certain: after the producer has sent its end as a message, or if the stream goes on. If
    /// the words are a lie, the producer is condemned, and the reader waits for the next attempt.
    pub(crate) fn verify(&mut self, process: ProcessId, port: PortId, at: u64) -> Result<(), StoreError> {
        let Some((id, subscriber)) = self.processes.input(process, port) else {
            return Ok(());
        };
        self.sample_readers(id);
        let state = self.runs.stream_mut(id).and_then(|stream| stream.subscribers.get_mut(&subscriber));
        let Some(state) = state.filter(|state| state.is_read_by((process, port))) else { return Ok(()) };
        state.ask(Question { at, verifies: true });
        self.runs.note_question(id);
        self.serve(id, subscriber)
    }

    /// Whether the stream certainly goes on at `at`, in the piece that its reader has.
    fn continues_past(&mut self, id: RunStream, at: u64, index: usize) -> bool {
        let Some((stream, piece)) = self.runs.stream(id).and_then(|it| Some((it, it.epoch.pieces.get(index)?))) else {
            return false;
        };
        let Some((writer, port)) = stream.epoch.producer() else { return false };
        let (is_live, is_ring, size) = (piece.end.is_none(), piece.is_ring(), piece.capacity());
        let Some(word) = self.sample_output(writer, port) else { return false };
        if is_live && is_ring && word.offset.saturating_sub(at) > size {
            let what = format!(
                "its watermark is at {}, more than a window of {size} bytes past a reader at {at}",
                word.offset
            );
            self.condemn(writer, what);
            return false;
        }
        word.offset > at || (is_live && word.state == State::Open)
    }

    /// A reader needs no bytes of the pieces in this range any more.
    pub(crate) fn given_up(&mut self, process: ProcessId, port: PortId, range: Range<u64>) {
        let Some((id, _)) = self.processes.input(process, port) else { return };
        self.sample_readers(id);
        if let Some(stream) = self.runs.stream_mut(id) {
            stream.epoch.pieces.leave_range((process, port), range);
        }
        self.release(id);
        self.serve_waiting_outputs(Some(id.run));
    }

    /// Serves readers of a stream that wait for their next piece.
    pub(crate) fn serve_waiting_readers(&mut self, id: RunStream) -> Result<(), StoreError> {
        let Some(stream) = self.runs.stream(id) else { return Ok(()) };
        let waiting: Vec<Subscriber> =
            stream.subscribers.iter().filter(|(_, state)| state.question().is_some()).map(|(&key, _)| key).collect();
        waiting.into_iter().try_for_each(|subscriber| self.serve(id, subscriber))
    }

    fn serve(&mut self, id: RunStream, subscriber: Subscriber) -> Result<(), StoreError> {
        self.enter_ahead(id);
        let Some(stream) = self.runs.stream(id) else { return Ok(()) };
        let Some(state) = stream.subscribers.get(&subscriber) else { return Ok(()) };
        let (Some(question), Some((process, port))) = (state.question(), state.reader()) else { return Ok(()) };
        let at = question.at;
        let Some(index) = stream.epoch.pieces.position(at) else {
            if stream.epoch.finished().is_some_and(|length| at >= length) {
                let end = ToFunction::StreamEnd { port, end: Ok(at) };
                self.send(process, end, None);
                self.answered(id, subscriber);
            }
            return Ok(());
        };
        let Some(piece) = stream.epoch.pieces.get(index) else { return Ok(()) };
        let is_silent =
            |(writer, _): Endpoint| self.processes.get(writer).is_some_and(|process| process.control.is_none());
        if piece.end.is_none() && stream.epoch.producer().is_some_and(is_silent) {
            // Served when the producer has sent its control page.
            return Ok(());
        }
        if question.verifies && piece.users.contains(&(process, port)) {
            if self.continues_past(id, at, index) {
                self.send(process, ToFunction::Stay { port }, None);
                self.answered(id, subscriber);
            }
            return Ok(());
        }
        if self.is_better_read_from_disk(id, &piece.place, process, subscriber) {
            // Served when it is on disk, or when memory is no longer short.
            if let Some(piece) = self.runs.stream_mut(id).and_then(|stream| stream.epoch.pieces.get_mut(index)) {
                piece.wanted_on_disk = true;
            }
            self.spill_cold(id.run, 0);
            return Ok(());
        }
        let (base, end, producer) = (piece.base, piece.end, stream.epoch.producer());
        let place = piece.place.clone();
        let capacity = piece.capacity();
        let message = match place {
            Place::Spill(_) | Place::Input(_) => {
                let file = self.outbox.next_segment();
                let (fd, file_offset, range) = self.file_piece(id, index, at)?;
                self.send(process, ToFunction::Segment { segment: file, kind: SegmentUse::Once }, Some(fd));
                Piece::File { file, file_offset, base: range.start, end: range.end }
            }
            Place::Arena { .. } | Place::Window { .. } => {
                let (segment, segment_offset, ring) = match &place {
                    Place::Arena { arena, offset, .. } => (self.send_arena(process, arena)?, *offset, false),
                    Place::Window { memory, ring } => {
                        let segment = self.outbox.next_segment();
                        // The kernel pins pages for RDMA as writable, even to send from them.
                        let fd = if self.processes.is_carrier(process) {
                            duplicate(memory.segment.as_fd())?
                        } else {
                            memory.segment.read_only()?
                        };
                        self.send(process, ToFunction::Segment { segment, kind: SegmentUse::Once }, Some(fd));
                        (segment, 0, *ring)
                    }
                    Place::Spill(_) | Place::Input(_) => return Ok(()),
                };
                let producer = match producer {
                    Some((writer, out)) if end.is_none() => {
                        self.register_reader(id, subscriber)?;
                        Some((self.send_control(process, writer)?, out))
                    }
                    _ => None,
                };
                // An extent ends where it is full.
                let end = if ring { end } else { end.or(Some(base + capacity)) };
                let window = Window { segment, segment_offset, base, size: capacity, ring };
                Piece::Memory { window, producer, end }
            }
        };
        if let Some(piece) = self.runs.stream_mut(id).and_then(|stream| stream.epoch.pieces.get_mut(index)) {
            piece.users.insert((process, port));
        }
        self.send(process, ToFunction::Piece { port, piece: message }, None);
        self.answered(id, subscriber);
        Ok(())
    }

    /// Whether a reader has to wait until a piece is on disk: memory is short, and the reader would keep the window
    /// mapped for its slice over the whole stream.
    fn is_better_read_from_disk(
        &self,
        id: RunStream,
        place: &Place,
        process: ProcessId,
        subscriber: Subscriber,
    ) -> bool {
        let slices = self.processes.get(process).is_some_and(|process| process.slicing.contains(&subscriber.input));
        let disk_is_full = self.runs.get(id.run).is_none_or(|run| run.disk.is_full());
        slices && matches!(place, Place::Window { .. }) && self.is_short_of_memory(id.run) && !disk_is_full
    }

    /// Serves readers that wait for an answer, as far as there is one now.
    pub(crate) fn serve_put_off(&mut self) {
        let asked = self.runs.iter().map(|(run, state)| (run, state.asked.iter().copied().collect()));
        let asked: Vec<(RunId, Vec<StreamId>)> = asked.collect();
        for (run, streams) in asked {
            for stream in streams {
                let id = RunStream { run, stream };
                let result = self.serve_waiting_readers(id);
                self.attribute(run, result);
                self.runs.forget_answered(id);
            }
        }
    }

    fn answered(&mut self, id: RunStream, subscriber: Subscriber) {
        if let Some(state) = self.runs.stream_mut(id).and_then(|stream| stream.subscribers.get_mut(&subscriber)) {
            state.answer();
        }
    }

    /// Whether a reader waits for an answer.
    pub(crate) fn has_asked(&self, reader: Endpoint, input: &(RunStream, Subscriber)) -> bool {
        let (stream, subscriber) = input;
        let subscription = self.runs.stream(*stream).and_then(|stream| stream.subscribers.get(subscriber));
        subscription.is_some_and(|state| state.question().is_some() && state.is_read_by(reader))
    }

    /// A read-only descriptor of the file in which the byte at an offset is, where in the file the bytes begin that it
    /// holds, and which of the stream these are. Spilled pieces that follow each other in the file are one.
    fn file_piece(&self, id: RunStream, index: usize, at: u64) -> Result<(OwnedFd, u64, Range<u64>), StoreError> {
        let lost = || StoreError::Limit("a stream vanished while it was read".into());
        let stream = self.runs.stream(id).ok_or_else(lost)?;
        let piece = stream.epoch.pieces.get(index).ok_or_else(lost)?;
        match &piece.place {
            Place::Spill(file) => {
                let end = stream.epoch.pieces.spilled_end(index);
                Ok((file.reader()?, piece.base, piece.base..end))
            }
            Place::Input(files) => {
                let (file, range) = files.reader_at(at)?.ok_or_else(lost)?;
                Ok((file, 0, range))
            }
            Place::Arena { .. } | Place::Window { .. } => Err(lost()),
        }
    }

    fn send_arena(&mut self, to: ProcessId, arena: &Arc<Arena>) -> Result<SegmentId, StoreError> {
        if self.processes.get_mut(to).is_some_and(|process| process.known.insert(arena.id)) {
            let kind = SegmentUse::Arena(arena.segment.length() as u64);
            let fd = arena.segment.read_only()?;
            self.send(to, ToFunction::Segment { segment: arena.id, kind }, Some(fd));
        }
        Ok(arena.id)
    }

    fn send_control(&mut self, to: ProcessId, of: ProcessId) -> Result<SegmentId, StoreError> {
        let lost = || StoreError::Limit("a process has no control page".into());
        let control = self.processes.get(of).and_then(|process| process.control.as_ref()).ok_or_else(lost)?;
        let id = control.id;
        let fd = duplicate(control.fd.as_fd())?;
        if self.processes.get_mut(to).is_some_and(|process| process.known.insert(id)) {
            self.send(to, ToFunction::Segment { segment: id, kind: SegmentUse::Control }, Some(fd));
        }
        Ok(id)
    }

    /// Tells the producer of all readers that run.
    pub(crate) fn register_readers(&mut self, id: RunStream) -> Result<(), StoreError> {
        let Some(stream) = self.runs.stream(id) else { return Ok(()) };
        let all: Vec<Subscriber> = stream.subscribers.keys().copied().collect();
        all.into_iter().try_for_each(|subscriber| self.register_reader(id, subscriber))
    }

    fn register_reader(&mut self, id: RunStream, subscriber: Subscriber) -> Result<(), StoreError> {
        let Some(stream) = self.runs.stream_mut(id) else { return Ok(()) };
        let producer = stream.epoch.producer();
        let Some(state) = stream.subscribers.get_mut(&subscriber) else { return Ok(()) };
        let (Some((producer, out)), Some((reader, port))) = (producer, state.reader()) else { return Ok(()) };
        if !state.register() {
            return Ok(());
        }
        let control = self.send_control(producer, reader)?;
        self.send(producer, ToFunction::AddReader { port: out, control, reader: port }, None);
        Ok(())
    }
}
