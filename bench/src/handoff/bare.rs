//! The limits: a payload, a flag, and nothing else. Every hand-off does at least this.

use std::hint::spin_loop;
use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::failure::Failure;
use crate::handoff::Handoff;
use crate::memory::{Mapping, PAGE, sleep_while, wake};
use crate::payload::{Seen, fill};
use crate::subject::{Card, End, Place, Role, Side, Subject, Waiting};

/// The reader spins on the flag.
pub static ATOMIC: Bare = Bare {
    name: "atomic",
    about: "bare shared memory: write the payload, set a flag, read every word; the limit of spinning",
    waiting: Waiting::Spinning,
    window: 0,
};

/// The same, with each payload at the next position of a window. Medium-sized payloads are faster this way, because the
/// reader's cache no longer holds the lines that the writer needs.
pub static ATOMIC_WINDOW: Bare = Bare {
    name: "atomic-window",
    about: "the same, each payload at the next position of a window of 2 MiB instead of always at the same position",
    waiting: Waiting::Spinning,
    window: 2 << 20,
};

/// The reader sleeps on the flag.
pub static FUTEX: Bare = Bare {
    name: "futex",
    about: "bare shared memory, the reader sleeps in futex and is always woken: the limit of sleeping",
    waiting: Waiting::Sleeping,
    window: 0,
};

/// Offsets of the flags: two cache lines apart, because processors prefetch lines in pairs.
const FLAGS: [usize; 2] = [0, 128];

/// A hand-off through bare shared memory.
pub struct Bare {
    name: &'static str,
    about: &'static str,
    waiting: Waiting,
    /// The size in bytes of the memory for the payloads of one direction; at least one payload.
    window: usize,
}

impl Bare {
    /// The number of payloads for which one direction has room.
    fn places(&self, size: usize) -> usize {
        (self.window / size.next_multiple_of(PAGE)).max(1)
    }
}

impl Subject for Bare {
    fn card(&self) -> Card {
        Card { name: self.name, about: self.about, role: Role::Limit, waiting: self.waiting }
    }
}

impl Handoff for Bare {
    fn memory(&self, size: usize) -> usize {
        PAGE + 2 * self.places(size) * size.next_multiple_of(PAGE)
    }

    fn join(&self, side: Side, place: &Place, size: usize) -> Result<Box<dyn End>, Failure> {
        let memory = place.map()?;
        let stride = size.next_multiple_of(PAGE);
        let window = self.places(size) * stride;
        let slot = |index: usize| {
            let start = PAGE + index * window;
            Slot { flag: FLAGS[index], payload: start, stride, window: start..start + window }
        };
        let (mine, theirs) = match side {
            Side::First => (0, 1),
            Side::Second => (1, 0),
        };
        Ok(Box::new(BareEnd {
            memory,
            size,
            mine: slot(mine),
            theirs: slot(theirs),
            sent: 0,
            received: 0,
            waiting: self.waiting,
        }))
    }
}

/// The memory of one direction.
struct Slot {
    flag: usize,
    /// Offset of the next payload.
    payload: usize,
    stride: usize,
    window: Range<usize>,
}

impl Slot {
    /// Advances to the next position.
    fn advance(&mut self) {
        self.payload += self.stride;
        if self.payload == self.window.end {
            self.payload = self.window.start;
        }
    }
}

struct BareEnd {
    memory: Mapping,
    size: usize,
    mine: Slot,
    theirs: Slot,
    sent: u32,
    received: u32,
    waiting: Waiting,
}

impl End for BareEnd {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        // SAFETY: it is this side's turn, and only this side writes this payload. The other side reads it after the
        // flag is set, and finishes before it returns the turn.
        fill(unsafe { self.memory.words_mut(self.mine.payload, self.size) }, first);
        self.mine.advance();
        self.sent = self.sent.wrapping_add(1);
        let flag = self.memory.futex(self.mine.flag);
        flag.store(self.sent, Ordering::Release);
        if self.waiting == Waiting::Sleeping {
            wake(flag, 1)?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        let flag = self.memory.futex(self.theirs.flag);
        let last = self.received;
        match self.waiting {
            Waiting::Spinning => {
                while flag.load(Ordering::Acquire) == last {
                    spin_loop();
                }
            }
            Waiting::Sleeping => {
                while flag.load(Ordering::Acquire) == last {
                    sleep_while(flag, last)?;
                }
            }
        }
        self.received = last.wrapping_add(1);
        // SAFETY: the flag shows that the other side has written the payload. It writes it again only after this side's
        // answer.
        let seen = Seen::reading(unsafe { self.memory.words(self.theirs.payload, self.size) });
        self.theirs.advance();
        Ok(seen)
    }
}
