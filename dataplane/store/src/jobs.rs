//! The jobs under way: how much they will write, hash or back, so that no more is started than helps.

use crate::RunStream;
use crate::back::{BackJob, CleanJob};
use crate::backend::{Backend, Job};
use crate::error::StoreError;
use crate::hash::HashJob;
use crate::spill::SpillJob;
use dflow_disk::SpillFile;
use dflow_protocol::RunId;
use dflow_shm::{Segment, SegmentError};
use std::collections::BTreeSet;

/// The backend and the jobs that it has not completed. Each `submit` is matched by one `complete`, in which a job
/// leaves the totals with the number of bytes with which it entered them.
pub(crate) struct Jobs {
    backend: Box<dyn Backend>,
    /// Bytes that wait to be hashed.
    hashing: u64,
    /// Bytes on their way to disk.
    spilling: u64,
    /// Streams for which a window is being backed, one each.
    backing: BTreeSet<RunStream>,
    /// A window is being zeroed for another tenant.
    cleaning: bool,
}

impl Jobs {
    pub(crate) fn new(backend: Box<dyn Backend>) -> Self {
        Self { backend, hashing: 0, spilling: 0, backing: BTreeSet::new(), cleaning: false }
    }

    /// A window that is backed at once.
    pub(crate) fn allocate(&mut self, size: u64, huge: bool) -> Result<Segment, SegmentError> {
        self.backend.allocate(size, huge)
    }

    /// A new, empty spill file.
    pub(crate) fn spill_file(&mut self) -> Result<SpillFile, StoreError> {
        Ok(self.backend.spill_file()?)
    }

    pub(crate) fn submit_hash(&mut self, job: HashJob) {
        self.hashing += job.bytes();
        self.backend.submit(Job::Hash(job));
    }

    pub(crate) fn complete_hash(&mut self, job: &HashJob) {
        self.hashing -= job.bytes();
    }

    pub(crate) fn submit_spill(&mut self, job: SpillJob) {
        self.spilling += job.bytes();
        self.backend.submit(Job::Spill(job));
    }

    pub(crate) fn complete_spill(&mut self, job: &SpillJob) {
        self.spilling -= job.bytes();
    }

    pub(crate) fn submit_back(&mut self, job: BackJob) {
        self.backing.insert(job.stream());
        self.backend.submit(Job::Back(job));
    }

    pub(crate) fn complete_back(&mut self, job: &BackJob) {
        self.backing.remove(&job.stream());
    }

    /// Windows are zeroed one at a time: see [`Jobs::is_cleaning`].
    pub(crate) fn submit_clean(&mut self, job: CleanJob) {
        self.cleaning = true;
        self.backend.submit(Job::Clean(job));
    }

    pub(crate) fn complete_clean(&mut self) {
        self.cleaning = false;
    }

    /// A run has ended: none of its streams waits for a window any more. Jobs under way still complete.
    pub(crate) fn forget(&mut self, run: RunId) {
        self.backing.retain(|stream| stream.run != run);
    }

    /// Bytes that wait to be hashed.
    pub(crate) fn hashing(&self) -> u64 {
        self.hashing
    }

    /// Bytes on their way to disk.
    pub(crate) fn spilling(&self) -> u64 {
        self.spilling
    }

    /// Whether a job will free memory when it completes: it writes a window to disk, or hashes one that is needed only
    /// for that.
    pub(crate) fn will_free_memory(&self) -> bool {
        self.spilling > 0 || self.hashing > 0
    }

    /// Whether a window of this stream is being backed.
    pub(crate) fn is_backing(&self, stream: RunStream) -> bool {
        self.backing.contains(&stream)
    }

    /// Whether a window is being zeroed.
    pub(crate) fn is_cleaning(&self) -> bool {
        self.cleaning
    }
}
