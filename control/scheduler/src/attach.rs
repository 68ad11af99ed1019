//! Attaches streams to an attempt, and detects when the attached list is no longer correct.

use crate::action::Action;
use crate::machine::RunMachine;
use crate::plan::{InputPort, PortRef};
use crate::state::{Changed, Phase, StreamState};
use dflow_protocol::{InstanceId, StreamId};
use std::sync::Arc;

impl RunMachine {
    /// Re-evaluates an instance after a change that may affect it.
    pub(crate) fn look_at(&mut self, id: InstanceId) {
        let instance = self.instance(id);
        let node = instance.node;
        if !self.owns(id) {
            self.foresee_first_attempt(id);
            return;
        }
        if instance.dropped || !(self.plan.nodes[node].is_function() || self.plan.nodes[node].is_sink()) {
            return;
        }
        let wanted = self.is_wanted(id);
        match instance.phase {
            Phase::Stopping { .. } => return,
            Phase::Idle if !wanted => return,
            Phase::Idle => self.begin_attempt(id),
            _ if !wanted => {
                self.restart(id, "it is not part of the run any more");
                return;
            }
            Phase::Ended { .. } if instance.settled => return,
            Phase::Ended { .. } | Phase::Preparing | Phase::Ready | Phase::Running { .. } => {
                if std::mem::take(&mut self.instance_mut(id).lists_undone) && self.has_outdated_list(id) {
                    self.restart(id, "its list of inputs has changed");
                    return;
                }
            }
            Phase::Pausing | Phase::Waiting => {}
        }
        if self.instance(id).phase.lives() {
            match &mut self.instance_mut(id).changed {
                Changed::All => self.attach_all(id),
                Changed::These(inputs) => {
                    // In the order of the inputs, whatever the order of the changes.
                    inputs.sort_unstable();
                    for index in inputs.clone() {
                        self.attach(id, index);
                    }
                }
            }
        }
        self.update_gate(id);
    }

    pub(crate) fn update_gate(&mut self, id: InstanceId) {
        let open = self.look_at_gates(id);
        if matches!(self.instance(id).phase, Phase::Waiting | Phase::Preparing | Phase::Ready) {
            self.set_gate(id, open);
        }
    }

    /// Attaches the streams that a living attempt does not have yet.
    pub(crate) fn attach_all(&mut self, id: InstanceId) {
        for index in 0..self.instance(id).inputs.len() {
            self.attach(id, index);
        }
    }

    /// Attaches the streams of an input that a living attempt does not have yet.
    fn attach(&mut self, id: InstanceId, index: usize) {
        if self.instance(id).inputs[index].told_complete {
            return;
        }
        let plan = Arc::clone(&self.plan);
        let port = &plan.nodes[self.instance(id).node].inputs[index];
        let complete = match (port.each, port.need) {
            (true, _) => self.attach_each(id, index),
            (false, Some(need)) => self.attach_winners(id, index, need),
            (false, None) => self.attach_list(id, index, port),
        };
        if complete {
            self.instance_mut(id).inputs[index].told_complete = true;
            let attempt = self.instance(id).attempt;
            self.actions.push(Action::InputsComplete { instance: id, attempt, input: index as u32 });
        }
    }

    /// Detaches all streams, so that the next attempt starts with none.
    pub(crate) fn detach(&mut self, id: InstanceId) {
        for index in 0..self.instance(id).inputs.len() {
            let input = &mut self.instance_mut(id).inputs[index];
            input.told_complete = false;
            input.next = (0, 0);
            if std::mem::take(&mut input.attached) == 0 {
                continue;
            }
            for (stream, place) in self.places(id, index) {
                self.stream_mut(stream).subscriptions[place].attached = false;
            }
        }
    }

    fn attach_each(&mut self, id: InstanceId, index: usize) -> bool {
        match self.instance(id).each {
            Some(stream) if self.readable(stream) => {
                self.add_input(id, index, stream);
                true
            }
            _ => false,
        }
    }

    fn attach_winners(&mut self, id: InstanceId, index: usize, need: usize) -> bool {
        let mut winners = self.instance(id).inputs[index].winners.clone();
        if winners.len() < need || !winners.iter().all(|stream| self.readable(*stream)) {
            return false;
        }
        winners.sort_by_key(|stream| self.place_in_list(id, index, *stream));
        for stream in winners {
            self.add_input(id, index, stream);
        }
        true
    }

    fn attach_list(&mut self, id: InstanceId, index: usize, port: &InputPort) -> bool {
        loop {
            let (source, place) = self.instance(id).inputs[index].next;
            let Some(&source_port) = port.sources.get(source) else { return true };
            match self.source_list(source_port).get(place).copied() {
                Some(stream) if !self.readable(stream) => return false,
                Some(stream) => {
                    self.add_input(id, index, stream);
                    self.instance_mut(id).inputs[index].next = (source, place + 1);
                }
                None if !self.source_complete(source_port) => return false,
                None => self.instance_mut(id).inputs[index].next = (source + 1, 0),
            }
        }
    }

    fn add_input(&mut self, id: InstanceId, index: usize, stream: StreamId) {
        let attempt = self.instance(id).attempt;
        let input = &mut self.instance_mut(id).inputs[index];
        let place = input.attached;
        input.attached += 1;
        let subscription = input.subscriptions.get(&stream).copied();
        let state = self.stream_mut(stream);
        let epoch = state.epoch;
        // Every stream of a source has a subscription, unless the run has outgrown its limits and is about to fail.
        let Some(subscription) = subscription else { return };
        state.subscriptions[subscription].attached = true;
        let input = index as u32;
        self.actions.push(Action::AddInput { instance: id, attempt, input, index: place, stream, epoch });
    }

    pub(crate) fn readable(&self, stream: StreamId) -> bool {
        matches!(self.stream(stream).state, StreamState::Open { .. } | StreamState::Finished)
    }

    /// Whether the list that an attempt was given, as a prefix or as complete, has changed since then. (A stream whose
    /// epoch was aborted restarts its readers on its own.)
    fn has_outdated_list(&self, id: InstanceId) -> bool {
        let instance = self.instance(id);
        let spec = &self.plan.nodes[instance.node];
        spec.inputs.iter().zip(&instance.inputs).any(|(port, input)| {
            if port.each || port.need.is_some() {
                return false;
            }
            let (source, place) = input.next;
            let passed = &port.sources[..source];
            let present = port.sources.get(source).map_or(0, |source| self.source_list(*source).len());
            place > present || passed.iter().any(|source| !self.source_complete(*source))
        })
    }

    /// The order in which the winners of a k-of-n choice are attached: the order of the sources and their parts.
    fn place_in_list(&self, id: InstanceId, index: usize, stream: StreamId) -> (usize, crate::part::PartPath) {
        let state = self.stream(stream);
        let port = PortRef { node: self.instance(state.instance).node, port: state.port };
        let sources = &self.plan.nodes[self.instance(id).node].inputs[index].sources;
        let source = sources.iter().position(|source| *source == port).unwrap_or(sources.len());
        (source, state.path.clone())
    }
}
