//! One epoch of a stream: its bytes, and the state of the attempts that write it.

use crate::fingerprint::Fingerprint;
use crate::pieces::{Piece, Pieces};
use crate::process::Endpoint;
use crate::replay::Replay;
use dflow_disk::SpillFile;
use dflow_protocol::words::{Progress, State, is_possible};
use std::sync::{Arc, Mutex};

/// An epoch of a stream. To abort a stream is to replace this value.
#[derive(Debug, Default)]
pub(crate) struct Epoch {
    /// The process that writes the stream, and its port.
    pub(crate) producer: Option<Endpoint>,
    /// The carrier's port by which it has come from another node, which is over. The port is used again when no reader looks at
    /// its words any more.
    pub(crate) carried_by: Option<Endpoint>,
    pub(crate) pieces: Pieces,
    /// The window behind the live one, where bytes that come from another node may land already.
    pub(crate) ahead: Option<Piece>,
    /// Its length, once it is finished.
    pub(crate) finished: Option<u64>,
    /// The last words of its present producer, once they have said that the stream ends.
    pub(crate) ended: Option<Progress>,
    /// The largest watermark that has been seen.
    pub(crate) watermark: u64,
    /// The offset below which its producers were ever granted room; [`u64::MAX`] once there was a ring.
    pub(crate) granted: u64,
    pub(crate) first_bytes: bool,
    /// The producer has been told that no reader is left.
    pub(crate) unread_told: bool,
    pub(crate) spill: Option<Arc<SpillFile>>,
    /// Hashes with which later attempts are compared, if they are to continue the epoch.
    pub(crate) fingerprint: Option<Arc<Mutex<Fingerprint>>>,
    /// The offset up to which bytes have been hashed, or will be when the jobs under way complete.
    pub(crate) hashed: u64,
    /// An attempt writes again what an earlier one has written.
    pub(crate) replay: Option<Replay>,
    /// The length with which an earlier attempt has finished the stream. Readers may have seen it.
    pub(crate) promised: Option<u64>,
    /// Readers have seen bytes that a dead attempt did not leave, so that no attempt can continue the epoch.
    pub(crate) overread: bool,
}

impl Epoch {
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

    /// The length with which the epoch ends if its producer's words say `word`: never more than the memory that was
    /// granted holds.
    pub(crate) fn length(&self, word: u64) -> u64 {
        let word = self.ended.map_or(word, |ended| ended.offset);
        word.min(self.room()).max(self.watermark)
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
