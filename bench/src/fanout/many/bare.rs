//! The limit: a cache line of payload and a flag for each stream, in memory allocated before.

use std::hint::spin_loop;
use std::sync::atomic::Ordering;

use crate::failure::Failure;
use crate::fanout::many::{Ends, LENGTH, ManyEnd};
use crate::memory::Mapping;
use crate::payload::{Seen, fill};
use crate::subject::{Card, Place, Role, Side, Subject, Waiting};

/// The size of a stream's slot in bytes: its payload and, on a separate cache line, its flag.
const SLOT: usize = LENGTH + 64;

/// Many streams through bare shared memory.
pub struct Bare;

impl Subject for Bare {
    fn card(&self) -> Card {
        Card {
            name: "bare-slots",
            about: "a slot of bare shared memory for each, allocated before: write, set a flag, read; the limit",
            role: Role::Limit,
            waiting: Waiting::Spinning,
        }
    }
}

impl Ends for Bare {
    fn memory(&self, streams: usize) -> usize {
        streams * SLOT
    }

    fn join(&self, side: Side, place: &Place, _: usize) -> Result<Box<dyn ManyEnd>, Failure> {
        Ok(Box::new(Slots { memory: place.map()?, side, pass: 0 }))
    }
}

struct Slots {
    memory: Mapping,
    side: Side,
    /// The value of the flags in this pass.
    pass: u64,
}

impl ManyEnd for Slots {
    fn move_all(&mut self, streams: usize) -> Result<(), Failure> {
        self.pass += 1;
        for stream in 0..streams {
            let slot = stream * SLOT;
            let flag = self.memory.counter(slot + LENGTH);
            match self.side {
                Side::First => {
                    // SAFETY: the reader accesses the slot only after the flag is set, once in each pass.
                    fill(unsafe { self.memory.words_mut(slot, LENGTH) }, stream as u64);
                    flag.store(self.pass, Ordering::Release);
                }
                Side::Second => {
                    while flag.load(Ordering::Acquire) != self.pass {
                        spin_loop();
                    }
                    // SAFETY: the flag shows that the slot is written; it is written again only in the next pass.
                    Seen::reading(unsafe { self.memory.words(slot, LENGTH) }).check(LENGTH)?;
                }
            }
        }
        Ok(())
    }
}
