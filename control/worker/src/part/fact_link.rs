//! Facts between this node and another one of a run: each arrives once and in order, over any number of connections.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use dflow_scheduler::{Fact, Place};
use rkyv::with::Skip;
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// The most facts in one message.
const MAX_BATCH: usize = 1024;
/// The most that the facts in one message may weigh ([`Fact::weight`]); the last one may exceed it.
const MAX_WEIGHT: usize = 32 * 1024;
/// After this many facts the other end is told that they have arrived, if there is nothing else to tell it.
const ACKNOWLEDGE_AFTER: u64 = 64;
/// The most facts that are kept for a node that does not acknowledge them.
const MAX_KEPT: usize = 1 << 20;

/// Facts on their way.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// The number of the first, counted from 0 over the run.
    pub(crate) first: u64,
    pub(crate) facts: Vec<Fact>,
    /// How many facts of the other end have arrived.
    pub(crate) heard: u64,
    /// The size of the message in which they have come.
    #[rkyv(with = Skip)]
    pub(crate) size: u64,
}

/// One end of the link.
#[derive(Debug, Default)]
pub(crate) struct FactLink {
    /// Facts that the other end has not acknowledged.
    kept: VecDeque<Fact>,
    /// The number of the first of them.
    first: u64,
    /// The number of the next to send on the present connection.
    next: u64,
    /// The highest number that was ever next.
    sent: u64,
    heard: u64,
    /// What the other end was last told of that.
    acknowledged: u64,
}

impl FactLink {
    /// Adds a fact. False if the other end has stopped listening.
    #[must_use]
    fn push(&mut self, fact: Fact) -> bool {
        self.kept.push_back(fact);
        self.kept.len() <= MAX_KEPT
    }

    /// The next message to send, if there is one.
    fn message(&mut self) -> Option<Facts> {
        let from = usize::try_from(self.next.checked_sub(self.first)?).ok()?;
        let mut weight = 0;
        let fits = |fact: &&Fact| {
            let fits = weight < MAX_WEIGHT;
            weight += fact.weight();
            fits
        };
        let unsent = self.kept.range(from.min(self.kept.len())..);
        let facts: Vec<Fact> = unsent.take(MAX_BATCH).take_while(fits).cloned().collect();
        if facts.is_empty() && self.heard - self.acknowledged < ACKNOWLEDGE_AFTER {
            return None;
        }
        let first = self.next;
        self.next += facts.len() as u64;
        self.sent = self.sent.max(self.next);
        self.acknowledged = self.heard;
        Some(Facts { first, facts, heard: self.heard, size: 0 })
    }

    /// To be called now and then: the other end learns what has arrived, even if that is little.
    fn tick(&mut self) -> Option<Facts> {
        if self.heard == self.acknowledged {
            return None;
        }
        self.acknowledged = self.heard;
        Some(Facts { first: self.next, facts: Vec::new(), heard: self.heard, size: 0 })
    }

    /// Takes a message, and returns the facts in it that are new.
    ///
    /// # Errors
    /// How it violates the protocol.
    fn receive(&mut self, message: Facts) -> Result<Vec<Fact>, &'static str> {
        let acknowledged = message.heard.checked_sub(self.first);
        match acknowledged.and_then(|count| usize::try_from(count).ok()) {
            Some(count) if message.heard <= self.sent => {
                self.kept.drain(..count);
                self.first = message.heard;
                // It may have arrived on an earlier connection.
                self.next = self.next.max(self.first);
            }
            Some(_) => return Err("it has acknowledged facts that it was not told"),
            // An older message, sent again.
            None => {}
        }
        let known = match self.heard.checked_sub(message.first) {
            Some(known) => usize::try_from(known).unwrap_or(usize::MAX),
            None => return Err("it has left out facts"),
        };
        let new: Vec<Fact> = message.facts.into_iter().skip(known).collect();
        self.heard += new.len() as u64;
        Ok(new)
    }

    /// There is a new connection: what the other end may not have got is sent again.
    fn reconnected(&mut self) {
        self.next = self.first;
    }

    /// Whether the other end has yet to acknowledge something.
    fn is_waiting(&self) -> bool {
        !self.kept.is_empty()
    }
}

/// The links to the other nodes of a run, by their places.
#[derive(Debug, Default)]
pub(crate) struct FactLinks(BTreeMap<Place, FactLink>);

impl FactLinks {
    /// Tells a node something, which is sent with the next [`FactLinks::flush`]. False if the node has stopped listening.
    #[must_use]
    pub(crate) fn tell(&mut self, place: Place, fact: Fact) -> bool {
        self.0.entry(place).or_default().push(fact)
    }

    /// Takes a message of a node, and returns the facts in it that are new.
    ///
    /// # Errors
    /// How it violates the protocol.
    pub(crate) fn receive(&mut self, place: Place, message: Facts) -> Result<Vec<Fact>, &'static str> {
        self.0.entry(place).or_default().receive(message)
    }

    /// There is a new connection with a node.
    pub(crate) fn reconnected(&mut self, place: Place) {
        self.0.entry(place).or_default().reconnected();
    }

    /// A node is lost: it is told nothing more.
    pub(crate) fn forget(&mut self, place: Place) {
        self.0.remove(&place);
    }

    /// The nodes that have yet to acknowledge something.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Place> {
        self.0.iter().filter(|(_, link)| link.is_waiting()).map(|(place, _)| *place)
    }

    /// Sends what is to be told.
    pub(crate) fn flush(&mut self, mut send: impl FnMut(Place, Facts)) {
        for (&place, link) in &mut self.0 {
            while let Some(facts) = link.message() {
                send(place, facts);
            }
        }
    }

    /// To be called now and then: the other nodes learn what has arrived, even if that is little.
    pub(crate) fn acknowledge(&mut self, mut send: impl FnMut(Place, Facts)) {
        for (&place, link) in &mut self.0 {
            link.tick().into_iter().for_each(|facts| send(place, facts));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_protocol::InstanceId;
    use proptest::prelude::*;

    fn fact(number: u32) -> Fact {
        Fact::Settled { instance: InstanceId(number) }
    }

    proptest! {
        /// Both ends tell; messages are lost with a connection, and then everything unacknowledged is sent again.
        #[test]
        fn every_fact_arrives_once_and_in_order(steps in proptest::collection::vec(0_u8..6, 0..400)) {
            let mut ends = [FactLink::default(), FactLink::default()];
            let mut wires: [VecDeque<Facts>; 2] = [VecDeque::new(), VecDeque::new()];
            let (mut told, mut heard) = ([0_u32; 2], [Vec::new(), Vec::new()]);
            for step in steps.into_iter().chain([4]).chain([1, 2, 3].into_iter().cycle().take(30)) {
                match step {
                    0 => {
                        for end in 0..2 {
                            assert!(ends[end].push(fact(told[end])));
                            told[end] += 1;
                        }
                    }
                    1 | 2 => {
                        for end in 0..2 {
                            wires[end].extend(ends[end].message());
                        }
                    }
                    3 => {
                        for end in 0..2 {
                            if let Some(message) = wires[1 - end].pop_front() {
                                heard[end].extend(ends[end].receive(message).expect("sound"));
                            }
                        }
                    }
                    4 => {
                        wires.iter_mut().for_each(VecDeque::clear);
                        ends.iter_mut().for_each(FactLink::reconnected);
                    }
                    _ => {
                        for end in 0..2 {
                            wires[end].extend(ends[end].tick());
                        }
                    }
                }
            }
            for end in 0..2 {
                let all: Vec<Fact> = (0..told[1 - end]).map(fact).collect();
                prop_assert_eq!(&heard[end], &all);
            }
        }
    }

    #[test]
    fn large_facts_go_in_several_messages() {
        let instances = vec![InstanceId(0); MAX_WEIGHT / 2].into_iter();
        let again: Vec<(InstanceId, u32)> = instances.map(|id| (id, 1)).collect();
        let large = Fact::Resume { generation: 1, places: Vec::new(), again, decided: Vec::new() };
        let mut link = FactLink::default();
        (0..5).for_each(|_| assert!(link.push(large.clone())));
        let sizes: Vec<usize> = std::iter::from_fn(|| link.message()).map(|message| message.facts.len()).collect();
        assert_eq!(sizes, [2, 2, 1]);
    }

    #[test]
    fn gaps_and_acknowledgements_of_what_was_not_told_are_refused() {
        let mut link = FactLink::default();
        link.receive(Facts { first: 1, facts: vec![fact(1)], heard: 0, size: 0 }).expect_err("a gap");
        link.receive(Facts { first: 0, facts: Vec::new(), heard: 1, size: 0 }).expect_err("nothing was told");
        assert!(link.push(fact(0)));
        link.receive(Facts { first: 0, facts: Vec::new(), heard: 1, size: 0 }).expect_err("nor was it sent");
    }
}
