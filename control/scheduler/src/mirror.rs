//! The instances of other nodes, as far as this node has heard of them.
//!
//! They are kept in the same state as a node's own, so that every rule about them exists once; but nothing is decided for
//! them here. Each fact replays what their node has done.

use crate::fact::Fact;
use crate::limits::MAX_EARLY_FACTS;
use crate::machine::RunMachine;
use crate::options::Place;
use crate::record::{AttemptEnd, AttemptRecord};
use crate::scope::COORDINATOR;
use crate::state::{Closed, Phase, StreamState};
use crate::table::{Id, lane_of};
use dflow_protocol::{Epoch, InstanceId, StreamId};
use dflow_workflow::MAX_SWITCH_VALUE;
use std::sync::Arc;

impl RunMachine {
    /// Handles what another node has told.
    pub(crate) fn on_fact(&mut self, from: Place, fact: Fact) {
        if self.others.is_none() {
            return;
        }
        let Some(mut fact) = self.admit_fact(from, fact) else { return };
        if let Fact::Failed { instance, .. } = &mut fact {
            // Of an instance that only a lost node would have told of, too.
            *instance = instance.filter(|instance| self.instances.get(*instance).is_some());
        }
        let Some(others) = &mut self.others else { return };
        if fact.is_counted() {
            others.heard += 1;
        }
        match fact.instance().filter(|instance| self.instances.get(*instance).is_none()) {
            // The node that has discovered it is yet to be heard.
            Some(unknown) if others.early_facts < MAX_EARLY_FACTS => {
                others.early_facts += 1;
                others.early.entry(unknown).or_default().push((from, fact));
            }
            Some(unknown) => {
                let reason = format!("node {from} has told too much of instance {unknown}, which does not exist");
                self.fail_run(None, reason);
            }
            None => self.apply(from, fact),
        }
    }

    /// What was told of an instance before it was known.
    pub(crate) fn take_early_facts(&mut self, id: InstanceId) {
        let Some(facts) = self.others.as_mut().and_then(|others| others.early.remove(&id)) else { return };
        self.others.iter_mut().for_each(|others| others.early_facts -= facts.len());
        self.todo.facts.extend(facts);
    }

    /// Replays a fact. One about an instance that the sender does not decide for is ignored.
    pub(crate) fn apply(&mut self, from: Place, fact: Fact) {
        // Any node may find that the run cannot go on because of an instance.
        let is_failure = matches!(fact, Fact::Failed { .. });
        if fact.instance().is_some_and(|instance| !self.is_of(instance, from)) && !is_failure {
            return;
        }
        match fact {
            Fact::Began { instance, attempt } => {
                self.catch_up(instance, attempt);
                self.todo.endings |= self.leads();
            }
            Fact::Started { instance, attempt } => {
                self.catch_up(instance, attempt);
                self.set_phase(instance, Phase::Running { parked: false });
                let now = self.now;
                let record = AttemptRecord { started: Some(now), ..AttemptRecord::new(attempt, from, now) };
                self.put_record(instance, record);
                self.todo.unread.insert(instance);
            }
            Fact::PartOpened { instance, attempt, output, first } => {
                self.catch_up(instance, attempt);
                self.mirror_part(from, instance, output as usize, first);
            }
            Fact::PartsComplete { instance, attempt, output } => {
                self.catch_up(instance, attempt);
                self.close_port(instance, output as usize);
            }
            Fact::Value { stream, epoch, text } => {
                if self.streams.get(stream).is_some_and(|stream| self.is_of(stream.instance, from)) {
                    self.catch_up(self.stream(stream).instance, epoch.0);
                    self.mirror_value(stream, epoch, &text);
                }
            }
            Fact::Voided { instance, attempt, reason } => {
                self.catch_up(instance, attempt);
                self.mirror_void(instance, &reason);
                self.todo.settle.insert(instance);
            }
            Fact::Suspended { instance, attempt } => {
                self.catch_up(instance, attempt);
                self.set_phase(instance, Phase::Idle);
                self.suspend_outputs(instance);
            }
            Fact::Ended { instance, attempt, unread } => {
                self.catch_up(instance, attempt);
                self.end(instance, unread);
            }
            Fact::Settled { instance } => {
                self.mark_settled(instance);
                self.todo.settle.insert(instance);
            }
            Fact::Chose { instance, input, winners, is_final } => {
                self.mirror_choice(instance, input as usize, winners, is_final);
            }
            Fact::Dropped { instance } => {
                self.instance_mut(instance).dropped = true;
                self.retire(instance, Closed::Lost);
            }
            Fact::Lost { instance, reason } => self.mirror_loss(instance, &reason),
            Fact::Cut { instance } => {
                self.instance_mut(instance).cut = true;
                self.drop_readers(instance);
            }
            Fact::Recorded { instance, record, retries_used } => self.mirror_record(instance, record, retries_used),
            Fact::Failed { instance, reason } if self.leads() => self.fail_run(instance, reason),
            Fact::Stop { reason } if from == COORDINATOR => self.end_run(None, reason),
            Fact::Emptied => self.on_emptied(from),
            Fact::Watch if from == COORDINATOR => {
                self.others.iter_mut().for_each(|others| others.is_watched = true);
            }
            Fact::Quiet { told, heard } => {
                let others = self.others.as_mut().and_then(|others| others.quiet.get_mut(from as usize));
                others.into_iter().for_each(|said| *said = Some((told, heard)));
            }
            Fact::Proposed { round, members } if from == COORDINATOR => self.on_proposed(round, &members),
            Fact::Answered { round, holds } => self.on_answered(from, round, holds),
            Fact::Decided { round, released } if from == COORDINATOR => self.on_decided(round, released),
            // Only the coordinator says so, or only the coordinator is told so.
            Fact::Failed { .. } | Fact::Stop { .. } | Fact::Watch | Fact::Proposed { .. } | Fact::Decided { .. } => {}
            // Not facts about a part of the run: `recovery` has taken them.
            Fact::Freeze { .. }
            | Fact::Frozen { .. }
            | Fact::Restoring { .. }
            | Fact::PartKnown { .. }
            | Fact::Stands { .. }
            | Fact::PartsStand { .. }
            | Fact::Resume { .. }
            | Fact::Resumed { .. } => {}
        }
    }

    /// Nothing of an ended run is left on that node.
    pub(crate) fn on_emptied(&mut self, from: Place) {
        if let Some(others) = &mut self.others {
            others.emptied.insert(from);
        }
    }

    /// The node is gone, with everything that it had.
    pub(crate) fn on_node_lost(&mut self, place: Place, reason: &str) {
        self.on_emptied(place);
        for id in self.instance_ids() {
            let instance = self.instance(id);
            let at_work = matches!(instance.phase, Phase::Running { .. } | Phase::Stopping { .. });
            if instance.place == place && at_work && !self.owns(id) {
                let end = AttemptEnd::Failed { reason: reason.to_owned() };
                self.record(id, |record, now| {
                    record.ended.get_or_insert(now);
                    record.end = Some(end);
                });
                self.set_phase(id, Phase::Idle);
            }
        }
    }

    /// Whether nothing of the run, which has ended, is left on that node.
    #[must_use]
    pub fn is_emptied(&self, place: Place) -> bool {
        self.others.as_ref().is_some_and(|others| others.emptied.contains(&place))
    }

    /// The run ends, and with it the attempts on other nodes.
    pub(crate) fn stop_others(&mut self) {
        for id in self.instance_ids() {
            if let Phase::Running { parked } = self.instance(id).phase
                && !self.owns(id)
            {
                self.set_phase(id, Phase::Stopping { started: true, parked });
            }
        }
    }

    fn mirror_record(&mut self, id: InstanceId, record: AttemptRecord, retries_used: u32) {
        self.instance_mut(id).retries_used = retries_used;
        let succeeded = record.end == Some(AttemptEnd::Succeeded);
        self.put_record(id, record);
        if matches!(self.instance(id).phase, Phase::Stopping { .. }) {
            let phase = if succeeded { Phase::Ended { unread: false } } else { Phase::Idle };
            self.set_phase(id, phase);
        }
    }

    /// Keeps a record, instead of the one that there is of this attempt.
    fn put_record(&mut self, id: InstanceId, record: AttemptRecord) {
        let records = &mut self.instance_mut(id).records;
        match records.iter_mut().rfind(|known| known.attempt == record.attempt) {
            Some(known) => *known = record,
            None => AttemptRecord::push(records, record),
        }
    }

    /// An instance of another node begins its first attempt as soon as it is part of the run. Its node does the same, and
    /// tells nobody.
    pub(crate) fn foresee_first_attempt(&mut self, id: InstanceId) {
        let instance = self.instance(id);
        if instance.attempt == 0 && !instance.dropped && self.is_wanted(id) {
            self.catch_up(id, 1);
        }
    }

    /// Whether the instance exists and is one of that node's.
    fn is_of(&self, id: InstanceId, place: Place) -> bool {
        self.instances.get(id).is_some_and(|instance| instance.place == place) && !self.owns(id)
    }

    /// The instance has begun this attempt, unless that is known.
    pub(crate) fn catch_up(&mut self, id: InstanceId, attempt: u32) {
        let instance = self.instance_mut(id);
        if instance.attempt >= attempt {
            return;
        }
        self.announce_reader(id);
        let instance = self.instance_mut(id);
        instance.attempt = attempt;
        if !instance.continuing {
            instance.base = attempt;
        }
        for port in &mut instance.outputs {
            (port.opened, port.closed) = (0, false);
        }
        self.set_phase(id, Phase::Waiting);
        self.open_fixed_streams(id);
    }

    /// What the present attempt has written is void, and so is what exists because of it.
    pub(crate) fn mirror_void(&mut self, id: InstanceId, reason: &str) {
        self.mirror_restart(id, reason);
        self.abort_outputs(id, reason);
        if !self.instance(id).present {
            self.remove_children(id);
        }
    }

    /// The attempt is given up, even if it had ended.
    fn mirror_restart(&mut self, id: InstanceId, reason: &str) {
        if self.instance(id).phase.ended() {
            self.record(id, |record, _| record.end = Some(AttemptEnd::Superseded { reason: reason.to_owned() }));
        }
        self.set_phase(id, Phase::Idle);
    }

    /// What exists because of the streams of an instance that is not part of the run leaves it.
    fn remove_children(&mut self, id: InstanceId) {
        let streams = self.streams_of(id).into_iter();
        let children: Vec<InstanceId> =
            streams.flat_map(|stream| self.stream(stream).children.iter().map(|(_, child)| *child)).collect();
        children.into_iter().for_each(|child| self.set_present(child, false));
    }

    fn mirror_part(&mut self, from: Place, id: InstanceId, output: usize, first: Option<(InstanceId, StreamId)>) {
        let spec = self.plan.nodes[self.instance(id).node].outputs.get(output);
        if !spec.is_some_and(crate::plan::OutputPort::discovered) {
            return;
        }
        let state = &self.instance(id).outputs[output];
        let part = state.opened;
        if part == state.listed {
            let is_new = state.streams.len() <= part as usize;
            if is_new {
                let Some((instances, streams)) = first else { return };
                let lane = lane_of(from);
                if (instances.lane(), streams.lane()) != (lane, lane) {
                    return;
                }
                if !self.number_part(id, output, (instances, streams)) {
                    return;
                }
                self.instance_mut(id).outputs[output].first.push((instances, streams));
                self.list_part(id, output);
            }
        }
        self.open_known_part(id, output);
    }

    /// What exists because of the next part of an output is numbered from these ids on. False if another object has them.
    pub(crate) fn number_part(&mut self, id: InstanceId, output: usize, first: (InstanceId, StreamId)) -> bool {
        // A part for which no instance exists has not used its first id for one.
        let consumers = &self.plan.nodes[self.instance(id).node].outputs[output].consumers;
        let has_instances = consumers.iter().any(|edge| edge.each);
        (!has_instances || self.instances.continue_at(first.0)) && self.streams.continue_at(first.1)
    }

    /// Opens the next part of an output, which exists.
    pub(crate) fn open_known_part(&mut self, id: InstanceId, output: usize) {
        let state = &self.instance(id).outputs[output];
        let part = state.opened;
        if part == state.listed {
            self.list_part(id, output);
        }
        let state = &mut self.instance_mut(id).outputs[output];
        state.opened += 1;
        if let Some(stream) = state.streams.get(part as usize).copied() {
            self.open_stream(stream);
        }
    }

    pub(crate) fn close_port(&mut self, id: InstanceId, output: usize) {
        let Some(port) = self.instance_mut(id).outputs.get_mut(output) else { return };
        port.closed = true;
        port.complete = true;
        self.extend_lists(self.instance(id).node);
        self.todo.unread.insert(id);
    }

    fn mirror_value(&mut self, stream: StreamId, epoch: Epoch, text: &str) {
        if self.stream(stream).epoch == epoch && text.len() <= MAX_SWITCH_VALUE {
            let asked = self.switches_on(stream);
            self.decide(stream, asked, text);
        }
    }

    pub(crate) fn mirror_choice(&mut self, id: InstanceId, index: usize, winners: Vec<StreamId>, is_final: bool) {
        let Some(input) = self.instance_mut(id).inputs.get_mut(index) else { return };
        input.winners = winners;
        if is_final {
            self.finish_choice(id, index);
        }
        self.todo.unread.insert(id);
    }

    pub(crate) fn mirror_loss(&mut self, id: InstanceId, reason: &str) {
        // A choice may have become final before its node heard of the failure.
        let chosen_by = self.streams_of(id).into_iter().find_map(|stream| {
            self.stream(stream).subscriptions.iter().map(|subscription| subscription.consumer).find(|&reader| {
                let mut inputs = self.instance(reader).inputs.iter();
                self.owns(reader) && inputs.any(|input| input.choice_settled && input.winners.contains(&stream))
            })
        });
        if chosen_by.is_some() {
            self.fail_run(Some(id), reason.to_owned());
            return;
        }
        self.set_phase(id, Phase::Idle);
        self.mark_lost(id, reason);
    }

    /// A stream of another node gets its first reader here. It is only there when it has come.
    pub(crate) fn await_stream(&mut self, id: StreamId) {
        let stream = self.stream(id);
        if stream.state == StreamState::Finished && !stream.was_finished && !self.owns(stream.instance) {
            self.stream_mut(id).state = StreamState::Open { bytes: false };
            self.update_signal(id);
        }
    }

    /// Whether the end of a stream of another node is reported by this node's store, because something here reads it.
    pub(crate) fn is_awaited(&self, stream: StreamId) -> bool {
        let stream = self.stream(stream);
        !self.owns(stream.instance)
            && !stream.was_finished
            && stream.subscriptions.iter().any(|it| it.closed.is_none() && self.owns(it.consumer))
    }

    /// Opens the streams of an attempt that are known before it runs.
    pub(crate) fn open_fixed_streams(&mut self, id: InstanceId) {
        let plan = Arc::clone(&self.plan);
        for (port, spec) in plan.nodes[self.instance(id).node].outputs.iter().enumerate() {
            if !spec.discovered() {
                for stream in self.instance(id).outputs[port].streams.clone() {
                    if matches!(self.stream(stream).state, StreamState::Absent | StreamState::Suspended { .. }) {
                        self.open_stream(stream);
                    }
                }
            }
        }
    }
}
