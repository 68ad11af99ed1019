//! The control words of a stream, and how two processes use them without losing a wake-up.
//!
//! Each word has one writer. A producer publishes a [`Progress`] (watermark and state), each reader publishes one of
//! its own (position and state), the daemon publishes a *bell* for each attempt: the number of messages that it has
//! ever queued for it. Beside its progress each port has a *ticket*: zero, or what its owner sleeps on.
//!
//! **Sleeping** ([`Sleeper::prepare`]): write a ticket, fence, look at every word again, only then sleep on their
//! values. **Publishing** ([`publish`]): store the word, fence, look at the tickets of those who may sleep on it
//! ([`Watch::must_wake`]), wake if one of them sleeps on an older value. The two SeqCst fences make it impossible that the publisher misses the
//! ticket *and* the sleeper misses the word: it is Dekker's pattern, and a release store with a plain load loses wake-ups.
//!
//! **The bell orders decisions.** Whatever the daemon decides that changes what a shared word means to an attempt (its
//! window ends here, a new reader has come) is queued and the bell raised *before* the other side can act on it. So
//! whoever reads a progress word and *then* its own bell, and handles the messages first if the bell has changed,
//! never misreads the word.

use std::sync::atomic::Ordering;

/// A 64-bit word in memory that is shared with other processes.
pub trait Word: Sync {
    /// Loads the word.
    fn load(&self, order: Ordering) -> u64;
    /// Stores the word; only its one writer may.
    fn store(&self, value: u64, order: Ordering);
}

impl Word for std::sync::atomic::AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        std::sync::atomic::AtomicU64::load(self, order)
    }

    fn store(&self, value: u64, order: Ordering) {
        std::sync::atomic::AtomicU64::store(self, value, order);
    }
}

/// The atomics and the futex under the protocol: mapped memory and the kernel, or a model of them.
pub trait Platform {
    /// The kind of word.
    type Word: Word;
    /// A full fence between this thread's earlier and later accesses.
    fn fence();
    /// Wakes everybody who sleeps on `word`.
    fn wake(word: &Self::Word);
    /// Sleeps until one of `words` is woken, unless one of them differs from the value beside it. May return early.
    fn sleep(words: &[(&Self::Word, u64)]);
}

/// How the writer of a [`Progress`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// More may come.
    Open,
    /// A producer has written everything; a reader wants no more.
    Finished,
    /// The producer has given up.
    Aborted,
}

/// An offset and a state in one word: they change together, so no reader ever sees the last watermark without the end,
/// or the end without the last watermark.
///
/// The low 32 bits, on which a futex compares, hold the state and 30 bits of the offset. Windows are shorter than
/// 2^30 bytes, so two offsets that a sleeper could confuse are never both within its reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The watermark of a producer or the position of a reader, in bytes from the start of the stream.
    pub offset: u64,
    /// How its writer stands.
    pub state: State,
}

/// The largest offset of a stream: 4 EiB less one.
pub const MAX_OFFSET: u64 = (1 << 62) - 1;

impl Progress {
    /// Progress of a writer that is still at work.
    #[must_use]
    pub const fn open(offset: u64) -> Self {
        Self { offset, state: State::Open }
    }

    /// The word for this progress. The offset must not exceed [`MAX_OFFSET`].
    #[must_use]
    pub const fn encode(self) -> u64 {
        debug_assert!(self.offset <= MAX_OFFSET);
        let state = match self.state {
            State::Open => 0,
            State::Finished => 1,
            State::Aborted => 2,
        };
        self.offset << 2 | state
    }

    /// What a word says. Every word says something: a hostile one may say nonsense, but never something invalid.
    #[must_use]
    pub const fn decode(word: u64) -> Self {
        let state = match word & 3 {
            0 => State::Open,
            1 => State::Finished,
            _ => State::Aborted,
        };
        Self { offset: word >> 2, state }
    }
}

/// Whether an offset that was seen as `before` can now be `now`: offsets never go back, and never pass `limit`, the room
/// that was granted. Whoever looks at words that it does not trust asks this of each. A watermark is no limit of a
/// position: a producer that lies could take it back after a reader has believed it, and the reader would be blamed.
#[must_use]
pub const fn is_possible(before: u64, now: u64, limit: u64) -> bool {
    before <= now && now <= limit
}

/// Stores `progress` and orders the store before whatever the caller looks at next: the tickets of those who may sleep
/// on the word ([`Watch::must_wake`]), and the caller's bell.
pub fn publish<P: Platform>(word: &P::Word, progress: Progress) {
    word.store(progress.encode(), Ordering::Release);
    P::fence();
}

/// What a publisher remembers of one possible sleeper, so that it never wakes twice for one sleep.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    woken: u64,
}

impl Watch {
    /// After [`publish`] of `published`: whether this sleeper sleeps on an older value, or is about to, and has not
    /// been woken for it. The caller then calls [`Platform::wake`] on the published word.
    pub fn must_wake<P: Platform>(&mut self, ticket: &P::Word, published: Progress) -> bool {
        let ticket = ticket.load(Ordering::Relaxed);
        if ticket == 0 || ticket == self.woken || sleeps_on(ticket, published.encode()) {
            return false;
        }
        self.woken = ticket;
        true
    }
}

/// The sleeping side.
///
/// A ticket holds the value that its owner sleeps on (the low 48 bits) beside a number (the high 16). The number alone
/// would not do: a publisher that wakes for it may be early, before the owner has looked at its words again, and would
/// take the sleep that follows for one that it has already ended. Once a word has moved on, nobody falls asleep on its
/// old value, so one wake-up for each ticket is enough. The number tells two sleeps on different words apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sleeper {
    sleeps: u16,
}

const VALUE_BITS: u32 = 48;
const VALUE_MASK: u64 = (1 << VALUE_BITS) - 1;

/// Whether the owner of this ticket sleeps on this value of a word. If it does on no value that the words before it have
/// now, it was woken and has not run since.
#[must_use]
pub const fn sleeps_on(ticket: u64, value: u64) -> bool {
    ticket != 0 && (ticket ^ value) & VALUE_MASK == 0
}

impl Sleeper {
    /// Announces a sleep on `value`, the value that was seen in the word that matters to the port of this `ticket`.
    /// After this the caller looks at every word once more, sleeps only if each still has the value that it announced
    /// ([`Platform::sleep`]), and then calls [`Sleeper::done`].
    pub fn prepare<P: Platform>(&mut self, ticket: &P::Word, value: u64) {
        self.sleeps = if self.sleeps == u16::MAX { 1 } else { self.sleeps + 1 };
        ticket.store(u64::from(self.sleeps) << VALUE_BITS | value & VALUE_MASK, Ordering::Relaxed);
        P::fence();
    }

    /// Takes the announcement back.
    pub fn done<P: Platform>(&self, ticket: &P::Word) {
        ticket.store(0, Ordering::Relaxed);
    }
}

/// The daemon's side of a bell: counts one more message. The message must be where the attempt will find it (queued,
/// if not yet sent) before this is called.
pub fn ring<P: Platform>(bell: &P::Word, count: u64) {
    bell.store(count, Ordering::Release);
    P::fence();
    P::wake(bell);
}
