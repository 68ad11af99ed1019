//! Two selectors that talk to each other over a channel that keeps the order, with faults of every kind between them.

use super::selector::{FIRST_PAUSE, LAST_PAUSE};
use super::{Selector, Signal, Step};
use crate::path::PathKind;
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// One kind to be negotiated, as in a cluster today.
const RDMA: &[PathKind] = &[PathKind::Rdma];
/// Two of them; the simulation stands for a kind between RDMA and the base.
const TWO: &[PathKind] = &[PathKind::Rdma, PathKind::Sim];

/// Both ends, the channel between them, and the paths that each uses.
struct Pair {
    ends: [Selector; 2],
    channel: [VecDeque<Signal>; 2],
    /// Number and kind of the path that each end uses.
    used: [(u64, PathKind); 2],
    now: Duration,
    /// Kinds whose endpoints can be prepared and connected.
    works: BTreeSet<PathKind>,
    /// The end at which none can.
    broken: Option<usize>,
    /// The last path of which both ends have connected their endpoints, and its kind.
    connected: (u64, PathKind),
}

impl Pair {
    fn new(kinds: &[PathKind]) -> Self {
        let end = |leads| Selector::new(leads, PathKind::Quic, kinds.iter().map(|&kind| (kind, Ok(()))).collect(), 1);
        let used = [(1, PathKind::Quic); 2];
        Self {
            ends: [end(true), end(false)],
            channel: Default::default(),
            used,
            now: Duration::ZERO,
            works: kinds.iter().copied().collect(),
            broken: None,
            connected: (0, PathKind::Quic),
        }
    }

    fn perform(&mut self, end: usize, steps: Vec<Step>) {
        for step in steps {
            let works = |kind| {
                if self.works.contains(&kind) && self.broken != Some(end) {
                    Ok(vec![1])
                } else {
                    Err("no device".to_owned())
                }
            };
            let follow = match step {
                Step::Send(signal) => {
                    self.channel[1 - end].push_back(signal);
                    Vec::new()
                }
                Step::UseBase(path) => {
                    self.take(end, path, PathKind::Quic);
                    Vec::new()
                }
                Step::Prepare(path, kind) => self.ends[end].prepared(self.now, path, works(kind)),
                Step::Answer(path, kind, _) => match works(kind) {
                    Err(reason) if self.broken == Some(end) => self.ends[end].unable(self.now, path, kind, reason),
                    result => self.ends[end].answered(path, kind, result),
                },
                Step::Check(kind) => self.ends[end].checked(self.now, kind, works(kind).map(|_| ())),
                Step::Use(path) => {
                    assert_eq!(self.connected.0, path, "nothing is sent before both ends have connected");
                    self.take(end, path, self.connected.1);
                    Vec::new()
                }
                Step::Complete(path, kind, _) => {
                    let result = works(kind).map(|_| ());
                    if result.is_ok() {
                        self.connected = (path, kind);
                        self.take(end, path, kind);
                    }
                    self.ends[end].completed(self.now, path, kind, result)
                }
            };
            self.perform(end, follow);
        }
    }

    fn take(&mut self, end: usize, path: u64, kind: PathKind) {
        assert!(path > self.used[end].0, "paths are used in the order of their numbers");
        self.used[end] = (path, kind);
    }

    fn deliver(&mut self, end: usize) -> bool {
        let Some(signal) = self.channel[end].pop_front() else { return false };
        let steps = self.ends[end].receive(self.now, signal);
        self.perform(end, steps);
        true
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            if !(self.deliver(0) | self.deliver(1)) {
                return;
            }
        }
        panic!("they never come to an end");
    }

    fn tick(&mut self) {
        self.tick_after(LAST_PAUSE);
    }

    fn tick_after(&mut self, pause: Duration) {
        self.now += pause;
        for end in 0..2 {
            let steps = self.ends[end].tick(self.now);
            assert!(end == 0 || !steps.iter().any(|step| matches!(step, Step::Prepare(..))), "only one offers");
            self.perform(end, steps);
        }
    }

    fn lose(&mut self, end: usize) {
        let steps = self.ends[end].lost(self.now, self.used[end].0, "the link is down".into());
        self.perform(end, steps);
    }
}

#[test]
fn a_preferred_kind_is_used_lost_and_used_again() {
    let mut pair = Pair::new(RDMA);
    pair.tick();
    pair.settle();
    assert_eq!(pair.used, [(2, PathKind::Rdma); 2]);
    assert_eq!(pair.ends[0].why_not(PathKind::Rdma), None);
    pair.lose(1);
    pair.settle();
    assert_eq!(pair.used, [(3, PathKind::Quic); 2]);
    assert_eq!(pair.ends[1].why_not(PathKind::Rdma), Some("the link is down"));
    assert_eq!(pair.ends[0].why_not(PathKind::Rdma), Some("the other node has lost it"));
    pair.tick();
    pair.settle();
    assert_eq!(pair.used, [(4, PathKind::Rdma); 2]);
}

#[test]
fn a_kind_that_one_end_lacks_is_declined_with_the_reason() {
    let mut pair = Pair::new(RDMA);
    pair.ends[1] = Selector::new(false, PathKind::Quic, vec![(PathKind::Rdma, Err("built without it".into()))], 1);
    pair.tick();
    pair.settle();
    assert_eq!(pair.used, [(1, PathKind::Quic); 2]);
    assert_eq!(pair.ends[0].why_not(PathKind::Rdma), Some("built without it"));
    // An older release does not know the kind at all.
    pair.ends[1] = Selector::new(false, PathKind::Quic, Vec::new(), 1);
    pair.tick();
    pair.settle();
    assert_eq!(pair.used, [(1, PathKind::Quic); 2]);
    assert_eq!(pair.ends[0].why_not(PathKind::Rdma), Some("this node has no paths by RDMA"));
}

#[test]
fn a_device_that_is_back_is_used_soon_at_whichever_end_it_was_missing() {
    for end in 0..2 {
        let mut pair = Pair::new(RDMA);
        pair.broken = Some(end);
        // Missing for so long that the offers themselves have become rare.
        for _ in 0..600 {
            pair.tick_after(FIRST_PAUSE);
            pair.settle();
        }
        assert_eq!(pair.used, [(1, PathKind::Quic); 2]);
        assert_eq!(pair.ends[0].why_not(PathKind::Rdma), Some("no device"));
        pair.broken = None;
        for _ in 0..6 {
            pair.tick_after(FIRST_PAUSE);
            pair.settle();
        }
        assert!(pair.used.iter().all(|(_, kind)| *kind == PathKind::Rdma), "broken at {end}");
    }
}

#[test]
fn an_end_whose_endpoint_cannot_be_connected_does_not_ask_for_more_offers() {
    let mut end = Selector::new(false, PathKind::Quic, vec![(PathKind::Rdma, Ok(()))], 1);
    end.receive(Duration::ZERO, Signal::Offer { path: 2, kind: PathKind::Rdma, endpoint: vec![1] });
    end.answered(2, PathKind::Rdma, Err("no route".into()));
    assert_eq!(end.due(), None);
}

#[test]
fn repeated_availability_does_not_raise_the_rate_of_offers() {
    let mut end = Selector::new(true, PathKind::Quic, vec![(PathKind::Rdma, Ok(()))], 1);
    let mut offers = 0;
    let mut now = Duration::ZERO;
    while now < FIRST_PAUSE * 10 {
        now += FIRST_PAUSE / 100;
        end.receive(now, Signal::Available { kind: PathKind::Rdma });
        for step in end.tick(now) {
            let Step::Prepare(path, _) = step else { panic!("{step:?}") };
            offers += 1;
            end.prepared(now, path, Ok(vec![1]));
            end.receive(now, Signal::Decline { path, reason: "no device".into() });
        }
    }
    assert!((9..=11).contains(&offers), "{offers} in ten seconds");
}

#[test]
fn the_next_kind_in_the_order_is_used_until_a_better_one_works() {
    let mut pair = Pair::new(TWO);
    pair.works.remove(&PathKind::Rdma);
    pair.tick_after(Duration::ZERO);
    pair.settle();
    assert_eq!(pair.used, [(1, PathKind::Quic); 2], "RDMA comes first, and is declined");
    pair.tick_after(Duration::ZERO);
    pair.settle();
    assert_eq!(pair.used, [(2, PathKind::Sim); 2]);
    assert_eq!(pair.ends[0].why_not(PathKind::Rdma), Some("no device"));
    assert_eq!(pair.ends[0].why_not(PathKind::Sim), None);
    pair.works.insert(PathKind::Rdma);
    pair.tick();
    pair.settle();
    assert_eq!(pair.used, [(3, PathKind::Rdma); 2]);
    assert_eq!(pair.ends[0].due(), None, "nothing is better");
    assert!(pair.ends[0].is_idle(PathKind::Sim) && !pair.ends[0].is_idle(PathKind::Rdma));
}

#[test]
fn the_loss_of_a_better_kind_goes_by_the_base_to_the_next_one_at_once() {
    let mut pair = Pair::new(TWO);
    pair.works.remove(&PathKind::Rdma);
    (0..2).for_each(|_| {
        pair.tick_after(Duration::ZERO);
        pair.settle();
    });
    pair.works.insert(PathKind::Rdma);
    pair.tick();
    pair.settle();
    assert_eq!(pair.used, [(3, PathKind::Rdma); 2]);
    pair.works.remove(&PathKind::Rdma);
    pair.lose(0);
    pair.settle();
    assert_eq!(pair.used, [(4, PathKind::Quic); 2], "the fence: nothing of the lost path is used any more");
    pair.tick_after(Duration::ZERO);
    pair.settle();
    assert_eq!(pair.used, [(5, PathKind::Sim); 2]);
}

proptest! {
    #[test]
    fn both_ends_come_to_the_same_path(
        two in any::<bool>(), events in proptest::collection::vec(0u8..9, 0..60),
    ) {
        let kinds = if two { TWO } else { RDMA };
        let mut pair = Pair::new(kinds);
        for event in events {
            match event {
                0 | 1 => {
                    pair.deliver(usize::from(event));
                }
                2 | 3 => {
                    // What one end loses the other notices as well, at some time; only a negotiated path can be lost.
                    let end = usize::from(event - 2);
                    if pair.used[end].1 != PathKind::Quic {
                        pair.lose(end);
                    }
                }
                4 => pair.tick(),
                5 | 6 => {
                    let kind = kinds[usize::from(event - 5) % kinds.len()];
                    if !pair.works.remove(&kind) {
                        pair.works.insert(kind);
                    }
                }
                7 => {
                    // The loss of a path that was left is reported late.
                    for end in 0..2 {
                        let steps = pair.ends[end].lost(pair.now, pair.used[end].0 - 1, "late".into());
                        assert!(steps.is_empty(), "it changes nothing");
                    }
                }
                _ => pair.settle(),
            }
        }
        pair.settle();
        // An end that still uses a path which the other has left notices that.
        for end in 0..2 {
            if pair.used[end].0 < pair.used[1 - end].0 {
                pair.lose(end);
                pair.settle();
            }
        }
        prop_assert_eq!(pair.used[0], pair.used[1]);
        pair.works = kinds.iter().copied().collect();
        // A tick for each kind that may be found first.
        for _ in kinds {
            pair.tick();
            pair.settle();
        }
        prop_assert_eq!(pair.used[0], pair.used[1]);
        prop_assert_eq!(pair.used[0].1, PathKind::Rdma, "the most preferred kind is found again");
    }
}
