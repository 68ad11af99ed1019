//! The thread that backs large windows with memory while the store goes on: fresh pages have to be found and zeroed, which
//! takes longer than anything else that the store does.

use crate::jobs::JobThread;
use crate::memory::WindowMemory;
use crate::store::StoreError;
use crate::{ProcessId, Store};
use dflow_protocol::StreamId;
use dflow_shm::{Segment, SegmentError, SegmentKind};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Windows of so many bytes and more are backed aside. Smaller ones take less time than handing them over.
const LEAST: u64 = 1 << 20;

/// A window that a stream is to have.
struct Job {
    stream: StreamId,
    writer: ProcessId,
    size: u64,
    huge: bool,
}

/// A window that has its memory, or cannot have it: to be given to [`Store::backed`].
pub struct BackDone {
    job: Job,
    result: Result<Segment, SegmentError>,
}

/// The thread. At most one window for each stream is on its way.
pub struct Backer {
    thread: JobThread<Job>,
    under_way: BTreeSet<StreamId>,
}

impl Backer {
    /// Starts the thread. `done` is called on it for every window.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub fn start(done: impl Fn(BackDone) + Send + 'static) -> Result<Self, StoreError> {
        let act = move |job: Job| {
            let result = back(job.size, job.huge);
            done(BackDone { job, result });
        };
        let thread = JobThread::start("back", act)
            .map_err(|error| StoreError::Limit(format!("cannot start the thread that backs windows: {error}")))?;
        Ok(Self { thread, under_way: BTreeSet::new() })
    }
}

/// Memory for a window.
fn back(size: u64, huge: bool) -> Result<Segment, SegmentError> {
    let length = usize::try_from(size).unwrap_or(usize::MAX);
    Segment::create_backed("dflow-window", length, SegmentKind::FunctionWritten, huge)
}

/// Whether a stream can have a window.
pub(crate) enum Backed {
    Now(Arc<WindowMemory>),
    /// The thread has been told, and the stream is served when it is done.
    Later,
    /// The budget does not allow it.
    No,
}

impl Store {
    /// From now on large windows are backed by this thread. Without it the store backs them itself.
    pub fn back_aside(&mut self, backer: Backer) {
        self.backer = Some(backer);
    }

    /// Whether a window for this stream is on its way.
    pub(crate) fn is_being_backed(&self, stream: StreamId) -> bool {
        self.backer.as_ref().is_some_and(|backer| backer.under_way.contains(&stream))
    }

    /// A window of exactly `size` bytes, warm if there is such a one.
    pub(crate) fn backed_window(
        &mut self,
        writer: ProcessId,
        stream: StreamId,
        size: u64,
        huge: bool,
    ) -> Result<Backed, StoreError> {
        if let Some(memory) = self.budget.warm(writer, size, huge) {
            return Ok(Backed::Now(memory));
        }
        if self.is_being_backed(stream) {
            return Ok(Backed::Later);
        }
        if !self.budget.reserve(size) {
            return Ok(Backed::No);
        }
        let job = Job { stream, writer, size, huge };
        match &mut self.backer {
            Some(backer) if size >= LEAST => {
                backer.submit(job);
                Ok(Backed::Later)
            }
            _ => match back(size, huge) {
                Ok(segment) => Ok(Backed::Now(Arc::new(WindowMemory { segment, size, writer }))),
                Err(error) => {
                    self.budget.discharge(size);
                    Err(error.into())
                }
            },
        }
    }

    /// A window of `size` bytes whatever the budget says: for what a stream must have.
    pub(crate) fn window_beyond(&mut self, writer: ProcessId, size: u64) -> Result<Arc<WindowMemory>, StoreError> {
        let segment = back(size, false)?;
        self.budget.charge(size);
        Ok(Arc::new(WindowMemory { segment, size, writer }))
    }

    /// Has the window backed that a stream will want after its present one, while there is memory enough.
    pub(crate) fn back_ahead(&mut self, writer: ProcessId, stream: StreamId, size: u64, huge: bool) {
        if size < LEAST || self.is_being_backed(stream) || self.would_be_short(size) {
            return;
        }
        if let Some(backer) = &mut self.backer
            && !self.budget.has_warm(writer, size, huge)
            && self.budget.reserve(size)
        {
            backer.submit(Job { stream, writer, size, huge });
        }
    }

    /// A window has its memory, or cannot have it.
    ///
    /// # Errors
    /// If there is no memory for a window that somebody waits for.
    pub fn backed(&mut self, done: BackDone) -> Result<(), StoreError> {
        let BackDone { job: Job { stream, writer, size, .. }, result } = done;
        if let Some(backer) = &mut self.backer {
            backer.under_way.remove(&stream);
        }
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

impl Backer {
    fn submit(&mut self, job: Job) {
        self.under_way.insert(job.stream);
        self.thread.submit(job);
    }
}
