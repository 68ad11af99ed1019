//! `dflow run --dry-run`: determines what a run would do, without starting or creating anything.

use super::placement;
use super::preflight::{Checked, examine};
use crate::cluster::probe::reach;
use crate::error::SetupError;
use crate::input::InputStream;
use crate::node::error::NodeError;
use crate::output::check_stdout;
use crate::part::plan::place;
use crate::report::invocation_name;
use crate::spec::RunSpec;
use dflow_disk::SpillDir;
use dflow_scheduler::planner::Placement;
use dflow_scheduler::{InstanceKind, InstanceState, Place, RunMachine, RunOptions};
use dflow_store::Config;
use dflow_workflow::{FunctionId, Source, Streams, SwitchOn, Workflow};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The actions of a run. `dflow run --dry-run --format json` prints this as one JSON document.
#[derive(Clone, Debug, Serialize)]
pub struct RunPreview {
    /// The workflow's name.
    pub workflow: String,
    /// `dataflow` or `control-flow`.
    pub invocation: &'static str,
    /// The nodes of the run; the first would drive it.
    pub nodes: Vec<NodePreview>,
    /// The workflow's inputs, in the order of the file.
    pub inputs: Vec<InputPreview>,
    /// The functions, producers before consumers.
    pub functions: Vec<FunctionPreview>,
    /// The directory in which the outputs would be published; `None` if the output would go to standard output.
    pub output_directory: Option<PathBuf>,
    /// Whether that directory exists, so that outputs would replace what is in it.
    pub replaces: bool,
    /// The files that would be published.
    pub outputs: Vec<OutputPreview>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// A node that would take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodePreview {
    /// Its name.
    pub name: String,
    /// Where it was reached; `None` for the node that would drive the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// The release of dflow that it runs.
    pub release: String,
    /// Maximum number of instances that compute on it at the same time.
    pub slots: u32,
}

/// An input of the workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InputPreview {
    /// Its name.
    pub name: String,
    /// The number of its files; `None` if it is read to its end (standard input, a pipe, a device).
    pub files: Option<usize>,
    /// The size of those files, in bytes.
    pub bytes: Option<u64>,
}

/// A function of the workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FunctionPreview {
    /// Its name.
    pub name: String,
    /// The file that would be executed on the node that would drive the run; `None` if no instance would run there.
    pub program: Option<PathBuf>,
    /// The number of instances; `None` if it would be known only during the run.
    pub instances: Option<usize>,
    /// The stream whose parts determine the number of instances, if `instances` is `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts_of: Option<String>,
    /// The switch that decides at run time whether the function runs at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch: Option<String>,
    /// The nodes on which the instances would run.
    pub nodes: Vec<String>,
}

/// An output of the workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutputPreview {
    /// Its name.
    pub name: String,
    /// Its streams, as `function.output` or `inputs.name`.
    pub sources: Vec<String>,
    /// The path at which it would be published.
    pub path: PathBuf,
    /// Whether the path would be a directory with a file for each stream.
    pub directory: bool,
}

/// Performs every check that a run performs before it starts, and returns what the run would do. Connects to the other
/// nodes, but starts and creates nothing, and reads no byte of a pipe.
///
/// # Errors
/// The first error that would prevent the run from starting.
pub fn preview(spec: &RunSpec) -> Result<RunPreview, SetupError> {
    let checked = examine(spec)?;
    let budget = spec.options.budget()?;
    Config { window: spec.options.window, ..Config::new(budget) }.check().map_err(NodeError::from)?;
    let spilling = SpillDir::open(&spec.options.spill_dir).and_then(|_| dflow_disk::choose(spec.options.spill_io));
    spilling.map_err(NodeError::from)?;
    let target = spec.output_folder()?;
    match &target {
        Some(target) => target.verify()?,
        None => check_stdout(&spec.planned_outputs())?,
    }
    let nodes = nodes(spec)?;
    // Which programs the other nodes have is not checked.
    let slots: Vec<u32> = nodes.iter().map(|node| node.slots).collect();
    let placement = placement::plan(spec, &checked, &slots, |_| true);
    let options = RunOptions {
        scope: dflow_scheduler::Scope::WholeRun,
        places: nodes.iter().map(|node| place(node.slots, 0)).collect(),
        placement: placement.clone(),
        invocation: spec.invocation,
        params: spec.params.clone(),
        input_parts: checked.input_parts(),
    };
    // The scheduler determines the instances: its first actions are dropped instead of being carried out.
    let (machine, _actions) = RunMachine::new(Arc::clone(&spec.workflow), options)?;
    let output_directory = target.map(|target| target.path().to_owned());
    Ok(RunPreview {
        workflow: spec.workflow.name.clone(),
        invocation: invocation_name(spec.invocation),
        functions: functions(spec, &checked, (&machine, &placement), &nodes),
        nodes,
        inputs: inputs(&spec.workflow, &checked),
        replaces: output_directory.as_deref().is_some_and(Path::exists),
        outputs: spec
            .workflow
            .outputs
            .iter()
            .map(|output| OutputPreview {
                name: output.name.clone(),
                sources: output.sources.iter().map(|source| name_of(&spec.workflow, *source)).collect(),
                path: output_directory.as_ref().map_or_else(|| "-".into(), |folder| folder.join(&output.name)),
                directory: output.many,
            })
            .collect(),
        output_directory,
        notes: checked.notes,
    })
}

fn nodes(spec: &RunSpec) -> Result<Vec<NodePreview>, SetupError> {
    let mut nodes = vec![NodePreview {
        name: spec.options.node.clone(),
        address: None,
        release: env!("CARGO_PKG_VERSION").into(),
        slots: spec.options.slots,
    }];
    if let Some(cluster) = &spec.cluster {
        for ((name, address), reached) in cluster.nodes.iter().zip(reach(cluster)?) {
            let (release, slots) = (reached.release, reached.slots);
            nodes.push(NodePreview { name: name.clone(), address: Some(*address), release, slots });
        }
    }
    Ok(nodes)
}

fn inputs(workflow: &Workflow, checked: &Checked) -> Vec<InputPreview> {
    let one = |name: &str, streams: &Vec<InputStream>| {
        let files = streams.iter().map(|stream| match stream {
            InputStream::Files(files) => Some(files),
            InputStream::Live(_) => None,
        });
        let files: Option<Vec<_>> = files.collect();
        let sum = |files: &Vec<&Vec<(_, u64)>>| {
            files.iter().flat_map(|files| files.iter()).map(|(_, length)| *length).fold(0, u64::saturating_add)
        };
        InputPreview {
            name: name.into(),
            files: files.as_ref().map(|files| files.iter().map(|files| files.len()).sum()),
            bytes: files.as_ref().map(sum),
        }
    };
    workflow.inputs.iter().zip(&checked.inputs).map(|(input, files)| one(&input.name, files)).collect()
}

fn functions(
    spec: &RunSpec,
    checked: &Checked,
    (machine, placement): (&RunMachine, &Placement),
    nodes: &[NodePreview],
) -> Vec<FunctionPreview> {
    let workflow = &spec.workflow;
    let mut counts: BTreeMap<FunctionId, usize> = BTreeMap::new();
    let mut places: BTreeMap<FunctionId, BTreeSet<Place>> = BTreeMap::new();
    for view in machine.instances() {
        if let InstanceKind::Function(function) = view.kind
            && view.state != InstanceState::Skipped
        {
            *counts.entry(function).or_default() += 1;
            places.entry(function).or_default().insert(view.place);
        }
    }
    let name = |place: &Place| nodes.get(*place as usize).map(|node| node.name.clone());
    (0..)
        .map(FunctionId)
        .zip(workflow.functions.iter().zip(&checked.programs))
        .map(|(id, (function, program))| {
            let discovered = function.foreach.filter(|over| workflow.streams(*over) == Streams::Discovered);
            let switch = function.conditional.map(|switch| &workflow.switches[switch as usize]);
            let switch = switch.filter(|switch| matches!(switch.on, SwitchOn::Value(_)));
            let places = match discovered {
                // Instances that do not exist yet will be spread over the nodes of the placement.
                Some(_) => match placement.places_of(id) {
                    [] => BTreeSet::from([0]),
                    places => places.iter().copied().collect(),
                },
                None => places.remove(&id).unwrap_or_default(),
            };
            FunctionPreview {
                name: function.name.clone(),
                program: program.clone(),
                instances: discovered.is_none().then(|| counts.get(&id).copied().unwrap_or(0)),
                parts_of: discovered.map(|over| name_of(workflow, over)),
                switch: switch.map(|switch| switch.name.clone()),
                nodes: places.iter().filter_map(name).collect(),
            }
        })
        .collect()
}

/// The name of a source in the workflow file.
pub(super) fn name_of(workflow: &Workflow, source: Source) -> String {
    match source {
        Source::WorkflowInput(input) => format!("inputs.{}", workflow.inputs[input as usize].name),
        Source::Output { function, output } => {
            let function = workflow.function(function);
            format!("{}.{}", function.name, function.outputs[output as usize].name)
        }
    }
}
