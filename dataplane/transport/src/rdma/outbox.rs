//! The messages of a path on their way out.

use super::MAX_INLINE_REQUEST;
use dflow_protocol::limits::MAX_PEER_MESSAGE;
use dflow_verbs::{
    Buffer, Data, MemoryError, MemoryRegion, PostError, ProtectionDomain, QueuePair, RegionAccess, SendOperation,
    SendRequest,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// What goes before each message: how many receives were posted again, and the message's number.
pub(super) const HEADER: usize = 8;
/// The buffer of one message, in whole cache lines.
pub(super) const SLOT: usize = (HEADER + MAX_PEER_MESSAGE).next_multiple_of(64);
/// The most bytes of messages that wait for their turn. Enough to name every flow that there can be, several times.
const MAX_WAITING: usize = 32 << 20;

/// What goes before each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Receives that its sender has posted again so far, modulo 2^32.
    pub(super) posted: u32,
    /// Its number among the messages and writes of its sender.
    pub(super) number: u32,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER] {
        (u64::from(self.number) << 32 | u64::from(self.posted)).to_le_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; HEADER]) -> Self {
        let both = u64::from_le_bytes(bytes);
        // The halves of 64 bits.
        #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
        let posted = both as u32;
        Self { posted, number: (both >> 32) as u32 }
    }
}

/// Messages that wait, and memory for those that are sent: as many buffers as the send queue has places.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    buffer: Arc<Buffer>,
    region: MemoryRegion,
}

impl Outbox {
    pub(super) fn new(domain: &ProtectionDomain, depth: u32) -> Result<Self, MemoryError> {
        let buffer = Arc::new(Buffer::zeroed(depth as usize * SLOT));
        let region = MemoryRegion::register(domain, Arc::clone(&buffer) as _, RegionAccess::Source)?;
        Ok(Self { waiting: VecDeque::new(), bytes: 0, buffer, region })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether there was room for it.
    pub(super) fn push(&mut self, message: Vec<u8>) -> bool {
        self.bytes += message.len();
        self.waiting.push_back(message);
        self.bytes <= MAX_WAITING
    }

    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let message = self.waiting.pop_front()?;
        self.bytes -= message.len();
        Some(message)
    }

    /// Posts a message with what goes before it. `slot`: a place that nothing in flight has.
    pub(super) fn post(
        &self,
        pair: &QueuePair,
        (id, signaled): (u64, bool),
        slot: usize,
        head: Header,
        message: &[u8],
    ) -> Result<(), PostError> {
        let length = HEADER + message.len();
        let head = head.to_bytes();
        let mut inline = [0; MAX_INLINE_REQUEST as usize];
        let data = if length <= pair.max_inline().min(inline.len()) {
            inline[..HEADER].copy_from_slice(&head);
            inline[HEADER..length].copy_from_slice(message);
            Data::Inline(&inline[..length])
        } else {
            let start = slot * SLOT;
            self.buffer.write(start, &head);
            self.buffer.write(start + HEADER, message);
            Data::Memory(self.region.slice(start..start + length)?)
        };
        pair.post(&[SendRequest { id, operation: SendOperation::Send, data, signaled }])
    }
}
