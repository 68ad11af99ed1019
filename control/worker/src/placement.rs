//! Which nodes the instances of a run's functions are spread over.

use crate::check::RunSpec;
use crate::cluster::ClusterSpec;
use dflow_scheduler::Place;
use dflow_workflow::FunctionId;
use std::collections::{BTreeMap, HashMap};

/// For each function the nodes of its instances, by their places. Those that are not named run on the node that drives the
/// run.
pub(crate) fn places(spec: &RunSpec) -> BTreeMap<FunctionId, Vec<Place>> {
    let Some(cluster) = &spec.cluster else { return BTreeMap::new() };
    let places: HashMap<&str, Place> = nodes(spec, cluster).zip(0..).collect();
    let all: Vec<Place> = (0..=u32::try_from(cluster.nodes.len()).unwrap_or(0)).collect();
    let mut placement = BTreeMap::new();
    for (id, function) in (0..).map(FunctionId).zip(&spec.workflow.functions) {
        match cluster.placement.get(&function.name) {
            Some(nodes) => {
                placement.insert(id, nodes.iter().filter_map(|node| places.get(node.as_str()).copied()).collect());
            }
            None if function.foreach.is_some() => {
                placement.insert(id, all.clone());
            }
            None => {}
        }
    }
    placement
}

/// The names of all nodes, in the order of their places.
fn nodes<'a>(spec: &'a RunSpec, cluster: &'a ClusterSpec) -> impl Iterator<Item = &'a str> {
    std::iter::once(spec.options.node.as_str()).chain(cluster.nodes.iter().map(|(name, _)| name.as_str()))
}
