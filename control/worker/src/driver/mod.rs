//! The driver of a run: the loop between its scheduler and the nodes that take part.

mod ends;
mod finish;
pub(crate) mod journal;
pub(crate) mod local;
mod members;
mod placement;
mod plan;
pub(crate) mod preflight;
pub(crate) mod preview;
mod replacement;
mod spool;
mod unwritten;

use crate::cancel::{Cancellation, Request};
use crate::error::SetupError;
use crate::input::SeenFile;
use crate::node::Guest;
use crate::notice::{Record, Remark};
use crate::output::{Delivery, Destination, Staging};
use crate::part::plan::RunPlan;
use crate::part::{Effect, Part};
use crate::profiles;
use crate::report::{Progress, RunError, RunReport, Stopping};
use crate::spec::RunSpec;
use crate::time::nanos;
use dflow_protocol::{InstanceId, RunId};
use dflow_scheduler::{Event, InstanceKind, InstanceState, InstanceView, Place, RunState};
use dflow_workflow::Workflow;
use finish::Unpublished;
use journal::{Journal, Output, Update};
use local::LocalNode;
use members::{Members, News};
use preflight::{Checked, Prepared};
use replacement::Replacements;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// How often progress is reported.
const TICK: Duration = Duration::from_millis(100);
/// How long the loop sleeps when no timer is set.
const FAR: Duration = Duration::from_secs(3600);
/// The most remarks that are kept until their instance is known.
const MAX_EARLY: usize = 4096;
/// How long other nodes are waited for to end what a cancelled run has there, once its functions have had their grace.
const FAREWELL: Duration = Duration::from_secs(1);
/// Runs a workflow that was prepared with the same `spec`, and waits for its end. `observe` is called for each [`Update`],
/// and the run waits for it.
///
/// A cancelled run ends when its functions have ended, at the latest when their grace is over. Whatever happens, no process
/// and no memory of the run is left when this returns.
///
/// # Errors
/// If the run could not be started. A run that started and failed is an `Ok` whose report says so.
pub fn run(
    spec: &RunSpec,
    prepared: Prepared,
    cancellation: Cancellation,
    observe: impl FnMut(Update<'_>),
) -> Result<RunReport, SetupError> {
    let Prepared { checked, launcher } = prepared;
    let system = |what| move |source| SetupError::System { what, source };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("start the event loop"))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        LocalNode::with_launcher(&spec.options, launcher)?.drive(spec, checked, cancellation, observe).await
    })
}

pub(crate) struct Driver<'a> {
    pub(crate) spec: &'a RunSpec,
    pub(crate) workflow: Arc<Workflow>,
    pub(crate) checked: Checked,
    pub(crate) id: RunId,
    /// Until the run is over.
    pub(crate) destination: Option<Destination>,
    /// The part of the run on this node.
    pub(crate) part: Part,
    /// The other nodes, if there are any.
    pub(crate) members: Option<Members>,
    pub(crate) records: HashMap<(InstanceId, u32), Record>,
    /// Processes that held the outputs of an attempt open.
    pub(crate) held_open: HashMap<(InstanceId, u32), String>,
    /// Attempts that wait for slots which other runs hold.
    queued: BTreeSet<(InstanceId, u32)>,
    /// Remarks about instances that are not known here yet.
    early: Vec<(Place, Remark)>,
    /// Why the run was cancelled, if it was.
    pub(crate) cancelled: Option<String>,
    /// When the last function has had its grace, once the run is to end.
    ends_by: Option<Duration>,
    /// What the user should know, from threads that read inputs; and where they say it.
    notes: mpsc::Receiver<String>,
    pub(crate) notes_from: mpsc::Sender<String>,
    /// The nodes that were lost, and what the run says of each.
    lost: Vec<(String, String)>,
    replacements: Replacements,
    /// When a cancelled run stops waiting for other nodes.
    leave_at: Option<Duration>,
    pub(crate) over: bool,
    pub(crate) journal: Journal,
}

impl<'a> Driver<'a> {
    fn new(
        spec: &'a RunSpec,
        mut checked: Checked,
        id: RunId,
        plan: RunPlan,
        host: Guest,
        mut members: Option<Members>,
    ) -> Result<Self, SetupError> {
        let workflow = Arc::clone(&spec.workflow);
        let slots = members.as_ref().map(Members::slots).unwrap_or_default();
        let all: Vec<u32> = std::iter::once(spec.options.slots).chain(slots.iter().copied()).collect();
        let demand = placement::Demand::of(spec, &checked.learned);
        let all_have = |function| members.as_ref().is_none_or(|members| members.all_have(function));
        let placement = placement::plan(spec, &checked, &all, all_have);
        let planned = placement::planned_note(spec, &demand, &placement);
        let of_others = placement::slot_notes(spec, &placement, &all).into_iter();
        let of_others: Vec<String> = of_others.filter(|note| !checked.notes.contains(note)).collect();
        checked.notes.extend(planned.iter().cloned().chain(of_others));
        let plan = RunPlan { placement, ..plan };
        let part = Part::new(plan, &all, host)?;
        // The last step that can fail, so that a refused run creates no directory.
        let destination = match spec.output_folder()? {
            Some(target) => Destination::Folder(Box::new(Staging::create(target, &id.to_string())?)),
            None => Destination::Stdout(Delivery::create(&spec.options.spill_dir).map_err(|source| {
                SetupError::System { what: "create a file in the spill directory for the output", source }
            })?),
        };
        if let Some(members) = &mut members {
            members.begin(&all, part.guest.elapsed(), &part.plan().placement);
        }
        let (notes_from, notes) = mpsc::channel();
        let mut driver = Self {
            spec,
            workflow,
            checked,
            id,
            destination: Some(destination),
            part,
            members,
            records: HashMap::new(),
            held_open: HashMap::new(),
            queued: BTreeSet::new(),
            early: Vec::new(),
            cancelled: None,
            ends_by: None,
            notes,
            notes_from,
            lost: Vec::new(),
            replacements: Replacements::default(),
            leave_at: None,
            over: false,
            journal: Journal::begin(&spec.record, &id.to_string(), &spec.workflow.name),
        };
        tracing::info!(
            run = %id, workflow = driver.workflow.name, nodes = driver.part.plan().nodes.len(),
            slots = spec.options.slots, output = ?spec.output, "the run begins"
        );
        if let Some(note) = planned {
            driver.journal.note(note);
        }
        Ok(driver)
    }

    async fn drive(
        mut self,
        mut cancellation: Cancellation,
        mut observe: impl FnMut(Update<'_>),
    ) -> Result<RunReport, SetupError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.settle();
        self.journal.hand_on(&mut observe);
        while !self.over {
            let elapsed = self.part.guest.elapsed();
            let [alarm, leave] =
                [self.part.wake_at, self.leave_at].map(|at| at.map_or(FAR, |at| at.saturating_sub(elapsed)));
            tokio::select! {
                () = self.part.guest.changed() => {}
                () = changed(self.members.as_ref()) => {}
                () = tokio::time::sleep(alarm) => {
                    if self.part.wake_at.take().is_some() {
                        self.part.push(Event::TimerFired);
                    }
                }
                () = tokio::time::sleep(leave) => {
                    if self.leave_at.take().is_some() {
                        self.leave_late_nodes();
                    }
                }
                _ = tick.tick() => {
                    self.take_notes(&mut observe);
                    self.members.iter_mut().for_each(Members::tick);
                    observe(Update::Progress(&self.progress()));
                }
                request = cancellation.requested() => self.cancel(request),
            }
            self.settle();
            self.journal.hand_on(&mut observe);
        }
        self.finish(observe).await
    }

    fn cancel(&mut self, request: Request) {
        let Request { reason, at_once } = request;
        tracing::info!(reason, at_once, "the run is cancelled");
        if self.cancelled.is_none() {
            self.part.push(Event::Cancel { reason: reason.clone() });
            self.cancelled = Some(reason.clone());
            // Now, so that it is known what was told to end.
            self.settle();
            let grace = self.ends_by.map_or(Duration::ZERO, |at| at.saturating_sub(self.part.guest.elapsed()));
            self.leave_at = Some(self.part.guest.elapsed() + grace + FAREWELL);
        }
        if at_once {
            self.leave_at = None;
            self.part.guest.kill_all(&reason);
            self.leave_late_nodes();
        }
    }

    /// How long the functions that are being ended may take at the most.
    fn longest_grace(&self) -> Duration {
        let stopping = self.part.machine.instances().filter(|view| view.state == InstanceState::Stopping);
        let grace = |view: InstanceView<'_>| match view.kind {
            InstanceKind::Function(function) => Some(self.workflow.function(function).grace),
            InstanceKind::Sink { .. } => None,
        };
        stopping.filter_map(grace).max().unwrap_or_default()
    }

    /// Processes everything that has happened, and its consequences, until there are none left.
    fn settle(&mut self) {
        loop {
            for news in self.news() {
                match news {
                    News::Facts(from, facts) => {
                        facts.into_iter().for_each(|fact| self.part.push(Event::Fact { from, fact }));
                    }
                    News::Remark(place, remark) => self.heard(place, remark),
                    News::Lost { node, place, reason } => self.node_lost(&node, place, &reason),
                }
            }
            if self.ends_by.is_none() && matches!(self.part.machine.state(), RunState::Failing { .. }) {
                self.ends_by = Some(self.part.guest.elapsed() + self.longest_grace());
            }
            match self.part.next() {
                Some(effect) => self.take(effect),
                None => break,
            }
        }
        for (place, remark) in std::mem::take(&mut self.early) {
            self.heard(place, remark);
        }
        self.members.iter_mut().for_each(Members::flush);
    }

    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::Tell { to, fact } => {
                if let Some(members) = &mut self.members {
                    to.into_iter().for_each(|place| members.tell(place, fact.clone()));
                }
            }
            Effect::Remark(remark) => self.heard(0, remark),
            Effect::OpenInput { stream, epoch, input, part, keep } => self.open_input(stream, epoch, input, part, keep),
            Effect::BeginSink { instance, attempt } => self.begin_sink(instance, attempt),
            // Its loss was reported to this node, which has told the others.
            Effect::Forsake { .. } => {}
            Effect::Over => self.over = true,
        }
    }

    /// News from the other nodes.
    fn news(&mut self) -> Vec<News> {
        let Some(members) = &mut self.members else { return Vec::new() };
        members.take_news()
    }

    /// A node is lost, with its attempts and streams. The run goes on without it.
    fn node_lost(&mut self, node: &str, place: Place, reason: &str) {
        let reason = format!("node {node} is lost: {reason}");
        tracing::warn!(run = %self.id, node, reason, "a node of the run is lost");
        if matches!(self.part.machine.state(), RunState::Running) {
            let note = format!("{reason}; what was there and is still needed runs again on other nodes");
            self.journal.note(note.clone());
            self.checked.notes.push(note);
        }
        self.lost.push((node.to_owned(), reason.clone()));
        let members = self.members.as_ref();
        let slots: Vec<u32> =
            std::iter::once(self.spec.options.slots).chain(members.map(Members::slots).unwrap_or_default()).collect();
        let has = |place, function| members.is_none_or(|members| members.has(place, function));
        let placement = &self.part.plan().placement;
        let places = self.replacements.lose(place, self.spec, placement, &slots, has);
        self.part.push(Event::NodeLost { place, reason, places });
    }

    /// Stops waiting for nodes on which a cancelled run still has attempts. They have been told, and end their part
    /// when they read that, or when they find that this node is gone.
    fn leave_late_nodes(&mut self) {
        let Some(members) = &mut self.members else { return };
        let late = members.places().filter(|place| !self.part.machine.is_emptied(*place));
        for place in late.collect::<Vec<_>>() {
            members.leave(place);
            let reason = "its node has not reported its end in time".to_owned();
            self.part.push(Event::NodeLost { place, reason, places: Vec::new() });
        }
    }

    /// Takes note of what has happened on a node.
    fn heard(&mut self, place: Place, remark: Remark) {
        if self.replacements.is_lost(place) {
            return;
        }
        if self.part.machine.kind(remark.instance()).is_none() && self.early.len() < MAX_EARLY {
            // The node that has discovered the instance is yet to be heard.
            return self.early.push((place, remark));
        }
        match remark {
            Remark::Queued { instance, attempt } => _ = self.queued.insert((instance, attempt)),
            Remark::Started { instance, attempt } => _ = self.queued.remove(&(instance, attempt)),
            Remark::Parked { instance, attempt } if place > 0 => self.part.push(Event::Parked { instance, attempt }),
            Remark::Resumed { instance, attempt } if place > 0 => self.part.push(Event::Resumed { instance, attempt }),
            Remark::Ended { instance, attempt, record } => {
                self.records.insert((instance, attempt), record);
                self.queued.remove(&(instance, attempt));
                if let Some(view) = self.part.machine.view(instance) {
                    tracing::debug!(
                        instance = view.name,
                        attempt,
                        node = self.part.name_of(place),
                        read = record.read,
                        written = record.written,
                        "the attempt has ended"
                    );
                    self.journal.ended(view.name, attempt);
                }
            }
            Remark::HeldOpen { instance, attempt, by } => {
                if let Some(view) = self.part.machine.view(instance).filter(|view| view.attempt == attempt) {
                    self.journal.note(format!("`{}` has ended; {by} holds its output", view.name));
                    self.held_open.insert((instance, attempt), by);
                }
            }
            Remark::Printed { instance, attempt, bytes, lost } => {
                // A node that misbehaves may name attempts that there never were.
                if let Some(view) = self.part.machine.view(instance)
                    && (1..=view.attempt.max(1)).contains(&attempt)
                {
                    self.journal.printed(Output { instance: view.name, attempt, bytes, lost });
                }
            }
            Remark::Parked { .. } | Remark::Resumed { .. } => {}
        }
    }

    /// What threads that read inputs say.
    fn take_notes(&mut self, observe: &mut impl FnMut(Update<'_>)) {
        for note in self.notes.try_iter() {
            observe(Update::Note(&note));
            self.checked.notes.push(note);
        }
    }

    fn progress(&self) -> Progress {
        let counts = self.part.machine.counts();
        let now = self.part.guest.elapsed();
        let stopping = self.ends_by.map(|at| {
            let is_stopping = |view: &InstanceView<'_>| {
                view.state == InstanceState::Stopping && matches!(view.kind, InstanceKind::Function(_))
            };
            let functions = self.part.machine.instances().filter(is_stopping).count();
            Stopping { functions, left_ns: nanos(at.saturating_sub(now)) }
        });
        Progress {
            stopping,
            elapsed_ns: nanos(self.part.guest.elapsed()),
            waiting: counts.waiting + counts.preparing + counts.ready + counts.pausing,
            running: counts.running.saturating_sub(self.queued.len()),
            queued: self.queued.len(),
            parked: counts.parked,
            ended: counts.ended + counts.unread + counts.lost + counts.skipped,
            bytes: self.part.guest.written(),
            memory: self.part.guest.memory(),
            active: self.part.guest.active(),
        }
    }

    /// Publishes the outputs if the run has succeeded, and creates the report.
    async fn finish(mut self, mut observe: impl FnMut(Update<'_>)) -> Result<RunReport, SetupError> {
        self.take_notes(&mut observe);
        for note in SeenFile::changes(&self.checked.seen) {
            observe(Update::Note(&note));
            self.checked.notes.push(note);
        }
        let destination = self.destination.take();
        let mut failure = match self.part.machine.state() {
            RunState::Failed { instance, reason } => {
                let view = instance.and_then(|id| self.part.machine.view(id));
                let node = match &view {
                    Some(view) => self.members.is_some().then(|| self.part.name_of(view.place).to_owned()),
                    None => {
                        let mut lost = std::mem::take(&mut self.lost).into_iter().rev();
                        lost.find(|(_, why)| reason.starts_with(why.as_str())).map(|(node, _)| node)
                    }
                };
                let part_name = view.as_ref().and_then(|view| self.part_name(view));
                Some(RunError { instance: view.map(|view| view.name), part_name, node, reason: reason.clone() })
            }
            _ => None,
        };
        let (mut outputs, mut unpublished) = (Vec::new(), None);
        if failure.is_none()
            && let Some(destination) = destination
        {
            match self.publish(destination) {
                Ok(published) => {
                    outputs = published;
                    for note in self.unwritten_outputs() {
                        observe(Update::Note(&note));
                        self.checked.notes.push(note);
                    }
                }
                Err(Unpublished { reason, kept }) => {
                    unpublished = kept;
                    failure = Some(RunError { instance: None, part_name: None, node: None, reason });
                }
            }
        }
        let took = self.part.guest.elapsed();
        // Nobody waits for the outputs meanwhile. The routes still exist, so no member has lost one that it is asked about.
        if let Some(members) = &mut self.members {
            members.sum_up(&mut self.part.guest).await;
        }
        let report = RunReport { unpublished, ..self.report(failure, outputs, took) };
        tracing::info!(run = %self.id, state = ?report.state, ?took, outputs = report.outputs.len(), "the run has ended");
        if let Some(records) = &self.spec.record.folder {
            profiles::learn(records, &self.workflow, &report);
        }
        self.journal.finish(&report, &mut observe);
        Ok(report)
    }
}

async fn changed(members: Option<&Members>) {
    match members {
        Some(members) => members.changed().await,
        None => std::future::pending().await,
    }
}
