//! The plan of a run: the workflow as nodes with ports and edges, fixed for the whole run.
//!
//! Workflow inputs, functions and workflow outputs are all nodes, so that the rules for streams, parts and
//! subscriptions exist once. An input is a node that has ended before the run starts; an output is a node with one
//! instance (a sink) for each stream.

use crate::limits::MAX_PLACES;
use crate::options::{Invocation, Place, PlanError, RunOptions};
use dflow_workflow::{
    Causes, Function, FunctionId, Gate, Partition, Program, Retention, Retries, Source, SwitchOn, Workflow,
};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Index in [`Plan::nodes`]. Producers come before their consumers.
pub(crate) type NodeId = usize;

pub(crate) struct Plan {
    pub(crate) workflow: Arc<Workflow>,
    pub(crate) nodes: Vec<Node>,
    /// One per switch of the workflow: the port that decides it, or the choice that a parameter has already made.
    pub(crate) switches: Vec<SwitchPlan>,
    /// The nodes with an input that needs only some of its streams.
    pub(crate) choosers: Vec<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    Input(u32),
    Function(FunctionId),
    Sink(u32),
}

pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    pub(crate) name: String,
    pub(crate) inputs: Vec<InputPort>,
    pub(crate) outputs: Vec<OutputPort>,
    /// One instance for each stream of `inputs[0]`.
    pub(crate) foreach: bool,
    /// Index of the switch that chooses this node.
    pub(crate) conditional: Option<usize>,
    /// The number of edges on the longest path from a node without inputs.
    pub(crate) depth: u32,
    pub(crate) slots: u32,
    /// Where its instances run, by part; if empty, all run at the first place.
    pub(crate) places: Vec<Place>,
    pub(crate) retries: Retries,
    pub(crate) deterministic: bool,
    /// An instance may restart, by its own retries or because something upstream restarts.
    pub(crate) restartable: bool,
    /// It is a function, and only fan-ins that need a few of their streams read it.
    pub(crate) races: bool,
    /// An input needs only some of its streams.
    pub(crate) chooses: bool,
}

pub(crate) struct InputPort {
    pub(crate) sources: Vec<PortRef>,
    /// Each instance reads one stream of the sources and exists because of it (`foreach`).
    pub(crate) each: bool,
    pub(crate) many: bool,
    pub(crate) need: Option<usize>,
    pub(crate) gate: Gate,
    /// All streams must be known before the start, because they become arguments of a command.
    pub(crate) fixed_at_start: bool,
}

pub(crate) struct OutputPort {
    pub(crate) partition: Partition,
    pub(crate) consumers: Vec<Edge>,
    /// Indices of the switches that this port decides.
    pub(crate) switches: Vec<usize>,
    pub(crate) keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PortRef {
    pub(crate) node: NodeId,
    pub(crate) port: usize,
}

/// From an output port to an input of a later node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) node: NodeId,
    pub(crate) input: usize,
    pub(crate) each: bool,
    /// The reader may read the same epoch more than once.
    pub(crate) restartable: bool,
}

pub(crate) enum SwitchPlan {
    Port(PortRef),
    /// The functions that run.
    Param(Vec<FunctionId>),
}

impl Plan {
    pub(crate) fn new(workflow: Arc<Workflow>, options: &RunOptions) -> Result<Self, PlanError> {
        check_options(&workflow, options)?;
        let mut plan =
            Self { nodes: Vec::new(), switches: Vec::new(), choosers: Vec::new(), workflow: Arc::clone(&workflow) };
        for (index, input) in workflow.inputs.iter().enumerate() {
            let partition =
                if input.partitioned { Partition::Fixed(options.input_parts[index]) } else { Partition::Single };
            plan.nodes.push(Node {
                kind: NodeKind::Input(index as u32),
                outputs: vec![OutputPort::new(partition)],
                ..Node::bare(&input.name)
            });
        }
        for (index, function) in workflow.functions.iter().enumerate() {
            let node = plan.function_node(FunctionId(index as u32), function, options);
            plan.nodes.push(node);
        }
        for (index, output) in workflow.outputs.iter().enumerate() {
            let node = Node {
                kind: NodeKind::Sink(index as u32),
                inputs: vec![InputPort {
                    sources: plan.ports(&output.sources),
                    each: true,
                    many: false,
                    need: None,
                    gate: Gate::Stream,
                    fixed_at_start: false,
                }],
                foreach: true,
                ..Node::bare(&format!("output:{}", output.name))
            };
            plan.nodes.push(node);
        }
        plan.connect_switches(&options.params)?;
        plan.connect_nodes(options.invocation);
        for node in 0..plan.nodes.len() {
            plan.nodes[node].races = plan.races(node);
            plan.nodes[node].chooses = plan.nodes[node].inputs.iter().any(|input| input.need.is_some());
        }
        plan.choosers = (0..plan.nodes.len()).filter(|node| plan.nodes[*node].chooses).collect();
        Ok(plan)
    }

    /// The node of a function.
    pub(crate) fn node_of(&self, function: FunctionId) -> NodeId {
        self.workflow.inputs.len() + function.0 as usize
    }

    /// The functions that run for this value of a switch, or why no case matches.
    pub(crate) fn choose(&self, switch: usize, value: &str) -> Result<Vec<FunctionId>, String> {
        choose(&self.workflow, switch, value)
    }

    fn function_node(&self, id: FunctionId, function: &Function, options: &RunOptions) -> Node {
        let command = matches!(function.program, Program::Command(_));
        let inputs = function
            .inputs
            .iter()
            .map(|input| InputPort {
                sources: self.ports(&input.sources),
                each: input.each,
                many: input.many,
                need: input.need.map(|need| need as usize),
                gate: input.gate,
                fixed_at_start: command && input.many,
            })
            .collect();
        Node {
            kind: NodeKind::Function(id),
            inputs,
            outputs: function.outputs.iter().map(|output| OutputPort::new(output.partition)).collect(),
            foreach: function.foreach.is_some(),
            conditional: function.conditional.map(|switch| switch as usize),
            slots: function.resources.slots.max(1),
            places: options.placement.places_of(id).to_vec(),
            retries: function.retries,
            deterministic: function.deterministic,
            ..Node::bare(&function.name)
        }
    }

    /// The ports of the given sources, without duplicates.
    fn ports(&self, sources: &[Source]) -> Vec<PortRef> {
        let mut seen = HashSet::with_capacity(sources.len());
        sources.iter().map(|source| self.port(*source)).filter(|port| seen.insert(*port)).collect()
    }

    fn port(&self, source: Source) -> PortRef {
        match source {
            Source::WorkflowInput(input) => PortRef { node: input as usize, port: 0 },
            Source::Output { function, output } => PortRef { node: self.node_of(function), port: output as usize },
        }
    }

    fn connect_switches(&mut self, params: &std::collections::BTreeMap<String, String>) -> Result<(), PlanError> {
        let workflow = Arc::clone(&self.workflow);
        for (index, switch) in workflow.switches.iter().enumerate() {
            let plan = match &switch.on {
                SwitchOn::Param(name) => {
                    let default = workflow.params.get(name).and_then(Option::as_ref);
                    let value =
                        params.get(name).or(default).ok_or_else(|| PlanError::MissingParam { param: name.clone() })?;
                    SwitchPlan::Param(choose(&workflow, index, value).map_err(PlanError::NoCase)?)
                }
                SwitchOn::Value(source) => {
                    let port = self.port(*source);
                    let node = &mut self.nodes[port.node];
                    let output = &mut node.outputs[port.port];
                    if node.foreach || !matches!(output.partition, Partition::Single) {
                        return Err(PlanError::SwitchSource { switch: switch.name.clone() });
                    }
                    output.switches.push(index);
                    output.keep = true;
                    SwitchPlan::Port(port)
                }
            };
            self.switches.push(plan);
        }
        Ok(())
    }

    /// Computes what depends on other nodes: edges, depth, and whether a node may restart.
    fn connect_nodes(&mut self, invocation: Invocation) {
        let retention = Retention::of(&self.workflow);
        // Each reader starts after its producers have ended.
        let late = invocation == Invocation::ControlFlow;
        for node in 0..self.nodes.len() {
            let spec = &self.nodes[node];
            let before: Vec<NodeId> = spec.inputs.iter().flat_map(|input| &input.sources).map(|s| s.node).collect();
            let depth = before.iter().chain(&self.decider(node)).map(|node| self.nodes[*node].depth + 1).max();
            let restartable = match spec.kind {
                NodeKind::Input(_) => false,
                NodeKind::Function(function) => retention.may_restart(function),
                NodeKind::Sink(_) => before.iter().any(|node| self.nodes[*node].restartable),
            };
            let spec = &mut self.nodes[node];
            (spec.depth, spec.restartable) = (depth.unwrap_or(0), restartable);
            let causes = self.causes(node);
            for input in 0..self.nodes[node].inputs.len() {
                let each = self.nodes[node].inputs[input].each;
                for source in self.nodes[node].inputs[input].sources.clone() {
                    let reader = &self.nodes[node];
                    // A reader reads the same epoch of a stream twice if it restarts for another reason than that the
                    // stream is void.
                    let restartable =
                        !reader.is_sink() && (reader.retries.count > 0 || causes.beside(Some(source.node)));
                    let kept = self.source(source).is_some_and(|source| retention.keeps(source));
                    let output = &mut self.nodes[source.node].outputs[source.port];
                    output.consumers.push(Edge { node, input, each, restartable });
                    output.keep |= late || restartable || kept;
                }
            }
        }
    }

    /// Whether only k-of-n choices read a node.
    fn races(&self, node: NodeId) -> bool {
        let spec = &self.nodes[node];
        let mut readers = spec.outputs.iter().flat_map(|output| &output.consumers).peekable();
        spec.is_function()
            && spec.outputs.iter().all(|output| output.switches.is_empty())
            && readers.peek().is_some()
            && readers.all(|edge| !edge.each && self.nodes[edge.node].inputs[edge.input].need.is_some())
    }

    /// The nodes that may cause a node to restart.
    fn causes(&self, node: NodeId) -> Causes<NodeId> {
        let producers = self.nodes[node].inputs.iter().flat_map(|input| {
            // Instances of the same function fail independently of each other.
            let producers = input.sources.iter().map(|source| source.node);
            producers.map(|producer| (producer, !input.each && self.nodes[producer].foreach))
        });
        let decider = self.decider(node).map(|decider| (decider, false));
        Causes::of(producers.chain(decider).filter(|(producer, _)| self.nodes[*producer].restartable))
    }

    /// The node whose value decides whether this one runs.
    fn decider(&self, node: NodeId) -> Option<NodeId> {
        match self.switches[self.nodes[node].conditional?] {
            SwitchPlan::Port(port) => Some(port.node),
            SwitchPlan::Param(_) => None,
        }
    }

    fn source(&self, port: PortRef) -> Option<Source> {
        match self.nodes[port.node].kind {
            NodeKind::Input(input) => Some(Source::WorkflowInput(input)),
            NodeKind::Function(function) => Some(Source::Output { function, output: port.port as u32 }),
            NodeKind::Sink(_) => None,
        }
    }
}

impl Node {
    fn bare(name: &str) -> Self {
        Self {
            kind: NodeKind::Input(0),
            name: name.to_owned(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            foreach: false,
            conditional: None,
            depth: 0,
            slots: 0,
            places: Vec::new(),
            retries: Retries { count: 0, backoff: Duration::ZERO, max_backoff: Duration::ZERO },
            deterministic: false,
            restartable: false,
            races: false,
            chooses: false,
        }
    }

    pub(crate) fn is_function(&self) -> bool {
        matches!(self.kind, NodeKind::Function(_))
    }

    pub(crate) fn is_sink(&self) -> bool {
        matches!(self.kind, NodeKind::Sink(_))
    }
}

impl OutputPort {
    fn new(partition: Partition) -> Self {
        Self { partition, consumers: Vec::new(), switches: Vec::new(), keep: false }
    }

    pub(crate) fn discovered(&self) -> bool {
        matches!(self.partition, Partition::Discovered)
    }

    /// The number of streams on the port of an instance, if it is known before the instance runs.
    pub(crate) fn fixed_parts(&self) -> Option<u32> {
        match self.partition {
            Partition::Single => Some(1),
            Partition::Fixed(parts) => Some(parts),
            Partition::Discovered => None,
        }
    }
}

fn check_options(workflow: &Workflow, options: &RunOptions) -> Result<(), PlanError> {
    if options.places.is_empty() || options.places.iter().any(|place| place.slots == 0) {
        return Err(PlanError::NoSlots);
    }
    let places = options.places.len();
    if let Some(place) = options.scope.place().filter(|place| *place as usize >= places || places > MAX_PLACES) {
        return Err(PlanError::UnknownScope { place, places });
    }
    for (index, function) in workflow.functions.iter().enumerate() {
        let chosen = options.placement.places_of(FunctionId(index as u32));
        if let Some(&place) = chosen.iter().find(|place| **place as usize >= options.places.len()) {
            let (function, places) = (function.name.clone(), options.places.len());
            return Err(PlanError::UnknownPlace { function, place, places });
        }
    }
    if options.input_parts.len() != workflow.inputs.len() {
        return Err(PlanError::InputCount { expected: workflow.inputs.len(), given: options.input_parts.len() });
    }
    for (input, &given) in workflow.inputs.iter().zip(&options.input_parts) {
        if !input.partitioned && given != 1 {
            return Err(PlanError::InputParts { input: input.name.clone(), given });
        }
    }
    for (param, default) in &workflow.params {
        if default.is_none() && !options.params.contains_key(param) {
            return Err(PlanError::MissingParam { param: param.clone() });
        }
    }
    if let Some(param) = options.params.keys().find(|param| !workflow.params.contains_key(*param)) {
        let known = match workflow.params.is_empty() {
            true => "none".to_owned(),
            false => quoted(workflow.params.keys()),
        };
        return Err(PlanError::UnknownParam { param: param.clone(), known });
    }
    Ok(())
}

fn choose(workflow: &Workflow, switch: usize, value: &str) -> Result<Vec<FunctionId>, String> {
    let switch = &workflow.switches[switch];
    let case = switch.cases.iter().find(|(case, _)| case == value).map(|(_, functions)| functions);
    case.or(switch.default.as_ref()).cloned().ok_or_else(|| {
        let cases = quoted(switch.cases.iter().map(|(case, _)| case));
        format!(
            "switch `{}` got the value `{}`, which is none of its cases ({cases}), and it has no default; add a case \
             or a default",
            switch.name,
            value.escape_debug()
        )
    })
}

fn quoted<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
