//! The hash thread: reads what was written to streams whose next attempts will be compared, while the store goes on.

use crate::fingerprint::{BLOCK, Fingerprint};
use crate::jobs::JobThread;
use crate::memory::WindowMemory;
use crate::process::Arena;
use crate::store::StoreError;
use crate::stream::{PieceState, Place};
use dflow_protocol::StreamId;
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

/// Bytes to be hashed.
pub(crate) struct HashJob {
    pub(crate) stream: StreamId,
    /// Where the piece starts.
    pub(crate) base: u64,
    /// The offsets in the stream; the first is the begin of a block.
    pub(crate) range: Range<u64>,
    pub(crate) task: Task,
    pub(crate) memory: HashMemory,
    fingerprint: Arc<Mutex<Fingerprint>>,
}

/// Where the bytes are. It keeps the memory from being written again before they have been read.
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

/// Bytes that have been hashed: to be given to [`crate::Store::hashed`].
pub struct HashDone {
    pub(crate) job: HashJob,
    /// Where the first block begins that differs.
    pub(crate) result: Result<Option<u64>, Errno>,
}

/// The hash thread. It takes one job after the other, so what an attempt wrote is known before that of the next one is
/// compared with it.
pub struct Hasher {
    thread: JobThread<HashJob>,
    /// Bytes that wait for it.
    in_flight: u64,
}

impl Hasher {
    /// Starts the thread. `done` is called on it for every piece.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub fn start(done: impl Fn(HashDone) + Send + 'static) -> Result<Self, StoreError> {
        let mut block = vec![0; usize::try_from(BLOCK).unwrap_or(usize::MAX)];
        let act = move |job: HashJob| {
            let result = hash(&job, &mut block);
            done(HashDone { job, result });
        };
        let thread = JobThread::start("hash", act)
            .map_err(|error| StoreError::Limit(format!("cannot start the hash thread: {error}")))?;
        Ok(Self { thread, in_flight: 0 })
    }

    /// Whether pieces are being read.
    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether so much waits for it that nothing should be written before it has caught up.
    pub(crate) fn is_behind(&self, budget: u64) -> bool {
        self.in_flight > budget / 100 * IN_FLIGHT
    }

    /// Takes note that a job is done.
    pub(crate) fn done(&mut self, job: &HashJob) {
        self.in_flight -= job.range.end - job.range.start;
    }

    /// Hashes a part of a piece in memory.
    pub(crate) fn submit(
        &mut self,
        stream: StreamId,
        piece: &mut PieceState,
        range: Range<u64>,
        task: Task,
        fingerprint: &Arc<Mutex<Fingerprint>>,
    ) {
        let memory = match &piece.place {
            Place::Arena { arena, offset, .. } => HashMemory::Arena(Arc::clone(arena), *offset),
            Place::Window { memory, .. } => HashMemory::Window(Arc::clone(memory)),
            Place::Spill(_) | Place::Input(_) => return,
        };
        piece.lent = true;
        self.in_flight += range.end - range.start;
        let job = HashJob { stream, base: piece.base, range, task, memory, fingerprint: Arc::clone(fingerprint) };
        self.thread.submit(job);
    }
}

/// The bytes are copied out block by block: their writer may be hostile and change them under a slice.
fn hash(job: &HashJob, block: &mut [u8]) -> Result<Option<u64>, Errno> {
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
