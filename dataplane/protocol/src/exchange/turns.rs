//! Whose turn it is to send: flows that have had nothing to send first, a few bytes each, the others round about, a quantum
//! of bytes each (deficit round robin with a list of new flows, as in FQ-CoDel, RFC 8290).
//!
//! A flow that had its turn as a new one is not new again before the old ones have all had theirs. So between two turns of
//! a flow that has something to send each other one sends at most [`QUANTUM`] and [`NEW`] bytes.

use crate::wire::FlowId;
use std::collections::{HashMap, VecDeque};

/// Bytes that a flow may send before it is another's turn.
const QUANTUM: u64 = 256 * 1024;
/// Bytes that a flow may send before others because it had nothing to send until now.
const NEW: u64 = 64 * 1024;
/// After so many turns of new flows in a row an old one has its turn.
const MOST_NEW: u32 = 16;

#[derive(Debug, Default)]
pub(super) struct Turns {
    new: VecDeque<FlowId>,
    /// Some of them may have nothing to send any more.
    old: VecDeque<FlowId>,
    /// What each flow in one of the lists may still send in its turn.
    left: HashMap<FlowId, u64>,
    new_in_a_row: u32,
}

impl Turns {
    /// The flow has something to send.
    pub(super) fn add(&mut self, flow: FlowId) {
        self.left.entry(flow).or_insert_with(|| {
            self.new.push_back(flow);
            NEW
        });
    }

    /// The flow whose turn it is, and how much it may send; it stays first until [`Turns::served`] or [`Turns::done`].
    pub(super) fn next(&mut self) -> Option<(FlowId, u64)> {
        let old = self.old.front().filter(|_| self.new_in_a_row >= MOST_NEW || self.new.is_empty());
        let &flow = old.or(self.new.front())?;
        Some((flow, self.left.get(&flow).copied().unwrap_or(QUANTUM)))
    }

    /// The flow whose turn it was has sent so many bytes and has more.
    pub(super) fn served(&mut self, flow: FlowId, bytes: u64) {
        let left = self.left.entry(flow).or_insert(QUANTUM);
        *left = left.saturating_sub(bytes);
        if *left == 0 {
            *left = QUANTUM;
            self.take(flow);
            self.old.push_back(flow);
        }
    }

    /// The flow whose turn it would be has nothing to send.
    pub(super) fn skip(&mut self, flow: FlowId) {
        let new_in_a_row = self.new_in_a_row;
        self.done(flow);
        self.new_in_a_row = new_in_a_row;
    }

    /// The flow whose turn it was has nothing more to send for now.
    pub(super) fn done(&mut self, flow: FlowId) {
        if self.take(flow) && !self.old.is_empty() {
            self.left.insert(flow, QUANTUM);
            self.old.push_back(flow);
        } else {
            self.left.remove(&flow);
        }
    }

    /// The flow is over.
    pub(super) fn remove(&mut self, flow: FlowId) {
        if self.left.remove(&flow).is_some() {
            self.take(flow);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes it out of its list; whether that was the one of new flows.
    fn take(&mut self, flow: FlowId) -> bool {
        if self.new.front() == Some(&flow) {
            self.new.pop_front();
            self.new_in_a_row += 1;
            return true;
        }
        if self.old.front() == Some(&flow) {
            self.old.pop_front();
            self.new_in_a_row = 0;
            return false;
        }
        let before = self.new.len();
        self.new.retain(|other| *other != flow);
        self.old.retain(|other| *other != flow);
        self.new.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What a link does: flows have bytes now and then, and whoever has the turn sends some of them.
    #[derive(Default)]
    struct Link {
        turns: Turns,
        waiting: BTreeMap<u32, u64>,
        /// Bytes that others have sent while a flow had something to send.
        passed: BTreeMap<u32, u64>,
        sent: BTreeMap<u32, u64>,
    }

    impl Link {
        fn has(&mut self, flow: u32, bytes: u64) {
            *self.waiting.entry(flow).or_default() += bytes;
            self.passed.entry(flow).or_default();
            self.turns.add(FlowId(flow));
        }

        /// The next one sends at most so many bytes; which one it was.
        fn send(&mut self, most: u64) -> Option<u32> {
            loop {
                let (FlowId(flow), left) = self.turns.next()?;
                let Some(waiting) = self.waiting.get_mut(&flow) else {
                    self.turns.skip(FlowId(flow));
                    continue;
                };
                let bytes = most.min(left).min(*waiting);
                *waiting -= bytes;
                *self.sent.entry(flow).or_default() += bytes;
                if *waiting == 0 {
                    self.waiting.remove(&flow);
                    self.turns.done(FlowId(flow));
                } else {
                    self.turns.served(FlowId(flow), bytes);
                }
                self.passed.remove(&flow);
                self.passed.values_mut().for_each(|passed| *passed += bytes);
                if self.waiting.contains_key(&flow) {
                    self.passed.insert(flow, 0);
                }
                return Some(flow);
            }
        }
    }

    proptest! {
        #[test]
        fn nobody_waits_for_more_than_a_turn_of_each_other_one(
            flows in 2u32..40,
            steps in proptest::collection::vec((any::<u32>(), 1u64..2_000_000, 1u64..400_000, 1usize..40), 1..300),
        ) {
            let mut link = Link::default();
            let most = u64::from(flows - 1) * (QUANTUM + NEW);
            for (flow, bytes, piece, writes) in steps {
                link.has(flow % flows, bytes);
                for _ in 0..writes {
                    link.send(piece);
                    let worst = link.passed.values().max().copied().unwrap_or(0);
                    prop_assert!(worst <= most, "{worst} bytes of others, {most} are the most");
                }
            }
            // Nothing is forgotten.
            while link.send(u64::MAX).is_some() {}
            prop_assert!(link.waiting.is_empty());
        }
    }

    #[test]
    fn large_flows_share_evenly() {
        let mut link = Link::default();
        (0..3).for_each(|flow| link.has(flow, u64::MAX / 2));
        for _ in 0..3000 {
            // One of them has only small bits at a time.
            let first = link.turns.next().map(|(flow, _)| flow);
            link.send(if first == Some(FlowId(0)) { 5_000 } else { 100_000 });
        }
        let (least, most) = (link.sent.values().min().expect("three"), link.sent.values().max().expect("three"));
        assert!(most - least <= QUANTUM + NEW, "{:?}", link.sent);
    }

    #[test]
    fn who_has_little_now_and_then_does_not_wait_for_those_who_have_much() {
        let mut link = Link::default();
        (0..10).for_each(|flow| link.has(flow, u64::MAX / 2));
        for _ in 0..100 {
            // Until all the others have had their turn.
            for _ in 0..20 {
                link.send(QUANTUM);
            }
            link.has(99, 64);
            assert_eq!(link.send(QUANTUM), Some(99));
        }
    }

    #[test]
    fn many_new_flows_starve_nobody() {
        let mut link = Link::default();
        link.has(0, u64::MAX / 2);
        link.send(QUANTUM);
        for flow in 1..1000 {
            link.has(flow, 100);
            link.has(flow + 1000, 100);
            link.send(QUANTUM);
        }
        assert!(link.sent[&0] >= 999 / u64::from(MOST_NEW + 2) * QUANTUM, "{}", link.sent[&0]);
    }
}
