//! The writing end: it hands out writes in turns, as far as there are bytes and credit.

use super::outflow::Outflow;
use super::{Action, Exchange, Order, Violation};
use crate::wire::{FlowId, cut_reason};
use std::collections::VecDeque;

impl Exchange {
    /// The stream of this flow has `watermark` bytes.
    pub fn available(&mut self, flow: FlowId, watermark: u64) {
        if let Some(outflow) = self.outgoing.get_mut(&flow) {
            outflow.available(watermark);
            self.schedule(flow);
        }
    }

    /// The stream of this flow is complete.
    pub fn finish(&mut self, flow: FlowId, length: u64) {
        if let Some(outflow) = self.outgoing.get_mut(&flow) {
            outflow.finish(length);
            self.tell_outcome(flow);
            self.schedule(flow);
        }
    }

    /// The stream of this flow is aborted.
    pub fn abort(&mut self, flow: FlowId, reason: &str) {
        if let Some(outflow) = self.outgoing.get_mut(&flow) {
            outflow.abort(cut_reason(reason));
            self.tell_outcome(flow);
        }
    }

    /// The bytes to send next. [`Exchange::wrote`] or [`Exchange::cannot_write`] must follow.
    pub fn next_write(&mut self) -> Option<Order> {
        while let Some((run, flow, left)) = self.turns.next() {
            if let Some(order) = self.outgoing.get_mut(&flow).and_then(|outflow| outflow.order(flow)) {
                return Some(Order { most: order.most.min(left), ..order });
            }
            self.turns.skip(run, flow);
        }
        None
    }

    /// The first `length` bytes of the last order were sent.
    pub fn wrote(&mut self, flow: FlowId, length: u64) {
        let Some(outflow) = self.outgoing.get_mut(&flow) else { return };
        outflow.wrote(length);
        self.traffic.note(outflow.run(), |run| run.sent += length);
        if outflow.order(flow).is_some() {
            self.turns.served(outflow.run(), flow, length);
        } else {
            self.turns.done(outflow.run(), flow, length);
        }
    }

    /// The bytes of the last order are not available at present; [`Exchange::available`] announces them again.
    pub fn cannot_write(&mut self, flow: FlowId) {
        if let Some(outflow) = self.outgoing.get(&flow) {
            self.turns.skip(outflow.run(), flow);
        }
    }

    /// Removes an outgoing flow. `None` if it is over already: the messages have crossed.
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
            let stream = outflow.stream();
            change(outflow, &mut self.actions).map_err(|violation| violation.of(stream))?;
            self.schedule(flow);
        }
        Ok(())
    }

    pub(super) fn check_number(&self, flow: FlowId) -> Result<(), Violation> {
        if self.last_peer_flow.is_some_and(|last| flow <= last) {
            return Ok(());
        }
        let expected = "a flow that it has subscribed to".to_owned();
        Err(Violation::value(flow, "a message", flow.0, expected))
    }

    pub(super) fn tell_outcome(&mut self, flow: FlowId) {
        if let Some(message) = self.outgoing.get_mut(&flow).and_then(|outflow| outflow.outcome(flow)) {
            self.send(message);
        }
    }

    /// Gives an outgoing flow its turn if it has something to send.
    pub(super) fn schedule(&mut self, flow: FlowId) {
        if let Some(outflow) = self.outgoing.get(&flow).filter(|outflow| outflow.order(flow).is_some()) {
            self.turns.add(outflow.run(), flow);
        }
    }
}
