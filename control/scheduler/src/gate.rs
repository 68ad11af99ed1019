//! When the inputs of an instance allow it to start: signals of streams, gates, and k-of-n choices.

use crate::machine::RunMachine;
use crate::options::Invocation;
use crate::plan::InputPort;
use crate::state::{Signal, Status, StreamState};
use dflow_protocol::{InstanceId, StreamId};
use dflow_workflow::Gate;

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
            self.mark_dirty(consumer);
        }
        self.read_values(id);
    }

    /// Whether the gate of every input is open and every stream that must exist at the start does.
    pub(crate) fn gates_open(&self, id: InstanceId) -> bool {
        let spec = &self.plan.nodes[self.instance(id).node];
        spec.inputs.iter().enumerate().all(|(index, port)| self.input_open(id, index, port))
    }

    /// Whether all streams of an input are known.
    pub(crate) fn input_complete(&self, id: InstanceId, index: usize, port: &InputPort) -> bool {
        match port.need {
            _ if port.each => true,
            Some(need) => self.instance(id).inputs[index].winners.len() == need,
            None => port.sources.iter().all(|source| self.source_complete(*source)),
        }
    }

    /// Offers a stream to the k-of-n choice of an input, if it makes one; the first k to qualify win.
    pub(crate) fn offer(&mut self, consumer: InstanceId, input: usize, stream: StreamId) {
        let port = &self.plan.nodes[self.instance(consumer).node].inputs[input];
        let Some(need) = port.need.filter(|_| self.satisfies(port, self.stream(stream).signal)) else { return };
        let winners = &mut self.instance_mut(consumer).inputs[input].winners;
        if winners.len() < need && !winners.contains(&stream) {
            winners.push(stream);
            if winners.len() == need {
                self.todo.settle.insert(consumer);
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
        let winners = &mut self.instance_mut(consumer).inputs[input].winners;
        let before = winners.len();
        winners.retain(|winner| *winner != stream);
        if winners.len() == before {
            return;
        }
        for (candidate, place) in self.places(consumer, input) {
            if candidate != stream && self.stream(candidate).subscriptions[place].closed.is_none() {
                self.offer(consumer, input, candidate);
            }
        }
    }

    fn input_open(&self, id: InstanceId, index: usize, port: &InputPort) -> bool {
        let tally = self.instance(id).inputs[index].tally;
        let complete = self.input_complete(id, index, port);
        if port.need.is_some() {
            // A winner may have been suspended since it was chosen.
            let ready = |winner: &StreamId| self.readable(*winner) && self.satisfies(port, self.stream(*winner).signal);
            return complete && self.instance(id).inputs[index].winners.iter().all(ready);
        }
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
        let listed =
            stream.part < producer.outputs[stream.port].listed && self.nodes[producer.node].status == Status::Active;
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
