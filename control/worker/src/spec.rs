//! A run as its user asks for it.

use crate::logs::RecordOptions;
use crate::options::NodeOptions;
use crate::output::{Call, OutputError, OutputTarget, Planned, Target};
use crate::peer::spec::ClusterSpec;
use dflow_scheduler::Invocation;
use dflow_workflow::Workflow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The specification of a run.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// The workflow.
    pub workflow: Arc<Workflow>,
    /// The directory of the workflow file: on every node, functions run there unless the file says otherwise.
    pub workflow_dir: PathBuf,
    /// Values of the workflow's parameters, complete.
    pub params: BTreeMap<String, String>,
    /// For each input of the workflow, by name, files and directories; `-` is the standard input.
    pub inputs: Vec<(String, Vec<PathBuf>)>,
    /// The destination of the outputs.
    pub output: OutputTarget,
    /// The resources of this node.
    pub options: NodeOptions,
    /// When instances start.
    pub invocation: Invocation,
    /// The other nodes of the run.
    pub cluster: Option<ClusterSpec>,
    /// The record of the run.
    pub record: RecordOptions,
}

impl RunSpec {
    /// The directory of the workflow file, absolute.
    pub(crate) fn absolute_workflow_dir(&self) -> PathBuf {
        std::path::absolute(&self.workflow_dir).unwrap_or_else(|_| self.workflow_dir.clone())
    }

    /// The directory for the outputs; `None` if they go to standard output.
    pub(crate) fn output_folder(&self) -> Result<Option<Target>, OutputError> {
        let OutputTarget::Folder { path, overwrite } = &self.output else { return Ok(None) };
        let call = Call::new(&self.workflow.name, &self.params, &self.inputs);
        Target::new(path, *overwrite, call, self.planned_outputs()).map(Some)
    }

    pub(crate) fn planned_outputs(&self) -> Vec<Planned> {
        let planned =
            |output: &dflow_workflow::WorkflowOutput| Planned { name: output.name.clone(), many: output.many };
        self.workflow.outputs.iter().map(planned).collect()
    }
}
