//! A node in this process, on which any number of runs are driven at the same time.

use super::members::{Invitation, Members};
use super::placement::Demand;
use super::preflight::{self, Checked};
use super::{Driver, spool};
use crate::cancel::Cancellation;
use crate::driver::journal::Update;
use crate::error::SetupError;
use crate::node::{NodeHandle, start_launcher};
use crate::options::NodeOptions;
use crate::report::RunReport;
use crate::spec::RunSpec;
use crate::time::random_id;
use dflow_launcher::Launcher;
use std::rc::Rc;
use tokio::task::JoinHandle;

/// A node in this process: one store, one launcher, one set of slots and one connection with each worker, for all runs that
/// are driven on it. [`run`](crate::run()) makes one for a single run.
///
/// It belongs to the thread of a tokio `LocalSet`, within which all its methods must be called. When the last clone is dropped,
/// and no run goes on, the node ends.
#[derive(Clone)]
pub struct LocalNode {
    node: NodeHandle,
    _events: Rc<EventLoop>,
}

/// The task of the node's event loop.
struct EventLoop(JoinHandle<()>);

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl LocalNode {
    /// Starts a node with these resources. Best called while the process is small and has no threads, because it forks.
    ///
    /// # Errors
    /// If the machine lacks what a node needs.
    pub fn start(options: &NodeOptions) -> Result<Self, SetupError> {
        Self::with_launcher(options, start_launcher(options)?)
    }

    pub(super) fn with_launcher(options: &NodeOptions, launcher: Launcher) -> Result<Self, SetupError> {
        let node = NodeHandle::new(options, launcher)?;
        let events = tokio::task::spawn_local(node.clone().serve());
        Ok(Self { node, _events: Rc::new(EventLoop(events)) })
    }

    /// Checks a run, drives it on this node and waits for its end. Other runs go on meanwhile. `observe` is called for each
    /// [`Update`], and must not block. The resources of the run are the node's, whatever `spec` says; of its slots the run uses
    /// as many as `spec` allows.
    ///
    /// A cancelled run ends when its functions have ended, at the latest when their grace is over. Dropping the future ends the
    /// run at once.
    ///
    /// # Errors
    /// If the run could not be started. A run that started and failed is an `Ok` whose report says so.
    ///
    /// # Panics
    /// Outside of a tokio `LocalSet`.
    pub async fn run(
        &self,
        spec: &RunSpec,
        cancellation: Cancellation,
        observe: impl FnMut(Update<'_>),
    ) -> Result<RunReport, SetupError> {
        // Files may be on a slow filesystem.
        let asked = spec.clone();
        let checked = tokio::task::spawn_blocking(move || preflight::check_and_open(&asked));
        let gone = |error| SetupError::System { what: "check the run", source: std::io::Error::other(error) };
        let checked = checked.await.map_err(gone)??;
        self.drive(spec, checked, cancellation, observe).await
    }

    /// Drives a run that has been checked.
    pub(super) async fn drive(
        &self,
        spec: &RunSpec,
        checked: Checked,
        mut cancellation: Cancellation,
        mut observe: impl FnMut(Update<'_>),
    ) -> Result<RunReport, SetupError> {
        cancellation.listen();
        let id = random_id();
        let cancelled = |reason| Err(SetupError::Cancelled { reason });
        let checked = tokio::select! {
            spooled = spool::spool_where_needed(spec, checked, &mut observe) => spooled?,
            request = cancellation.requested() => return cancelled(request.reason),
        };
        let queued = |runs| {
            observe(Update::Note(&format!("waiting: all memory for streams is promised to {runs} other runs")));
        };
        let mut host = tokio::select! {
            admitted = self.node.admit(id, &spec.options.node, &checked.surroundings, queued) => admitted?,
            request = cancellation.requested() => return cancelled(request.reason),
        };
        let plan = super::plan::of(spec, &checked, id);
        let members = match &spec.cluster {
            Some(cluster) => {
                let dir = spec.absolute_workflow_dir();
                let invitation = Invitation {
                    surroundings: checked.surroundings.clone(),
                    plan: plan.message(&dir),
                    demand: Demand::of(spec, &checked.learned),
                };
                let note = |note: String| observe(Update::Note(&note));
                let guest = (&self.node, &mut host);
                tokio::select! {
                    joined = Members::join(cluster, &spec.options.node, guest, invitation, note) => Some(joined?),
                    request = cancellation.requested() => return cancelled(request.reason),
                }
            }
            None => None,
        };
        Driver::new(spec, checked, id, plan, host, members)?.drive(cancellation, observe).await
    }
}
