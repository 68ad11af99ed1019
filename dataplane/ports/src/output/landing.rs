//! Writing for another node: bytes land in the window from outside and are then committed.

use super::OutPort;
use crate::error::{SessionError, WriteError};
use dflow_protocol::message::{ToDaemon, Window};
use dflow_shm::{Landing, Memory, Room};
use std::sync::Arc;
use std::time::Instant;

/// How far bytes may land: [`OutPort::poll_landing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoomNow {
    /// Bytes below this offset may land.
    Until(u64),
    /// None at present.
    None,
    /// None, and waiting for the readers does not help.
    Stuck,
    /// Nobody reads the stream any more.
    Unread,
}

/// The window behind the present one. It is granted before the present one is full, so that a node which fills both from
/// outside does not have to pause.
pub(super) enum Ahead {
    /// None, and none is asked for before the stream has this length.
    None { from: u64 },
    /// It has been asked for.
    Asked,
    /// It is there.
    Granted { window: Window, memory: Arc<Memory>, start: usize },
}

impl Ahead {
    /// If the daemon does not grant one, it is asked again after this part of the present window.
    pub(super) const PARTS: u64 = 4;

    pub(super) fn from(length: u64) -> Self {
        Self::None { from: length }
    }

    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Asked)
    }
}

impl OutPort {
    /// How far there is room now; asks for more where that is due.
    pub(crate) fn poll_landing(&mut self, now: Instant) -> Result<RoomNow, WriteError> {
        if self.session.has_news(self.seen) {
            self.take_mail()?;
        }
        if self.unread {
            return Ok(RoomNow::Unread);
        }
        self.enter_ahead();
        let room = self.writer.room(1);
        if room == Room::Enough && !self.asked {
            (self.stuck, self.retry) = (false, None);
            self.ask_ahead()?;
            return Ok(RoomNow::Until(self.writer.room_end()));
        }
        self.ask_when_due(1, room, now)?;
        Ok(if self.stuck { RoomNow::Stuck } else { RoomNow::None })
    }

    /// Asks for the window behind the present one. Only streams whose bytes are kept need it: the room of a ring is granted
    /// as its readers move.
    fn ask_ahead(&mut self) -> Result<(), SessionError> {
        let (Ahead::None { from }, written) = (&self.ahead, self.writer.watermark()) else { return Ok(()) };
        if written < *from || self.writer.remaining() == 0 {
            return Ok(());
        }
        let at = written + self.writer.remaining();
        self.ahead = Ahead::Asked;
        self.session.send(&ToDaemon::NeedWindow { port: self.port, at, least: 1, held: false })
    }

    /// Goes on in the window behind the present one, if the present one is full.
    pub(super) fn enter_ahead(&mut self) {
        let watermark = self.writer.watermark();
        if let Ahead::Granted { window, .. } = &self.ahead
            && window.base <= watermark
            && let Ahead::Granted { window, memory, start } = std::mem::replace(&mut self.ahead, Ahead::from(watermark))
        {
            self.writer.set_window(&window, memory, start);
        }
    }

    /// The window behind the present one, if there is one: nothing is written there, but it can be filled from outside.
    pub(crate) fn landing_ahead(&self) -> Option<Landing> {
        let Ahead::Granted { window, memory, start } = &self.ahead else { return None };
        Some(Landing::new(window, Arc::clone(memory), *start))
    }

    /// The present window, to be filled from outside.
    pub(crate) fn landing(&self) -> Option<Landing> {
        self.writer.landing()
    }

    /// Commits bytes that have landed in the present window and in those behind it.
    pub(crate) fn commit_landed(&mut self, upto: u64) -> Result<(), WriteError> {
        loop {
            let left = upto.saturating_sub(self.writer.watermark());
            let here = left.min(self.writer.room_end().saturating_sub(self.writer.watermark()));
            if here > 0 {
                self.commit(here)?;
            }
            self.enter_ahead();
            if here == left {
                return Ok(());
            }
            if here == 0 && self.writer.room_end() <= self.writer.watermark() {
                return Err(WriteError::NoWindow { output: self.name.to_string() });
            }
        }
    }

    /// Nothing lands in any window of this output any more, and the stream is given up.
    pub(crate) fn give_up(&self) -> Result<(), SessionError> {
        self.session.send(&ToDaemon::CloseOutput { port: self.port })
    }
}
