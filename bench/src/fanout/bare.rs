//! The limit: a ring in bare shared memory, and one futex that wakes all readers.

use std::sync::atomic::Ordering;

use crate::failure::Failure;
use crate::fanout::{Fanout, Shape};
use crate::memory::{Mapping, PAGE, sleep_while, wake};
use crate::payload::{Seen, fill};
use crate::subject::{Card, End, Place, Role, Subject, Waiting};

/// The number of messages that fit in the ring.
const SLOTS: u32 = 4;

/// Offset of the count of written messages, on which readers sleep.
const WRITTEN: usize = 0;

/// Offset of the word with which the writer announces a sleep.
const WRITER_SLEEPS: usize = 64;

/// Distance in bytes between the counts of read messages of two readers, which follow.
const STRIDE: usize = 128;

/// A fan-out through bare shared memory.
pub struct Bare;

impl Subject for Bare {
    fn card(&self) -> Card {
        Card {
            name: "bare-ring",
            about: "a ring in bare shared memory, read in place by all readers, which one futex wakes: the limit",
            role: Role::Limit,
            waiting: Waiting::Sleeping,
        }
    }
}

impl Fanout for Bare {
    fn memory(&self, shape: Shape) -> usize {
        head(shape) + SLOTS as usize * shape.message
    }

    fn writer(&self, place: &Place, shape: Shape) -> Result<Box<dyn End>, Failure> {
        Ok(Box::new(Writer(Ring { memory: place.map()?, shape, count: 0 })))
    }

    fn reader(&self, index: usize, place: &Place, shape: Shape) -> Result<Box<dyn End>, Failure> {
        Ok(Box::new(Reader { ring: Ring { memory: place.map()?, shape, count: 0 }, index }))
    }
}

/// The size of the control words in bytes.
fn head(shape: Shape) -> usize {
    (STRIDE * (1 + shape.readers)).next_multiple_of(PAGE)
}

/// Offset of the count of reader `index`.
fn position(index: usize) -> usize {
    STRIDE * (1 + index)
}

struct Ring {
    memory: Mapping,
    shape: Shape,
    /// The number of messages that this end has written or read.
    count: u32,
}

impl Ring {
    fn slot(&self) -> usize {
        head(self.shape) + (self.count % SLOTS) as usize * self.shape.message
    }
}

struct Writer(Ring);

impl Writer {
    /// Sleeps until every reader is less than `lag` messages behind.
    fn wait_for_readers(&self, lag: u32) -> Result<(), Failure> {
        let Ring { memory, shape, count } = &self.0;
        for reader in 0..shape.readers {
            let position = memory.futex(position(reader));
            loop {
                let read = position.load(Ordering::SeqCst);
                if count.wrapping_sub(read) < lag {
                    break;
                }
                // Sequentially consistent on both sides: either the reader sees the flag, or its new count is seen
                // here.
                memory.futex(WRITER_SLEEPS).store(1, Ordering::SeqCst);
                if position.load(Ordering::SeqCst) == read {
                    sleep_while(position, read)?;
                }
                memory.futex(WRITER_SLEEPS).store(0, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}

impl End for Writer {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        self.wait_for_readers(SLOTS)?;
        let ring = &mut self.0;
        // SAFETY: all readers have finished with this slot, and do not access it again before the count allows it.
        fill(unsafe { ring.memory.words_mut(ring.slot(), ring.shape.message) }, first);
        ring.count = ring.count.wrapping_add(1);
        let written = ring.memory.futex(WRITTEN);
        written.store(ring.count, Ordering::SeqCst);
        wake(written, i32::MAX as u32)
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        Err(Failure::new("the writer of a fan-out cannot receive"))
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.wait_for_readers(1)
    }
}

struct Reader {
    ring: Ring,
    index: usize,
}

impl End for Reader {
    fn send(&mut self, _: u64) -> Result<(), Failure> {
        Err(Failure::new("a reader of a fan-out cannot send"))
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        let ring = &mut self.ring;
        let written = ring.memory.futex(WRITTEN);
        while written.load(Ordering::Acquire) == ring.count {
            sleep_while(written, ring.count)?;
        }
        // SAFETY: the count shows that the message is complete; the writer does not touch it until this reader has
        // counted it.
        let seen = Seen::reading(unsafe { ring.memory.words(ring.slot(), ring.shape.message) });
        ring.count = ring.count.wrapping_add(1);
        let position = ring.memory.futex(position(self.index));
        position.store(ring.count, Ordering::SeqCst);
        if ring.memory.futex(WRITER_SLEEPS).load(Ordering::SeqCst) != 0 {
            wake(position, 1)?;
        }
        Ok(seen)
    }
}
