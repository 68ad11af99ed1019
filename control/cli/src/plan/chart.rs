//! A predicted timeline in the form of a run's, so that both are drawn in the same way.

use dflow_scheduler::planner::{Predicted, Timeline};
use dflow_worker::report::{AttemptReport, AttemptState};

use super::question::Question;

/// The instances as attempts that succeed.
pub fn attempts(question: &Question<'_>, timeline: &Timeline) -> Vec<AttemptReport> {
    timeline.instances.iter().map(|instance| attempt(question, instance)).collect()
}

/// The name of an instance, such as `count[3]`.
pub fn name(question: &Question<'_>, instance: &Predicted) -> String {
    let function = &question.problem.workflow.function(instance.function).name;
    instance.part.map_or_else(|| function.clone(), |part| format!("{function}[{part}]"))
}

/// Nanoseconds.
pub fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn attempt(question: &Question<'_>, instance: &Predicted) -> AttemptReport {
    AttemptReport {
        name: name(question, instance),
        function: Some(question.problem.workflow.function(instance.function).name.clone()),
        part: instance.part.map(|part| part.to_string()),
        part_name: None,
        attempt: 1,
        node: question.node(instance.place).to_owned(),
        end: AttemptState::Succeeded,
        reason: None,
        transient: false,
        held_open_by: None,
        stopped: None,
        prepared_ns: nanos(instance.ready),
        ready_ns: Some(nanos(instance.ready)),
        started_ns: Some(nanos(instance.start)),
        first_input_byte_ns: (instance.bytes_read > 0).then(|| nanos(instance.start)),
        first_output_byte_ns: (instance.bytes_written > 0).then(|| nanos(instance.first_output)),
        ended_ns: Some(nanos(instance.end)),
        bytes_read: instance.bytes_read,
        bytes_written: instance.bytes_written,
        user_ns: 0,
        system_ns: 0,
        max_rss_bytes: 0,
    }
}
