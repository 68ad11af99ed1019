//! What belongs to one epoch of a stream: its bytes, and what is known of the attempts that write it.

use crate::fingerprint::Fingerprint;
use crate::pieces::{Piece, Pieces};
use crate::process::Endpoint;
use crate::replay::Replay;
use dflow_disk::SpillFile;
use dflow_protocol::words::{Progress, State, is_possible};
use std::sync::{Arc, Mutex};

/// An epoch of a stream. A stream that is aborted gets a new one; nothing of the old one is left.
#[derive(Debug, Default)]
pub(crate) struct Epoch {
    /// The process that writes the stream, and its port.
    pub(crate) producer: Option<Endpoint>,
    pub(crate) pieces: Pieces,
    /// The window behind the live one, where bytes that come from another node may land already.
    pub(crate) ahead: Option<Piece>,
    /// Its length, once it is finished.
    pub(crate) finished: Option<u64>,
    /// What its present producer's words said when they said that this is the end.
    pub(crate) ended: Option<Progress>,
    /// The largest watermark that has been seen.
    pub(crate) watermark: u64,
    /// Up to where its producers may ever have written; everything once there was a ring.
    pub(crate) granted: u64,
    pub(crate) first_bytes: bool,
    /// The producer has been told that nobody reads.
    pub(crate) unread_told: bool,
    pub(crate) spill: Option<Arc<SpillFile>>,
    /// What later attempts are compared with, if they are to continue the epoch.
    pub(crate) fingerprint: Option<Arc<Mutex<Fingerprint>>>,
    /// Up to where the fingerprint reaches, or will when its hash jobs are done.
    pub(crate) hashed: u64,
    /// An attempt writes again what is there already.
    pub(crate) replay: Option<Replay>,
    /// An earlier attempt has finished the stream with this length, and readers may know it.
    pub(crate) promised: Option<u64>,
    /// What readers have read is not what a dead attempt has left, so no other attempt can continue it.
    pub(crate) overread: bool,
}

impl Epoch {
    /// The largest watermark that the producer was seen to have reached.
    pub(crate) fn written(&self) -> u64 {
        self.replay.as_ref().map_or(self.watermark, |replay| replay.written)
    }

    /// The largest watermark that the granted memory allows. How far a ring goes is a matter between its users.
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

    /// What is wrong with a producer's words. A watermark never goes back and never passes the room that was granted, an
    /// end stays what it is, and that an attempt has given up is for the daemon to say.
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
                return Err("its words say that its output was given up, which no function says".into());
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

    /// Remembers what a producer's words have said, so that they cannot take it back.
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

    /// The attempt that wrote it is dead, and the next one will write the same bytes. What was written stays; with nothing
    /// written, the pieces are of no use to anybody and are returned.
    pub(crate) fn continue_by_next_attempt(&mut self) -> Vec<Piece> {
        self.promised = self.finished.take().or(self.promised);
        self.ended = None;
        self.unread_told = false;
        // Without one, everything is a difference.
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
