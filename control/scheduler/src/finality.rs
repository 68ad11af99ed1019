//! Which results are certain, and which subscriptions can be closed.
//!
//! An instance that started early is provisional: it may have read an epoch that turns out to be void. An instance is
//! *settled* when nothing but the failure of the whole run can undo its present attempt: it has succeeded or has no
//! retry left, and everything that it depends on is settled. This never changes again, so it propagates from instance
//! to instance exactly once. A settled instance that has ended is final and closes its subscriptions.

use crate::action::Action;
use crate::fact::Fact;
use crate::machine::RunMachine;
use crate::plan::{InputPort, NodeId, PortRef};
use crate::state::{Closed, Decision, InputState, Phase, Status, StreamState};
use dflow_protocol::{InstanceId, StreamId};
use std::sync::Arc;

impl RunMachine {
    /// Checks whether an instance, or one of its k-of-n choices, has become settled.
    pub(crate) fn settle(&mut self, id: InstanceId) {
        let is_own = self.owns(id);
        if is_own {
            self.settle_choices(id);
        }
        if self.is_promised(id) {
            // What would undo it may have been set aside.
            return;
        }
        let instance = self.instance(id);
        if !instance.settled {
            let retries = self.plan.nodes[instance.node].retries.count;
            let own = match instance.phase {
                Phase::Ended { .. } => true,
                Phase::Idle | Phase::Stopping { .. } => false,
                Phase::Pausing | Phase::Waiting | Phase::Preparing | Phase::Ready | Phase::Running { .. } => {
                    instance.retries_used >= retries
                        && !instance.continuing
                        && !self.is_proven_by_its_end(instance.node)
                }
            };
            if !is_own || !own || !self.is_wanted(id) || !self.depends_on_settled(id) {
                // It may become settled together with others.
                self.todo.unread.insert(id);
                return;
            }
            self.mark_settled(id);
        }
        if self.instance(id).phase.ended() {
            self.retire(id, Closed::Done);
        }
    }

    pub(crate) fn mark_settled(&mut self, id: InstanceId) {
        if std::mem::replace(&mut self.instance_mut(id).settled, true) {
            return;
        }
        if self.owns(id) {
            self.tell(id, || Fact::Settled { instance: id });
        }
        let plan = Arc::clone(&self.plan);
        let node = self.instance(id).node;
        if self.instance(id).present {
            self.nodes[node].settled += 1;
        }
        self.todo.nodes.insert(node);
        for stream in self.streams_of(id) {
            for subscription in &self.streams[stream].subscriptions {
                let reader = &plan.nodes[self.instances[subscription.consumer].node];
                let port = &reader.inputs[subscription.input];
                if subscription.closed.is_none() && (port.each || port.need.is_some()) {
                    self.todo.settle.insert(subscription.consumer);
                }
            }
        }
        for output in &plan.nodes[node].outputs {
            self.todo.switches.extend(&output.switches);
        }
    }

    /// Checks whether the set of a node's instances, or the whole node, has become settled.
    pub(crate) fn settle_node(&mut self, node: NodeId) {
        let plan = Arc::clone(&self.plan);
        let spec = &plan.nodes[node];
        if !self.nodes[node].members_settled && self.members_are_settled(node) {
            self.nodes[node].members_settled = true;
            for instance in self.nodes[node].instances.clone() {
                if !self.instance(instance).present {
                    self.retire(instance, Closed::Gone);
                }
            }
            self.update_holds_of(node);
            self.todo.nodes.extend(spec.outputs.iter().flat_map(|output| &output.consumers).map(|edge| edge.node));
        }
        if let Some((instance, reason)) = self.too_few_streams(node, false, |port| self.list_is_settled(port)) {
            self.fail_run(instance, reason);
            return;
        }
        let state = &self.nodes[node];
        let done = state.members_settled && state.present == state.settled;
        if state.sealed || !state.status_settled || !(done || state.status == Status::Skipped) {
            return;
        }
        self.nodes[node].sealed = true;
        for edge in spec.outputs.iter().flat_map(|output| &output.consumers) {
            self.todo.nodes.insert(edge.node);
            if !edge.each {
                self.todo.settle.extend(&self.nodes[edge.node].instances);
            }
        }
    }

    /// Retires an instance: it will never read again.
    pub(crate) fn retire(&mut self, id: InstanceId, why: Closed) {
        if std::mem::replace(&mut self.instance_mut(id).retired, true) {
            return;
        }
        for input in 0..self.instance(id).inputs.len() {
            let places: Vec<(StreamId, usize)> = self.places(id, input);
            for (stream, place) in places {
                self.close(stream, place, why);
            }
        }
    }

    /// Keeps the bytes of a stream for readers that are not known yet, or does not any more.
    pub(crate) fn update_hold(&mut self, stream: StreamId) {
        let is_void = self.stream(stream).state == StreamState::Absent;
        self.update_hold_of(stream, is_void);
    }

    /// `whole`: no byte of it has been released, so it can still be held.
    pub(crate) fn update_hold_of(&mut self, stream: StreamId, whole: bool) {
        if !self.stream(stream).announced || self.recovery.defers_hold(stream, whole) {
            return;
        }
        let state = self.stream(stream);
        let producer = state.instance;
        let port = &self.plan.nodes[self.instance(producer).node].outputs[state.port];
        let unknown = port.consumers.iter().any(|edge| {
            let reader = &self.nodes[edge.node];
            let skipped = reader.status == Status::Skipped && reader.status_settled;
            !edge.each && !reader.members_settled && !skipped
        });
        let undecided = port.switches.iter().any(|switch| {
            let switch = &self.switches[*switch];
            switch.unverified || matches!(switch.decision, Decision::Open | Decision::Reading)
        });
        let hold = unknown || undecided;
        if hold && !self.stream(stream).held && !whole {
            return;
        }
        if std::mem::replace(&mut self.stream_mut(stream).held, hold) != hold {
            self.actions.push(if hold { Action::Hold { stream } } else { Action::Unhold { stream } });
            self.todo.unread.insert(producer);
        }
    }

    /// After the readers of a node have become known: the streams that they read.
    pub(crate) fn update_holds_of(&mut self, node: NodeId) {
        let plan = Arc::clone(&self.plan);
        for source in plan.nodes[node].inputs.iter().filter(|input| !input.each).flat_map(|input| &input.sources) {
            self.update_holds_on(*source);
        }
    }

    pub(crate) fn update_holds_on(&mut self, port: PortRef) {
        for producer in self.nodes[port.node].instances.clone() {
            for stream in self.instance(producer).outputs[port.port].streams.clone() {
                self.update_hold(stream);
            }
        }
    }

    /// An instance, of this node or of any, of which an input needs more streams than there are, where these are all.
    pub(crate) fn too_few_streams(
        &self,
        node: NodeId,
        everywhere: bool,
        complete: impl Fn(&InputPort) -> bool,
    ) -> Option<(Option<InstanceId>, String)> {
        let spec = &self.plan.nodes[node];
        if !spec.chooses {
            return None;
        }
        for (index, port) in spec.inputs.iter().enumerate() {
            let Some(need) = port.need.filter(|_| complete(port)) else { continue };
            for &id in &self.nodes[node].instances {
                let input = &self.instance(id).inputs[index];
                let decides = everywhere || self.owns(id);
                if !decides || !self.is_wanted(id) {
                    continue;
                }
                if input.winners.len() < need && input.tally.listed < need {
                    let reason = self.why_too_few(id, port, need, input.tally.listed);
                    return Some((Some(id), reason));
                }
                if input.choice_settled && !input.winners.iter().all(|stream| self.stream(*stream).signal.listed) {
                    let reason = format!(
                        "`{}` had chosen a part for good, and it was not written again after its node was lost",
                        self.name(id)
                    );
                    return Some((Some(id), reason));
                }
            }
        }
        None
    }

    fn settle_choices(&mut self, id: InstanceId) {
        let plan = Arc::clone(&self.plan);
        let spec = &plan.nodes[self.instance(id).node];
        if !spec.chooses {
            return;
        }
        for (index, port) in spec.inputs.iter().enumerate() {
            let input = &self.instance(id).inputs[index];
            let Some(need) = port.need.filter(|_| !input.choice_settled) else { continue };
            let certain = input.winners.iter().all(|stream| self.instance(self.stream(*stream).instance).settled);
            if input.winners.len() < need || !certain {
                continue;
            }
            self.finish_choice(id, index);
            self.tell_choice(id, index);
        }
    }

    /// The choice of an input is final: its other streams are not needed.
    pub(crate) fn finish_choice(&mut self, id: InstanceId, index: usize) {
        let input = &mut self.instance_mut(id).inputs[index];
        input.choice_settled = true;
        let winners = input.winners.clone();
        for (stream, place) in self.places(id, index) {
            if !winners.contains(&stream) {
                self.close(stream, place, Closed::Lost);
            }
        }
    }

    pub(crate) fn close(&mut self, stream: StreamId, place: usize, why: Closed) {
        let state = self.stream_mut(stream);
        let (signal, producer) = (state.signal, state.instance);
        let subscription = &mut state.subscriptions[place];
        if subscription.closed.is_some() {
            return;
        }
        subscription.closed = Some(why);
        let (consumer, input, announced) = (subscription.consumer, subscription.input, subscription.announced);
        self.instance_mut(consumer).inputs[input].tally.remove(signal);
        self.note_input(consumer, input);
        self.instance_mut(producer).open_readers -= 1;
        if announced {
            self.actions.push(Action::Unsubscribe { stream, consumer, input: input as u32 });
        }
        if why != Closed::Done {
            self.todo.unread.insert(producer);
        }
    }

    /// Whether everything is settled that the instance depends on. It is asked after each of these has become settled, so
    /// the search goes on where it stopped: what is settled stays so.
    fn depends_on_settled(&mut self, id: InstanceId) -> bool {
        let plan = Arc::clone(&self.plan);
        let node = self.instance(id).node;
        if !self.nodes[node].status_settled {
            return false;
        }
        loop {
            let (index, first) = self.instance(id).settled_until;
            let Some(port) = plan.nodes[node].inputs.get(index) else { return true };
            let sealed = self.input_settled(id, index, port, first);
            self.instance_mut(id).settled_until =
                if sealed == port.sources.len() { (index + 1, 0) } else { (index, sealed) };
            if sealed < port.sources.len() {
                return false;
            }
        }
    }

    /// How many sources of an input, from the first on, are settled as far as this instance is concerned; `first` of them
    /// are known to be.
    fn input_settled(&self, id: InstanceId, index: usize, port: &InputPort, first: usize) -> usize {
        let instance = self.instance(id);
        let all_if = |settled: bool| if settled { port.sources.len() } else { 0 };
        match (port.each, port.need) {
            (true, _) => {
                all_if(instance.each.is_some_and(|stream| self.instance(self.stream(stream).instance).settled))
            }
            (false, Some(_)) => {
                let InputState { winners, choice_settled, .. } = &instance.inputs[index];
                let settled = |stream: &StreamId| self.instance(self.stream(*stream).instance).settled;
                all_if(*choice_settled && winners.iter().all(settled))
            }
            (false, None) => {
                let open = port.sources[first..].iter().position(|source| !self.nodes[source.node].sealed);
                open.map_or(port.sources.len(), |open| first + open)
            }
        }
    }

    fn members_are_settled(&self, node: NodeId) -> bool {
        self.plan.nodes[node].inputs.iter().filter(|input| input.each).all(|input| self.list_is_settled(input))
    }

    /// Whether the set of streams of an input, regardless of their contents, will never change again.
    fn list_is_settled(&self, input: &InputPort) -> bool {
        input.sources.iter().all(|source| {
            let from = &self.nodes[source.node];
            let discovered = self.plan.nodes[source.node].outputs[source.port].discovered();
            let skipped = from.status == Status::Skipped;
            let known = !discovered || (from.sealed && from.ports[source.port].complete);
            from.status_settled && (skipped || (from.members_settled && known))
        })
    }

    /// The subscriptions of one input: each stream with its index in [`Stream::subscriptions`](crate::state::Stream).
    pub(crate) fn places(&self, id: InstanceId, input: usize) -> Vec<(StreamId, usize)> {
        let input = &self.instance(id).inputs[input];
        input.subscriptions.iter().map(|(stream, place)| (*stream, *place)).collect()
    }
}
