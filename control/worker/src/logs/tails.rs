//! Output that waits: of an attempt that prints more than can be taken, the last bytes are kept, and the others counted.

use std::collections::{BTreeMap, VecDeque};

/// The most bytes of one attempt that wait.
pub(super) const MAX_WAITING: usize = 64 << 10;
/// The most bytes of all attempts that wait.
pub(super) const MAX_ALL_WAITING: usize = 8 << 20;
/// The most bytes in one chunk.
pub(super) const MAX_CHUNK: usize = 32 << 10;

/// The output of attempts that waits to be taken.
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
    /// How many bytes before these were dropped.
    pub(crate) lost: u64,
}

impl<K: Clone + Ord> Tails<K> {
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new(), all: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.all
    }

    /// An attempt has printed this; `lost` bytes before it are missing already.
    pub(super) fn push(&mut self, key: K, bytes: &[u8], lost: u64) {
        let waiting = self.waiting.entry(key).or_default();
        let kept = &bytes[bytes.len().saturating_sub(MAX_WAITING)..];
        let room = MAX_WAITING.min(waiting.bytes.len() + MAX_ALL_WAITING.saturating_sub(self.all));
        let excess = (waiting.bytes.len() + kept.len()).saturating_sub(room);
        let dropped = excess.min(waiting.bytes.len());
        waiting.bytes.drain(..dropped);
        let kept = &kept[(excess - dropped).min(kept.len())..];
        waiting.bytes.extend(kept);
        // What is missing lies before what waits, wherever it was lost.
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
