//! Hashing of streams whose next attempts will be compared with the bytes of earlier ones.

use crate::backend::{Completion, Outcome};
use crate::fingerprint::{BLOCK, Fingerprint};
use crate::memory::WindowMemory;
use crate::pieces::{Piece, Place};
use crate::process::Arena;
use crate::{RunStream, Store};
use dflow_shm::Segment;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The most bytes that wait to be hashed before producers of hashed streams are stopped, in percent of the budget.
const IN_FLIGHT: u64 = 10;

/// What a job does with the hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Records them: the bytes are new.
    Record,
    /// Compares them: an earlier attempt has written these bytes.
    Compare,
}

/// Hashes a part of a window.
#[derive(Debug)]
pub struct HashJob {
    pub(crate) stream: RunStream,
    /// The stream offset of the window's first byte.
    pub(crate) base: u64,
    /// The offsets in the stream; the first is the beginning of a block.
    pub(crate) range: Range<u64>,
    pub(crate) task: Task,
    pub(crate) memory: HashMemory,
    fingerprint: Arc<Mutex<Fingerprint>>,
}

/// The memory that holds the bytes. The reference keeps it from being used again before they are read.
#[derive(Debug)]
pub(crate) enum HashMemory {
    Arena(Arc<Arena>, u64),
    Window(Arc<WindowMemory>),
}

impl HashMemory {
    fn segment(&self) -> (&Segment, u64) {
        match self {
            Self::Arena(arena, offset) => (&arena.segment, *offset),
            Self::Window(memory) => (&memory.segment, 0),
        }
    }

    pub(crate) fn is(&self, place: &Place) -> bool {
        match (self, place) {
            (Self::Arena(arena, offset), Place::Arena { arena: other, offset: at, .. }) => {
                Arc::ptr_eq(arena, other) && offset == at
            }
            (Self::Window(memory), Place::Window { memory: other, .. }) => Arc::ptr_eq(memory, other),
            _ => false,
        }
    }
}

impl HashJob {
    /// How many bytes it reads.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Reads and hashes them.
    #[must_use]
    pub fn run(self) -> Completion {
        let result = hash(&self);
        Completion(Outcome::Hash(Hashed { job: self, result }))
    }
}

/// Bytes that have been hashed, or could not be read.
#[derive(Debug)]
pub(crate) struct Hashed {
    pub(crate) job: HashJob,
    /// The offset of the first block that differs.
    pub(crate) result: Result<Option<u64>, Errno>,
}

impl HashJob {
    /// A job for a part of a piece, which is lent until the job completes; `None` if the piece is not in memory.
    pub(crate) fn new(
        stream: RunStream,
        piece: &mut Piece,
        range: Range<u64>,
        task: Task,
        fingerprint: &Arc<Mutex<Fingerprint>>,
    ) -> Option<Self> {
        let memory = match &piece.place {
            Place::Arena { arena, offset, .. } => HashMemory::Arena(Arc::clone(arena), *offset),
            Place::Window { memory, .. } => HashMemory::Window(Arc::clone(memory)),
            Place::Spill(_) | Place::Input(_) => return None,
        };
        piece.lent = true;
        Some(Self { stream, base: piece.base, range, task, memory, fingerprint: Arc::clone(fingerprint) })
    }
}

impl Store {
    pub(crate) fn submit_hash(&mut self, job: Option<HashJob>) {
        if let Some(job) = job {
            self.jobs.submit_hash(job);
        }
    }

    /// Whether producers of hashed streams should wait until hashing has caught up.
    pub(crate) fn hash_is_behind(&self) -> bool {
        self.jobs.hashing() > self.memory.limit() / 100 * IN_FLIGHT
    }
}

/// Copies each block before it hashes it: a hostile writer could change bytes under a slice.
fn hash(job: &HashJob) -> Result<Option<u64>, Errno> {
    let mut block = vec![0; usize::try_from(BLOCK.min(job.bytes())).unwrap_or(usize::MAX)];
    let mut fingerprint = job.fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
    let (segment, start) = job.memory.segment();
    let mut at = job.range.start;
    while at < job.range.end {
        let length = usize::try_from(BLOCK.min(job.range.end - at)).unwrap_or(block.len());
        let bytes = &mut block[..length];
        read_exact(segment, bytes, start + (at - job.base))?;
        match job.task {
            Task::Record => fingerprint.record(at, bytes),
            Task::Compare if fingerprint.matches(at, bytes) => {}
            Task::Compare => return Ok(Some(at)),
        }
        at += length as u64;
    }
    Ok(None)
}

fn read_exact(segment: &Segment, mut bytes: &mut [u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pread(segment, &mut *bytes, offset) {
            // A segment cannot shrink, and nothing is read past its end.
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                bytes = &mut bytes[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
