//! What goes to disk: cold windows, while more is in memory than the high mark.

use crate::backend::{Completion, Job, Outcome};
use crate::memory::WindowMemory;
use crate::store::StoreError;
use crate::stream::{Held, Place};
use crate::{Store, StoreEvent};
use dflow_disk::{DiskError, SpillFile, SpillIo};
use dflow_protocol::StreamId;
use dflow_shm::Access;
use std::sync::Arc;

/// Above this share of the budget, cold bytes go to disk (in percent).
const HIGH_MARK: u64 = 75;
/// Bytes on their way to disk at the same time, as a share of the budget (in percent).
const IN_FLIGHT: u64 = 40;

/// Writes a window to disk.
#[derive(Debug)]
pub struct SpillJob {
    stream: StreamId,
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
        // Mapped for the transfer alone. The segment cannot shrink, so its pages are there whatever its writer does.
        let memory = self.memory.segment.map(Access::Read)?;
        io.write(&self.file, self.base, memory.shared(0..usize::try_from(self.length).unwrap_or(0)))?;
        Ok(())
    }
}

/// A window that has arrived on disk, or has not.
#[derive(Debug)]
pub(crate) struct Spilled {
    job: SpillJob,
    result: Result<(), StoreError>,
}

impl Store {
    /// Whether more is in memory than the high mark.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        self.would_be_short(0)
    }

    /// Whether it would be, with so many bytes more.
    pub(crate) fn would_be_short(&self, more: u64) -> bool {
        self.budget.busy() + more > self.budget.limit() / 100 * HIGH_MARK
    }

    /// Sends cold windows to disk while there is more in memory than the high mark. A window is cold when its producer
    /// has left it and nobody reads in it, or somebody who would keep it for long waits for it.
    pub(crate) fn spill_cold(&mut self, wanted: u64) -> Result<(), StoreError> {
        let high = self.budget.limit() / 100 * HIGH_MARK;
        let most = (self.budget.limit() / 100 * IN_FLIGHT).max(wanted);
        let mut streams: Vec<StreamId> = self.streams.keys().copied().collect();
        // The last bytes of a stream first: a reader that comes begins with the first ones, which then are in memory.
        streams.reverse();
        for stream in streams {
            loop {
                let excess = (self.budget.busy() + wanted).saturating_sub(high + self.spilling);
                if excess == 0 || self.spilling >= most || !self.spill_one(stream)? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn spill_one(&mut self, id: StreamId) -> Result<bool, StoreError> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(false) };
        let needed = stream.needed_from();
        let cold = stream.pieces.iter_mut().rev().find(|piece| {
            (piece.users.is_empty() || piece.wanted_on_disk)
                && !piece.lent
                && piece.end.is_some_and(|end| end > needed && end > piece.base)
                && matches!(piece.place, Place::Window { ring: false, .. })
        });
        let Some(piece) = cold else { return Ok(false) };
        let (Place::Window { memory, .. }, Some(end)) = (&piece.place, piece.end) else { return Ok(false) };
        let file = match &stream.spill {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(self.backend.spill_file()?);
                stream.spill = Some(Arc::clone(&file));
                file
            }
        };
        let length = end - piece.base;
        let job = SpillJob { stream: id, base: piece.base, length, memory: Arc::clone(memory), file };
        piece.lent = true;
        self.spilling += length;
        self.backend.submit(Job::Spill(job));
        Ok(true)
    }

    /// A window has arrived on disk, or has not.
    ///
    /// # Errors
    /// If a waiting producer or reader could then not be served.
    pub(crate) fn spilled(&mut self, done: Spilled) -> Result<(), StoreError> {
        let Spilled { job, result } = done;
        self.spilling -= job.length;
        let piece = self.streams.get_mut(&job.stream).and_then(|stream| {
            let same =
                |place: &Place| matches!(place, Place::Window { memory, .. } if Arc::ptr_eq(memory, &job.memory));
            stream.pieces.iter_mut().find(|piece| piece.base == job.base && same(&piece.place))
        });
        match (piece, result) {
            (Some(piece), Ok(())) => {
                piece.lent = false;
                piece.place = Place::Spill(job.file);
                // Who came while it was written goes on in memory.
                piece.held = Some(Held { memory: job.memory, users: std::mem::take(&mut piece.users) });
                if let Some(stream) = self.streams.get_mut(&job.stream) {
                    stream.spilled += job.length;
                }
                self.spilled += job.length;
                self.disk_full = None;
            }
            (Some(piece), Err(error)) => {
                piece.lent = false;
                if let StoreError::Disk(DiskError::NoSpace { .. } | DiskError::FileTooLarge { .. }) = error {
                    // Not fatal yet: while streams move, room may come. `Store::tick` decides.
                    self.disk_full = Some(error.to_string());
                } else {
                    self.events.push(StoreEvent::Failed(error.to_string()));
                }
            }
            // The piece was released while it was written.
            (None, _) => self.budget.free(job.memory),
        }
        self.release(job.stream);
        self.serve_put_off()?;
        self.feed_starved()
    }
}
