//! Hashing of what was written to streams whose next attempts will be compared, while the store goes on.

use crate::backend::{Completion, Job, Outcome};
use crate::fingerprint::{BLOCK, Fingerprint};
use crate::memory::WindowMemory;
use crate::pieces::{Piece, Place};
use crate::process::Arena;
use crate::{RunStream, Store};
use dflow_shm::Segment;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that wait to be hashed, as a share of the budget (in percent).
const IN_FLIGHT: u64 = 10;

/// What is to be done with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// They are new: take note of their hashes.
    Record,
    /// They were written before: compare them.
    Compare,
}

/// Hashes a part of a window.
#[derive(Debug)]
pub struct HashJob {
    pub(crate) stream: RunStream,
    /// Where the piece starts.
    pub(crate) base: u64,
    /// The offsets in the stream; the first is the begin of a block.
    pub(crate) range: Range<u64>,
    pub(crate) task: Task,
    pub(crate) memory: HashMemory,
    fingerprint: Arc<Mutex<Fingerprint>>,
}

/// Where the bytes are. It keeps the memory from being written again before they have been read.
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
    /// Where the first block begins that differs.
    pub(crate) result: Result<Option<u64>, Errno>,
}

impl HashJob {
    /// A job for a part of a piece in memory, which is lent until it is done; `None` for one that is not in memory.
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
            self.hashing += job.bytes();
            self.backend.submit(Job::Hash(job));
        }
    }

    /// Whether so much waits to be hashed that nothing should be written before that has been done.
    pub(crate) fn hash_is_behind(&self) -> bool {
        self.hashing > self.memory.limit() / 100 * IN_FLIGHT
    }
}

/// The bytes are copied out block by block: their writer may be hostile and change them under a slice.
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
