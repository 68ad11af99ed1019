//! A node goes on after a recovery.

use crate::action::Action;
use crate::event::Event;
use crate::fact::Fact;
use crate::machine::RunMachine;
use crate::options::Place;
use crate::plan::{NodeId, NodeKind, SwitchPlan};
use crate::record::AttemptEnd;
use crate::release::SetAside;
use crate::state::{Phase, StreamState};
use dflow_protocol::{InstanceId, StreamId};
use std::collections::{BTreeMap, BTreeSet};

/// Why attempts are void.
const LOST: &str = "a node was lost on which it ran, or from which it read";

impl RunMachine {
    /// Takes over how the run stands, and goes on: these attempts are void, and the instances of lost nodes run at these
    /// places.
    pub(super) fn resume(
        &mut self,
        generation: u64,
        places: BTreeMap<NodeId, Vec<Place>>,
        again: &[(InstanceId, u32)],
        decided: &BTreeSet<usize>,
        standing: Vec<Fact>,
    ) {
        self.recovery.generation = generation;
        self.recovery.places = places;
        let audiences = self.audiences();
        if let Some(others) = &mut self.others {
            others.begin_anew(audiences);
        }
        // Whatever is told from here on comes after it.
        self.tell_all(Fact::Resumed { generation });
        self.recovery.resuming = true;
        let set_aside = self.proposals.take_set_aside();
        self.undo_finality(decided);
        self.restore_all(standing);
        for &(id, attempt) in again {
            if self.instances.get(id).is_some() {
                self.void_again(id, attempt);
            }
        }
        self.move_instances();
        for &(id, _) in again {
            if self.instances.get(id).is_some() {
                self.read_again(id);
            }
        }
        self.look_at_everything();
        let frozen = self.recovery.frozen.take();
        self.restore_order();
        set_aside.into_iter().for_each(|happened| self.take_up(happened));
        self.restore_order();
        for event in frozen.map(|frozen| frozen.events).unwrap_or_default() {
            match event {
                event if self.is_running() => {
                    self.dispatch(event);
                    self.restore_order();
                }
                // One before it has failed the run.
                Event::Ended { instance, attempt, outcome } => self.ended_while_failing(instance, attempt, outcome),
                _ => {}
            }
        }
        for (from, fact) in std::mem::take(&mut self.recovery.ahead) {
            if self.is_running() {
                self.on_fact(from, fact);
                self.restore_order();
            }
        }
        self.recovery.resuming = false;
        if self.is_running() {
            self.announce_readers();
            let whole = std::mem::take(&mut self.recovery.whole);
            for stream in self.streams.ids() {
                let is_void = self.stream(stream).state == StreamState::Absent;
                self.update_hold_of(stream, is_void || whole.contains(&stream));
            }
            self.actions.push(Action::EndSurvey);
            self.restore_order();
        }
    }

    /// Nothing is final any more but what was decided for good: what is will be found out again.
    fn undo_finality(&mut self, decided: &BTreeSet<usize>) {
        self.final_until = 0;
        for (node, spec) in self.nodes.iter_mut().zip(&self.plan.nodes) {
            (node.sealed, node.settled, node.members_settled) = (false, 0, !spec.foreach);
            node.status_settled = matches!(spec.kind, NodeKind::Input(_));
        }
        for (index, (switch, plan)) in self.switches.iter_mut().zip(&self.plan.switches).enumerate() {
            if let SwitchPlan::Port(_) = plan {
                switch.settled = decided.contains(&index);
            }
        }
        let leads = self.leads();
        for id in self.instance_ids() {
            let is_unclear = self.recovery.is_lost(self.instance(id).place) && !leads;
            let instance = self.instance_mut(id);
            (instance.settled, instance.settled_until) = (false, (0, 0));
            if is_unclear {
                // The coordinator tells what it has heard.
                (instance.dropped, instance.cut, instance.lost) = (false, false, None);
                for input in &mut instance.inputs {
                    input.winners.clear();
                    input.choice_settled = false;
                }
            }
            instance.retired = instance.dropped;
        }
        for stream in self.streams.ids() {
            for index in 0..self.stream(stream).subscriptions.len() {
                self.reopen(stream, index);
            }
        }
    }

    /// The reader may come back, unless it is not needed or has finally chosen other streams.
    fn reopen(&mut self, id: StreamId, index: usize) {
        let stream = self.stream(id);
        let (signal, producer) = (stream.signal, stream.instance);
        let subscription = &stream.subscriptions[index];
        let (consumer, input) = (subscription.consumer, subscription.input);
        let reader = self.instance(consumer);
        let state = &reader.inputs[input];
        let is_out = state.choice_settled && !state.winners.contains(&id);
        if subscription.closed.is_none() || reader.dropped || is_out || self.instance(producer).lost.is_some() {
            return;
        }
        let subscription = &mut self.stream_mut(id).subscriptions[index];
        (subscription.closed, subscription.announced) = (None, false);
        self.instance_mut(consumer).inputs[input].tally.add(signal);
        self.instance_mut(producer).open_readers += 1;
        self.note_input(consumer, input);
    }

    fn void_again(&mut self, id: InstanceId, attempt: u32) {
        let instance = self.instance_mut(id);
        instance.attempt = instance.attempt.max(attempt);
        (instance.released, instance.cut) = (false, false);
        for input in instance.inputs.iter_mut().filter(|input| !input.choice_settled) {
            input.winners.clear();
        }
        let is_own = self.owns(id);
        match self.instance(id).phase {
            Phase::Preparing | Phase::Ready | Phase::Running { .. } if is_own => self.kill(id, LOST),
            Phase::Stopping { .. } if is_own => {}
            _ if is_own => {
                self.supersede(id);
                self.set_phase(id, Phase::Idle);
            }
            _ => self.mirror_void(id, LOST),
        }
        if is_own {
            self.abort_outputs(id, LOST);
        }
    }

    fn supersede(&mut self, id: InstanceId) {
        if self.instance(id).phase.ended() {
            self.record(id, |record, _| record.end = Some(AttemptEnd::Superseded { reason: LOST.to_owned() }));
        }
    }

    /// The instances of lost nodes are elsewhere from now on.
    fn move_instances(&mut self) {
        let here = self.here();
        let lost = |id: &InstanceId| self.recovery.is_lost(self.instance(*id).place);
        for id in self.instance_ids().filter(lost).collect::<Vec<_>>() {
            let has_ended = self.instance(id).phase.ended();
            if !has_ended {
                self.set_phase(id, Phase::Idle);
            }
            let (node, part) = (self.instance(id).node, self.instance(id).path.last_part());
            let place = self.place_in(node, part);
            self.instance_mut(id).place = place;
            self.detach(id);
            let Self { instances, streams, .. } = self;
            for input in &mut instances[id].inputs {
                input.winners.retain(|winner| streams.get(*winner).is_some());
            }
            for input in 0..self.instance(id).inputs.len() {
                for (stream, index) in self.places(id, input) {
                    self.leave(stream, index);
                    if Some(place) == here {
                        self.await_stream(stream);
                    }
                }
            }
            if has_ended && Some(place) == here {
                // Whatever is read of it is at its readers.
                for stream in self.streams_of(id) {
                    if self.stream(stream).state != StreamState::Absent {
                        self.stream_mut(stream).state = StreamState::Finished;
                        self.update_signal(stream);
                    }
                }
            }
        }
    }

    /// The instance reads its inputs from their start.
    fn read_again(&mut self, id: InstanceId) {
        for input in 0..self.instance(id).inputs.len() {
            for (stream, index) in self.places(id, input) {
                if self.stream(stream).state != StreamState::Absent && !self.reads_again(stream, id, input) {
                    self.leave(stream, index);
                }
                if self.stream(stream).subscriptions[index].closed.is_none() {
                    self.offer(id, input, stream);
                }
            }
        }
    }

    /// The store forgets what a reader has read.
    fn leave(&mut self, stream: StreamId, index: usize) {
        let subscription = &mut self.stream_mut(stream).subscriptions[index];
        if std::mem::take(&mut subscription.announced) && subscription.closed.is_none() {
            let (consumer, input) = (subscription.consumer, subscription.input as u32);
            self.actions.push(Action::Unsubscribe { stream, consumer, input });
        }
    }

    /// The store learns of readers that come back.
    fn announce_readers(&mut self) {
        for stream in self.streams.ids() {
            for index in 0..self.stream(stream).subscriptions.len() {
                let consumer = self.stream(stream).subscriptions[index].consumer;
                if self.stream(stream).announced && !self.instance(consumer).phase.ended() {
                    self.announce_subscription(stream, index);
                }
            }
        }
    }

    /// An attempt begins. Its instance may have ended when what is final was worked out anew.
    pub(crate) fn announce_reader(&mut self, id: InstanceId) {
        if self.recovery.generation == 0 || self.recovery.resuming {
            return;
        }
        for input in 0..self.instance(id).inputs.len() {
            for (stream, index) in self.places(id, input) {
                if self.stream(stream).announced {
                    self.announce_subscription(stream, index);
                }
            }
        }
    }

    /// Whether the instance had ended for good before nodes were lost, and it is about to be found out that it still has. What
    /// it has read is gone.
    pub(crate) fn was_settled(&self, id: InstanceId) -> bool {
        let inputs = &self.instance(id).inputs;
        let mut subscriptions = inputs.iter().flat_map(|input| &input.subscriptions);
        self.instance(id).phase.ended()
            && subscriptions.any(|(stream, index)| {
                let stream = self.stream(*stream);
                let subscription = &stream.subscriptions[*index];
                stream.announced && subscription.closed.is_none() && !subscription.announced
            })
    }

    fn look_at_everything(&mut self) {
        self.todo.statuses = true;
        self.todo.endings = true;
        self.todo.nodes.extend(0..self.plan.nodes.len());
        self.todo.switches.extend(0..self.switches.len());
        for id in self.instance_ids() {
            self.mark_dirty(id);
            self.todo.settle.insert(id);
            self.todo.unread.insert(id);
        }
    }

    /// Takes up what was set aside while instances were promised to stay as they are.
    pub(crate) fn take_up(&mut self, happened: SetAside) {
        match happened {
            SetAside::Event(event) => self.dispatch(event),
            SetAside::Restart(id, reason) => self.restart(id, &reason),
            SetAside::Failure(id, reason) => self.fail_living(id, &reason),
        }
    }
}
