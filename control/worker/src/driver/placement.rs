//! On which nodes the instances of a run's functions are placed.
//!
//! Before the other nodes have joined, only the user's wishes are known: [`Demand`] says which programs each node must
//! have, and which functions may be moved. Once their slots are known, and which programs they lack, [`plan`] asks the
//! planner.

use crate::input;
use crate::peer::error::ClusterError;
use crate::peer::spec::ClusterSpec;
use crate::profiles::LearnedFunctions;
use crate::spec::RunSpec;
use dflow_scheduler::Place;
use dflow_scheduler::planner::{Network, Placement, PlanNode, Policy, Problem, Profile, place};
use dflow_transport::identity::check_name;
use dflow_workflow::{Function, FunctionId};
use std::collections::{BTreeSet, HashMap};

use super::preflight::Checked;

/// The requirements of a run before the other nodes have joined.
pub(crate) struct Demand {
    /// The places that each function is certain to need: those that the user has chosen; for a `foreach`, all nodes;
    /// for everything else, the node that drives the run.
    pub(crate) required: Placement,
    /// Functions that the policy may move to another node, if all nodes have their programs.
    pub(crate) movable: Vec<FunctionId>,
    /// Whether the placement depends on run times that are known.
    pub(crate) is_planned: bool,
}

impl Demand {
    pub(crate) fn of(spec: &RunSpec, learned: &LearnedFunctions) -> Self {
        let Some(cluster) = &spec.cluster else {
            return Self { required: Placement::default(), movable: Vec::new(), is_planned: false };
        };
        let places: HashMap<&str, Place> = nodes(spec, cluster).zip(0..).collect();
        let all: Vec<Place> = (0..).take(places.len()).collect();
        let is_timed = |function: &Function| {
            let declared = function.expect.as_ref().is_some_and(|expect| expect.time.is_some());
            declared || learned.contains_key(&function.name)
        };
        let mut required = Placement::default();
        let mut movable = Vec::new();
        let (mut timed, mut timed_parts) = (false, false);
        for (id, function) in (0..).map(FunctionId).zip(&spec.workflow.functions) {
            match cluster.placement.get(&function.name) {
                Some(chosen) => {
                    let chosen = chosen.iter().filter_map(|node| places.get(node.as_str()).copied());
                    required.push(&chosen.collect::<Vec<_>>());
                }
                None if cluster.policy == Policy::OneNode => required.push(&[0]),
                None if function.foreach.is_some() => {
                    timed_parts |= is_timed(function);
                    required.push(&all);
                }
                None => {
                    timed |= is_timed(function);
                    movable.push(id);
                    required.push(&[0]);
                }
            }
        }
        // Without a run time, there is no reason for the default policy to move a function away from its data.
        if !timed && cluster.policy == Policy::Dflow {
            movable.clear();
        }
        let is_planned =
            !movable.is_empty() || timed_parts || !matches!(cluster.policy, Policy::Dflow | Policy::OneNode);
        Self { required, movable, is_planned }
    }
}

impl Demand {
    /// The functions of which the node at this place must have the programs.
    pub(crate) fn needed_at(&self, place: Place) -> Vec<u32> {
        let needed = self.required.iter().filter(|(_, places)| places.contains(&place));
        needed.map(|(function, _)| function.0).collect()
    }
}

/// Where the instances of each function run. `slots` are those of all nodes, in the order of their places; `everywhere`
/// says whether all nodes have the program of a function.
pub(crate) fn plan(
    spec: &RunSpec,
    checked: &Checked,
    slots: &[u32],
    everywhere: impl Fn(FunctionId) -> bool,
) -> Placement {
    let Some(cluster) = &spec.cluster else { return Placement::default() };
    let (workflow, demand) = (&spec.workflow, Demand::of(spec, &checked.learned));
    let mut movable = demand.movable.iter().peekable();
    let mut pins = Placement::default();
    for (id, function) in (0..).map(FunctionId).zip(&workflow.functions) {
        let may_move = movable.next_if_eq(&&id).is_some() && everywhere(id);
        let is_free = may_move || function.foreach.is_some() && !cluster.placement.contains_key(&function.name);
        let is_free = is_free && cluster.policy != Policy::OneNode;
        pins.push(if is_free { &[] } else { demand.required.places_of(id) });
    }
    // The budgets of the other nodes are not known: they are assumed to be like this one's.
    let memory = spec.options.budget().unwrap_or(spec.options.memory);
    let nodes = nodes(spec, cluster).zip(slots);
    let all_slots = slots.iter().copied().fold(0, u32::saturating_add);
    let problem = Problem {
        workflow,
        nodes: nodes.map(|(name, &slots)| PlanNode { name: name.to_owned(), slots: slots.max(1), memory }).collect(),
        network: Network { default: cluster.link, ..Network::default() },
        inputs: workflow
            .inputs
            .iter()
            .zip(&checked.inputs)
            .zip(Problem::learned_sizes(workflow, |function| checked.learned.get(&function.name)))
            .map(|((input, streams), learned)| {
                let known: Vec<Option<u64>> = streams.iter().map(input::size).collect();
                Problem::input_sizes(input, Some(&known), learned, all_slots)
            })
            .collect(),
        params: spec.params.clone(),
        pins,
        profiles: workflow
            .functions
            .iter()
            .map(|function| Profile::of(function, checked.learned.get(&function.name)))
            .collect(),
        invocation: spec.invocation,
    };
    place(&problem, cluster.policy).unwrap_or_else(|error| {
        // Expectations may be wrong where the run is possible.
        tracing::warn!(%error, "the run is not planned");
        demand.required
    })
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

/// A note about nodes that get nothing to do, because a user who names other nodes expects them to work. Only where
/// that is known before the nodes have joined.
pub(crate) fn note(spec: &RunSpec, cluster: &ClusterSpec, demand: &Demand) -> Option<String> {
    if demand.is_planned {
        return None;
    }
    let own = spec.options.node.as_str();
    let idle = idle(spec, cluster, &demand.required);
    let each = spec.workflow.functions.iter().filter(|function| function.foreach.is_some());
    let each: Vec<&str> = each.map(|function| function.name.as_str()).collect();
    match (cluster.placement.is_empty(), idle.first()) {
        (_, Some(node)) if cluster.policy == Policy::OneNode => Some(format!(
            "nothing runs on {}: with --policy one-node, everything runs on '{own}'; --place FUNCTION={node} changes that",
            list(&idle)
        )),
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

/// A note about a placement that depends on run times: the functions that were moved, and the nodes without any.
pub(crate) fn planned_note(spec: &RunSpec, demand: &Demand, placement: &Placement) -> Option<String> {
    /// How many functions a note names.
    const MOST_NAMED: usize = 5;

    let cluster = spec.cluster.as_ref().filter(|_| demand.is_planned)?;
    let own = spec.options.node.as_str();
    let is_moved = |id: &&FunctionId| placement.places_of(**id).iter().any(|place| *place > 0);
    let moved: Vec<&str> =
        demand.movable.iter().filter(is_moved).map(|id| spec.workflow.function(*id).name.as_str()).collect();
    let idle = idle(spec, cluster, placement);
    let more = match moved.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let moved = list(&moved[..moved.len().min(MOST_NAMED)]);
    let policy = cluster.policy;
    match (moved.is_empty(), idle.first()) {
        (true, None) => None,
        (false, None) => Some(format!(
            "the policy {policy} places {moved}{more} on other nodes than '{own}'; --place FUNCTION={own} changes that"
        )),
        (true, Some(node)) => Some(format!(
            "nothing runs on {}: the policy {policy} does not need it; --place FUNCTION={node} changes that",
            list(&idle)
        )),
        (false, Some(node)) => Some(format!(
            "the policy {policy} places {moved}{more} on other nodes than '{own}', and nothing on {}; --place \
             FUNCTION={node} changes that",
            list(&idle)
        )),
    }
}

/// The names of the other nodes on which nothing is placed.
fn idle<'a>(spec: &'a RunSpec, cluster: &'a ClusterSpec, placement: &Placement) -> Vec<&'a str> {
    let used: BTreeSet<Place> = placement.iter().flat_map(|(_, places)| places).copied().collect();
    let others = nodes(spec, cluster).zip(0..).filter(|(_, place)| *place > 0 && !used.contains(place));
    others.map(|(node, _)| node).collect()
}

/// Notes about functions that ask for more slots than a node has, one for each node; `slots` are those of the first
/// places.
pub(crate) fn slot_notes(spec: &RunSpec, placement: &Placement, slots: &[u32]) -> Vec<String> {
    let names = spec.cluster.iter().flat_map(|cluster| &cluster.nodes).map(|(name, _)| name.as_str());
    let names = std::iter::once(spec.options.node.as_str()).chain(names);
    let note = |((place, &slots), node): ((Place, &u32), &str)| {
        let runs_there = |id: &FunctionId| match placement.places_of(*id) {
            [] => place == 0,
            places => places.contains(&place),
        };
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
