//! The part of a run on one node: its scheduler, and what follows from its decisions.
//!
//! Every node of a run has the whole plan and a machine that decides for the instances of this node. What a machine has
//! to tell others, and what only the driver's node can do, are [`Effect`]s for the caller: the driver, or the session of a
//! worker.

mod crossing;
pub(crate) mod fact_link;
pub(crate) mod names;
mod perform;
pub(crate) mod plan;

use crate::node::Guest;
use crate::notice::{Notice, Remark};
use crate::order::Order;
use crossing::{Crossings, Local};
use dflow_protocol::{Epoch, InstanceId, StreamId};
use dflow_scheduler::{Action, Event, Fact, Outcome, Place, PlanError, RunMachine};
use dflow_store::StreamCopy;
use plan::RunPlan;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

pub(crate) struct Part {
    plan: RunPlan,
    pub(crate) machine: RunMachine,
    pub(crate) guest: Guest,
    crossings: Crossings,
    /// The streams of every output of an instance of this node, by part.
    outputs: HashMap<(InstanceId, u32), Vec<StreamId>>,
    events: VecDeque<Event>,
    steps: VecDeque<Step>,
    /// Streams of which nothing is released for now.
    kept: HashSet<StreamId>,
    /// What the node had of its streams when another node was lost.
    stock: HashMap<StreamId, StreamCopy>,
    /// Sinks that could not be begun, with their attempts.
    failed_sinks: HashSet<(InstanceId, u32)>,
    pub(crate) wake_at: Option<Duration>,
}

/// Something to be done next.
enum Step {
    Action(Action),
    Order(Order),
}

/// What the caller has to do about a part of a run.
pub(crate) enum Effect {
    /// Tell these nodes.
    Tell { to: Vec<Place>, fact: Fact },
    /// Tell the driver, for its user.
    Remark(Remark),
    /// These nodes are lost: the run goes on without them.
    Forsake { places: Vec<Place> },
    /// Open a stream of a workflow input.
    OpenInput { stream: StreamId, epoch: Epoch, input: u32, part: u32, keep: bool },
    /// Begin a sink: the thread that writes an output. [`Part::sink_failed`] if it cannot be.
    BeginSink { instance: InstanceId, attempt: u32 },
    /// The run is over.
    Over,
}

impl Part {
    /// The part of a run for which this machine decides.
    ///
    /// # Errors
    /// If the plan cannot be carried out.
    pub(crate) fn new(plan: RunPlan, slots: &[u32], guest: Guest) -> Result<Self, PlanError> {
        let (machine, actions) = RunMachine::new(plan.workflow.clone(), plan.options(slots, guest.programs_ahead()))?;
        Ok(Self {
            crossings: Crossings::new(plan.place),
            plan,
            machine,
            guest,
            outputs: HashMap::new(),
            events: VecDeque::new(),
            steps: actions.into_iter().map(Step::Action).collect(),
            kept: HashSet::new(),
            stock: HashMap::new(),
            failed_sinks: HashSet::new(),
            wake_at: None,
        })
    }

    /// Something has happened to the run.
    pub(crate) fn push(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// A sink could not be begun.
    pub(crate) fn sink_failed(&mut self, instance: InstanceId, attempt: u32, reason: String) {
        self.failed_sinks.insert((instance, attempt));
        self.failed(instance, attempt, reason);
    }

    /// Processes what has happened and its consequences, up to the next that concerns the caller. `None` when there is
    /// nothing left.
    pub(crate) fn next(&mut self) -> Option<Effect> {
        loop {
            let effect = match self.steps.pop_front() {
                Some(Step::Action(action)) => self.perform(action),
                Some(Step::Order(order)) => {
                    self.guest.obey(order);
                    None
                }
                None => match self.guest.next_notice() {
                    Some(notice) => self.noticed(notice),
                    None => {
                        if let Some(event) = self.events.pop_front() {
                            let actions = self.machine.handle(self.guest.elapsed(), event);
                            self.steps.extend(actions.into_iter().map(Step::Action));
                            continue;
                        }
                        self.guest.set_waiting_for_slot(self.machine.waiting_for_slot(self.plan.place));
                        self.guest.settle();
                        let notice = self.guest.next_notice()?;
                        self.noticed(notice)
                    }
                },
            };
            if effect.is_some() {
                return effect;
            }
        }
    }

    /// The plan.
    pub(crate) fn plan(&self) -> &RunPlan {
        &self.plan
    }

    /// The name of the node at a place.
    pub(crate) fn name_of(&self, place: Place) -> &str {
        self.plan.nodes.get(place as usize).map_or("", String::as_str)
    }

    /// Where an instance runs. Sinks run on the node that drives the run, because the outputs are written there.
    pub(crate) fn place_of(&self, instance: InstanceId) -> Place {
        self.machine.place(instance).unwrap_or(0)
    }

    fn noticed(&mut self, notice: Notice) -> Option<Effect> {
        let event = match notice {
            Notice::Remark(remark) => return Some(Effect::Remark(remark)),
            Notice::Event(Event::FirstBytes { stream, epoch }) => {
                let epoch = self.present_epoch(stream, epoch);
                Event::FirstBytes { stream, epoch }
            }
            Notice::Event(Event::Finished { stream, epoch, length }) => {
                let epoch = self.present_epoch(stream, epoch);
                Event::Finished { stream, epoch, length }
            }
            Notice::Event(Event::StoreFailed { reason }) if self.plan.place > 0 => {
                let reason = format!("node {}: {reason}", self.name_of(self.plan.place));
                Event::StoreFailed { reason }
            }
            Notice::Event(event) => event,
        };
        self.events.push_back(event);
        None
    }

    /// To this node, a stream that continues on another one is still the epoch in which it began.
    fn present_epoch(&self, stream: StreamId, epoch: Epoch) -> Epoch {
        match self.crossings.is_imported(stream, epoch) {
            true => self.machine.epoch(stream).unwrap_or(epoch),
            false => epoch,
        }
    }

    fn failed(&mut self, instance: InstanceId, attempt: u32, reason: String) {
        self.push(Event::Ended { instance, attempt, outcome: Outcome::Failed { reason } });
    }

    fn order(&mut self, order: Order) {
        self.guest.obey(order);
    }

    fn order_all(&mut self, orders: Local) {
        orders.into_iter().for_each(|order| self.guest.obey(order));
    }
}
