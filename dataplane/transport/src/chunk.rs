//! Bytes of a stream, in the memory that holds them.

use dflow_shm::{Memory, SharedBytes};
use std::ops::Range;
use std::sync::Arc;

/// Committed bytes of a stream, in memory that stays mapped while this value lives. They do not change before they are
/// acknowledged ([`crate::FlowEvent::Acknowledged`]).
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

    /// Marks the memory as transient: its owner reuses it as soon as nobody else holds it, so a path must not keep it.
    #[must_use]
    pub fn passing(self) -> Self {
        Self { passing: true, ..self }
    }

    /// Whether the memory is transient ([`Chunk::passing`]).
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.passing
    }

    /// A part of these bytes, by index.
    ///
    /// # Panics
    /// If the range is not within them.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} is not within the chunk");
        let start = self.range.start;
        Self { memory: Arc::clone(&self.memory), range: start + range.start..start + range.end, passing: self.passing }
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The memory that holds them.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The index of the first byte in the memory.
    #[must_use]
    pub fn start(&self) -> usize {
        self.range.start
    }

    /// Whether the other chunk begins in the same memory where this one ends.
    #[must_use]
    pub fn precedes(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory) && self.range.end == other.range.start
    }

    /// One chunk of both.
    ///
    /// # Panics
    /// If the other does not follow ([`Chunk::precedes`]).
    #[must_use]
    pub fn joined(&self, other: &Self) -> Self {
        assert!(self.precedes(other), "only adjacent chunks can be joined");
        let range = self.range.start..other.range.end;
        Self { memory: Arc::clone(&self.memory), range, passing: self.passing || other.passing }
    }

    /// The bytes, for copying.
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
