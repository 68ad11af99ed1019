//! Backing windows with memory, and zeroing them between tenants. Both are jobs: the kernel finds and zeroes fresh
//! pages at 1.6 GB/s, so backing 32 MiB in the event loop would stall every other stream for 20 ms.

use crate::backend::{Completion, Outcome, backed_segment};
use crate::error::{RunFailure, StoreError};
use crate::memory::{Owner, WindowMemory};
use crate::{ProcessId, RunStream, Store, StoreEvent};
use dflow_shm::{Segment, SegmentError};
use std::sync::Arc;

/// The smallest window, in bytes, that is backed by a job. Smaller ones take less time than handing a job over.
const LEAST: u64 = 1 << 20;

/// Backs a window with memory. A stream has at most one such job under way.
#[derive(Debug)]
pub struct BackJob {
    stream: RunStream,
    owner: Owner,
    writer: ProcessId,
    size: u64,
    huge: bool,
}

impl BackJob {
    /// The stream whose window it is.
    pub(crate) fn stream(&self) -> RunStream {
        self.stream
    }

    /// The window's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.size
    }

    /// Allocates the memory.
    #[must_use]
    pub fn run(self) -> Completion {
        let result = backed_segment(self.size, self.huge);
        self.complete(result)
    }

    /// Completes the job with memory from elsewhere, or with an error.
    #[must_use]
    pub fn complete(self, result: Result<Segment, SegmentError>) -> Completion {
        Completion(Outcome::Back(Backed { job: self, result }))
    }
}

/// Zeroes a window with bytes of one tenant, so that another can use it.
#[derive(Debug)]
pub struct CleanJob {
    memory: Arc<WindowMemory>,
}

impl CleanJob {
    /// The window's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.memory.size
    }

    /// Zeroes it.
    #[must_use]
    pub fn run(self) -> Completion {
        let result = self.memory.segment.zero();
        Completion(Outcome::Clean(Cleaned { memory: self.memory, result }))
    }
}

/// A window that is zeroed, or could not be.
#[derive(Debug)]
pub(crate) struct Cleaned {
    memory: Arc<WindowMemory>,
    result: Result<(), SegmentError>,
}

/// A window that has its memory, or cannot have it.
#[derive(Debug)]
pub(crate) struct Backed {
    job: BackJob,
    result: Result<Segment, SegmentError>,
}

/// Whether a stream can have a window.
pub(crate) enum Offer {
    Now(Arc<WindowMemory>),
    /// A job backs it, and the stream is served when the job completes.
    Later,
    /// The budget does not allow it.
    No,
}

impl Store {
    /// A window of exactly `size` bytes, an idle one if possible.
    pub(crate) fn backed_window(
        &mut self,
        writer: ProcessId,
        stream: RunStream,
        size: u64,
        huge: bool,
    ) -> Result<Offer, StoreError> {
        let Some(owner) = self.memory.owner(stream.run) else { return Err(StoreError::Unknown(stream.run)) };
        if let Some(memory) = self.memory.warm(owner, writer, size, huge) {
            return Ok(Offer::Now(memory));
        }
        if self.jobs.is_backing(stream) {
            return Ok(Offer::Later);
        }
        if !self.memory.reserve(stream.run, size) {
            return Ok(Offer::No);
        }
        if size >= LEAST {
            self.jobs.submit_back(BackJob { stream, owner, writer, size, huge });
            return Ok(Offer::Later);
        }
        match self.jobs.allocate(size, huge) {
            Ok(segment) => Ok(Offer::Now(Arc::new(WindowMemory { segment, size, owner, writer }))),
            Err(error) => {
                self.memory.discharge(owner, size);
                Err(error.into())
            }
        }
    }

    /// Backs the window that a stream will want after its present one, unless memory is short.
    pub(crate) fn back_ahead(&mut self, writer: ProcessId, stream: RunStream, size: u64, huge: bool) {
        if size < LEAST || self.jobs.is_backing(stream) || self.would_be_short(stream.run, size) {
            return;
        }
        let Some(owner) = self.memory.owner(stream.run) else { return };
        if !self.memory.has_warm(owner, writer, size, huge) && self.memory.reserve(stream.run, size) {
            self.jobs.submit_back(BackJob { stream, owner, writer, size, huge });
        }
    }

    /// A window has its memory, or cannot have it.
    pub(crate) fn backed(&mut self, done: Backed) {
        self.jobs.complete_back(&done.job);
        let Backed { job: BackJob { stream, owner, writer, size, .. }, result } = done;
        let has_come = result.is_ok();
        match result {
            Ok(segment) => {
                let memory = Arc::new(WindowMemory { segment, size, owner, writer });
                if self.memory.is_admitted(writer) {
                    // The retry below, or the writer's next request, finds it there.
                    self.memory.free(memory, self.now);
                } else {
                    self.memory.pool_fresh(memory, self.now);
                }
            }
            Err(error) => {
                self.memory.discharge(owner, size);
                if self.is_waited_for(stream) {
                    self.fail_run(stream.run, RunFailure::Store(error.into()));
                }
            }
        }
        let result = self.grant_backed_ahead(stream, has_come);
        self.attribute(stream.run, result);
        self.serve_waiting_outputs(None);
        // As long as the job was under way, its writer was not said to wait. It still does if a reader holds it back.
        if self.is_waited_for(stream) {
            self.outbox.tell(StoreEvent::Parked(writer));
        }
    }

    /// Whether the producer of a stream waits for a window.
    fn is_waited_for(&self, id: RunStream) -> bool {
        let producer = self.runs.stream(id).and_then(|stream| stream.epoch.producer());
        producer.is_some_and(|producer| self.runs.get(id.run).is_some_and(|run| run.is_waiting_output(producer)))
    }

    /// Starts to zero the next idle window of a tenant that has no runs here any more. One at a time: while a window is
    /// zeroed, its memory counts as used.
    pub(crate) fn clean_next(&mut self) {
        if self.jobs.is_cleaning() {
            return;
        }
        if let Some(memory) = self.memory.take_unclean() {
            self.jobs.submit_clean(CleanJob { memory });
        }
    }

    /// A window is zeroed, or could not be.
    pub(crate) fn cleaned(&mut self, done: Cleaned) {
        self.jobs.complete_clean();
        if let Err(error) = &done.result {
            tracing::debug!(%error, "a window cannot be zeroed and goes back to the system");
        }
        self.memory.cleaned(done.memory, done.result.is_ok(), self.now);
        self.clean_next();
        self.serve_waiting_outputs(None);
    }
}
