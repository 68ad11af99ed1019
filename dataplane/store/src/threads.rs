//! The backend of a node: one thread each for disk, hashes and memory.

use crate::backend::{Backend, Completion, Job, backed_segment};
use crate::hash::HashJob;
use crate::spill::SpillJob;
use crate::{BackJob, CleanJob, StoreError};
use dflow_disk::{DiskError, IoChoice, SpillDir, SpillFile};
use dflow_shm::{Segment, SegmentError};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// Runs jobs on three threads, so that a slow disk delays no hashes, and neither delays fresh memory.
pub struct Threads {
    // Fields are dropped in this order: the spill thread ends before its directory is closed.
    spill: JobThread<SpillJob>,
    hash: JobThread<HashJob>,
    memory: JobThread<MemoryJob>,
    dir: SpillDir,
}

enum MemoryJob {
    Back(BackJob),
    Clean(CleanJob),
}

impl Threads {
    /// Starts the threads. `done` is called on them, once for every job.
    ///
    /// # Errors
    /// If the directory cannot be used, the kind of I/O is not available, or no thread can be started.
    pub fn start(
        dir: &Path,
        choice: IoChoice,
        done: impl Fn(Completion) + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let dir = SpillDir::open(dir)?;
        let (mut io, why) = dflow_disk::choose(choice)?;
        tracing::debug!(dir = %dir.path().display(), io = io.name(), why, "spilling");
        let done = Arc::new(done);
        let spilled = Arc::clone(&done);
        let spill = JobThread::start("spill", move |job: SpillJob| spilled(job.run(io.as_mut())))?;
        let hashed = Arc::clone(&done);
        let hash = JobThread::start("hash", move |job: HashJob| hashed(job.run()))?;
        let memory = JobThread::start("memory", move |job| {
            done(match job {
                MemoryJob::Back(job) => job.run(),
                MemoryJob::Clean(job) => job.run(),
            });
        })?;
        Ok(Self { spill, hash, memory, dir })
    }
}

impl Backend for Threads {
    fn allocate(&mut self, size: u64, huge: bool) -> Result<Segment, SegmentError> {
        backed_segment(size, huge)
    }

    fn spill_file(&mut self) -> Result<SpillFile, DiskError> {
        self.dir.create()
    }

    fn submit(&mut self, job: Job) {
        match job {
            Job::Spill(job) => self.spill.submit(job),
            Job::Hash(job) => self.hash.submit(job),
            Job::Back(job) => self.memory.submit(MemoryJob::Back(job)),
            Job::Clean(job) => self.memory.submit(MemoryJob::Clean(job)),
        }
    }
}

/// A thread that runs jobs in order. Dropping it waits until the queued jobs have run.
struct JobThread<J> {
    jobs: Option<Sender<J>>,
    thread: Option<JoinHandle<()>>,
}

impl<J: Send + 'static> JobThread<J> {
    fn start(name: &'static str, mut run: impl FnMut(J) + Send + 'static) -> Result<Self, StoreError> {
        let (jobs, queue) = channel();
        let serve = move || {
            while let Ok(job) = queue.recv() {
                run(job);
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(serve);
        let thread = thread.map_err(|source| StoreError::Thread { name, source })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    fn submit(&self, job: J) {
        if let Some(jobs) = &self.jobs {
            // Cannot fail: the thread ends only after this sender is gone.
            let _ = jobs.send(job);
        }
    }
}

impl<J> Drop for JobThread<J> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It ends when its queue does; a panic there has been printed already.
            let _ = thread.join();
        }
    }
}
