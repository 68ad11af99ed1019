//! The instances of a run with their states and times, for progress and for the final report.

use crate::machine::{RunMachine, RunState};
use crate::options::Place;
use crate::part::PartPath;
use crate::plan::NodeKind;
use crate::record::AttemptRecord;
use crate::state::{Instance, Phase, Status};
use crate::table::Id;
use dflow_protocol::{Epoch, InstanceId, StreamId};
use dflow_workflow::FunctionId;
use std::time::Duration;

/// The kind of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceKind {
    /// A function of the workflow.
    Function(FunctionId),
    /// One stream of a workflow output: reads it and writes the file.
    Sink {
        /// Index of the output in [`dflow_workflow::Workflow::outputs`].
        output: u32,
        /// Index of the stream's source in the output's sources.
        source: u32,
    },
}

/// The state of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InstanceState {
    /// Its program is not being prepared yet, or a switch upstream is undecided.
    Waiting,
    /// Its program is being made ready.
    Preparing,
    /// Its program is ready.
    Ready,
    /// It computes.
    Running,
    /// It waits for data or credit.
    Parked,
    /// It is being ended, either to restart or because it is no longer needed.
    Stopping,
    /// It backs off before its next attempt.
    Pausing,
    /// It has ended successfully.
    Ended,
    /// It has ended, or was never started, because its outputs have no reader.
    Unread,
    /// A switch has not chosen it.
    Skipped,
    /// It has failed for good, and the fan-ins for which it was a candidate continue with others.
    Lost,
    /// It was ended because the run has failed; its last attempt says how.
    Stopped,
    /// Its part no longer exists: a new attempt opened fewer parts.
    Gone,
}

/// An instance as a report shows it.
#[derive(Clone, Debug)]
pub struct InstanceView<'a> {
    /// Its id.
    pub id: InstanceId,
    /// Its name: the name of the function, in a `foreach` with the part, as in `count[3]`; for a sink `output:` and the
    /// name of the workflow output.
    pub name: String,
    /// Its kind.
    pub kind: InstanceKind,
    /// The part, in a `foreach` or for a sink of an output with many streams.
    pub part: Option<&'a PartPath>,
    /// Where it runs, over all its attempts.
    pub place: Place,
    /// Its state.
    pub state: InstanceState,
    /// The present attempt, counted from 1; 0 before the first. It counts every epoch of its streams, so numbers for
    /// which no program was spawned are missing from `attempts`.
    pub attempt: u32,
    /// How many of its retries are spent.
    pub retries_used: u32,
    /// The attempts so far, at most the last [`MAX_RECORDS`](crate::limits::MAX_RECORDS).
    pub attempts: &'a [AttemptRecord],
}

/// The number of instances in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`InstanceState::Waiting`].
    pub waiting: usize,
    /// [`InstanceState::Preparing`].
    pub preparing: usize,
    /// [`InstanceState::Ready`].
    pub ready: usize,
    /// [`InstanceState::Running`].
    pub running: usize,
    /// [`InstanceState::Parked`].
    pub parked: usize,
    /// [`InstanceState::Stopping`].
    pub stopping: usize,
    /// [`InstanceState::Pausing`].
    pub pausing: usize,
    /// [`InstanceState::Ended`].
    pub ended: usize,
    /// [`InstanceState::Unread`].
    pub unread: usize,
    /// [`InstanceState::Lost`].
    pub lost: usize,
    /// [`InstanceState::Skipped`].
    pub skipped: usize,
    /// [`InstanceState::Stopped`].
    pub stopped: usize,
}

/// A stream of a workflow output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputStream {
    /// The sink that reads it.
    pub sink: InstanceId,
    /// The stream.
    pub stream: StreamId,
    /// Its present epoch.
    pub epoch: Epoch,
    /// Its length in bytes, once it is finished and known.
    pub length: Option<u64>,
}

impl RunMachine {
    /// All instances, functions and sinks, except those that are [`InstanceState::Gone`], by their ids. Ids are given
    /// in the order of appearance and are not dense.
    pub fn instances(&self) -> impl Iterator<Item = InstanceView<'_>> {
        self.instance_ids().filter_map(|id| self.view(id)).filter(|view| view.state != InstanceState::Gone)
    }

    /// One instance; `None` if there never was one with this id.
    #[must_use]
    pub fn view(&self, id: InstanceId) -> Option<InstanceView<'_>> {
        let instance = self.instances.get(id)?;
        let kind = self.kind_of(instance)?;
        Some(InstanceView {
            id,
            name: self.name(id),
            kind,
            part: self.shows_part(instance).then_some(&instance.path),
            place: instance.place,
            state: self.instance_state(instance),
            attempt: instance.attempt,
            retries_used: instance.retries_used,
            attempts: &instance.records,
        })
    }

    /// Where an instance runs; `None` if there never was one with this id. Unlike [`Self::view`], this allocates nothing.
    #[must_use]
    pub fn place(&self, id: InstanceId) -> Option<Place> {
        self.instances.get(id).map(|instance| instance.place)
    }

    /// What an instance is; `None` if it is a workflow input, or there never was one with this id. Unlike [`Self::view`],
    /// this allocates nothing.
    #[must_use]
    pub fn kind(&self, id: InstanceId) -> Option<InstanceKind> {
        self.kind_of(self.instances.get(id)?)
    }

    /// Whether the instance is part of the plan, so that all nodes know of it from the start. Others exist because of parts
    /// that are discovered, of which nodes hear at different times.
    #[must_use]
    pub fn is_planned(&self, id: InstanceId) -> bool {
        id.lane() == 0
    }

    /// The present epoch of a stream; `None` if there never was one with this id.
    #[must_use]
    pub fn epoch(&self, stream: StreamId) -> Option<Epoch> {
        self.streams.get(stream).map(|stream| stream.epoch)
    }

    /// The number of [`Self::instances`] in each state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for instance in self.instances.iter() {
            if matches!(self.plan.nodes[instance.node].kind, NodeKind::Input(_)) {
                continue;
            }
            let count = match self.instance_state(instance) {
                InstanceState::Waiting => &mut counts.waiting,
                InstanceState::Preparing => &mut counts.preparing,
                InstanceState::Ready => &mut counts.ready,
                InstanceState::Running => &mut counts.running,
                InstanceState::Parked => &mut counts.parked,
                InstanceState::Stopping => &mut counts.stopping,
                InstanceState::Pausing => &mut counts.pausing,
                InstanceState::Ended => &mut counts.ended,
                InstanceState::Unread => &mut counts.unread,
                InstanceState::Lost => &mut counts.lost,
                InstanceState::Skipped => &mut counts.skipped,
                InstanceState::Stopped => &mut counts.stopped,
                InstanceState::Gone => continue,
            };
            *count += 1;
        }
        counts
    }

    /// The slots that are held on a node now; 0 if there is no such node. May exceed its slots while parked instances
    /// continue.
    #[must_use]
    pub fn slots_used(&self, place: Place) -> u64 {
        self.slots.used(place)
    }

    /// The current streams of a workflow output, in the order of its sources and their parts, without those of skipped
    /// functions. Empty if there is no such output.
    #[must_use]
    pub fn output_streams(&self, output: u32) -> Vec<OutputStream> {
        let node = self.plan.nodes.iter().position(|node| node.kind == NodeKind::Sink(output));
        let sinks = node.map_or(&[][..], |node| &self.nodes[node].instances);
        let mut streams: Vec<(u32, &PartPath, OutputStream)> = sinks
            .iter()
            .filter(|sink| self.is_wanted(**sink))
            .filter_map(|&sink| {
                let instance = self.instance(sink);
                let stream = instance.each?;
                let state = self.stream(stream);
                let view = OutputStream { sink, stream, epoch: state.epoch, length: state.length };
                Some((self.sink_source(instance), &instance.path, view))
            })
            .collect();
        streams.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        streams.into_iter().map(|(_, _, stream)| stream).collect()
    }

    pub(crate) fn name(&self, id: InstanceId) -> String {
        let instance = self.instance(id);
        let node = &self.plan.nodes[instance.node];
        match (self.shows_part(instance), node.kind) {
            (false, _) => node.name.clone(),
            (true, NodeKind::Sink(_)) if node.inputs[0].sources.len() > 1 => {
                format!("{}[{}/{}]", node.name, self.sink_source(instance), instance.path)
            }
            (true, _) => format!("{}[{}]", node.name, instance.path),
        }
    }

    /// The name of a stream in error messages.
    pub(crate) fn stream_name(&self, id: StreamId) -> String {
        let stream = self.stream(id);
        let node = &self.plan.nodes[self.instance(stream.instance).node];
        match node.kind {
            NodeKind::Function(function) => {
                let output = &self.plan.workflow.functions[function.0 as usize].outputs[stream.port];
                format!("output `{}` of `{}`", output.name, self.name(stream.instance))
            }
            NodeKind::Input(_) | NodeKind::Sink(_) => format!("input `{}`", node.name),
        }
    }

    /// Updates the record of the present attempt, if its program was ever spawned.
    pub(crate) fn record(&mut self, id: InstanceId, change: impl FnOnce(&mut AttemptRecord, Duration)) {
        let now = self.now;
        let instance = self.instance_mut(id);
        if let Some(record) = instance.records.last_mut().filter(|record| record.attempt == instance.attempt) {
            change(record, now);
        }
    }

    fn kind_of(&self, instance: &Instance) -> Option<InstanceKind> {
        match self.plan.nodes[instance.node].kind {
            NodeKind::Input(_) => None,
            NodeKind::Function(function) => Some(InstanceKind::Function(function)),
            NodeKind::Sink(output) => Some(InstanceKind::Sink { output, source: self.sink_source(instance) }),
        }
    }

    fn shows_part(&self, instance: &Instance) -> bool {
        let many = match self.plan.nodes[instance.node].kind {
            NodeKind::Sink(output) => self.plan.workflow.outputs[output as usize].many,
            NodeKind::Function(_) | NodeKind::Input(_) => true,
        };
        many && self.plan.nodes[instance.node].foreach && !instance.path.is_root()
    }

    fn sink_source(&self, instance: &Instance) -> u32 {
        let from = instance.each.map(|stream| {
            let stream = self.stream(stream);
            (self.instance(stream.instance).node, stream.port)
        });
        let sources = &self.plan.nodes[instance.node].inputs[0].sources;
        sources.iter().position(|source| from == Some((source.node, source.port))).unwrap_or(0) as u32
    }

    fn instance_state(&self, instance: &Instance) -> InstanceState {
        let source = instance.each.map(|stream| self.nodes[self.instance(self.stream(stream).instance).node].status);
        if self.nodes[instance.node].status == Status::Skipped || source == Some(Status::Skipped) {
            return InstanceState::Skipped;
        }
        if !instance.present && self.here().is_some_and(|here| here != instance.place) {
            // Its node may not have heard of it yet.
            return InstanceState::Gone;
        }
        let over = matches!(self.state, RunState::Failing { .. } | RunState::Failed { .. });
        let dead = instance.records.last().is_some_and(|record| record.ended.is_some());
        match instance.phase {
            Phase::Idle if instance.lost.is_some() => InstanceState::Lost,
            Phase::Idle if over && dead => InstanceState::Stopped,
            Phase::Idle if !instance.present => InstanceState::Gone,
            Phase::Idle | Phase::Waiting => InstanceState::Waiting,
            Phase::Pausing => InstanceState::Pausing,
            Phase::Preparing => InstanceState::Preparing,
            Phase::Ready => InstanceState::Ready,
            Phase::Running { parked: false } => InstanceState::Running,
            Phase::Running { parked: true } => InstanceState::Parked,
            Phase::Stopping { .. } => InstanceState::Stopping,
            Phase::Ended { unread: false } => InstanceState::Ended,
            Phase::Ended { .. } if instance.lost.is_some() => InstanceState::Lost,
            Phase::Ended { unread: true } => InstanceState::Unread,
        }
    }
}
