//! Windows that are backed with memory aside, while the store goes on: the kernel has to find and zero fresh pages, which
//! takes longer than anything that the store itself does.

use crate::backend::{Completion, Job, Outcome, backed_segment};
use crate::memory::WindowMemory;
use crate::store::StoreError;
use crate::{ProcessId, Store};
use dflow_protocol::StreamId;
use dflow_shm::{Segment, SegmentError};
use std::sync::Arc;

/// Windows of so many bytes and more are backed aside. Smaller ones take less time than handing them over.
const LEAST: u64 = 1 << 20;

/// Backs a window with memory. A stream has at most one such job under way.
#[derive(Debug)]
pub struct BackJob {
    stream: StreamId,
    writer: ProcessId,
    size: u64,
    huge: bool,
}

impl BackJob {
    /// The window's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.size
    }

    /// Finds the memory.
    #[must_use]
    pub fn run(self) -> Completion {
        let result = backed_segment(self.size, self.huge);
        self.complete(result)
    }

    /// The completion of this job, if the memory came from somewhere else or there was none.
    #[must_use]
    pub fn complete(self, result: Result<Segment, SegmentError>) -> Completion {
        Completion(Outcome::Back(Backed { job: self, result }))
    }
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
    /// It is being backed, and the stream is served when that is done.
    Later,
    /// The budget does not allow it.
    No,
}

impl Store {
    /// Whether a window for this stream is on its way.
    pub(crate) fn is_being_backed(&self, stream: StreamId) -> bool {
        self.backing.contains(&stream)
    }

    /// A window of exactly `size` bytes, warm if there is such a one.
    pub(crate) fn backed_window(
        &mut self,
        writer: ProcessId,
        stream: StreamId,
        size: u64,
        huge: bool,
    ) -> Result<Offer, StoreError> {
        if let Some(memory) = self.budget.warm(writer, size, huge) {
            return Ok(Offer::Now(memory));
        }
        if self.is_being_backed(stream) {
            return Ok(Offer::Later);
        }
        if !self.budget.reserve(size) {
            return Ok(Offer::No);
        }
        if size >= LEAST {
            self.back_aside(BackJob { stream, writer, size, huge });
            return Ok(Offer::Later);
        }
        match self.backend.allocate(size, huge) {
            Ok(segment) => Ok(Offer::Now(Arc::new(WindowMemory { segment, size, writer }))),
            Err(error) => {
                self.budget.discharge(size);
                Err(error.into())
            }
        }
    }

    /// A window of `size` bytes whatever the budget says: for what a stream must have.
    pub(crate) fn window_beyond(&mut self, writer: ProcessId, size: u64) -> Result<Arc<WindowMemory>, StoreError> {
        let segment = self.backend.allocate(size, false)?;
        self.budget.charge(size);
        Ok(Arc::new(WindowMemory { segment, size, writer }))
    }

    /// Has the window backed that a stream will want after its present one, while there is memory enough.
    pub(crate) fn back_ahead(&mut self, writer: ProcessId, stream: StreamId, size: u64, huge: bool) {
        if size < LEAST || self.is_being_backed(stream) || self.would_be_short(size) {
            return;
        }
        if !self.budget.has_warm(writer, size, huge) && self.budget.reserve(size) {
            self.back_aside(BackJob { stream, writer, size, huge });
        }
    }

    fn back_aside(&mut self, job: BackJob) {
        self.backing.insert(job.stream);
        self.backend.submit(Job::Back(job));
    }

    /// A window has its memory, or cannot have it.
    ///
    /// # Errors
    /// If there is no memory for a window that somebody waits for.
    pub(crate) fn backed(&mut self, done: Backed) -> Result<(), StoreError> {
        let Backed { job: BackJob { stream, writer, size, .. }, result } = done;
        self.backing.remove(&stream);
        let has_come = result.is_ok();
        match result {
            // Its writer finds it there; if it is gone, others do.
            Ok(segment) => self.budget.free(Arc::new(WindowMemory { segment, size, writer })),
            Err(error) => {
                self.budget.discharge(size);
                if self.is_starved(stream) {
                    return Err(error.into());
                }
            }
        }
        self.grant_backed_ahead(stream, has_come)?;
        self.feed_starved()
    }

    fn is_starved(&self, id: StreamId) -> bool {
        self.processes
            .values()
            .any(|process| process.starved.keys().any(|port| process.outputs.get(port).is_some_and(|it| *it == id)))
    }
}
