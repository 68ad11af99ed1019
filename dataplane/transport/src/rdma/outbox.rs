//! The outgoing messages of a path.

use super::MAX_INLINE_REQUEST;
use dflow_protocol::limits::MAX_PEER_MESSAGE;
use dflow_verbs::{
    Buffer, Data, MemoryError, MemoryRegion, PostError, ProtectionDomain, QueuePair, RegionAccess, SendOperation,
    SendRequest,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// The size of the header: the count of reposted receives and the message's number.
pub(super) const HEADER: usize = 8;
/// The buffer of one message, rounded up to cache lines.
pub(super) const SLOT: usize = (HEADER + MAX_PEER_MESSAGE).next_multiple_of(64);
/// The most bytes of queued messages: several for every possible flow.
const MAX_WAITING: usize = 32 << 20;

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Receives that the sender has reposted so far, modulo 2^32.
    pub(super) posted: u32,
    /// Its number among the sender's messages and writes.
    pub(super) number: u32,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER] {
        (u64::from(self.number) << 32 | u64::from(self.posted)).to_le_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; HEADER]) -> Self {
        let both = u64::from_le_bytes(bytes);
        // Two halves of 64 bits.
        #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
        let posted = both as u32;
        Self { posted, number: (both >> 32) as u32 }
    }
}

/// Queued messages, and a buffer for each slot of the send queue.
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

    /// Queues a message; `false` if the queue is full.
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

    /// Posts a message with its header. `slot`: one that no request in flight uses.
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
