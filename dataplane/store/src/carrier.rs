//! The state of an attempt that carries streams, and its ports, which are used again.
//!
//! A stream that crosses takes a port of the carrier in its run, and there are only so many. When a stream is over, functions
//! of this node may still look at the words of its port. So the store first waits until none of them does, then tells the
//! carrier to retire the port, and uses it again when the carrier has answered that its words are reset. Messages are in order
//! in both directions, so none about the old stream comes after that.

use crate::pieces::Piece;
use crate::process::{Endpoint, Want};
use crate::subscription::Subscriber;
use crate::{ProcessId, RunStream, Store};
use dflow_protocol::PortId;
use dflow_protocol::message::ToFunction;
use std::collections::{BTreeMap, BTreeSet};

/// The state of an attempt that carries streams. Its ports come and go, network cards may still send from pieces that
/// it has read, and other nodes write into its windows.
#[derive(Debug, Default)]
pub(crate) struct Carrier {
    /// Reading ports whose readers on other nodes are stuck.
    pub(crate) stuck: BTreeSet<PortId>,
    /// Pieces of aborted streams, by port. Another node may still write into them until the carrier closes the port.
    pub(crate) quarantine: BTreeMap<PortId, Vec<Piece>>,
    /// Streams whose window ahead is being backed, with the port that waits for it.
    pub(crate) ahead: BTreeMap<RunStream, (PortId, Want)>,
    pub(crate) ports: CarrierPorts,
}

/// The ports of a carrier that were in use before, and their slots in its arena.
#[derive(Debug, Default)]
pub(crate) struct CarrierPorts {
    /// The carrier was told to retire them.
    retiring: BTreeSet<PortId>,
    free: BTreeSet<PortId>,
    /// Free ports whose slots still hold bytes of their last stream.
    free_without_slot: BTreeSet<PortId>,
    /// Ports whose slots hold bytes of a stream.
    slots: BTreeSet<PortId>,
}

impl CarrierPorts {
    /// A port to be used again, with its slot.
    pub(crate) fn take(&mut self) -> Option<PortId> {
        self.free.pop_last()
    }

    /// A port to be used again whose slot still holds bytes of another stream.
    pub(crate) fn take_without_slot(&mut self) -> Option<PortId> {
        self.free_without_slot.pop_last()
    }

    /// A stream begins in the slot of this port. Returns `false` if the slot still holds bytes of another stream.
    pub(crate) fn occupy_slot(&mut self, port: PortId) -> bool {
        self.slots.insert(port)
    }

    /// The slot of this port holds no bytes any more.
    pub(crate) fn free_slot(&mut self, port: PortId) {
        self.slots.remove(&port);
        if self.free_without_slot.remove(&port) {
            self.free.insert(port);
        }
    }

    /// The carrier is told to retire this port.
    fn retire(&mut self, port: PortId) {
        self.retiring.insert(port);
    }

    /// Whether the carrier was told to retire this port, and has not answered.
    pub(crate) fn is_retiring(&self, port: PortId) -> bool {
        self.retiring.contains(&port)
    }

    /// The carrier has retired this port.
    pub(crate) fn retired(&mut self, port: PortId) {
        if self.retiring.remove(&port) {
            let free = if self.slots.contains(&port) { &mut self.free_without_slot } else { &mut self.free };
            free.insert(port);
        }
    }
}

impl Store {
    /// A carrier has closed this reading port. Its producer does not look at the port's words any more once it has seen the
    /// message that is sent here; until then it can only take its reader for slower than it is.
    pub(crate) fn retire_input(&mut self, id: ProcessId, port: PortId, stream: RunStream, subscriber: Subscriber) {
        let reader = (id, port);
        let producer = self.runs.stream_mut(stream).and_then(|stream| {
            let producer = stream.epoch.producer().filter(|_| stream.epoch.finished().is_none());
            let subscription = stream.subscribers.get_mut(&subscriber).filter(|it| it.is_read_by(reader))?;
            let was_known = subscription.detach();
            producer.filter(|_| was_known)
        });
        let Some(process) = self.processes.get_mut(id) else { return };
        process.remove_input(port);
        if let Some(carrier) = &mut process.carrier {
            carrier.stuck.remove(&port);
        }
        if let (Some((producer, out)), Some(control)) = (producer, process.control.as_ref().map(|control| control.id)) {
            self.send(producer, ToFunction::DropReader { port: out, control, reader: port }, None);
        }
        self.retire(reader);
    }

    /// Retires the port by which a stream has come, if no reader may look at its words any more.
    pub(crate) fn retire_output(&mut self, id: RunStream) {
        if let Some(stream) = self.runs.stream_mut(id)
            && !stream.epoch.pieces.is_used()
            && let Some(port) = stream.epoch.take_port()
        {
            self.retire(port);
        }
    }

    /// Tells a carrier to retire a port that neither it nor any other process uses.
    pub(crate) fn retire(&mut self, (id, port): Endpoint) {
        if let Some(carrier) = self.processes.carrier_mut(id) {
            carrier.ports.retire(port);
            self.send(id, ToFunction::Retire { port }, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_when_it_is_retired_and_its_slot_when_it_is_empty() {
        let mut ports = CarrierPorts::default();
        let (first, second) = (PortId(1), PortId(2));
        assert!(ports.occupy_slot(first) && !ports.occupy_slot(first));
        ports.retired(second);
        assert_eq!(ports.take(), None, "it was not told to");
        for port in [first, second] {
            ports.retire(port);
            assert!(ports.is_retiring(port) && ports.take().is_none());
            ports.retired(port);
            assert!(!ports.is_retiring(port));
        }
        assert_eq!((ports.take(), ports.take()), (Some(second), None));
        ports.free_slot(first);
        assert_eq!((ports.take_without_slot(), ports.take()), (None, Some(first)));
        // Its stream may need the slot for longer than the port.
        assert!(ports.occupy_slot(first));
        ports.retire(first);
        ports.retired(first);
        assert_eq!((ports.take(), ports.take_without_slot()), (None, Some(first)));
        ports.free_slot(first);
        assert_eq!((ports.take(), ports.take_without_slot()), (None, None), "it is in use");
        assert!(ports.occupy_slot(first));
    }
}
