//! The problem that the arguments of `dflow plan` describe.

use std::collections::BTreeMap;
use std::ffi::OsString;

use dflow_scheduler::Place;
use dflow_scheduler::planner::{Learned, Link, Network, Placement, PlanNode, Problem, Profile};
use dflow_worker::profiles::{self, LearnedFunctions};
use dflow_worker::{ClusterError, NodeOptions, SetupError, input_sizes};
use dflow_workflow::{FunctionId, Workflow};

use crate::args::PlanArgs;
use crate::error::CallError;
use crate::inputs::available;
use crate::record;

/// A problem, with notes for the user.
pub struct Question<'a> {
    pub problem: Problem<'a>,
    /// The learned profile of each function.
    pub learned: Vec<Option<Learned>>,
    pub notes: Vec<String>,
}

impl<'a> Question<'a> {
    /// # Errors
    /// If an input, a node or a function on the command line does not exist, or is named twice.
    pub fn new(workflow: &'a Workflow, inputs: &[OsString], args: &PlanArgs) -> Result<Self, CallError> {
        let mut notes = Vec::new();
        let nodes = nodes(args)?;
        let slots = nodes.iter().map(|node| node.slots).fold(0, u32::saturating_add);
        let given = available(workflow, inputs, &args.params)?;
        let mut all = learned(workflow, args, &mut notes);
        let mut sizes = Vec::with_capacity(workflow.inputs.len());
        let learned_sizes = Problem::learned_sizes(workflow, |function| all.get(&function.name));
        for ((input, (name, paths)), learned) in workflow.inputs.iter().zip(&given.inputs).zip(learned_sizes) {
            let known = match paths.is_empty() {
                true => None,
                false => Some(input_sizes(name, input.partitioned, paths).map_err(SetupError::from)?),
            };
            sizes.push(Problem::input_sizes(input, known.as_deref(), learned, slots));
        }
        let learned: Vec<Option<Learned>> =
            workflow.functions.iter().map(|function| all.remove(&function.name)).collect();
        let profiles = workflow.functions.iter().zip(&learned);
        let profiles = profiles.map(|(function, learned)| Profile::of(function, learned.as_ref())).collect();
        let problem = Problem {
            workflow,
            network: network(args, &nodes)?,
            pins: pins(workflow, args, &nodes)?,
            nodes,
            inputs: sizes,
            params: given.params,
            profiles,
            invocation: args.invocation.into(),
        };
        Ok(Self { problem, learned, notes })
    }

    /// The name of a node.
    pub fn node(&self, place: Place) -> &str {
        self.problem.nodes.get(place as usize).map_or("", |node| &node.name)
    }
}

fn nodes(args: &PlanArgs) -> Result<Vec<PlanNode>, CallError> {
    let here = NodeOptions::detect();
    let memory = args.memory.unwrap_or(here.memory);
    if args.nodes.is_empty() {
        return Ok(vec![PlanNode { name: here.node, slots: here.slots, memory }]);
    }
    let mut nodes: Vec<PlanNode> = Vec::with_capacity(args.nodes.len());
    for (name, slots) in &args.nodes {
        if nodes.iter().any(|node| node.name == *name) {
            return Err(CallError::NodeTwice { node: name.clone() });
        }
        nodes.push(PlanNode { name: name.clone(), slots: *slots, memory });
    }
    Ok(nodes)
}

fn network(args: &PlanArgs, nodes: &[PlanNode]) -> Result<Network, CallError> {
    let place = |name: &str| {
        let index = nodes.iter().position(|node| node.name == name);
        let unknown =
            || CallError::LinkNode { node: name.to_owned(), known: list(nodes.iter().map(|node| &node.name)) };
        index.map(|index| index as Place).ok_or_else(unknown)
    };
    let default = Link { bandwidth: args.bandwidth, latency: args.latency };
    let mut network = Network { default, pairs: BTreeMap::new() };
    for ((one, other), link) in &args.links {
        let (one, other) = (place(one)?, place(other)?);
        network.pairs.extend([((one, other), *link), ((other, one), *link)]);
    }
    Ok(network)
}

fn pins(workflow: &Workflow, args: &PlanArgs, nodes: &[PlanNode]) -> Result<Placement, CallError> {
    let mut pins: BTreeMap<FunctionId, Vec<Place>> = BTreeMap::new();
    for (name, names) in &args.placement {
        let functions = &workflow.functions;
        let id = functions.iter().position(|function| function.name == *name).ok_or_else(|| {
            let known = list(functions.iter().map(|function| &function.name));
            SetupError::from(ClusterError::UnknownFunction { function: name.clone(), known })
        })?;
        let mut places = Vec::with_capacity(names.len());
        for node in names {
            let place = nodes.iter().position(|known| known.name == *node).ok_or_else(|| {
                let known = list(nodes.iter().map(|node| &node.name));
                SetupError::from(ClusterError::UnknownNode { function: name.clone(), node: node.clone(), known })
            })?;
            places.push(place as Place);
        }
        if pins.insert(FunctionId(id as u32), places).is_some() {
            return Err(CallError::PlacedTwice { function: name.clone() });
        }
    }
    Ok(pins.into())
}

/// The learned profiles. A plan is possible without them, so a file that cannot be read is only a note.
fn learned(workflow: &Workflow, args: &PlanArgs, notes: &mut Vec<String>) -> LearnedFunctions {
    let Some(records) = record::directory(args.logs.as_deref()) else { return LearnedFunctions::new() };
    profiles::load(&records, &workflow.name).unwrap_or_else(|error| {
        notes.push(error.to_string());
        LearnedFunctions::new()
    })
}

fn list<'n>(names: impl Iterator<Item = &'n String>) -> String {
    names.map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}
