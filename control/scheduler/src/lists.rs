//! The order of parts. A fan-in sees its streams in the order of their parts, no matter in which order they appear, so
//! that the same data always gives the same list. While parts are still being discovered, a list is certain only up to
//! the first position where another part may still be inserted; it grows from there.

use crate::machine::RunMachine;
use crate::plan::{Edge, NodeId, PortRef};
use crate::state::Status;
use dflow_protocol::{InstanceId, StreamId};
use std::sync::Arc;

impl RunMachine {
    /// Extends the lists of a node, and of every `foreach` over its streams, as far as they are certain.
    pub(crate) fn extend_lists(&mut self, node: NodeId) {
        let plan = Arc::clone(&self.plan);
        let mut pending = vec![node];
        while let Some(node) = pending.pop() {
            if plan.nodes[node].is_sink() {
                continue;
            }
            self.extend_order(node);
            for (port, spec) in plan.nodes[node].outputs.iter().enumerate() {
                if !self.extend_port(node, port) {
                    continue;
                }
                for edge in &spec.consumers {
                    self.todo.nodes.insert(edge.node);
                    match edge.each {
                        true => pending.push(edge.node),
                        false => self.mark_readers(*edge),
                    }
                }
            }
        }
    }

    /// Removes the streams of an instance, and everything after them, from the list of a port.
    pub(crate) fn truncate_list(&mut self, instance: InstanceId, port: usize) {
        let plan = Arc::clone(&self.plan);
        let owner = self.instance(instance);
        let (Some(position), Some(_)) = (owner.position, owner.outputs[port].offset) else { return };
        let mut pending = vec![(owner.node, port, position)];
        while let Some((node, port, position)) = pending.pop() {
            let state = &self.nodes[node];
            let list = &state.ports[port];
            let first = state.order.get(position).and_then(|first| self.instance(*first).outputs[port].offset);
            let offset = first.unwrap_or(list.streams.len());
            if offset == list.streams.len() && !list.complete && first.is_none() {
                continue;
            }
            for later in state.order.get(position..).unwrap_or_default().to_vec() {
                self.instance_mut(later).outputs[port].offset = None;
            }
            let list = &mut self.nodes[node].ports[port];
            list.streams.truncate(offset);
            list.next = list.next.min(position);
            list.complete = false;
            for edge in &plan.nodes[node].outputs[port].consumers {
                if !edge.each {
                    self.undo_source(*edge);
                } else if !plan.nodes[edge.node].is_sink() {
                    for child_port in 0..plan.nodes[edge.node].outputs.len() {
                        pending.push((edge.node, child_port, offset));
                    }
                    self.nodes[edge.node].order_complete = false;
                }
            }
        }
        self.shorten_orders(self.instance(instance).node);
    }

    /// Whether all streams of a source are known. A skipped source has none.
    pub(crate) fn source_complete(&self, source: PortRef) -> bool {
        let node = &self.nodes[source.node];
        match node.status {
            Status::Undecided => false,
            Status::Active => node.ports[source.port].complete,
            Status::Skipped => true,
        }
    }

    /// The streams of a source as far as they are certain.
    pub(crate) fn source_list(&self, source: PortRef) -> &[StreamId] {
        let node = &self.nodes[source.node];
        match node.status {
            Status::Active => &node.ports[source.port].streams,
            Status::Undecided | Status::Skipped => &[],
        }
    }

    /// Orders a node's instances by the list of the streams that they exist for.
    fn extend_order(&mut self, node: NodeId) {
        let plan = Arc::clone(&self.plan);
        let spec = &plan.nodes[node];
        if !spec.foreach {
            if self.nodes[node].order.is_empty() {
                let only = self.nodes[node].instances[0];
                self.nodes[node].order.push(only);
                self.instance_mut(only).position = Some(0);
            }
            self.nodes[node].order_complete = true;
            return;
        }
        let source = spec.inputs[0].sources[0];
        let known = self.nodes[source.node].ports[source.port].streams.len();
        for position in self.nodes[node].order.len()..known {
            let stream = self.nodes[source.node].ports[source.port].streams[position];
            let child = self.stream(stream).children.iter().find(|(of, _)| *of == node);
            // It is missing if the run has outgrown its limits, and then the run fails, or if a switch has skipped the
            // node for good, and then its lists are never used.
            let Some(&(_, child)) = child else { return };
            self.nodes[node].order.push(child);
            self.instance_mut(child).position = Some(position);
        }
        self.nodes[node].order_complete = self.nodes[source.node].ports[source.port].complete;
    }

    /// Extends the list of a port. Returns whether it has changed.
    fn extend_port(&mut self, node: NodeId, port: usize) -> bool {
        let before = (self.nodes[node].ports[port].streams.len(), self.nodes[node].ports[port].complete);
        loop {
            let state = &self.nodes[node];
            let list = &state.ports[port];
            let Some(&instance) = state.order.get(list.next) else {
                self.nodes[node].ports[port].complete = self.nodes[node].order_complete;
                break;
            };
            let end = list.streams.len();
            let parts = &mut self.instances[instance].outputs[port];
            let offset = *parts.offset.get_or_insert(end);
            let list = &mut self.nodes[node].ports[port];
            list.streams.extend_from_slice(&parts.streams[end - offset..parts.listed as usize]);
            if !parts.complete {
                break;
            }
            list.next += 1;
        }
        self.todo.endings |= !before.1 && self.nodes[node].ports[port].complete;
        before != (self.nodes[node].ports[port].streams.len(), self.nodes[node].ports[port].complete)
    }

    /// After a list was truncated, the instances for the streams beyond its end lose their position.
    fn shorten_orders(&mut self, root: NodeId) {
        let plan = Arc::clone(&self.plan);
        for (node, spec) in plan.nodes.iter().enumerate().skip(root) {
            if !spec.foreach || spec.is_sink() {
                continue;
            }
            let source = spec.inputs[0].sources[0];
            let length = self.nodes[source.node].ports[source.port].streams.len();
            if self.nodes[node].order.len() > length {
                for instance in self.nodes[node].order.split_off(length) {
                    self.instance_mut(instance).position = None;
                }
            }
        }
    }

    fn mark_readers(&mut self, edge: Edge) {
        for instance in self.nodes[edge.node].instances.clone() {
            self.mark_input(instance, edge.input);
        }
    }
}
