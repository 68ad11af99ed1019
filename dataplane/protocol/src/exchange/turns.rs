//! Whose turn it is to send: first the runs share the link, then the flows of each run share its turns.
//!
//! Both levels are deficit round robin with a list of new entries, as in FQ-CoDel (RFC 8290): an entry that had nothing to
//! send goes first, with a few bytes; the others go round, a quantum each. An entry that had its turn as a new one is not
//! new again before the old ones have all had theirs. So between two turns of a run that has something to send, each other
//! run sends at most [`QUANTUM`] and [`NEW`] bytes, however many flows it has.

use crate::ids::RunId;
use crate::wire::FlowId;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Bytes that an entry may send before it is another's turn.
const QUANTUM: u64 = 256 * 1024;
/// Bytes that an entry may send before others because it had nothing to send until now.
const NEW: u64 = 64 * 1024;
/// After this many turns of new entries in a row an old one has its turn.
const MAX_NEW_IN_A_ROW: u32 = 16;

/// The turns of all runs and flows on a link.
#[derive(Debug, Default)]
pub(super) struct Turns {
    runs: RoundRobin<RunId>,
    /// Only runs with an entry in `runs`.
    flows: HashMap<RunId, RoundRobin<FlowId>>,
}

impl Turns {
    /// The flow has something to send.
    pub(super) fn add(&mut self, run: RunId, flow: FlowId) {
        self.flows.entry(run).or_default().add(flow);
        self.runs.add(run);
    }

    /// The flow whose turn it is, and how much it may send; it stays first until one of the methods below is called for it.
    pub(super) fn next(&mut self) -> Option<(RunId, FlowId, u64)> {
        loop {
            let (run, left) = self.runs.next()?;
            if let Some((flow, flow_left)) = self.flows.get(&run).and_then(RoundRobin::next) {
                return Some((run, flow, left.min(flow_left)));
            }
            self.flows.remove(&run);
            self.runs.skip(run);
        }
    }

    /// The flow whose turn it was has sent this many bytes and has more.
    pub(super) fn served(&mut self, run: RunId, flow: FlowId, bytes: u64) {
        self.flows.entry(run).or_default().served(flow, bytes);
        self.runs.served(run, bytes);
    }

    /// The flow whose turn it would be has nothing to send.
    pub(super) fn skip(&mut self, run: RunId, flow: FlowId) {
        self.flows.entry(run).or_default().skip(flow);
    }

    /// The flow whose turn it was has sent this many bytes and has nothing more for now.
    pub(super) fn done(&mut self, run: RunId, flow: FlowId, bytes: u64) {
        let flows = self.flows.entry(run).or_default();
        flows.done(flow);
        if flows.next().is_some() {
            self.runs.served(run, bytes);
        } else {
            self.flows.remove(&run);
            self.runs.done(run);
        }
    }

    /// The flow is over.
    pub(super) fn remove(&mut self, run: RunId, flow: FlowId) {
        let Some(flows) = self.flows.get_mut(&run) else { return };
        flows.remove(flow);
        if flows.next().is_none() {
            self.flows.remove(&run);
            self.runs.remove(run);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Deficit round robin with a list of new entries.
#[derive(Debug)]
struct RoundRobin<K> {
    new: VecDeque<K>,
    /// Some of them may have nothing to send any more.
    old: VecDeque<K>,
    /// What each entry in one of the lists may still send in its turn.
    left: HashMap<K, u64>,
    new_in_a_row: u32,
}

impl<K> Default for RoundRobin<K> {
    fn default() -> Self {
        Self { new: VecDeque::new(), old: VecDeque::new(), left: HashMap::new(), new_in_a_row: 0 }
    }
}

impl<K: Copy + Eq + Hash> RoundRobin<K> {
    fn add(&mut self, key: K) {
        self.left.entry(key).or_insert_with(|| {
            self.new.push_back(key);
            NEW
        });
    }

    fn next(&self) -> Option<(K, u64)> {
        let old = self.old.front().filter(|_| self.new_in_a_row >= MAX_NEW_IN_A_ROW || self.new.is_empty());
        let &key = old.or(self.new.front())?;
        Some((key, self.left.get(&key).copied().unwrap_or(QUANTUM)))
    }

    fn served(&mut self, key: K, bytes: u64) {
        let left = self.left.entry(key).or_insert(QUANTUM);
        *left = left.saturating_sub(bytes);
        if *left == 0 {
            *left = QUANTUM;
            self.take(key);
            self.old.push_back(key);
        }
    }

    fn skip(&mut self, key: K) {
        let new_in_a_row = self.new_in_a_row;
        self.done(key);
        self.new_in_a_row = new_in_a_row;
    }

    fn done(&mut self, key: K) {
        if self.take(key) && !self.old.is_empty() {
            self.left.insert(key, QUANTUM);
            self.old.push_back(key);
        } else {
            self.left.remove(&key);
        }
    }

    fn remove(&mut self, key: K) {
        if self.left.remove(&key).is_some() {
            self.take(key);
        }
    }

    /// Takes the entry out of its list; whether that was the list of new ones.
    fn take(&mut self, key: K) -> bool {
        if self.new.front() == Some(&key) {
            self.new.pop_front();
            self.new_in_a_row += 1;
            return true;
        }
        if self.old.front() == Some(&key) {
            self.old.pop_front();
            self.new_in_a_row = 0;
            return false;
        }
        let before = self.new.len();
        self.new.retain(|other| *other != key);
        self.old.retain(|other| *other != key);
        self.new.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A link: flows have bytes now and then, and the one whose turn it is sends some of them. Without runs, all flows are
    /// of one run; with runs, flow `n` is of run `n / 1000`.
    #[derive(Default)]
    struct Link {
        turns: Turns,
        with_runs: bool,
        waiting: BTreeMap<u64, u64>,
        /// Bytes that others have sent while a flow had something to send.
        passed: BTreeMap<u64, u64>,
        sent: BTreeMap<u64, u64>,
    }

    impl Link {
        fn run(&self, flow: u64) -> RunId {
            RunId(if self.with_runs { (flow / 1000).into() } else { 0 })
        }

        fn has(&mut self, flow: u64, bytes: u64) {
            *self.waiting.entry(flow).or_default() += bytes;
            self.passed.entry(flow).or_default();
            self.turns.add(self.run(flow), FlowId(flow));
        }

        /// The next one sends at most so many bytes; which one it was.
        fn send(&mut self, most: u64) -> Option<u64> {
            loop {
                let (run, FlowId(flow), left) = self.turns.next()?;
                let Some(waiting) = self.waiting.get_mut(&flow) else {
                    self.turns.skip(run, FlowId(flow));
                    continue;
                };
                let bytes = most.min(left).min(*waiting);
                *waiting -= bytes;
                *self.sent.entry(flow).or_default() += bytes;
                if *waiting == 0 {
                    self.waiting.remove(&flow);
                    self.turns.done(run, FlowId(flow), bytes);
                } else {
                    self.turns.served(run, FlowId(flow), bytes);
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
            flows in 2u64..40,
            steps in proptest::collection::vec((any::<u64>(), 1u64..2_000_000, 1u64..400_000, 1usize..40), 1..300),
        ) {
            let mut link = Link::default();
            let most = (flows - 1) * (QUANTUM + NEW);
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
            let first = link.turns.next().map(|(_, flow, _)| flow);
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
        assert!(link.sent[&0] >= 999 / u64::from(MAX_NEW_IN_A_ROW + 2) * QUANTUM, "{}", link.sent[&0]);
    }

    #[test]
    fn runs_share_evenly_however_many_flows_they_have() {
        let mut link = Link { with_runs: true, ..Link::default() };
        let flows = [&[0][..], &[1000, 1001], &(2000..2500).collect::<Vec<_>>()].concat();
        flows.iter().for_each(|&flow| link.has(flow, u64::MAX / 2));
        for _ in 0..3000 {
            link.send(100_000);
        }
        let sent =
            |run| -> u64 { link.sent.iter().filter(|(flow, _)| **flow / 1000 == run).map(|(_, sent)| sent).sum() };
        let sums = [sent(0), sent(1), sent(2)];
        let (least, most) = (sums.iter().min().expect("three"), sums.iter().max().expect("three"));
        assert!(most - least <= QUANTUM + NEW, "{sums:?}");
    }

    #[test]
    fn a_run_with_little_waits_for_one_turn_of_a_run_that_floods() {
        let mut link = Link { with_runs: true, ..Link::default() };
        (1000..2000).for_each(|flow| link.has(flow, u64::MAX / 2));
        for _ in 0..100 {
            link.has(7, 64);
            let sent =
                |link: &Link| -> u64 { link.sent.iter().filter(|(flow, _)| **flow != 7).map(|(_, sent)| sent).sum() };
            let before = sent(&link);
            for new in 3000.. {
                if link.send(QUANTUM) == Some(7) {
                    break;
                }
                // New flows of the other run do not come first either.
                link.turns.add(RunId(1), FlowId(new));
                link.waiting.insert(new, 100);
            }
            let waited = sent(&link) - before;
            assert!(waited <= QUANTUM + NEW, "{waited} bytes");
        }
    }

    #[test]
    fn a_run_that_is_over_leaves_nothing_behind() {
        let mut turns = Turns::default();
        for flow in 0..10 {
            turns.add(RunId(1), FlowId(flow));
            turns.add(RunId(2), FlowId(100 + flow));
        }
        (0..10).for_each(|flow| turns.remove(RunId(1), FlowId(flow)));
        assert!(turns.flows.len() == 1 && turns.runs.left.len() == 1);
        assert_eq!(turns.next().map(|(run, ..)| run), Some(RunId(2)));
    }
}
