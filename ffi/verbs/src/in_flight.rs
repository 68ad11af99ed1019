//! What one work queue has posted and not completed: it keeps the memory of each request, and tells which requests a
//! completion ends. Pure bookkeeping, without a device.

use crate::status::Operation;
use std::collections::VecDeque;

/// How many bits of a tag count the requests of a queue; far more than the depth of any queue.
const SEQUENCE_BITS: u32 = 40;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;

/// The most work queues that complete into one completion queue at a time.
pub(crate) const MAX_SLOTS: usize = 1 << 16;

/// What the device carries for a request and gives back with its completion: the queue's place among those of the
/// completion queue, how often that place was taken before (so that what a destroyed queue leaves behind is not taken
/// for its successor's), and the request's number in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) slot: u16,
    pub(crate) generation: u8,
    pub(crate) sequence: u64,
}

impl Tag {
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.slot) << (SEQUENCE_BITS + 8)
            | u64::from(self.generation) << SEQUENCE_BITS
            | (self.sequence & SEQUENCE_MASK)
    }

    #[expect(clippy::cast_possible_truncation, reason = "each part is cut out by its width")]
    pub(crate) fn unpack(packed: u64) -> Self {
        Self {
            slot: (packed >> (SEQUENCE_BITS + 8)) as u16,
            generation: (packed >> SEQUENCE_BITS) as u8,
            sequence: packed & SEQUENCE_MASK,
        }
    }
}

/// One request between its post and its completion.
#[derive(Debug)]
pub(crate) struct Entry<H> {
    /// The caller's name for it.
    pub(crate) id: u64,
    pub(crate) operation: Operation,
    pub(crate) bytes: u32,
    /// Whether the caller wants to hear of its success.
    pub(crate) notify: bool,
    /// What must stay alive.
    pub(crate) hold: Option<H>,
}

/// A bounded queue of entries; the device completes them in order.
#[derive(Debug)]
pub(crate) struct InFlight<H> {
    entries: VecDeque<Entry<H>>,
    depth: usize,
    /// The number of the first entry.
    first: u64,
    /// How many of the last entries the device will not report by themselves.
    silent: usize,
}

impl<H> InFlight<H> {
    pub(crate) fn new(depth: usize) -> Self {
        Self { entries: VecDeque::with_capacity(depth), depth, first: 0, silent: 0 }
    }

    pub(crate) fn free(&self) -> usize {
        self.depth - self.entries.len()
    }

    /// Whether the device must report the next entry even if its success interests nobody: the room of silent entries
    /// comes back only with a report behind them.
    pub(crate) fn must_signal(&self) -> bool {
        self.silent + 1 >= self.depth.div_ceil(2)
    }

    /// Adds an entry, for which there must be room, and gives its number.
    pub(crate) fn push(&mut self, entry: Entry<H>, signaled: bool) -> u64 {
        debug_assert!(self.free() > 0);
        let sequence = self.first.wrapping_add(self.entries.len() as u64);
        self.entries.push_back(entry);
        self.silent = if signaled { 0 } else { self.silent + 1 };
        sequence
    }

    /// Takes back the last `count` entries, which the device refused.
    pub(crate) fn take_back(&mut self, count: usize) {
        self.entries.truncate(self.entries.len().saturating_sub(count));
        // Not known any more, so the next one is reported.
        self.silent = self.depth;
    }

    /// Removes the entry with this number and gives it, and everything before it into `released`; nothing if it is not in
    /// flight.
    pub(crate) fn complete(&mut self, sequence: u64, released: &mut Vec<H>) -> Option<Entry<H>> {
        let before = sequence.wrapping_sub(self.first) & SEQUENCE_MASK;
        if before >= self.entries.len() as u64 {
            return None;
        }
        for _ in 0..before {
            released.extend(self.entries.pop_front().and_then(|entry| entry.hold));
        }
        self.first = self.first.wrapping_add(before + 1);
        let entry = self.entries.pop_front();
        self.silent = self.silent.min(self.entries.len());
        entry
    }

    /// Gives everything up, after the device has.
    pub(crate) fn clear(&mut self) -> VecDeque<Entry<H>> {
        std::mem::take(&mut self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn entry(id: u64, hold: Arc<()>) -> Entry<Arc<()>> {
        Entry { id, operation: Operation::Write, bytes: 0, notify: true, hold: Some(hold) }
    }

    proptest! {
        #[test]
        fn a_tag_comes_back_as_it_was(slot: u16, generation: u8, sequence in 0..=SEQUENCE_MASK) {
            let tag = Tag { slot, generation, sequence };
            prop_assert_eq!(Tag::unpack(tag.pack()), tag);
        }

        /// Posts and completions in any order: nothing is released before its completion or a later one, everything is
        /// afterwards, ids come back with their numbers, and the sender never waits for ever.
        #[test]
        fn memory_is_held_exactly_while_in_flight(
            depth in 1usize..40,
            start in prop_oneof![Just(0), Just(SEQUENCE_MASK - 3), Just(u64::MAX - 3)],
            steps in prop::collection::vec((any::<bool>(), any::<bool>(), 0usize..40), 1..200),
        ) {
            let mut queue = InFlight::new(depth);
            queue.first = start;
            // All that was posted: its number, what it holds, whether the device reports it.
            let mut posted: Vec<(u64, Arc<()>, bool)> = Vec::new();
            let mut done = 0;
            let mut released = Vec::new();
            for (post, signaled, pick) in steps {
                if post && queue.free() > 0 {
                    let signaled = signaled || queue.must_signal();
                    let hold = Arc::new(());
                    let sequence = queue.push(entry(posted.len() as u64, hold.clone()), signaled);
                    posted.push((sequence & SEQUENCE_MASK, hold, signaled));
                } else {
                    let reported: Vec<usize> = (done..posted.len()).filter(|&at| posted[at].2).collect();
                    // The device reports in order; some are a burst of which only the last matters here.
                    let Some(&at) = reported.get(pick % reported.len().max(1)) else {
                        prop_assert!(queue.free() > 0, "full, and nothing will ever be reported");
                        continue;
                    };
                    let ended = queue.complete(posted[at].0, &mut released).expect("in flight");
                    prop_assert_eq!(ended.id, at as u64);
                    drop(ended);
                    released.clear();
                    prop_assert!(queue.complete(posted[at].0, &mut released).is_none(), "completed twice");
                    done = at + 1;
                }
                for (at, (_, hold, _)) in posted.iter().enumerate() {
                    prop_assert_eq!(Arc::strong_count(hold), if at < done { 1 } else { 2 });
                }
                prop_assert_eq!(queue.free(), depth - (posted.len() - done));
            }
        }
    }

    #[test]
    fn what_the_device_refused_is_taken_back() {
        let mut queue = InFlight::new(4);
        let holds: Vec<_> = (0..3).map(|_| Arc::new(())).collect();
        for (id, hold) in holds.iter().enumerate() {
            queue.push(entry(id as u64, hold.clone()), false);
        }
        queue.take_back(2);
        assert_eq!(queue.free(), 3);
        assert_eq!(Arc::strong_count(&holds[0]), 2);
        assert_eq!(Arc::strong_count(&holds[2]), 1);
        assert!(queue.must_signal());
    }
}
