//! How a run grows: instances, their streams and their subscriptions.
//!
//! A stream creates the instances that exist because of it (a `foreach`, a sink); these create their own streams, and
//! so on. A stream and its reader are subscribed when the later of the two appears.

use crate::action::Action;
use crate::limits::{MAX_INSTANCES, MAX_STREAMS, MAX_SUBSCRIPTIONS};
use crate::machine::RunMachine;
use crate::options::Excess;
use crate::part::PartPath;
use crate::plan::{NodeId, NodeKind};
use crate::state::{
    Changed, Closed, InputState, Instance, Phase, PortState, Signal, Status, Stream, StreamState, Subscription,
};
use dflow_protocol::{Epoch, InstanceId, StreamId};
use dflow_workflow::Partition;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

impl RunMachine {
    /// Creates everything that is known before the run starts.
    pub(crate) fn expand_statically(&mut self) {
        let plan = Arc::clone(&self.plan);
        for (node, spec) in plan.nodes.iter().enumerate() {
            if !spec.foreach {
                self.create_instance(node, PartPath::root(), None);
            }
        }
        if self.excess.is_some() {
            return;
        }
        for node in 0..plan.nodes.len() {
            self.extend_lists(node);
        }
        // A stream whose readers are all known needs no hold.
        self.refresh_statuses();
        while let Some(node) = self.todo.nodes.pop_first() {
            self.settle_node(node);
        }
        let given = |node: &NodeId| matches!(plan.nodes[*node].kind, NodeKind::Input(_));
        for node in (0..plan.nodes.len()).filter(given) {
            let instance = self.nodes[node].instances[0];
            self.give_input(instance);
        }
        for instance in self.instance_ids() {
            self.mark_dirty(instance);
            self.todo.settle.insert(instance);
        }
    }

    /// Creates the stream of one more part that a running attempt opens on a discovered port.
    pub(crate) fn list_part(&mut self, instance: InstanceId, port: usize) {
        let state = &mut self.instance_mut(instance).outputs[port];
        let part = state.listed;
        state.listed += 1;
        match state.streams.get(part as usize).copied() {
            // An earlier attempt opened this part already.
            Some(stream) => {
                if self.instance(instance).present {
                    for (_, child) in self.stream(stream).children.clone() {
                        self.set_present(child, true);
                    }
                }
                self.update_signal(stream);
            }
            None => {
                let created = self.create_stream(instance, port, part);
                self.connect_all(created.into_iter().collect());
                if !self.instance(instance).present {
                    self.remove_children_of(created);
                }
            }
        }
        if self.excess.is_none() {
            self.extend_lists(self.instance(instance).node);
        }
    }

    /// Creates the stream of a part that is not open now, and what exists because of it.
    pub(crate) fn create_part(&mut self, instance: InstanceId, port: usize) {
        let part = self.instance(instance).outputs[port].streams.len() as u32;
        let created = self.create_stream(instance, port, part);
        self.connect_all(created.into_iter().collect());
        self.remove_children_of(created);
    }

    fn remove_children_of(&mut self, stream: Option<StreamId>) {
        let children = stream.map(|stream| self.stream(stream).children.clone()).unwrap_or_default();
        children.into_iter().for_each(|(_, child)| self.set_present(child, false));
    }

    /// Voids the parts of a discovered port: its streams, and everything that exists because of them, leave the
    /// workflow until they are opened again.
    pub(crate) fn unlist_parts(&mut self, instance: InstanceId, port: usize) {
        self.truncate_list(instance, port);
        let state = &mut self.instance_mut(instance).outputs[port];
        state.listed = 0;
        state.opened = 0;
        state.closed = false;
        state.complete = false;
        for stream in state.streams.clone() {
            for (_, child) in self.stream(stream).children.clone() {
                self.set_present(child, false);
            }
            self.update_signal(stream);
        }
        self.extend_lists(self.instance(instance).node);
    }

    /// Adds an instance and everything that depends on its existence to the workflow, or removes them.
    pub(crate) fn set_present(&mut self, root: InstanceId, present: bool) {
        let plan = Arc::clone(&self.plan);
        let mut pending = vec![root];
        while let Some(id) = pending.pop() {
            if self.instance(id).present == present {
                continue;
            }
            let instance = self.instance_mut(id);
            instance.present = present;
            let (node, settled) = (instance.node, usize::from(instance.settled));
            let state = &mut self.nodes[node];
            match present {
                true => (state.present, state.settled) = (state.present + 1, state.settled + settled),
                false => (state.present, state.settled) = (state.present - 1, state.settled - settled),
            }
            self.todo.nodes.insert(node);
            self.mark_dirty(id);
            if !present && self.nodes[node].members_settled {
                self.retire(id, Closed::Gone);
            }
            if !self.owns(id) {
                // Its node tells which parts there are, and it may have heard before this one, or after it, that the instance is
                // part of the run or no longer is. What exists because of its streams goes with its attempt: a reader that left
                // before it could come back to the same epoch, whose bytes are gone.
                let is_alive = self.instance(id).phase != Phase::Idle;
                for stream in self.streams_of(id) {
                    self.update_signal(stream);
                    let state = self.stream(stream);
                    let is_listed = state.part < self.instance(id).outputs[state.port].listed;
                    if if present { is_listed } else { !is_alive } {
                        pending.extend(state.children.iter().map(|(_, child)| *child));
                    }
                }
                continue;
            }
            for (port, spec) in plan.nodes[node].outputs.iter().enumerate() {
                let state = &mut self.instance_mut(id).outputs[port];
                state.listed = if present { spec.fixed_parts().unwrap_or(0) } else { 0 };
                if spec.discovered() {
                    state.opened = 0;
                    state.closed = false;
                    state.complete = false;
                    if present {
                        // Discovered parts return one by one, as the attempt opens them.
                        continue;
                    }
                }
                for stream in state.streams.clone() {
                    pending.extend(self.stream(stream).children.iter().map(|(_, child)| *child));
                    self.update_signal(stream);
                }
            }
        }
    }

    fn create_instance(&mut self, node: NodeId, path: PartPath, each: Option<StreamId>) {
        let streams = self.add_instance(node, path, each);
        self.connect_all(streams);
    }

    /// Subscribes the readers of new streams, and creates the instances that exist because of them.
    fn connect_all(&mut self, mut streams: VecDeque<StreamId>) {
        let plan = Arc::clone(&self.plan);
        while let Some(id) = streams.pop_front() {
            if self.excess.is_some() {
                return;
            }
            let stream = self.stream(id);
            let (producer, port, path) = (stream.instance, stream.port, stream.path.clone());
            let node = self.instance(producer).node;
            for edge in &plan.nodes[node].outputs[port].consumers {
                let reader = &self.nodes[edge.node];
                // Nodes hear of a decision at different times, and must number what exists alike.
                if self.here().is_none() && reader.status == Status::Skipped && reader.status_settled {
                    continue;
                }
                if edge.each {
                    streams.extend(self.add_instance(edge.node, path.clone(), Some(id)));
                } else {
                    for consumer in self.nodes[edge.node].instances.clone() {
                        self.subscribe(id, consumer, edge.input);
                    }
                }
            }
            self.update_signal(id);
        }
    }

    /// Adds one instance with its subscriptions. Returns its streams, which the caller still has to connect.
    fn add_instance(&mut self, node: NodeId, path: PartPath, each: Option<StreamId>) -> VecDeque<StreamId> {
        if self.instances.len() >= MAX_INSTANCES {
            self.excess = Some(Excess::Instances);
            return VecDeque::new();
        }
        let plan = Arc::clone(&self.plan);
        let spec = &plan.nodes[node];
        let mut outputs: Vec<PortState> = Vec::new();
        outputs.resize_with(spec.outputs.len(), PortState::default);
        let mut inputs: Vec<InputState> = Vec::new();
        inputs.resize_with(spec.inputs.len(), InputState::default);
        let is_skipped = self.nodes[node].status == Status::Skipped && self.nodes[node].status_settled;
        let will_not_run = is_skipped
            || each.is_some_and(|stream| {
                let parent = self.instance(self.stream(stream).instance);
                parent.retired && !parent.phase.ended()
            });
        let place = self.place_in(node, path.last_part());
        let added = self.instances.push(Instance {
            node,
            path,
            place,
            each,
            present: true,
            phase: Phase::Idle,
            attempt: 0,
            voided: 0,
            base: 0,
            retries_used: 0,
            not_before: Duration::ZERO,
            continuing: false,
            diverged: false,
            gate_open: false,
            shut: spec.inputs.len(),
            changed: Changed::All,
            lists_undone: false,
            settled_until: (0, 0),
            timer: None,
            inputs,
            outputs,
            position: None,
            open_readers: 0,
            dropped: false,
            cut: false,
            lost: None,
            released: false,
            settled: false,
            retired: will_not_run,
            queued: false,
            records: Vec::new(),
        });
        let Some(id) = added else {
            self.excess = Some(Excess::Instances);
            return VecDeque::new();
        };
        self.take_early_facts(id);
        self.nodes[node].instances.push(id);
        self.nodes[node].present += 1;
        for (index, input) in spec.inputs.iter().enumerate() {
            if let (true, Some(each)) = (input.each, each) {
                self.stream_mut(each).children.push((node, id));
                self.subscribe(each, id, index);
                continue;
            }
            for source in &input.sources {
                for producer in self.nodes[source.node].instances.clone() {
                    for stream in self.instance(producer).outputs[source.port].streams.clone() {
                        self.subscribe(stream, id, index);
                    }
                }
            }
        }
        let mut streams = VecDeque::new();
        for (port, output) in spec.outputs.iter().enumerate() {
            if let Some(parts) = output.fixed_parts() {
                let state = &mut self.instance_mut(id).outputs[port];
                (state.listed, state.complete) = (parts, true);
                for part in 0..parts {
                    streams.extend(self.create_stream(id, port, part));
                }
            }
        }
        self.mark_dirty(id);
        self.todo.settle.insert(id);
        self.todo.nodes.insert(node);
        streams
    }

    fn create_stream(&mut self, instance: InstanceId, port: usize, part: u32) -> Option<StreamId> {
        if self.streams.len() >= MAX_STREAMS {
            self.excess = Some(Excess::Streams);
            return None;
        }
        let owner = self.instance(instance);
        let path = match self.plan.nodes[owner.node].outputs[port].partition {
            Partition::Single => owner.path.clone(),
            Partition::Fixed(_) | Partition::Discovered => owner.path.child(part),
        };
        let added = self.streams.push(Stream {
            instance,
            port,
            part,
            path,
            epoch: Epoch(0),
            base: Epoch(0),
            state: StreamState::Absent,
            length: None,
            was_finished: false,
            signal: Signal::default(),
            subscriptions: Vec::new(),
            children: Vec::new(),
            announced: false,
            held: false,
        });
        let Some(id) = added else {
            self.excess = Some(Excess::Streams);
            return None;
        };
        self.instance_mut(instance).outputs[port].streams.push(id);
        Some(id)
    }

    /// Subscribes a consumer to a stream. When both appear in the same step, each side calls this; the second call does
    /// nothing.
    fn subscribe(&mut self, stream: StreamId, consumer: InstanceId, input: usize) {
        if self.instance(consumer).inputs[input].subscriptions.contains_key(&stream) {
            return;
        }
        if self.subscriptions >= MAX_SUBSCRIPTIONS {
            self.excess = Some(Excess::Subscriptions);
            return;
        }
        self.subscriptions += 1;
        if self.owns(consumer) {
            self.await_stream(stream);
        }
        let reader = self.instance(consumer);
        let lost = self.instance(self.stream(stream).instance).lost.is_some();
        let closed = if lost || reader.dropped || self.has_lost_choice(stream, consumer, input) {
            Some(Closed::Lost)
        } else if reader.retired {
            Some(if reader.phase.ended() { Closed::Done } else { Closed::Gone })
        } else {
            None
        };
        let state = self.stream_mut(stream);
        let index = state.subscriptions.len();
        let (signal, announced, producer) = (state.signal, state.announced, state.instance);
        state.subscriptions.push(Subscription { consumer, input, attached: false, announced: false, closed });
        let reader = &mut self.instance_mut(consumer).inputs[input];
        reader.subscriptions.insert(stream, index);
        if closed.is_some() {
            self.todo.unread.insert(producer);
            return;
        }
        reader.tally.add(signal);
        self.instance_mut(producer).open_readers += 1;
        if announced {
            self.announce_subscription(stream, index);
        }
        self.offer(consumer, input, stream);
        self.mark_input(consumer, input);
    }

    /// Whether the reader has finally chosen other streams.
    fn has_lost_choice(&self, stream: StreamId, consumer: InstanceId, input: usize) -> bool {
        let input = &self.instance(consumer).inputs[input];
        input.choice_settled && !input.winners.contains(&stream)
    }

    pub(crate) fn announce_subscription(&mut self, stream: StreamId, index: usize) {
        let subscription = &mut self.stream_mut(stream).subscriptions[index];
        if subscription.closed.is_some() || std::mem::replace(&mut subscription.announced, true) {
            return;
        }
        let (consumer, input) = (subscription.consumer, subscription.input);
        let restartable = self.reads_again(stream, consumer, input);
        self.actions.push(Action::Subscribe { stream, consumer, input: input as u32, restartable });
    }

    /// Whether the reader may read the stream's present epoch from offset 0 again.
    pub(crate) fn reads_again(&self, stream: StreamId, consumer: InstanceId, input: usize) -> bool {
        let (stream, node) = (self.stream(stream), self.instance(consumer).node);
        let port = &self.plan.nodes[self.instance(stream.instance).node].outputs[stream.port];
        port.consumers.iter().any(|edge| edge.node == node && edge.input == input && edge.restartable)
    }

    /// Makes a workflow input available: it counts as an instance that ended before the run, with all its streams
    /// finished.
    fn give_input(&mut self, instance: InstanceId) {
        self.instance_mut(instance).attempt = 1;
        self.set_phase(instance, Phase::Ended { unread: false });
        for stream in self.streams_of(instance) {
            self.open_stream(stream);
            if !self.is_awaited(stream) {
                self.stream_mut(stream).state = StreamState::Finished;
            }
            self.update_signal(stream);
        }
    }
}
