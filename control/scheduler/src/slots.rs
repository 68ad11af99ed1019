//! Which instances run. An instance holds slots of its node from its start to its end, except while it is parked.
//!
//! Among the instances that could start, the one furthest downstream comes first: it consumes what upstream has already
//! written, so that less must stay in memory or be spilled. A large instance that does not fit does not hold up smaller
//! ones; it starts at the latest when all others are parked or have ended.

use crate::action::Action;
use crate::fact::Fact;
use crate::machine::RunMachine;
use crate::options::Place;
use crate::plan::NodeId;
use crate::record::AttemptRecord;
use crate::state::Phase;
use dflow_protocol::InstanceId;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

/// Depth, deepest first; then the id.
type Priority = (Reverse<u32>, InstanceId);

/// The instances, indexed for slot decisions.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Attempts that have a process, and sinks at work.
    live: usize,
    pausing: usize,
    /// Attempts that make progress on their own: neither parked nor waiting for a gate or a slot.
    moving: usize,
    /// Functions that are ready.
    ready: usize,
    /// Sinks that can start. They hold no slots.
    sinks: BTreeSet<InstanceId>,
    /// Sinks at work.
    sinking: usize,
    places: Vec<PlaceSlots>,
}

/// The same for one node.
#[derive(Clone, Debug, Default)]
struct PlaceSlots {
    /// Functions and sinks that wait for their program to be made ready, producers before consumers.
    waiting: BTreeSet<(NodeId, InstanceId)>,
    /// The functions among them whose gate is open.
    gated: BTreeSet<Priority>,
    /// Functions that are ready and whose gate is open.
    startable: BTreeSet<Priority>,
    /// Functions that are ready or being prepared.
    prepared: usize,
    /// Those among them whose gate is open, and the slots that they will take.
    claims: usize,
    claimed: u64,
    /// Functions that are started, those among them that are not parked, and the slots that the latter hold.
    started: usize,
    running: usize,
    used: u64,
}

impl Slots {
    pub(crate) fn new(places: usize) -> Self {
        let places = vec![PlaceSlots::default(); places];
        Self { live: 0, pausing: 0, moving: 0, ready: 0, sinks: BTreeSet::new(), sinking: 0, places }
    }

    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Whether something will happen without further action: a process works, starts or dies, or a back-off ends.
    pub(crate) fn busy(&self) -> bool {
        self.live > self.ready || self.pausing > 0
    }

    /// Whether nothing makes progress on its own, except sinks that drain their streams and instances that may be
    /// parked for good.
    pub(crate) fn still(&self) -> bool {
        self.moving == 0
    }

    pub(crate) fn nothing_waits(&self) -> bool {
        self.ready == 0 && self.places.iter().all(|place| place.waiting.is_empty())
    }

    pub(crate) fn used(&self, place: Place) -> u64 {
        self.places.get(place as usize).map_or(0, |slots| slots.used)
    }
}

impl RunMachine {
    /// The attempts at a place that can start and only wait for a slot; few, because programs are not prepared far
    /// ahead.
    pub fn waiting_for_slot(&self, place: Place) -> impl Iterator<Item = (InstanceId, u32)> {
        let startable = self.slots.places.get(place as usize).into_iter().flat_map(|slots| &slots.startable);
        startable.map(|(_, id)| (*id, self.instance(*id).attempt))
    }

    /// Starts instances and prepares programs as far as slots and limits allow. Returns whether it did anything.
    pub(crate) fn fill_slots(&mut self) -> bool {
        let mut done = false;
        while let Some(sink) = self.next_sink() {
            self.begin_record(sink);
            self.start(sink);
            done = true;
        }
        let places = self.here().map_or(0..self.slots.places.len(), |here| here as usize..here as usize + 1);
        for place in places.clone() {
            while let Some(instance) = self.next_start(place) {
                self.start(instance);
                done = true;
            }
        }
        for place in places {
            while let Some(instance) = self.next_gated(place).or_else(|| self.next_ahead(place)) {
                self.prepare(instance);
                done = true;
            }
        }
        done
    }

    pub(crate) fn set_phase(&mut self, id: InstanceId, phase: Phase) {
        self.clear_timer(id);
        self.count(id, false);
        let gate = matches!(phase, Phase::Waiting | Phase::Preparing | Phase::Ready);
        let instance = self.instance_mut(id);
        instance.phase = phase;
        instance.gate_open &= gate;
        self.count(id, true);
    }

    pub(crate) fn set_gate(&mut self, id: InstanceId, open: bool) {
        if self.instance(id).gate_open != open {
            self.count(id, false);
            self.instance_mut(id).gate_open = open;
            self.count(id, true);
        }
    }

    pub(crate) fn set_timer(&mut self, id: InstanceId, at: Duration) {
        self.clear_timer(id);
        self.instance_mut(id).timer = Some(at);
        self.timers.insert((at, id));
    }

    pub(crate) fn clear_timer(&mut self, id: InstanceId) {
        if let Some(at) = self.instance_mut(id).timer.take() {
            self.timers.remove(&(at, id));
        }
    }

    fn start(&mut self, id: InstanceId) {
        if self.plan.nodes[self.instance(id).node].is_sink() {
            self.attach_all(id);
        }
        self.set_phase(id, Phase::Running { parked: false });
        self.record(id, |record, now| record.started = Some(now));
        if !self.instance(id).settled {
            // This may have been the last condition that kept others from being released.
            self.todo.unread.insert(id);
        }
        let attempt = self.instance(id).attempt;
        if !self.leads() {
            self.tell_coordinator(Fact::Started { instance: id, attempt });
        }
        self.actions.push(Action::Start { instance: id, attempt });
    }

    fn prepare(&mut self, id: InstanceId) {
        self.set_phase(id, Phase::Preparing);
        self.begin_record(id);
        let attempt = self.instance(id).attempt;
        self.actions.push(Action::Prepare { instance: id, attempt });
        self.attach_all(id);
        self.update_gate(id);
    }

    fn begin_record(&mut self, id: InstanceId) {
        let (now, attempt, place) = (self.now, self.instance(id).attempt, self.instance(id).place);
        AttemptRecord::push(&mut self.instance_mut(id).records, AttemptRecord::new(attempt, place, now));
    }

    /// The next sink to start. Sinks run at the first node. Nothing waits for a sink, and bytes without one go to disk,
    /// so limiting their number cannot deadlock: each ends with its stream and makes room for another.
    fn next_sink(&self) -> Option<InstanceId> {
        let most = self.options.places.first().map_or(1, |place| place.max_started.max(1));
        self.slots.sinks.first().copied().filter(|_| self.slots.sinking < most as usize)
    }

    fn next_start(&self, place: usize) -> Option<InstanceId> {
        let (slots, options) = (&self.slots.places[place], &self.options.places[place]);
        let may_start = slots.started < options.max_started as usize || slots.running == 0;
        if !may_start || slots.used >= u64::from(options.slots) {
            return None;
        }
        slots.startable.iter().map(|(_, id)| *id).find(|id| self.fits(*id, slots.used))
    }

    /// The next instance to prepare whose gate is open: within the limit of programs prepared ahead, or beyond it if it
    /// could start at once.
    fn next_gated(&self, place: usize) -> Option<InstanceId> {
        let (slots, options) = (&self.slots.places[place], &self.options.places[place]);
        if slots.prepared < options.prepare_ahead as usize {
            return slots.gated.first().map(|(_, id)| *id);
        }
        let taken = slots.used + slots.claimed;
        let may_start =
            slots.started + slots.claims < options.max_started as usize || (slots.running == 0 && slots.claims == 0);
        if !may_start || taken >= u64::from(options.slots) {
            return None;
        }
        slots.gated.iter().map(|(_, id)| *id).find(|id| self.fits(*id, taken))
    }

    fn next_ahead(&self, place: usize) -> Option<InstanceId> {
        let slots = &self.slots.places[place];
        if slots.prepared >= self.options.places[place].prepare_ahead as usize {
            return None;
        }
        // Sinks sort after all functions and are not prepared.
        slots.waiting.first().filter(|(node, _)| self.plan.nodes[*node].is_function()).map(|(_, id)| *id)
    }

    /// Whether its node has enough slots left for it when `taken` are in use.
    fn fits(&self, id: InstanceId, taken: u64) -> bool {
        taken + self.need(id) <= u64::from(self.options.places[self.instance(id).place as usize].slots)
    }

    /// The slots that it holds while it computes. An instance that asks for more than the node has gets all of them.
    fn need(&self, id: InstanceId) -> u64 {
        let instance = self.instance(id);
        u64::from(self.plan.nodes[instance.node].slots.min(self.options.places[instance.place as usize].slots))
    }

    /// Adds an instance to the counters and sets, or removes it before something about it changes.
    fn count(&mut self, id: InstanceId, add: bool) {
        if !self.owns(id) {
            return;
        }
        let instance = &self.instances[id];
        let node = &self.plan.nodes[instance.node];
        let need = self.need(id);
        let slots = &mut self.slots;
        let place = &mut slots.places[instance.place as usize];
        let priority = (Reverse(node.depth), id);
        let adjust = |count: &mut usize| if add { *count += 1 } else { *count -= 1 };
        let moving = match instance.phase {
            Phase::Pausing | Phase::Preparing | Phase::Stopping { .. } => true,
            Phase::Running { parked } => !parked && node.is_function(),
            Phase::Idle | Phase::Waiting | Phase::Ready | Phase::Ended { .. } => false,
        };
        if moving {
            adjust(&mut slots.moving);
        }
        match instance.phase {
            Phase::Idle | Phase::Ended { .. } => {}
            Phase::Pausing => adjust(&mut slots.pausing),
            Phase::Waiting => {
                put(&mut place.waiting, (instance.node, id), add);
                match (instance.gate_open, node.is_sink()) {
                    (false, _) => {}
                    (true, true) => put(&mut slots.sinks, id, add),
                    (true, false) => put(&mut place.gated, priority, add),
                }
            }
            Phase::Preparing | Phase::Ready => {
                adjust(&mut slots.live);
                adjust(&mut place.prepared);
                if instance.phase == Phase::Ready {
                    adjust(&mut slots.ready);
                }
                if instance.gate_open {
                    adjust(&mut place.claims);
                    place.claimed = if add { place.claimed + need } else { place.claimed - need };
                    if instance.phase == Phase::Ready {
                        put(&mut place.startable, priority, add);
                    }
                }
            }
            Phase::Running { parked } | Phase::Stopping { started: true, parked } => {
                adjust(&mut slots.live);
                if node.is_function() {
                    adjust(&mut place.started);
                    if !parked {
                        adjust(&mut place.running);
                        place.used = if add { place.used + need } else { place.used - need };
                    }
                } else {
                    adjust(&mut slots.sinking);
                }
            }
            Phase::Stopping { started: false, .. } => adjust(&mut slots.live),
        }
    }
}

fn put<T: Ord>(set: &mut BTreeSet<T>, item: T, add: bool) {
    if add {
        set.insert(item);
    } else {
        set.remove(&item);
    }
}
