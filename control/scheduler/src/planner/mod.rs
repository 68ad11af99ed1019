//! The planner: decides on which node each instance of a run should be, and predicts the run.
//!
//! [`plan`] turns a [`Problem`] (a workflow, its inputs, the nodes, pins and [`Profile`]s) into a [`Plan`]: a
//! [`Placement`], a predicted [`Timeline`], and a [`Reason`] for each function. [`predict`] gives the timeline of any
//! placement. Both are pure: no I/O, no clock, no randomness; equal problems have equal plans.
//!
//! # The cost model
//!
//! An instance *v* computes for `work(v)` and holds its slots during that time only. `head(v)` of its work passes
//! before its first output byte, and `tail(v)` remains after its last input byte; the profile gives all three. Input
//! *i* of *v* has its first byte on the node of *v* at `F(i)` and its last at `L(i)`.
//!
//! ```text
//! gate(v)    = max over inputs of: F(i) with gate `stream`, L(i) with `whole`, 0 with `start`
//! release(v) = max(gate(v), max over inputs of L(i) + tail(v) − work(v))
//! busy(v)    = the earliest time ≥ release(v) from which the slots of v are free for work(v)
//! start(v)   = gate(v) + (busy(v) − release(v))
//! end(v)     = busy(v) + work(v)
//! first(v)   = start(v) + head(v) × (end(v) − start(v) − tail(v)) / (work(v) − tail(v))  if head(v) < work(v) − tail(v)
//!            = end(v) − (work(v) − head(v))                                              otherwise, if there is work
//! ```
//!
//! So a streaming consumer starts at the first bytes of its producer, does not end before its producer's end plus its
//! own tail, and overlaps with it in between. Its work is spread over that time in reality. The model counts it as one
//! block at the latest possible time: the slot time is the same, and a consumer that waits for data holds no slot. A
//! fan-in with gate `stream` opens at the first byte of any of its streams; with `need: k`, only its k earliest streams
//! count.
//!
//! A stream goes once to each node that reads it. The transfer takes `bytes / bandwidth` of the outgoing side of the
//! sender's link and of the incoming side of the receiver's (the one-port model), so transfers that share a side take
//! turns. It is released at `max(first, last − bytes / bandwidth)` of its sender; the stream arrives `latency` later.
//! The sender is the node that got the stream last, since nodes forward what they have.
//!
//! Bytes that must stay in memory on the reader's node (all of a kept or `whole` input; otherwise those that arrive
//! before the reader starts) are held from `F(i)` to `end(v)`. Those that exceed the node's memory are written to disk
//! and read again, which delays the release of the instance by `2 × excess / disk speed`.
//!
//! Inputs of the workflow are at the first node from the beginning, and its outputs go there. Among instances that can
//! start at the same time, the one furthest downstream takes the slot, as in a run. All cases of a switch on a value
//! are counted, because it is not known which will run. Not modelled: a slow reader that slows its producer, retries,
//! and the time to start programs, which a run hides by preparing them ahead.
//!
//! | file | holds |
//! | --- | --- |
//! | `problem` | the input: nodes, links, sizes, pins; and its errors |
//! | `profile` | run times and sizes of a function: declared, learned, assumed |
//! | `placement` | where the instances of each function run |
//! | `graph` | the instances and streams of the run, as far as they can be known or estimated |
//! | `capacity` | a resource over time: slots, a side of a link, memory |
//! | `schedule` | the cost model: instances are added one by one |
//! | `rank` | how much of the run follows an instance |
//! | `predict` | the timeline of a placement |
//! | `policy` | the policies, one to a file |
//! | `reason` | why a function is where it is |

mod capacity;
mod graph;
mod placement;
mod policy;
mod predict;
mod problem;
mod profile;
mod rank;
mod reason;
mod schedule;

pub use placement::Placement;
pub use policy::{Policy, UnknownPolicy};
pub use predict::{LinkLoad, Predicted, Timeline};
pub use problem::{DEFAULT_LINK, Link, MAX_PLAN_NODES, Network, PlanNode, Problem, ProblemError};
pub use profile::{Learned, Profile};
pub use reason::Reason;

use graph::Graph;

/// A placement with its prediction.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The policy that made it.
    pub policy: Policy,
    /// Where the instances run.
    pub placement: Placement,
    /// The predicted run.
    pub timeline: Timeline,
    /// Why, for each function of the workflow.
    pub reasons: Vec<Reason>,
}

/// Plans a run.
///
/// # Errors
/// If the problem is inconsistent or the run would be too large.
pub fn plan(problem: &Problem<'_>, policy: Policy) -> Result<Plan, ProblemError> {
    let graph = Graph::new(problem)?;
    let assignment = policy.assign(problem, &graph);
    let (schedule, reasons) = reason::explain(problem, &graph, &assignment, policy);
    Ok(Plan {
        policy,
        placement: graph.placement(&assignment),
        timeline: Timeline::new(problem, &graph, &schedule),
        reasons,
    })
}

/// Only where the instances of a run are placed, without the prediction.
///
/// # Errors
/// If the problem is inconsistent or the run would be too large.
pub fn place(problem: &Problem<'_>, policy: Policy) -> Result<Placement, ProblemError> {
    let graph = Graph::new(problem)?;
    Ok(graph.placement(&policy.assign(problem, &graph)))
}

/// Predicts the run with a given placement.
///
/// # Errors
/// If the problem is inconsistent or the run would be too large.
pub fn predict(problem: &Problem<'_>, placement: &Placement) -> Result<Timeline, ProblemError> {
    problem.check_places(placement)?;
    let graph = Graph::new(problem)?;
    let assignment = graph.assignment(placement);
    Ok(Timeline::new(problem, &graph, &predict::simulate(problem, &graph, &assignment)))
}
