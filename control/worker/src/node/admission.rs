//! Which runs a node takes in.
//!
//! Each run that is admitted has a guaranteed minimum of memory. When all of the budget is promised, further runs wait in
//! their order until others have ended; when too many wait, they are refused.

use super::{Guest, GuestState, LauncherSeat, Node, NodeHandle, start_launcher};
use crate::node::surroundings::Surroundings;
use dflow_protocol::RunId;
use dflow_store::{Config, Refusal, TenantId};
use std::collections::VecDeque;
use std::rc::Rc;
use tokio::sync::Notify;

/// The number of runs that may wait for memory.
pub(super) const MAX_WAITING_RUNS: usize = 1024;
/// The part of the budget that each run is guaranteed, within the bounds below: at least this many runs fit.
const RUNS_IN_BUDGET: u64 = 256;
/// The most that a run is guaranteed, in bytes: more does not make it faster, and other runs lack it.
const MAX_GUARANTEE: u64 = 8 << 20;

/// Why a node does not take in a run.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The store refuses it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many runs wait already.
    #[error(
        "all memory for streams is promised to other runs, and {MAX_WAITING_RUNS} more wait for theirs: try again later, or \
         give the node more memory (--memory)"
    )]
    QueueFull,
    /// There is no launcher for its functions.
    #[error(transparent)]
    Launcher(#[from] dflow_launcher::Error),
    /// The launcher cannot be heard.
    #[error("cannot watch the launcher: {0}")]
    Watch(std::io::Error),
}

/// The runs that wait, in their order.
#[derive(Default)]
pub(super) struct Admission {
    waiting: VecDeque<u64>,
    next: u64,
    /// Signalled when a run has ended, or has stopped waiting.
    changed: Rc<Notify>,
}

impl Admission {
    pub(super) fn wake(&self) {
        self.changed.notify_waiters();
    }
}

/// A place in the queue; given up when it is dropped.
struct Ticket<'a> {
    node: &'a NodeHandle,
    number: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut node = self.node.node();
        let number = self.number;
        node.admission.waiting.retain(|other| *other != number);
        node.admission.wake();
    }
}

impl NodeHandle {
    /// Takes in a run of this tenant, as soon as the node has memory for it. `queued` is called if it has to wait, with the
    /// number of runs that are on the node. Dropping the future gives up the place in the queue.
    ///
    /// # Errors
    /// Why the node does not take it in.
    pub(crate) async fn admit(
        &self,
        run: RunId,
        tenant: &str,
        surroundings: &Surroundings,
        mut queued: impl FnMut(usize),
    ) -> Result<Guest, AdmissionError> {
        let mut ticket: Option<Ticket<'_>> = None;
        loop {
            // The runs on the node, if this one begins to wait.
            let mut begins_to_wait = None;
            let changed = {
                let mut node = self.node();
                let is_next = match &ticket {
                    Some(ticket) => node.admission.waiting.front() == Some(&ticket.number),
                    None => node.admission.waiting.is_empty(),
                };
                if is_next {
                    match node.try_admit(run, tenant) {
                        Ok(()) => break,
                        // Without other runs it never fits. Those that are over keep their memory until no other node can write
                        // into it.
                        Err(AdmissionError::Refused(Refusal::NoRoom { .. }))
                            if !node.guests.is_empty() || !node.leaving.is_empty() => {}
                        Err(error) => return Err(error),
                    }
                }
                if ticket.is_none() {
                    if node.admission.waiting.len() >= MAX_WAITING_RUNS {
                        return Err(AdmissionError::QueueFull);
                    }
                    let number = node.admission.next;
                    node.admission.next += 1;
                    node.admission.waiting.push_back(number);
                    begins_to_wait = Some(node.guests.len());
                    ticket = Some(Ticket { node: self, number });
                }
                Rc::clone(&node.admission.changed)
            };
            if let Some(runs) = begins_to_wait {
                queued(runs);
            }
            // Nothing else runs on this thread between the look and this.
            changed.notified().await;
        }
        let mut node = self.node();
        let state = GuestState::new(surroundings.here());
        let guest = Guest::new(self.clone(), run, &state);
        node.guests.insert(run, state);
        drop(node);
        Ok(guest)
    }
}

impl Node {
    fn try_admit(&mut self, run: RunId, tenant: &str) -> Result<(), AdmissionError> {
        if self.launcher.is_gone {
            self.launcher = LauncherSeat::new(start_launcher(&self.options)?).map_err(AdmissionError::Watch)?;
        }
        let budget = self.store.usage().limit;
        let minimum = (budget / RUNS_IN_BUDGET).clamp(Config::MIN_MEMORY, MAX_GUARANTEE);
        let next = TenantId(self.tenants.len() as u64);
        let tenant = *self.tenants.entry(tenant.to_owned()).or_insert(next);
        self.store.admit(run, tenant, minimum, budget.max(minimum))?;
        Ok(())
    }
}
