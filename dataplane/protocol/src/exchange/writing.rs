//! What the writing end does: it hands out writes in turns, as far as there are bytes and credit.

use super::outflow::Outflow;
use super::{Action, Exchange, Order, Violation};
use crate::wire::{FlowId, cut_reason};
use std::collections::VecDeque;

impl Exchange {
    /// The stream of this flow has `watermark` bytes.
    pub fn available(&mut self, flow: FlowId, watermark: u64) {
        if let Some(outflow) = self.outgoing.get_mut(&flow) {
            outflow.available(watermark);
            self.enlist(flow);
        }
    }

    /// The stream of this flow is complete.
    pub fn finish(&mut self, flow: FlowId, length: u64) {
        if let Some(outflow) = self.outgoing.get_mut(&flow) {
            outflow.finish(length);
            self.tell_end(flow);
            self.enlist(flow);
        }
    }

    /// The stream of this flow is given up.
    pub fn abort(&mut self, flow: FlowId, reason: &str) {
        if let Some(outflow) = self.outgoing.get_mut(&flow) {
            outflow.abort(cut_reason(reason));
            self.tell_end(flow);
        }
    }

    /// Bytes that may be sent now; [`Exchange::wrote`] or [`Exchange::cannot_write`] must follow.
    pub fn next_write(&mut self) -> Option<Order> {
        while let Some((flow, left)) = self.turns.next() {
            if let Some(order) = self.outgoing.get_mut(&flow).and_then(|outflow| outflow.order(flow)) {
                return Some(Order { most: order.most.min(left), ..order });
            }
            self.turns.skip(flow);
        }
        None
    }

    /// The first `length` bytes of the last order are on their way.
    pub fn wrote(&mut self, flow: FlowId, length: u64) {
        let Some(outflow) = self.outgoing.get_mut(&flow) else { return };
        outflow.wrote(length);
        if outflow.order(flow).is_some() {
            self.turns.served(flow, length);
        } else {
            self.turns.done(flow);
        }
    }

    /// The bytes of the last order cannot be had at present; [`Exchange::available`] says when they can.
    pub fn cannot_write(&mut self, flow: FlowId) {
        self.turns.skip(flow);
    }

    /// Takes out an outgoing flow; `None` if it is over already, as it may be while messages cross.
    pub(super) fn known(&mut self, flow: FlowId) -> Result<Option<Outflow>, Violation> {
        self.check_number(flow)?;
        Ok(self.outgoing.remove(&flow))
    }

    pub(super) fn with_outflow(
        &mut self,
        flow: FlowId,
        change: impl FnOnce(&mut Outflow, &mut VecDeque<Action>) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        self.check_number(flow)?;
        if let Some(outflow) = self.outgoing.get_mut(&flow) {
            change(outflow, &mut self.actions)?;
            self.enlist(flow);
        }
        Ok(())
    }

    pub(super) fn check_number(&self, flow: FlowId) -> Result<(), Violation> {
        if self.last_peer_flow.is_some_and(|last| flow <= last) {
            return Ok(());
        }
        let expected = "one that it has subscribed".to_owned();
        Err(Violation::Value { flow, what: "a message", value: flow.0.into(), expected })
    }

    pub(super) fn tell_end(&mut self, flow: FlowId) {
        if let Some(message) = self.outgoing.get_mut(&flow).and_then(|outflow| outflow.end(flow)) {
            self.send(message);
        }
    }

    /// An outgoing flow may have something to send.
    pub(super) fn enlist(&mut self, flow: FlowId) {
        if self.outgoing.get(&flow).is_some_and(|outflow| outflow.order(flow).is_some()) {
            self.turns.add(flow);
        }
    }
}
