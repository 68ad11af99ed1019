//! What a node has to know of a run to take its part in it.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use super::names::PartNames;
use crate::node::program::{ProgramError, Wanted};
use crate::node::unusable::UnusablePrograms;
use crate::peer::error::ClusterError;
use dflow_scheduler::planner::Placement;
use dflow_scheduler::{Invocation, Place, PlaceOptions, RunOptions, Scope};
use dflow_transport::MAX_MANAGEMENT_MESSAGE;
use dflow_workflow::{Diagnostics, Workflow};
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;

/// Programs that are prepared ahead of their gates: per slot, and at most. A chain of short functions starts one every hundred
/// microseconds, and a process takes a millisecond to begin; so on a node that has few runs, many are prepared.
const AHEAD_PER_SLOT: u32 = 2;
const MAX_AHEAD: u32 = 64;
/// The number of started processes, and of output streams being written to files, at the same time.
const MAX_STARTED: u32 = 1024;

/// A run, as one of its nodes sees it.
#[derive(Clone, Debug)]
pub(crate) struct RunPlan {
    /// The run.
    pub(crate) id: String,
    pub(crate) workflow: Arc<Workflow>,
    /// Values of the workflow's parameters, complete.
    pub(crate) params: BTreeMap<String, String>,
    /// The place of this node.
    pub(crate) place: Place,
    /// The names of all nodes, by place.
    pub(crate) nodes: Vec<String>,
    /// Known when all nodes have joined.
    pub(crate) placement: Placement,
    pub(crate) invocation: Invocation,
    /// The number of streams of each workflow input.
    pub(crate) input_parts: Vec<u32>,
    pub(crate) part_names: Arc<PartNames>,
    /// The program of each function.
    pub(crate) wanted: Vec<Wanted>,
}

/// A plan on its way to another node.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct PlanMessage {
    /// The text of the workflow file. Each node checks it, so that no node has to believe another one's graph.
    pub(crate) workflow: String,
    /// The directory of the workflow file, absolute.
    pub(crate) workflow_dir: Vec<u8>,
    pub(crate) params: Vec<(String, String)>,
    /// The functions of which the node must have the programs, by their index.
    pub(crate) needed: Vec<u32>,
    /// Functions that it may be given if it has their programs.
    pub(crate) optional: Vec<u32>,
    pub(crate) control_flow: bool,
    pub(crate) input_parts: Vec<u32>,
    /// For each input the files of its parts, as the caller has named them.
    pub(crate) part_files: Vec<Vec<Vec<u8>>>,
}

/// What a node makes of the message.
pub(crate) struct ReadPlan {
    pub(crate) plan: RunPlan,
    /// The files of programs.
    pub(crate) programs: HashMap<Wanted, PathBuf>,
    /// The optional functions whose programs the node does not have.
    pub(crate) lacks: Vec<u32>,
}

/// A plan that a node cannot take part in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanRefused {
    #[error("its workflow file has errors on this node; install the same release on all nodes: {0}")]
    Workflow(Diagnostics),
    #[error(transparent)]
    Programs(#[from] UnusablePrograms<ProgramError>),
}

impl RunPlan {
    /// The options of the machine of this node, which has room for so many programs ahead; `slots` are those of all nodes, by
    /// place.
    pub(crate) fn options(&self, slots: &[u32], ahead: u32) -> RunOptions {
        RunOptions {
            scope: if self.nodes.len() > 1 { Scope::Node(self.place) } else { Scope::WholeRun },
            places: slots.iter().map(|&slots| place(slots, ahead)).collect(),
            placement: self.placement.clone(),
            invocation: self.invocation,
            params: self.params.clone(),
            input_parts: self.input_parts.clone(),
        }
    }

    /// The message to another node, which does not say yet which programs the node needs.
    pub(crate) fn message(&self, workflow_dir: &std::path::Path) -> PlanMessage {
        PlanMessage {
            workflow: self.workflow.text.to_string(),
            workflow_dir: workflow_dir.as_os_str().as_bytes().to_vec(),
            params: self.params.clone().into_iter().collect(),
            needed: Vec::new(),
            optional: Vec::new(),
            control_flow: self.invocation == Invocation::ControlFlow,
            input_parts: self.input_parts.clone(),
            part_files: self.part_names.to_bytes(),
        }
    }
}

impl PlanMessage {
    /// Checks that it fits into a message.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn check_size(&self) -> Result<(), ClusterError> {
        // What is beside the text of the file in the message is limited, or small.
        const REST: usize = 4 * 1024 * 1024;
        const LIMIT: usize = MAX_MANAGEMENT_MESSAGE - REST;
        let files: usize = self.part_files.iter().flatten().map(|file| file.len() + 16).sum();
        match self.workflow.len() + files {
            bytes if bytes > LIMIT => Err(ClusterError::PlanTooLarge { bytes, limit: LIMIT }),
            _ => Ok(()),
        }
    }

    /// The plan, as far as it is known before all nodes have joined, with the files of the programs that may run at this
    /// place, and the optional functions whose programs are missing. Reads the file system.
    ///
    /// # Errors
    /// If the workflow is not one, or a program is missing that the node must have.
    pub(crate) fn read(self, id: String, place: Place, nodes: Vec<String>) -> Result<ReadPlan, PlanRefused> {
        let workflow = Workflow::parse("the workflow", &self.workflow).map_err(PlanRefused::Workflow)?;
        let params: BTreeMap<String, String> = self.params.into_iter().collect();
        let dir = PathBuf::from(OsString::from_vec(self.workflow_dir));
        let (mut wanted, mut found) = (Vec::new(), HashMap::new());
        let mut unusable = UnusablePrograms::default();
        let (needed, optional): (BTreeSet<u32>, BTreeSet<u32>) =
            (self.needed.into_iter().collect(), self.optional.into_iter().collect());
        let mut lacks = Vec::new();
        for (index, function) in (0..).zip(&workflow.functions) {
            let program = Wanted::of(function, &workflow.env, &dir, &params);
            if !found.contains_key(&program) {
                let file = match (needed.contains(&index), optional.contains(&index)) {
                    (true, _) => unusable.find(&function.name, &program, Wanted::find),
                    (false, true) => program.find().ok(),
                    (false, false) => None,
                };
                found.extend(file.map(|file| (program.clone(), file)));
            }
            if optional.contains(&index) && !found.contains_key(&program) {
                lacks.push(index);
            }
            wanted.push(program);
        }
        unusable.check()?;
        let plan = RunPlan {
            id,
            workflow: Arc::new(workflow),
            params,
            place,
            nodes,
            placement: Placement::default(),
            invocation: if self.control_flow { Invocation::ControlFlow } else { Invocation::Dataflow },
            input_parts: self.input_parts,
            part_names: Arc::new(PartNames::from_bytes(self.part_files)),
            wanted,
        };
        Ok(ReadPlan { plan, programs: found, lacks })
    }
}

/// The limits of a run on a node with so many slots, which has room for so many programs ahead.
pub(crate) fn place(slots: u32, ahead: u32) -> PlaceOptions {
    let prepare_ahead = slots.saturating_mul(AHEAD_PER_SLOT).clamp(4, MAX_AHEAD).max(ahead);
    PlaceOptions { slots, prepare_ahead, max_started: MAX_STARTED }
}
