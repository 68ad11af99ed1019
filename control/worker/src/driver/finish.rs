//! The report of a run.

use super::Driver;
use super::members::Members;
use crate::notice::Stopped;
use crate::output::{Destination, PublishError};
use crate::peer::message::LinkSummary;
use crate::report::{
    AttemptReport, AttemptState, Ending, LinkReport, NodeReport, OutputReport, RunEnd, RunError, RunReport,
    invocation_name,
};
use crate::time::nanos;
use dflow_scheduler::Place;
use dflow_scheduler::{AttemptEnd, InstanceKind, InstanceView};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Outputs that are finished and could not be published.
pub(crate) struct Unpublished {
    pub(crate) reason: String,
    /// Where they are.
    pub(crate) kept: Option<PathBuf>,
}

impl From<PublishError> for Unpublished {
    fn from(error: PublishError) -> Self {
        Self { reason: error.to_string(), kept: Some(error.kept) }
    }
}

impl Driver<'_> {
    /// Publishes finished outputs.
    pub(crate) fn publish(&self, destination: Destination) -> Result<Vec<OutputReport>, Unpublished> {
        let reports = self.output_reports(&destination);
        match (destination, reports) {
            (Destination::Folder(staging), Ok(reports)) => Ok(staging.publish().map(|()| reports)?),
            (Destination::Folder(staging), Err((output, source))) => {
                Err(staging.keep_incomplete(output, source).into())
            }
            (Destination::Stdout(delivery), reports) => {
                let delivered = reports.map_err(|(_, source)| source).and_then(|reports| {
                    delivery.deliver()?;
                    Ok(reports)
                });
                delivered.map_err(|error| Unpublished {
                    reason: format!("the output cannot be written to standard output: {error}"),
                    kept: None,
                })
            }
        }
    }

    /// What has been written; or the output whose file is gone.
    fn output_reports(&self, destination: &Destination) -> Result<Vec<OutputReport>, (String, io::Error)> {
        let mut reports = Vec::new();
        for (index, output) in (0u32..).zip(&self.workflow.outputs) {
            for (part, stream) in (0u32..).zip(self.part.machine.output_streams(index)) {
                let part = output.many.then(|| {
                    let view = self.part.machine.view(stream.sink);
                    view.and_then(|view| view.part?.as_slice().last().copied()).unwrap_or(part)
                });
                let bytes = destination.length(&output.name, part).map_err(|error| (output.name.clone(), error))?;
                let path = destination.final_path(&output.name, part);
                reports.push(OutputReport { name: output.name.clone(), part, path, bytes });
            }
        }
        Ok(reports)
    }

    pub(crate) fn report(&self, failure: Option<RunError>, outputs: Vec<OutputReport>, took: Duration) -> RunReport {
        let state = match &failure {
            None => RunEnd::Succeeded,
            Some(_) if self.cancelled.is_some() => RunEnd::Cancelled,
            Some(_) => RunEnd::Failed,
        };
        RunReport {
            run: self.id.to_string(),
            record: self.journal.record().map(Path::to_owned),
            workflow: self.workflow.name.clone(),
            state,
            error: failure,
            cancelled_by: self.cancelled.clone(),
            invocation: invocation_name(self.spec.invocation).to_owned(),
            slots: self.spec.options.slots,
            nodes: self.node_reports(),
            monotonic_start_ns: self.part.guest.start_nanos(),
            duration_ns: nanos(took),
            links: self.link_reports(),
            coordination: self.members.as_ref().map(Members::coordination),
            memory: self.part.guest.memory(),
            instances: self.attempt_reports(state != RunEnd::Succeeded),
            outputs,
            unpublished: None,
            notes: self.checked.notes.clone(),
        }
    }

    /// What an instance works on, in words.
    pub(crate) fn part_name(&self, view: &InstanceView<'_>) -> Option<String> {
        let InstanceKind::Function(function) = view.kind else { return None };
        self.checked.part_names.name(&self.workflow, function, view.part?.as_slice())
    }

    fn node_reports(&self) -> Vec<NodeReport> {
        let slots = self.members.as_ref().map(Members::slots).unwrap_or_default();
        let slots = std::iter::once(self.spec.options.slots).chain(slots);
        self.part.plan().nodes.iter().zip(slots).map(|(name, slots)| NodeReport { name: name.clone(), slots }).collect()
    }

    fn link_reports(&self) -> Vec<LinkReport> {
        let own = self.part.guest.links();
        let own = own.iter().map(|link| self.link_report(0, link));
        let others = self.members.iter().flat_map(Members::routes);
        own.chain(others.map(|(place, link)| self.link_report(place, link))).collect()
    }

    fn link_report(&self, from: Place, link: &LinkSummary) -> LinkReport {
        LinkReport {
            from: self.part.name_of(from).to_owned(),
            node: self.part.name_of(link.place).to_owned(),
            path: link.path.map(|path| path.to_string()),
            why_not_rdma: link.why_not_rdma.clone(),
            paths: link.paths,
            bytes_sent: link.traffic.sent,
            bytes_received: link.traffic.received,
            violations: link.violations,
        }
    }

    fn attempt_reports(&self, over: bool) -> Vec<AttemptReport> {
        let mut reports = Vec::new();
        for view in self.part.machine.instances() {
            let function = match view.kind {
                InstanceKind::Function(id) => Some(self.workflow.function(id).name.clone()),
                InstanceKind::Sink { .. } => None,
            };
            for attempt in view.attempts {
                let record = self.records.get(&(view.id, attempt.attempt)).copied().unwrap_or_default();
                let (end, reason) = match &attempt.end {
                    None => (AttemptState::Running, None),
                    Some(AttemptEnd::Succeeded) => (AttemptState::Succeeded, None),
                    Some(AttemptEnd::Unread) => (AttemptState::Unread, None),
                    Some(AttemptEnd::Failed { reason }) => (AttemptState::Failed, Some(reason.clone())),
                    // No attempt follows the last one of a failed run.
                    Some(AttemptEnd::Superseded { reason }) if over && attempt.attempt == view.attempt => {
                        (AttemptState::Stopped, Some(reason.clone()))
                    }
                    Some(AttemptEnd::Superseded { reason }) => (AttemptState::Superseded, Some(reason.clone())),
                };
                reports.push(AttemptReport {
                    name: view.name.clone(),
                    function: function.clone(),
                    part: view.part.map(ToString::to_string),
                    part_name: self.part_name(&view),
                    attempt: attempt.attempt,
                    node: self.part.name_of(attempt.place).to_owned(),
                    end,
                    reason,
                    transient: record.transient,
                    held_open_by: self.held_open.get(&(view.id, attempt.attempt)).cloned(),
                    stopped: record.stopped.map(|stopped| match stopped {
                        Stopped::ByItself => Ending::ByItself,
                        Stopped::Killed => Ending::Killed,
                    }),
                    prepared_ns: nanos(attempt.prepared),
                    ready_ns: attempt.ready.map(nanos),
                    started_ns: attempt.started.map(nanos),
                    first_input_byte_ns: record.first_read,
                    first_output_byte_ns: record.first_written,
                    ended_ns: attempt.ended.map(nanos),
                    bytes_read: record.read,
                    bytes_written: record.written,
                    user_ns: record.user,
                    system_ns: record.system,
                    max_rss_bytes: record.max_rss,
                });
            }
        }
        reports.sort_by_key(|report| report.prepared_ns);
        reports
    }
}
