//! A path over QUIC.

use super::connection::{Connection, Shared};
use super::incoming::Receiving;
use super::outgoing::{Gauge, OutFlow, Outbox, write_flow, write_messages};
use crate::chunk::Chunk;
use crate::path::{Path, PathError, PathEvent, PathKind, RemoteWindow};
use dflow_protocol::exchange::Order;
use dflow_protocol::wire::{FlowId, GrantId, PeerMessage};
use dflow_shm::Landing;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::task::Waker;

/// The most bytes of messages that wait to be sent. All subscriptions of a new path fit; a peer that falls behind further
/// is lost.
const MAX_QUEUED: usize = 32 * 1024 * 1024;

/// A path on a connection to another node. Messages share one QUIC stream; each flow has a stream of its own, whose bytes
/// are copied into their window as they arrive, in any order.
pub struct QuicPath {
    shared: Arc<Shared>,
    receiving: Arc<Receiving>,
    gauge: Arc<Gauge>,
    outbox: Arc<Outbox>,
    flows: HashMap<FlowId, Arc<OutFlow>>,
}

impl QuicPath {
    /// A new path on this connection, in place of the one before. `incarnation`: the path's number, the same on both sides
    /// and higher than those of all earlier paths on this connection. `waker` is called whenever [`Path::poll`] has events.
    ///
    /// # Errors
    /// If the connection is closed, or the number is not higher.
    pub fn new(connection: &Connection, incarnation: u64, waker: Waker) -> Result<Self, PathError> {
        let shared = connection.shared().clone();
        let receiving = Arc::new(Receiving::new(incarnation, waker));
        shared.begin(&receiving)?;
        let gauge = Arc::new(Gauge::new(shared.in_flight, receiving.clone()));
        let outbox = Arc::new(Outbox::default());
        shared.runtime.spawn(write_messages(shared.quic.clone(), incarnation, outbox.clone(), gauge.clone()));
        Ok(Self { shared, receiving, gauge, outbox, flows: HashMap::new() })
    }
}

impl Path for QuicPath {
    fn kind(&self) -> PathKind {
        PathKind::Quic
    }

    fn send(&mut self, message: &PeerMessage) -> Result<(), PathError> {
        if self.outbox.push(&message.encode()?, MAX_QUEUED, &self.gauge) {
            return Ok(());
        }
        let reason = format!("{MAX_QUEUED} bytes of messages wait already: the peer does not read them");
        Err(PathError::Lost { kind: PathKind::Quic, reason })
    }

    fn offer(&mut self, flow: FlowId, _: GrantId, landing: &Arc<Landing>) -> Result<RemoteWindow, PathError> {
        if let Some(flows) = self.receiving.offer(flow, landing) {
            self.shared.allow(flows);
        }
        Ok(RemoteWindow::default())
    }

    fn withdraw(&mut self, flow: FlowId) {
        self.receiving.withdraw(flow);
    }

    fn has_room(&self) -> bool {
        self.gauge.has_room()
    }

    fn write(&mut self, order: &Order, chunk: Chunk) -> Result<(), PathError> {
        let flow = self.flows.entry(order.flow).or_insert_with(|| {
            let flow = Arc::new(OutFlow::new(order.at, self.gauge.clone()));
            let incarnation = self.receiving.incarnation();
            let writer = write_flow(self.shared.quic.clone(), incarnation, order.flow, order.at, flow.clone());
            self.shared.runtime.spawn(writer);
            flow
        });
        if flow.write(order.at, chunk) {
            return Ok(());
        }
        let problem = format!("bytes from offset {} of {} do not follow those before them", order.at, order.flow);
        Err(PathError::Resource(problem))
    }

    fn finish(&mut self, flow: FlowId) {
        if let Some(flow) = self.flows.remove(&flow) {
            flow.finish();
        }
    }

    fn poll(&mut self, events: &mut Vec<PathEvent>) {
        self.receiving.poll(events);
    }
}

impl fmt::Debug for QuicPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicPath").field("incarnation", &self.receiving.incarnation()).finish_non_exhaustive()
    }
}

impl Drop for QuicPath {
    fn drop(&mut self) {
        self.shared.end(&self.receiving);
        self.receiving.close();
        self.outbox.close();
        for flow in self.flows.values() {
            flow.reset();
        }
    }
}
