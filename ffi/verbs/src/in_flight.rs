//! The requests in flight on one work queue. Keeps the memory of each request alive, and finds the requests that a
//! completion ends. Pure bookkeeping, without a device.

use crate::status::Operation;
use std::collections::VecDeque;

/// Bits of a tag for the sequence number of a request; enough that numbers in flight never collide, as 2^40 is far more
/// than the depth of any queue.
const SEQUENCE_BITS: u32 = 40;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;

/// Maximum number of work queues attached to one completion queue at the same time.
pub(crate) const MAX_SLOTS: usize = 1 << 16;

/// The `wr_id` of a request, which the device returns with the completion. It holds the work queue's slot in the
/// completion queue, the generation of that slot, and the request's sequence number. The generation distinguishes late
/// completions of a destroyed work queue from those of its successor in the slot.
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
    /// The caller's id for it.
    pub(crate) id: u64,
    pub(crate) operation: Operation,
    pub(crate) bytes: u32,
    /// Whether the caller wants its success reported.
    pub(crate) notify: bool,
    /// The resources to keep alive.
    pub(crate) hold: Option<H>,
}

/// A bounded queue of entries; the device completes them in order.
#[derive(Debug)]
pub(crate) struct InFlight<H> {
    entries: VecDeque<Entry<H>>,
    depth: usize,
    /// The number of the first entry.
    first: u64,
    /// How many of the newest entries are unsignaled.
    silent: usize,
}

impl<H> InFlight<H> {
    pub(crate) fn new(depth: usize) -> Self {
        Self { entries: VecDeque::with_capacity(depth), depth, first: 0, silent: 0 }
    }

    pub(crate) fn free(&self) -> usize {
        self.depth - self.entries.len()
    }

    /// Whether the next entry must be signaled even if the caller does not want its success reported: the room of
    /// unsignaled entries is returned only by a later completion.
    pub(crate) fn must_signal(&self) -> bool {
        self.silent + 1 >= self.depth.div_ceil(2)
    }

    /// Adds an entry and returns its sequence number. There must be room.
    pub(crate) fn push(&mut self, entry: Entry<H>, signaled: bool) -> u64 {
        debug_assert!(self.free() > 0);
        let sequence = self.first.wrapping_add(self.entries.len() as u64);
        self.entries.push_back(entry);
        self.silent = if signaled { 0 } else { self.silent + 1 };
        sequence
    }

    /// Removes the newest `count` entries, which the device rejected.
    pub(crate) fn take_back(&mut self, count: usize) {
        self.entries.truncate(self.entries.len().saturating_sub(count));
        // The number of unsignaled entries is no longer known, so the next entry is signaled.
        self.silent = self.depth;
    }

    /// Removes and returns the entry with this number, and moves everything before it to `released`. `None` if it is
    /// not in flight.
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

    /// Removes all entries, once the device no longer uses them.
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

        /// For any order of posts and completions: an entry is released with its own completion or a later one and
        /// never earlier, ids are returned with their numbers, and a full queue always has a signaled entry.
        #[test]
        fn memory_is_held_exactly_while_in_flight(
            depth in 1usize..40,
            start in prop_oneof![Just(0), Just(SEQUENCE_MASK - 3), Just(u64::MAX - 3)],
            steps in prop::collection::vec((any::<bool>(), any::<bool>(), 0usize..40), 1..200),
        ) {
            let mut queue = InFlight::new(depth);
            queue.first = start;
            // Everything posted: sequence number, resources, whether it is signaled.
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
                    // The device completes in order; of several completions at once only the last matters here.
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
