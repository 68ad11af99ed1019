//! Nodes of a cluster on this machine: real workers that the test starts, ends and inspects.

use crate::network::Network;
use crate::support::{Case, MARK, Ran, Running, eventually, marked};
use dflow_transport::identity::{ClusterCa, Identity};
use dflow_transport::quic::{QuicNode, QuicSettings};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

/// The default of [`Cluster::silence`].
const SILENCE: &str = "2s";

/// The default of [`Cluster::rdma`], so that the tests behave the same on a machine with RDMA.
const RDMA: &[&str] = &["--rdma", "off"];

/// A cluster whose node `a` drives the runs; every other node has a worker.
pub struct Cluster {
    dir: tempfile::TempDir,
    mark: String,
    workers: Vec<Worker>,
    /// The network of the nodes; without one, they are all on this machine's loopback.
    network: Option<Network>,
    /// The silence limit, after which a node is lost.
    silence: &'static str,
    /// The value of `--rdma` for every node.
    rdma: &'static [&'static str],
}

/// A `dflow worker`.
pub struct Worker {
    pub name: String,
    pub address: String,
    metrics: String,
    child: Child,
    mark: String,
    /// The number of sockets and shared memory files that it had open at its start.
    idle: usize,
}

impl Cluster {
    /// Certificates for `a` and these nodes, and a worker for each of them.
    pub fn new(nodes: &[&str]) -> Self {
        Self::with_options(nodes, &[])
    }

    /// With these options for each worker.
    pub fn with_options(nodes: &[&str], options: &[&str]) -> Self {
        let mut cluster = Self::without_workers(&[&["a"], nodes].concat());
        for node in nodes {
            cluster.start(node, options);
        }
        cluster
    }

    /// Like [`Cluster::new`], but without `--rdma` for any node.
    pub fn by_default(nodes: &[&str]) -> Self {
        let mut cluster = Self::without_workers(&[&["a"], nodes].concat());
        cluster.rdma = &[];
        for node in nodes {
            cluster.start(node, &[]);
        }
        cluster
    }

    /// Like [`Cluster::with_options`], with each node, including `a`, in a network.
    pub fn in_network(network: Network, nodes: &[&str], options: &[&str]) -> Self {
        let mut cluster = Self::without_workers(&[&["a"], nodes].concat());
        cluster.network = Some(network);
        for node in nodes {
            cluster.start(node, options);
        }
        cluster
    }

    /// Sets the silence limit of later runs.
    pub fn with_silence(mut self, silence: &'static str) -> Self {
        self.silence = silence;
        self
    }

    /// Its network.
    pub fn network(&self) -> &Network {
        self.network.as_ref().unwrap()
    }

    /// Certificates for these nodes, and no worker.
    pub fn without_workers(nodes: &[&str]) -> Self {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}-cluster-{}", std::process::id(), CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        let cluster = Self { dir, mark, workers: Vec::new(), network: None, silence: SILENCE, rdma: RDMA };
        cluster.create(nodes);
        cluster
    }

    fn create(&self, nodes: &[&str]) {
        let nodes = nodes.iter().flat_map(|node| ["--node", node]);
        let output = Command::new(env!("CARGO_BIN_EXE_dflow"))
            .args(["cluster", "create"])
            .arg(self.path("lab"))
            .args(nodes)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn identity(&self, node: &str) -> PathBuf {
        self.path("lab").join(node)
    }

    /// Another identity of a node, valid between two days from now.
    pub fn issue(&self, node: &str, from: i32, until: i32) -> Identity {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let authority = ClusterCa::load(&self.identity("authority")).unwrap();
        let [from, until] = [from, until].map(|days| match days {
            0.. => SystemTime::now() + DAY * days.unsigned_abs(),
            _ => SystemTime::now() - DAY * days.unsigned_abs(),
        });
        let identity = authority.issue_between(node, from, until).unwrap();
        identity.save(&self.identity(node)).unwrap();
        identity
    }

    /// A node in this process whose certificate has expired since its start.
    pub fn listen_expired(&self, node: &str) -> QuicNode {
        let identity = self.issue(node, -2, -1);
        QuicNode::bind("127.0.0.1:0".parse().unwrap(), &identity, QuicSettings::default()).unwrap().0
    }

    /// Starts the worker of a node.
    pub fn start(&mut self, node: &str, options: &[&str]) {
        let identity = self.identity(node);
        self.start_as(node, &identity, options);
    }

    /// Starts the worker of a node with these environment variables.
    pub fn start_in(&mut self, node: &str, environment: &[(&str, &str)]) {
        let identity = self.identity(node);
        self.launch(node, &identity, &[], "info", environment);
    }

    /// Starts the worker of a node with this log level.
    pub fn start_logging(&mut self, node: &str, level: &str) {
        let identity = self.identity(node);
        self.launch(node, &identity, &[], level, &[]);
    }

    /// Starts a worker at the place of `node`, with another identity.
    pub fn start_as(&mut self, node: &str, identity: &Path, options: &[&str]) {
        self.launch(node, identity, options, "info", &[]);
    }

    fn launch(&mut self, node: &str, identity: &Path, options: &[&str], level: &str, environment: &[(&str, &str)]) {
        let log = std::fs::File::create(self.path(node)).unwrap();
        let address = self.network.as_ref().map_or("127.0.0.1".to_owned(), |network| network.address(node));
        let mut child = self
            .dflow(node)
            .arg("worker")
            .args(self.rdma)
            .args(["--listen", &format!("{address}:0"), "--identity"])
            .arg(identity)
            .args(options)
            .env(MARK, &self.mark)
            .env("DFLOW_LOG", level)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        let mut metrics = String::new();
        if options.contains(&"--metrics") {
            stdout.read_line(&mut metrics).unwrap();
            let url = metrics.trim().rsplit(' ').next().unwrap_or_default();
            metrics = url.trim_start_matches("http://").trim_end_matches("/metrics").to_owned();
        }
        let name = node.to_owned();
        let mut worker = Worker { name, address, metrics, child, mark: self.mark.clone(), idle: 0 };
        assert!(line.contains("listens on UDP"), "no worker {node}: {line}{}", self.log(node));
        worker.idle = worker.open();
        self.workers.push(worker);
    }

    /// The program, in the network namespace of a node.
    fn dflow(&self, node: &str) -> Command {
        let program = env!("CARGO_BIN_EXE_dflow");
        self.network.as_ref().map_or_else(|| Command::new(program), |network| network.command(node, program))
    }

    /// `dflow run` on node `a`, with the other nodes as arguments.
    pub fn command(&self, case: &Case, places: &[&str], more: &[&str]) -> Command {
        let args = self.args(places);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let mut command = self.dflow("a");
        case.prepare(&mut command, &args);
        command
    }

    /// The log of the worker of a node.
    pub fn log(&self, node: &str) -> String {
        std::fs::read_to_string(self.path(node)).unwrap()
    }

    /// Waits until the log of a worker has all these words, which it writes when it likes.
    #[track_caller]
    pub fn logs(&self, node: &str, words: &[&str]) {
        let all = || words.iter().all(|word| self.log(node).contains(word));
        eventually(&format!("{words:?} are not logged by {node}"), all);
    }

    pub fn worker(&mut self, node: &str) -> &mut Worker {
        self.workers.iter_mut().find(|worker| worker.name == node).unwrap()
    }

    /// The address on which the worker of a node listens.
    pub fn address(&self, node: &str) -> String {
        self.workers.iter().find(|worker| worker.name == node).unwrap().address.clone()
    }

    /// The address on which the worker of a node serves metrics.
    pub fn metrics(&self, node: &str) -> String {
        self.workers.iter().find(|worker| worker.name == node).unwrap().metrics.clone()
    }

    /// The arguments of `dflow run` for the nodes and the placement of functions.
    pub fn args(&self, places: &[&str]) -> Vec<String> {
        let mut args: Vec<String> =
            self.rdma.iter().copied().chain(["--silence", self.silence]).map(str::to_owned).collect();
        args.extend(["--identity".to_owned(), self.identity("a").display().to_string()]);
        for worker in &self.workers {
            args.extend(["--with".to_owned(), format!("{}={}", worker.name, worker.address)]);
        }
        args.extend(places.iter().flat_map(|place| ["--place".to_owned(), (*place).to_owned()]));
        args
    }

    /// Runs a case on the nodes, and checks that nothing of it is left on any of them.
    pub fn run(&self, case: &Case, places: &[&str], more: &[&str]) -> Ran {
        let ran = case.finish(self.command(case, places, more).output().unwrap());
        self.assert_idle();
        ran
    }

    /// Starts a run of a case on the nodes.
    pub fn spawn(&self, case: &Case, places: &[&str]) -> Running {
        self.spawn_with(case, places, &[])
    }

    /// Starts a run of a case on the nodes, with more options.
    pub fn spawn_with(&self, case: &Case, places: &[&str], more: &[&str]) -> Running {
        Running::start(self.command(case, places, more))
    }

    /// The number of functions that run on the workers.
    pub fn probes(&self) -> usize {
        marked(&self.mark).iter().filter(|(_, name)| name.starts_with("dflow-probe")).count()
    }

    /// The workers are as they were before the first run: no process, no shared memory beyond warm windows, no connection
    /// more.
    #[track_caller]
    pub fn assert_idle(&self) {
        // Each has its launcher.
        eventually("processes are left on the workers", || marked(&self.mark).len() == 2 * self.workers.len());
        for worker in &self.workers {
            eventually(&format!("{} has not let go of a run", worker.name), || worker.open() <= worker.idle);
        }
    }
}

impl Worker {
    pub fn signal(&self, signal: &str) {
        kill(signal, self.child.id());
    }

    /// The processes of functions on it.
    pub fn functions(&self) -> Vec<i32> {
        let own = i32::try_from(self.child.id()).unwrap();
        let is_below = |pid: i32| std::iter::successors(Some(pid), |pid| parent(*pid)).any(|above| above == own);
        let probes = marked(&self.mark).into_iter().filter(|(_, name)| name.starts_with("dflow-probe"));
        probes.map(|(pid, _)| pid).filter(|pid| is_below(*pid)).collect()
    }

    /// Its launcher.
    pub fn launcher(&self) -> i32 {
        let of_worker = marked(&self.mark).into_iter().map(|(pid, _)| pid).filter(|pid| self.is_parent_of(*pid));
        of_worker.into_iter().find(|pid| is_launcher(*pid)).expect("each worker has a launcher")
    }

    fn is_parent_of(&self, pid: i32) -> bool {
        parent(pid) == i32::try_from(self.child.id()).ok()
    }

    /// The length of what it has spilled, as far as it is needed.
    pub fn spilled(&self) -> u64 {
        let unnamed = |target: &Path| target.to_string_lossy().contains("(deleted)") && !is_memory(target);
        self.descriptors(unnamed).filter_map(|path| Some(std::fs::metadata(path).ok()?.len())).sum()
    }

    /// Waits for its end.
    pub fn exit_code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    fn open(&self) -> usize {
        let is_warm = |target: &Path| target.to_string_lossy().starts_with("/memfd:dflow-window");
        let counts =
            |target: &Path| is_memory(target) && !is_warm(target) || target.to_string_lossy().starts_with("socket:");
        self.descriptors(counts).count()
    }

    fn descriptors(&self, wanted: impl Fn(&Path) -> bool) -> impl Iterator<Item = PathBuf> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(move |path| std::fs::read_link(path).is_ok_and(|target| wanted(&target)))
    }
}

/// Whether a process is a launcher.
pub fn is_launcher(pid: i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains("__launcher")
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Sends a signal to a process.
pub fn kill(signal: &str, pid: impl std::fmt::Display) {
    assert!(Command::new("kill").arg(signal).arg(pid.to_string()).status().unwrap().success());
}

fn is_memory(target: &Path) -> bool {
    target.to_string_lossy().starts_with("/memfd:")
}

impl Cluster {
    /// Kills the worker of a node.
    pub fn kill(&mut self, node: &str) {
        let mut worker = self.take(node);
        worker.child.kill().unwrap();
        worker.child.wait().unwrap();
    }

    /// Takes the worker of a node out of the cluster. It ends when it is dropped.
    pub fn take(&mut self, node: &str) -> Worker {
        let index = self.workers.iter().position(|worker| worker.name == node).unwrap();
        self.workers.remove(index)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
        if !std::thread::panicking() {
            eventually("processes outlive the workers", || marked(&self.mark).is_empty());
            return;
        }
        for worker in &self.workers {
            eprintln!("--- {}:\n{}", worker.name, self.log(&worker.name));
        }
    }
}
