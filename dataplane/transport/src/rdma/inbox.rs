//! The receives of a path.

use super::RdmaError;
use super::outbox::{HEADER, Header, SLOT};
use crate::path::PathError;
use dflow_protocol::wire::PeerMessage;
use dflow_verbs::{
    Buffer, Completion, MemoryRegion, PostError, ProtectionDomain, QueuePair, ReceiveRequest, RegionAccess,
};
use std::sync::Arc;

/// The most receives that are posted with one call.
pub(super) const BATCH: usize = 32;

/// A buffer for each receive: any of them may be consumed by a message or by a write.
#[derive(Debug)]
pub(super) struct Inbox {
    buffer: Arc<Buffer>,
    region: MemoryRegion,
    scratch: Box<[u8; SLOT]>,
}

impl Inbox {
    /// Posts the first receives.
    pub(super) fn new(domain: &ProtectionDomain, pair: &QueuePair, depth: u32) -> Result<Self, RdmaError> {
        let buffer = Arc::new(Buffer::zeroed(depth as usize * SLOT));
        let region = MemoryRegion::register(domain, Arc::clone(&buffer) as _, RegionAccess::Receive)?;
        let inbox = Self { buffer, region, scratch: Box::new([0; SLOT]) };
        let slots: Vec<u64> = (0..u64::from(depth)).collect();
        for slots in slots.chunks(BATCH) {
            inbox.post(pair, slots.iter().copied())?;
        }
        Ok(inbox)
    }

    /// Posts these receives, at most [`BATCH`], and returns their number.
    pub(super) fn post(&self, pair: &QueuePair, slots: impl Iterator<Item = u64>) -> Result<u32, PostError> {
        let mut requests = [ReceiveRequest { id: 0, into: None }; BATCH];
        let mut count = 0;
        for (request, slot) in requests.iter_mut().zip(slots) {
            let start = usize::try_from(slot).unwrap_or(usize::MAX).saturating_mul(SLOT);
            *request = ReceiveRequest { id: slot, into: Some(self.region.slice(start..start.saturating_add(SLOT))?) };
            count += 1;
        }
        pair.post_receives(&requests[..count])?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// The header of a message, and the message unless the header is all of it.
    pub(super) fn read(&mut self, completion: &Completion) -> Result<(Header, Option<PeerMessage>), PathError> {
        let length = completion.bytes as usize;
        if !(HEADER..=SLOT).contains(&length) {
            return Err(PathError::Protocol(format!(
                "a message of {length} bytes, where {HEADER} to {SLOT} are possible"
            )));
        }
        let bytes = &mut self.scratch[..length];
        self.buffer.read(usize::try_from(completion.id).unwrap_or(usize::MAX).saturating_mul(SLOT), bytes);
        let (head, message) = bytes.split_at(HEADER);
        let mut header = [0; HEADER];
        header.copy_from_slice(head);
        let message = if message.is_empty() { None } else { Some(PeerMessage::decode(message)?) };
        Ok((Header::from_bytes(header), message))
    }
}
