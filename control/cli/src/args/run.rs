//! The arguments of `dflow run`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCompleter;
use dflow_scheduler::Invocation;
use dflow_scheduler::planner::Policy;
use dflow_worker::logs::DEFAULT_KEEP_RUNS;
use dflow_workflow::units;

use super::values::{
    parse_bandwidth, parse_latency, parse_node, parse_placement, parse_silence, parse_wait, policy_parser,
};
use super::{Format, NodeArgs};
use crate::completions;
use crate::inputs::InputError;
use crate::record;

/// The arguments of `dflow run`.
#[derive(Debug, Args)]
#[command(after_help = RUN_HELP)]
pub struct RunArgs {
    /// The workflow file (YAML), or `-` for standard input
    #[arg(value_hint = ValueHint::FilePath, required_unless_present = "inputs")]
    pub file: Option<PathBuf>,
    /// The data of a workflow input: files, directories (their files in the order of their names), or `-` for standard
    /// input. A pattern in quotes, as in 'logs=*.gz', stands for the files that match it. May be repeated. NAME= may be
    /// left out if the workflow has one input
    #[arg(
        short,
        long = "input",
        value_name = "NAME=PATH",
        num_args = 1..,
        add = ArgValueCompleter::new(completions::inputs)
    )]
    pub inputs: Vec<OsString>,
    /// The value of a parameter of the workflow
    #[arg(short, long = "param", value_name = "NAME=VALUE", add = ArgValueCompleter::new(completions::params))]
    pub params: Vec<String>,
    /// The directory for the outputs, which appear there in one step when the run has succeeded. It may hold the result
    /// of an earlier run of the same call, which is replaced; if it holds anything else, the run does not start. `-`
    /// writes a single output to standard output, also once the run has succeeded [default: dflow-out/WORKFLOW]
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: Option<PathBuf>,
    /// Replace any earlier result in the output directory, and files that have the name of an output; other files are
    /// kept
    #[arg(long)]
    pub overwrite: bool,
    /// When a function starts: when its data arrives (its first bytes, unless its gate says otherwise), or when all its
    /// predecessors have ended
    #[arg(long, value_name = "MODE", value_enum, default_value_t = InvocationArg::Dataflow)]
    pub invocation: InvocationArg,
    /// The format of the report on standard output: a timeline for people, or one JSON document
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// Write the times of all instances to a file for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub trace: Option<PathBuf>,
    /// Check everything that a run needs and print what it would do, without starting or creating anything
    #[arg(long, conflicts_with = "trace")]
    pub dry_run: bool,
    /// Print errors only; with --format json, also the report
    #[arg(short, long)]
    pub quiet: bool,
    /// Copy the standard error of all functions to standard error, each line with its function and part
    #[arg(long)]
    pub follow: bool,
    /// The record of the run.
    #[command(flatten)]
    pub record: RecordArgs,
    /// The other nodes of the run.
    #[command(flatten)]
    pub cluster: RunClusterArgs,
    /// The resources of this node.
    #[command(flatten)]
    pub node: NodeArgs,
}

impl RunArgs {
    /// The workflow file and the inputs.
    ///
    /// # Errors
    /// If there is no workflow file.
    pub fn file_and_inputs(&self) -> Result<(&Path, &[OsString]), InputError> {
        file_and_inputs(self.file.as_deref(), &self.inputs)
    }
}

/// The workflow file and the inputs. Since `--input` takes several values, clap counts a workflow file after them as
/// one more input. It is recognised by its extension.
pub(super) fn file_and_inputs<'a>(
    file: Option<&'a Path>,
    inputs: &'a [OsString],
) -> Result<(&'a Path, &'a [OsString]), InputError> {
    match (file, inputs.split_last()) {
        (Some(file), _) => Ok((file, inputs)),
        (None, Some((last, others))) if is_workflow_file(Path::new(last)) => Ok((Path::new(last), others)),
        _ => Err(InputError::NoWorkflow),
    }
}

/// Whether a path has the extension of a YAML file.
fn is_workflow_file(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml")
}

const RUN_HELP: &str = "\
SIZE is a number and a unit: B, KiB, MiB, GiB, TiB (powers of 1024) or kB, MB, GB, TB (powers of 1000).
DURATION is a number and a unit: us, ms, s, m, h or d, as in 50us or 1.5s.

Examples:
  dflow run wordcount.yaml --input text=book.txt
  dflow run wordcount.yaml -i book.txt              (a single input needs no name)
  dflow run wordcount.yaml -i *.txt                 (several files, one after the other)
  zcat books.gz | dflow run wordcount.yaml -i -     (from standard input)
  dflow run wordcount.yaml -i book.txt -o - | head  (a single output to standard output)
  dflow run logs.yaml -i logs=/var/log/web -p top=20 -o result
  dflow run wordcount.yaml -i book.txt --memory 64MiB --slots 1
  dflow run wordcount.yaml -i book.txt --dry-run    (checks, and what would run where)
  dflow run wordcount.yaml -i book.txt --format json > report.json
  dflow run wordcount.yaml -i book.txt --quiet || mail -s 'wordcount failed' root
  dflow run wordcount.yaml -i book.txt --trace trace.json
  dflow run wordcount.yaml -i book.txt --follow     (with the standard error of all functions)
  dflow run wordcount.yaml -i book.txt --identity lab/a --with b=10.0.0.2:7411 --place count=a,b

With --format json, standard output always has exactly one JSON document: the report of the run (times in nanoseconds \
since its start, sizes in bytes), or {\"error\": {\"reason\": …, \"help\": […]}} if the run could not start. Other \
messages go to standard error in both formats, and so does the live progress if standard error is a terminal.

Exit status: 0 success, 1 the run failed, 2 the command line or the workflow file is wrong, 129, 130 or 143 ended by \
SIGHUP, SIGINT (Ctrl-C) or SIGTERM.";

/// The options for the record of a run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Records")]
pub struct RecordArgs {
    /// The directory for the records of runs, or `none`. A record has the report of a run and the standard error of its
    /// functions [default: $XDG_STATE_HOME/dflow/runs, or ~/.local/state/dflow/runs if that is unset]
    #[arg(long, value_name = "DIR|none", value_hint = ValueHint::DirPath, env = record::VARIABLE)]
    pub logs: Option<PathBuf>,
    /// Maximum size of the log of one attempt, at least 4KiB. Of a longer one, a quarter is kept from its beginning and
    /// the rest from its end
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, default_value = "256KiB", env = "DFLOW_LOG_SIZE")]
    pub log_size: u64,
    /// Maximum size of all logs of a run together
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, default_value = "64MiB", env = "DFLOW_RUN_LOG_SIZE")]
    pub run_log_size: u64,
    /// Maximum number of records; the oldest are removed when a run begins
    #[arg(long, value_name = "N", default_value_t = DEFAULT_KEEP_RUNS, env = "DFLOW_KEEP_RUNS")]
    pub keep_runs: usize,
    /// Maximum size of all records together; the oldest are removed when a run begins
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, default_value = "512MiB", env = "DFLOW_KEEP_SIZE")]
    pub keep_size: u64,
}

/// The options for the other nodes of a run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Other nodes")]
pub struct RunClusterArgs {
    /// Use another node for the run: its name and the address, or the host name, of its `dflow worker`. Needs
    /// `--identity`. May be repeated
    #[arg(long = "with", value_name = "NAME=ADDRESS:PORT", value_parser = parse_node)]
    pub nodes: Vec<(String, String)>,
    /// The directory with this node's identity, which `dflow cluster` creates
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, env = "DFLOW_IDENTITY")]
    pub identity: Option<PathBuf>,
    /// Distribute the instances of a function over these nodes. The other functions are placed by the policy. May be
    /// repeated
    #[arg(long = "place", value_name = "FUNCTION=NODE[,NODE]…", value_parser = parse_placement, requires = "nodes")]
    pub placement: Vec<(String, Vec<String>)>,
    /// How functions without --place are placed: dflow (the least predicted end; while nothing is known about their run
    /// times, the instances of a `foreach` are spread over all nodes, and everything else runs on this node), heft,
    /// faasflow, round-robin, or one-node (this one). `dflow plan` shows what a policy does
    #[arg(long, value_name = "POLICY", value_parser = policy_parser(), default_value = "dflow")]
    pub policy: Policy,
    /// The bandwidth between nodes that the policy assumes
    #[arg(long, value_name = "SIZE/s", value_parser = parse_bandwidth, default_value = "125MB/s")]
    pub bandwidth: u64,
    /// The time that it assumes until a function starts because of a byte on another node
    #[arg(long, value_name = "DURATION", value_parser = parse_latency, default_value = "1ms")]
    pub latency: Duration,
    /// Fail the run if nothing is received from a node for this long (100ms to 1h)
    #[arg(long, value_name = "DURATION", value_parser = parse_silence, default_value = "10s")]
    pub silence: Duration,
    /// How long to wait for a node whose worker is still starting and does not answer yet [default: no wait]
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, requires = "nodes")]
    pub wait: Option<Duration>,
}

/// [`Invocation`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InvocationArg {
    /// A function starts when its data arrives
    Dataflow,
    /// A function starts when all its predecessors have ended
    ControlFlow,
}

impl From<InvocationArg> for Invocation {
    fn from(value: InvocationArg) -> Self {
        match value {
            InvocationArg::Dataflow => Self::Dataflow,
            InvocationArg::ControlFlow => Self::ControlFlow,
        }
    }
}
