//! A new attempt continues the stream of one that has failed.
//!
//! Up to the old watermark it writes bytes that readers may have read already. They go into windows that no reader sees
//! and that end exactly there. So the attempt must ask for its next window at the old watermark, and it blocks there
//! until its prefix has been verified. From then on readers are served again: to them, the failure was a pause.

use crate::error::{RunFailure, StoreError};
use crate::fingerprint::BLOCK;
use crate::hash::{HashJob, HashMemory, Hashed, Task};
use crate::pieces::{Piece, Place};
use crate::process::Want;
use crate::stream::Stream;
use crate::{ProcessId, RunStream, Store, StoreEvent};
use dflow_protocol::PortId;
use dflow_protocol::message::{ToFunction, Window};
use std::sync::Arc;
use std::time::Duration;

/// The replay of a stream's prefix by a new attempt.
#[derive(Debug)]
pub(crate) struct Replay {
    /// The old watermark. No reader has read past it.
    until: u64,
    /// The new attempt's watermark, as far as it was observed.
    pub(crate) written: u64,
    /// The windows of the new attempt. The last one may be live; the others are being compared.
    pieces: Vec<Piece>,
    /// The attempt has finished the stream.
    finishing: bool,
    /// The attempt has written other bytes, and is to be given up.
    diverged: bool,
}

impl Replay {
    pub(crate) fn new(until: u64) -> Self {
        Self { until, written: 0, pieces: Vec::new(), finishing: false, diverged: false }
    }

    /// See [`crate::epoch::Epoch::room`].
    pub(crate) fn room(&self) -> u64 {
        let live = self.pieces.last().filter(|piece| piece.end.is_none());
        live.map_or(self.written, |piece| (piece.base + piece.capacity()).min(self.until))
    }

    pub(crate) fn into_pieces(self) -> Vec<Piece> {
        self.pieces
    }

    /// Adds a window of the attempt. Returns how much of it may be used before the prefix is verified.
    fn add(&mut self, piece: Piece) -> u64 {
        let size = piece.capacity().min(self.until - piece.base);
        self.pieces.push(piece);
        size
    }
}

impl Store {
    /// Hashes what is written to this stream, which is empty and open, so that a later attempt may continue it.
    pub fn remember(&mut self, id: RunStream) {
        if let Some(stream) = self.runs.stream_mut(id) {
            stream.epoch.remember();
        }
    }

    /// Lets the next attempt continue this stream, whose last one is dead. [`Store::remember`] was called for it.
    /// Readers stay attached, and wait at the watermark.
    pub fn continue_stream(&mut self, now: Duration, id: RunStream, keep: bool) {
        self.advance(now);
        self.sample_readers(id);
        let Some(stream) = self.runs.stream_mut(id) else { return };
        stream.keep = keep;
        for subscription in stream.subscribers.values_mut() {
            // The new producer does not know them.
            subscription.change_producer();
        }
        for piece in stream.epoch.continue_by_next_attempt() {
            self.free(piece);
        }
    }

    /// Reports a stream that cannot be continued because its readers have read other bytes than it has. Called when the
    /// new attempt runs, so that it can be ended.
    pub(crate) fn check_readers(&mut self, id: RunStream) {
        if self.runs.stream(id).is_some_and(|stream| stream.epoch.is_overread()) {
            self.diverge(id, "its readers have read something else than the attempt before had written".into());
        }
    }

    /// Whether an attempt has finished while its bytes are still being compared. [`Store::end`] must not be called
    /// before that is done.
    #[must_use]
    pub fn is_comparing(&self, id: ProcessId) -> bool {
        let finishing = |stream: &Stream| stream.epoch.replay.as_ref().is_some_and(|it| it.finishing && !it.diverged);
        self.processes.get(id).is_some_and(|process| {
            process.outputs.values().any(|stream| self.runs.stream(*stream).is_some_and(finishing))
        })
    }

    /// A piece has been hashed.
    pub(crate) fn hashed(&mut self, done: Hashed) {
        let Hashed { job, result } = done;
        let id = job.stream;
        self.jobs.complete_hash(&job);
        let found = self.runs.stream_mut(id).and_then(|stream| {
            let replayed = stream.epoch.replay.iter_mut().flat_map(|replay| &mut replay.pieces);
            stream
                .epoch
                .pieces
                .iter_mut()
                .chain(replayed)
                .find(|piece| piece.base == job.base && job.memory.is(&piece.place))
        });
        let Some(piece) = found else {
            // The piece was freed while it was read.
            if let HashMemory::Window(memory) = job.memory {
                self.memory.free(memory, self.now);
            }
            return self.serve_waiting_outputs(None);
        };
        piece.lent = false;
        match (job.task, result) {
            (_, Err(errno)) => {
                let error = StoreError::Hash(errno);
                self.diverge(id, error.to_string());
                self.fail_run(id.run, RunFailure::Store(error));
            }
            (Task::Record, Ok(_)) => {}
            (Task::Compare, Ok(None)) => {
                let result = self.found_same(id, job.range.end);
                self.attribute(id.run, result);
            }
            (Task::Compare, Ok(Some(at))) => {
                let what = format!("its bytes from {at} to {} differ from those of the attempt before", at + BLOCK);
                self.diverge(id, what);
            }
        }
        self.serve_waiting_outputs(None);
    }

    /// Hashes the last piece, which the producer has just left.
    pub(crate) fn record(&mut self, id: RunStream) {
        let job = self.runs.stream_mut(id).and_then(|stream| stream.epoch.next_to_hash(id));
        self.submit_hash(job);
    }

    /// Grants an attempt that continues a stream the part of its arena slot that lies before the old watermark. Sent
    /// before the attempt learns of its port, so that it cannot use the whole slot.
    pub(crate) fn replay_in_slot(&mut self, process: ProcessId, port: PortId, id: RunStream, piece: Piece) {
        let Some(replay) = self.runs.stream_mut(id).and_then(|stream| stream.epoch.replay.as_mut()) else { return };
        let (slot, size) = (window_of(&piece), replay.add(piece));
        if let Some(window) = slot.map(|slot| Window { size, ..slot }) {
            self.send(process, ToFunction::Window { port, window }, None);
        }
    }

    /// Grants a replaying attempt its next window; `false` if there is no memory now, or if its prefix has to be
    /// verified first.
    pub(crate) fn grant_replay(
        &mut self,
        process: ProcessId,
        port: PortId,
        id: RunStream,
        want: Want,
    ) -> Result<bool, StoreError> {
        if self.waits_for_comparison(id, want) {
            return Ok(false);
        }
        let Some(memory) = self.window_memory(process, id, Want { least: 1, ..want }, false)? else { return Ok(false) };
        let piece = Piece::window(want.at, Arc::clone(&memory), false);
        let replay = self.runs.stream_mut(id).and_then(|stream| stream.epoch.replay.as_mut());
        let size = replay.map_or(0, |replay| replay.add(piece));
        self.send_window(process, port, &memory, want.at, size, false)?;
        Ok(true)
    }

    /// Whether a replaying attempt has to wait until its prefix has been verified, or to be ended.
    pub(crate) fn waits_for_comparison(&self, id: RunStream, want: Want) -> bool {
        let replay = self.runs.stream(id).and_then(|stream| stream.epoch.replay.as_ref());
        replay.is_some_and(|replay| replay.diverged || want.at >= replay.until)
    }

    /// A replaying attempt has finished the stream.
    pub(crate) fn finish_replay(&mut self, id: RunStream, word: u64) -> Result<(), StoreError> {
        let Some(stream) = self.runs.stream_mut(id) else { return Ok(()) };
        let unnoticed = stream.is_unread() || !stream.is_subscribed();
        let Some(replay) = &mut stream.epoch.replay else { return Ok(()) };
        if unnoticed {
            // No reader is left to notice a difference, and an attempt that was told so may end anywhere.
            replay.finishing = true;
            return self.end_replay(id);
        }
        if word < replay.until {
            let what = format!("it ended at {word}, but the attempt before had written {} bytes", replay.until);
            self.diverge(id, what);
            return Ok(());
        }
        replay.finishing = true;
        self.close_replay(id, word);
        Ok(())
    }

    /// The replaying attempt is gone before its prefix was verified.
    pub(crate) fn drop_replay(&mut self, id: RunStream) {
        let pieces = self.runs.stream_mut(id).and_then(|stream| stream.epoch.replay.take()).map(|replay| replay.pieces);
        for piece in pieces.into_iter().flatten() {
            self.free(piece);
        }
    }

    /// Reports a stream that becomes longer than the length with which an earlier attempt has finished it.
    pub(crate) fn check_promise(&mut self, id: RunStream, end: u64) {
        if let Some(promised) =
            self.runs.stream(id).and_then(|stream| stream.epoch.promised().filter(|&length| length < end))
        {
            self.diverge(id, format!("it wrote {end} bytes, but the attempt before had finished with {promised}"));
        }
    }

    /// Ends the live window of a replaying attempt at `end`, and has it compared.
    pub(crate) fn close_replay(&mut self, id: RunStream, end: u64) {
        let Some(stream) = self.runs.stream_mut(id) else { return };
        let fingerprint = stream.epoch.fingerprint();
        let (Some(replay), Some(fingerprint)) = (&mut stream.epoch.replay, &fingerprint) else { return };
        let end = end.min(replay.room());
        let Some(piece) = replay.pieces.last_mut().filter(|piece| piece.end.is_none()) else { return };
        piece.end = Some(end);
        replay.written = end;
        if end > piece.base {
            let job = HashJob::new(id, piece, piece.base..end, Task::Compare, fingerprint);
            self.submit_hash(job);
        }
    }

    /// The replayed bytes up to `end` are the same as before.
    fn found_same(&mut self, id: RunStream, end: u64) -> Result<(), StoreError> {
        let Some(replay) = self.runs.stream_mut(id).and_then(|stream| stream.epoch.replay.as_mut()) else {
            return Ok(());
        };
        if end == replay.until {
            self.sample_readers(id);
            self.check_readers(id);
            return self.end_replay(id);
        }
        let compared: Vec<Piece> =
            replay.pieces.extract_if(.., |piece| piece.end.is_some_and(|it| it <= end)).collect();
        for piece in compared {
            self.free(piece);
        }
        Ok(())
    }

    /// The whole prefix is verified: from here on the attempt writes for readers.
    fn end_replay(&mut self, id: RunStream) -> Result<(), StoreError> {
        let Some(stream) = self.runs.stream_mut(id) else { return Ok(()) };
        let Some(mut replay) = stream.epoch.replay.take_if(|replay| !replay.diverged) else { return Ok(()) };
        let producer = stream.epoch.producer();
        let goes_on = |piece: &Piece| !replay.finishing && piece.base + piece.capacity() > replay.until;
        let last = replay.pieces.pop_if(|piece| goes_on(piece));
        for piece in replay.pieces {
            self.free(piece);
        }
        if let Some(last) = last {
            self.graft(id, last)?;
        }
        if let (true, Some((process, port))) = (replay.finishing, producer) {
            self.finish(process, port, id)?;
        }
        self.serve_waiting_readers(id)
    }

    /// Makes the window in which the attempt has reached the old watermark a piece of the stream. It holds the last old
    /// bytes a second time. So a tiny stream stays in its arena slot, and every piece begins at a multiple of a block.
    fn graft(&mut self, id: RunStream, piece: Piece) -> Result<(), StoreError> {
        let Some(stream) = self.runs.stream_mut(id) else { return Ok(()) };
        let (base, producer) = (piece.base, stream.epoch.producer());
        let mut covered = Vec::new();
        for mut old in stream.epoch.pieces.take() {
            if let Some(former) = old.former.take_if(|_| old.base >= base) {
                // Its copy on disk is not needed any more. Its memory is freed when the readers that have it mapped
                // leave.
                (old.place, old.users) = (Place::Window { memory: former.memory, ring: false }, former.users);
            }
            match old {
                old if old.base < base => {
                    let end = old.end.map(|end| end.min(base));
                    stream.epoch.pieces.push(Piece { end, ..old });
                }
                // A reader has it mapped, so its memory cannot be used again yet. As an empty piece it waits for that.
                old if !old.users.is_empty() && matches!(old.place, Place::Window { .. }) => {
                    stream.epoch.pieces.push(Piece { end: Some(old.base), ..old });
                }
                // Readers may still read this range of the file, so it is not punched out.
                old if matches!(old.place, Place::Spill(_)) => {}
                old => covered.push(old),
            }
        }
        let (place, window) = (piece.place.clone(), window_of(&piece));
        stream.epoch.add_piece(Piece { end: None, ..piece });
        for old in covered {
            self.free(old);
        }
        let Some((process, port)) = producer else { return Ok(()) };
        let waits = self.stop_waiting(id.run, (process, port));
        match (waits, place, window) {
            (true, Place::Window { memory, .. }, _) => {
                self.send_window(process, port, &memory, base, memory.size, false)
            }
            (true, _, Some(window)) => {
                self.send(process, ToFunction::Window { port, window }, None);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn diverge(&mut self, id: RunStream, what: String) {
        if let Some(replay) = self.runs.stream_mut(id).and_then(|stream| stream.epoch.replay.as_mut()) {
            replay.diverged = true;
        }
        self.outbox.tell(StoreEvent::Diverged(id, what));
    }
}

/// A slot of the writer's own arena, described as a window.
fn window_of(piece: &Piece) -> Option<Window> {
    let Place::Arena { arena, offset, .. } = &piece.place else { return None };
    let size = piece.capacity();
    Some(Window { segment: arena.id, segment_offset: *offset, base: piece.base, size, ring: false })
}
