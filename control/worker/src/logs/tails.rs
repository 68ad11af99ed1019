//! Bounded queues of output: if an attempt prints more than can be sent, the last bytes are kept and the others
//! counted.

use std::collections::{BTreeMap, VecDeque};

/// Maximum number of queued bytes of one attempt.
pub(super) const MAX_WAITING: usize = 64 << 10;
/// Maximum number of queued bytes of all attempts.
pub(super) const MAX_ALL_WAITING: usize = 8 << 20;
/// Maximum number of bytes in one chunk.
pub(super) const MAX_CHUNK: usize = 32 << 10;

/// The queued output of attempts.
#[derive(Debug)]
pub(super) struct Tails<K> {
    waiting: BTreeMap<K, Waiting>,
    all: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    lost: u64,
}

/// Output of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk<K> {
    /// The attempt.
    pub(crate) key: K,
    pub(crate) bytes: Vec<u8>,
    /// The number of bytes that were dropped before these.
    pub(crate) lost: u64,
}

impl<K: Clone + Ord> Tails<K> {
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new(), all: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The number of queued bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.all
    }

    /// Queues output of an attempt; `lost` bytes before it are already missing.
    pub(super) fn push(&mut self, key: K, bytes: &[u8], lost: u64) {
        let waiting = self.waiting.entry(key).or_default();
        let kept = &bytes[bytes.len().saturating_sub(MAX_WAITING)..];
        let room = MAX_WAITING.min(waiting.bytes.len() + MAX_ALL_WAITING.saturating_sub(self.all));
        let excess = (waiting.bytes.len() + kept.len()).saturating_sub(room);
        let dropped = excess.min(waiting.bytes.len());
        waiting.bytes.drain(..dropped);
        let kept = &kept[(excess - dropped).min(kept.len())..];
        waiting.bytes.extend(kept);
        // All missing bytes are counted before the queued ones, wherever they were lost.
        waiting.lost += lost + (dropped + bytes.len() - kept.len()) as u64;
        self.all = self.all + kept.len() - dropped;
    }

    /// The next output, of any attempt.
    pub(super) fn next(&mut self) -> Option<Chunk<K>> {
        let key = self.waiting.first_key_value()?.0.clone();
        self.take(&key)
    }

    /// The next output of this attempt.
    pub(super) fn take(&mut self, key: &K) -> Option<Chunk<K>> {
        let waiting = self.waiting.get_mut(key)?;
        let length = waiting.bytes.len().min(MAX_CHUNK);
        let bytes: Vec<u8> = waiting.bytes.drain(..length).collect();
        let lost = std::mem::take(&mut waiting.lost);
        if waiting.bytes.is_empty() {
            self.waiting.remove(key);
        }
        self.all -= bytes.len();
        Some(Chunk { key: key.clone(), bytes, lost })
    }
}
