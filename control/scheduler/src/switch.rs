//! Switches: which functions run at all.
//!
//! A decision is as provisional as the value behind it. While it is provisional, functions that were not chosen keep
//! their subscriptions, so that the decision can be made again without losing a byte.

use crate::action::Action;
use crate::fact::Fact;
use crate::machine::RunMachine;
use crate::options::Invocation;
use crate::plan::{NodeId, Plan, SwitchPlan};
use crate::state::{Closed, Decision, Status, StreamState};
use dflow_protocol::{Epoch, StreamId};
use dflow_workflow::MAX_SWITCH_VALUE;
use std::sync::Arc;

impl RunMachine {
    /// Requests the value of a stream that decides a switch, if it is available now.
    pub(crate) fn read_values(&mut self, id: StreamId) {
        let stream = self.stream(id);
        let (signal, epoch) = (stream.signal, stream.epoch);
        let ready = match self.options.invocation {
            Invocation::Dataflow => signal.finished,
            Invocation::ControlFlow => signal.ended,
        };
        if !ready || !self.owns(self.stream(id).instance) {
            return;
        }
        let mut ask = false;
        for switch in self.switches_on(id) {
            if self.switches[switch].decision == Decision::Open {
                self.switches[switch].decision = Decision::Reading;
                ask = true;
            }
            ask |= self.switches[switch].unverified;
        }
        if ask {
            self.actions.push(Action::ReadValue { stream: id, epoch });
        }
    }

    pub(crate) fn on_value(&mut self, id: StreamId, epoch: Epoch, text: Result<String, String>) {
        let Some(stream) = self.streams.get(id) else { return };
        if stream.epoch != epoch || stream.state != StreamState::Finished {
            return;
        }
        let asked: Vec<usize> = self
            .switches_on(id)
            .into_iter()
            .filter(|switch| self.switches[*switch].decision == Decision::Reading || self.switches[*switch].unverified)
            .collect();
        let Some(&first) = asked.first() else { return };
        let text = text.and_then(|text| match text.len() {
            length if length > MAX_SWITCH_VALUE => Err(format!("it is {length} bytes long")),
            _ => Ok(text),
        });
        let text = match text {
            Ok(text) => text,
            Err(problem) => {
                let reason = format!(
                    "{} decides switch `{}`, but is not a text of at most {MAX_SWITCH_VALUE} bytes: {problem}",
                    self.stream_name(id),
                    self.plan.workflow.switches[first].name
                );
                self.blame_writer(id, &reason);
                return;
            }
        };
        let instance = self.stream(id).instance;
        self.tell(instance, || Fact::Value { stream: id, epoch, text: text.clone() });
        self.decide(id, asked, &text);
    }

    /// The value of a stream decides these switches.
    pub(crate) fn decide(&mut self, id: StreamId, switches: Vec<usize>, text: &str) {
        for switch in switches {
            let decision = match self.plan.choose(switch, text) {
                Ok(functions) => Decision::Chosen(functions.iter().map(|f| self.plan.node_of(*f)).collect()),
                Err(reason) => Decision::NoCase(reason),
            };
            let state = &mut self.switches[switch];
            if std::mem::take(&mut state.unverified) {
                if state.decision != decision {
                    let name = &self.plan.workflow.switches[switch].name;
                    let reason = format!(
                        "switch `{name}` got another value, `{}`, when the function that decides it ran again because its \
                         node was lost; functions that a switch depends on must write the same value each time",
                        text.escape_debug()
                    );
                    self.fail_run(None, reason);
                    return;
                }
                continue;
            }
            state.decision = decision;
            state.value = Some(text.to_owned());
            self.todo.switches.insert(switch);
        }
        self.todo.statuses = true;
        self.update_hold(id);
    }

    /// The epoch of a value is void, and so is the decision that depends on it.
    pub(crate) fn undecide(&mut self, id: StreamId) {
        for switch in self.switches_on(id) {
            let state = &mut self.switches[switch];
            if state.settled && matches!(state.decision, Decision::Chosen(_)) {
                // Nothing but the loss of a node voids what has settled a decision.
                state.unverified = true;
                continue;
            }
            match state.decision {
                Decision::Reading | Decision::Chosen(_) | Decision::NoCase(_) => {
                    state.decision = Decision::Open;
                    state.value = None;
                    self.todo.statuses = true;
                }
                Decision::Open | Decision::Void => {}
            }
        }
        self.update_hold(id);
    }

    /// The epoch of a value is suspended; it will be finished and read again.
    pub(crate) fn stop_reading(&mut self, id: StreamId) {
        for switch in self.switches_on(id) {
            let state = &mut self.switches[switch];
            if state.decision == Decision::Reading {
                state.decision = Decision::Open;
            }
        }
    }

    /// A decision is settled when the producer of its value is. Only then does a value without a matching case fail the
    /// run: until then another attempt may write a different one.
    pub(crate) fn settle_switch(&mut self, switch: usize) {
        let SwitchPlan::Port(port) = self.plan.switches[switch] else { return };
        let certain = self.nodes[port.node].instances.first().is_some_and(|id| self.instance(*id).settled);
        if !certain || self.switches[switch].settled {
            return;
        }
        match &self.switches[switch].decision {
            Decision::NoCase(reason) => {
                let reason = reason.clone();
                if self.owns(self.nodes[port.node].instances[0]) {
                    self.fail_run(None, reason);
                }
            }
            Decision::Chosen(_) => {
                self.switches[switch].settled = true;
                self.todo.statuses = true;
            }
            Decision::Open | Decision::Reading | Decision::Void => {}
        }
    }

    /// Propagates the switches' decisions to all nodes.
    pub(crate) fn refresh_statuses(&mut self) {
        let plan = Arc::clone(&self.plan);
        let mut next: Vec<(Status, bool)> = vec![(Status::Undecided, false); plan.nodes.len()];
        loop {
            self.void_switches(&plan, &next);
            let mut changed = false;
            for node in 0..plan.nodes.len() {
                let status = self.status_of(&plan, node, &next);
                changed |= std::mem::replace(&mut next[node], status) != status;
            }
            if !changed {
                break;
            }
        }
        // A switch that no longer decides anything does not read its value.
        for switch in &plan.switches {
            if let SwitchPlan::Port(port) = switch {
                self.update_holds_on(*port);
            }
        }
        for (node, (status, settled)) in next.into_iter().enumerate() {
            let state = &mut self.nodes[node];
            let changed = std::mem::replace(&mut state.status, status) != status;
            let settled_now = settled && !std::mem::replace(&mut state.status_settled, settled);
            if changed {
                self.todo.endings = true;
                self.status_changed(&plan, node);
            }
            if settled_now || changed {
                self.status_settled(&plan, node, settled);
            }
        }
    }

    /// Voids a switch whose value comes from a skipped function.
    fn void_switches(&mut self, plan: &Plan, statuses: &[(Status, bool)]) {
        for (switch, on) in plan.switches.iter().enumerate() {
            let SwitchPlan::Port(port) = on else { continue };
            let state = &mut self.switches[switch];
            let skipped = statuses[port.node].0 == Status::Skipped;
            match state.decision {
                _ if skipped => {
                    state.decision = Decision::Void;
                    state.settled = statuses[port.node].1;
                }
                Decision::Void => state.decision = Decision::Open,
                Decision::Open | Decision::Reading | Decision::Chosen(_) | Decision::NoCase(_) => {}
            }
        }
    }

    fn status_of(&self, plan: &Plan, node: NodeId, statuses: &[(Status, bool)]) -> (Status, bool) {
        let spec = &plan.nodes[node];
        let (mut status, mut settled) = (Status::Active, true);
        if let Some(switch) = spec.conditional {
            let state = &self.switches[switch];
            settled = state.settled;
            status = match &state.decision {
                Decision::Chosen(nodes) if nodes.contains(&node) => Status::Active,
                Decision::Chosen(_) | Decision::Void => Status::Skipped,
                Decision::Open | Decision::Reading | Decision::NoCase(_) => Status::Undecided,
            };
        }
        for input in &spec.inputs {
            let sources = || input.sources.iter().map(|source| statuses[source.node].0);
            settled &= input.sources.iter().all(|source| statuses[source.node].1);
            if sources().all(|source| source == Status::Skipped) {
                status = Status::Skipped;
            } else if status == Status::Active && sources().all(|source| source != Status::Active) {
                status = Status::Undecided;
            }
        }
        (status, settled && status != Status::Undecided)
    }

    fn status_changed(&mut self, plan: &Plan, node: NodeId) {
        for instance in self.nodes[node].instances.clone() {
            self.mark_dirty(instance);
            for stream in self.streams_of(instance) {
                self.update_signal(stream);
            }
        }
        for edge in plan.nodes[node].outputs.iter().flat_map(|output| &output.consumers) {
            self.undo_source(*edge);
        }
    }

    fn status_settled(&mut self, plan: &Plan, node: NodeId, settled: bool) {
        self.todo.nodes.insert(node);
        self.todo.settle.extend(&self.nodes[node].instances);
        for edge in plan.nodes[node].outputs.iter().flat_map(|output| &output.consumers) {
            self.todo.nodes.insert(edge.node);
            self.todo.settle.extend(&self.nodes[edge.node].instances);
        }
        if settled && self.nodes[node].status == Status::Skipped {
            for instance in self.nodes[node].instances.clone() {
                self.retire(instance, Closed::Gone);
                for stream in self.streams_of(instance) {
                    for (_, child) in self.stream(stream).children.clone() {
                        self.retire(child, Closed::Gone);
                    }
                }
            }
            self.update_holds_of(node);
        }
    }

    /// Handles an invalid value: the attempt that wrote it has failed, even if it had ended.
    fn blame_writer(&mut self, id: StreamId, reason: &str) {
        let producer = self.stream(id).instance;
        let instance = self.instance(producer);
        let given = !self.plan.nodes[instance.node].is_function();
        if instance.phase.lives() {
            self.fail_living(producer, reason);
        } else if given || instance.settled || self.was_settled(producer) {
            self.fail_run((!given).then_some(producer), reason.to_owned());
        } else {
            self.fail_dead(producer, reason);
        }
    }

    pub(crate) fn switches_on(&self, id: StreamId) -> Vec<usize> {
        let stream = self.stream(id);
        self.plan.nodes[self.instance(stream.instance).node].outputs[stream.port].switches.clone()
    }
}
