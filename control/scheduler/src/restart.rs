//! Failure: retries, void epochs, and everything that has read from a void epoch.
//!
//! A failed attempt voids the epochs of its streams. Every instance to which such an epoch was attached restarts, even
//! if it had ended, without spending its own retries; and so on downstream. A deterministic function spares its
//! readers: its streams are suspended, and the next attempt continues them.

use crate::action::{Action, Producer};
use crate::fact::Fact;
use crate::machine::RunMachine;
use crate::plan::NodeKind;
use crate::record::AttemptEnd;
use crate::state::{Phase, StreamState};
use dflow_protocol::{Epoch, InstanceId, StreamId};
use std::sync::Arc;

impl RunMachine {
    /// The machine fails a living attempt (time limit, protocol violation): it is killed, but its process is not dead
    /// yet.
    pub(crate) fn fail_living(&mut self, id: InstanceId, reason: &str) {
        if self.set_failure_aside(id, reason) {
            return;
        }
        let ran = matches!(self.instance(id).phase, Phase::Running { .. });
        self.kill(id, reason);
        self.record(id, |record, _| record.end = Some(AttemptEnd::Failed { reason: reason.to_owned() }));
        match self.is_unneeded(id) {
            true => self.drop_readers(id),
            false => self.fail(id, reason, ran),
        }
    }

    /// An attempt has failed and is dead.
    pub(crate) fn fail_dead(&mut self, id: InstanceId, reason: &str) {
        self.record(id, |record, _| record.end = Some(AttemptEnd::Failed { reason: reason.to_owned() }));
        if self.is_unneeded(id) {
            self.drop_readers(id);
            self.end_unread(id);
            return;
        }
        let ran = matches!(self.instance(id).phase, Phase::Running { .. });
        self.set_phase(id, Phase::Idle);
        self.mark_dirty(id);
        self.fail(id, reason, ran);
    }

    /// A killed attempt is dead: the next attempt may begin.
    pub(crate) fn bury(&mut self, id: InstanceId) {
        if self.is_unneeded(id) {
            self.end_unread(id);
        } else {
            self.set_phase(id, Phase::Idle);
            self.mark_dirty(id);
        }
    }

    /// An attempt that continues an earlier one wrote different bytes: the function is not deterministic, although it
    /// was declared so. It and its readers restart without spending a retry.
    pub(crate) fn diverge(&mut self, id: InstanceId, dead: bool) {
        let reason = format!("`{}` is declared deterministic, but a new attempt wrote something else", self.name(id));
        match (self.is_unneeded(id), dead) {
            (true, true) => {
                self.drop_readers(id);
                self.end_unread(id);
            }
            (true, false) => self.fail_living(id, &reason),
            (false, true) => {
                self.instance_mut(id).diverged = true;
                self.record(id, |record, _| record.end = Some(AttemptEnd::Superseded { reason: reason.clone() }));
                self.set_phase(id, Phase::Idle);
                self.mark_dirty(id);
                self.abort_outputs(id, &reason);
            }
            (false, false) => {
                self.instance_mut(id).diverged = true;
                self.restart(id, &reason);
            }
        }
    }

    /// Undoes an instance because what its present attempt has read, or its very existence, is void.
    pub(crate) fn restart(&mut self, id: InstanceId, reason: &str) {
        let instance = self.instance(id);
        if instance.settled || instance.dropped || !self.owns(id) || self.set_restart_aside(id, reason) {
            return;
        }
        let instance = self.instance(id);
        let wanted = self.is_wanted(id);
        match instance.phase {
            Phase::Idle | Phase::Stopping { .. } => {}
            // Nothing has been attached to it yet.
            Phase::Pausing | Phase::Waiting if wanted && !instance.continuing => return,
            Phase::Pausing | Phase::Waiting => {
                self.set_phase(id, Phase::Idle);
                self.mark_dirty(id);
            }
            Phase::Preparing | Phase::Ready | Phase::Running { .. } => self.kill(id, reason),
            Phase::Ended { .. } => {
                self.record(id, |record, _| record.end = Some(AttemptEnd::Superseded { reason: reason.to_owned() }));
                self.set_phase(id, Phase::Idle);
                self.mark_dirty(id);
            }
        }
        self.abort_outputs(id, reason);
    }

    pub(crate) fn kill(&mut self, id: InstanceId, reason: &str) {
        let phase = self.instance(id).phase;
        let (started, parked) = match phase {
            Phase::Running { parked } => (true, parked),
            _ => (false, false),
        };
        self.set_phase(id, Phase::Stopping { started, parked });
        self.record(id, |record, _| record.end = Some(AttemptEnd::Superseded { reason: reason.to_owned() }));
        let attempt = self.instance(id).attempt;
        self.actions.push(Action::Kill { instance: id, attempt, reason: reason.to_owned() });
    }

    /// Opens the stream's next epoch, which its producer's present attempt writes.
    pub(crate) fn open_stream(&mut self, id: StreamId) {
        let plan = Arc::clone(&self.plan);
        let stream = self.stream(id);
        let (instance, port, part) = (stream.instance, stream.port, stream.part);
        let producer = self.instance(instance);
        let node = &plan.nodes[producer.node];
        let epoch = Epoch(producer.attempt);
        let (continues, bytes) = match stream.state {
            StreamState::Suspended { bytes } => (true, bytes),
            _ => (false, false),
        };
        let (keep, read) = (node.outputs[port].keep, !node.outputs[port].consumers.is_empty());
        let producer = match node.kind {
            NodeKind::Input(input) => Producer::WorkflowInput { input, part },
            NodeKind::Function(_) | NodeKind::Sink(_) => Producer::Instance { instance, output: port as u32, part },
        };
        let is_whole = continues && !self.owns(instance) && self.stream(id).was_finished;
        let stream = self.stream_mut(id);
        stream.epoch = epoch;
        if !continues {
            stream.base = epoch;
        }
        stream.state = if is_whole { StreamState::Finished } else { StreamState::Open { bytes } };
        stream.length = None;
        self.actions.push(Action::OpenStream { stream: id, epoch, producer, keep, read, continues });
        if !std::mem::replace(&mut self.stream_mut(id).announced, true) {
            for index in 0..self.stream(id).subscriptions.len() {
                self.announce_subscription(id, index);
            }
        }
        self.update_hold_of(id, true);
        self.update_signal(id);
    }

    pub(crate) fn abort_outputs(&mut self, id: InstanceId, reason: &str) {
        let attempt = self.instance(id).attempt;
        if self.owns(id) && std::mem::replace(&mut self.instance_mut(id).voided, attempt) < attempt {
            self.tell(id, || Fact::Voided { instance: id, attempt, reason: reason.to_owned() });
        }
        self.instance_mut(id).continuing = false;
        for stream in self.streams_of(id) {
            self.abort_stream(stream, reason);
        }
        let plan = Arc::clone(&self.plan);
        for (port, spec) in plan.nodes[self.instance(id).node].outputs.iter().enumerate() {
            if spec.discovered() {
                self.unlist_parts(id, port);
            }
        }
    }

    pub(crate) fn abort_stream(&mut self, id: StreamId, reason: &str) {
        let stream = self.stream_mut(id);
        if stream.state == StreamState::Absent {
            return;
        }
        stream.state = StreamState::Absent;
        stream.was_finished = false;
        let epoch = stream.epoch;
        self.actions.push(Action::Abort { stream: id, epoch, reason: reason.to_owned() });
        self.update_signal(id);
        self.undecide(id);
        for index in 0..self.stream(id).subscriptions.len() {
            let subscription = &mut self.stream_mut(id).subscriptions[index];
            if subscription.closed.is_some() {
                continue;
            }
            let attached = std::mem::take(&mut subscription.attached);
            let (consumer, input) = (subscription.consumer, subscription.input);
            self.withdraw(consumer, input, id);
            if self.owns(consumer) && (attached || self.instance(consumer).continuing) {
                let reason = format!("it has read from {}, which is void: {reason}", self.stream_name(id));
                self.todo.restarts.push_back((consumer, cut(reason)));
            }
        }
    }

    /// Handles a failed attempt whose process is dead or killed: retry, or fail the run.
    fn fail(&mut self, id: InstanceId, reason: &str, ran: bool) {
        let node = &self.plan.nodes[self.instance(id).node];
        let (retries, deterministic) = (node.retries, node.deterministic);
        let instance = self.instance(id);
        if instance.retries_used >= retries.count {
            if !self.lose(id, reason) {
                self.fail_run(Some(id), reason.to_owned());
            }
            return;
        }
        let spare = deterministic && !instance.diverged && (ran || instance.continuing);
        let now = self.now;
        let instance = self.instance_mut(id);
        instance.retries_used += 1;
        instance.not_before = now.saturating_add(retries.pause(instance.retries_used));
        if spare {
            self.suspend_outputs(id);
        } else {
            let reason = format!("attempt {} of `{}` failed: {reason}", self.instance(id).attempt, self.name(id));
            self.abort_outputs(id, &reason);
        }
    }

    pub(crate) fn suspend_outputs(&mut self, id: InstanceId) {
        if self.owns(id) {
            let attempt = self.instance(id).attempt;
            self.tell(id, || Fact::Suspended { instance: id, attempt });
        }
        self.instance_mut(id).continuing = true;
        self.streams_of(id).into_iter().for_each(|stream| self.suspend(stream));
    }

    /// The next epoch of the stream continues this one.
    pub(crate) fn suspend(&mut self, stream: StreamId) {
        let state = self.stream_mut(stream);
        let bytes = match state.state {
            StreamState::Open { bytes } => bytes,
            StreamState::Finished => true,
            StreamState::Suspended { .. } | StreamState::Absent => return,
        };
        state.state = StreamState::Suspended { bytes };
        let epoch = state.epoch;
        self.actions.push(Action::Suspend { stream, epoch });
        self.update_signal(stream);
        self.reconsider(stream);
        self.stop_reading(stream);
    }

    /// Whether any outcome of the instance counts as a success.
    fn is_unneeded(&self, id: InstanceId) -> bool {
        let instance = self.instance(id);
        instance.dropped || instance.released
    }
}

/// Limits a reason's length: reasons nest with every stage that they pass, and the outermost part describes what
/// happened here.
pub(crate) fn cut(mut reason: String) -> String {
    const LONGEST: usize = 512;
    if reason.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        reason.truncate(end);
        reason.push('…');
    }
    reason
}
