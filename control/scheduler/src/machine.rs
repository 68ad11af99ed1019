//! The run state machine: its public interface, and the loop that restores its invariants after each event.

use crate::action::Action;
use crate::event::Event;
use crate::fact::Fact;
use crate::options::{Excess, Place, PlanError, RunOptions};
use crate::plan::{Edge, NodeId, NodeKind, Plan, SwitchPlan};
use crate::recovery::Recovery;
use crate::release::Proposals;
use crate::scope::Others;
use crate::slots::Slots;
use crate::state::{Changed, Decision, Instance, NodeState, Phase, PortList, Status, Stream, SwitchState};
use crate::table::Table;
use dflow_protocol::{InstanceId, StreamId};
use dflow_workflow::Workflow;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// One run of a workflow: takes events, returns actions, decides everything in between.
///
/// The machine has no clock, no threads and no randomness: the same events at the same times give the same actions.
/// Times are counted from the start of the run.
pub struct RunMachine {
    pub(crate) plan: Arc<Plan>,
    pub(crate) options: RunOptions,
    pub(crate) now: Duration,
    pub(crate) state: RunState,
    pub(crate) nodes: Vec<NodeState>,
    pub(crate) instances: Table<InstanceId, Instance>,
    pub(crate) streams: Table<StreamId, Stream>,
    pub(crate) switches: Vec<SwitchState>,
    pub(crate) subscriptions: usize,
    pub(crate) excess: Option<Excess>,
    pub(crate) slots: Slots,
    pub(crate) timers: BTreeSet<(Duration, InstanceId)>,
    announced_timer: Option<Duration>,
    /// Every instance before this index is final.
    pub(crate) final_until: usize,
    /// If the machine decides for one node: what it keeps of the others.
    pub(crate) others: Option<Others>,
    pub(crate) proposals: Proposals,
    pub(crate) recovery: Recovery,
    pub(crate) todo: Todo,
    pub(crate) actions: Vec<Action>,
}

/// The state of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It continues.
    Running,
    /// It has failed and waits until none of its processes is left.
    Failing {
        /// The instance that failed, if it was one.
        instance: Option<InstanceId>,
        /// Why.
        reason: String,
    },
    /// It has failed.
    Failed {
        /// The instance that failed, if it was one.
        instance: Option<InstanceId>,
        /// Why.
        reason: String,
    },
    /// It has succeeded.
    Committed,
}

/// The work that an event has caused and that must be done before the machine returns.
#[derive(Debug, Default)]
pub(crate) struct Todo {
    /// What other nodes have told of instances that are known only now. It was said before anything that follows.
    pub(crate) facts: VecDeque<(Place, Fact)>,
    /// Instances that have read a void epoch. Always handled first, so that no other decision depends on outdated
    /// lists.
    pub(crate) restarts: VecDeque<(InstanceId, String)>,
    /// The decision of a switch has changed.
    pub(crate) statuses: bool,
    /// Instances whose inputs, gate or existence may have changed.
    pub(crate) dirty: VecDeque<InstanceId>,
    /// Nodes that may have become settled, wholly or in part.
    pub(crate) nodes: BTreeSet<NodeId>,
    /// Instances that may have become settled.
    pub(crate) settle: BTreeSet<InstanceId>,
    /// Switches whose decision may have become settled.
    pub(crate) switches: BTreeSet<usize>,
    /// A list of parts has become complete, which may concern every instance that has ended: re-examine them all.
    pub(crate) endings: bool,
    /// Instances that may have lost their last reader, or may be the last reader of others.
    pub(crate) unread: BTreeSet<InstanceId>,
}

impl RunMachine {
    /// A run of `workflow`, with the actions that start it.
    ///
    /// # Errors
    /// [`PlanError`] if the options do not fit the workflow, or it expands to more than a run may have.
    pub fn new(workflow: Arc<Workflow>, options: RunOptions) -> Result<(Self, Vec<Action>), PlanError> {
        let plan = Arc::new(Plan::new(workflow, &options)?);
        let mut machine = Self {
            slots: Slots::new(options.places.len()),
            options,
            now: Duration::ZERO,
            state: RunState::Running,
            nodes: plan.nodes.iter().map(NodeState::new).collect(),
            instances: Table::new(),
            streams: Table::new(),
            switches: plan.switches.iter().map(|switch| SwitchState::new(&plan, switch)).collect(),
            subscriptions: 0,
            excess: None,
            timers: BTreeSet::new(),
            announced_timer: None,
            final_until: 0,
            others: None,
            proposals: Proposals::default(),
            recovery: Recovery::default(),
            todo: Todo::default(),
            actions: Vec::new(),
            plan,
        };
        if machine.here().is_some() {
            let places = machine.options.places.len();
            machine.others = Some(Others::new(machine.audiences(), places));
        }
        machine.expand_statically();
        if let Some(excess) = machine.excess {
            return Err(PlanError::TooLarge { what: excess.what(), limit: excess.limit() });
        }
        machine.bring_in_order();
        machine.finish_failing();
        machine.say_quiet();
        let actions = std::mem::take(&mut machine.actions);
        Ok((machine, actions))
    }

    /// Handles an event that happened at `now` and returns the resulting actions, in the order in which to carry them
    /// out. Time never moves backwards: an earlier `now` counts as the time of the latest event. After
    /// [`Action::Committed`] or [`Action::RunFailed`] there are no further actions.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        match self.state {
            RunState::Running if self.recovery.is_frozen() => self.handle_frozen(event),
            RunState::Running => {
                self.dispatch(event);
                self.restore_order();
            }
            RunState::Failing { .. } => match event {
                Event::Ended { instance, attempt, outcome } => self.ended_while_failing(instance, attempt, outcome),
                Event::Fact { from, fact: Fact::Emptied } => self.on_emptied(from),
                Event::NodeLost { place, reason, .. } => self.on_node_lost(place, &reason),
                Event::Fact { from, fact: fact @ Fact::Recorded { .. } } => self.on_fact(from, fact),
                _ => {}
            },
            RunState::Failed { .. } | RunState::Committed => {}
        }
        self.finish_failing();
        self.say_quiet();
        std::mem::take(&mut self.actions)
    }

    /// The state of the run.
    #[must_use]
    pub fn state(&self) -> &RunState {
        &self.state
    }

    pub(crate) fn dispatch(&mut self, event: Event) {
        match event {
            Event::Ready { instance, attempt } => self.on_ready(instance, attempt),
            Event::FirstBytes { stream, epoch } => self.on_first_bytes(stream, epoch),
            Event::Finished { stream, epoch, length } => self.on_finished(stream, epoch, length),
            Event::PartOpened { instance, attempt, output } => self.on_part_opened(instance, attempt, output),
            Event::PartsComplete { instance, attempt, output } => self.on_parts_complete(instance, attempt, output),
            Event::Value { stream, epoch, text } => self.on_value(stream, epoch, text),
            Event::Diverged { stream, epoch } => self.on_diverged(stream, epoch),
            Event::Ended { instance, attempt, outcome } => self.on_ended(instance, attempt, outcome),
            Event::Parked { instance, attempt } => self.on_parked(instance, attempt, true),
            Event::Resumed { instance, attempt } => self.on_parked(instance, attempt, false),
            Event::Started { instance, attempt } => self.on_started(instance, attempt),
            Event::Fact { from, fact } => self.on_fact(from, fact),
            Event::NodeLost { place, reason, places } if self.leads() => self.lose_node(place, &reason, places),
            Event::NodeLost { .. } => {}
            Event::Surveyed { copies } => self.on_surveyed(copies),
            Event::TimerFired => {
                self.announced_timer = None;
                self.on_timer();
            }
            Event::Cancel { reason } => self.fail_run(None, format!("the run was cancelled: {reason}")),
            Event::StoreFailed { reason } => self.fail_run(None, reason),
        }
    }

    /// Processes the consequences of an event, if the run goes on.
    pub(crate) fn restore_order(&mut self) {
        if matches!(self.state, RunState::Running) && !self.recovery.is_frozen() {
            self.bring_in_order();
        }
    }

    /// Processes the consequences of an event until there are none left.
    fn bring_in_order(&mut self) {
        while matches!(self.state, RunState::Running) {
            if let Some(excess) = self.excess {
                let reason =
                    format!("the run has grown to more than {} {}; open fewer parts", excess.limit(), excess.what());
                self.fail_run(None, reason);
            } else if let Some((from, fact)) = self.todo.facts.pop_front() {
                self.apply(from, fact);
            } else if let Some((instance, reason)) = self.todo.restarts.pop_front() {
                self.restart(instance, &reason);
            } else if std::mem::take(&mut self.todo.statuses) {
                self.refresh_statuses();
            } else if let Some(node) = self.todo.nodes.pop_first() {
                self.settle_node(node);
            } else if let Some(instance) = self.todo.dirty.pop_front() {
                self.instances[instance].queued = false;
                self.look_at(instance);
            } else if let Some(instance) = self.todo.settle.pop_first() {
                self.settle(instance);
            } else if let Some(switch) = self.todo.switches.pop_first() {
                self.settle_switch(switch);
            } else if std::mem::take(&mut self.todo.endings) {
                let ended = |id: &InstanceId| self.instance(*id).phase.ended() && !self.instance(*id).settled;
                let ended: Vec<InstanceId> = self.instance_ids().filter(ended).collect();
                self.todo.unread.extend(ended);
            } else if let Some(instance) = self.todo.unread.pop_first() {
                self.look_for_readers(instance);
            } else if self.recovery.is_resuming() || !self.fill_slots() {
                break;
            }
        }
        if matches!(self.state, RunState::Running) && !self.recovery.is_resuming() {
            self.check_end();
            self.announce_timer();
        }
    }

    /// Commits the run if nothing is left to do, and fails it if it can make no progress.
    fn check_end(&mut self) {
        if self.here().is_some() {
            self.check_end_everywhere();
            return;
        }
        if self.switches.iter().any(|switch| switch.decision == Decision::Reading) {
            return;
        }
        if self.slots.still()
            && let Some((instance, reason)) = self.dead_end()
        {
            self.fail_run(instance, reason);
        } else if !self.slots.busy() {
            let open = self.switches.iter().any(|switch| switch.decision == Decision::Open);
            if self.slots.nothing_waits() && !open {
                debug_assert!(self.is_complete(), "nothing is left to do, but not everything is final");
                self.state = RunState::Committed;
                self.actions.push(Action::Committed);
            } else {
                self.fail_run(None, self.why_stuck());
            }
        }
    }

    /// The same for the coordinator of a run that several nodes decide.
    fn check_end_everywhere(&mut self) {
        if !self.leads() {
            return;
        }
        if self.slots.still()
            && let Some((instance, reason)) = self.dead_end()
        {
            self.watch();
            if self.is_still() {
                self.fail_run(instance, reason);
                return;
            }
        }
        if self.slots.live() == 0 && self.is_complete() {
            self.state = RunState::Committed;
            self.actions.push(Action::Committed);
        }
    }

    /// A switch value without a case, or a fan-in with too few streams, fails the run once it is certain. It may never
    /// become certain when the instances that could still change it wait for something downstream; so it also fails the
    /// run when nothing makes progress.
    fn dead_end(&self) -> Option<(Option<InstanceId>, String)> {
        let no_case = self.switches.iter().find_map(|switch| match &switch.decision {
            Decision::NoCase(reason) => Some((None, reason.clone())),
            Decision::Open | Decision::Reading | Decision::Chosen(_) | Decision::Void => None,
        });
        let mut needy = self.plan.choosers.iter().copied();
        no_case.or_else(|| {
            needy.find_map(|node| {
                self.too_few_streams(node, true, |port| port.sources.iter().all(|source| self.source_complete(*source)))
            })
        })
    }

    fn why_stuck(&self) -> String {
        let waits = |id: &InstanceId| matches!(self.instance(*id).phase, Phase::Waiting | Phase::Ready);
        let names: Vec<String> = self.instance_ids().filter(waits).take(5).map(|id| self.name(id)).collect();
        format!("internal error: nothing runs and nothing can start; waiting: {}", names.join(", "))
    }

    fn announce_timer(&mut self) {
        let next = self.timers.first().map(|(at, _)| *at);
        if next.is_some() && next != self.announced_timer {
            self.announced_timer = next;
            self.actions.extend(next.map(Action::WakeAt));
        }
    }

    /// Fails the run: every living attempt is killed, and the run is over when the last of them is dead.
    pub(crate) fn fail_run(&mut self, instance: Option<InstanceId>, reason: String) {
        if !matches!(self.state, RunState::Running) {
            return;
        }
        match self.leads() {
            true => self.tell_all(Fact::Stop { reason: reason.clone() }),
            false => self.tell_coordinator(Fact::Failed { instance, reason: reason.clone() }),
        }
        self.end_run(instance, reason);
    }

    /// Ends the machine's part of a run that has failed.
    pub(crate) fn end_run(&mut self, instance: Option<InstanceId>, reason: String) {
        if !matches!(self.state, RunState::Running) {
            return;
        }
        let mut ends = self.take_ends_set_aside();
        for event in self.recovery.give_up() {
            if let Event::Ended { instance, attempt, outcome } = event
                && self.instances.get(instance).is_some_and(|it| it.attempt == attempt && it.phase.has_process())
            {
                ends.push((instance, attempt, outcome));
            }
        }
        for other in self.instance_ids() {
            if ends.iter().any(|(id, ..)| *id == other) {
                self.set_phase(other, Phase::Stopping { started: true, parked: false });
            } else if self.owns(other) && self.instance(other).phase.lives() {
                self.kill(other, "the run has failed");
            }
        }
        if self.leads() {
            self.stop_others();
        }
        self.timers.clear();
        self.todo = Todo::default();
        self.state = RunState::Failing { instance, reason };
        for (id, attempt, outcome) in ends {
            self.ended_while_failing(id, attempt, outcome);
        }
    }

    fn finish_failing(&mut self) {
        let others_left = match &self.others {
            Some(others) if self.leads() => self.options.places.len() - 1 > others.emptied.len(),
            Some(_) | None => false,
        };
        if let RunState::Failing { instance, reason } = &self.state
            && self.slots.live() == 0
            && !others_left
        {
            let (instance, reason) = (*instance, reason.clone());
            match self.leads() {
                true => self.actions.push(Action::RunFailed { instance, reason: reason.clone() }),
                false => self.tell_coordinator(Fact::Emptied),
            }
            self.state = RunState::Failed { instance, reason };
        }
    }

    /// An instance is to be looked at, with all its inputs.
    pub(crate) fn mark_dirty(&mut self, instance: InstanceId) {
        self.instance_mut(instance).changed = Changed::All;
        self.queue(instance);
    }

    /// An instance is to be looked at because something about this input has changed.
    pub(crate) fn mark_input(&mut self, instance: InstanceId, input: usize) {
        self.note_input(instance, input);
        self.queue(instance);
    }

    /// When the instance is looked at again, this input is as well.
    pub(crate) fn note_input(&mut self, instance: InstanceId, input: usize) {
        let state = self.instance_mut(instance);
        if let Changed::These(inputs) = &mut state.changed
            && !std::mem::replace(&mut state.inputs[input].noted, true)
        {
            inputs.push(input);
        }
    }

    /// Something about a source of this input has been undone: its list is shorter, or no longer complete.
    pub(crate) fn undo_source(&mut self, edge: Edge) {
        for instance in self.nodes[edge.node].instances.clone() {
            let state = self.instance_mut(instance);
            state.lists_undone = true;
            state.inputs[edge.input].complete_sources = 0;
            self.mark_input(instance, edge.input);
        }
    }

    fn queue(&mut self, instance: InstanceId) {
        let state = &mut self.instances[instance];
        if !std::mem::replace(&mut state.queued, true) {
            self.todo.dirty.push_back(instance);
        }
    }

    pub(crate) fn instance(&self, id: InstanceId) -> &Instance {
        &self.instances[id]
    }

    pub(crate) fn instance_mut(&mut self, id: InstanceId) -> &mut Instance {
        &mut self.instances[id]
    }

    pub(crate) fn stream(&self, id: StreamId) -> &Stream {
        &self.streams[id]
    }

    pub(crate) fn stream_mut(&mut self, id: StreamId) -> &mut Stream {
        &mut self.streams[id]
    }

    /// Whether the instance is part of the run: it exists, and no switch has skipped it or the stream that it exists
    /// for.
    pub(crate) fn is_wanted(&self, id: InstanceId) -> bool {
        let instance = self.instance(id);
        let active = |node: NodeId| self.nodes[node].status == Status::Active;
        instance.present
            && active(instance.node)
            && instance.each.is_none_or(|stream| active(self.instance(self.stream(stream).instance).node))
    }

    pub(crate) fn instance_ids(&self) -> impl Iterator<Item = InstanceId> + use<> {
        self.instances.ids()
    }

    /// All streams of an instance that ever existed.
    pub(crate) fn streams_of(&self, id: InstanceId) -> Vec<StreamId> {
        self.instance(id).outputs.iter().flat_map(|port| port.streams.iter().copied()).collect()
    }

    /// The phase of an attempt, if it is the present one and has not been asked to end. Every report of a process
    /// passes through here, because ids from outside may have any value.
    pub(crate) fn living(&self, id: InstanceId, attempt: u32) -> Option<Phase> {
        let instance = self.instances.get(id)?;
        (instance.attempt == attempt && instance.phase.lives() && self.owns(id)).then_some(instance.phase)
    }
}

impl NodeState {
    fn new(node: &crate::plan::Node) -> Self {
        let given = matches!(node.kind, NodeKind::Input(_));
        Self {
            status: if given { Status::Active } else { Status::Undecided },
            status_settled: given,
            instances: Vec::new(),
            order: Vec::new(),
            order_complete: false,
            members_settled: !node.foreach,
            ports: node.outputs.iter().map(|_| PortList::default()).collect(),
            present: 0,
            settled: 0,
            sealed: false,
        }
    }
}

impl SwitchState {
    fn new(plan: &Plan, switch: &SwitchPlan) -> Self {
        match switch {
            SwitchPlan::Port(_) => Self { decision: Decision::Open, settled: false, value: None, unverified: false },
            SwitchPlan::Param(functions) => {
                let chosen = functions.iter().map(|function| plan.node_of(*function)).collect();
                Self { decision: Decision::Chosen(chosen), settled: true, value: None, unverified: false }
            }
        }
    }
}
