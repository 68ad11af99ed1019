//! The machine under a store: memory, files, and the execution of slow work.
//!
//! The store decides which window is written to disk, hashed or backed with memory, and when. It touches neither a disk
//! nor a thread: it hands a [`Job`] to its [`Backend`] and gets a [`Completion`] back by [`crate::Store::complete`]. A
//! node runs jobs on [`crate::Threads`]; a simulation runs them on its own thread, at times and with failures of its
//! choice.

use crate::back::{BackJob, Backed, CleanJob, Cleaned};
use crate::hash::{HashJob, Hashed};
use crate::spill::{SpillJob, Spilled};
use dflow_disk::{DiskError, SpillFile};
use dflow_shm::{Segment, SegmentError, SegmentKind};

/// The machine under a store.
pub trait Backend {
    /// A new window of `size` bytes, backed with memory before the call returns: see [`backed_segment`].
    ///
    /// # Errors
    /// If there is no memory or no descriptor for it.
    fn allocate(&mut self, size: u64, huge: bool) -> Result<Segment, SegmentError>;

    /// A new, empty spill file.
    ///
    /// # Errors
    /// If the spill directory allows none.
    fn spill_file(&mut self) -> Result<SpillFile, DiskError>;

    /// Accepts a job. Its completion must be given to [`crate::Store::complete`] later, never from within this call.
    /// Hash jobs are completed in the order of their submission, because each compares with what those before it
    /// recorded.
    fn submit(&mut self, job: Job);
}

/// A unit of slow work.
#[derive(Debug)]
pub enum Job {
    /// Write a window to disk.
    Spill(SpillJob),
    /// Hash a part of a window.
    Hash(HashJob),
    /// Back a window with memory.
    Back(BackJob),
    /// Zero a window.
    Clean(CleanJob),
}

/// A job that is done, or has failed: to be given to [`crate::Store::complete`].
#[derive(Debug)]
pub struct Completion(pub(crate) Outcome);

#[derive(Debug)]
pub(crate) enum Outcome {
    Spill(Spilled),
    Hash(Hashed),
    Back(Backed),
    Clean(Cleaned),
}

/// A window of `size` bytes, backed with memory so that functions pay no page faults. Its pages are huge if `huge`
/// allows that and the machine has reserved some.
///
/// # Errors
/// If there is no memory or no descriptor for it.
pub fn backed_segment(size: u64, huge: bool) -> Result<Segment, SegmentError> {
    let length = usize::try_from(size).unwrap_or(usize::MAX);
    Segment::create_backed("dflow-window", length, SegmentKind::FunctionWritten, huge)
}
