//! Topic `plan`: the policies of the planner side by side: the predicted end, the bytes over the network, and the time
//! that the plan takes.
//!
//! The workflows are the four of the paper (`workflows/`) and generated ones ([`layered`]). Nothing is run: all
//! policies are compared by the planner's own prediction.

mod layered;

use std::time::{Duration, Instant};

use dflow_scheduler::Invocation;
use dflow_scheduler::planner::{Link, Network, Placement, PlanNode, Policy, Problem, Profile, plan};
use dflow_workflow::Workflow;

use crate::failure::{Failure, Trying};
use crate::latency::median;
use crate::report::{Column, Report, Row, Table, Unit};
use crate::settings::Settings;
use crate::subject::{Card, Role, Subject, Waiting};

/// The workflows of the paper, each with its name.
const PAPER: [(&str, &str); 4] = [
    ("cycles", include_str!("../workflows/cycles.yaml")),
    ("epigenomics", include_str!("../workflows/epigenomics.yaml")),
    ("genome", include_str!("../workflows/genome.yaml")),
    ("soykb", include_str!("../workflows/soykb.yaml")),
];
/// The bandwidth of each node in the paper's evaluation, in bytes per second, and an assumed latency.
const LINK: Link = Link { bandwidth: 50_000_000, latency: Duration::from_millis(1) };
/// The nodes for a workflow of the paper, and the slots of every node.
const PAPER_NODES: usize = 4;
const SLOTS: u32 = 4;
/// The memory for streams of every node, in bytes.
const MEMORY: u64 = 4 << 30;
/// Generated workflows: layers, functions in each, nodes. Quick runs have only the first.
const LAYERED: [(usize, usize, usize); 2] = [(20, 50, 10), (50, 200, 100)];

const COLUMNS: &[Column] = &[
    Column { key: "end_ns", head: "end", unit: Unit::Time },
    Column { key: "end_over_bound", head: "end/bound", unit: Unit::Ratio },
    Column { key: "bytes_over_network", head: "network", unit: Unit::Size },
    Column { key: "planning_ns", head: "planning", unit: Unit::Time },
];

/// A policy, or the bound that no plan can beat.
struct Planner {
    card: Card,
    policy: Option<Policy>,
}

impl Subject for Planner {
    fn card(&self) -> Card {
        self.card
    }
}

/// A subject of this topic. Nothing waits here; a plan is made by one thread.
const fn planner(name: &'static str, about: &'static str, role: Role, policy: Option<Policy>) -> Planner {
    Planner { card: Card { name, about, role, waiting: Waiting::Spinning }, policy }
}

/// All subjects. A new policy is one more line here.
const SUBJECTS: &[&Planner] = &[
    &planner("bound", "one node with a slot for every instance: nothing waits, nothing moves", Role::Limit, None),
    &planner("heft", "earliest finish time in the order of upward ranks", Role::Peer, Some(Policy::Heft)),
    &planner("faasflow", "groups along the critical path", Role::Peer, Some(Policy::FaasFlow)),
    &planner("round-robin", "one node after the other", Role::Peer, Some(Policy::RoundRobin)),
    &planner("one-node", "everything on the first node", Role::Peer, Some(Policy::OneNode)),
    &planner("dflow", "the least predicted end, with consumers that overlap", Role::Ours, Some(Policy::Dflow)),
];

/// The figures of a plan.
#[derive(Clone, Copy)]
struct Outcome {
    end: f64,
    moved: f64,
    planning: f64,
}

/// Measures the topic.
pub fn measure(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for (name, text) in PAPER {
        let workflow = Workflow::parse(name, text).trying(format_args!("read the workflow {name}"))?;
        rows.extend(compare(settings, &format!("{name}, {PAPER_NODES} nodes"), &workflow, PAPER_NODES));
    }
    let generated = if settings.quick { &LAYERED[..1] } else { &LAYERED[..] };
    for &(layers, width, nodes) in generated {
        let name = format!("{} functions, {nodes} nodes", layers * width);
        let text = layered::text(layers, width);
        let workflow = Workflow::parse(&name, &text).trying("read a generated workflow")?;
        rows.extend(compare(settings, &name, &workflow, nodes));
    }
    report.add(Table {
        topic: "plan",
        title: "predicted runs under each policy".into(),
        notes: vec![
            format!("{SLOTS} slots on each node; 50 MB/s in and out of each, as in the paper; 1 ms of latency"),
            "a node's slots and links are not part of the bound".into(),
        ],
        columns: COLUMNS,
        rows,
    })
}

/// The rows of one workflow.
fn compare(settings: &Settings, case: &str, workflow: &Workflow, nodes: usize) -> Vec<Row> {
    let found = settings.in_turns(case, &settings.wanted(SUBJECTS), |planner| outcome(planner, workflow, nodes));
    let found: Vec<_> = found
        .into_iter()
        .map(|(planner, repeats)| {
            let outcome = repeats.map(|repeats| {
                let planning = median(repeats.iter().map(|outcome| outcome.planning).collect());
                // The plan is the same each time.
                repeats.first().map(|first| Outcome { planning: planning.unwrap_or(f64::NAN), ..*first })
            });
            (planner, outcome)
        })
        .collect();
    let bound = found.iter().find(|(planner, _)| planner.policy.is_none());
    let bound = bound.and_then(|(_, outcome)| outcome.as_ref().ok().copied().flatten()).map(|bound| bound.end);
    let figures = |outcome: Option<Outcome>| {
        let over_bound = outcome.zip(bound).map(|(outcome, bound)| outcome.end / bound);
        let of = |figure: fn(Outcome) -> f64| outcome.map(figure);
        vec![of(|it| it.end), over_bound, of(|it| it.moved), of(|it| it.planning)]
    };
    found.into_iter().map(|(planner, outcome)| Row::new(case, planner, outcome.map(figures))).collect()
}

fn outcome(planner: &Planner, workflow: &Workflow, nodes: usize) -> Result<Outcome, Failure> {
    let (nodes, slots, memory) = match planner.policy {
        Some(_) => (nodes, SLOTS, MEMORY),
        None => (1, u32::MAX, u64::MAX),
    };
    let problem = Problem {
        workflow,
        nodes: (0..nodes).map(|node| PlanNode { name: format!("n{node}"), slots, memory }).collect(),
        network: Network { default: LINK, pairs: Default::default() },
        inputs: workflow.inputs.iter().map(|input| Problem::input_sizes(input, None, None, 1)).collect(),
        params: Default::default(),
        pins: Placement::default(),
        profiles: workflow.functions.iter().map(|function| Profile::of(function, None)).collect(),
        invocation: Invocation::Dataflow,
    };
    let began = Instant::now();
    let made = plan(&problem, planner.policy.unwrap_or(Policy::OneNode)).trying("plan")?;
    let planning = began.elapsed().as_nanos() as f64;
    Ok(Outcome { end: made.timeline.end.as_nanos() as f64, moved: made.timeline.bytes_moved() as f64, planning })
}
