//! A real daemon for a measurement: `dflow_worker::run` on a generated workflow, in a separate process, with real
//! processes as functions. The functions run `dflow-bench-function`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use dflow_scheduler::planner::{DEFAULT_LINK, Policy};
use dflow_worker::logs::RecordOptions;
use dflow_worker::report::{RunEnd, RunReport};
use dflow_worker::{
    Cancellation, ClusterSpec, DEFAULT_SILENCE, LocalNode, NodeOptions, OutputTarget, RdmaUse, RunSpec,
};
use dflow_workflow::Workflow;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::clock::processor_time;
use crate::failure::{Failure, Trying};

/// The name of the program of all functions.
const FUNCTION: &str = "dflow-bench-function";

/// The time limit of a function, after which the run fails.
const LIMIT: &str = "110s";

/// A run for a daemon.
pub struct Run<'a> {
    /// For each function, its name and the rest of its entry, in one line of YAML.
    pub functions: &'a [(&'a str, String)],
    /// The workflow's outputs, as `function.output`. Each becomes a file with the function's name.
    pub outputs: &'a [&'a str],
    /// Maximum number of instances that compute at the same time.
    pub slots: u32,
    /// The memory for streams in bytes; `None` for the default.
    pub memory: Option<u64>,
}

/// A run that has succeeded.
pub struct Ran {
    /// The daemon's report.
    pub report: RunReport,
    /// The largest resident size of the daemon in bytes.
    pub peak_rss: u64,
    /// The processor time used by the daemon, in nanoseconds.
    pub cpu: u64,
    /// The words of each output, by function.
    pub outputs: BTreeMap<String, Vec<u64>>,
}

/// The other nodes of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Others {
    /// The name of the node that drives the run, and the directory with its identity.
    pub driver: (String, PathBuf),
    /// The names and addresses of the others.
    pub nodes: Vec<(String, SocketAddr)>,
    /// The placement of functions; others run on the driver.
    pub placement: BTreeMap<String, Vec<String>>,
}

impl Ran {
    /// The word at `index` of a function's output.
    pub fn time(&self, function: &str, index: usize) -> Result<u64, Failure> {
        let found = self.outputs.get(function).and_then(|words| words.get(index)).copied();
        found.ok_or_else(|| Failure::new(format!("{function} has not written its times")))
    }
}

#[derive(Serialize, Deserialize)]
struct Order {
    workflow: PathBuf,
    output: PathBuf,
    slots: u32,
    memory: Option<u64>,
    others: Option<Others>,
    copies: u32,
}

#[derive(Deserialize)]
struct Answer {
    report: RunReport,
    peak_rss: u64,
    cpu: u64,
}

/// Why functions cannot be run, if they cannot.
pub fn missing() -> Option<String> {
    let program = function().ok()?;
    (!program.is_file()).then(|| format!("{} is not built (cargo build -p dflow-bench)", program.display()))
}

/// The program of all functions.
pub fn function() -> Result<PathBuf, Failure> {
    Ok(std::env::current_exe().trying("find this program")?.with_file_name(FUNCTION))
}

impl Run<'_> {
    /// Runs it with a daemon.
    pub fn run(&self) -> Result<Ran, Failure> {
        self.run_with(None)
    }

    /// Runs it with a daemon that drives other nodes too.
    pub fn run_with(&self, others: Option<&Others>) -> Result<Ran, Failure> {
        self.run_copies(1, others)
    }

    /// Runs it so often at once with one daemon, which has one memory budget and one set of slots for all of them. The report
    /// and the outputs are those of the first.
    pub fn run_copies(&self, copies: u32, others: Option<&Others>) -> Result<Ran, Failure> {
        let dir = tempfile::Builder::new().prefix("dflow-bench-").tempdir().trying("make a temporary directory")?;
        let workflow = dir.path().join("workflow.yaml");
        std::fs::write(&workflow, self.text()?).trying("write the workflow")?;
        let output = dir.path().join("out");
        let (slots, memory, others) = (self.slots, self.memory, others.cloned());
        let order = Order { workflow, output: output.clone(), slots, memory, others, copies };
        let Answer { report, peak_rss, cpu } = Daemon::start()?.run(&order)?;
        if report.state != RunEnd::Succeeded {
            let reason = report.error.map_or_else(String::new, |error| {
                format!("{}: {}", error.instance.unwrap_or_else(|| "the run".into()), error.reason)
            });
            return Err(Failure::new(format!("the workflow {}: {reason}", report.state)));
        }
        let mut outputs = BTreeMap::new();
        for source in self.outputs {
            let name = source.split('.').next().unwrap_or(source);
            outputs.insert(name.to_owned(), read_words(&output.join(name))?);
        }
        Ok(Ran { report, peak_rss, cpu, outputs })
    }

    fn text(&self) -> Result<String, Failure> {
        let program = function()?;
        let mut text = "workflow: bench\nfunctions:\n".to_owned();
        for (name, rest) in self.functions {
            text += &format!("  {name}: {{ program: {program:?}, timeout: {LIMIT}, {rest} }}\n");
        }
        if !self.outputs.is_empty() {
            text += "outputs:\n";
        }
        for source in self.outputs {
            text += &format!("  {}: {source}\n", source.split('.').next().unwrap_or(source));
        }
        Ok(text)
    }
}

fn read_words(path: &Path) -> Result<Vec<u64>, Failure> {
    let bytes = std::fs::read(path).trying(format_args!("read {}", path.display()))?;
    Ok(bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect())
}

/// The daemon's process, killed when this value is dropped.
struct Daemon(Child);

impl Daemon {
    fn start() -> Result<Daemon, Failure> {
        let program = std::env::current_exe().trying("find this program")?;
        let child = Command::new(program).arg("node").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        child.map(Daemon).trying("start a daemon")
    }

    fn run(&mut self, order: &Order) -> Result<Answer, Failure> {
        let order = serde_json::to_vec(order).trying("encode an order")?;
        let mut input = self.0.stdin.take().ok_or_else(|| Failure::new("the daemon has no standard input"))?;
        input.write_all(&order).trying("send an order to a daemon")?;
        drop(input);
        let mut said = String::new();
        let output = self.0.stdout.as_mut().ok_or_else(|| Failure::new("the daemon has no standard output"))?;
        output.read_to_string(&mut said).trying("read the report of a daemon")?;
        if said.is_empty() {
            return Err(Failure::new("the daemon failed"));
        }
        serde_json::from_str(&said).trying("decode a daemon's report")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Usually it has ended already. Otherwise the kill ends it, and its launcher ends its functions.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs this program as a daemon: runs the workflow of the order on its standard input.
pub fn serve() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).trying("tie this process to its parent")?;
    let mut order = String::new();
    std::io::stdin().read_to_string(&mut order).trying("read an order")?;
    let Order { workflow, output, slots, memory, others, copies } =
        serde_json::from_str(&order).trying("decode an order")?;
    let detected = NodeOptions::detect();
    let memory = memory.unwrap_or(detected.memory);
    let node = others.as_ref().map_or(detected.node, |others| others.driver.0.clone());
    let cluster = others.map(|Others { driver: (_, identity), nodes, placement }| ClusterSpec {
        identity,
        nodes,
        placement,
        policy: Policy::default(),
        link: DEFAULT_LINK,
        wait: std::time::Duration::ZERO,
        silence: DEFAULT_SILENCE,
    });
    let spec = RunSpec {
        workflow: Arc::new(Workflow::load(&workflow).trying("load the workflow")?),
        workflow_dir: workflow.parent().map_or_else(PathBuf::new, Path::to_path_buf),
        params: BTreeMap::new(),
        inputs: Vec::new(),
        output: OutputTarget::Folder { path: output, overwrite: false },
        options: NodeOptions { slots, memory, node, rdma: RdmaUse::Off, ..detected },
        invocation: dflow_scheduler::Invocation::Dataflow,
        cluster,
        record: RecordOptions::new(None),
    };
    let report = if copies > 1 { run_copies(&spec, copies)? } else { run_once(&spec)? };
    let answer = serde_json::json!({ "report": report, "peak_rss": peak_rss(), "cpu": processor_time() });
    std::io::stdout().write_all(answer.to_string().as_bytes()).trying("report the run")
}

fn run_once(spec: &RunSpec) -> Result<RunReport, Failure> {
    let never = Cancellation::never();
    dflow_worker::prepare(spec)
        .and_then(|prepared| dflow_worker::run(spec, prepared, never, |_| ()))
        .trying("run the workflow")
}

/// Drives so many runs at once on one node. The report of the first, or of one that has failed.
fn run_copies(spec: &RunSpec, copies: u32) -> Result<RunReport, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().trying("start an event loop")?;
    let local = tokio::task::LocalSet::new();
    let reports = local.block_on(&runtime, async {
        let node = LocalNode::start(&spec.options)?;
        let run = |copy: u32| {
            let (node, mut spec) = (node.clone(), spec.clone());
            if let (OutputTarget::Folder { path, .. }, true) = (&mut spec.output, copy > 0) {
                path.set_file_name(format!("out-{copy}"));
            }
            tokio::task::spawn_local(async move { node.run(&spec, Cancellation::never(), |_| ()).await })
        };
        let runs: Vec<_> = (0..copies).map(run).collect();
        let mut reports = Vec::new();
        for run in runs {
            let gone = |error| dflow_worker::SetupError::System { what: "run", source: std::io::Error::other(error) };
            reports.push(run.await.map_err(gone)??);
        }
        Ok::<_, dflow_worker::SetupError>(reports)
    });
    let mut reports = reports.trying("run the workflows")?;
    let failed = reports.iter().position(|report| report.state != RunEnd::Succeeded);
    Ok(reports.swap_remove(failed.unwrap_or(0)))
}

/// The largest resident size of this process so far, in bytes.
fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}
