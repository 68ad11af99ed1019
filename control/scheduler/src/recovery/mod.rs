//! What happens when nodes of a run are lost.
//!
//! The coordinator asks every other node to *freeze*: to decide nothing, while its functions go on, and to report what its
//! store has ([`Inventory`](crate::Inventory)). Facts from one node arrive in order, so with the last report the coordinator
//! has heard everything that was decided anywhere. It works out which instances must run *again* (`closure`), tells all
//! nodes how the whole run stands (`standing`), because nodes are now concerned that were not before, and has them resume.
//! What was final is worked out anew (`finality`): the loss may have undone it.
//!
//! A recovery has a number. Facts that were told before it are void after it, because the standing of the run includes
//! them; [`Fact::Resumed`] separates the two on each link.

mod closure;
mod resume;
mod standing;

use crate::action::Action;
use crate::event::Event;
use crate::fact::{Fact, Inventory, StreamCopy};
use crate::limits::{MAX_EARLY_FACTS, MAX_INSTANCES, MAX_NODES_TAKEN_DOWN, MAX_STREAMS};
use crate::machine::{RunMachine, RunState};
use crate::options::Place;
use crate::plan::NodeId;
use crate::record::AttemptEnd;
use crate::scope::COORDINATOR;
use crate::state::Phase;
use closure::Closure;
use dflow_protocol::{InstanceId, StreamId};
use dflow_workflow::FunctionId;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The entries of an inventory, or of the run's standing, in one fact.
const PIECE: usize = 1024;

/// The most entries in what one node reports: its streams, its instances twice, and those of lost nodes with their parts.
const MAX_INVENTORY: usize = 2 * MAX_STREAMS + 4 * MAX_INSTANCES;

/// The most facts in which a run's standing is told: some for each instance and each stream.
const MAX_STANDING: usize = 4 * (MAX_INSTANCES + MAX_STREAMS);

/// What a machine keeps of lost nodes and recoveries.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// The last recovery that is complete here.
    generation: u64,
    /// Of each other node: the last recovery that was complete there when it told what arrives now.
    told_after: BTreeMap<Place, u64>,
    /// What other nodes have told after a recovery that is not complete here.
    ahead: Vec<(Place, Fact)>,
    /// The places that are lost.
    lost: BTreeSet<Place>,
    /// Where the instances of functions run that had a place which is lost.
    places: BTreeMap<NodeId, Vec<Place>>,
    /// The coordinator's: the same after the recovery that goes on. Until then, all nodes use the old places.
    next_places: BTreeMap<NodeId, Vec<Place>>,
    /// What is final is being worked out anew.
    resuming: bool,
    /// The streams of which the store has every byte, while it keeps them.
    whole: BTreeSet<StreamId>,
    /// How many answers of the store are to come.
    surveys: u32,
    frozen: Option<Frozen>,
    collecting: Option<Collecting>,
    /// The coordinator's: on how many nodes an instance was running when they were lost.
    taken_down: HashMap<InstanceId, usize>,
}

/// A node that decides nothing until the coordinator has told how the run stands.
#[derive(Debug, Default)]
struct Frozen {
    generation: u64,
    /// What has happened on this node since.
    events: Vec<Event>,
    /// The standing of the run, as far as it has been told.
    standing: Option<Vec<Fact>>,
}

/// The coordinator's part of a recovery.
#[derive(Debug)]
struct Collecting {
    generation: u64,
    reason: String,
    waits_for: BTreeSet<Place>,
    inventories: BTreeMap<Place, Inventory>,
}

impl Recovery {
    pub(crate) fn is_lost(&self, place: Place) -> bool {
        self.lost.contains(&place)
    }

    /// Whether the machine decides nothing for now.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Whether what is final is being worked out anew. Until then nothing starts.
    pub(crate) fn is_resuming(&self) -> bool {
        self.resuming
    }

    /// Whether it is too early to say if a stream is held, because what is final is being worked out anew.
    pub(crate) fn defers_hold(&mut self, stream: StreamId, whole: bool) -> bool {
        if self.resuming && whole {
            self.whole.insert(stream);
        }
        self.resuming
    }

    /// Whether what this node has just told may be acted on: it knows of the same recoveries.
    fn is_current(&self, from: Place) -> bool {
        from == COORDINATOR || self.told_after.get(&from).copied().unwrap_or_default() == self.generation
    }

    /// The run ends: what has happened while the machine was frozen.
    pub(crate) fn give_up(&mut self) -> Vec<Event> {
        self.ahead.clear();
        self.collecting = None;
        self.frozen.take().map(|frozen| frozen.events).unwrap_or_default()
    }
}

impl RunMachine {
    /// Whether the run goes on without the node at this place.
    #[must_use]
    pub fn is_without(&self, place: Place) -> bool {
        self.recovery.is_lost(place)
    }

    /// The places of a node's instances, by part. Inputs, sinks, and functions that were not placed are at the coordinator's.
    pub(crate) fn places_of(&self, node: NodeId) -> &[Place] {
        let places = self.recovery.places.get(&node).unwrap_or(&self.plan.nodes[node].places);
        if places.is_empty() { &[COORDINATOR] } else { places }
    }

    /// The same after the recovery that goes on.
    fn next_places_of(&self, node: NodeId) -> &[Place] {
        self.recovery.next_places.get(&node).map_or_else(|| self.places_of(node), Vec::as_slice)
    }

    /// The place of a node's instance for this part.
    pub(crate) fn place_in(&self, node: NodeId, part: usize) -> Place {
        let places = self.places_of(node);
        places[part % places.len()]
    }

    /// A node is lost. To be called on the coordinator's machine.
    pub(crate) fn lose_node(&mut self, place: Place, reason: &str, places: Vec<(FunctionId, Vec<Place>)>) {
        if place == COORDINATOR || place as usize >= self.options.places.len() || !self.recovery.lost.insert(place) {
            return;
        }
        self.on_emptied(place);
        for (function, places) in places {
            if self.may_be_at(function, &places) {
                self.recovery.next_places.insert(self.plan.node_of(function), places);
            }
        }
        if let Some(node) = self.without_place() {
            let name = &self.plan.nodes[node].name;
            let why = format!(
                "{reason}; none of the nodes that are left may run `{name}`: --place names others, or they lack its program"
            );
            self.fail_run(None, why);
            return;
        }
        if let Some(suspect) = self.note_taken_down(place, reason) {
            let reason = format!(
                "`{}` was running on each of the {MAX_NODES_TAKEN_DOWN} nodes that were lost, the last time on this: {reason}; \
                 it may be the cause, and is not run again",
                self.name(suspect)
            );
            self.fail_run(Some(suspect), reason);
            return;
        }
        let before = self.recovery.collecting.as_ref().map_or(self.recovery.generation, |it| it.generation);
        let generation = before + 1;
        let left: BTreeSet<Place> =
            (0..self.options.places.len() as Place).filter(|place| !self.recovery.is_lost(*place)).collect();
        let lost = self.recovery.lost.iter().copied().collect();
        self.tell_all(Fact::Freeze { generation, lost });
        self.actions.push(Action::Forsake { places: vec![place] });
        self.survey();
        let reason = reason.to_owned();
        self.recovery.collecting =
            Some(Collecting { generation, reason, waits_for: left, inventories: BTreeMap::new() });
    }

    /// Whether there is such a function, and these are places at which it may be.
    fn may_be_at(&self, function: FunctionId, places: &[Place]) -> bool {
        let is_left = |place: &Place| (*place as usize) < self.options.places.len() && !self.recovery.is_lost(*place);
        (function.0 as usize) < self.plan.workflow.functions.len() && !places.is_empty() && places.iter().all(is_left)
    }

    /// A function that has no place any more.
    fn without_place(&self) -> Option<NodeId> {
        (0..self.plan.nodes.len())
            .find(|node| self.next_places_of(*node).iter().any(|place| self.recovery.is_lost(*place)))
    }

    /// Takes note of the instances that were running on a lost node. Returns one that has been running on too many.
    fn note_taken_down(&mut self, place: Place, reason: &str) -> Option<InstanceId> {
        let mut suspect = None;
        for id in self.instance_ids() {
            let instance = self.instance(id);
            if instance.place != place || instance.phase.ended() || instance.attempt == 0 {
                continue;
            }
            if matches!(instance.phase, Phase::Running { .. }) {
                let nodes = self.recovery.taken_down.entry(id).or_default();
                *nodes += 1;
                suspect = suspect.or((*nodes >= MAX_NODES_TAKEN_DOWN).then_some(id));
            }
            self.record(id, |record, now| {
                record.ended.get_or_insert(now);
                record.end.get_or_insert(AttemptEnd::Superseded { reason: reason.to_owned() });
            });
        }
        suspect
    }

    fn survey(&mut self) {
        self.recovery.surveys += 1;
        self.actions.push(Action::Survey);
    }

    /// Whether a fact can be acted on as usual. Handles those that cannot.
    pub(crate) fn admit_fact(&mut self, from: Place, fact: Fact) -> Option<Fact> {
        if self.recovery.is_lost(from) {
            return None;
        }
        match fact {
            Fact::Freeze { generation, lost } if from == COORDINATOR => self.freeze(generation, lost),
            Fact::Frozen { generation, inventory, is_last } if self.leads() => {
                self.on_frozen(from, generation, inventory, is_last);
            }
            Fact::Resumed { generation } => _ = self.recovery.told_after.insert(from, generation),
            // Only a frozen node is told so, and only the coordinator is told how one stands.
            Fact::Freeze { .. }
            | Fact::Frozen { .. }
            | Fact::Restoring { .. }
            | Fact::PartKnown { .. }
            | Fact::Stands { .. }
            | Fact::PartsStand { .. }
            | Fact::Resume { .. } => {}
            fact if self.leads() || self.recovery.is_current(from) => return Some(fact),
            _ => {}
        }
        None
    }

    /// Decides nothing from now on.
    fn freeze(&mut self, generation: u64, lost: Vec<Place>) {
        let is_new =
            self.recovery.frozen.as_ref().map_or(self.recovery.generation, |frozen| frozen.generation) < generation;
        if self.leads() || !is_new {
            return;
        }
        let known = lost.into_iter().filter(|place| (*place as usize) < self.options.places.len());
        let places: Vec<Place> = known.filter(|place| Some(*place) != self.here() && *place != COORDINATOR).collect();
        let places: Vec<Place> = places.into_iter().filter(|place| self.recovery.lost.insert(*place)).collect();
        self.actions.push(Action::Forsake { places });
        let events = self.recovery.frozen.take().map(|frozen| frozen.events).unwrap_or_default();
        self.recovery.frozen = Some(Frozen { generation, events, standing: None });
        self.survey();
    }

    /// Handles an event while nothing is decided.
    pub(crate) fn handle_frozen(&mut self, event: Event) {
        match event {
            Event::Fact { from, fact } => self.hear_frozen(from, fact),
            Event::Surveyed { copies } => self.on_surveyed(copies),
            Event::Cancel { .. } | Event::StoreFailed { .. } => self.dispatch(event),
            event => self.recovery.frozen.iter_mut().for_each(|frozen| frozen.events.push(event.clone())),
        }
    }

    fn hear_frozen(&mut self, from: Place, fact: Fact) {
        if self.recovery.is_lost(from) {
            return;
        }
        let told_after = self.recovery.told_after.get(&from).copied().unwrap_or_default();
        let Some(frozen) = &mut self.recovery.frozen else { return };
        match fact {
            Fact::Stop { reason } if from == COORDINATOR => self.end_run(None, reason),
            Fact::Freeze { generation, lost } if from == COORDINATOR => self.freeze(generation, lost),
            Fact::Restoring { generation } if from == COORDINATOR && generation == frozen.generation => {
                frozen.standing = Some(Vec::new());
            }
            Fact::Resume { generation, places, again, decided } if from == COORDINATOR => {
                if generation == frozen.generation
                    && let Some(standing) = frozen.standing.take()
                {
                    let places = places.into_iter().map(|(function, list)| (FunctionId(function), list));
                    let known = places.filter(|(function, list)| self.may_be_at(*function, list));
                    let places = known.map(|(function, list)| (self.plan.node_of(function), list)).collect();
                    let decided = decided.into_iter().map(|switch| switch as usize).collect();
                    self.resume(generation, places, &again, &decided, standing);
                }
            }
            Fact::Resumed { generation } => _ = self.recovery.told_after.insert(from, generation),
            fact if from == COORDINATOR => {
                if let Some(standing) = &mut frozen.standing {
                    standing.push(fact);
                    if standing.len() > MAX_STANDING {
                        self.fail_run(
                            None,
                            "the coordinator has told too much of a run while nodes were lost".to_owned(),
                        );
                    }
                }
            }
            fact if told_after >= frozen.generation => {
                self.recovery.ahead.push((from, fact));
                if self.recovery.ahead.len() > MAX_EARLY_FACTS {
                    self.fail_run(None, format!("node {from} has told too much of a run while nodes were lost"));
                }
            }
            // The standing of the run includes it.
            _ => {}
        }
    }

    /// The store has answered.
    pub(crate) fn on_surveyed(&mut self, copies: Vec<StreamCopy>) {
        self.recovery.surveys = self.recovery.surveys.saturating_sub(1);
        if self.recovery.surveys > 0 {
            // Another node has been lost meanwhile.
            return;
        }
        let inventory = self.take_inventory(copies);
        self.recovery.whole = inventory.copies.iter().filter(|copy| copy.is_whole).map(|copy| copy.stream).collect();
        if self.leads() {
            if let Some(collecting) = &self.recovery.collecting {
                self.on_frozen(COORDINATOR, collecting.generation, inventory, true);
            }
        } else if let Some(frozen) = &self.recovery.frozen {
            let generation = frozen.generation;
            let mut pieces = inventory.into_pieces(PIECE).into_iter().peekable();
            while let Some(inventory) = pieces.next() {
                let is_last = pieces.peek().is_none();
                self.tell_coordinator(Fact::Frozen { generation, inventory, is_last });
            }
        }
    }

    /// The coordinator hears what a node has.
    fn on_frozen(&mut self, from: Place, generation: u64, inventory: Inventory, is_last: bool) {
        let Some(collecting) = self.recovery.collecting.as_mut().filter(|it| it.generation == generation) else {
            return;
        };
        if !collecting.waits_for.contains(&from) {
            return;
        }
        let known = collecting.inventories.entry(from).or_default();
        known.extend(inventory);
        if known.len() > MAX_INVENTORY {
            self.fail_run(None, format!("node {from} has reported more than a run can have"));
            return;
        }
        if is_last {
            collecting.waits_for.remove(&from);
        }
        if collecting.waits_for.is_empty()
            && let Some(collecting) = self.recovery.collecting.take()
        {
            self.recover(collecting);
        }
    }

    /// The coordinator knows what every node has: it works out what runs again, and has all resume.
    fn recover(&mut self, collecting: Collecting) {
        let Collecting { generation, reason, inventories, .. } = collecting;
        self.learn_parts(&inventories);
        let again = match Closure::new(self, &inventories).compute() {
            Ok(again) => again,
            Err(cause) => return self.fail_run(None, format!("{reason}; {cause}")),
        };
        self.bury_lost(&again);
        if let Some((loser, why)) = self.settle_races(&again) {
            return self.fail_run(Some(loser), why);
        }
        let mut latest: HashMap<InstanceId, u32> = HashMap::new();
        for (id, attempt, _) in inventories.values().flat_map(|inventory| &inventory.lost) {
            let known = latest.entry(*id).or_default();
            *known = (*known).max(*attempt);
        }
        let attempt = |id: &InstanceId| self.instance(*id).attempt.max(latest.get(id).copied().unwrap_or_default());
        let again: Vec<(InstanceId, u32)> = again.iter().map(|id| (*id, attempt(id))).collect();
        let decided: BTreeSet<usize> =
            (0..self.switches.len()).filter(|switch| self.switches[*switch].settled).collect();
        self.tell_all(Fact::Restoring { generation });
        self.tell_standing();
        let inputs = self.plan.workflow.inputs.len();
        let places = self.recovery.next_places.iter();
        let places: Vec<(u32, Vec<Place>)> =
            places.map(|(node, list)| ((node - inputs) as u32, list.clone())).collect();
        let decided_ids = decided.iter().map(|switch| *switch as u32).collect();
        self.tell_all(Fact::Resume { generation, places, again: again.clone(), decided: decided_ids });
        let places = self.recovery.next_places.clone();
        self.resume(generation, places, &again, &decided, Vec::new());
    }

    /// A candidate may have failed for good while a lost node had chosen it for good, and only that node could know of both. A
    /// reader that runs again chooses again. Returns the candidate, and why it failed, if its reader does not.
    fn settle_races(&mut self, again: &BTreeSet<InstanceId>) -> Option<(InstanceId, String)> {
        for id in self.instance_ids() {
            if !self.recovery.is_lost(self.instance(id).place) {
                continue;
            }
            for input in 0..self.instance(id).inputs.len() {
                let winners = self.instance(id).inputs[input].winners.iter();
                let mut producers = winners.filter_map(|winner| Some(self.streams.get(*winner)?.instance));
                let loser = producers.find_map(|id| Some((id, self.instance(id).lost.clone()?)));
                if let Some(loser) = loser.filter(|_| self.instance(id).inputs[input].choice_settled) {
                    if !again.contains(&id) {
                        return Some(loser);
                    }
                    let state = &mut self.instance_mut(id).inputs[input];
                    state.winners.clear();
                    state.choice_settled = false;
                }
            }
        }
        None
    }

    /// Instances of lost nodes that nobody needs have ended with their nodes.
    fn bury_lost(&mut self, again: &BTreeSet<InstanceId>) {
        for id in self.instance_ids() {
            let instance = self.instance(id);
            let is_unneeded = instance.dropped || instance.released;
            if self.recovery.is_lost(instance.place) && !again.contains(&id) && is_unneeded && !instance.phase.ended() {
                self.drop_readers(id);
                self.end(id, true);
            }
        }
    }

    /// Whether the machine has been told to end its part, or has ended it.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, RunState::Running)
    }
}
