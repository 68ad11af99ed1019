//! A thread beside the store that does one job after the other.

use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// The thread. Dropping it waits until it has done what it was given.
pub(crate) struct JobThread<J> {
    jobs: Option<Sender<J>>,
    thread: Option<JoinHandle<()>>,
}

impl<J: Send + 'static> JobThread<J> {
    /// Starts the thread, on which `act` is called for every job.
    pub(crate) fn start(name: &str, mut act: impl FnMut(J) + Send + 'static) -> std::io::Result<Self> {
        let (jobs, queue) = channel();
        let run = move || {
            while let Ok(job) = queue.recv() {
                act(job);
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Gives it one more job.
    pub(crate) fn submit(&self, job: J) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only after this sender is gone.
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
