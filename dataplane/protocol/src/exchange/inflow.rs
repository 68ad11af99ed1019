//! The reading end of a flow.

use super::Violation;
use super::ranges::Ranges;
use crate::wire::{FlowId, PeerMessage, StreamKey};

/// The most gaps in the bytes that have arrived of one stream.
const MAX_GAPS: usize = 65_536;
/// Progress by this fraction of the window is acknowledged at once.
const ACK_FRACTION: u64 = 8;
/// Progress by this many bytes is acknowledged when this end has nothing else to do. Less can wait: it is a small part of
/// the smallest ring, so that it hardly holds up the writing end.
const IDLE_ACK: u64 = 32 * 1024;
/// With less credit left than this fraction of the window, the writing end may soon have to stop.
const LOW_FRACTION: u64 = 4;

/// When an acknowledgement is considered. Like TCP's, acknowledgements are delayed: most of them then ride on a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckTiming {
    /// Bytes have arrived, or there is new credit.
    Progress,
    /// This end has nothing else to do.
    Idle,
    /// It was delayed for long enough.
    Due,
}

#[derive(Debug)]
pub(super) struct Inflow {
    stream: StreamKey,
    arrived: Ranges,
    /// Bytes below this offset may be sent: there is room for them here.
    credit: u64,
    /// A window was granted; otherwise the bytes come inline.
    granted: bool,
    /// The size of the window, or the first credit.
    window: u64,
    finished: Option<u64>,
    stuck: bool,
    /// The peer's present process has been subscribed to, or an earlier one: a path has begun since the subscription, or had
    /// begun before it.
    pub(super) is_known: bool,
    /// The last acknowledgement and the last credit on this path.
    received_told: u64,
    credit_told: u64,
}

impl Inflow {
    pub(super) fn new(stream: StreamKey, until: u64) -> Self {
        Self {
            stream,
            arrived: Ranges::default(),
            credit: until,
            granted: false,
            window: until,
            finished: None,
            stuck: false,
            is_known: false,
            received_told: 0,
            credit_told: 0,
        }
    }

    /// The path is lost. Bytes above the first gap will come again.
    pub(super) fn suspend(&mut self) {
        self.arrived.keep_contiguous();
        self.finished = None;
        self.stuck = false;
    }

    /// The subscription, for a new path.
    pub(super) fn resume(&mut self, flow: FlowId) -> PeerMessage {
        self.received_told = self.received();
        // A window has to be granted on the new path before anything goes into it.
        self.credit_told = if self.granted { self.received() } else { self.credit };
        PeerMessage::Subscribe { flow, stream: self.stream, received: self.received_told, until: self.credit_told }
    }

    pub(super) fn stream(&self) -> StreamKey {
        self.stream
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
        self.credit = self.credit.max(until);
        self.credit_told = self.credit_told.max(until);
    }

    pub(super) fn extend(&mut self, until: u64) {
        self.credit = self.credit.max(until);
    }

    /// Whether that is a change.
    pub(super) fn set_stuck(&mut self, stuck: bool) -> bool {
        std::mem::replace(&mut self.stuck, stuck) != stuck
    }

    pub(super) fn placed(&mut self, flow: FlowId, at: u64, length: u64) -> Result<(), Violation> {
        let end = at.saturating_add(length);
        let most = self.credit_told.min(self.finished.unwrap_or(u64::MAX));
        if end > most {
            let expected = format!("nothing past {most}");
            return Err(Violation::value(flow, "bytes up to", end, expected));
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
        Err(Violation::value(flow, "the length of a stream", length, expected))
    }

    /// Whether something is not acknowledged yet.
    pub(super) fn is_behind(&self) -> bool {
        self.received() > self.received_told || self.credit > self.credit_told
    }

    /// The acknowledgement, with credit, if it is worth a message now. It always is where the writing end cannot go on
    /// without it.
    pub(super) fn acknowledge(&mut self, flow: FlowId, timing: AckTiming) -> Option<PeerMessage> {
        if !self.is_behind() {
            return None;
        }
        let step = (self.window / ACK_FRACTION).max(1);
        let step = if timing == AckTiming::Idle { step.min(IDLE_ACK) } else { step };
        let room = self.credit.saturating_sub(self.credit_told);
        let left = self.credit_told.saturating_sub(self.received());
        let low = if timing == AckTiming::Idle { self.window / LOW_FRACTION } else { 0 };
        let worth = self.received() - self.received_told >= step || room >= step || (room > 0 && left <= low);
        if !(worth || timing == AckTiming::Due) {
            return None;
        }
        self.received_told = self.received();
        self.credit_told = self.credit_told.max(self.credit);
        Some(PeerMessage::Credit { flow, received: self.received_told, until: self.credit_told })
    }
}
