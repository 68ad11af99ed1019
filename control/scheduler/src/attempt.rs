//! The life of an attempt: it begins, its program reports, it succeeds or fails.

use crate::event::{Event, Outcome};
use crate::fact::Fact;
use crate::limits::MAX_PARTS;
use crate::machine::RunMachine;
use crate::record::AttemptEnd;
use crate::state::{Instance, Phase, StreamState};
use crate::table::lane_of;
use dflow_protocol::{Epoch, InstanceId, StreamId};

impl RunMachine {
    /// Begins the next attempt and opens its streams. The previous attempt is dead.
    pub(crate) fn begin_attempt(&mut self, id: InstanceId) {
        self.detach(id);
        self.announce_reader(id);
        let instance = self.instance_mut(id);
        instance.attempt += 1;
        if !instance.continuing {
            instance.base = instance.attempt;
        }
        let pause = instance.not_before;
        for port in &mut instance.outputs {
            (port.opened, port.closed) = (0, false);
        }
        if pause > self.now {
            self.set_phase(id, Phase::Pausing);
            self.set_timer(id, pause);
        } else {
            self.set_phase(id, Phase::Waiting);
        }
        let attempt = self.instance(id).attempt;
        if attempt > 1 {
            self.tell(id, || Fact::Began { instance: id, attempt });
        }
        self.open_fixed_streams(id);
        self.todo.settle.insert(id);
    }

    pub(crate) fn on_ready(&mut self, id: InstanceId, attempt: u32) {
        match self.living(id, attempt) {
            Some(Phase::Preparing) => {
                self.set_phase(id, Phase::Ready);
                self.record(id, |record, now| record.ready = Some(now));
                self.mark_dirty(id);
            }
            Some(_) => self.fail_living(id, "it reported that it is ready when it was not asked to"),
            None => {}
        }
    }

    pub(crate) fn on_first_bytes(&mut self, stream: StreamId, epoch: Epoch) {
        let Some(producer) = self.writer(stream, epoch) else { return };
        match self.stream(stream).state {
            StreamState::Open { bytes: false } => {
                self.stream_mut(stream).state = StreamState::Open { bytes: true };
                self.record(producer, |record, now| {
                    record.first_output.get_or_insert(now);
                });
                self.update_signal(stream);
            }
            StreamState::Suspended { bytes: false } if !self.owns(producer) => {
                self.stream_mut(stream).state = StreamState::Suspended { bytes: true };
                self.update_signal(stream);
            }
            StreamState::Open { bytes: true }
            | StreamState::Finished
            | StreamState::Suspended { .. }
            | StreamState::Absent => {}
        }
    }

    pub(crate) fn on_finished(&mut self, stream: StreamId, epoch: Epoch, length: u64) {
        if let Some(state) = self.streams.get_mut(stream)
            && state.epoch == epoch
            && state.state == StreamState::Finished
        {
            // The end of its attempt arrived first, or this is a repetition.
            state.length.get_or_insert(length);
            return;
        }
        let Some(producer) = self.writer(stream, epoch) else { return };
        if !self.owns(producer) && matches!(self.stream(stream).state, StreamState::Suspended { .. }) {
            // The next attempt writes the same bytes, and all of them are here.
            self.stream_mut(stream).was_finished = true;
        } else if matches!(self.stream(stream).state, StreamState::Open { .. }) {
            let state = self.stream_mut(stream);
            state.state = StreamState::Finished;
            state.length = Some(length);
            state.was_finished = true;
            self.update_signal(stream);
        }
    }

    pub(crate) fn on_part_opened(&mut self, id: InstanceId, attempt: u32, output: u32) {
        let Some(port) = self.discovering(id, attempt, output) else { return };
        let state = &self.instance(id).outputs[port];
        let (part, known) = (state.opened, state.streams.len());
        let mut first = None;
        if part >= MAX_PARTS {
            self.fail_living(
                id,
                &format!("it opened more than {MAX_PARTS} parts on one output; open fewer, larger ones"),
            );
            return;
        }
        if part == state.listed {
            if state.complete {
                self.diverge(id, false);
                return;
            }
            if let Some(here) = self.here().filter(|_| part as usize == known) {
                self.instances.continue_lane(lane_of(here));
                self.streams.continue_lane(lane_of(here));
                first = Some((self.instances.next_id(), self.streams.next_id()));
            }
            self.instance_mut(id).outputs[port].first.extend(first);
            self.list_part(id, port);
        }
        self.tell(id, || Fact::PartOpened { instance: id, attempt, output, first });
        let state = &mut self.instance_mut(id).outputs[port];
        state.opened += 1;
        // There is no stream if the run has outgrown its limits and is about to fail.
        if let Some(stream) = state.streams.get(part as usize).copied() {
            self.open_stream(stream);
        }
    }

    pub(crate) fn on_parts_complete(&mut self, id: InstanceId, attempt: u32, output: u32) {
        let Some(port) = self.discovering(id, attempt, output) else { return };
        let state = &self.instance(id).outputs[port];
        if state.opened < state.listed {
            self.diverge(id, false);
            return;
        }
        self.tell(id, || Fact::PartsComplete { instance: id, attempt, output });
        self.close_port(id, port);
    }

    pub(crate) fn on_diverged(&mut self, stream: StreamId, epoch: Epoch) {
        if let Some(producer) = self.writer(stream, epoch)
            && self.instance(producer).continuing
            && !self.set_aside(producer, || Event::Diverged { stream, epoch })
        {
            self.diverge(producer, false);
        }
    }

    pub(crate) fn on_parked(&mut self, id: InstanceId, attempt: u32, parked: bool) {
        let on_other_node = |instance: &Instance| instance.attempt == attempt && !self.owns(id);
        let phase = match self.instances.get(id) {
            Some(instance) if on_other_node(instance) => Some(instance.phase),
            _ => self.living(id, attempt),
        };
        if let Some(Phase::Running { .. }) = phase {
            self.set_phase(id, Phase::Running { parked });
        }
    }

    pub(crate) fn on_started(&mut self, id: InstanceId, attempt: u32) {
        if let Some(Phase::Running { .. }) = self.living(id, attempt) {
            self.record(id, |record, now| record.started = Some(now));
        }
    }

    pub(crate) fn on_ended(&mut self, id: InstanceId, attempt: u32, outcome: Outcome) {
        let Some(instance) = self.instances.get(id).filter(|instance| instance.attempt == attempt) else {
            return;
        };
        let phase = instance.phase;
        if !self.owns(id) || (!phase.lives() && !matches!(phase, Phase::Stopping { .. })) {
            return;
        }
        // Success undoes nothing, unless it may have opened fewer parts than the attempt that it continues.
        let is_harmless = outcome == Outcome::Succeeded && !self.instance(id).continuing;
        if !is_harmless && self.set_aside(id, || Event::Ended { instance: id, attempt, outcome: outcome.clone() }) {
            return;
        }
        self.record(id, |record, now| record.ended = Some(now));
        match (phase, outcome) {
            (Phase::Stopping { .. }, _) => self.bury(id),
            (_, Outcome::Failed { reason }) => self.fail_dead(id, &reason),
            (Phase::Running { .. }, Outcome::Succeeded) => self.succeed(id),
            (_, Outcome::Succeeded) => self.fail_dead(id, "it ended before it was started"),
            (_, Outcome::Unread) if self.may_end_unread(id) => self.end_unread(id),
            (_, Outcome::Unread) => {
                self.fail_dead(id, "it ended because it had no reader, but a reader may restart");
            }
        }
        if !self.instance(id).phase.ended() {
            self.tell_record(id);
        }
    }

    /// Tells the coordinator the times of the attempt that has just ended.
    fn tell_record(&mut self, id: InstanceId) {
        if self.leads() {
            return;
        }
        let instance = self.instance(id);
        let retries_used = instance.retries_used;
        if let Some(record) = instance.records.last().cloned() {
            self.tell_coordinator(Fact::Recorded { instance: id, record, retries_used });
        }
    }

    pub(crate) fn ended_while_failing(&mut self, id: InstanceId, attempt: u32, outcome: Outcome) {
        let Some(instance) = self.instances.get(id) else { return };
        if instance.attempt != attempt || !matches!(instance.phase, Phase::Stopping { .. }) {
            return;
        }
        self.record(id, |record, now| record.ended = Some(now));
        if outcome == Outcome::Succeeded {
            // It ended before the kill reached it.
            self.record(id, |record, _| record.end = Some(AttemptEnd::Succeeded));
            self.set_phase(id, Phase::Ended { unread: false });
        } else {
            self.set_phase(id, Phase::Idle);
        }
        self.tell_record(id);
    }

    pub(crate) fn on_timer(&mut self) {
        while let Some(&(at, id)) = self.timers.first() {
            if at > self.now {
                break;
            }
            self.clear_timer(id);
            if self.instance(id).phase == Phase::Pausing {
                self.set_phase(id, Phase::Waiting);
                self.mark_dirty(id);
            }
        }
    }

    /// The producer of a stream, if it is running the attempt that writes this epoch. A producer that writes before it
    /// was started fails.
    fn writer(&mut self, stream: StreamId, epoch: Epoch) -> Option<InstanceId> {
        let state = self.streams.get(stream).filter(|state| state.epoch == epoch)?;
        let producer = state.instance;
        if !self.owns(producer) {
            // The node's store reports what it has received of the stream.
            return Some(producer);
        }
        match self.living(producer, epoch.0)? {
            Phase::Running { .. } => Some(producer),
            _ => {
                self.fail_living(producer, "it wrote before it was started");
                None
            }
        }
    }

    /// The port on which a running attempt may open parts. An attempt that may not open parts there fails.
    fn discovering(&mut self, id: InstanceId, attempt: u32, output: u32) -> Option<usize> {
        let phase = self.living(id, attempt)?;
        let instance = self.instance(id);
        let port = output as usize;
        let spec = self.plan.nodes[instance.node].outputs.get(port);
        let problem = match spec {
            _ if !matches!(phase, Phase::Running { .. }) => "it opened a part before it was started",
            None => "it opened a part of an output that it does not have",
            Some(spec) if !spec.discovered() => "it opened a part of an output whose number of parts is fixed",
            Some(_) if instance.outputs[port].closed => "it opened a part after it had announced the last one",
            Some(_) => return Some(port),
        };
        self.fail_living(id, problem);
        None
    }

    fn succeed(&mut self, id: InstanceId) {
        let spec = &self.plan.nodes[self.instance(id).node].outputs;
        if spec.iter().zip(&self.instance(id).outputs).any(|(s, port)| s.discovered() && port.opened < port.listed) {
            self.diverge(id, true);
            return;
        }
        self.record(id, |record, _| record.end = Some(AttemptEnd::Succeeded));
        self.end(id, false);
    }

    pub(crate) fn end_unread(&mut self, id: InstanceId) {
        if self.instance(id).lost.is_none() {
            self.record(id, |record, _| record.end = Some(AttemptEnd::Unread));
        }
        self.end(id, true);
    }

    /// An attempt has succeeded: its streams are finished as they are.
    pub(crate) fn end(&mut self, id: InstanceId, unread: bool) {
        self.set_phase(id, Phase::Ended { unread });
        let instance = self.instance_mut(id);
        instance.continuing = false;
        for port in &mut instance.outputs {
            (port.closed, port.complete) = (true, true);
        }
        if self.owns(id) {
            // Before its end, which may be the end of the run.
            self.tell_record(id);
            let attempt = self.instance(id).attempt;
            self.tell(id, || Fact::Ended { instance: id, attempt, unread });
        }
        for stream in self.streams_of(id) {
            if self.stream(stream).state != StreamState::Absent && !self.is_awaited(stream) {
                self.stream_mut(stream).state = StreamState::Finished;
            }
            self.update_signal(stream);
        }
        self.extend_lists(self.instance(id).node);
        self.todo.settle.insert(id);
    }
}
