//! The writing end of a flow.

use super::{Order, Violation};
use crate::ids::RunId;
use crate::limits::MAX_INLINE;
use crate::wire::{FlowId, Grant, PeerMessage, StreamKey};
use std::collections::VecDeque;

/// The most bytes of one write.
const MAX_WRITE: u64 = 256 * 1024;
/// The most windows of a flow at the same time: the present one and those after it.
const MAX_GRANTS: usize = 4;

#[derive(Debug)]
pub(super) struct Outflow {
    stream: StreamKey,
    /// The reading end has subscribed on the present path.
    resumed: bool,
    /// The stream's watermark.
    available: u64,
    outcome: Option<Outcome>,
    outcome_told: bool,
    /// Bytes below have been sent on this path, or had arrived before it.
    sent: u64,
    /// Bytes below have been sent on any path.
    ever_sent: u64,
    /// Bytes below have arrived.
    received: u64,
    /// Bytes below may be sent.
    credit: u64,
    grants: VecDeque<Grant>,
}

#[derive(Clone, Debug)]
enum Outcome {
    Finished(u64),
    Aborted(String),
}

impl Outflow {
    pub(super) fn new(stream: StreamKey, received: u64, until: u64) -> Self {
        Self {
            stream,
            resumed: true,
            available: received,
            outcome: None,
            outcome_told: false,
            sent: received,
            ever_sent: received,
            received,
            credit: until,
            grants: VecDeque::new(),
        }
    }

    pub(super) fn stream(&self) -> StreamKey {
        self.stream
    }

    pub(super) fn run(&self) -> RunId {
        self.stream.run()
    }

    /// The path is lost.
    pub(super) fn suspend(&mut self) {
        self.resumed = false;
        self.outcome_told = false;
        self.grants.clear();
    }

    /// The reading end subscribes on a new path, from the first byte that it lacks. Returns that offset if it acknowledges
    /// more than was known.
    pub(super) fn resume(
        &mut self,
        flow: FlowId,
        stream: StreamKey,
        received: u64,
        until: u64,
    ) -> Result<Option<u64>, Violation> {
        if self.resumed || stream != self.stream {
            let expected = "another number: this one is in use".to_owned();
            return Err(Violation::value(flow, "a subscription", flow.0, expected));
        }
        self.resumed = true;
        let released = self.acknowledge(flow, received)?;
        self.sent = received;
        self.credit = until;
        Ok(released)
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.resumed
    }

    pub(super) fn available(&mut self, watermark: u64) {
        self.available = self.available.max(watermark);
    }

    pub(super) fn finish(&mut self, length: u64) {
        if self.outcome.is_none() {
            self.available = self.available.max(length);
            self.outcome = Some(Outcome::Finished(length));
        }
    }

    pub(super) fn abort(&mut self, reason: String) {
        self.outcome = Some(Outcome::Aborted(reason));
        self.outcome_told = false;
    }

    /// How the stream has ended, for the reading end: once on each path.
    pub(super) fn outcome(&mut self, flow: FlowId) -> Option<PeerMessage> {
        if !self.resumed || std::mem::replace(&mut self.outcome_told, self.outcome.is_some()) {
            return None;
        }
        self.outcome.clone().map(|outcome| match outcome {
            Outcome::Finished(length) => PeerMessage::Finished { flow, length },
            Outcome::Aborted(reason) => PeerMessage::Aborted { flow, reason },
        })
    }

    /// Bytes below `received` have arrived. Returns the offset if it has grown.
    pub(super) fn acknowledge(&mut self, flow: FlowId, received: u64) -> Result<Option<u64>, Violation> {
        if received < self.received || received > self.ever_sent {
            let expected = format!("{} to {}", self.received, self.ever_sent);
            return Err(Violation::value(flow, "what has arrived", received, expected));
        }
        let has_grown = received > self.received;
        self.received = received;
        Ok(has_grown.then_some(received))
    }

    pub(super) fn extend(&mut self, flow: FlowId, until: u64) -> Result<(), Violation> {
        if until < self.credit {
            let expected = format!("{} or more", self.credit);
            return Err(Violation::value(flow, "credit", until, expected));
        }
        self.credit = until;
        Ok(())
    }

    pub(super) fn grant(&mut self, flow: FlowId, grant: Grant) -> Result<(), Violation> {
        if self.grants.back().is_some_and(|last| grant.base < last.base) {
            let expected = "one behind the last".to_owned();
            return Err(Violation::value(flow, "a grant from offset", grant.base, expected));
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
        let end = self.available.min(self.credit);
        if !self.resumed || matches!(self.outcome, Some(Outcome::Aborted(_))) || at >= end {
            return None;
        }
        let grant = self.grants.front().filter(|grant| grant.base <= at).copied();
        let most = match &grant {
            Some(grant) => grant.contiguous(at).min(MAX_WRITE),
            None => MAX_INLINE as u64,
        };
        // Bytes of the next window must not go into this one.
        let next = self.grants.iter().map(|grant| grant.base).find(|&base| base > at).unwrap_or(u64::MAX);
        let most = most.min(end - at).min(next - at);
        (most > 0).then_some(Order { flow, grant, at, most })
    }

    pub(super) fn wrote(&mut self, length: u64) {
        self.sent += length;
        self.ever_sent = self.ever_sent.max(self.sent);
        self.leave_windows();
    }

    /// Forgets windows whose successor takes the next byte.
    fn leave_windows(&mut self) {
        while self.grants.get(1).is_some_and(|next| next.base <= self.sent) {
            self.grants.pop_front();
        }
    }
}
