//! Over which nodes the instances of a run's functions are spread.

use crate::peer::error::ClusterError;
use crate::peer::spec::ClusterSpec;
use crate::spec::RunSpec;
use dflow_scheduler::Place;
use dflow_transport::identity::check_name;
use dflow_workflow::FunctionId;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The places of each function's instances. Functions without an entry run on the node that drives the run.
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

/// Checks that every name is that of a node or function.
///
/// # Errors
/// The first unknown name.
pub(crate) fn check(spec: &RunSpec, cluster: &ClusterSpec) -> Result<(), ClusterError> {
    let nodes: Vec<&str> = nodes(spec, cluster).collect();
    cluster.nodes.iter().try_for_each(|(node, _)| check_name(node))?;
    if let Some(node) = nodes.iter().enumerate().find_map(|(at, node)| nodes[..at].contains(node).then_some(*node)) {
        return Err(ClusterError::NamedTwice { node: node.to_owned(), own: spec.options.node.clone() });
    }
    let functions: Vec<&str> = spec.workflow.functions.iter().map(|function| function.name.as_str()).collect();
    for (function, places) in &cluster.placement {
        if !functions.contains(&function.as_str()) {
            return Err(ClusterError::UnknownFunction { function: function.clone(), known: list(&functions) });
        }
        if let Some(node) = places.iter().find(|place| !nodes.contains(&place.as_str())) {
            let (function, node) = (function.clone(), node.clone());
            return Err(ClusterError::UnknownNode { function, node, known: list(&nodes) });
        }
    }
    Ok(())
}

/// A note about nodes that get nothing to do, because a user who names other nodes expects them to work.
pub(crate) fn note(spec: &RunSpec, cluster: &ClusterSpec) -> Option<String> {
    let own = spec.options.node.as_str();
    let used: BTreeSet<Place> = places(spec).into_values().flatten().collect();
    let idle = nodes(spec, cluster).zip(0..).filter(|(_, place)| *place > 0 && !used.contains(place));
    let idle: Vec<&str> = idle.map(|(node, _)| node).collect();
    let each = spec.workflow.functions.iter().filter(|function| function.foreach.is_some());
    let each: Vec<&str> = each.map(|function| function.name.as_str()).collect();
    match (cluster.placement.is_empty(), idle.first()) {
        (true, None) => Some(format!(
            "without --place the instances of {} are spread over all nodes, and everything else runs on '{own}'",
            list(&each)
        )),
        (_, Some(node)) => Some(format!(
            "nothing runs on {}: only the instances of a 'foreach' are spread over all nodes without --place, everything \
             else runs on '{own}'; --place FUNCTION={node} changes that",
            list(&idle)
        )),
        (false, None) => None,
    }
}

/// Notes about functions that ask for more slots than a node has, one for each node; `slots` are those of the first
/// places.
pub(crate) fn slot_notes(spec: &RunSpec, slots: &[u32]) -> Vec<String> {
    let places = places(spec);
    let names = spec.cluster.iter().flat_map(|cluster| &cluster.nodes).map(|(name, _)| name.as_str());
    let names = std::iter::once(spec.options.node.as_str()).chain(names);
    let note = |((place, &slots), node): ((Place, &u32), &str)| {
        let runs_there = |id: &FunctionId| places.get(id).map_or(place == 0, |places| places.contains(&place));
        let functions = (0..).map(FunctionId).zip(&spec.workflow.functions);
        let large = functions.filter(|(_, function)| function.resources.slots > slots).filter(|(id, _)| runs_there(id));
        let large: Vec<_> = large.map(|(_, function)| function).collect();
        let first = large.first()?;
        let (function, cpu) = (&first.name, first.resources.slots);
        let others = match large.len() - 1 {
            0 => String::new(),
            1 => " (and 1 other function more than there are)".into(),
            others => format!(" (and {others} other functions more than there are)"),
        };
        let them = if slots == 1 { "it has this one" } else { "it has all of them" };
        Some(format!(
            "'{function}' asks for cpu: {cpu}{others}, and node '{node}' has {slots} {}: where it runs, {them}, and \
             nothing runs beside it; --slots says how many a node has",
            if slots == 1 { "slot" } else { "slots" },
        ))
    };
    (0..).zip(slots).zip(names).filter_map(note).collect()
}

/// The names of all nodes, in the order of their places.
fn nodes<'a>(spec: &'a RunSpec, cluster: &'a ClusterSpec) -> impl Iterator<Item = &'a str> {
    std::iter::once(spec.options.node.as_str()).chain(cluster.nodes.iter().map(|(name, _)| name.as_str()))
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}
