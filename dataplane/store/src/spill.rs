//! Spilling: cold windows go to disk while memory in use is above the high mark.

use crate::backend::{Completion, Outcome};
use crate::error::{RunFailure, StoreError};
use crate::memory::WindowMemory;
use crate::pieces::Place;
use crate::{RunStream, Store};
use dflow_disk::{DiskError, SpillFile, SpillIo};
use dflow_protocol::{RunId, StreamId};
use dflow_shm::Access;
use std::sync::Arc;

/// The high mark, in percent of the budget or of a run's cap. The rest is head-room: a window is granted at once, while
/// others are written to disk.
const HIGH_MARK: u64 = 75;
/// The most bytes on their way to disk at the same time, in percent of the budget.
const IN_FLIGHT: u64 = 40;

/// Writes a window to disk.
#[derive(Debug)]
pub struct SpillJob {
    stream: RunStream,
    base: u64,
    length: u64,
    memory: Arc<WindowMemory>,
    file: Arc<SpillFile>,
}

impl SpillJob {
    /// How many bytes it writes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.length
    }

    /// Writes them.
    #[must_use]
    pub fn run(self, io: &mut dyn SpillIo) -> Completion {
        let result = self.write(io);
        Completion(Outcome::Spill(Spilled { job: self, result }))
    }

    fn write(&self, io: &mut dyn SpillIo) -> Result<(), StoreError> {
        // Mapped for the transfer alone. The segment is sealed against shrinking, so its writer cannot cause a SIGBUS
        // here.
        let memory = self.memory.segment.map(Access::Read)?;
        io.write(&self.file, self.base, memory.shared(0..usize::try_from(self.length).unwrap_or(0)))?;
        Ok(())
    }
}

/// A window that was written to disk, or could not be.
#[derive(Debug)]
pub(crate) struct Spilled {
    job: SpillJob,
    result: Result<(), StoreError>,
}

impl Store {
    /// Whether memory in use is above the high mark, of the budget or of the run's cap.
    pub(crate) fn is_short_of_memory(&self, run: RunId) -> bool {
        self.would_be_short(run, 0)
    }

    /// Whether it would be with `more` bytes.
    pub(crate) fn would_be_short(&self, run: RunId, more: u64) -> bool {
        let of_run = self.memory.account(run).is_some_and(|account| account.used + more > high_mark(account.cap));
        of_run || self.memory.busy() + more > high_mark(self.memory.limit())
    }

    /// Spills cold windows while memory in use, with the `wanted` bytes that `run` asks for, is above the high mark. A
    /// window is cold when its producer has left it and no reader has it mapped, or when a reader waits to map it from
    /// the file. Windows of the run that is most above its share go first.
    pub(crate) fn spill_cold(&mut self, run: RunId, wanted: u64) {
        let most = (self.memory.limit() / 100 * IN_FLIGHT).max(wanted);
        let of_run = |store: &Self| {
            let used = store.memory.account(run).map_or(0, |account| account.used + wanted);
            let spilling = store.runs.get(run).map_or(0, |run| run.spilling);
            let cap = store.memory.account(run).map_or(0, |account| account.cap);
            used.saturating_sub(high_mark(cap).saturating_add(spilling))
        };
        self.spill_of(run, most, of_run);
        let high = high_mark(self.memory.limit());
        let of_all = |store: &Self| (store.memory.busy() + wanted).saturating_sub(high + store.jobs.spilling());
        if of_all(self) == 0 {
            return;
        }
        for (victim, _) in self.memory.excesses(high, Some((run, wanted))) {
            self.spill_of(victim, most, of_all);
        }
        // The others have no cold window above their share, so the run makes room for itself.
        self.spill_of(run, most, of_all);
    }

    /// Spills cold windows of a run while there is an excess, up to `most` bytes on their way to disk.
    fn spill_of(&mut self, run: RunId, most: u64, excess: impl Fn(&Self) -> u64) {
        if excess(self) == 0 {
            return;
        }
        let Some(state) = self.runs.get(run).filter(|state| state.disk.may_be_tried(self.now)) else { return };
        // The newest streams first: the readers of older ones are more likely to run soon.
        let streams: Vec<StreamId> = state.spillable.iter().rev().copied().collect();
        for stream in streams {
            while excess(self) > 0 && self.jobs.spilling() < most {
                match self.spill_one(RunStream { run, stream }) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => return self.fail_run(run, RunFailure::Store(error)),
                }
            }
        }
    }

    fn spill_one(&mut self, id: RunStream) -> Result<bool, StoreError> {
        let Some(run) = self.runs.get_mut(id.run) else { return Ok(false) };
        let Some(stream) = run.streams.get_mut(&id.stream) else {
            run.spillable.remove(&id.stream);
            return Ok(false);
        };
        let needed = stream.needed_from();
        let Some(piece) = stream.epoch.pieces.coldest(needed) else {
            if !stream.epoch.pieces.has_closed_window() {
                run.spillable.remove(&id.stream);
            }
            return Ok(false);
        };
        let (Place::Window { memory, .. }, Some(end)) = (&piece.place, piece.end) else { return Ok(false) };
        let (base, length, memory) = (piece.base, end - piece.base, Arc::clone(memory));
        let file = stream.epoch.spill_file(|| self.jobs.spill_file())?;
        if let Some(piece) = stream.epoch.pieces.with_memory(base, &memory) {
            piece.lent = true;
        }
        run.spilling += length;
        tracing::trace!(stream = %id.stream, base, length, "a window is being written to disk");
        self.jobs.submit_spill(SpillJob { stream: id, base, length, memory, file });
        Ok(true)
    }

    /// A window was written to disk, or could not be.
    pub(crate) fn spilled(&mut self, done: Spilled) {
        let Spilled { job, result } = done;
        let id = job.stream;
        self.jobs.complete_spill(&job);
        let now = self.now;
        let run = self.runs.get_mut(id.run).and_then(|run| {
            run.spilling -= job.length;
            let piece = run.streams.get_mut(&id.stream)?.epoch.pieces.with_memory(job.base, &job.memory)?;
            Some((&mut run.disk, &mut run.spilled, piece))
        });
        match (run, result) {
            (Some((disk, spilled, piece)), Ok(())) => {
                tracing::debug!(stream = %id.stream, base = job.base, length = job.length, "a window was written to disk");
                piece.move_to(job.file, job.memory);
                disk.works();
                *spilled += job.length;
                self.spilled += job.length;
            }
            (Some((disk, _, piece)), Err(error)) => {
                piece.lent = false;
                tracing::debug!(stream = %id.stream, base = job.base, length = job.length, %error, "a window stays in memory");
                match error {
                    StoreError::Disk(DiskError::NoSpace { .. } | DiskError::FileTooLarge { .. }) => {
                        disk.fill(error.to_string(), now);
                    }
                    error => self.fail_run(id.run, RunFailure::Store(error)),
                }
            }
            // The piece was freed while it was written.
            (None, _) => self.memory.free(job.memory, now),
        }
        self.release(id);
        self.serve_put_off();
        self.serve_waiting_outputs(None);
    }
}

fn high_mark(bytes: u64) -> u64 {
    bytes / 100 * HIGH_MARK
}
