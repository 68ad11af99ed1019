//! The planner: predictions computed by hand, valid plans, plans against the true optimum, speed.

mod hand;
mod optimum;
mod policies;
mod scale;
mod valid;

use dflow_scheduler::planner::{Link, Network, Placement, PlanNode, Policy, Problem, Profile, Timeline, plan, predict};
use dflow_scheduler::{Invocation, Place};
use dflow_workflow::{FunctionId, Workflow};
use std::collections::BTreeMap;
use std::time::Duration;

pub const MB: u64 = 1_000_000;

/// A workflow file with these functions, and one input of 1 MB named `data`.
pub fn workflow(functions: &str) -> Workflow {
    let text = format!("workflow: w\ninputs: {{ data: {{}}, files: {{ parts: files }} }}\nfunctions:\n{functions}");
    Workflow::parse("w.yaml", &text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// The problem of a workflow on nodes with these slots, with 1 GB of memory each, links of 100 MB/s and 1 ms, an input
/// of 1 MB and two files of 1 MB.
pub fn problem<'a>(workflow: &'a Workflow, slots: &[u32]) -> Problem<'a> {
    let node = |(index, slots): (usize, &u32)| PlanNode { name: format!("n{index}"), slots: *slots, memory: 1000 * MB };
    Problem {
        workflow,
        nodes: slots.iter().enumerate().map(node).collect(),
        network: Network {
            default: Link { bandwidth: 100 * MB, latency: Duration::from_millis(1) },
            pairs: BTreeMap::new(),
        },
        inputs: workflow.inputs.iter().map(|input| vec![MB; 1 + usize::from(input.partitioned)]).collect(),
        params: BTreeMap::new(),
        pins: Placement::default(),
        profiles: workflow.functions.iter().map(|function| Profile::of(function, None)).collect(),
        invocation: Invocation::Dataflow,
    }
}

/// The functions with these names at these places; the others are at the first.
pub fn placed(workflow: &Workflow, places: &[(&str, &[Place])]) -> Placement {
    let id = |name: &str| workflow.functions.iter().position(|function| function.name == name).expect("a function");
    let all = places.iter().map(|(name, places)| (FunctionId(id(name) as u32), places.to_vec()));
    Placement::from(all.collect::<BTreeMap<_, _>>())
}

/// A predicted timeline as text: a line for each instance with its place and its times in milliseconds.
pub fn told(workflow: &Workflow, timeline: &Timeline) -> Vec<String> {
    let line = |instance: &dflow_scheduler::planner::Predicted| {
        let name = &workflow.function(instance.function).name;
        let part = instance.part.map(|part| format!("[{part}]")).unwrap_or_default();
        let ms = |time: Duration| time.as_millis();
        format!(
            "{name}{part}@{} {} {} {}",
            instance.place,
            ms(instance.start),
            ms(instance.first_output),
            ms(instance.end)
        )
    };
    timeline.instances.iter().map(line).collect()
}

/// The prediction of a workflow on one node with so many slots.
pub fn alone(functions: &str, slots: u32) -> Vec<String> {
    let workflow = workflow(functions);
    told(&workflow, &predict(&problem(&workflow, &[slots]), &Placement::default()).expect("a prediction"))
}

/// The first flaw of a timeline: slots that are exceeded, or an impossible order of times.
pub fn flaw(problem: &Problem<'_>, timeline: &Timeline) -> Option<String> {
    for (place, node) in problem.nodes.iter().enumerate() {
        let here = timeline.instances.iter().filter(|instance| instance.place as usize == place);
        let mut changes: Vec<(Duration, i64)> = Vec::new();
        for instance in here {
            let slots = i64::from(instance.slots);
            changes.extend([(instance.busy.0, slots), (instance.busy.1, -slots)]);
        }
        // An instance that ends makes room for one that begins at the same time.
        changes.sort_unstable();
        let mut used = 0;
        for (at, change) in changes {
            used += change;
            if used > i64::from(node.slots) {
                return Some(format!("{used} slots are used on node {place} at {at:?}"));
            }
        }
    }
    timeline.instances.iter().find_map(|instance| {
        let times = [instance.ready, instance.start, instance.first_output, instance.end];
        let is_ordered = times.is_sorted() && instance.start <= instance.busy.0 && instance.busy.1 <= instance.end;
        (!is_ordered || instance.end > timeline.end).then(|| format!("{instance:?} of {:?}", timeline.end))
    })
}

/// The predicted end under a policy, in seconds.
pub fn end_of(problem: &Problem<'_>, policy: Policy) -> f64 {
    plan(problem, policy).expect("a plan").timeline.end.as_secs_f64()
}
