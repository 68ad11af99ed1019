//! One epoch of a stream: its bytes, and the state of the attempts that write it.

use crate::RunStream;
use crate::error::StoreError;
use crate::fingerprint::{BLOCK, Fingerprint};
use crate::hash::{HashJob, Task};
use crate::input::InputFiles;
use crate::pieces::{Piece, Pieces, Place};
use crate::process::Endpoint;
use crate::replay::Replay;
use dflow_disk::SpillFile;
use dflow_protocol::words::{Progress, State, is_possible};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// An epoch of a stream. To abort a stream is to replace this value.
///
/// What it knows of the producer's progress only grows: the watermark, the granted room, what readers may have seen.
/// Its pieces and its replay keep rules of their own.
#[derive(Debug, Default)]
pub(crate) struct Epoch {
    /// The process that writes the stream, and its port.
    producer: Option<Endpoint>,
    /// The carrier's port by which it has come from another node, which is over. The port is used again when no reader looks at
    /// its words any more.
    carried_by: Option<Endpoint>,
    pub(crate) pieces: Pieces,
    /// The window behind the live one, where bytes that come from another node may land already.
    ahead: Option<Piece>,
    /// Its length, once it is finished.
    finished: Option<u64>,
    /// The last words of its present producer, once they have said that the stream ends.
    ended: Option<Progress>,
    /// The largest watermark that has been seen.
    watermark: u64,
    /// The offset below which its producers were ever granted room; [`u64::MAX`] once there was a ring.
    granted: u64,
    first_bytes: bool,
    /// The producer has been told that no reader is left.
    unread_told: bool,
    spill: Option<Arc<SpillFile>>,
    /// Hashes with which later attempts are compared, if they are to continue the epoch.
    fingerprint: Option<Arc<Mutex<Fingerprint>>>,
    /// The offset up to which bytes have been hashed, or will be when the jobs under way complete.
    hashed: u64,
    /// An attempt writes again what an earlier one has written.
    pub(crate) replay: Option<Replay>,
    /// The length with which an earlier attempt has finished the stream. Readers may have seen it.
    promised: Option<u64>,
    /// Readers have seen bytes that a dead attempt did not leave, so that no attempt can continue the epoch.
    overread: bool,
}

impl Epoch {
    /// The finished epoch of a stream that consists of files.
    pub(crate) fn of_files(files: InputFiles) -> Self {
        let length = files.length();
        let mut epoch = Self::default();
        if length > 0 {
            epoch.pieces.push(Piece::new(0, Some(length), Place::Input(Rc::new(files))));
        }
        epoch.first_bytes = true;
        epoch.finish(length);
        epoch
    }

    /// The process that writes the stream, and its port.
    pub(crate) fn producer(&self) -> Option<Endpoint> {
        self.producer
    }

    /// Whether this port of a process writes the epoch.
    pub(crate) fn is_written_by(&self, producer: Endpoint) -> bool {
        self.producer == Some(producer)
    }

    /// Sets the producer and returns the one before. Only [`crate::run::Runs::set_producer`] calls it, which counts the
    /// producers of a run.
    pub(crate) fn replace_producer(&mut self, producer: Option<Endpoint>) -> Option<Endpoint> {
        std::mem::replace(&mut self.producer, producer)
    }

    /// The carrier has left the port by which the stream has come.
    pub(crate) fn leave_port(&mut self, port: Endpoint) {
        self.carried_by = Some(port);
    }

    /// The carrier's port by which the stream has come, to be retired. It is returned once.
    pub(crate) fn take_port(&mut self) -> Option<Endpoint> {
        self.carried_by.take()
    }

    /// Its length, once it is finished.
    pub(crate) fn finished(&self) -> Option<u64> {
        self.finished
    }

    /// Whether every byte below the watermark is still here.
    pub(crate) fn is_whole(&self) -> bool {
        self.pieces.are_whole(self.watermark)
    }

    /// The stream is complete.
    pub(crate) fn finish(&mut self, length: u64) {
        self.watermark = length;
        self.finished = Some(length);
    }

    /// The length with which an earlier attempt has finished the stream.
    pub(crate) fn promised(&self) -> Option<u64> {
        self.promised
    }

    /// The largest watermark that readers may have seen.
    pub(crate) fn watermark(&self) -> u64 {
        self.watermark
    }

    /// All bytes below `offset` are written.
    pub(crate) fn reach(&mut self, offset: u64) {
        self.watermark = self.watermark.max(offset);
    }

    /// The offset below which producers were ever granted room, and so an upper bound of every reader's position.
    pub(crate) fn granted(&self) -> u64 {
        self.granted.max(self.watermark)
    }

    /// The stream has bytes. Returns whether that was not known.
    pub(crate) fn announce_first_bytes(&mut self) -> bool {
        !std::mem::replace(&mut self.first_bytes, true)
    }

    /// Whether the producer has been told that no reader is left.
    pub(crate) fn was_told_unread(&self) -> bool {
        self.unread_told
    }

    /// The producer to be told, once, that no reader is left: none if the stream is finished.
    pub(crate) fn tell_unread(&mut self) -> Option<Endpoint> {
        let producer = self.producer.filter(|_| self.finished.is_none() && !self.unread_told)?;
        self.unread_told = true;
        Some(producer)
    }

    /// Readers have seen bytes that a dead attempt did not leave.
    pub(crate) fn note_overread(&mut self) {
        self.overread = true;
    }

    /// Whether no attempt can continue the epoch: see [`Epoch::note_overread`].
    pub(crate) fn is_overread(&self) -> bool {
        self.overread
    }

    /// The file for its cold windows, made for the first of them.
    pub(crate) fn spill_file(
        &mut self,
        create: impl FnOnce() -> Result<SpillFile, StoreError>,
    ) -> Result<Arc<SpillFile>, StoreError> {
        let file = match &self.spill {
            Some(file) => file,
            None => self.spill.insert(Arc::new(create()?)),
        };
        Ok(Arc::clone(file))
    }

    /// Hashes what is written from now on, so that a later attempt may continue the epoch, which is empty.
    pub(crate) fn remember(&mut self) {
        self.fingerprint = Some(Arc::default());
    }

    /// Whether what is written is hashed.
    pub(crate) fn is_remembered(&self) -> bool {
        self.fingerprint.is_some()
    }

    /// The hashes with which a later attempt is compared.
    pub(crate) fn fingerprint(&self) -> Option<Arc<Mutex<Fingerprint>>> {
        self.fingerprint.clone()
    }

    /// A job that hashes what is new in the last piece, which the producer has just left.
    pub(crate) fn next_to_hash(&mut self, id: RunStream) -> Option<HashJob> {
        let (fingerprint, piece) = (self.fingerprint.as_ref()?, self.pieces.last_mut()?);
        let end = piece.end.unwrap_or(piece.base);
        if end <= self.hashed.max(piece.base) {
            return None;
        }
        // An incomplete block is hashed again as a whole.
        let start = (self.hashed / BLOCK * BLOCK).max(piece.base);
        self.hashed = end;
        HashJob::new(id, piece, start..end, Task::Record, fingerprint)
    }

    /// The window behind the live one.
    pub(crate) fn ahead(&self) -> Option<&Piece> {
        self.ahead.as_ref()
    }

    /// The producer has reached the window ahead, which becomes the live one.
    pub(crate) fn enter_ahead(&mut self) {
        if let Some(piece) = self.ahead.take() {
            self.reach(piece.base);
            self.pieces.push(piece);
        }
    }

    /// Gives up the window ahead; it is to be freed.
    pub(crate) fn take_ahead(&mut self) -> Option<Piece> {
        self.ahead.take()
    }

    /// Whether the producer may ask for a window at `at` before its present one is full: where the room that it has
    /// ends, and where that is an extent, because a ring is written again and again.
    pub(crate) fn may_ask_ahead(&self, at: u64) -> bool {
        self.replay.is_none()
            && self.room() == at
            && self.pieces.live().is_some_and(|piece| !piece.is_ring())
            && self.ahead.as_ref().is_none_or(|ahead| !ahead.is_ring())
    }

    /// The largest watermark that the producer was seen to have reached.
    pub(crate) fn written(&self) -> u64 {
        self.replay.as_ref().map_or(self.watermark, |replay| replay.written)
    }

    /// The largest watermark that the granted memory allows; [`u64::MAX`] for a ring, which only its users limit.
    pub(crate) fn room(&self) -> u64 {
        match (&self.replay, self.pieces.live()) {
            (Some(replay), _) => replay.room(),
            (None, Some(piece)) => self.ahead.as_ref().unwrap_or(piece).room_end(),
            (None, None) => self.watermark,
        }
    }

    /// The producer may write into this piece from now on.
    pub(crate) fn add_piece(&mut self, piece: Piece) {
        self.watermark = self.watermark.max(piece.base);
        self.granted = self.granted.max(piece.room_end());
        self.pieces.push(piece);
    }

    /// Bytes may land in this piece before the producer has come to it.
    pub(crate) fn add_ahead(&mut self, piece: Piece) {
        self.granted = self.granted.max(piece.room_end());
        self.ahead = Some(piece);
    }

    /// Checks a producer's words. A watermark never decreases and never exceeds the room that was granted, the end of a
    /// stream is final, and only the daemon aborts one.
    pub(crate) fn check(&self, word: Progress) -> Result<(), String> {
        match self.ended {
            // The words stay as they are after the end and are looked at again, for example when the attempt exits.
            Some(ended) if ended == word => return Ok(()),
            Some(ended) => {
                return Err(format!(
                    "its output had ended at {}, and then its words said '{:?}' at {}",
                    ended.offset, word.state, word.offset
                ));
            }
            None if word.state == State::Aborted => {
                return Err("its words say that its output is aborted, which only the daemon decides".into());
            }
            None => {}
        }
        let (written, room) = (self.written(), self.room());
        if !is_possible(written, word.offset, room) {
            return Err(format!(
                "its watermark jumped from {written} to {}, but it was granted room up to {room}",
                word.offset
            ));
        }
        Ok(())
    }

    /// Records a producer's words: progress that the daemon has observed never moves backwards.
    pub(crate) fn note(&mut self, progress: Progress) {
        if self.replay.is_none() {
            self.watermark = self.watermark.max(progress.offset);
        }
        if progress.state == State::Finished {
            self.ended = Some(progress);
        }
    }

    /// Records the last words of a producer of which nothing runs any more.
    pub(crate) fn note_last(&mut self, progress: Progress) {
        self.ended = Some(progress);
    }

    /// Where its producer has ended the stream; `word` is what its words say now, and counts if they have not said so.
    pub(crate) fn ended_at(&self, word: u64) -> u64 {
        self.ended.map_or(word, |ended| ended.offset)
    }

    /// The length with which the epoch ends if its producer's words say `word`: never more than the memory that was
    /// granted holds.
    pub(crate) fn length(&self, word: u64) -> u64 {
        self.ended_at(word).min(self.room()).max(self.watermark)
    }

    /// The attempt that wrote it is dead, and the next one will write the same bytes. Bytes that were written stay. If
    /// there are none, the pieces are returned to be freed.
    pub(crate) fn continue_by_next_attempt(&mut self) -> Vec<Piece> {
        self.promised = self.finished.take().or(self.promised);
        self.ended = None;
        self.unread_told = false;
        // Without recorded hashes, every byte counts as different.
        self.fingerprint.get_or_insert_default();
        if self.watermark == 0 {
            // Nothing was read, so there is nothing to compare with.
            return self.pieces.take();
        }
        self.replay = Some(Replay::new(self.watermark));
        Vec::new()
    }

    /// Everything that holds memory or disk space, to be given back.
    pub(crate) fn into_pieces(mut self) -> Vec<Piece> {
        let mut pieces = self.pieces.take();
        pieces.extend(self.ahead);
        pieces.extend(self.replay.into_iter().flat_map(Replay::into_pieces));
        pieces
    }
}
