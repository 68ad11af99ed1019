//! For which instances a machine decides, and how it tells others.

use crate::action::Action;
use crate::fact::{Audience, Fact};
use crate::machine::RunMachine;
use crate::options::Place;
use dflow_protocol::InstanceId;
use std::collections::{BTreeMap, BTreeSet};

/// The coordinator's place.
pub(crate) const COORDINATOR: Place = 0;

/// What a machine that decides for one node keeps of the others.
#[derive(Debug)]
pub(crate) struct Others {
    /// By node of the graph: the places that must hear of its instances.
    pub(crate) audiences: Vec<Audience>,
    /// Facts told, each counted for every place, and heard.
    pub(crate) told: u64,
    pub(crate) heard: u64,
    /// What other nodes have told of instances that are not known yet, and how much of it there is.
    pub(crate) early: BTreeMap<InstanceId, Vec<(Place, Fact)>>,
    pub(crate) early_facts: usize,
    /// The coordinator wants to know when nothing moves; or, on its node, has said so to the others.
    pub(crate) is_watched: bool,
    /// What was last said of both when nothing was moving.
    pub(crate) said_quiet: Option<(u64, u64)>,
    /// The coordinator's: what each other place has said.
    pub(crate) quiet: Vec<Option<(u64, u64)>>,
    /// The coordinator's: places on which nothing of the ended run is left.
    pub(crate) emptied: BTreeSet<Place>,
}

impl Others {
    pub(crate) fn new(audiences: Vec<Audience>, places: usize) -> Self {
        Self {
            audiences,
            told: 0,
            heard: 0,
            early: BTreeMap::new(),
            early_facts: 0,
            is_watched: false,
            said_quiet: None,
            quiet: vec![None; places],
            emptied: BTreeSet::new(),
        }
    }

    /// After a recovery, all nodes count from the same state on.
    pub(crate) fn begin_anew(&mut self, audiences: Vec<Audience>) {
        self.audiences = audiences;
        (self.told, self.heard) = (0, 0);
        self.early.clear();
        self.early_facts = 0;
        self.is_watched = false;
        self.said_quiet = None;
        self.quiet.fill(None);
    }
}

impl RunMachine {
    /// The place whose instances the machine decides for; `None` if it decides the whole run.
    pub(crate) fn here(&self) -> Option<Place> {
        self.options.scope.place()
    }

    /// Whether this machine decides for the instance.
    pub(crate) fn owns(&self, id: InstanceId) -> bool {
        self.here().is_none_or(|here| self.instance(id).place == here)
    }

    /// Whether this machine decides when the run is over.
    pub(crate) fn leads(&self) -> bool {
        self.here().is_none_or(|here| here == COORDINATOR)
    }

    /// Tells the nodes that an instance of this node concerns.
    pub(crate) fn tell(&mut self, id: InstanceId, fact: impl FnOnce() -> Fact) {
        let Some(others) = &self.others else { return };
        let audience = others.audiences[self.instance(id).node].clone();
        self.tell_places(&audience, fact());
    }

    pub(crate) fn tell_coordinator(&mut self, fact: Fact) {
        self.tell_places(&[COORDINATOR], fact);
    }

    /// Tells every other node.
    pub(crate) fn tell_all(&mut self, fact: Fact) {
        let places: Vec<Place> = (0..self.options.places.len() as Place).collect();
        self.tell_places(&places, fact);
    }

    pub(crate) fn tell_places(&mut self, places: &[Place], fact: Fact) {
        let (Some(here), Some(others)) = (self.here(), &mut self.others) else { return };
        let recovery = &self.recovery;
        let to: Vec<Place> =
            places.iter().copied().filter(|place| *place != here && !recovery.is_lost(*place)).collect();
        if to.is_empty() {
            return;
        }
        if fact.is_counted() {
            others.told += to.len() as u64;
        }
        self.actions.push(Action::Tell { to, fact });
    }

    /// Tells the coordinator that nothing moves here, if it wants to know and does not yet.
    pub(crate) fn say_quiet(&mut self) {
        let still = self.slots.still() && !self.recovery.is_frozen();
        let Some(others) = self.others.as_mut().filter(|others| still && others.is_watched) else { return };
        let now = (others.told, others.heard);
        if others.said_quiet.replace(now) != Some(now) {
            self.tell_coordinator(Fact::Quiet { told: now.0, heard: now.1 });
        }
    }

    /// The coordinator asks the others to tell when nothing moves.
    pub(crate) fn watch(&mut self) {
        let is_new = self.others.as_mut().is_some_and(|others| !std::mem::replace(&mut others.is_watched, true));
        if is_new {
            self.tell_all(Fact::Watch);
        }
    }

    /// Whether nothing makes progress by itself on any node, as far as the coordinator has heard. Data that is on its way
    /// is not seen, so this may be wrong for a moment.
    pub(crate) fn is_still(&self) -> bool {
        let Some(others) = &self.others else { return self.slots.still() };
        let (mut told, mut heard) = (others.told, others.heard);
        for (_, said) in (0..).zip(&others.quiet).skip(1).filter(|(place, _)| !self.recovery.is_lost(*place)) {
            let Some((other_told, other_heard)) = said else { return false };
            told += other_told;
            heard += other_heard;
        }
        self.slots.still() && told == heard
    }
}
