//! The progress and the final report of a run.

use dflow_scheduler::Invocation;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Everything about a run that has ended. `dflow run --format json` prints it as one JSON document; times are
/// nanoseconds since the run's start, sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunReport {
    /// The run's id, 32 hexadecimal digits.
    pub run: String,
    /// The directory with this report and the logs; `None` if the run leaves none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<PathBuf>,
    /// The workflow's name.
    pub workflow: String,
    /// How it ended.
    pub state: RunEnd,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
    /// What cancelled it, such as a signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<String>,
    /// `dataflow` or `control-flow`.
    pub invocation: String,
    /// How many slots the node that drove it had.
    pub slots: u32,
    /// The nodes of the run; the first drove it.
    pub nodes: Vec<NodeReport>,
    /// When it began, on the machine's monotonic clock. A function's monotonic time minus this one is a time in this
    /// report.
    pub monotonic_start_ns: u64,
    /// How long it took.
    pub duration_ns: u64,
    /// The links between the nodes that took part: first those of the node that drove it, then the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkReport>,
    /// What the other nodes have told the coordinator, on the node that drove the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordination: Option<CoordinationReport>,
    /// Memory and disk.
    pub memory: MemoryReport,
    /// Every attempt of every instance, in the order in which their preparation began.
    pub instances: Vec<AttemptReport>,
    /// The published files; empty unless the run succeeded.
    pub outputs: Vec<OutputReport>,
    /// The directory with the outputs, if they were finished and could not be published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpublished: Option<PathBuf>,
    /// What the user should know although it is not an error: files that are left out of inputs, or changed while they
    /// were read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl RunReport {
    /// The attempts of a function.
    pub fn attempts_of<'a>(&'a self, function: &'a str) -> impl Iterator<Item = &'a AttemptReport> {
        self.instances.iter().filter(move |attempt| attempt.function.as_deref() == Some(function))
    }
}

/// The name of an invocation mode in reports.
pub(crate) fn invocation_name(invocation: Invocation) -> &'static str {
    match invocation {
        Invocation::Dataflow => "dataflow",
        Invocation::ControlFlow => "control-flow",
    }
}

/// What the other nodes of a run have told its coordinator. No function waits for any of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinationReport {
    /// Messages.
    pub messages: u64,
    /// Facts in them.
    pub facts: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A node that took part in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// Maximum number of instances that compute on it at the same time.
    pub slots: u32,
}

/// The link between two nodes of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// The node that reports it.
    pub from: String,
    /// The other node.
    pub node: String,
    /// The last path of the streams: `RDMA` or `QUIC`; `None` if there was none at the end.
    pub path: Option<String>,
    /// Why it is not `RDMA`, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not_rdma: Option<String>,
    /// The number of successive paths.
    pub paths: u64,
    /// Stream bytes sent to the other node, including those sent again after a fail-over.
    pub bytes_sent: u64,
    /// Stream bytes received from it.
    pub bytes_received: u64,
    /// The number of its protocol violations.
    pub violations: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunEnd {
    /// Its outputs are published.
    Succeeded,
    /// A function, or the node, failed.
    Failed,
    /// The user cancelled it.
    Cancelled,
}

impl fmt::Display for RunEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    /// The instance that failed, if one did.
    pub instance: Option<String>,
    /// The part of a `foreach` on which that instance worked: a file, or a part of an output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part_name: Option<String>,
    /// The node on which it ran, if the run had several. Without an instance: the node that was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why, in words, with the last lines of its standard error.
    pub reason: String,
}

/// How much memory and disk streams took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryReport {
    /// The budget.
    pub budget_bytes: u64,
    /// In use now.
    pub used_bytes: u64,
    /// The peak.
    pub peak_bytes: u64,
    /// Written to disk because memory was short.
    pub spilled_bytes: u64,
}

/// What has become of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptState {
    /// It has not ended.
    Running,
    /// It has succeeded.
    Succeeded,
    /// It ended because nobody read its outputs any more.
    Unread,
    /// It has failed.
    Failed,
    /// Another attempt took its place.
    Superseded,
    /// The run was over.
    Stopped,
}

impl fmt::Display for AttemptState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Unread => "unread",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
            Self::Stopped => "stopped",
        })
    }
}

/// How an attempt ended when it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// At SIGTERM.
    ByItself,
    /// It had not ended within its grace, or had none.
    Killed,
}

/// One attempt of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptReport {
    /// The instance, such as `count[3]`; the names of sinks, which write the workflow's outputs, begin with `output:`.
    pub name: String,
    /// The function's name; `None` for a sink.
    pub function: Option<String>,
    /// The part in a `foreach`.
    pub part: Option<String>,
    /// The name of the part: a file, or a part of an output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part_name: Option<String>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Where it ran.
    pub node: String,
    /// How it ended, if it has.
    pub end: AttemptState,
    /// Why, if it failed or was superseded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It failed for a reason that may be temporary, such as a signal or a time limit: a retry may help.
    pub transient: bool,
    /// Processes that held its outputs open after its program had ended, such as `process 17 (sleep)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_open_by: Option<String>,
    /// How it ended when it was told to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Ending>,
    /// When the preparation of its program began.
    pub prepared_ns: u64,
    /// When its program was ready and waited for its gate.
    pub ready_ns: Option<u64>,
    /// When it started: its gate was open and it had a slot.
    pub started_ns: Option<u64>,
    /// When it had read its first byte.
    pub first_input_byte_ns: Option<u64>,
    /// When it had committed its first byte.
    pub first_output_byte_ns: Option<u64>,
    /// When none of its processes was left.
    pub ended_ns: Option<u64>,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Processor time in user mode, in nanoseconds; 0 if unknown.
    pub user_ns: u64,
    /// Processor time in the kernel.
    pub system_ns: u64,
    /// Maximum resident set size, in bytes.
    pub max_rss_bytes: u64,
}

/// A file that a run has published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputReport {
    /// The workflow output's name.
    pub name: String,
    /// The part, if the output is a directory of parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<u32>,
    /// Its path.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// The progress of a run.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Nanoseconds since its start.
    pub elapsed_ns: u64,
    /// Instances of functions that have not started yet.
    pub waiting: usize,
    /// Instances that compute.
    pub running: usize,
    /// Instances that wait for slots, which other runs on their node hold.
    pub queued: usize,
    /// Instances that wait for data or credit.
    pub parked: usize,
    /// Instances that have ended.
    pub ended: usize,
    /// Bytes written to streams so far.
    pub bytes: u64,
    /// Memory and disk.
    pub memory: MemoryReport,
    /// The names of instances that compute or wait.
    pub active: Vec<String>,
    /// The run is being ended.
    pub stopping: Option<Stopping>,
}

/// A run that was cancelled or has failed, and that waits for its functions to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopping {
    /// Functions that have not ended yet.
    pub functions: usize,
    /// Nanoseconds until the last of them is killed.
    pub left_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With everything that may be left out, and without.
    #[test]
    fn a_report_is_read_as_it_was_written() {
        let attempt = AttemptReport {
            name: "qc[1]".into(),
            function: Some("qc".into()),
            part: Some("1".into()),
            part_name: Some("b.fq".into()),
            attempt: 2,
            node: "b".into(),
            end: AttemptState::Superseded,
            reason: Some("it timed out".into()),
            transient: true,
            held_open_by: Some("process 17 (sleep)".into()),
            stopped: Some(Ending::ByItself),
            prepared_ns: 1,
            ready_ns: Some(2),
            started_ns: None,
            first_input_byte_ns: None,
            first_output_byte_ns: Some(3),
            ended_ns: Some(u64::MAX),
            bytes_read: 4,
            bytes_written: 5,
            user_ns: 6,
            system_ns: 7,
            max_rss_bytes: 8,
        };
        let link = LinkReport {
            from: "a".into(),
            node: "b".into(),
            path: Some("QUIC".into()),
            why_not_rdma: Some("no device".into()),
            paths: 1,
            bytes_sent: 2,
            bytes_received: 3,
            violations: 0,
        };
        let full = RunReport {
            run: "0123".into(),
            record: Some("/runs/0123".into()),
            workflow: "w".into(),
            state: RunEnd::Failed,
            error: Some(RunError {
                instance: Some("qc[1]".into()),
                part_name: Some("b.fq".into()),
                node: Some("b".into()),
                reason: "exit status 1".into(),
            }),
            cancelled_by: Some("SIGINT".into()),
            invocation: "dataflow".into(),
            slots: 4,
            nodes: vec![NodeReport { name: "a".into(), slots: 4 }],
            monotonic_start_ns: 9,
            duration_ns: 10,
            links: vec![link],
            coordination: Some(CoordinationReport { messages: 3, facts: 12, bytes: 900 }),
            memory: MemoryReport { budget_bytes: 1, used_bytes: 2, peak_bytes: 3, spilled_bytes: 4 },
            instances: vec![attempt],
            outputs: vec![OutputReport { name: "o".into(), part: Some(3), path: "/out/o/00003".into(), bytes: 11 }],
            unpublished: Some("/out.unpublished-0123".into()),
            notes: vec!["a note".into()],
        };
        let bare = RunReport {
            record: None,
            error: None,
            cancelled_by: None,
            links: Vec::new(),
            unpublished: None,
            notes: Vec::new(),
            ..full.clone()
        };
        for report in [full, bare] {
            let text = serde_json::to_string(&report).unwrap();
            assert_eq!(serde_json::from_str::<RunReport>(&text).unwrap(), report);
        }
        let names = ["running", "succeeded", "unread", "failed", "superseded", "stopped"];
        for name in names {
            let state: AttemptState = serde_json::from_value(name.into()).unwrap();
            assert_eq!(state.to_string(), name);
        }
    }
}
