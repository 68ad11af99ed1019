//! The plan of a run, as its driver makes it.

use super::preflight::Checked;
use crate::part::plan::RunPlan;
use crate::spec::RunSpec;
use dflow_protocol::RunId;
use dflow_scheduler::planner::Placement;
use std::sync::Arc;

/// The plan of this run, without its placement, which depends on the nodes.
pub(super) fn of(spec: &RunSpec, checked: &Checked, id: RunId) -> RunPlan {
    let mut nodes = vec![spec.options.node.clone()];
    if let Some(cluster) = &spec.cluster {
        nodes.extend(cluster.nodes.iter().map(|(name, _)| name.clone()));
    }
    RunPlan {
        id: id.to_string(),
        workflow: Arc::clone(&spec.workflow),
        params: spec.params.clone(),
        place: 0,
        nodes,
        placement: Placement::default(),
        invocation: spec.invocation,
        input_parts: checked.input_parts(),
        part_names: Arc::clone(&checked.part_names),
        wanted: checked.wanted.clone(),
    }
}
