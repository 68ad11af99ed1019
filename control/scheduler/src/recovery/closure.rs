//! Which instances run again after nodes were lost.
//!
//! An instance of a lost node is spared if it has succeeded and everything that somebody still reads of it has come whole
//! to the readers' nodes. The others run again elsewhere, from the start of their inputs. Where those bytes are gone,
//! because all readers had passed them, the producer runs again as well, and with it every other reader of what it wrote:
//! all readers of a stream read the same epoch. So the search goes on until nothing is added. It asks for more than
//! necessary where the coordinator cannot know, and never for less.

use crate::fact::{Inventory, StreamCopy};
use crate::machine::RunMachine;
use crate::options::Place;
use crate::plan::{Edge, NodeId, NodeKind, PortRef};
use crate::state::{Closed, Decision, Instance, Phase, Status, StreamState};
use dflow_protocol::{InstanceId, StreamId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(super) struct Closure<'a> {
    machine: &'a RunMachine,
    copies: BTreeMap<Place, HashMap<StreamId, StreamCopy>>,
    /// Instances whose living attempt has been given a stream.
    reading: BTreeSet<InstanceId>,
    /// Instances of other nodes that may run again, though their nodes have taken them for superfluous: because of what only a
    /// lost node and they had heard.
    revived: BTreeSet<InstanceId>,
    /// Instances of lost nodes whose latest attempt is not the one that the coordinator knows, or is void.
    unclear: BTreeSet<InstanceId>,
    again: BTreeSet<InstanceId>,
    /// Instances that are no part of the run, at least for now.
    left: BTreeSet<InstanceId>,
}

impl<'a> Closure<'a> {
    pub(super) fn new(machine: &'a RunMachine, inventories: &BTreeMap<Place, Inventory>) -> Self {
        let by_stream = |inventory: &Inventory| {
            let known = inventory.copies.iter().filter(|copy| machine.streams.get(copy.stream).is_some());
            known.map(|copy| (copy.stream, *copy)).collect()
        };
        let copies = inventories.iter().map(|(place, inventory)| (*place, by_stream(inventory))).collect();
        let is_unclear = |(id, attempt, is_valid): &(InstanceId, u32, bool)| {
            let known = machine.instances.get(*id).map_or(0, |instance| instance.attempt);
            *attempt > known || (*attempt == known && !is_valid)
        };
        let reported = || inventories.values();
        Self {
            machine,
            copies,
            reading: reported().flat_map(|inventory| inventory.reading.iter().copied()).collect(),
            revived: reported()
                .flat_map(|inventory| inventory.retired.iter().copied())
                .filter(|id| machine.instances.get(*id).is_some_and(|instance| !instance.retired))
                .collect(),
            unclear: reported()
                .flat_map(|inventory| inventory.lost.iter().filter(|lost| is_unclear(lost)).map(|(id, ..)| *id))
                .collect(),
            again: BTreeSet::new(),
            left: BTreeSet::new(),
        }
    }

    /// The instances that run again.
    ///
    /// # Errors
    /// Why the run cannot go on.
    pub(super) fn compute(mut self) -> Result<BTreeSet<InstanceId>, String> {
        let broken: Vec<StreamId> =
            self.copies.values().flat_map(HashMap::values).filter(|it| it.is_broken).map(|it| it.stream).collect();
        for stream in broken {
            let producer = self.machine.stream(stream).instance;
            let is_present = self.machine.stream(stream).state != StreamState::Absent;
            if is_present && !self.is_lost(producer) && !self.machine.instance(producer).dropped {
                self.repeat(producer)?;
            }
        }
        // Their nodes may not have heard of them before they were no part of the run any more, and so may never tell that their
        // attempts are void.
        for id in self.machine.instance_ids() {
            if !self.machine.instance(id).present {
                self.leave(id);
            }
        }
        loop {
            let before = self.again.len();
            for id in self.machine.instance_ids() {
                self.visit(id)?;
            }
            if self.again.len() == before {
                return Ok(self.again);
            }
        }
    }

    /// The instance is no part of the run, at least until a part is opened again, and so is what exists because of it. A node
    /// that has not heard of its own instance may never tell that the first attempt, which the others expect, is void.
    fn leave(&mut self, root: InstanceId) {
        let mut pending = vec![root];
        while let Some(id) = pending.pop() {
            if !self.left.insert(id) {
                continue;
            }
            let instance = self.machine.instance(id);
            let is_function = self.machine.plan.nodes[instance.node].is_function();
            if is_function && instance.attempt > 0 && instance.phase != Phase::Idle && !instance.dropped {
                self.again.insert(id);
            }
            let streams = instance.outputs.iter().flat_map(|port| &port.streams);
            pending.extend(
                streams.flat_map(|stream| self.machine.stream(*stream).children.iter().map(|(_, child)| *child)),
            );
        }
    }

    fn visit(&mut self, id: InstanceId) -> Result<(), String> {
        if matches!(self.machine.plan.nodes[self.machine.instance(id).node].kind, NodeKind::Input(_)) {
            return Ok(());
        }
        if self.is_lost(id) && !self.again.contains(&id) && self.must_repeat(id) {
            self.again.insert(id);
        }
        if self.will_read(id) {
            for stream in self.inputs_of(id) {
                if !self.is_available(stream, id) {
                    self.repeat(self.machine.stream(stream).instance)?;
                }
            }
        }
        if self.again.contains(&id) { self.repeat_readers(id) } else { Ok(()) }
    }

    fn repeat(&mut self, id: InstanceId) -> Result<(), String> {
        let node = &self.machine.plan.nodes[self.machine.instance(id).node];
        if let NodeKind::Input(_) = node.kind {
            return Err(format!("input `{}` has to be read again, but it cannot be: give it as a file", node.name));
        }
        self.again.insert(id);
        Ok(())
    }

    fn is_lost(&self, id: InstanceId) -> bool {
        self.machine.recovery.is_lost(self.machine.instance(id).place)
    }

    /// Where the instance runs from now on.
    fn place_of(&self, id: InstanceId) -> Place {
        let instance = self.machine.instance(id);
        match self.is_lost(id) {
            true => {
                let places = self.machine.next_places_of(instance.node);
                places[instance.path.last_part() % places.len()]
            }
            false => instance.place,
        }
    }

    /// Whether an instance of a lost node has to run again.
    fn must_repeat(&self, id: InstanceId) -> bool {
        let instance = self.machine.instance(id);
        if instance.dropped {
            return false;
        }
        if self.unclear.contains(&id) {
            return true;
        }
        if instance.attempt == 0 {
            return false;
        }
        if instance.released {
            return self.has_new_reader(instance);
        }
        match instance.phase {
            Phase::Ended { unread: true } => false,
            Phase::Ended { unread: false } => !instance.present || !self.is_spared(id),
            Phase::Idle => instance.present,
            _ => true,
        }
    }

    /// Whether everything that is still read of it is where it is read.
    fn is_spared(&self, id: InstanceId) -> bool {
        let instance = self.machine.instance(id);
        let outputs = &self.machine.plan.nodes[instance.node].outputs;
        outputs.iter().zip(&instance.outputs).all(|(output, port)| {
            let are_decided = output
                .switches
                .iter()
                .all(|switch| !matches!(self.machine.switches[*switch].decision, Decision::Open | Decision::Reading));
            let are_known = output.consumers.iter().all(|edge| {
                let reader = &self.machine.nodes[edge.node];
                edge.each || reader.members_settled || (reader.status == Status::Skipped && reader.status_settled)
            });
            are_decided && are_known && port.streams.iter().all(|stream| self.has_come(*stream))
        })
    }

    /// Whether every reader of the stream has read it, or its node has all of it.
    fn has_come(&self, id: StreamId) -> bool {
        let stream = self.machine.stream(id);
        stream.state == StreamState::Absent
            || stream.subscriptions.iter().filter(|it| it.closed != Some(Closed::Lost)).all(|subscription| {
                let reader = subscription.consumer;
                let copy = self.copy_at(self.place_of(reader), id);
                match self.will_read(reader) {
                    true => copy.is_some_and(|copy| copy.is_whole && copy.is_complete),
                    false => {
                        self.machine.instance(reader).phase.ended()
                            || !self.may_run(reader)
                            || copy.is_some_and(|copy| copy.is_complete)
                    }
                }
            })
    }

    /// Whether the instance begins to read from the start of its inputs.
    fn will_read(&self, id: InstanceId) -> bool {
        let instance = self.machine.instance(id);
        let is_over = instance.phase.ended() || instance.dropped || instance.released;
        self.again.contains(&id) || self.revived.contains(&id) || (self.is_lost(id) && !is_over && self.may_run(id))
    }

    /// Whether the instance is part of the run, or may still become so.
    fn may_run(&self, id: InstanceId) -> bool {
        let instance = self.machine.instance(id);
        let node = &self.machine.nodes[instance.node];
        let is_skipped = node.status == Status::Skipped && node.status_settled;
        !instance.dropped && !is_skipped && (instance.present || !node.members_settled)
    }

    /// The streams that an attempt of the instance would be given, and that no other attempt writes anew.
    fn inputs_of(&self, id: InstanceId) -> Vec<StreamId> {
        let machine = self.machine;
        let mut streams = Vec::new();
        for input in &machine.instance(id).inputs {
            let chosen = |stream: &StreamId| !input.choice_settled || input.winners.contains(stream);
            for stream in input.subscriptions.keys().copied().filter(chosen) {
                let state = machine.stream(stream);
                let is_void = state.state == StreamState::Absent || self.again.contains(&state.instance);
                if !is_void && machine.instance(state.instance).lost.is_none() {
                    streams.push(stream);
                }
            }
        }
        streams
    }

    /// Whether the instance can read the stream from its start.
    fn is_available(&self, id: StreamId, reader: InstanceId) -> bool {
        let machine = self.machine;
        let stream = machine.stream(id);
        let producer = machine.instance(stream.instance);
        if producer.released || producer.cut || matches!(producer.phase, Phase::Ended { unread: true }) {
            return false;
        }
        let home = self.place_of(reader);
        if !self.is_lost(reader) && !self.revived.contains(&reader) && self.is_kept_for(id, reader) {
            return true;
        }
        match self.copy_at(home, id) {
            Some(copy) => copy.is_whole && (copy.is_complete || !self.is_lost(stream.instance)),
            None => {
                let from = producer.place;
                home != from
                    && !self.is_lost(stream.instance)
                    && self.copy_at(from, id).is_some_and(|copy| copy.is_whole)
            }
        }
    }

    /// Whether the store keeps the stream for the next attempt of this reader in any case.
    fn is_kept_for(&self, id: StreamId, reader: InstanceId) -> bool {
        let machine = self.machine;
        let instance = machine.instance(reader);
        let has_started = match instance.phase {
            Phase::Running { .. } | Phase::Ended { .. } => true,
            Phase::Stopping { started, .. } => started,
            _ => false,
        };
        let mut subscriptions = machine.stream(id).subscriptions.iter();
        subscriptions.any(|subscription| {
            let (consumer, input) = (subscription.consumer, subscription.input);
            consumer == reader
                && subscription.closed.is_none()
                && subscription.announced
                && (machine.reads_again(id, reader, input) || !has_started)
        })
    }

    /// What the store of a node has of the stream's present epoch.
    fn copy_at(&self, place: Place, id: StreamId) -> Option<&StreamCopy> {
        let copy = self.copies.get(&place)?.get(&id)?;
        (copy.epoch == self.machine.stream(id).epoch && !copy.is_broken).then_some(copy)
    }

    /// Whether a reader of an instance that nobody needed any more reads again.
    fn has_new_reader(&self, instance: &Instance) -> bool {
        let streams = instance.outputs.iter().flat_map(|port| &port.streams);
        let mut readers = streams.flat_map(|stream| &self.machine.stream(*stream).subscriptions);
        readers.any(|subscription| self.again.contains(&subscription.consumer))
    }

    /// The epochs of an instance that runs again are void: so is what has been read from them.
    fn repeat_readers(&mut self, id: InstanceId) -> Result<(), String> {
        let machine = self.machine;
        let instance = machine.instance(id);
        for (output, port) in machine.plan.nodes[instance.node].outputs.iter().zip(&instance.outputs) {
            // Those that the coordinator takes for void as well: others may have read what it has not heard of.
            for stream in &port.streams {
                if output.discovered() || !instance.present {
                    machine.stream(*stream).children.iter().for_each(|(_, child)| self.leave(*child));
                }
                for subscription in &machine.stream(*stream).subscriptions {
                    let reader = subscription.consumer;
                    let input = &machine.instance(reader).inputs[subscription.input];
                    let is_chosen = machine.plan.nodes[machine.instance(reader).node].inputs[subscription.input]
                        .need
                        .is_none_or(|_| input.winners.contains(stream));
                    let has_read = machine.instance(reader).phase.ended() || self.reading.contains(&reader);
                    if has_read && is_chosen && !machine.instance(reader).dropped {
                        self.repeat(reader)?;
                    }
                }
            }
            if output.discovered() {
                self.repeat_lists(&output.consumers)?;
                for edge in output.consumers.iter().filter(|edge| edge.each) {
                    self.keep_for_new_parts(edge.node)?;
                }
            }
            let open = |switch: &&usize| !machine.switches[**switch].settled;
            for &switch in output.switches.iter().filter(open) {
                self.repeat_conditional(switch)?;
            }
        }
        Ok(())
    }

    /// Lists of parts change: whoever was given one, even an empty one, reads again.
    fn repeat_lists(&mut self, consumers: &[Edge]) -> Result<(), String> {
        let machine = self.machine;
        let mut pending: Vec<Edge> = consumers.to_vec();
        while let Some(edge) = pending.pop() {
            if edge.each {
                pending.extend(machine.plan.nodes[edge.node].outputs.iter().flat_map(|output| &output.consumers));
                continue;
            }
            let is_list = machine.plan.nodes[edge.node].inputs[edge.input].need.is_none();
            for &reader in machine.nodes[edge.node].instances.iter().filter(|_| is_list) {
                let instance = machine.instance(reader);
                let has_list = instance.phase.ended() || self.reading.contains(&reader);
                if has_list && !instance.dropped {
                    self.repeat(reader)?;
                }
            }
        }
        Ok(())
    }

    /// There may be more instances of this node than ever before, and they read what all of them read.
    fn keep_for_new_parts(&mut self, node: NodeId) -> Result<(), String> {
        let machine = self.machine;
        let mut pending = vec![node];
        while let Some(node) = pending.pop() {
            let spec = &machine.plan.nodes[node];
            let sources: Vec<PortRef> = spec
                .inputs
                .iter()
                .filter(|input| !input.each)
                .flat_map(|input| input.sources.iter().copied())
                .collect();
            for source in sources {
                for &producer in &machine.nodes[source.node].instances {
                    for &stream in &machine.instance(producer).outputs[source.port].streams {
                        let is_void = machine.stream(stream).state == StreamState::Absent;
                        let is_gone = machine.instance(producer).lost.is_some() || self.again.contains(&producer);
                        if !is_void && !is_gone && !self.is_available_at_all_places(stream, node) {
                            self.repeat(producer)?;
                        }
                    }
                }
            }
            let each = spec.outputs.iter().flat_map(|output| &output.consumers).filter(|edge| edge.each);
            pending.extend(each.map(|edge| edge.node));
        }
        Ok(())
    }

    fn is_available_at_all_places(&self, id: StreamId, node: NodeId) -> bool {
        let stream = self.machine.stream(id);
        let producer = self.machine.instance(stream.instance);
        if producer.released || producer.cut || matches!(producer.phase, Phase::Ended { unread: true }) {
            return false;
        }
        let from = self.copy_at(producer.place, id).filter(|_| !self.is_lost(stream.instance));
        self.machine.next_places_of(node).iter().all(|place| match self.copy_at(*place, id) {
            Some(copy) => copy.is_whole && (copy.is_complete || !self.is_lost(stream.instance)),
            None => *place != producer.place && from.is_some_and(|copy| copy.is_whole),
        })
    }

    /// The decision of a switch is void: functions that ran because of it may not run.
    fn repeat_conditional(&mut self, switch: usize) -> Result<(), String> {
        let machine = self.machine;
        let nodes = (0..machine.plan.nodes.len()).filter(|node| machine.plan.nodes[*node].conditional == Some(switch));
        for id in nodes.flat_map(|node| machine.nodes[node].instances.iter().copied()).collect::<Vec<_>>() {
            let instance = machine.instance(id);
            if !instance.dropped && (instance.phase.ended() || self.reading.contains(&id)) {
                self.repeat(id)?;
            }
        }
        Ok(())
    }
}
