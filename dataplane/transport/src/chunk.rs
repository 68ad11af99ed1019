//! Bytes of a stream, where they lie.

use dflow_shm::{Memory, SharedBytes};
use std::ops::Range;
use std::sync::Arc;

/// Committed bytes of a stream in memory that stays mapped while this value lives. They do not change before they are
/// released ([`crate::Local::release`]).
#[derive(Clone, Debug)]
pub struct Chunk {
    memory: Arc<Memory>,
    range: Range<usize>,
    passing: bool,
}

impl Chunk {
    /// The bytes at `range` of `memory`.
    ///
    /// # Panics
    /// If the range is not within the memory.
    #[must_use]
    pub fn new(memory: Arc<Memory>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= memory.length(), "{range:?} is not within the memory");
        Self { memory, range, passing: false }
    }

    /// The same bytes, in memory that its owner uses for others as soon as nobody else has it: a path keeps it no longer
    /// than it needs it.
    #[must_use]
    pub fn passing(self) -> Self {
        Self { passing: true, ..self }
    }

    /// Whether the memory is [`Chunk::passing`].
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.passing
    }

    /// Some of these bytes, by their place among them.
    ///
    /// # Panics
    /// If the range is not within them.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} is not within the chunk");
        let start = self.range.start;
        Self { memory: Arc::clone(&self.memory), range: start + range.start..start + range.end, passing: self.passing }
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The memory in which they lie.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Where in the memory the first of them is.
    #[must_use]
    pub fn start(&self) -> usize {
        self.range.start
    }

    /// Whether the other's bytes lie right behind these.
    #[must_use]
    pub fn precedes(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory) && self.range.end == other.range.start
    }

    /// These bytes and the other's, which lie right behind them.
    ///
    /// # Panics
    /// If they do not.
    #[must_use]
    pub fn joined(&self, other: &Self) -> Self {
        assert!(self.precedes(other), "only what lies side by side can be joined");
        let range = self.range.start..other.range.end;
        Self { memory: Arc::clone(&self.memory), range, passing: self.passing || other.passing }
    }

    /// The bytes, to be copied.
    #[must_use]
    pub fn bytes(&self) -> SharedBytes<'_> {
        self.memory.shared(self.range.clone())
    }

    /// A copy of the bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.bytes().copy_to(&mut bytes);
        bytes
    }
}
