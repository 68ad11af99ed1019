//! A node's slots, shared by all runs on it.
//!
//! A run's machine decides which of its instances may start; the pool decides when the node has a slot for it. Among the
//! runs that want one, the run that holds the fewest slots comes first, so that all get equal shares while they have
//! work (max-min fairness), and a run alone gets everything. Within a run the order is that of the requests.

use dflow_protocol::RunId;
use std::collections::{BTreeMap, VecDeque};

/// Grants that may overtake the request of a large instance which does not fit. After that the pool lets slots fall free
/// for it: smaller instances of other runs could otherwise keep it waiting for ever.
const MAX_OVERTAKEN: u32 = 64;

/// The slots of a node. `K` names an attempt and is unique over all runs.
#[derive(Debug)]
pub struct SlotPool<K> {
    total: u32,
    used: u64,
    runs: BTreeMap<RunId, Share<K>>,
    /// Counts grants, so that runs with equal shares take turns.
    turn: u64,
}

/// What one run holds and wants.
#[derive(Debug)]
struct Share<K> {
    /// The slots of attempts that are granted and not parked.
    used: u64,
    granted: BTreeMap<K, Granted>,
    waiting: VecDeque<(K, u32)>,
    /// When the run was granted a request last.
    turn: u64,
    /// How many grants to others have overtaken the first request of `waiting`.
    overtaken: u32,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    slots: u32,
    parked: bool,
}

impl<K> Default for Share<K> {
    fn default() -> Self {
        Self { used: 0, granted: BTreeMap::new(), waiting: VecDeque::new(), turn: 0, overtaken: 0 }
    }
}

impl<K: Copy + Ord> SlotPool<K> {
    /// A pool of `slots` slots, of which there is at least one.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        Self { total: slots.max(1), used: 0, runs: BTreeMap::new(), turn: 0 }
    }

    /// The number of slots.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.total
    }

    /// The slots that are held now. May exceed [`Self::total`] while parked attempts have resumed.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// An attempt wants to start and needs so many slots; one that wants more than there are gets all of them.
    /// [`Self::grant`] says when it may start.
    pub fn request(&mut self, run: RunId, attempt: K, slots: u32) {
        let slots = slots.clamp(1, self.total);
        self.runs.entry(run).or_default().waiting.push_back((attempt, slots));
    }

    /// The next attempt that may start now; `None` if nothing waits or fits. To be called until it returns `None` after
    /// every other call.
    pub fn grant(&mut self) -> Option<(RunId, K)> {
        let free = u64::from(self.total).saturating_sub(self.used);
        let head = |share: &Share<K>| share.waiting.front().map(|(_, slots)| u64::from(*slots));
        let starved = self.runs.iter().find(|(_, share)| share.overtaken >= MAX_OVERTAKEN).map(|(run, _)| *run);
        let run = match starved {
            Some(run) => Some(run).filter(|run| self.runs.get(run).and_then(head).is_some_and(|need| need <= free)),
            None => {
                let fits = self.runs.iter().filter(|(_, share)| head(share).is_some_and(|need| need <= free));
                fits.min_by_key(|(_, share)| (share.used, share.turn)).map(|(run, _)| *run)
            }
        }?;
        self.turn += 1;
        let turn = self.turn;
        for (other, share) in &mut self.runs {
            if *other != run && head(share).is_some_and(|need| need > free) {
                share.overtaken += 1;
            }
        }
        let share = self.runs.get_mut(&run)?;
        let (attempt, slots) = share.waiting.pop_front()?;
        share.granted.insert(attempt, Granted { slots, parked: false });
        share.used += u64::from(slots);
        (share.turn, share.overtaken) = (turn, 0);
        self.used += u64::from(slots);
        Some((run, attempt))
    }

    /// A granted attempt waits for data or credit: its slots are free for others.
    pub fn park(&mut self, run: RunId, attempt: K) {
        self.set_parked(run, attempt, true);
    }

    /// A parked attempt continues. This may exceed the slots; then nothing is granted until enough are free.
    pub fn resume(&mut self, run: RunId, attempt: K) {
        self.set_parked(run, attempt, false);
    }

    /// An attempt has ended, or will not start: it holds and wants nothing any more.
    pub fn release(&mut self, run: RunId, attempt: K) {
        let Some(share) = self.runs.get_mut(&run) else { return };
        match share.granted.remove(&attempt) {
            Some(Granted { slots, parked: false }) => {
                share.used -= u64::from(slots);
                self.used -= u64::from(slots);
            }
            Some(_) => {}
            None => {
                if share.waiting.front().is_some_and(|(first, _)| *first == attempt) {
                    share.overtaken = 0;
                }
                share.waiting.retain(|(waiting, _)| *waiting != attempt);
            }
        }
        if share.granted.is_empty() && share.waiting.is_empty() {
            self.runs.remove(&run);
        }
    }

    /// A run is over: everything that it holds is free.
    pub fn end_run(&mut self, run: RunId) {
        if let Some(share) = self.runs.remove(&run) {
            self.used -= share.used;
        }
    }

    fn set_parked(&mut self, run: RunId, attempt: K, parked: bool) {
        let Some(share) = self.runs.get_mut(&run) else { return };
        let Some(granted) = share.granted.get_mut(&attempt).filter(|granted| granted.parked != parked) else { return };
        granted.parked = parked;
        let slots = u64::from(granted.slots);
        if parked {
            share.used -= slots;
            self.used -= slots;
        } else {
            share.used += slots;
            self.used += slots;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn grants(pool: &mut SlotPool<u32>) -> Vec<(u128, u32)> {
        std::iter::from_fn(|| pool.grant()).map(|(run, attempt)| (run.0, attempt)).collect()
    }

    #[test]
    fn runs_share_equally_and_one_alone_has_everything() {
        let mut pool = SlotPool::new(4);
        for attempt in 0..8 {
            pool.request(RunId(1), attempt, 1);
        }
        assert_eq!(grants(&mut pool).len(), 4, "nobody else wants a slot");
        for attempt in 10..18 {
            pool.request(RunId(2), attempt, 1);
        }
        assert_eq!(grants(&mut pool), []);
        pool.release(RunId(1), 0);
        pool.release(RunId(1), 1);
        assert_eq!(grants(&mut pool), [(2, 10), (2, 11)], "the run that holds the fewest comes first");
        pool.release(RunId(2), 10);
        assert_eq!(grants(&mut pool), [(2, 12)]);
        pool.end_run(RunId(1));
        assert_eq!(grants(&mut pool), [(2, 13), (2, 14)]);
        assert_eq!(pool.used(), 4);
    }

    #[test]
    fn a_parked_attempt_holds_none_and_may_exceed_them_when_it_continues() {
        let mut pool = SlotPool::new(1);
        pool.request(RunId(1), 1, 1);
        pool.request(RunId(2), 2, 1);
        pool.request(RunId(2), 3, 1);
        assert_eq!(grants(&mut pool), [(1, 1)]);
        pool.park(RunId(1), 1);
        assert_eq!(grants(&mut pool), [(2, 2)]);
        pool.resume(RunId(1), 1);
        assert_eq!(pool.used(), 2);
        pool.release(RunId(2), 2);
        assert_eq!(grants(&mut pool), [], "the one that continued holds the slot");
        pool.release(RunId(1), 1);
        assert_eq!(grants(&mut pool), [(2, 3)]);
    }

    #[test]
    fn a_large_instance_is_overtaken_only_so_often() {
        let mut pool = SlotPool::new(2);
        pool.request(RunId(1), 0, 1);
        pool.request(RunId(2), 1, 8);
        assert_eq!(grants(&mut pool), [(1, 0)]);
        let mut running = VecDeque::from([0]);
        let mut next = 2;
        // The first run always has another small instance when one ends, so one slot is never free long enough.
        while pool.runs.contains_key(&RunId(2)) && pool.runs[&RunId(2)].granted.is_empty() {
            assert!(next < 2 + 2 * MAX_OVERTAKEN, "it starves");
            pool.request(RunId(1), next, 1);
            next += 1;
            running.extend(grants(&mut pool).into_iter().filter(|(run, _)| *run == 1).map(|(_, attempt)| attempt));
            if let Some(ended) = running.pop_front() {
                pool.release(RunId(1), ended);
            }
        }
        assert_eq!(pool.used(), 2, "it has all slots");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Request { run: u8, slots: u32 },
        Park(prop::sample::Index),
        Resume(prop::sample::Index),
        Release(prop::sample::Index),
        EndRun(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let any = any::<prop::sample::Index>;
        prop_oneof![
            6 => (0..4u8, 0..9u32).prop_map(|(run, slots)| Step::Request { run, slots }),
            2 => any().prop_map(Step::Park),
            2 => any().prop_map(Step::Resume),
            5 => any().prop_map(Step::Release),
            1 => (0..4u8).prop_map(Step::EndRun),
        ]
    }

    proptest! {
        /// Against a plain list of attempts: slots are exceeded only by attempts that continue, none is idle while a
        /// request fits (unless a starved one waits for it), nothing is granted twice, and everything comes back.
        #[test]
        fn slots_are_held_shared_and_returned(total in 1..9u32, steps in prop::collection::vec(step(), 1..200)) {
            let mut pool = SlotPool::new(total);
            // The run of each attempt, its slots, whether it was granted and whether it is parked.
            let mut attempts: BTreeMap<u32, (u128, u32, bool, bool)> = BTreeMap::new();
            for (number, step) in (0u32..).zip(steps) {
                let pick = |index: prop::sample::Index| {
                    (!attempts.is_empty()).then(|| *attempts.keys().nth(index.index(attempts.len())).unwrap())
                };
                match step {
                    Step::Request { run, slots } => {
                        pool.request(RunId(run.into()), number, slots);
                        attempts.insert(number, (run.into(), slots.clamp(1, total), false, false));
                    }
                    Step::Park(index) | Step::Resume(index) => {
                        let park = matches!(step, Step::Park(_));
                        if let Some(attempt) = pick(index) {
                            let entry = attempts.get_mut(&attempt).unwrap();
                            match park {
                                true => pool.park(RunId(entry.0), attempt),
                                false => pool.resume(RunId(entry.0), attempt),
                            }
                            entry.3 = park && entry.2;
                        }
                    }
                    Step::Release(index) => {
                        if let Some(attempt) = pick(index) {
                            let entry = attempts.remove(&attempt).unwrap();
                            pool.release(RunId(entry.0), attempt);
                        }
                    }
                    Step::EndRun(run) => {
                        pool.end_run(RunId(run.into()));
                        attempts.retain(|_, entry| entry.0 != u128::from(run));
                    }
                }
                let held = |attempts: &BTreeMap<u32, (u128, u32, bool, bool)>| -> u64 {
                    attempts.values().filter(|entry| entry.2 && !entry.3).map(|entry| u64::from(entry.1)).sum()
                };
                let allowed = held(&attempts).max(u64::from(total));
                let mut seen = BTreeSet::new();
                while let Some((run, attempt)) = pool.grant() {
                    prop_assert!(seen.insert(attempt));
                    let entry = attempts.get_mut(&attempt).unwrap();
                    prop_assert_eq!((entry.0, entry.2), (run.0, false));
                    entry.2 = true;
                }
                prop_assert_eq!(pool.used(), held(&attempts));
                prop_assert!(pool.used() <= allowed, "only attempts that continue exceed the slots");
                let free = u64::from(total).saturating_sub(pool.used());
                let starved = pool.runs.values().any(|share| share.overtaken >= MAX_OVERTAKEN);
                let first_fits = pool.runs.values().any(|share| share.waiting.front().is_some_and(|(_, need)| u64::from(*need) <= free));
                prop_assert!(starved || !first_fits, "a slot is idle while a request waits");
            }
            for (attempt, entry) in &attempts {
                pool.release(RunId(entry.0), *attempt);
                while pool.grant().is_some() {}
            }
            prop_assert_eq!((pool.used(), pool.runs.len()), (0, 0));
        }
    }
}
