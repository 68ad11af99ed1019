//! The reading end: it subscribes, grants windows and credit, and acknowledges.

use super::inflow::{AckTiming, Inflow};
use super::{Exchange, FlowEvent, Path, TooManyFlows, Violation};
use crate::limits::MAX_FLOWS;
use crate::wire::{FlowId, Grant, GrantId, PeerMessage, StreamKey};

impl Exchange {
    /// This node reads a stream of the peer. Bytes below `until` may be sent inline.
    ///
    /// # Errors
    /// [`TooManyFlows`] if as many streams of this run pass as are left of [`MAX_FLOWS`]: so a run that floods the link leaves
    /// room for others, as a queue with a dynamic threshold does in a switch.
    pub fn subscribe(&mut self, stream: StreamKey, until: u64) -> Result<FlowId, TooManyFlows> {
        let all = self.incoming.len();
        let run = self.traffic.get(stream.run()).map_or(0, |run| usize::try_from(run.streams_in).unwrap_or(usize::MAX));
        if run >= MAX_FLOWS - all.min(MAX_FLOWS) {
            return Err(TooManyFlows { run, all });
        }
        let flow = FlowId(self.next_flow);
        self.next_flow += 1;
        let mut inflow = Inflow::new(stream, until);
        inflow.is_known = self.has_begun();
        if self.path != Path::Down {
            let message = inflow.resume(flow);
            self.send(message);
        }
        self.incoming.insert(flow, inflow);
        self.traffic.note(stream.run(), |run| run.streams_in += 1);
        Ok(flow)
    }

    /// This node does not read the stream any more. [`FlowEvent::Drained`] follows when nothing of it can arrive any more.
    pub fn unsubscribe(&mut self, flow: FlowId) {
        if let Some(inflow) = self.incoming.remove(&flow) {
            let run = inflow.stream().run();
            if self.path == Path::Down {
                self.drained(flow, run);
            } else {
                self.closing.insert(flow, run);
                self.send(PeerMessage::Close { flow, received: inflow.received() });
            }
        }
    }

    /// A flow is over, and nothing of it is in flight.
    pub(super) fn forget(&mut self, flow: FlowId) {
        if let Some(inflow) = self.incoming.remove(&flow) {
            self.traffic.note(inflow.stream().run(), |run| run.streams_in -= 1);
            self.send(PeerMessage::Close { flow, received: inflow.received() });
        }
    }

    /// The number of the next window.
    pub fn next_grant(&mut self) -> GrantId {
        let id = GrantId(self.next_grant);
        self.next_grant = self.next_grant.wrapping_add(1).max(1);
        id
    }

    /// Grants a window: the flow's bytes from `grant.base` on go into it, with credit for those below `until`.
    pub fn grant(&mut self, flow: FlowId, grant: Grant, until: u64) {
        let up = self.path != Path::Down;
        if let Some(inflow) = self.incoming.get_mut(&flow) {
            inflow.granted(grant.size, until);
            if up {
                self.send(PeerMessage::Grant { flow, grant, until });
            }
        }
    }

    /// Extends the credit of a flow to `until`.
    pub fn credit(&mut self, flow: FlowId, until: u64) {
        if let Some(inflow) = self.incoming.get_mut(&flow) {
            inflow.extend(until);
            self.acknowledge(flow, AckTiming::Progress);
        }
    }

    /// Whether the readers of the flow's stream are stuck.
    pub fn stuck(&mut self, flow: FlowId, stuck: bool) {
        if self.path != Path::Down && self.incoming.get_mut(&flow).is_some_and(|inflow| inflow.set_stuck(stuck)) {
            self.send(PeerMessage::Stuck { flow, stuck });
        }
    }

    /// Bytes of a flow have arrived. Those of a flow that is over are ignored.
    ///
    /// # Errors
    /// [`Violation`] if they are past the credit or the end of the stream.
    pub fn placed(&mut self, flow: FlowId, at: u64, length: u64) -> Result<(), Violation> {
        let Some(inflow) = self.incoming.get_mut(&flow) else {
            if let Some(&run) = self.closing.get(&flow) {
                self.traffic.note(run, |run| run.received += length);
            }
            return Ok(());
        };
        let before = inflow.received();
        let stream = inflow.stream();
        inflow.placed(flow, at, length).map_err(|violation| violation.of(stream))?;
        let upto = inflow.received();
        self.traffic.note(stream.run(), |run| run.received += length);
        if upto > before {
            self.event(flow, FlowEvent::Arrived(upto));
            self.arrived(flow);
        }
        Ok(())
    }

    /// The caller is about to wait: acknowledges what the peer may be waiting for.
    pub fn settle(&mut self) {
        self.acknowledge_all(AckTiming::Idle);
    }

    /// Whether acknowledgements are delayed. [`Exchange::flush_acks`] is due within a short time.
    #[must_use]
    pub fn has_delayed_acks(&self) -> bool {
        !self.unacknowledged.is_empty()
    }

    /// Sends all delayed acknowledgements.
    pub fn flush_acks(&mut self) {
        self.acknowledge_all(AckTiming::Due);
    }

    fn acknowledge_all(&mut self, timing: AckTiming) {
        for flow in std::mem::take(&mut self.unacknowledged) {
            self.acknowledge(flow, timing);
        }
    }

    /// Bytes or the length of an incoming flow have arrived.
    pub(super) fn arrived(&mut self, flow: FlowId) {
        let Some(inflow) = self.incoming.get(&flow) else { return };
        if let Some(length) = inflow.is_complete() {
            self.event(flow, FlowEvent::Finished(length));
            self.forget(flow);
        } else {
            self.acknowledge(flow, AckTiming::Progress);
        }
    }

    /// Acknowledges, or delays the acknowledgement if it is not worth a message yet.
    fn acknowledge(&mut self, flow: FlowId, timing: AckTiming) {
        if self.path == Path::Down {
            return;
        }
        let Some(inflow) = self.incoming.get_mut(&flow) else { return };
        if let Some(message) = inflow.acknowledge(flow, timing) {
            self.unacknowledged.remove(&flow);
            self.send(message);
        } else if inflow.is_behind() {
            self.unacknowledged.insert(flow);
        }
    }
}
