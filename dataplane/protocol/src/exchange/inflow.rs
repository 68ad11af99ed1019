//! The reading end of a flow.

use super::Violation;
use super::ranges::Ranges;
use crate::wire::{FlowId, PeerMessage, StreamKey};

/// The most gaps in what has arrived of one stream.
const MAX_GAPS: usize = 65_536;
/// How far a stream gets, as a part of its window, before the writing end is told without need.
const STEPS: u64 = 8;
/// So many bytes are worth a message of their own to a writing end that has nothing else to do. Fewer may wait: what they
/// keep from being used again is a small part of the smallest ring.
const WORTH: u64 = 32 * 1024;
/// With less credit than this part of the window the writing end may soon have to stop.
const LOW: u64 = 4;

/// Why the writing end is told how far a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// Something has changed.
    News,
    /// This end has nothing else to do.
    Rest,
    /// It has been put off for long enough.
    Due,
}

#[derive(Debug)]
pub(super) struct Inflow {
    stream: StreamKey,
    arrived: Ranges,
    /// There is room for bytes below.
    until: u64,
    /// The room is a window that was granted; otherwise the bytes come inline.
    granted: bool,
    /// The size of the room.
    window: u64,
    finished: Option<u64>,
    stuck: bool,
    /// What the writing end was told last on this path.
    told_received: u64,
    told_until: u64,
}

impl Inflow {
    pub(super) fn new(stream: StreamKey, until: u64) -> Self {
        Self {
            stream,
            arrived: Ranges::default(),
            until,
            granted: false,
            window: until,
            finished: None,
            stuck: false,
            told_received: 0,
            told_until: 0,
        }
    }

    /// Bytes above the first gap will come again.
    pub(super) fn suspend(&mut self) {
        self.arrived.keep_contiguous();
        self.finished = None;
        self.stuck = false;
    }

    /// The subscription, for a new path.
    pub(super) fn resume(&mut self, flow: FlowId) -> PeerMessage {
        self.told_received = self.received();
        // A window has to be granted on the new path before anything goes into it.
        self.told_until = if self.granted { self.received() } else { self.until };
        PeerMessage::Subscribe { flow, stream: self.stream, received: self.told_received, until: self.told_until }
    }

    pub(super) fn received(&self) -> u64 {
        self.arrived.contiguous()
    }

    pub(super) fn is_granted(&self) -> bool {
        self.granted
    }

    /// The stream's length, if all of it has arrived.
    pub(super) fn is_complete(&self) -> Option<u64> {
        self.finished.filter(|&length| length == self.received())
    }

    /// A window was granted.
    pub(super) fn granted(&mut self, size: u64, until: u64) {
        self.granted = true;
        self.window = size;
        self.until = self.until.max(until);
        self.told_until = self.told_until.max(until);
    }

    pub(super) fn room(&mut self, until: u64) {
        self.until = self.until.max(until);
    }

    /// Whether that is news.
    pub(super) fn set_stuck(&mut self, stuck: bool) -> bool {
        std::mem::replace(&mut self.stuck, stuck) != stuck
    }

    pub(super) fn placed(&mut self, flow: FlowId, at: u64, length: u64) -> Result<(), Violation> {
        let end = at.saturating_add(length);
        let most = self.told_until.min(self.finished.unwrap_or(u64::MAX));
        if end > most {
            let expected = format!("nothing past {most}");
            return Err(Violation::Value { flow, what: "bytes up to", value: end, expected });
        }
        self.arrived.insert(at, end);
        if self.arrived.islands() > MAX_GAPS {
            return Err(Violation::TooMany { what: "gaps in a stream", limit: MAX_GAPS });
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, flow: FlowId, length: u64) -> Result<(), Violation> {
        let expected = match self.finished {
            Some(before) if before != length => format!("{before}, as it said before"),
            None if length < self.received() => format!("{} or more", self.received()),
            _ => {
                self.finished = Some(length);
                return Ok(());
            }
        };
        Err(Violation::Value { flow, what: "the length of a stream", value: length, expected })
    }

    /// Whether the writing end does not know everything.
    pub(super) fn has_news(&self) -> bool {
        self.received() > self.told_received || self.until > self.told_until
    }

    /// How far the stream is, for the writing end, if it is worth a message on this occasion: it always is if the writing
    /// end cannot go on without it.
    pub(super) fn credit(&mut self, flow: FlowId, occasion: Occasion) -> Option<PeerMessage> {
        if !self.has_news() {
            return None;
        }
        let step = (self.window / STEPS).max(1);
        let step = if occasion == Occasion::Rest { step.min(WORTH) } else { step };
        let room = self.until.saturating_sub(self.told_until);
        let left = self.told_until.saturating_sub(self.received());
        let low = if occasion == Occasion::Rest { self.window / LOW } else { 0 };
        let worth = self.received() - self.told_received >= step || room >= step || (room > 0 && left <= low);
        if !(worth || occasion == Occasion::Due) {
            return None;
        }
        self.told_received = self.received();
        self.told_until = self.told_until.max(self.until);
        Some(PeerMessage::Credit { flow, received: self.told_received, until: self.told_until })
    }
}
