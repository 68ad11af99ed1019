//! What the reading end does: it subscribes, grants windows, says how far the bytes have come.

use super::inflow::{Inflow, Occasion};
use super::{Action, Exchange, Path, TooManyFlows, Violation};
use crate::limits::MAX_FLOWS;
use crate::wire::{FlowId, Grant, GrantId, PeerMessage, StreamKey};

impl Exchange {
    /// This node reads a stream of the peer's. Up to `until` bytes of it may come inline.
    ///
    /// # Errors
    /// If there are [`MAX_FLOWS`] flows from this peer already.
    pub fn subscribe(&mut self, stream: StreamKey, until: u64) -> Result<FlowId, TooManyFlows> {
        if self.incoming.len() >= MAX_FLOWS || self.next_flow == u32::MAX {
            return Err(TooManyFlows);
        }
        let flow = FlowId(self.next_flow);
        self.next_flow += 1;
        let mut inflow = Inflow::new(stream, until);
        if self.path != Path::Down {
            let message = inflow.resume(flow);
            self.send(message);
        }
        self.incoming.insert(flow, inflow);
        Ok(flow)
    }

    /// This node reads the stream no more. [`Action::Quiet`] says when nothing of it can arrive any more.
    pub fn unsubscribe(&mut self, flow: FlowId) {
        if let Some(inflow) = self.incoming.remove(&flow) {
            if self.path == Path::Down {
                self.actions.push_back(Action::Quiet { flow });
            } else {
                self.closing.insert(flow);
                self.send(PeerMessage::Close { flow, received: inflow.received() });
            }
        }
    }

    /// A flow is over from which nothing is under way.
    pub(super) fn forget(&mut self, flow: FlowId) {
        if let Some(inflow) = self.incoming.remove(&flow) {
            self.send(PeerMessage::Close { flow, received: inflow.received() });
        }
    }

    /// A number for the next window.
    pub fn next_grant(&mut self) -> GrantId {
        let id = GrantId(self.next_grant);
        self.next_grant = self.next_grant.wrapping_add(1).max(1);
        id
    }

    /// From `grant.base` on the flow's bytes go into this window, those below `until` at once.
    pub fn grant(&mut self, flow: FlowId, grant: Grant, until: u64) {
        let up = self.path != Path::Down;
        if let Some(inflow) = self.incoming.get_mut(&flow) {
            inflow.granted(grant.size, until);
            if up {
                self.send(PeerMessage::Grant { flow, grant, until });
            }
        }
    }

    /// There is room for the flow's bytes below `until`.
    pub fn room(&mut self, flow: FlowId, until: u64) {
        if let Some(inflow) = self.incoming.get_mut(&flow) {
            inflow.room(until);
            self.credit(flow, Occasion::News);
        }
    }

    /// The readers of the flow's stream are stuck, or not any more.
    pub fn stuck(&mut self, flow: FlowId, stuck: bool) {
        if self.path != Path::Down && self.incoming.get_mut(&flow).is_some_and(|inflow| inflow.set_stuck(stuck)) {
            self.send(PeerMessage::Stuck { flow, stuck });
        }
    }

    /// Bytes of a flow have arrived in its window. Bytes of a flow that is over are of no interest.
    ///
    /// # Errors
    /// If they are where none may arrive.
    pub fn placed(&mut self, flow: FlowId, at: u64, length: u64) -> Result<(), Violation> {
        let Some(inflow) = self.incoming.get_mut(&flow) else { return Ok(()) };
        let before = inflow.received();
        inflow.placed(flow, at, length)?;
        let upto = inflow.received();
        if upto > before {
            self.actions.push_back(Action::Commit { flow, upto });
            self.arrived(flow);
        }
        Ok(())
    }

    /// Nothing else is to be done at present: the peer is told what it could be waiting for.
    pub fn settle(&mut self) {
        self.tell_lagging(Occasion::Rest);
    }

    /// Whether there is something that the peer was not told because it can wait, though not for ever.
    #[must_use]
    pub fn owes_credit(&self) -> bool {
        !self.lagging.is_empty()
    }

    /// What was put off is said now.
    pub fn tell_all(&mut self) {
        self.tell_lagging(Occasion::Due);
    }

    fn tell_lagging(&mut self, occasion: Occasion) {
        for flow in std::mem::take(&mut self.lagging) {
            self.credit(flow, occasion);
        }
    }

    /// Bytes or the end of an incoming flow have come.
    pub(super) fn arrived(&mut self, flow: FlowId) {
        let Some(inflow) = self.incoming.get(&flow) else { return };
        if let Some(length) = inflow.is_complete() {
            self.actions.push_back(Action::Ended { flow, length });
            self.forget(flow);
        } else {
            self.credit(flow, Occasion::News);
        }
    }

    /// Tells the writing end how far a flow is, if it is worth a message on this occasion.
    fn credit(&mut self, flow: FlowId, occasion: Occasion) {
        if self.path == Path::Down {
            return;
        }
        let Some(inflow) = self.incoming.get_mut(&flow) else { return };
        if let Some(message) = inflow.credit(flow, occasion) {
            self.lagging.remove(&flow);
            self.send(message);
        } else if inflow.has_news() {
            self.lagging.insert(flow);
        }
    }
}
