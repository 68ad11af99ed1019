//! Producers without readers.
//!
//! A reader may end early, as `head` does, and a k-of-n fan-in needs only the first few streams. Their producers may
//! write endlessly; the run must still end. If a producer has no retry left, its reader is settled as soon as it has
//! ended, and closes its subscription. If it has retries left, there is a cycle: the reader's end is certain only if
//! the producer's is. This file resolves the cycle. If all readers of a set of running instances have ended or are in
//! the set, and everything that the set and those readers depend on is settled or in the set, then the whole set is
//! settled: a failure could affect no reader any more. Its running members are *released*: they continue, but any
//! outcome counts as a success.

use crate::fact::{Fact, Standing};
use crate::machine::RunMachine;
use crate::plan::{NodeId, SwitchPlan};
use crate::state::{Closed, Decision, Instance, Phase, Status, StreamState, Subscription};
use dflow_protocol::{InstanceId, StreamId};
use std::collections::BTreeSet;

impl RunMachine {
    /// Checks whether an instance that has ended, or has lost a reader, allows others to be released.
    pub(crate) fn look_for_readers(&mut self, id: InstanceId) {
        if self.has_lost(id) {
            self.drop_instance(id, "other candidates were first, and it has no other reader");
        } else if self.leads()
            && let Some(members) = self.unread_set(id)
        {
            self.release(members);
        }
    }

    /// Whether the store may tell this attempt that it is unread: no reader of its unfinished outputs may return.
    pub(crate) fn may_end_unread(&self, id: InstanceId) -> bool {
        let instance = self.instance(id);
        instance.released
            || instance.dropped
            || self.streams_of(id).into_iter().all(|stream| {
                let state = self.stream(stream);
                let unread = state.subscriptions.iter().all(|subscription| {
                    let (consumer, input) = (subscription.consumer, subscription.input);
                    // A reader on another node keeps what it may read again there. It has let the stream go before its
                    // node has told.
                    subscription.closed.is_some()
                        || !self.owns(consumer)
                        || !self.reads_again(stream, consumer, input)
                        // Its end was final before a node was lost, and is about to be so again.
                        || (!subscription.announced && self.instance(consumer).phase.ended())
                });
                state.state == StreamState::Finished || (unread && !state.held)
            })
    }

    /// Whether every reader of the instance has chosen other streams.
    fn has_lost(&self, id: InstanceId) -> bool {
        let instance = self.instance(id);
        let spec = &self.plan.nodes[instance.node];
        if !self.owns(id)
            || !spec.is_function()
            || instance.dropped
            || instance.phase.ended()
            || instance.open_readers > 0
        {
            return false;
        }
        let known = spec.outputs.iter().zip(&instance.outputs).all(|(output, port)| {
            let members = output.consumers.iter().all(|edge| edge.each || self.nodes[edge.node].members_settled);
            output.switches.is_empty() && port.complete && members
        });
        let mut reasons = instance
            .outputs
            .iter()
            .flat_map(|port| &port.streams)
            .flat_map(|stream| &self.stream(*stream).subscriptions)
            .map(|subscription| subscription.closed);
        known && reasons.clone().all(|why| why != Some(Closed::Done)) && reasons.any(|why| why == Some(Closed::Lost))
    }

    /// A released instance has failed. Readers that still work on its unfinished streams are released too, and are
    /// ended, because they must not take those streams for complete.
    pub(crate) fn drop_readers(&mut self, id: InstanceId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let mut unfinished = self.streams_of(id);
            unfinished.retain(|stream| self.stream(*stream).state != StreamState::Finished);
            let at_work = |s: &Subscription| s.closed.is_none() && !self.instance(s.consumer).phase.ended();
            let readers: BTreeSet<InstanceId> = unfinished
                .into_iter()
                .flat_map(|stream| self.stream(stream).subscriptions.iter().filter(|s| at_work(s)))
                .map(|subscription| subscription.consumer)
                .filter(|reader| !self.instance(*reader).dropped)
                .collect();
            let (readers, others): (BTreeSet<_>, BTreeSet<_>) =
                readers.into_iter().partition(|reader| self.owns(*reader));
            self.instance_mut(id).cut = true;
            if self.owns(id) && !others.is_empty() {
                self.tell(id, || Fact::Cut { instance: id });
            }
            for &reader in &readers {
                self.drop_instance(reader, "its producer has failed, and it has no reader");
            }
            pending.extend(readers);
        }
    }

    /// Ends an instance that is not needed, or never starts it.
    fn drop_instance(&mut self, id: InstanceId, reason: &str) {
        self.instance_mut(id).dropped = true;
        self.tell(id, || Fact::Dropped { instance: id });
        self.mark_settled(id);
        self.retire(id, Closed::Lost);
        let phase = self.instance(id).phase;
        if self.take_end_set_aside(id) {
            self.end_unread(id);
        } else if phase.lives() {
            self.kill(id, reason);
        } else if matches!(phase, Phase::Idle | Phase::Pausing | Phase::Waiting) {
            self.end_unread(id);
        }
    }

    /// What must be settled, or released with it, if the instance is released. `None` if something that it depends on is
    /// undecided.
    pub(crate) fn dependencies(&self, id: InstanceId) -> Option<Vec<InstanceId>> {
        let mut search = Search::new(self);
        let instance = self.instance(id);
        search.add_status(instance.node)?;
        search.add_dependencies(instance)?;
        Some(search.pending.into_iter().map(|(id, _)| id).collect())
    }

    /// The smallest set with this instance that satisfies the condition above, if there is one.
    fn unread_set(&self, start: InstanceId) -> Option<Vec<Standing>> {
        let mut search = Search::new(self);
        search.pending.push((start, false));
        while let Some((id, written)) = search.pending.pop() {
            search.visit(id, written)?;
        }
        let standing = |instance: InstanceId, has_started| Standing {
            instance,
            attempt: self.instance(instance).attempt,
            has_started,
        };
        let idle = search.idle.into_iter().map(|id| standing(id, false));
        let members = search.members.iter().map(|id| standing(*id, true));
        (!search.members.is_empty()).then(|| members.chain(idle).collect())
    }
}

/// Computes the closure of the set. Each step returns `None` if something that cannot be in the set would have to be.
struct Search<'a> {
    machine: &'a RunMachine,
    members: BTreeSet<InstanceId>,
    /// Instances that have not affected the members, because they had not started.
    idle: BTreeSet<InstanceId>,
    /// Nodes whose status depends only on members or on settled decisions.
    nodes: BTreeSet<NodeId>,
    /// Instances that must be in the set; if marked, only when they can have written anything yet.
    pending: Vec<(InstanceId, bool)>,
}

impl<'a> Search<'a> {
    fn new(machine: &'a RunMachine) -> Self {
        let (members, idle, nodes) = Default::default();
        Self { machine, members, idle, nodes, pending: Vec::new() }
    }

    fn visit(&mut self, id: InstanceId, written: bool) -> Option<()> {
        let instance = self.machine.instance(id);
        let runs = matches!(instance.phase, Phase::Running { .. }) || instance.continuing;
        let active = runs || instance.phase.ended();
        if instance.settled || self.members.contains(&id) {
            return Some(());
        }
        if written && !active {
            let is_unclear = instance.phase == Phase::Idle && instance.attempt > 0;
            if is_unclear && !self.machine.owns(id) {
                // Its void attempt may have written. Its node is about to tell of the next one.
                return None;
            }
            self.idle.insert(id);
            return Some(());
        }
        self.add_status(instance.node)?;
        if !instance.present && !self.machine.owns(id) && instance.phase != Phase::Idle {
            // Its node is about to tell that its attempt is void.
            return None;
        }
        if !instance.present || self.machine.nodes[instance.node].status == Status::Skipped {
            // It does not run; this is as certain as the status that was just added.
            return Some(());
        }
        let dying = matches!(instance.phase, Phase::Idle | Phase::Stopping { .. });
        if !self.machine.is_wanted(id) || !active || dying {
            return None;
        }
        self.members.insert(id);
        if !instance.phase.ended() {
            self.add_readers(instance)?;
        }
        self.add_dependencies(instance)
    }

    /// Adds the readers of an instance that has not ended. Fails if the instance is needed in any case.
    fn add_readers(&mut self, instance: &Instance) -> Option<()> {
        let machine = self.machine;
        let mut unfinished = false;
        if instance.open_readers == 0 {
            return None;
        }
        for (output, port) in machine.plan.nodes[instance.node].outputs.iter().zip(&instance.outputs) {
            let undecided = output.switches.iter().any(|switch| {
                let decision = &machine.switches[*switch].decision;
                !matches!(decision, Decision::Chosen(_) | Decision::Void)
            });
            if !port.complete || undecided {
                return None;
            }
            for edge in output.consumers.iter().filter(|edge| !edge.each) {
                self.add_members(edge.node)?;
            }
            // The search usually ends at a reader that still works. Later parts are more likely to, so they are visited
            // first and at once; readers that have ended are deferred.
            for state in port.streams.iter().rev().map(|stream| machine.stream(*stream)) {
                unfinished |= !state.was_finished && !state.subscriptions.is_empty();
                let open = state.subscriptions.iter().rev().filter(|subscription| subscription.closed.is_none());
                for reader in open.map(|subscription| subscription.consumer) {
                    match machine.instance(reader).phase.ended() {
                        true => self.pending.push((reader, false)),
                        false => self.visit(reader, false)?,
                    }
                }
            }
        }
        // A producer that has finished all its streams ends on its own, and its end counts.
        unfinished.then_some(())
    }

    fn add_dependencies(&mut self, instance: &Instance) -> Option<()> {
        let machine = self.machine;
        // A producer that had written nothing when an instance ended did not affect its result.
        let written = instance.phase.ended();
        let writer = |stream: &StreamId| (machine.stream(*stream).instance, written);
        for (port, input) in machine.plan.nodes[instance.node].inputs.iter().zip(&instance.inputs) {
            match port.need {
                _ if port.each => self.pending.extend(instance.each.iter().map(writer)),
                Some(need) if input.winners.len() < need => return None,
                // The coordinator has heard of the choice before it has heard of the stream.
                Some(_) if input.winners.iter().any(|stream| machine.streams.get(*stream).is_none()) => return None,
                Some(_) => self.pending.extend(input.winners.iter().map(writer)),
                None => {
                    for source in &port.sources {
                        self.add_node(source.node, written)?;
                    }
                }
            }
        }
        Some(())
    }

    /// Adds all instances of a node, and the instances that determined their number.
    fn add_node(&mut self, node: NodeId, written: bool) -> Option<()> {
        let state = &self.machine.nodes[node];
        if state.sealed {
            return Some(());
        }
        self.add_status(node)?;
        if state.status == Status::Active {
            let present = |id: &&InstanceId| self.machine.instance(**id).present;
            self.pending.extend(state.instances.iter().filter(present).map(|id| (*id, written)));
            self.add_members(node)?;
        }
        Some(())
    }

    /// Adds the instances that determined the number of a node's instances, which can still change while parts are
    /// being discovered.
    fn add_members(&mut self, node: NodeId) -> Option<()> {
        let machine = self.machine;
        let state = &machine.nodes[node];
        self.add_status(node)?;
        if state.members_settled || state.status == Status::Skipped {
            return Some(());
        }
        for source in machine.plan.nodes[node].inputs.iter().filter(|i| i.each).flat_map(|input| &input.sources) {
            if !machine.source_complete(*source) {
                return None;
            }
            match machine.plan.nodes[source.node].outputs[source.port].discovered() {
                true => self.add_node(source.node, false)?,
                false => self.add_members(source.node)?,
            }
        }
        Some(())
    }

    /// Adds the instances whose values the switches on a node depend on. Fails if a switch is undecided.
    fn add_status(&mut self, node: NodeId) -> Option<()> {
        let machine = self.machine;
        let state = &machine.nodes[node];
        if state.status_settled || self.nodes.contains(&node) {
            return Some(());
        }
        if state.status == Status::Undecided {
            return None;
        }
        self.nodes.insert(node);
        let spec = &machine.plan.nodes[node];
        if let Some(SwitchPlan::Port(port)) = spec.conditional.map(|switch| &machine.plan.switches[switch]) {
            self.add_status(port.node)?;
            self.pending.extend(machine.nodes[port.node].instances.iter().map(|id| (*id, false)));
        }
        for source in spec.inputs.iter().flat_map(|input| &input.sources) {
            self.add_status(source.node)?;
        }
        Some(())
    }
}
