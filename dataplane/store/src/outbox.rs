//! The store's output: messages to attempts, and events.

use crate::ProcessId;
use crate::store::StoreEvent;
use dflow_protocol::SegmentId;
use dflow_protocol::message::ToFunction;
use std::os::fd::OwnedFd;

/// A message to an attempt, in the order in which it must be queued.
#[derive(Debug)]
pub struct Outgoing {
    /// The attempt.
    pub process: ProcessId,
    /// The attempt's bell, to be rung when the message is queued.
    pub bell: u32,
    /// The message.
    pub message: ToFunction,
    /// A descriptor that goes with it.
    pub fd: Option<OwnedFd>,
}

/// Messages and events that wait to be taken.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    messages: Vec<Outgoing>,
    events: Vec<StoreEvent>,
    /// How many segments were ever numbered.
    segments: u64,
}

impl Outbox {
    pub(crate) fn send(&mut self, message: Outgoing) {
        self.messages.push(message);
    }

    pub(crate) fn tell(&mut self, event: StoreEvent) {
        self.events.push(event);
    }

    /// A new number for a segment that is about to be handed out.
    pub(crate) fn next_segment(&mut self) -> SegmentId {
        self.segments += 1;
        SegmentId(self.segments)
    }

    /// Drops the messages to these attempts.
    pub(crate) fn forget(&mut self, processes: &[ProcessId]) {
        self.messages.retain(|message| !processes.contains(&message.process));
    }

    pub(crate) fn take_messages(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.messages)
    }

    pub(crate) fn take_events(&mut self) -> Vec<StoreEvent> {
        std::mem::take(&mut self.events)
    }
}
