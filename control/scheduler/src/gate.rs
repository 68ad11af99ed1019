//! When the inputs of an instance allow it to start: signals of streams, gates, and k-of-n choices.

use crate::fact::Fact;
use crate::machine::RunMachine;
use crate::options::Invocation;
use crate::plan::InputPort;
use crate::state::{Changed, InputState, Signal, Status, StreamState};
use dflow_protocol::{InstanceId, StreamId};
use dflow_workflow::Gate;
use std::sync::Arc;

impl RunMachine {
    /// Propagates the current signal of a stream to its readers.
    pub(crate) fn update_signal(&mut self, id: StreamId) {
        let new = self.signal(id);
        let old = std::mem::replace(&mut self.stream_mut(id).signal, new);
        if new == old {
            return;
        }
        for index in 0..self.stream(id).subscriptions.len() {
            let subscription = &self.stream(id).subscriptions[index];
            let (consumer, input) = (subscription.consumer, subscription.input);
            if subscription.closed.is_some() {
                continue;
            }
            let tally = &mut self.instance_mut(consumer).inputs[input].tally;
            tally.remove(old);
            tally.add(new);
            self.offer(consumer, input, id);
            self.mark_input(consumer, input);
        }
        self.read_values(id);
    }

    /// Whether the gate of every input is open and every stream that must exist at the start does. Looks only at the
    /// inputs that have changed.
    pub(crate) fn look_at_gates(&mut self, id: InstanceId) -> bool {
        let plan = Arc::clone(&self.plan);
        let ports = &plan.nodes[self.instance(id).node].inputs;
        match std::mem::replace(&mut self.instance_mut(id).changed, Changed::These(Vec::new())) {
            Changed::All => (0..ports.len()).for_each(|index| self.look_at_gate(id, index, &ports[index])),
            Changed::These(inputs) => inputs.into_iter().for_each(|index| self.look_at_gate(id, index, &ports[index])),
        }
        debug_assert!(
            self.has_seen_all_changes(id, ports),
            "an input of `{}` has changed and was not noted",
            self.name(id)
        );
        self.instance(id).shut == 0
    }

    /// Whether a look at all inputs finds what looks at those that have changed have found. For an instance with so many
    /// that this would take too long: yes.
    fn has_seen_all_changes(&self, id: InstanceId, ports: &[InputPort]) -> bool {
        const MANY: usize = 64;
        ports.len() > MANY
            || ports.iter().any(|port| port.sources.len() > MANY)
            || ports.iter().enumerate().all(|(index, port)| {
                let complete = port.sources.iter().all(|source| self.source_complete(*source));
                self.instance(id).inputs[index].open == self.input_open(id, index, port, complete)
            })
    }

    fn look_at_gate(&mut self, id: InstanceId, index: usize, port: &InputPort) {
        let known = self.instance(id).inputs[index].complete_sources;
        let more = port.sources[known..].iter().position(|source| !self.source_complete(*source));
        let state = &mut self.instance_mut(id).inputs[index];
        state.complete_sources = more.map_or(port.sources.len(), |more| known + more);
        state.noted = false;
        let open = self.input_open(id, index, port, more.is_none());
        let instance = self.instance_mut(id);
        match (std::mem::replace(&mut instance.inputs[index].open, open), open) {
            (false, true) => instance.shut -= 1,
            (true, false) => instance.shut += 1,
            (true, true) | (false, false) => {}
        }
    }

    /// Offers a stream to the k-of-n choice of an input, if it makes one; the first k to qualify win.
    pub(crate) fn offer(&mut self, consumer: InstanceId, input: usize, stream: StreamId) {
        let port = &self.plan.nodes[self.instance(consumer).node].inputs[input];
        if !self.owns(consumer) {
            return;
        }
        let Some(need) = port.need.filter(|_| self.satisfies(port, self.stream(stream).signal)) else { return };
        let winners = &mut self.instance_mut(consumer).inputs[input].winners;
        if winners.len() < need && !winners.contains(&stream) {
            winners.push(stream);
            let chosen = winners.len() == need;
            self.note_input(consumer, input);
            if chosen {
                self.todo.settle.insert(consumer);
                self.tell_choice(consumer, input);
            }
        }
    }

    /// Withdraws a suspended stream from the choices of consumers that are not attached to it: they need not wait until
    /// it is finished again.
    pub(crate) fn reconsider(&mut self, id: StreamId) {
        for index in 0..self.stream(id).subscriptions.len() {
            let stream = self.stream(id);
            let subscription = &stream.subscriptions[index];
            let (consumer, input) = (subscription.consumer, subscription.input);
            let port = &self.plan.nodes[self.instance(consumer).node].inputs[input];
            if subscription.closed.is_none() && !subscription.attached && !self.satisfies(port, stream.signal) {
                self.withdraw(consumer, input, id);
            }
        }
    }

    /// Withdraws a void winner from a k-of-n choice; the next candidates take its place.
    pub(crate) fn withdraw(&mut self, consumer: InstanceId, input: usize, stream: StreamId) {
        // A final choice stays, even if a winner has to run again because its node was lost.
        if !self.owns(consumer) || self.instance(consumer).inputs[input].choice_settled {
            return;
        }
        let winners = &mut self.instance_mut(consumer).inputs[input].winners;
        let before = winners.len();
        winners.retain(|winner| *winner != stream);
        if winners.len() == before {
            return;
        }
        self.note_input(consumer, input);
        self.tell_choice(consumer, input);
        for (candidate, place) in self.places(consumer, input) {
            if candidate != stream && self.stream(candidate).subscriptions[place].closed.is_none() {
                self.offer(consumer, input, candidate);
            }
        }
    }

    pub(crate) fn tell_choice(&mut self, consumer: InstanceId, input: usize) {
        let state = &self.instance(consumer).inputs[input];
        let (winners, is_final) = (state.winners.clone(), state.choice_settled);
        let input = input as u32;
        self.tell(consumer, || Fact::Chose { instance: consumer, input, winners, is_final });
    }

    /// `complete`: whether all sources of the input are.
    fn input_open(&self, id: InstanceId, index: usize, port: &InputPort, complete: bool) -> bool {
        let InputState { tally, winners, .. } = &self.instance(id).inputs[index];
        if let Some(need) = port.need {
            // A winner may have been suspended since it was chosen.
            let ready = |winner: &StreamId| self.readable(*winner) && self.satisfies(port, self.stream(*winner).signal);
            return winners.len() == need && winners.iter().all(ready);
        }
        let complete = complete || port.each;
        let there = match (port.many, port.fixed_at_start) {
            (false, _) => tally.open > 0,
            (true, true) => complete && tally.open == tally.listed,
            (true, false) => true,
        };
        let none = complete && tally.listed == 0;
        there
            && match (self.options.invocation, port.gate) {
                (Invocation::ControlFlow, _) => complete && tally.ended == tally.listed,
                (Invocation::Dataflow, Gate::Stream) => tally.bytes > 0 || (port.many && none),
                (Invocation::Dataflow, Gate::Whole) => complete && tally.finished == tally.listed,
                (Invocation::Dataflow, Gate::Start) => true,
            }
    }

    /// Whether a stream's signal qualifies it for a k-of-n choice.
    fn satisfies(&self, port: &InputPort, signal: Signal) -> bool {
        match (self.options.invocation, port.gate) {
            (Invocation::ControlFlow, _) => signal.ended,
            (Invocation::Dataflow, Gate::Stream) => signal.bytes,
            (Invocation::Dataflow, Gate::Whole) => signal.finished,
            (Invocation::Dataflow, Gate::Start) => signal.open,
        }
    }

    fn signal(&self, id: StreamId) -> Signal {
        let stream = self.stream(id);
        let producer = self.instance(stream.instance);
        let is_part = producer.present && stream.part < producer.outputs[stream.port].listed;
        let listed = is_part && self.nodes[producer.node].status == Status::Active;
        if !listed {
            return Signal::default();
        }
        let (open, bytes, finished) = match stream.state {
            StreamState::Absent => (false, false, false),
            StreamState::Open { bytes } => (true, bytes, false),
            StreamState::Finished => (true, true, true),
            StreamState::Suspended { bytes } => (false, bytes, false),
        };
        Signal { listed, open, bytes, finished, ended: finished && producer.phase.ended() }
    }
}
