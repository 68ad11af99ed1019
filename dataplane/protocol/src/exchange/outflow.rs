//! The writing end of a flow.

use super::{Order, Violation};
use crate::limits::MAX_INLINE;
use crate::wire::{FlowId, Grant, PeerMessage, StreamKey};
use std::collections::VecDeque;

/// The most bytes of one write: a flow that has been asked to send gives way to others after it.
const MAX_WRITE: u64 = 256 * 1024;
/// The most windows that a flow may have at the same time: the present one and those after it.
const MAX_GRANTS: usize = 4;

#[derive(Debug)]
pub(super) struct Outflow {
    stream: StreamKey,
    /// The path knows of it: the reading end has said how far it is.
    resumed: bool,
    /// The stream's watermark.
    available: u64,
    end: Option<End>,
    end_told: bool,
    /// Bytes below have been sent on this path, or had arrived before it.
    sent: u64,
    /// Bytes below have been sent on any path.
    ever_sent: u64,
    /// Bytes below have arrived.
    received: u64,
    until: u64,
    grants: VecDeque<Grant>,
}

#[derive(Clone, Debug)]
enum End {
    Finished(u64),
    Aborted(String),
}

impl Outflow {
    pub(super) fn new(stream: StreamKey, received: u64, until: u64) -> Self {
        Self {
            stream,
            resumed: true,
            available: received,
            end: None,
            end_told: false,
            sent: received,
            ever_sent: received,
            received,
            until,
            grants: VecDeque::new(),
        }
    }

    /// The path is gone.
    pub(super) fn suspend(&mut self) {
        self.resumed = false;
        self.end_told = false;
        self.grants.clear();
    }

    /// The reading end goes on from where it has everything; how far it was not known to be, if it is further.
    pub(super) fn resume(
        &mut self,
        flow: FlowId,
        stream: StreamKey,
        received: u64,
        until: u64,
    ) -> Result<Option<u64>, Violation> {
        if self.resumed || stream != self.stream {
            let expected = "another number: this one is in use".to_owned();
            return Err(Violation::Value { flow, what: "a subscription", value: flow.0.into(), expected });
        }
        self.resumed = true;
        let released = self.acknowledge(flow, received)?;
        self.sent = received;
        self.until = until;
        Ok(released)
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.resumed
    }

    pub(super) fn available(&mut self, watermark: u64) {
        self.available = self.available.max(watermark);
    }

    pub(super) fn finish(&mut self, length: u64) {
        if self.end.is_none() {
            self.available = self.available.max(length);
            self.end = Some(End::Finished(length));
        }
    }

    pub(super) fn abort(&mut self, reason: String) {
        self.end = Some(End::Aborted(reason));
        self.end_told = false;
    }

    /// What the reading end must be told about the stream's end, once on each path.
    pub(super) fn end(&mut self, flow: FlowId) -> Option<PeerMessage> {
        if !self.resumed || std::mem::replace(&mut self.end_told, self.end.is_some()) {
            return None;
        }
        self.end.clone().map(|end| match end {
            End::Finished(length) => PeerMessage::Finished { flow, length },
            End::Aborted(reason) => PeerMessage::Aborted { flow, reason },
        })
    }

    /// Bytes below `received` have arrived; the offset, if that is news.
    pub(super) fn acknowledge(&mut self, flow: FlowId, received: u64) -> Result<Option<u64>, Violation> {
        if received < self.received || received > self.ever_sent {
            let expected = format!("{} to {}", self.received, self.ever_sent);
            return Err(Violation::Value { flow, what: "what has arrived", value: received, expected });
        }
        let news = received > self.received;
        self.received = received;
        Ok(news.then_some(received))
    }

    pub(super) fn credit(&mut self, flow: FlowId, until: u64) -> Result<(), Violation> {
        if until < self.until {
            let expected = format!("{} or more", self.until);
            return Err(Violation::Value { flow, what: "credit", value: until, expected });
        }
        self.until = until;
        Ok(())
    }

    pub(super) fn grant(&mut self, flow: FlowId, grant: Grant) -> Result<(), Violation> {
        if self.grants.back().is_some_and(|last| grant.base < last.base) {
            let expected = "one behind the last".to_owned();
            return Err(Violation::Value { flow, what: "a grant from offset", value: grant.base, expected });
        }
        if self.grants.len() >= MAX_GRANTS {
            return Err(Violation::TooMany { what: "windows for one flow", limit: MAX_GRANTS });
        }
        self.grants.push_back(grant);
        self.leave_windows();
        Ok(())
    }

    /// What may be sent now.
    pub(super) fn order(&self, flow: FlowId) -> Option<Order> {
        let at = self.sent;
        let end = self.available.min(self.until);
        if !self.resumed || matches!(self.end, Some(End::Aborted(_))) || at >= end {
            return None;
        }
        let grant = self.grants.front().filter(|grant| grant.base <= at).copied();
        let most = match &grant {
            Some(grant) => grant.contiguous(at).min(MAX_WRITE),
            None => MAX_INLINE as u64,
        };
        // What belongs into the window after this one does not go into this one.
        let next = self.grants.iter().map(|grant| grant.base).find(|&base| base > at).unwrap_or(u64::MAX);
        let most = most.min(end - at).min(next - at);
        (most > 0).then_some(Order { flow, grant, at, most })
    }

    pub(super) fn wrote(&mut self, length: u64) {
        self.sent += length;
        self.ever_sent = self.ever_sent.max(self.sent);
        self.leave_windows();
    }

    /// Forgets windows behind which there is another that takes the next byte.
    fn leave_windows(&mut self) {
        while self.grants.get(1).is_some_and(|next| next.base <= self.sent) {
            self.grants.pop_front();
        }
    }
}
