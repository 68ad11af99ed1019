//! The limits: one core that writes and reads the same buffers, and two cores connected by a bare ring.

use std::hint::spin_loop;
use std::sync::atomic::Ordering;

use crate::failure::Failure;
use crate::memory::{Mapping, PAGE};
use crate::payload::{Seen, fill};
use crate::stream::{Layout, Stream};
use crate::subject::{Card, End, Place, Role, Side, Subject, Waiting};

/// One core: the bandwidth of its memory and caches without transfer to another core.
pub static ONE_CORE: Bare = Bare {
    name: "one-core",
    about: "one process writes a message and reads it again: the bandwidth of one core on the same buffers",
    one_process: true,
};

/// Two cores: the bandwidth from cache to cache.
pub static RING: Bare = Bare {
    name: "bare-ring",
    about: "a ring of bare shared memory: write, publish a counter, read; both cores work at the same time",
    one_process: false,
};

/// Offsets of the counters of written and of read messages.
const WRITTEN: usize = 0;
const READ: usize = 128;

/// A ring in bare memory.
pub struct Bare {
    name: &'static str,
    about: &'static str,
    one_process: bool,
}

impl Subject for Bare {
    fn card(&self) -> Card {
        Card { name: self.name, about: self.about, role: Role::Limit, waiting: Waiting::Spinning }
    }
}

impl Stream for Bare {
    fn memory(&self, layout: Layout) -> usize {
        PAGE + layout.window
    }

    fn is_one_process(&self) -> bool {
        self.one_process
    }

    fn can_keep(&self) -> bool {
        true
    }

    fn join(&self, _: Side, place: &Place, layout: Layout) -> Result<Box<dyn End>, Failure> {
        let slots = (layout.window / layout.message) as u64;
        Ok(Box::new(Ring {
            memory: place.map()?,
            message: layout.message,
            slots,
            written: 0,
            read: 0,
            read_seen: 0,
            written_seen: 0,
        }))
    }
}

/// Either end of the ring.
struct Ring {
    memory: Mapping,
    message: usize,
    slots: u64,
    /// The number of messages that this end has written or read.
    written: u64,
    read: u64,
    /// The last known value of the other end's counter. Loading the counter costs a cache miss, so it is loaded only
    /// when necessary.
    read_seen: u64,
    written_seen: u64,
}

impl Ring {
    fn place_of(&self, message: u64) -> usize {
        PAGE + (message % self.slots) as usize * self.message
    }
}

impl End for Ring {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        while self.written - self.read_seen >= self.slots {
            self.read_seen = self.memory.counter(READ).load(Ordering::Acquire);
            spin_loop();
        }
        // SAFETY: the reader has finished with this slot, and does not access it again before the counter allows it.
        fill(unsafe { self.memory.words_mut(self.place_of(self.written), self.message) }, first);
        self.written += 1;
        self.memory.counter(WRITTEN).store(self.written, Ordering::Release);
        Ok(())
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        while self.written_seen == self.read {
            self.written_seen = self.memory.counter(WRITTEN).load(Ordering::Acquire);
            spin_loop();
        }
        // SAFETY: the counter shows that the message is complete; the writer does not touch it until it is counted as
        // read.
        let seen = Seen::reading(unsafe { self.memory.words(self.place_of(self.read), self.message) });
        self.read += 1;
        self.memory.counter(READ).store(self.read, Ordering::Release);
        Ok(seen)
    }
}
