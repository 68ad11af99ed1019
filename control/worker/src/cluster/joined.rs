//! A run that this node has taken in, until all others have.

use crate::node::Guest;
use crate::part::Part;
use crate::part::fact_link::{FactLinks, Facts};
use crate::part::plan::RunPlan;
use dflow_scheduler::{Event, Place, PlanError};
use dflow_workflow::FunctionId;
use std::time::Duration;

pub(super) struct Joined {
    pub(super) host: Guest,
    plan: RunPlan,
    links: FactLinks,
    /// Nodes that have begun already may have told something.
    early: Vec<Event>,
}

/// Why a run cannot begin as its driver says.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeginError {
    #[error("it began a run with other nodes or functions than those of the plan")]
    OtherPlan,
    #[error("it began a run that cannot be: {0}")]
    Plan(#[from] PlanError),
}

impl Joined {
    pub(super) fn new(host: Guest, plan: RunPlan) -> Self {
        Self { host, plan, links: FactLinks::default(), early: Vec::new() }
    }

    /// Keeps what the node at this place has told.
    ///
    /// # Errors
    /// How it violates the protocol.
    pub(super) fn hear(&mut self, place: Place, facts: Facts) -> Result<(), &'static str> {
        let facts = self.links.receive(place, facts)?;
        self.early.extend(facts.into_iter().map(|fact| Event::Fact { from: place, fact }));
        Ok(())
    }

    /// All nodes have joined. `slots`: those of all nodes, by place; `elapsed`: how long the run has lasted for its driver;
    /// `placement`: the places of the functions that have any, by their index.
    ///
    /// # Errors
    /// If this is not the run that the node has joined.
    pub(super) fn begin(
        mut self,
        slots: &[u32],
        elapsed: Duration,
        placement: Vec<(u32, Vec<u32>)>,
    ) -> Result<(Part, FactLinks), BeginError> {
        let functions = self.plan.workflow.functions.len();
        let is_known = |(function, _): &(u32, Vec<u32>)| (*function as usize) < functions;
        if slots.len() != self.plan.nodes.len() || slots.contains(&0) || !placement.iter().all(is_known) {
            return Err(BeginError::OtherPlan);
        }
        self.host.began(elapsed);
        let placement = placement.into_iter().map(|(function, places)| (FunctionId(function), places)).collect();
        let mut part = Part::new(RunPlan { placement, ..self.plan }, slots, self.host)?;
        self.early.into_iter().for_each(|event| part.push(event));
        Ok((part, self.links))
    }
}
