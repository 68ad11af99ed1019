//! The command line: every command, option, unit and default, and the help that states them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCompleter;
use dflow_disk::IoChoice;
use dflow_launcher::ContainmentChoice;
use dflow_scheduler::Invocation;
use dflow_worker::logs::DEFAULT_KEEP_RUNS;
use dflow_worker::{Idle, MAX_SILENCE, MIN_SILENCE, RdmaUse};
use dflow_workflow::units;

use crate::cluster::AUTHORITY;
use crate::completions::{self, CompletionsArgs};
use crate::inputs::InputError;
use crate::man::ManArgs;
use crate::record;

/// Runs workflows of functions by their data: a function starts when the first bytes that it reads exist.
#[derive(Debug, Parser)]
#[command(name = "dflow", version, arg_required_else_help = true, after_help = AFTER_HELP, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl RunArgs {
    /// The workflow file and the inputs. As several values may follow `--input`, a file after them counts as one of them,
    /// unless its name is that of a workflow file.
    ///
    /// # Errors
    /// There is no workflow file.
    pub fn file_and_inputs(&self) -> Result<(&Path, &[OsString]), InputError> {
        match (&self.file, self.inputs.split_last()) {
            (Some(file), _) => Ok((file, &self.inputs)),
            (None, Some((last, others))) if is_workflow_file(Path::new(last)) => Ok((Path::new(last), others)),
            _ => Err(InputError::NoWorkflow),
        }
    }
}

/// Whether a path has an ending of YAML files.
fn is_workflow_file(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml")
}

const AFTER_HELP: &str = "\
Examples:
  dflow check wordcount.yaml
  dflow run wordcount.yaml --input text=book.txt
  dflow graph wordcount.yaml --format dot | dot -Tsvg > wordcount.svg
  dflow doctor

Exit status: 0 success, 1 the run failed, 2 the call or the file was wrong, 130 ended by Ctrl-C.
Environment: DFLOW_LOG=info (or debug, or dflow_worker=debug,…) logs to standard error, without live progress; \
NO_COLOR turns colours off; COLUMNS sets the width of the timeline.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a workflow
    Run(Box<RunArgs>),
    /// Show what the functions of a run printed, and which runs there were
    Logs(LogsArgs),
    /// Check a workflow file for errors without running it
    Check(CheckArgs),
    /// Print the graph of a workflow for Mermaid or Graphviz
    Graph(GraphArgs),
    /// Print the JSON Schema of the workflow file, for editors
    #[command(after_help = SCHEMA_HELP)]
    Schema,
    /// Serve runs of `dflow run` on other machines
    Worker(WorkerArgs),
    /// Create the certificates with which the nodes of a cluster authenticate each other
    Cluster(ClusterArgs),
    /// Examine this machine or the connection to another node, and explain how to improve it
    Doctor(DoctorArgs),
    /// Print the completion script for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages
    Man(ManArgs),
}

const SCHEMA_HELP: &str = "\
Examples:
  dflow schema > dflow.schema.json
  and as the first line of a workflow file, for editors with the YAML language server:
  # yaml-language-server: $schema=./dflow.schema.json

Exit status: 0.";

/// What `dflow run` takes.
#[derive(Debug, Args)]
#[command(after_help = RUN_HELP)]
pub struct RunArgs {
    /// The workflow file (YAML), or `-` for standard input
    #[arg(value_hint = ValueHint::FilePath, required_unless_present = "inputs")]
    pub file: Option<PathBuf>,
    /// The data of an input of the workflow: files, directories (their files in the order of their names), or `-` for
    /// standard input. A pattern in quotes, as in 'logs=*.gz', stands for the files that match it. Repeat the option for
    /// further inputs. With one input in the workflow, PATH alone is enough
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
    /// The folder for the outputs, or `-` for standard output if the workflow has one output. They appear in one step
    /// when the run has succeeded; standard output gets them then, too. The result of the same call is replaced; with
    /// anything else in the folder the run is refused before it begins
    /// [default: dflow-out/WORKFLOW, its name in the file]
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: Option<PathBuf>,
    /// Replace the result of another call in the output folder, and files there that have the names of outputs; other files
    /// stay
    #[arg(long)]
    pub overwrite: bool,
    /// What starts a function: its data (its first bytes, unless its gate says otherwise), or the end of all its
    /// predecessors
    #[arg(long, value_name = "MODE", value_enum, default_value_t = InvocationArg::Dataflow)]
    pub invocation: InvocationArg,
    /// What is printed on standard output at the end: a timeline for a person, or one JSON document
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// Write the times of all instances to a file that ui.perfetto.dev and chrome://tracing open
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub trace: Option<PathBuf>,
    /// Make all checks of a run and print what it would do; start nothing, create nothing
    #[arg(long, conflicts_with = "trace")]
    pub dry_run: bool,
    /// Print errors only, and with --format json the report
    #[arg(short, long)]
    pub quiet: bool,
    /// Show on standard error what functions print on theirs, line by line, each with its function and part
    #[arg(long)]
    pub follow: bool,
    /// What is kept of the run.
    #[command(flatten)]
    pub record: RecordArgs,
    /// Other machines that take part.
    #[command(flatten)]
    pub cluster: RunClusterArgs,
    /// What the run may use.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// What is kept of a run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Records")]
pub struct RecordArgs {
    /// The folder of the records of runs, each with the report and with what functions printed on standard error, or `none`
    /// [default: $XDG_STATE_HOME/dflow/runs, else ~/.local/state/dflow/runs]
    #[arg(long, value_name = "DIR|none", value_hint = ValueHint::DirPath, env = record::VARIABLE)]
    pub logs: Option<PathBuf>,
    /// How much of what one attempt printed is kept, at least 4KiB: a quarter from its beginning, the rest from its end
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, default_value = "256KiB", env = "DFLOW_LOG_SIZE")]
    pub log_size: u64,
    /// How much is kept of all functions of a run together
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, default_value = "64MiB", env = "DFLOW_RUN_LOG_SIZE")]
    pub run_log_size: u64,
    /// How many records are kept; older ones are removed when a run begins
    #[arg(long, value_name = "N", default_value_t = DEFAULT_KEEP_RUNS, env = "DFLOW_KEEP_RUNS")]
    pub keep_runs: usize,
    /// How much all records may take together before older ones are removed
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, default_value = "512MiB", env = "DFLOW_KEEP_SIZE")]
    pub keep_size: u64,
}

/// What `dflow logs` takes.
#[derive(Debug, Args)]
#[command(after_help = LOGS_HELP)]
pub struct LogsArgs {
    /// The run: its name, as `--list` shows it, or the beginning of it, or `last` [default: last]
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// A function, or one instance of it, as `qc[1]`. It may stand alone, for the last run [default: all]
    #[arg(value_name = "FUNCTION[part]")]
    pub instance: Option<String>,
    /// Only this attempt, counted from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,
    /// Go on until the run is over
    #[arg(long, short, conflicts_with = "format")]
    pub follow: bool,
    /// List the runs of which there is a record: name, workflow, how it ended, how long it took
    #[arg(long, short, conflicts_with_all = ["run", "instance", "attempt", "follow"])]
    pub list: bool,
    /// The folder of the records [default: as for `dflow run`]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, env = record::VARIABLE)]
    pub logs: Option<PathBuf>,
    /// What is printed: text for a person, or one JSON document
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

const LOGS_HELP: &str = "\
A log holds what an attempt printed on standard error, as it came; attempts that printed nothing have none. On a terminal, \
control characters are left out.

Examples:
  dflow logs                                    (everything that the last run printed)
  dflow logs qc                                 (all instances of the function qc)
  dflow logs 'qc[1]' --attempt 1
  dflow logs --list
  dflow logs 20260131-142501 align              (a run, by the beginning of its name)
  dflow logs --follow                           (while a run goes on elsewhere)
  dflow logs --format json | jq -r '.logs[].path'

Exit status: 0 success, 2 there is no such run or function, or the call was wrong.";

/// The options for the other machines of a run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Other nodes")]
pub struct RunClusterArgs {
    /// Use another node for the run: its name, and the address of its `dflow worker`. May be repeated
    #[arg(long = "with", value_name = "NAME=ADDRESS:PORT", value_parser = parse_node, requires = "identity")]
    pub nodes: Vec<(String, String)>,
    /// The directory with this node's identity, as `dflow cluster` has made it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, env = "DFLOW_IDENTITY")]
    pub identity: Option<PathBuf>,
    /// Run the instances of a function on these nodes, in turn. By default, instances of a `foreach` are spread over
    /// all nodes, and everything else runs on this node. May be repeated
    #[arg(long = "place", value_name = "FUNCTION=NODE[,NODE]…", value_parser = parse_placement, requires = "nodes")]
    pub placement: Vec<(String, Vec<String>)>,
    /// Fail the run if nothing is received from a node for this long (100ms to 1h)
    #[arg(long, value_name = "DURATION", value_parser = parse_silence, default_value = "10s")]
    pub silence: Duration,
    /// How long to wait for a node that does not answer yet, because its worker is still starting [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, requires = "nodes")]
    pub wait: Option<Duration>,
}

/// What `dflow worker` takes.
#[derive(Debug, Args)]
#[command(after_help = WORKER_HELP)]
pub struct WorkerArgs {
    /// The UDP address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_listen, default_value = "0.0.0.0:7411")]
    pub listen: SocketAddr,
    /// The directory with this node's identity, as `dflow cluster` has made it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, env = "DFLOW_IDENTITY")]
    pub identity: PathBuf,
    /// Leave a run if nothing is received from another of its nodes for this long (100ms to 1h), even if the run's own
    /// `--silence` is longer [default: that of the run]
    #[arg(long, value_name = "DURATION", value_parser = parse_silence)]
    pub silence: Option<Duration>,
    /// Serve metrics for Prometheus at http://ADDRESS:PORT/metrics. There is no authentication
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_listen)]
    pub metrics: Option<SocketAddr>,
    /// The resources of each run.
    #[command(flatten)]
    pub node: NodeArgs,
}

const WORKER_HELP: &str = "\
Programs, and the folder of the workflow file, in which functions run, have to be on every node that runs functions; data \
does not: it travels in streams. \
The workflow's inputs are read, and its outputs written, on the node of `dflow run`.

Examples:
  dflow cluster create lab --node a --node b        (once; then copy lab/b to the machine b)
  dflow worker --identity lab/b --listen 0.0.0.0:7411
  and on the machine a:
  dflow run wordcount.yaml -i book.txt --identity lab/a --with b=10.0.0.2:7411
  dflow worker --identity lab/b --metrics 127.0.0.1:9411    (then: curl http://127.0.0.1:9411/metrics)

Exit status: 0 ended by Ctrl-C or SIGTERM, 2 the arguments are wrong or the node cannot be set up.";

/// What `dflow cluster` takes.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// The commands for a cluster's certificates.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Create a certificate authority and the identities of nodes
    #[command(after_help = CLUSTER_HELP)]
    Create(ClusterCreateArgs),
    /// Create or renew the identity of a node
    #[command(after_help = CLUSTER_HELP)]
    Add(ClusterCreateArgs),
}

/// The arguments of the commands for certificates.
#[derive(Debug, Args)]
pub struct ClusterCreateArgs {
    /// The directory of the cluster, with its authority in DIR/authority and each node's identity in DIR/NAME
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
    /// The name of a node: lower-case letters, digits, hyphens and dots, starting with a letter. May be repeated
    #[arg(long = "node", value_name = "NAME", required = true, value_parser = parse_new_node)]
    pub nodes: Vec<String>,
    /// How long the certificates are valid, at least 1s
    #[arg(long, value_name = "DURATION", value_parser = parse_validity, default_value = "365d")]
    pub validity: Duration,
}

const CLUSTER_HELP: &str = "\
Anyone who can read DIR/authority can create nodes of this cluster: protect it. A node needs only its own directory \
DIR/NAME. 'add' for an existing node replaces its identity; the old certificate stays valid until it expires.

Examples:
  dflow cluster create lab --node a --node b
  dflow cluster add lab --node c

Exit status: 0 success, 2 the authority already exists ('create') or does not exist ('add'), or a file cannot be written.";

fn parse_rdma(text: &str) -> Result<RdmaUse, String> {
    Ok(match text {
        "" => return Err("it must be auto, off, or the name of a device listed by 'dflow doctor'".into()),
        "auto" => RdmaUse::Auto,
        "off" => RdmaUse::Off,
        name => RdmaUse::Device(name.to_owned()),
    })
}

fn parse_idle(text: &str) -> Result<Idle, String> {
    match text {
        "sleep" => Ok(Idle::SLEEP),
        "spin" => Ok(Idle::SPIN),
        _ => match parse_spin(text) {
            Ok(spin) => Ok(Idle { spin }),
            Err(error) => Err(format!("{error}; it must be a duration, sleep, or spin")),
        },
    }
}

fn parse_node(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, address)) if !name.is_empty() => Ok((name.to_owned(), address.to_owned())),
        _ => Err("a node is NAME=ADDRESS:PORT, as in b=10.0.0.2:7411".into()),
    }
}

/// An address of this machine.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "it must be an IP address and a port, as in 0.0.0.0:7411 or [::1]:7411".into())
}

fn parse_placement(text: &str) -> Result<(String, Vec<String>), String> {
    let wrong = || "a placement is FUNCTION=NODE[,NODE]…, as in count=a,b".to_owned();
    let (function, nodes) = text.split_once('=').ok_or_else(wrong)?;
    if function.is_empty() || nodes.split(',').any(str::is_empty) {
        return Err(wrong());
    }
    Ok((function.to_owned(), nodes.split(',').map(str::to_owned).collect()))
}

const RUN_HELP: &str = "\
SIZE is a number and a unit: B, KiB, MiB, GiB, TiB (powers of 1024) or kB, MB, GB, TB (powers of 1000).
DURATION is a number and a unit: us, ms, s, m, h or d, as in 50us or 1.5s.

Examples:
  dflow run wordcount.yaml --input text=book.txt
  dflow run wordcount.yaml -i book.txt              (one input: no name needed)
  dflow run wordcount.yaml -i *.txt                 (several files, one after the other)
  zcat books.gz | dflow run wordcount.yaml -i -     (from standard input)
  dflow run wordcount.yaml -i book.txt -o - | head  (the only output to standard output)
  dflow run logs.yaml -i logs=/var/log/web -p top=20 -o result
  dflow run wordcount.yaml -i book.txt --memory 64MiB --slots 1
  dflow run wordcount.yaml -i book.txt --dry-run    (what would run where; starts nothing)
  dflow run wordcount.yaml -i book.txt --format json > report.json
  dflow run wordcount.yaml -i book.txt --quiet || mail -s 'wordcount failed' root
  dflow run wordcount.yaml -i book.txt --trace trace.json
  dflow run wordcount.yaml -i book.txt --follow     (what functions print, as it comes)
  dflow run wordcount.yaml -i book.txt --identity lab/a --with b=10.0.0.2:7411 --place count=a,b

With --format json, standard output holds exactly one JSON document, whatever happens: the report of the run (times in \
nanoseconds since its start, sizes in bytes), or {\"error\": {\"reason\": …, \"help\": […]}} if the run could not start. \
Messages for a person go to standard error in both formats; progress is shown there while it is a terminal.

Exit status: 0 success, 1 the run failed, 2 the call or the file was wrong, 130 ended by Ctrl-C.";

/// The resources of a node.
#[derive(Debug, Args)]
#[command(next_help_heading = "Resources")]
pub struct NodeArgs {
    /// Maximum number of instances of a run that compute on this node at the same time. Instances that wait for data do
    /// not count [default: the number of processors that dflow may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub slots: Option<u32>,
    /// Memory for streams, at least 256KiB; reduced to what the limit of a cgroup allows. Data that does not fit is
    /// spilled to disk [default: a quarter of the memory available to dflow under its cgroup's limit]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    pub memory: Option<u64>,
    /// How far the writer of a stream may be ahead of its slowest reader before it waits or data is spilled
    /// [default: 2MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    pub window: Option<u64>,
    /// Directory for spilled data. Spill files are always removed [default: TMPDIR, or /tmp if it is unset]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub spill_dir: Option<PathBuf>,
    /// How data is spilled. auto uses io_uring if the machine allows it, and plain reads and writes otherwise
    #[arg(long, value_name = "METHOD", value_enum, default_value_t = SpillIoArg::Auto)]
    pub spill_io: SpillIoArg,
    /// How the processes of a function are contained. auto uses a cgroup if the machine allows it, and a subreaper
    /// otherwise. Only cgroups (version 1 or 2) can limit the memory of functions
    #[arg(long, value_name = "METHOD", value_enum, default_value_t = ContainmentArg::Auto)]
    pub containment: ContainmentArg,
    /// RDMA for streams between nodes: auto (if a device is on the route to the other node), off, or the name of a
    /// device. Data sent over RDMA is not encrypted
    #[arg(long, value_name = "auto|off|DEVICE", value_parser = parse_rdma, default_value = "auto")]
    pub rdma: RdmaUse,
    /// How long the carrier's thread polls for RDMA completions before it sleeps: a duration, sleep (at once: uses the
    /// least processor time), or spin (never: the lowest latency, uses one core all the time) [default: 50us; sleep on
    /// a single processor]
    #[arg(long, value_name = "DURATION|sleep|spin", value_parser = parse_idle)]
    pub rdma_idle: Option<Idle>,
    /// How long a function that waits for data polls before it sleeps; 0 to sleep at once
    /// [default: 50us; 0 on a single processor]
    #[arg(long, value_name = "DURATION", value_parser = parse_spin)]
    pub spin: Option<Duration>,
}

/// What `dflow check` takes.
#[derive(Debug, Args)]
#[command(after_help = CHECK_HELP)]
pub struct CheckArgs {
    /// The workflow file (YAML), or `-` for standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// What is printed: text for a person, or one JSON document
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

const CHECK_HELP: &str = "\
All errors are listed at once, each with its line and column, counted from 1.

Examples:
  dflow check wordcount.yaml
  dflow check wordcount.yaml --format json | jq '.errors[] | \"\\(.line):\\(.column) \\(.message)\"'

Exit status: 0 the file is correct, 2 it has errors.";

/// What `dflow graph` takes.
#[derive(Debug, Args)]
#[command(after_help = GRAPH_HELP)]
pub struct GraphArgs {
    /// The workflow file (YAML), or `-` for standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// The language of the graph
    #[arg(long, value_enum, default_value_t = GraphFormat::Mermaid)]
    pub format: GraphFormat,
}

const GRAPH_HELP: &str = "\
Functions are boxes, doubled for a foreach; inputs and outputs are rounded; switches are diamonds.

Examples:
  dflow graph wordcount.yaml                        (paste it into a ```mermaid block)
  dflow graph wordcount.yaml --format dot | dot -Tsvg > wordcount.svg

Exit status: 0 success, 2 the file has errors.";

/// The arguments of `dflow doctor`: the same resources as for a run, so that it shows what that run would get.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_HELP)]
pub struct DoctorArgs {
    /// What is printed: text for a person, or one JSON document
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// Examine the connection to another node instead: its name, and the address of its `dflow worker`. May be repeated
    #[arg(long = "peer", value_name = "NAME=ADDRESS:PORT", value_parser = parse_node, requires = "identity")]
    pub peers: Vec<(String, String)>,
    /// The directory with this node's identity, as `dflow cluster` has made it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, env = "DFLOW_IDENTITY")]
    pub identity: Option<PathBuf>,
    /// What a run may use.
    #[command(flatten)]
    pub node: NodeArgs,
}

const DOCTOR_HELP: &str = "\
With --peer, reports whether the node answers and its release, how long the certificates are valid, the round trip, the \
packet size, and the throughput in both directions over QUIC and RDMA, with every byte verified. If RDMA is not used, it \
says why. This takes a second or two per node and does not interrupt the runs on it.

Examples:
  dflow doctor
  dflow doctor --memory 64MiB --spill-dir /var/tmp  (what a run would get)
  dflow doctor --format json | jq '.findings[] | select(.state == \"bad\")'
  dflow doctor --peer b=10.0.0.2:7411 --identity lab/a
  dflow doctor --peer b=10.0.0.2:7411 --identity lab/a --rdma-idle spin  (for this end; b uses its worker's setting)
  dflow doctor --peer b=10.0.0.2:7411 --identity lab/a --format json | jq '.peers[0].rdma'

Exit status: 0 no problem, 1 workflows cannot run here, or a node does not answer or refuses the connection, 2 the \
arguments are wrong.";

/// The format of standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for a person
    Human,
    /// One JSON document
    Json,
}

/// The language of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// A Mermaid flowchart
    Mermaid,
    /// The DOT language of Graphviz
    Dot,
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

/// [`IoChoice`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpillIoArg {
    /// The best that the machine allows.
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// Plain reads and writes.
    Plain,
}

impl ValueEnum for SpillIoArg {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Auto, Self::IoUring, Self::Plain]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Auto => PossibleValue::new("auto"),
            Self::IoUring => PossibleValue::new("io_uring").alias("io-uring"),
            Self::Plain => PossibleValue::new("plain"),
        })
    }
}

impl From<SpillIoArg> for IoChoice {
    fn from(value: SpillIoArg) -> Self {
        match value {
            SpillIoArg::Auto => Self::Auto,
            SpillIoArg::IoUring => Self::IoUring,
            SpillIoArg::Plain => Self::Plain,
        }
    }
}

/// [`ContainmentChoice`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ContainmentArg {
    /// The best that the machine allows
    Auto,
    /// A cgroup, or an error
    Cgroup,
    /// A subreaper process
    Subreaper,
}

impl From<ContainmentArg> for ContainmentChoice {
    fn from(value: ContainmentArg) -> Self {
        match value {
            ContainmentArg::Auto => Self::Auto,
            ContainmentArg::Cgroup => Self::Cgroup,
            ContainmentArg::Subreaper => Self::Subreaper,
        }
    }
}

/// How long to wait for a node that does not answer yet.
fn parse_wait(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).map_err(|error| error.to_string())
}

/// A silence limit.
fn parse_silence(text: &str) -> Result<Duration, String> {
    let silence = units::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = (MIN_SILENCE..=MAX_SILENCE).contains(&silence);
    fits.then_some(silence).ok_or_else(|| "it must be from 100ms to 1h".into())
}

/// The name of a node. Excludes the folder of the authority; issuing the certificate checks the rest.
fn parse_new_node(text: &str) -> Result<String, String> {
    if text == AUTHORITY {
        return Err("this is the name of the folder of the authority; choose another name".into());
    }
    Ok(text.to_owned())
}

fn parse_validity(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_secs(1);
    let validity = units::parse_duration(text).map_err(|error| error.to_string())?;
    (validity >= LEAST).then_some(validity).ok_or_else(|| "it must be at least 1s".into())
}

/// A duration; `0` needs no unit.
fn parse_spin(text: &str) -> Result<Duration, units::UnitError> {
    if text == "0" { Ok(Duration::ZERO) } else { units::parse_duration(text) }
}

/// Whether arguments that cannot be parsed request JSON, so that the error is JSON too.
pub fn asks_for_json(args: &[OsString]) -> bool {
    args.iter().any(|arg| arg == "--format=json")
        || args.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"dflow").chain(args))
    }

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_of_run() {
        let line = "run w.yaml --input text=a --input b -p k=v=w --output out --slots 3 --memory 64MiB --window 1MB \
                    --spill-dir /tmp --logs none --log-size 4KiB --keep-runs 3 --follow --spill-io io_uring --containment subreaper --spin 50us --rdma rxe0 --rdma-idle spin --invocation control-flow \
                    --format json --trace t.json";
        let Command::Run(run) = parse(&line.split_whitespace().collect::<Vec<_>>()).unwrap().command else {
            panic!("no run");
        };
        assert_eq!(run.inputs, ["text=a", "b"]);
        assert_eq!(run.file_and_inputs().unwrap().0, Path::new("w.yaml"));
        assert_eq!(run.params, ["k=v=w"]);
        assert_eq!((run.record.log_size, run.record.keep_runs, run.follow), (4096, 3, true));
        assert_eq!(record::options(&run.record).folder, None);
        assert_eq!((run.node.slots, run.node.memory, run.node.window), (Some(3), Some(64 << 20), Some(1_000_000)));
        assert_eq!(run.node.spin, Some(Duration::from_micros(50)));
        assert_eq!((run.node.rdma, run.node.rdma_idle), (RdmaUse::Device("rxe0".into()), Some(Idle::SPIN)));
        assert_eq!(IoChoice::from(run.node.spill_io), IoChoice::IoUring);
        assert_eq!(ContainmentChoice::from(run.node.containment), ContainmentChoice::Subreaper);
        assert_eq!(Invocation::from(run.invocation), Invocation::ControlFlow);
        assert_eq!(run.format, Format::Json);
    }

    #[test]
    fn the_workflow_file_stands_before_or_after_several_inputs() {
        for (line, file, inputs) in [
            ("run w.yaml -i a b c -o out", "w.yaml", &["a", "b", "c"][..]),
            ("run -i a b w.yaml", "w.yaml", &["a", "b"]),
            ("run -i a.yaml -i b -o out w.yml", "w.yml", &["a.yaml", "b"]),
            ("run - -i a -i -", "-", &["a", "-"]),
        ] {
            let Command::Run(run) = parse(&line.split(' ').collect::<Vec<_>>()).unwrap().command else { panic!() };
            let (found, given) = run.file_and_inputs().unwrap();
            assert_eq!((found, given), (Path::new(file), &inputs.iter().map(OsString::from).collect::<Vec<_>>()[..]));
        }
        let Command::Run(run) = parse(&["run", "-i", "a", "b"]).unwrap().command else { panic!() };
        assert_eq!(run.file_and_inputs(), Err(InputError::NoWorkflow));
        assert!(parse(&["run"]).unwrap_err().to_string().contains("FILE"));
    }

    #[test]
    fn wrong_values_say_what_is_right() {
        for (args, expected) in [
            (["--slots", "0"], "1.."),
            (["--memory", "64 Mebi"], "MiB"),
            (["--spin", "5"], "30s"),
            (["--rdma-idle", "never"], "a duration, sleep, or spin"),
            (["--silence", "10ms"], "from 100ms to 1h"),
            (["--silence", "2h"], "from 100ms to 1h"),
            (["--place", "s="], "FUNCTION=NODE"),
            (["--place", "=b"], "FUNCTION=NODE"),
            (["--place", "s=a,"], "FUNCTION=NODE"),
            (["--place", "s=b"], "--with"),
            (["--with", "=10.0.0.2:7411"], "NAME=ADDRESS:PORT"),
            (["--spill-io", "uring"], "io_uring"),
            (["--format", "xml"], "json"),
        ] {
            let error = parse(&["run", "w.yaml", args[0], args[1]]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(expected), "{error}");
        }
        let error = parse(&["worker", "--identity", "lab/b", "--listen", "localhost:7411"]).unwrap_err();
        assert!(error.to_string().contains("an IP address and a port"), "{error}");
        assert!(parse(&["run", "w.yaml", "--spin", "0"]).is_ok());
        for (text, idle) in
            [("0", Idle::SLEEP), ("sleep", Idle::SLEEP), ("1ms", Idle { spin: Duration::from_millis(1) })]
        {
            assert_eq!(parse_idle(text), Ok(idle));
        }
        assert!(parse(&["run", "w.yaml", "--spill-io", "io-uring"]).is_ok());
    }

    #[test]
    fn json_is_recognised_in_a_wrong_call() {
        let asks = |line: &str| asks_for_json(&line.split(' ').map(Into::into).collect::<Vec<_>>());
        assert!(asks("dflow run --format json --what"));
        assert!(asks("dflow run --format=json"));
        assert!(!asks("dflow run --format human json"));
    }
}
