//! The instances and streams of a run, before it.
//!
//! A unit is a function, an input or an output of the workflow; its instances are called tasks. Streams of one output
//! port have consecutive numbers, so an input that reads all of them is one range: memory is in proportion to the
//! instances and to the connections in the workflow file, not to the number of streams times the number of readers.

use super::placement::Placement;
use super::problem::{Problem, ProblemError};
use super::profile::Work;
use crate::limits::{MAX_INSTANCES, MAX_STREAMS, MAX_SUBSCRIPTIONS};
use crate::options::{Invocation, Place};
use dflow_workflow::{FunctionId, Gate, Partition, Source, SwitchOn, Workflow};
use std::collections::HashSet;
use std::ops::Range;

pub(super) type UnitId = usize;
pub(super) type TaskId = usize;
pub(super) type StreamId = usize;

pub(super) struct Graph {
    /// Producers before consumers: inputs, functions, outputs of the workflow.
    pub(super) units: Vec<Unit>,
    /// Instances, in the order of their units.
    pub(super) tasks: Vec<Task>,
    pub(super) streams: Vec<Stream>,
    /// Pairs of a stream and a reader.
    pub(super) subscriptions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Input,
    Function(FunctionId),
    /// Writes an output of the workflow on the first node.
    Sink,
}

pub(super) struct Unit {
    pub(super) kind: Kind,
    pub(super) tasks: Range<TaskId>,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Output>,
    /// The connections of its outputs.
    pub(super) consumers: Vec<Consumer>,
    /// The number of sources that each of its tasks waits for.
    pub(super) sources: usize,
    /// Slots of an instance; 0 for inputs and sinks.
    pub(super) slots: u32,
    /// Length of the longest chain of units before it.
    pub(super) depth: u32,
    /// A switch on a parameter has not chosen it.
    pub(super) is_skipped: bool,
    /// Whether its run time is known.
    pub(super) is_timed: bool,
    /// It is a `foreach`.
    pub(super) each: bool,
}

/// An input of a unit.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) sources: Vec<SourceStreams>,
    /// Each instance reads one stream.
    pub(super) each: bool,
    pub(super) gate: Gate,
    /// k-of-n.
    pub(super) need: Option<usize>,
    /// All of its bytes stay in memory until the reader ends.
    pub(super) keep: bool,
    /// It is not read, but its value decides whether the unit runs: it takes no bandwidth.
    pub(super) is_switch: bool,
}

/// The streams of an output port.
#[derive(Clone, Debug)]
pub(super) struct SourceStreams {
    pub(super) unit: UnitId,
    pub(super) streams: Range<StreamId>,
}

#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) streams: Range<StreamId>,
    pub(super) per_task: usize,
}

/// A unit that reads an output of another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Consumer {
    pub(super) unit: UnitId,
    /// Its instances correspond to the streams.
    pub(super) each: bool,
    /// The output that it reads.
    pub(super) output: usize,
}

pub(super) struct Task {
    pub(super) unit: UnitId,
    pub(super) work: Work,
    /// Bytes that it reads.
    pub(super) input: u64,
}

pub(super) struct Stream {
    pub(super) task: TaskId,
    pub(super) bytes: u64,
}

impl Port {
    /// The streams that an instance reads: one range for each source.
    pub(super) fn streams(&self, instance: usize) -> impl Iterator<Item = Range<StreamId>> {
        self.sources.iter().map(move |source| match self.each {
            true => {
                let stream = source.streams.start + instance;
                stream..(stream + 1).min(source.streams.end)
            }
            false => source.streams.clone(),
        })
    }

    fn stream_count(&self) -> usize {
        self.sources.iter().map(|source| source.streams.len()).sum()
    }
}

impl Graph {
    /// Expands a workflow.
    ///
    /// # Errors
    /// If the problem is inconsistent or the run would be too large.
    pub(super) fn new(problem: &Problem<'_>) -> Result<Self, ProblemError> {
        problem.check()?;
        let workflow = problem.workflow;
        let units = workflow.inputs.len() + workflow.functions.len() + workflow.outputs.len();
        let mut graph =
            Self { units: Vec::with_capacity(units), tasks: Vec::new(), streams: Vec::new(), subscriptions: 0 };
        for (input, sizes) in workflow.inputs.iter().zip(&problem.inputs) {
            // An input that is not partitioned is one stream, whatever was given.
            let whole = [sizes.iter().copied().fold(0, u64::saturating_add)];
            graph.add_input(if input.partitioned { sizes } else { &whole })?;
        }
        let skipped = skipped(problem);
        for id in (0..).map(FunctionId).take(workflow.functions.len()) {
            graph.add_function(problem, id, skipped.contains(&id))?;
        }
        for output in &workflow.outputs {
            graph.add_sink(workflow, &output.sources)?;
        }
        graph.connect();
        Ok(graph)
    }

    /// The unit of a function.
    pub(super) fn unit_of(workflow: &Workflow, function: FunctionId) -> UnitId {
        workflow.inputs.len() + function.0 as usize
    }

    pub(super) fn unit(&self, task: TaskId) -> &Unit {
        &self.units[self.tasks[task].unit]
    }

    /// The number of a task in its unit.
    pub(super) fn instance(&self, task: TaskId) -> usize {
        task - self.unit(task).tasks.start
    }

    /// The streams that a task writes.
    pub(super) fn written(&self, task: TaskId) -> impl Iterator<Item = StreamId> {
        let instance = self.instance(task);
        self.unit(task).outputs.iter().flat_map(move |output| {
            let first = output.streams.start + instance * output.per_task;
            first..first + output.per_task
        })
    }

    /// The inputs of a task, each with the ranges of its streams.
    pub(super) fn read(&self, task: TaskId) -> impl Iterator<Item = (&Port, Range<StreamId>)> {
        let instance = self.instance(task);
        self.unit(task).inputs.iter().flat_map(move |port| port.streams(instance).map(move |streams| (port, streams)))
    }

    /// Whether the placement of a task is a choice: inputs and outputs of the workflow are at the first node.
    pub(super) fn is_function(&self, task: TaskId) -> bool {
        matches!(self.unit(task).kind, Kind::Function(_))
    }

    /// The places of all tasks in a placement.
    pub(super) fn assignment(&self, placement: &Placement) -> Vec<Place> {
        let mut places = vec![0; self.tasks.len()];
        for unit in &self.units {
            if let Kind::Function(function) = unit.kind {
                for (part, task) in (0..).zip(unit.tasks.clone()) {
                    places[task] = placement.place(function, part);
                }
            }
        }
        places
    }

    /// The placement that gives all tasks their places.
    pub(super) fn placement(&self, assignment: &[Place]) -> Placement {
        let mut placement = Placement::default();
        for unit in self.units.iter().filter(|unit| matches!(unit.kind, Kind::Function(_))) {
            let places = &assignment[unit.tasks.clone()];
            let same = places.first().is_some_and(|first| places.iter().all(|place| place == first));
            placement.push(if same { &places[..1] } else { places });
        }
        placement
    }

    fn add_input(&mut self, sizes: &[u64]) -> Result<(), ProblemError> {
        let task = self.add_tasks(1)?;
        let streams = self.add_streams(sizes.len(), |_| (task.start, 0))?;
        for (stream, bytes) in self.streams[streams.clone()].iter_mut().zip(sizes) {
            stream.bytes = *bytes;
        }
        self.units.push(Unit {
            outputs: vec![Output { per_task: streams.len(), streams }],
            ..Unit::new(Kind::Input, task, Vec::new())
        });
        Ok(())
    }

    fn add_function(&mut self, problem: &Problem<'_>, id: FunctionId, skipped: bool) -> Result<(), ProblemError> {
        let workflow = problem.workflow;
        let function = workflow.function(id);
        let profile = &problem.profiles[id.0 as usize];
        let overlap = problem.invocation == Invocation::Dataflow;
        let mut inputs: Vec<Port> = Vec::with_capacity(function.inputs.len());
        for input in &function.inputs {
            inputs.push(Port {
                sources: self.sources(workflow, &input.sources),
                each: input.each,
                gate: if overlap { input.gate } else { Gate::Whole },
                need: input.need.map(|need| need as usize),
                keep: input.is_kept() || !overlap,
                is_switch: false,
            });
        }
        let each = function.foreach.is_some();
        let instances = match inputs.iter().find(|input| input.each) {
            Some(part) => part.stream_count(),
            None => 1,
        };
        // A function that reads only from functions that are not chosen does not run either.
        let starved = |port: &Port| port.sources.iter().all(|source| self.units[source.unit].is_skipped);
        let is_skipped = skipped || inputs.iter().any(|port| !port.sources.is_empty() && starved(port));
        if let Some(switch) = function.conditional
            && let SwitchOn::Value(source) = workflow.switches[switch as usize].on
        {
            inputs.push(Port {
                sources: self.sources(workflow, &[source]),
                each: false,
                gate: Gate::Whole,
                need: None,
                keep: false,
                is_switch: true,
            });
        }
        let tasks = self.add_tasks(if is_skipped { 0 } else { instances })?;
        let unit = self.units.len();
        self.count_subscriptions(&inputs, tasks.len())?;
        let sizes: Vec<u64> = tasks.clone().map(|task| self.bytes_read(&inputs, task - tasks.start)).collect();
        for (task, input) in tasks.clone().zip(&sizes) {
            self.tasks[task] = Task { unit, work: profile.work(each, *input), input: *input };
        }
        let mut outputs = Vec::with_capacity(function.outputs.len());
        for (port, output) in function.outputs.iter().enumerate() {
            let per_task = match output.partition {
                Partition::Single => 1,
                Partition::Fixed(parts) => parts as usize,
                // One part for each slot uses all nodes, which is the purpose of parts.
                Partition::Discovered => profile.parts.map_or_else(|| slots(problem), |parts| parts as usize).max(1),
            };
            let first = tasks.start;
            let count = tasks.len().saturating_mul(per_task);
            let streams = self.add_streams(count, |index| (first + index / per_task, 0))?;
            for (instance, input) in sizes.iter().enumerate() {
                let bytes = profile.output(port, function.outputs.len(), *input) / per_task as u64;
                let from = streams.start + instance * per_task;
                self.streams[from..from + per_task].iter_mut().for_each(|stream| stream.bytes = bytes);
            }
            outputs.push(Output { streams, per_task });
        }
        self.units.push(Unit {
            outputs,
            slots: function.resources.slots.max(1),
            is_timed: profile.time.is_some(),
            is_skipped,
            each,
            ..Unit::new(Kind::Function(id), tasks, inputs)
        });
        Ok(())
    }

    fn add_sink(&mut self, workflow: &Workflow, sources: &[Source]) -> Result<(), ProblemError> {
        let tasks = self.add_tasks(1)?;
        let inputs = vec![Port {
            sources: self.sources(workflow, sources),
            each: false,
            gate: Gate::Stream,
            need: None,
            keep: false,
            is_switch: false,
        }];
        self.count_subscriptions(&inputs, 1)?;
        self.tasks[tasks.start].input = self.bytes_read(&inputs, 0);
        self.units.push(Unit::new(Kind::Sink, tasks, inputs));
        Ok(())
    }

    fn count_subscriptions(&mut self, inputs: &[Port], readers: usize) -> Result<(), ProblemError> {
        let of_reader = |port: &Port| if port.each { 1 } else { port.stream_count() };
        let streams = inputs.iter().map(of_reader).fold(0, usize::saturating_add);
        self.subscriptions = self.subscriptions.saturating_add(streams.saturating_mul(readers));
        if self.subscriptions > MAX_SUBSCRIPTIONS {
            return Err(ProblemError::too_many_subscriptions());
        }
        Ok(())
    }

    fn add_tasks(&mut self, count: usize) -> Result<Range<TaskId>, ProblemError> {
        let first = self.tasks.len();
        if count > MAX_INSTANCES - first.min(MAX_INSTANCES) {
            return Err(ProblemError::too_many_instances());
        }
        let unit = self.units.len();
        self.tasks.extend((0..count).map(|_| Task { unit, work: Work::default(), input: 0 }));
        Ok(first..first + count)
    }

    fn add_streams(
        &mut self,
        count: usize,
        of: impl Fn(usize) -> (TaskId, u64),
    ) -> Result<Range<StreamId>, ProblemError> {
        let first = self.streams.len();
        if count > MAX_STREAMS - first.min(MAX_STREAMS) {
            return Err(ProblemError::too_many_streams());
        }
        self.streams.extend((0..count).map(of).map(|(task, bytes)| Stream { task, bytes }));
        Ok(first..first + count)
    }

    fn sources(&self, workflow: &Workflow, sources: &[Source]) -> Vec<SourceStreams> {
        let mut seen = HashSet::with_capacity(sources.len());
        let mut all = Vec::with_capacity(sources.len());
        for source in sources.iter().filter(|source| seen.insert(**source)) {
            let (unit, output) = match *source {
                Source::WorkflowInput(input) => (input as usize, 0),
                Source::Output { function, output } => (Self::unit_of(workflow, function), output as usize),
            };
            all.push(SourceStreams { unit, streams: self.units[unit].outputs[output].streams.clone() });
        }
        all
    }

    /// The bytes that an instance reads. Of a k-of-n choice, the k streams that will be read are not known: their
    /// share.
    fn bytes_read(&self, inputs: &[Port], instance: usize) -> u64 {
        let read = inputs.iter().filter(|port| !port.is_switch).map(|port| {
            let (mut bytes, mut streams) = (0_u64, 0_u64);
            for range in port.streams(instance) {
                streams += range.len() as u64;
                bytes = self.streams[range].iter().map(|stream| stream.bytes).fold(bytes, u64::saturating_add);
            }
            match port.need {
                Some(need) if (need as u64) < streams => bytes / streams * need as u64,
                _ => bytes,
            }
        });
        read.fold(0, u64::saturating_add)
    }

    fn connect(&mut self) {
        for id in 0..self.units.len() {
            let mut depth = 0;
            let mut connections = Vec::new();
            for port in &self.units[id].inputs {
                for source in &port.sources {
                    let producer = &self.units[source.unit];
                    depth = depth.max(producer.depth + 1);
                    if !source.streams.is_empty() {
                        let is_before = |output: &Output| output.streams.end <= source.streams.start;
                        let output = producer.outputs.partition_point(is_before);
                        connections.push((source.unit, Consumer { unit: id, each: port.each, output }));
                    }
                }
            }
            self.units[id].depth = depth;
            self.units[id].sources = connections.len();
            for (producer, consumer) in connections {
                self.units[producer].consumers.push(consumer);
            }
        }
    }
}

impl Unit {
    fn new(kind: Kind, tasks: Range<TaskId>, inputs: Vec<Port>) -> Self {
        Self {
            kind,
            tasks,
            inputs,
            outputs: Vec::new(),
            consumers: Vec::new(),
            sources: 0,
            slots: 0,
            depth: 0,
            is_timed: true,
            is_skipped: false,
            each: false,
        }
    }
}

fn slots(problem: &Problem<'_>) -> usize {
    problem.nodes.iter().map(|node| node.slots as usize).sum()
}

/// The functions that a switch on a parameter does not choose.
fn skipped(problem: &Problem<'_>) -> HashSet<FunctionId> {
    let workflow = problem.workflow;
    let mut skipped = HashSet::new();
    for switch in &workflow.switches {
        let SwitchOn::Param(name) = &switch.on else { continue };
        let value = problem.params.get(name).or_else(|| workflow.params.get(name).and_then(Option::as_ref));
        let Some(value) = value else { continue };
        let case = switch.cases.iter().find(|(case, _)| case == value).map(|(_, functions)| functions);
        let chosen: HashSet<FunctionId> = case.or(switch.default.as_ref()).into_iter().flatten().copied().collect();
        let all = switch.cases.iter().flat_map(|(_, functions)| functions).chain(switch.default.iter().flatten());
        skipped.extend(all.filter(|function| !chosen.contains(function)));
    }
    skipped
}
