//! The daemon's page: a bell for each attempt, and whether the cores are crowded.

use crate::futex::Kernel;
use crate::memory::{Access, Memory};
use crate::segment::{Segment, SegmentError, SegmentKind};
use crate::wait::Wait;
use crate::watchers::PeerWord;
use dflow_protocol::limits::{BELL_BYTES, BELLS_BYTES, MAX_BELLS};
use dflow_protocol::words;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The index whose word is not a bell, but says whether there are more runnable threads than cores.
const CROWDED: u32 = 0;

/// The daemon's side of the page of bells.
#[derive(Debug)]
pub struct Bells {
    memory: Memory,
    segment: Segment,
}

impl Bells {
    /// A new page, writable by this mapping alone.
    ///
    /// # Errors
    /// If there is no memory or no descriptor for it.
    pub fn create() -> Result<Self, SegmentError> {
        let segment = Segment::create("dflow-bells", BELLS_BYTES, SegmentKind::CreatorWritten)?;
        let memory = segment.map(Access::Write)?;
        segment.seal_writes()?;
        Ok(Self { memory, segment })
    }

    /// The segment, to be handed to attempts.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Publishes that `count` messages have been queued for the attempt with this bell, and wakes it if it sleeps.
    /// Bells are numbered from 1.
    ///
    /// # Panics
    /// If there is no such bell.
    pub fn ring(&self, bell: u32, count: u64) {
        assert!(bell != CROWDED);
        words::ring::<Kernel>(word(&self.memory, bell), count);
    }

    /// Tells all attempts whether to sleep at once instead of spinning first.
    pub fn set_crowded(&self, crowded: bool) {
        word(&self.memory, CROWDED).store(u64::from(crowded), Ordering::Relaxed);
    }
}

/// An attempt's bell.
#[derive(Clone, Debug)]
pub struct Bell {
    memory: Arc<Memory>,
    bell: u32,
}

impl Bell {
    /// Maps the page of bells that came from the daemon.
    ///
    /// # Errors
    /// If the descriptor is not that page or `bell` is not on it.
    pub fn adopt(fd: OwnedFd, bell: u32) -> Result<Self, SegmentError> {
        if bell as usize >= MAX_BELLS {
            return Err(SegmentError::Unfit { expected: BELLS_BYTES, problem: format!("it has no bell {bell}") });
        }
        let memory = Arc::new(Segment::adopt(fd, BELLS_BYTES)?.map(Access::Read)?);
        Ok(Self { memory, bell })
    }

    /// How many messages the daemon has ever queued for this attempt.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.word().load(Ordering::Acquire)
    }

    /// The word itself, to sleep on.
    #[must_use]
    pub fn word(&self) -> &AtomicU64 {
        word(&self.memory, self.bell)
    }

    /// Whether there are more runnable threads than cores, so that spinning would take the core from another one.
    #[must_use]
    pub fn crowded(&self) -> bool {
        word(&self.memory, CROWDED).load(Ordering::Relaxed) != 0
    }
}

/// Waits for a bell among ports: for a thread that serves several attempts.
#[derive(Debug)]
pub struct BellWait {
    bell: Bell,
    seen: u64,
}

impl BellWait {
    /// Waits for messages after those that the bell counts now.
    #[must_use]
    pub fn new(bell: Bell) -> Self {
        let seen = bell.count();
        Self { bell, seen }
    }

    /// Whether there are messages since the last call. To be called before the ports are looked at: later messages end the
    /// next wait.
    pub fn take_news(&mut self) -> bool {
        let count = self.bell.count();
        std::mem::replace(&mut self.seen, count) != count
    }
}

/// The daemon rings whether or not the attempt sleeps, so there is nothing to announce.
impl Wait for BellWait {
    fn ready(&mut self) -> bool {
        self.bell.count() != self.seen
    }

    fn settle(&mut self) {}

    fn announce(&mut self) {}

    fn word(&self) -> Option<(&AtomicU64, u64)> {
        Some((self.bell.word(), self.seen))
    }

    fn peer_word(&self) -> Option<(PeerWord, u64)> {
        Some((PeerWord::of_bell(self.bell.clone()), self.seen))
    }

    fn retract(&mut self) {}
}

fn word(memory: &Memory, bell: u32) -> &AtomicU64 {
    assert!((bell as usize) < MAX_BELLS, "bell {bell} is beyond the page");
    // SAFETY: the mapping has MAX_BELLS * BELL_BYTES bytes, cannot shrink, is page-aligned, and lives as long as the
    // borrow; an atomic word is valid for every bit pattern.
    unsafe { memory.start().add(bell as usize * BELL_BYTES).cast::<AtomicU64>().as_ref() }
}
