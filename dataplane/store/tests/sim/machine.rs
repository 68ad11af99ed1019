//! A machine that exists in virtual time: a disk with a capacity and a speed, and memory that takes time to find. Jobs
//! of the store run when the test says so, on the test's own thread.

use dflow_disk::{DiskError, IoChoice, SpillDir, SpillFile, SpillIo};
use dflow_shm::{Segment, SegmentError, SharedBytes};
use dflow_store::{Backend, Completion, Job, backed_segment};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How fast the machine is, and how large its disk.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Bytes that fit on the disk.
    pub disk: u64,
    /// The time that a job takes for each MiB.
    pub spill: Duration,
    pub hash: Duration,
    pub back: Duration,
}

impl Default for Speed {
    fn default() -> Self {
        let millis = Duration::from_millis;
        Self { disk: u64::MAX, spill: millis(2), hash: Duration::from_micros(100), back: Duration::from_micros(500) }
    }
}

/// The machine. Clones are the same one: the store has one as its backend, the test another.
#[derive(Clone)]
pub struct Machine(Rc<RefCell<State>>);

struct State {
    now: Duration,
    speed: Speed,
    dir: SpillDir,
    disk: Disk,
    /// Jobs by the time at which they are done, and then by their order.
    jobs: BTreeMap<(Duration, u64), Job>,
    submitted: u64,
    /// Bytes of memory that were found for windows.
    backed: u64,
    /// Bytes of windows that were zeroed.
    zeroed: u64,
    /// When each kind of job that is under way is over: there is one thread for each.
    busy: [Duration; 3],
    /// The spill directory; dropped after everything in it.
    _place: tempfile::TempDir,
}

struct Disk {
    io: Box<dyn SpillIo>,
    used: u64,
    capacity: u64,
}

impl SpillIo for Disk {
    fn name(&self) -> &'static str {
        "virtual"
    }

    fn write(&mut self, file: &SpillFile, offset: u64, bytes: SharedBytes<'_>) -> Result<(), DiskError> {
        let needed = bytes.len() as u64;
        if self.used + needed > self.capacity {
            return Err(DiskError::NoSpace { needed, dir: file.dir().to_owned() });
        }
        self.used += needed;
        self.io.write(file, offset, bytes)
    }

    fn read(&mut self, file: &SpillFile, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.io.read(file, offset, into)
    }
}

impl Machine {
    pub fn new(speed: Speed) -> Self {
        let place = tempfile::tempdir().unwrap();
        let (io, _) = dflow_disk::choose(IoChoice::Plain).unwrap();
        Self(Rc::new(RefCell::new(State {
            now: Duration::ZERO,
            speed,
            dir: SpillDir::open(place.path()).unwrap(),
            disk: Disk { io, used: 0, capacity: speed.disk },
            jobs: BTreeMap::new(),
            submitted: 0,
            backed: 0,
            zeroed: 0,
            busy: [Duration::ZERO; 3],
            _place: place,
        })))
    }

    /// The backend for a store.
    pub fn backend(&self) -> Box<dyn Backend> {
        Box::new(self.clone())
    }

    pub fn now(&self) -> Duration {
        self.0.borrow().now
    }

    /// Time goes on; jobs that are done by then can be taken.
    pub fn advance(&self, time: Duration) {
        self.0.borrow_mut().now += time;
    }

    /// Bytes of memory that were found for windows so far.
    pub fn backed(&self) -> u64 {
        self.0.borrow().backed
    }

    /// Bytes of windows that were zeroed so far.
    pub fn zeroed(&self) -> u64 {
        self.0.borrow().zeroed
    }

    /// When the next job is done.
    pub fn next_completion(&self) -> Option<Duration> {
        self.0.borrow().jobs.keys().next().map(|(at, _)| *at)
    }

    /// The next job that is done by now.
    pub fn take_done(&self) -> Option<Completion> {
        let mut state = self.0.borrow_mut();
        let now = state.now;
        let first = state.jobs.first_entry().filter(|job| job.key().0 <= now)?;
        Some(match first.remove() {
            Job::Spill(job) => job.run(&mut state.disk),
            Job::Hash(job) => job.run(),
            Job::Back(job) => job.run(),
            Job::Clean(job) => job.run(),
        })
    }
}

impl Backend for Machine {
    fn allocate(&mut self, size: u64, huge: bool) -> Result<Segment, SegmentError> {
        self.0.borrow_mut().backed += size;
        backed_segment(size, huge)
    }

    fn spill_file(&mut self) -> Result<SpillFile, DiskError> {
        self.0.borrow().dir.create()
    }

    fn submit(&mut self, job: Job) {
        let mut state = self.0.borrow_mut();
        let (kind, bytes, speed) = match &job {
            Job::Spill(job) => (0, job.bytes(), state.speed.spill),
            Job::Hash(job) => (1, job.bytes(), state.speed.hash),
            Job::Back(job) => {
                let bytes = job.bytes();
                state.backed += bytes;
                (2, bytes, state.speed.back)
            }
            Job::Clean(job) => {
                let bytes = job.bytes();
                state.zeroed += bytes;
                (2, bytes, state.speed.back)
            }
        };
        let took = Duration::from_nanos(((u128::from(bytes) * speed.as_nanos()) >> 20) as u64);
        let done = state.busy[kind].max(state.now) + took;
        state.busy[kind] = done;
        state.submitted += 1;
        let order = state.submitted;
        state.jobs.insert((done, order), job);
    }
}
