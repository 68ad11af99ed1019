//! How the coordinator releases instances of other nodes.
//!
//! Whether a set of instances has no reader left (`unread`) depends on all of them at once, and the coordinator has heard of
//! each at a different time. So it proposes the set: each node answers whether its members are as the coordinator thinks,
//! and then leaves them so, with whatever happens to them set aside, until it hears the decision. If all agree, the set was
//! in this state at one moment, when the last node answered; and from this state only the decision leads on.

use crate::event::{Event, Outcome};
use crate::fact::{Fact, Standing};
use crate::machine::RunMachine;
use crate::options::Place;
use crate::scope::COORDINATOR;
use crate::state::{Phase, Status};
use dflow_protocol::InstanceId;
use std::collections::{BTreeMap, BTreeSet};

/// The proposals of a run.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    /// The coordinator's: those without a decision.
    open: BTreeMap<u64, Proposal>,
    next: u64,
    /// Members on this node, by the proposal for which they are left as they are.
    promised: BTreeMap<u64, Vec<Standing>>,
    /// What has happened to promised instances since.
    set_aside: Vec<SetAside>,
}

#[derive(Debug)]
struct Proposal {
    members: BTreeMap<Place, Vec<Standing>>,
    waits_for: BTreeSet<Place>,
    holds: bool,
}

/// What has happened to an instance while it was promised.
#[derive(Debug)]
pub(crate) enum SetAside {
    Event(Event),
    Restart(InstanceId, String),
    Failure(InstanceId, String),
}

impl Proposals {
    /// Forgets all proposals. Returns what has happened to promised instances.
    pub(crate) fn take_set_aside(&mut self) -> Vec<SetAside> {
        let Self { next, set_aside, .. } = std::mem::take(self);
        // An answer to a proposal of before must not be taken for one of a later proposal.
        self.next = next;
        set_aside
    }
}

impl RunMachine {
    /// The coordinator has found that these instances can be released.
    pub(crate) fn release(&mut self, members: Vec<Standing>) {
        let is_proposed = |member: &Standing| {
            let others = self.proposals.open.values().flat_map(|proposal| proposal.members.values().flatten());
            others.into_iter().any(|other| other.instance == member.instance)
        };
        if members.iter().any(is_proposed) {
            return;
        }
        if members.iter().all(|member| self.owns(member.instance)) {
            self.release_own(&members);
            return;
        }
        let round = self.proposals.next;
        self.proposals.next += 1;
        let mut by_place: BTreeMap<Place, Vec<Standing>> = BTreeMap::new();
        for member in &members {
            by_place.entry(self.instance(member.instance).place).or_default().push(*member);
        }
        let places: Vec<Place> = by_place.keys().copied().collect();
        let waits_for = places.iter().copied().collect();
        self.proposals.open.insert(round, Proposal { members: by_place, waits_for, holds: true });
        for place in places {
            match place == COORDINATOR {
                true => self.on_proposed(round, &members),
                false => self.tell_places(&[place], Fact::Proposed { round, members: members.clone() }),
            }
        }
    }

    /// Answers whether the members of this node are as the coordinator thinks.
    pub(crate) fn on_proposed(&mut self, round: u64, members: &[Standing]) {
        let is_own = |member: &&Standing| self.instances.get(member.instance).is_some() && self.owns(member.instance);
        let own: Vec<Standing> = members.iter().filter(is_own).copied().collect();
        let attempts: BTreeMap<InstanceId, u32> = members.iter().map(|it| (it.instance, it.attempt)).collect();
        let holds = own.iter().all(|member| self.stands(*member) && self.has_read_from(*member, &attempts));
        if holds {
            self.proposals.promised.insert(round, own);
        }
        match self.leads() {
            true => self.on_answered(COORDINATOR, round, holds),
            false => self.tell_coordinator(Fact::Answered { round, holds }),
        }
    }

    pub(crate) fn on_answered(&mut self, from: Place, round: u64, holds: bool) {
        let Some(proposal) = self.proposals.open.get_mut(&round) else { return };
        proposal.waits_for.remove(&from);
        proposal.holds &= holds;
        if !proposal.waits_for.is_empty() {
            return;
        }
        let Some(proposal) = self.proposals.open.remove(&round) else { return };
        let released = proposal.holds;
        if !released {
            // What has changed was told before the answer.
            self.todo.unread.extend(proposal.members.values().flatten().map(|member| member.instance));
        }
        if released {
            for member in proposal.members.values().flatten().filter(|member| member.has_started) {
                let instance = self.instance_mut(member.instance);
                instance.released = !instance.phase.ended();
            }
        }
        for place in proposal.members.into_keys() {
            match place == COORDINATOR {
                true => self.on_decided(round, released),
                false => self.tell_places(&[place], Fact::Decided { round, released }),
            }
        }
    }

    pub(crate) fn on_decided(&mut self, round: u64, released: bool) {
        let members = self.proposals.promised.remove(&round).unwrap_or_default();
        if released {
            self.release_own(&members);
        }
        self.todo.settle.extend(members.iter().map(|member| member.instance));
        for happened in std::mem::take(&mut self.proposals.set_aside) {
            self.take_up(happened);
        }
    }

    /// The ends of promised instances that were set aside, now that the run has failed and nothing else of them matters.
    pub(crate) fn take_ends_set_aside(&mut self) -> Vec<(InstanceId, u32, Outcome)> {
        let aside = std::mem::take(&mut self.proposals).set_aside;
        let ends = aside.into_iter().filter_map(|happened| match happened {
            SetAside::Event(Event::Ended { instance, attempt, outcome }) => Some((instance, attempt, outcome)),
            SetAside::Event(_) | SetAside::Restart(..) | SetAside::Failure(..) => None,
        });
        ends.collect()
    }

    /// Forgets an end of the instance that was set aside. Returns whether there was one.
    pub(crate) fn take_end_set_aside(&mut self, id: InstanceId) -> bool {
        let is_end = |it: &SetAside| matches!(it, SetAside::Event(Event::Ended { instance, .. }) if *instance == id);
        let aside = &mut self.proposals.set_aside;
        let before = aside.len();
        aside.retain(|happened| !is_end(happened));
        before > aside.len()
    }

    /// Sets an event aside that could undo a promised instance. Returns whether it did.
    pub(crate) fn set_aside(&mut self, id: InstanceId, event: impl FnOnce() -> Event) -> bool {
        let is_promised = self.is_promised(id);
        if is_promised {
            self.proposals.set_aside.push(SetAside::Event(event()));
        }
        is_promised
    }

    pub(crate) fn set_restart_aside(&mut self, id: InstanceId, reason: &str) -> bool {
        let is_promised = self.is_promised(id);
        if is_promised {
            self.proposals.set_aside.push(SetAside::Restart(id, reason.to_owned()));
        }
        is_promised
    }

    pub(crate) fn set_failure_aside(&mut self, id: InstanceId, reason: &str) -> bool {
        let is_promised = self.is_promised(id) && self.instance(id).phase.lives();
        if is_promised {
            self.proposals.set_aside.push(SetAside::Failure(id, reason.to_owned()));
        }
        is_promised
    }

    /// Whether the instance is left as it is until a proposal is decided.
    pub(crate) fn is_promised(&self, id: InstanceId) -> bool {
        let mut promised = self.proposals.promised.values().flatten();
        promised.any(|member| member.has_started && member.instance == id)
    }

    /// Whether an instance of this node is as the coordinator has heard.
    fn stands(&self, member: Standing) -> bool {
        let Some(instance) = self.instances.get(member.instance).filter(|_| self.owns(member.instance)) else {
            return false;
        };
        let is_undone = self.todo.restarts.iter().any(|(id, _)| *id == member.instance);
        let stands = match (instance.phase, member.has_started) {
            (Phase::Running { .. } | Phase::Ended { .. }, started) => started && self.is_wanted(member.instance),
            (Phase::Pausing | Phase::Waiting | Phase::Preparing | Phase::Ready, started) => {
                started == instance.continuing && (!started || self.is_wanted(member.instance))
            }
            // An attempt that is void may have written before.
            (Phase::Idle | Phase::Stopping { .. }, started) => !started && instance.attempt == 0,
        };
        stands && !is_undone && instance.attempt == member.attempt
    }

    /// Whether what the member depends on is settled, or proposed in the attempt that this node knows. If the coordinator knows
    /// a later one, then what the member has read is void, and this node is about to hear that.
    fn has_read_from(&self, member: Standing, attempts: &BTreeMap<InstanceId, u32>) -> bool {
        if !member.has_started {
            return true;
        }
        let Some(producers) = self.dependencies(member.instance) else { return false };
        producers.into_iter().all(|producer| {
            let instance = self.instance(producer);
            let is_out = !instance.present || self.nodes[instance.node].status == Status::Skipped;
            instance.settled || is_out || attempts.get(&producer) == Some(&instance.attempt)
        })
    }

    fn release_own(&mut self, members: &[Standing]) {
        for &Standing { instance: member, has_started, .. } in members {
            if !has_started {
                continue;
            }
            let instance = self.instance_mut(member);
            instance.released = !instance.phase.ended();
            self.mark_settled(member);
            self.todo.settle.insert(member);
        }
    }
}
