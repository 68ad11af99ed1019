//! How a run stands: what a node reports, what the coordinator tells, and how a node takes it over.

use super::PIECE;
use crate::fact::{AttemptProgress, Fact, InstanceStanding, Inventory, KnownParts, StreamCopy};
use crate::machine::RunMachine;
use crate::options::Place;
use crate::plan::OutputPort;
use crate::state::{Closed, Decision, Instance, Phase, StreamState};
use dflow_protocol::{Epoch, InstanceId, StreamId};
use std::collections::BTreeMap;

/// Why the coordinator tells that an attempt is void.
const VOID: &str = "its node has said so while another one was lost";

impl Inventory {
    /// The same in pieces of about this many entries; at least one.
    pub(super) fn into_pieces(self, entries: usize) -> Vec<Self> {
        let mut pieces = Vec::new();
        let Self { copies, reading, retired, lost, parts } = self;
        pieces.extend(copies.chunks(entries).map(|copies| Self { copies: copies.to_vec(), ..Self::default() }));
        pieces.extend(reading.chunks(entries).map(|reading| Self { reading: reading.to_vec(), ..Self::default() }));
        pieces.extend(retired.chunks(entries).map(|retired| Self { retired: retired.to_vec(), ..Self::default() }));
        pieces.extend(lost.chunks(entries).map(|lost| Self { lost: lost.to_vec(), ..Self::default() }));
        for KnownParts { instance, output, first } in parts {
            let piece = |first: &[_]| {
                let parts = KnownParts { instance, output, first: first.to_vec() };
                Self { parts: vec![parts], ..Self::default() }
            };
            pieces.extend(first.chunks(entries).map(piece));
        }

        if pieces.is_empty() {
            pieces.push(Self::default());
        }
        pieces
    }

    pub(super) fn extend(&mut self, piece: Self) {
        self.copies.extend(piece.copies);
        self.reading.extend(piece.reading);
        self.retired.extend(piece.retired);
        self.lost.extend(piece.lost);
        for parts in piece.parts {
            let same = |known: &&mut KnownParts| (known.instance, known.output) == (parts.instance, parts.output);
            match self.parts.last_mut().filter(same) {
                Some(known) => known.first.extend(parts.first),
                None => self.parts.push(parts),
            }
        }
    }
}

impl RunMachine {
    /// What this node has, beside the copies in its store.
    pub(super) fn take_inventory(&self, mut copies: Vec<StreamCopy>) -> Inventory {
        // To this node, a stream that continues is still the epoch in which it began.
        copies.retain_mut(|copy| {
            let Some(stream) = self.streams.get(copy.stream) else { return false };
            copy.epoch = stream.epoch;
            stream.state != StreamState::Absent
        });
        let mut inventory = Inventory { copies, ..Inventory::default() };
        for id in self.instance_ids() {
            let instance = self.instance(id);
            if self.owns(id) {
                // An empty list counts, too.
                let has_streams =
                    instance.inputs.iter().any(|input| input.attached > 0 || input.told_complete || input.next.0 > 0);
                if has_streams && !instance.phase.ended() && instance.phase != Phase::Idle {
                    inventory.reading.push(id);
                }
                if instance.retired && !instance.phase.ended() {
                    inventory.retired.push(id);
                }
                continue;
            }
            if !self.recovery.is_lost(instance.place) {
                continue;
            }
            let is_void = instance.phase == Phase::Idle;
            if instance.attempt > 0 {
                inventory.lost.push((id, instance.attempt, !is_void));
            }
            for (output, port) in (0..).zip(&instance.outputs) {
                if !port.first.is_empty() {
                    inventory.parts.push(KnownParts { instance: id, output, first: port.first.clone() });
                }
            }
        }
        inventory
    }

    /// Parts that a lost node has told others of, but not the coordinator. Their ids stay theirs.
    pub(super) fn learn_parts(&mut self, inventories: &BTreeMap<Place, Inventory>) {
        let reported = inventories.values().flat_map(|inventory| &inventory.parts);
        let mut parts: Vec<(InstanceId, u32, u32, (InstanceId, StreamId))> = reported
            .flat_map(|parts| (0..).zip(&parts.first).map(|(part, first)| (parts.instance, parts.output, part, *first)))
            .collect();
        // In the order in which a node has opened them. What exists because of a part may have parts of its own.
        parts.sort_by_key(|(.., (_, stream))| *stream);
        let mut is_new = true;
        while std::mem::take(&mut is_new) {
            for &(instance, output, part, first) in &parts {
                is_new |= self.know_part(instance, output, part, first);
            }
        }
        // What was told of instances that were not known until now.
        while let Some((from, fact)) = self.todo.facts.pop_front() {
            self.apply(from, fact);
        }
    }

    /// Creates what exists because of a part, unless it is known. It is no part of the run until the part is opened.
    fn know_part(&mut self, id: InstanceId, output: u32, part: u32, first: (InstanceId, StreamId)) -> bool {
        let Some(instance) = self.instances.get(id) else { return false };
        let spec = self.plan.nodes[instance.node].outputs.get(output as usize);
        let Some(port) = instance.outputs.get(output as usize) else { return false };
        let is_next = port.streams.len() == part as usize && port.first.len() == part as usize;
        if !is_next || !spec.is_some_and(OutputPort::discovered) || self.excess.is_some() {
            return false;
        }
        if !self.number_part(id, output as usize, first) {
            return false;
        }
        self.instance_mut(id).outputs[output as usize].first.push(first);
        self.create_part(id, output as usize);
        true
    }

    /// The coordinator tells every node how the run stands.
    pub(super) fn tell_standing(&mut self) {
        let mut facts = Vec::new();
        let mut instances = Vec::new();
        let mut after = Vec::new();
        for id in self.instance_ids() {
            let instance = self.instance(id);
            for (output, port) in (0..).zip(&instance.outputs) {
                if !port.first.is_empty() || self.plan.nodes[instance.node].outputs[output as usize].discovered() {
                    let opened = port.streams.iter().take(port.opened as usize);
                    let bases = opened.map(|stream| self.stream(*stream).base.0).collect();
                    after.push(Fact::PartsStand {
                        instance: id,
                        attempt: instance.attempt,
                        output,
                        bases,
                        is_closed: port.closed,
                    });
                }
            }
            for (input, state) in (0..).zip(&instance.inputs).filter(|(_, state)| !state.winners.is_empty()) {
                let (winners, is_final) = (state.winners.clone(), state.choice_settled);
                after.push(Fact::Chose { instance: id, input, winners, is_final });
            }
            if let Some(reason) = instance.lost.clone() {
                after.push(Fact::Lost { instance: id, reason });
            }
            instances.push(self.standing_of(id));
        }
        for stream in self.streams.iter() {
            let port = &self.instance(stream.instance).outputs[stream.port];
            if let Some(&first) = port.first.get(stream.part as usize) {
                let (instance, output) = (stream.instance, stream.port as u32);
                facts.push(Fact::PartKnown { instance, output, part: stream.part, first });
            }
        }
        facts.extend(instances.chunks(PIECE).map(|instances| Fact::Stands { instances: instances.to_vec() }));
        for stream in self.streams.ids() {
            let value = self.switches_on(stream).into_iter().find_map(|switch| self.switches[switch].value.clone());
            if let Some(text) = value {
                after.push(Fact::Value { stream, epoch: self.stream(stream).epoch, text });
            }
        }
        facts.extend(after);
        facts.into_iter().for_each(|fact| self.tell_all(fact));
    }

    fn standing_of(&self, id: InstanceId) -> InstanceStanding {
        let instance = self.instance(id);
        let progress = match instance.phase {
            Phase::Idle if instance.continuing => AttemptProgress::Suspended,
            Phase::Ended { unread: true } => AttemptProgress::Unread,
            Phase::Ended { unread: false } => AttemptProgress::Ended,
            // A killed attempt is void, or the instance is not needed.
            Phase::Stopping { .. } if !instance.dropped && !instance.released => match instance.continuing {
                true => AttemptProgress::Suspended,
                false => AttemptProgress::Void,
            },
            Phase::Idle => AttemptProgress::Void,
            _ => AttemptProgress::Alive,
        };
        InstanceStanding {
            instance: id,
            attempt: instance.attempt,
            base: instance.base,
            retries_used: instance.retries_used,
            progress,
            is_dropped: instance.dropped,
            is_cut: instance.cut,
        }
    }

    /// Takes over how the run stands. What this node decides itself it knows better.
    pub(super) fn restore_all(&mut self, standing: Vec<Fact>) {
        let mut instances = Vec::new();
        for fact in standing {
            if let Fact::Stands { instances: piece } = &fact {
                instances.extend_from_slice(piece);
            }
            self.restore(fact);
        }
        // An end completes the lists of parts, so all of them come before.
        instances.into_iter().for_each(|standing| self.restore_end(standing));
    }

    fn restore(&mut self, fact: Fact) {
        match fact {
            Fact::PartKnown { instance, output, part, first } => _ = self.know_part(instance, output, part, first),
            Fact::Stands { instances } => instances.into_iter().for_each(|standing| self.restore_instance(standing)),
            Fact::PartsStand { instance, attempt, output, bases, is_closed } => {
                // A lost node may have told this one of a later attempt, or that this one is void.
                let is_known = |it: &Instance| it.attempt == attempt && it.phase != Phase::Idle;
                if self.is_others(instance) && is_known(self.instance(instance)) {
                    self.restore_parts(instance, output as usize, &bases, is_closed);
                }
            }
            Fact::Chose { instance, input, winners, is_final } if self.is_others(instance) => {
                self.mirror_choice(instance, input as usize, winners, is_final);
            }
            Fact::Lost { instance, reason } if self.is_others(instance) && self.instance(instance).lost.is_none() => {
                self.mirror_loss(instance, &reason);
            }
            Fact::Value { stream, epoch, text } => self.restore_value(stream, epoch, &text),
            _ => {}
        }
    }

    fn is_others(&self, id: InstanceId) -> bool {
        self.instances.get(id).is_some() && !self.owns(id)
    }

    fn restore_instance(&mut self, standing: InstanceStanding) {
        let InstanceStanding { instance: id, attempt, base, retries_used, progress, .. } = standing;
        if !self.is_others(id) {
            return;
        }
        self.instance_mut(id).retries_used = retries_used;
        let known = self.instance(id).attempt;
        if known > attempt {
            // A lost node has told this one more. It is void.
            return;
        }
        if known < base {
            // All nodes name a stream after the epoch with which its bytes begin.
            self.mirror_void(id, VOID);
            self.catch_up(id, base);
        }
        if self.instance(id).attempt < attempt {
            self.mirror_suspension(id);
            self.catch_up(id, attempt);
        }
        if progress == AttemptProgress::Void && attempt > 0 && self.instance(id).phase != Phase::Idle {
            self.mirror_void(id, VOID);
        }
    }

    fn mirror_suspension(&mut self, id: InstanceId) {
        if !self.instance(id).continuing {
            self.set_phase(id, Phase::Idle);
            self.suspend_outputs(id);
        }
    }

    fn restore_end(&mut self, standing: InstanceStanding) {
        let InstanceStanding { instance: id, attempt, progress, is_dropped, is_cut, .. } = standing;
        if !self.is_others(id) || self.instance(id).attempt != attempt {
            return;
        }
        if progress == AttemptProgress::Suspended {
            self.mirror_suspension(id);
        }
        let has_ended = matches!(progress, AttemptProgress::Ended | AttemptProgress::Unread);
        if has_ended && !self.instance(id).phase.ended() {
            self.end(id, progress == AttemptProgress::Unread);
        }
        if is_dropped {
            self.instance_mut(id).dropped = true;
            self.retire(id, Closed::Lost);
        }
        if is_cut {
            self.cut(id);
        }
    }

    /// The readers of what the instance has left unfinished are not needed.
    fn cut(&mut self, id: InstanceId) {
        if !std::mem::replace(&mut self.instance_mut(id).cut, true) {
            self.drop_readers(id);
        }
    }

    fn restore_parts(&mut self, id: InstanceId, output: usize, bases: &[u32], is_closed: bool) {
        if self.instance(id).outputs.get(output).is_none() {
            return;
        }
        for &base in bases.iter().skip(self.instance(id).outputs[output].opened as usize) {
            let port = &self.instance(id).outputs[output];
            let Some(&stream) = port.streams.get(port.opened as usize) else { return };
            let attempt = self.instance(id).attempt;
            if base < attempt && self.stream(stream).state == StreamState::Absent {
                self.instance_mut(id).attempt = base;
                self.open_known_part(id, output);
                self.instance_mut(id).attempt = attempt;
                self.suspend(stream);
                self.open_stream(stream);
            } else {
                self.open_known_part(id, output);
            }
        }
        if is_closed && !self.instance(id).outputs[output].closed {
            self.close_port(id, output);
        }
    }

    fn restore_value(&mut self, stream: StreamId, epoch: Epoch, text: &str) {
        let is_known = self.streams.get(stream).is_some_and(|known| known.epoch == epoch);
        if !is_known || self.owns(self.stream(stream).instance) {
            return;
        }
        let open = |switch: &usize| matches!(self.switches[*switch].decision, Decision::Open);
        let asked: Vec<usize> = self.switches_on(stream).into_iter().filter(open).collect();
        self.decide(stream, asked, text);
    }
}
