//! Whose turn it is to send: flows that have sent little first, the others round about, a quantum of bytes each (deficit
//! round robin with a list of new flows, as in FQ-CoDel, RFC 8290).

use crate::wire::FlowId;
use std::collections::{HashMap, VecDeque};

/// Bytes that a flow may send before it is another's turn.
const QUANTUM: i64 = 256 * 1024;
/// A flow is new until it has sent so many bytes.
const NEW: u64 = 64 * 1024;
/// After so many turns of new flows in a row an old one has its turn.
const MOST_NEW: u32 = 16;

#[derive(Debug, Default)]
pub(super) struct Turns {
    new: VecDeque<FlowId>,
    old: VecDeque<FlowId>,
    /// What is left of the quantum of each flow in one of the lists.
    left: HashMap<FlowId, i64>,
    new_in_a_row: u32,
}

impl Turns {
    /// The flow has something to send, from this offset on.
    pub(super) fn add(&mut self, flow: FlowId, at: u64) {
        if self.left.contains_key(&flow) {
            return;
        }
        self.left.insert(flow, QUANTUM);
        if at < NEW { self.new.push_back(flow) } else { self.old.push_back(flow) }
    }

    /// The flow whose turn it is; it stays first until [`Turns::served`] or [`Turns::done`].
    pub(super) fn next(&mut self) -> Option<FlowId> {
        if self.new_in_a_row >= MOST_NEW
            && let Some(&flow) = self.old.front()
        {
            return Some(flow);
        }
        self.new.front().or(self.old.front()).copied()
    }

    /// The flow whose turn it was has sent so many bytes and has more.
    pub(super) fn served(&mut self, flow: FlowId, bytes: u64) {
        let left = self.left.entry(flow).or_insert(QUANTUM);
        *left -= i64::try_from(bytes).unwrap_or(i64::MAX);
        if *left > 0 {
            return;
        }
        *left += QUANTUM;
        self.take(flow);
        self.old.push_back(flow);
    }

    /// The flow has nothing more to send for now.
    pub(super) fn done(&mut self, flow: FlowId) {
        if self.left.remove(&flow).is_some() {
            self.take(flow);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn take(&mut self, flow: FlowId) {
        if self.new.front() == Some(&flow) {
            self.new.pop_front();
            self.new_in_a_row += 1;
        } else if self.old.front() == Some(&flow) {
            self.old.pop_front();
            self.new_in_a_row = 0;
        } else {
            self.new.retain(|other| *other != flow);
            self.old.retain(|other| *other != flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_flows_share_evenly() {
        let mut turns = Turns::default();
        let mut sent = [0u64; 3];
        (0..3).for_each(|flow| turns.add(FlowId(flow), NEW));
        for _ in 0..3000 {
            let flow = turns.next().expect("there are flows");
            // One of them has only small bits to send.
            let bytes = if flow.0 == 0 { 5_000 } else { 100_000 };
            sent[flow.0 as usize] += bytes;
            turns.served(flow, bytes);
        }
        let (least, most) = (sent.iter().min().expect("three"), sent.iter().max().expect("three"));
        assert!(most - least <= 3 * QUANTUM as u64, "{sent:?}");
    }

    #[test]
    fn a_new_flow_goes_first_and_many_new_ones_starve_nobody() {
        let mut turns = Turns::default();
        turns.add(FlowId(0), 1 << 30);
        turns.served(FlowId(0), 1000);
        let mut old = 0;
        for number in 1..1000u32 {
            turns.add(FlowId(number), 0);
            let flow = turns.next().expect("there are flows");
            if flow == FlowId(0) {
                old += 1;
                turns.served(flow, QUANTUM as u64);
                turns.done(FlowId(number));
            } else {
                assert_eq!(flow, FlowId(number), "a new flow goes first");
                turns.done(flow);
            }
        }
        assert!(old >= 1000 / (MOST_NEW + 2), "the old flow had {old} turns");
    }
}
