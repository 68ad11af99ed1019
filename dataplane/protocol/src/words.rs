//! The control words of a stream, and how processes use them without losing a wake-up.
//!
//! Each word has one writer. A producer publishes a [`Progress`] (watermark and state); each reader publishes its own
//! (position and state). The daemon publishes a *bell* for each attempt: the number of messages that it has queued for
//! that attempt so far. Next to its progress, each port has a *ticket*: zero, or the value on which its owner sleeps.
//!
//! **Sleeping** ([`Sleeper::prepare`]): store the ticket, fence, load every word again, and only then sleep on their
//! values. **Publishing** ([`publish`]): store the word, fence, load the ticket of each possible sleeper
//! ([`Watch::must_wake`]), and wake those that sleep on an older value. This is Dekker's pattern: because of the two
//! SeqCst fences, the publisher sees the ticket or the sleeper sees the word, or both. A release store followed by a
//! plain load would lose wake-ups.
//!
//! **The bell orders decisions.** A decision of the daemon can change what a shared word means to an attempt: its
//! window ends here, a new reader has joined. The daemon queues that message and rings the bell *before* the other side
//! can act on the decision. An attempt therefore loads a progress word and *then* its bell. If the bell has changed, it
//! handles the messages before it interprets the word.

use std::sync::atomic::Ordering;

/// A 64-bit word in memory that is shared with other processes.
pub trait Word: Sync {
    /// Loads the word.
    fn load(&self, order: Ordering) -> u64;
    /// Stores the word. Only its one writer may call this.
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
    /// Wakes all sleepers on `word`.
    fn wake(word: &Self::Word);
    /// Sleeps until one of `words` is woken. Returns at once if one of them differs from the value given with it, and
    /// may wake spuriously.
    fn sleep(words: &[(&Self::Word, u64)]);
}

/// The state of the writer of a [`Progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its offset may still advance.
    Open,
    /// The producer has written everything, or the reader wants no more.
    Finished,
    /// The producer has given up.
    Aborted,
}

/// An offset and a state in one word. They change together, so nobody sees the final watermark without the end of the
/// stream or the end without the final watermark.
///
/// A futex compares 32 bits. The low 32 bits of the word hold the state and 30 bits of the offset, and windows are
/// shorter than 2^30 bytes. The offset therefore cannot advance during one sleep to a value with the same low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The watermark of a producer or the position of a reader, in bytes from the start of the stream.
    pub offset: u64,
    /// The state of its writer.
    pub state: State,
}

/// The largest offset of a stream: 4 EiB minus one byte.
pub const MAX_OFFSET: u64 = (1 << 62) - 1;

impl Progress {
    /// Progress of a writer that has not ended.
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

    /// Decodes a word. Every word decodes: a hostile process can publish a wrong progress, but not an invalid one.
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

/// Whether an offset that was `before` may now be `now`: an offset never decreases and never passes `limit`, the end of
/// the granted room. Must be checked for every word written by an untrusted process. Do not pass a watermark as the
/// limit of a position: a malicious producer could lower it after a reader has followed it, and the reader would be
/// blamed.
#[must_use]
pub const fn is_possible(before: u64, now: u64, limit: u64) -> bool {
    before <= now && now <= limit
}

/// Stores `progress` and orders the store before the caller's next loads: the tickets of possible sleepers on the word
/// ([`Watch::must_wake`]) and the caller's bell.
pub fn publish<P: Platform>(word: &P::Word, progress: Progress) {
    word.store(progress.encode(), Ordering::Release);
    P::fence();
}

/// A publisher's record of one possible sleeper, so that it wakes it at most once for each sleep.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    woken: u64,
}

impl Watch {
    /// Whether, after [`publish`] of `published`, this sleeper sleeps on an older value or is about to, and has not
    /// been woken from that sleep yet. If so, the caller calls [`Platform::wake`] on the published word.
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
/// A ticket holds the value on which its owner sleeps (low 48 bits) and a sequence number (high 16 bits). The sequence
/// number alone would not suffice: a publisher may wake for it before the owner has loaded its words again, and would
/// then regard the sleep that follows as one that it has already ended. With the value, one wake-up for each ticket is
/// enough, because nobody falls asleep on a value that its word no longer has. The sequence number distinguishes two
/// sleeps on equal values of different words.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sleeper {
    sleeps: u16,
}

const VALUE_BITS: u32 = 48;
const VALUE_MASK: u64 = (1 << VALUE_BITS) - 1;

/// Whether the owner of this ticket sleeps on this value of a word. If its ticket matches none of the current values of
/// its words, the owner has been woken and has not run since.
#[must_use]
pub const fn sleeps_on(ticket: u64, value: u64) -> bool {
    ticket != 0 && (ticket ^ value) & VALUE_MASK == 0
}

impl Sleeper {
    /// Announces a sleep on `value`, the last value seen in the word on which the port of this `ticket` waits. The
    /// caller then loads every word again, sleeps only if each still has its announced value ([`Platform::sleep`]), and
    /// finally calls [`Sleeper::done`].
    pub fn prepare<P: Platform>(&mut self, ticket: &P::Word, value: u64) {
        // Never 0: a ticket on value 0 would be the word that means no sleep.
        self.sleeps = if self.sleeps == u16::MAX { 1 } else { self.sleeps + 1 };
        ticket.store(u64::from(self.sleeps) << VALUE_BITS | value & VALUE_MASK, Ordering::Relaxed);
        P::fence();
    }

    /// Withdraws the announcement.
    pub fn done<P: Platform>(&self, ticket: &P::Word) {
        ticket.store(0, Ordering::Relaxed);
    }
}

/// Publishes `count`, the number of messages queued for an attempt so far, in its bell and wakes the attempt. The
/// message must be queued or sent before this is called.
pub fn ring<P: Platform>(bell: &P::Word, count: u64) {
    bell.store(count, Ordering::Release);
    P::fence();
    P::wake(bell);
}
