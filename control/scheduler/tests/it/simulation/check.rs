//! The invariants, checked at every action against the history of the node.

use super::node::{Node, Process, State, Stream, StreamState};
use dflow_scheduler::{Action, Epoch, InstanceId, InstanceKind, InstanceState, Invocation, Producer, StreamId};
use dflow_workflow::{Gate, Input, Program, Source};
use std::collections::BTreeMap;

pub trait Checks {
    fn check(&self, action: &Action);
}

impl Checks for Node<'_> {
    fn check(&self, action: &Action) {
        match action {
            Action::OpenStream { stream, epoch, producer, continues, .. } => {
                self.check_open(*stream, *epoch, *producer, *continues);
            }
            Action::Subscribe { stream, consumer, input, .. } => {
                let state = &self.streams[stream];
                // The place of another reader may have the stream since long. If not, its data comes too late.
                let concerns = self.owns(*consumer);
                let gone = state.released && state.state != StreamState::Aborted && !state.is_input();
                assert!(!concerns || !gone, "a new reader of released bytes\n{}", self.story());
                assert!(!state.readers.contains_key(&(*consumer, *input)), "subscribed twice\n{}", self.story());
            }
            Action::Unsubscribe { stream, consumer, input } => {
                let known = self.streams[stream].readers.contains_key(&(*consumer, *input));
                assert!(known, "unsubscribed twice\n{}", self.story());
            }
            Action::Hold { stream } => {
                let state = &self.streams[stream];
                let late = state.released && state.state != StreamState::Aborted && !state.is_input();
                let concerns = self.writes(*stream);
                assert!(!concerns || (!state.held && !late), "held twice or too late\n{}", self.story());
            }
            Action::Unhold { stream } => assert!(self.streams[stream].held, "not held\n{}", self.story()),
            Action::Prepare { instance, .. } => {
                assert!(!self.processes.contains_key(instance), "two attempts live\n{}", self.story());
            }
            Action::AddInput { instance, attempt, input, index, stream, epoch } => {
                let state = &self.streams[stream];
                let process = self.processes.get(instance);
                assert!(process.is_none_or(|process| process.attempt == *attempt), "{}", self.story());
                let there = process.and_then(|p| p.inputs.get(input)).map_or(0, Vec::len);
                assert_eq!(there, *index as usize, "places in order\n{}", self.story());
                let told = process.is_some_and(|process| process.complete.contains(input));
                assert!(!told, "a stream after the list was complete\n{}", self.story());
                assert!(state.epoch == *epoch, "an old epoch\n{}", self.story());
                let readable = matches!(state.state, StreamState::Open | StreamState::Finished);
                let gone = !state.is_input() && (state.released || (state.sent && self.writes(*stream)));
                assert!(readable && !gone, "unreadable\n{}", self.story());
                assert!(state.readers.contains_key(&(*instance, *input)), "not subscribed\n{}", self.story());
                let before = process.and_then(|_| self.given.get(instance)?.get(stream));
                let same = before.is_none_or(|base| *base == state.base);
                assert!(same, "an attempt continues one that has read other streams\n{}", self.story());
            }
            Action::InputsComplete { instance, input, .. } => {
                // An empty list may be everything that a sink or a function gets, but then it is already alive.
                let told = self.processes.get(instance).is_some_and(|process| process.complete.contains(input));
                assert!(!told, "complete twice\n{}", self.story());
            }
            Action::Start { instance, attempt } => self.check_start(*instance, *attempt),
            Action::Kill { instance, attempt, .. } => {
                let process = self.processes.get(instance);
                let lives = process.is_some_and(|p| p.attempt == *attempt && !matches!(p.state, State::Dying { .. }));
                assert!(lives, "killed what does not live\n{}", self.story());
            }
            Action::Abort { stream, epoch, .. } => {
                let state = &self.streams[stream];
                assert!(state.epoch == *epoch && state.state != StreamState::Aborted, "{}", self.story());
            }
            Action::Suspend { stream, epoch } => {
                let state = &self.streams[stream];
                let open = matches!(state.state, StreamState::Open | StreamState::Finished);
                assert!(state.epoch == *epoch && open, "{}", self.story());
            }
            Action::ReadValue { stream, .. } => {
                let state = &self.streams[stream];
                assert!(
                    state.state == StreamState::Finished && (!state.released || state.is_input()),
                    "{}",
                    self.story()
                );
                assert!(self.decides(state.producer), "{}", self.story());
            }
            Action::WakeAt(_) | Action::Tell { .. } => {}
            Action::Forsake { .. } | Action::Survey | Action::EndSurvey => {}
            // With other places, once all of them can be looked at.
            Action::Committed if self.here().is_some() => {}
            Action::Committed => self.check_commit(),
            Action::RunFailed { reason, .. } => {
                assert!(self.processes.is_empty(), "failed while something runs\n{}", self.story());
                assert!(!reason.contains("internal error"), "{reason}\n{}", self.story());
                let short = reason.contains("lower `need`") || (self.loses && reason.contains(" left: "));
                // Random values and random losses.
                let unlucky = reason.contains("got another value")
                    || reason.contains("not written again")
                    || reason.contains("may be the cause");
                assert!(self.excused || short || unlucky, "failed without a cause: {reason}\n{}", self.story());
            }
        }
    }
}

impl Node<'_> {
    /// Streams that an instance leaves unfinished have no later reader and no reader at work.
    pub fn check_unread(&self, id: InstanceId) {
        let own = |stream: &&Stream| matches!(stream.producer, Producer::Instance { instance, .. } if instance == id);
        let cut = |stream: &&Stream| matches!(stream.state, StreamState::Open | StreamState::Suspended);
        for ((reader, _), _) in self.streams.values().filter(own).filter(cut).flat_map(|stream| &stream.readers) {
            if !self.owns(*reader) {
                // It is told, or it has let the stream go.
                continue;
            }
            let state = self.machine.view(*reader).map(|view| view.state);
            let idle = matches!(state, Some(InstanceState::Skipped | InstanceState::Gone | InstanceState::Stopping));
            assert!(idle || self.has_ended(*reader), "{reader} reads what {id} has cut short\n{}", self.story());
        }
    }

    /// An instance without which the run continues has no retry left, and only k-of-n choices read it.
    pub fn check_lost(&self, id: InstanceId) {
        let view = self.machine.view(id).expect("it exists");
        let InstanceKind::Function(function) = view.kind else { panic!("a sink is lost\n{}", self.story()) };
        let retries = self.workflow.functions[function.0 as usize].retries.count;
        assert_eq!(view.retries_used, retries, "{} had retries left\n{}", view.name, self.story());
        let from = |source: &Source| matches!(source, Source::Output { function: of, .. } if *of == function);
        let inputs = self.workflow.functions.iter().flat_map(|function| &function.inputs);
        let plain = inputs.filter(|input| input.need.is_none()).flat_map(|input| &input.sources);
        let outputs = self.workflow.outputs.iter().flat_map(|output| &output.sources);
        assert!(!plain.chain(outputs).any(from), "{} is needed\n{}", view.name, self.story());
    }

    fn check_open(&self, stream: StreamId, epoch: Epoch, producer: Producer, continues: bool) {
        if let Some(old) = self.streams.get(&stream) {
            let given_up = if continues { StreamState::Suspended } else { StreamState::Aborted };
            assert!(old.state == given_up, "the epoch before is still there\n{}", self.story());
            assert!(old.epoch < epoch, "epochs go up\n{}", self.story());
            assert!(old.producer == producer, "{}", self.story());
        } else {
            assert!(!continues, "{}", self.story());
        }
        if let Producer::Instance { instance, .. } = producer {
            let process = self.processes.get(&instance);
            let dead = process.is_none_or(|process| process.attempt == epoch.0);
            assert!(dead, "an epoch opens while the attempt before lives\n{}", self.story());
        }
    }

    fn check_start(&self, instance: InstanceId, attempt: u32) {
        let view = self.machine.view(instance).expect("it exists");
        let process = self.processes.get(&instance);
        let InstanceKind::Function(id) = view.kind else {
            let process = process.expect("a sink has its stream");
            let (stream, _) = process.inputs[&0][0];
            assert!(self.said_enough(&self.streams[&stream], Gate::Stream), "a sink too early\n{}", self.story());
            return;
        };
        let process = process.expect("it was prepared");
        let state = process.state;
        assert!(process.attempt == attempt && state == State::Ready, "started when not ready\n{}", self.story());
        let (there, slots) = (view.place, self.slots[view.place as usize]);
        let beside = self
            .processes
            .iter()
            .filter(|(other, _)| self.machine.view(**other).is_some_and(|view| view.place == there));
        let used: u32 = beside.map(|(_, process)| self.slots_of(process, slots)).sum();
        let needs = self.workflow.functions[id.0 as usize].resources.slots.min(slots);
        assert!(used + needs <= slots, "no free slot\n{}", self.story());
        let function = &self.workflow.functions[id.0 as usize];
        let command = matches!(function.program, Program::Command(_));
        for (index, input) in function.inputs.iter().enumerate() {
            assert!(self.gate_open(instance, process, index as u32, input), "gate {index}\n{}", self.story());
            let whole_list = !command || !input.many || process.complete.contains(&(index as u32));
            assert!(whole_list, "a command without all its arguments\n{}", self.story());
            let one = input.many || process.inputs.get(&(index as u32)).is_some_and(|list| list.len() == 1);
            assert!(one, "started without its stream\n{}", self.story());
        }
    }

    fn gate_open(&self, instance: InstanceId, process: &Process, index: u32, input: &Input) -> bool {
        let given: Vec<&Stream> =
            process.inputs.get(&index).into_iter().flatten().map(|(stream, _)| &self.streams[stream]).collect();
        let complete = process.complete.contains(&index);
        let all = complete && given.iter().all(|stream| self.said_enough(stream, input.gate));
        if let Some(need) = input.need {
            return all && given.len() == need as usize;
        }
        match (self.case.invocation, input.gate) {
            (Invocation::Dataflow, Gate::Start) => true,
            (Invocation::Dataflow, Gate::Stream) => {
                let mut subscribed = self.streams.values().filter(|s| s.readers.contains_key(&(instance, index)));
                (complete && given.is_empty()) || subscribed.any(|stream| self.said_enough(stream, Gate::Stream))
            }
            (Invocation::Dataflow, Gate::Whole) | (Invocation::ControlFlow, _) => all,
        }
    }

    fn said_enough(&self, stream: &Stream, gate: Gate) -> bool {
        let ended = match stream.producer {
            Producer::WorkflowInput { .. } => true,
            Producer::Instance { instance, .. } => self.machine.view(instance).is_some_and(|view| {
                matches!(view.state, InstanceState::Ended | InstanceState::Unread) && view.attempt == stream.epoch.0
            }),
        };
        match (self.case.invocation, gate) {
            (Invocation::ControlFlow, _) => ended,
            (Invocation::Dataflow, Gate::Start) => true,
            (Invocation::Dataflow, Gate::Stream) => stream.bytes && stream.state != StreamState::Aborted,
            (Invocation::Dataflow, Gate::Whole) => stream.state == StreamState::Finished,
        }
    }

    /// The slots that a process holds on a node with this number of slots.
    fn slots_of(&self, process: &Process, slots: u32) -> u32 {
        let computes =
            matches!(process.state, State::Running { parked: false } | State::Dying { started: true, parked: false });
        match process.kind {
            InstanceKind::Function(id) if computes => self.workflow.functions[id.0 as usize].resources.slots.min(slots),
            _ => 0,
        }
    }

    fn check_commit(&self) {
        self.check_states();
        for view in self.machine.instances().filter(|view| view.state == InstanceState::Ended) {
            self.check_final_inputs(view.id, view.attempt, self.finished.get(&view.id));
        }
    }

    /// Everything has ended, and nothing is read any more.
    pub fn check_states(&self) {
        assert!(self.processes.is_empty(), "committed while something runs\n{}", self.story());
        for (id, stream) in &self.streams {
            assert!(stream.readers.is_empty() && !stream.held, "stream {id} is still read\n{}", self.story());
        }
        for view in self.machine.instances() {
            let done = matches!(
                view.state,
                InstanceState::Ended | InstanceState::Unread | InstanceState::Lost | InstanceState::Skipped
            );
            assert!(done, "{} is {:?}\n{}", view.name, view.state, self.story());
        }
    }

    /// The last attempt has read exactly the bytes that its producers finally wrote.
    pub fn check_final_inputs(&self, id: InstanceId, attempt: u32, finished: Option<&Process>) {
        let Some(process) = finished else { panic!("{id} has ended without running\n{}", self.story()) };
        assert_eq!(process.attempt, attempt, "{}", self.story());
        for (stream, base) in process.inputs.values().flatten().filter(|(_, base)| *base != Epoch(0)) {
            let state = &self.streams[stream];
            assert!(state.base == *base, "it has read from a void epoch of {stream}\n{}", self.story());
            assert!(state.state != StreamState::Aborted, "of {stream}, which is void\n{}", self.story());
        }
        let InstanceKind::Function(function) = process.kind else { return };
        let inputs = &self.workflow.functions[function.0 as usize].inputs;
        for (index, input) in inputs.iter().enumerate().filter(|(_, input)| input.need.is_none() && !input.each) {
            if process.complete.contains(&(index as u32)) {
                let given: Vec<StreamId> =
                    process.inputs.get(&(index as u32)).into_iter().flatten().map(|(stream, _)| *stream).collect();
                let whole: Vec<StreamId> = input.sources.iter().flat_map(|source| self.streams_of(*source)).collect();
                assert_eq!(given, whole, "input {index} of {id} is incomplete or out of order\n{}", self.story());
            }
        }
    }

    /// The final streams of a source in the order of their parts.
    fn streams_of(&self, source: Source) -> Vec<StreamId> {
        let mut found = BTreeMap::new();
        for (id, stream) in &self.streams {
            match (source, stream.producer) {
                (Source::WorkflowInput(of), Producer::WorkflowInput { input, part }) if of == input => {
                    found.insert((Vec::new(), part), *id);
                }
                (Source::Output { function, output }, Producer::Instance { instance, output: of, part })
                    if output == of && stream.state != StreamState::Aborted =>
                {
                    let Some(view) = self.machine.view(instance) else { continue };
                    if view.kind == InstanceKind::Function(function) && view.state != InstanceState::Gone {
                        let path = view.part.map_or(Vec::new(), |part| part.as_slice().to_vec());
                        found.insert((path, part), *id);
                    }
                }
                _ => {}
            }
        }
        found.into_values().collect()
    }
}
