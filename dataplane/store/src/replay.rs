//! A new attempt continues the stream of one that has failed.
//!
//! Up to the old watermark it writes what readers may have read already. That goes into windows which nobody else sees,
//! and which end exactly there: the attempt has to ask for its next window at the old watermark, and gets it only when
//! everything before it has been found to be the same. So readers are served again from there on, and have not
//! noticed anything but a pause.

use crate::fingerprint::BLOCK;
use crate::hash::{HashJob, HashMemory, Hashed, Task};
use crate::process::Want;
use crate::store::StoreError;
use crate::stream::{PieceState, Place, Stream};
use crate::{ProcessId, Store, StoreEvent};
use dflow_protocol::message::{ToFunction, Window};
use dflow_protocol::{PortId, StreamId};
use std::sync::Arc;
use std::time::Duration;

/// The part of a stream that is written again.
#[derive(Debug)]
pub(crate) struct Replay {
    /// The old watermark: readers have read up to here at the most.
    until: u64,
    /// Up to where it is written, as far as the store has looked.
    pub(crate) written: u64,
    /// The windows of the new attempt. The last one may be live; those before it are being compared.
    pieces: Vec<PieceState>,
    /// The attempt has finished the stream.
    finishing: bool,
    /// The attempt writes something else, and is to be given up.
    diverged: bool,
}

impl Replay {
    fn new(until: u64) -> Self {
        Self { until, written: 0, pieces: Vec::new(), finishing: false, diverged: false }
    }

    /// See [`Stream::room`].
    pub(crate) fn room(&self) -> u64 {
        let live = self.pieces.last().filter(|piece| piece.end.is_none());
        live.map_or(self.written, |piece| (piece.base + piece.capacity()).min(self.until))
    }

    /// A new window of the attempt, and how much of it may be used for the time being.
    fn add(&mut self, piece: PieceState) -> u64 {
        let size = piece.capacity().min(self.until - piece.base);
        self.pieces.push(piece);
        size
    }
}

impl Store {
    /// A later attempt may continue this stream, which is empty and open: what is written to it is hashed.
    pub fn remember(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.fingerprint = Some(Arc::default());
        }
    }

    /// The attempt that wrote this stream is dead, and the next one will write the same bytes ([`Store::remember`] was
    /// called for it). Readers stay, and wait where its bytes end.
    pub fn continue_stream(&mut self, now: Duration, id: StreamId, keep: bool) {
        self.advance(now);
        self.sample_readers(id);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.keep = keep;
        stream.promised = stream.finished.take().or(stream.promised);
        stream.ended = None;
        stream.unread_told = false;
        for subscriber in stream.subscribers.values_mut() {
            // The new producer does not know them.
            subscriber.registered = false;
        }
        // Without one, everything is a difference.
        stream.fingerprint.get_or_insert_default();
        if stream.watermark > 0 {
            stream.replay = Some(Replay::new(stream.watermark));
            return;
        }
        for piece in std::mem::take(&mut stream.pieces) {
            self.free(piece);
        }
    }

    /// A stream of which readers know something else than is known here cannot be continued. To be called when its attempt runs.
    pub(crate) fn check_readers(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(|stream| stream.overread) {
            self.diverge(id, "its readers have read something else than the attempt before had written".into());
        }
    }

    /// Whether an attempt has said that it is done, and what it wrote is still being compared. Its end must not be
    /// reported to [`Store::end`] before this is over.
    #[must_use]
    pub fn is_comparing(&self, id: ProcessId) -> bool {
        let finishing = |stream: &Stream| stream.replay.as_ref().is_some_and(|it| it.finishing && !it.diverged);
        self.processes.get(&id).is_some_and(|process| {
            process.outputs.values().any(|stream| self.streams.get(stream).is_some_and(finishing))
        })
    }

    /// A piece has been hashed.
    ///
    /// # Errors
    /// If a waiting producer or reader could then not be served.
    pub(crate) fn hashed(&mut self, done: Hashed) -> Result<(), StoreError> {
        let Hashed { job, result } = done;
        let id = job.stream;
        self.hashing -= job.bytes();
        let found = self.streams.get_mut(&id).and_then(|stream| {
            let replayed = stream.replay.iter_mut().flat_map(|replay| &mut replay.pieces);
            stream.pieces.iter_mut().chain(replayed).find(|piece| piece.base == job.base && job.memory.is(&piece.place))
        });
        let Some(piece) = found else {
            // It was given up while it was read.
            if let HashMemory::Window(memory) = job.memory {
                self.budget.free(memory);
            }
            return self.feed_starved();
        };
        piece.lent = false;
        match (job.task, result) {
            (_, Err(errno)) => {
                let what = format!("cannot read what was written to a stream, to hash it: {errno}");
                self.diverge(id, what.clone());
                self.events.push(StoreEvent::Failed(what));
            }
            (Task::Record, Ok(_)) => {}
            (Task::Compare, Ok(None)) => self.found_same(id, job.range.end)?,
            (Task::Compare, Ok(Some(at))) => {
                let what = format!("its bytes from {at} to {} differ from those of the attempt before", at + BLOCK);
                self.diverge(id, what);
            }
        }
        self.feed_starved()
    }

    /// Sends what was written to a piece that is closed now to be hashed.
    pub(crate) fn record(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (Some(fingerprint), Some(piece)) = (&stream.fingerprint, stream.pieces.last_mut()) else { return };
        let end = piece.end.unwrap_or(piece.base);
        if end > stream.hashed.max(piece.base) {
            // The begun block once more, with what has come to it.
            let start = (stream.hashed / BLOCK * BLOCK).max(piece.base);
            stream.hashed = end;
            let job = HashJob::new(id, piece, start..end, Task::Record, fingerprint);
            self.submit_hash(job);
        }
    }

    /// The first window of an attempt that continues a stream is its arena slot; of that it may use only as much as is
    /// written again. Comes before the attempt can know of its port.
    pub(crate) fn replay_in_slot(&mut self, process: ProcessId, port: PortId, id: StreamId, piece: PieceState) {
        let Some(replay) = self.streams.get_mut(&id).and_then(|stream| stream.replay.as_mut()) else { return };
        let (slot, size) = (window_of(&piece), replay.add(piece));
        if let Some(window) = slot.map(|slot| Window { size, ..slot }) {
            self.send(process, ToFunction::Window { port, window }, None);
        }
    }

    /// Gives an attempt that writes again what is there its next window; `false` if there is none now, or if everything
    /// before the old watermark has to be compared first.
    pub(crate) fn grant_replay(
        &mut self,
        process: ProcessId,
        port: PortId,
        id: StreamId,
        want: Want,
    ) -> Result<bool, StoreError> {
        if self.waits_for_comparison(id, want) {
            return Ok(false);
        }
        let Some(memory) = self.window_memory(process, id, Want { least: 1, ..want }, false)? else { return Ok(false) };
        let piece = PieceState::window(want.at, Arc::clone(&memory), false);
        let replay = self.streams.get_mut(&id).and_then(|stream| stream.replay.as_mut());
        let size = replay.map_or(0, |replay| replay.add(piece));
        self.send_window(process, port, &memory, want.at, size, false)?;
        Ok(true)
    }

    /// Whether an attempt has to wait until all that it wrote again is compared, or for its end.
    pub(crate) fn waits_for_comparison(&self, id: StreamId, want: Want) -> bool {
        let replay = self.streams.get(&id).and_then(|stream| stream.replay.as_ref());
        replay.is_some_and(|replay| replay.diverged || want.at >= replay.until)
    }

    /// An attempt has finished the stream while it writes again what is there.
    pub(crate) fn finish_replay(&mut self, id: StreamId, word: u64) -> Result<(), StoreError> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let unnoticed = stream.is_unread() || !stream.is_subscribed();
        let Some(replay) = &mut stream.replay else { return Ok(()) };
        if unnoticed {
            // Nobody has read it who is still there, and nobody will. An attempt that is told so ends anywhere.
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

    /// The attempt that wrote again what is there is gone before it was done.
    pub(crate) fn drop_replay(&mut self, id: StreamId) {
        let pieces = self.streams.get_mut(&id).and_then(|stream| stream.replay.take()).map(|replay| replay.pieces);
        for piece in pieces.into_iter().flatten() {
            self.free(piece);
        }
    }

    /// A stream that was finished once has no other length when it is written again.
    pub(crate) fn check_promise(&mut self, id: StreamId, end: u64) {
        if let Some(promised) = self.streams.get(&id).and_then(|stream| stream.promised.filter(|&length| length < end))
        {
            self.diverge(id, format!("it wrote {end} bytes, but the attempt before had finished with {promised}"));
        }
    }

    /// The live window of an attempt that writes again what is there is full, or the last.
    pub(crate) fn close_replay(&mut self, id: StreamId, end: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (Some(replay), Some(fingerprint)) = (&mut stream.replay, &stream.fingerprint) else { return };
        let end = end.min(replay.room());
        let Some(piece) = replay.pieces.last_mut().filter(|piece| piece.end.is_none()) else { return };
        piece.end = Some(end);
        replay.written = end;
        if end > piece.base {
            let job = HashJob::new(id, piece, piece.base..end, Task::Compare, fingerprint);
            self.submit_hash(job);
        }
    }

    /// What was written again is the same up to `end`.
    fn found_same(&mut self, id: StreamId, end: u64) -> Result<(), StoreError> {
        let Some(replay) = self.streams.get_mut(&id).and_then(|stream| stream.replay.as_mut()) else { return Ok(()) };
        if end == replay.until {
            self.sample_readers(id);
            self.check_readers(id);
            return self.end_replay(id);
        }
        let compared: Vec<PieceState> =
            replay.pieces.extract_if(.., |piece| piece.end.is_some_and(|it| it <= end)).collect();
        for piece in compared {
            self.free(piece);
        }
        Ok(())
    }

    /// Everything is as it was: from here on the attempt writes for readers.
    fn end_replay(&mut self, id: StreamId) -> Result<(), StoreError> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let Some(mut replay) = stream.replay.take_if(|replay| !replay.diverged) else { return Ok(()) };
        let producer = stream.producer;
        let goes_on = |piece: &PieceState| !replay.finishing && piece.base + piece.capacity() > replay.until;
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

    /// The window in which the attempt has reached the old watermark becomes the stream's. It holds the last of the old
    /// bytes a second time, which has two merits: a tiny stream stays in its arena slot, and every piece begins at a
    /// whole block.
    fn graft(&mut self, id: StreamId, piece: PieceState) -> Result<(), StoreError> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let (base, producer) = (piece.base, stream.producer);
        stream.granted = stream.granted.max(base + piece.capacity());
        let mut covered = Vec::new();
        for mut old in std::mem::take(&mut stream.pieces) {
            if let Some(held) = old.held.take_if(|_| old.base >= base) {
                // What is on disk is nobody's any more, what is still mapped is freed when its readers leave.
                (old.place, old.users) = (Place::Window { memory: held.memory, ring: false }, held.users);
            }
            match old {
                old if old.base < base => {
                    let end = old.end.map(|end| end.min(base));
                    stream.pieces.push(PieceState { end, ..old });
                }
                // Somebody reads in it, and so it cannot be written yet. It is no part of the stream any more.
                old if !old.users.is_empty() && matches!(old.place, Place::Window { .. }) => {
                    stream.pieces.push(PieceState { end: Some(old.base), ..old });
                }
                // Others may read the same range of the file.
                old if matches!(old.place, Place::Spill(_)) => {}
                old => covered.push(old),
            }
        }
        let (place, window) = (piece.place.clone(), window_of(&piece));
        stream.pieces.push(PieceState { end: None, ..piece });
        for old in covered {
            self.free(old);
        }
        let Some((process, port)) = producer else { return Ok(()) };
        let waits = self.processes.get_mut(&process).and_then(|process| process.starved.remove(&port)).is_some();
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

    fn diverge(&mut self, id: StreamId, what: String) {
        if let Some(replay) = self.streams.get_mut(&id).and_then(|stream| stream.replay.as_mut()) {
            replay.diverged = true;
        }
        self.events.push(StoreEvent::Diverged(id, what));
    }
}

/// A slot of the writer's own arena as a window.
fn window_of(piece: &PieceState) -> Option<Window> {
    let Place::Arena { arena, offset, .. } = &piece.place else { return None };
    let size = piece.capacity();
    Some(Window { segment: arena.id, segment_offset: *offset, base: piece.base, size, ring: false })
}
