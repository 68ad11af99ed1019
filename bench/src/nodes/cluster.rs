//! The nodes of a measurement: a process for each worker node, over loopback, and the identity of the node that drives
//! the runs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Args;
use dflow_transport::identity::ClusterCa;
use dflow_worker::{NodeOptions, RdmaUse, ServeOptions};
use rustix::process::{Signal, set_parent_process_death_signal};
use tempfile::TempDir;

use crate::clock::processor_time_of;
use crate::failure::{Failure, Trying};
use crate::node::Others;

/// The name of the node that drives runs.
pub const DRIVER: &str = "driver";

/// The validity of the certificates of a measurement.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// The worker nodes, which end when this value is dropped.
pub struct Cluster {
    dir: TempDir,
    workers: Vec<Worker>,
}

struct Worker {
    child: Child,
    name: String,
    address: SocketAddr,
}

impl Cluster {
    /// Starts this many worker nodes.
    pub fn start(count: usize) -> Result<Cluster, Failure> {
        let dir = tempfile::Builder::new().prefix("dflow-bench-").tempdir().trying("make a temporary directory")?;
        let authority = ClusterCa::create("bench").trying("create a certificate authority")?;
        let identity = |name: &str| {
            let identity = authority.issue(name, VALIDITY).trying("issue a certificate")?;
            let directory = dir.path().join(name);
            identity.save(&directory).trying("save a certificate")?;
            Ok::<_, Failure>(directory)
        };
        identity(DRIVER)?;
        let mut workers = Vec::new();
        for number in 1..=count {
            let name = format!("node-{number}");
            workers.push(Worker::start(identity(&name)?, name)?);
        }
        Ok(Cluster { dir, workers })
    }

    /// The first `count` worker nodes for a run, with each function placed on the worker node with the given index.
    pub fn others(&self, count: usize, placement: &BTreeMap<String, usize>) -> Others {
        let workers = &self.workers[..count.min(self.workers.len())];
        let placed = |(function, place): (&String, &usize)| {
            let worker = workers.get(*place)?;
            Some((function.clone(), vec![worker.name.clone()]))
        };
        Others {
            driver: (DRIVER.to_owned(), self.dir.path().join(DRIVER)),
            nodes: workers.iter().map(|worker| (worker.name.clone(), worker.address)).collect(),
            placement: placement.iter().filter_map(placed).collect(),
        }
    }

    /// The processor time used by all worker nodes, without functions, in nanoseconds.
    pub fn processor_time(&self) -> Result<u64, Failure> {
        self.workers.iter().map(|worker| processor_time_of(worker.child.id())).sum()
    }
}

impl Worker {
    fn start(identity: PathBuf, name: String) -> Result<Worker, Failure> {
        let program = std::env::current_exe().trying("find this program")?;
        let mut command = Command::new(program);
        command.arg("worker").arg(identity).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().trying("start a node")?;
        let said = child.stdout.take();
        // From here on, the drop ends the process.
        let mut worker = Worker { child, name, address: (Ipv4Addr::LOCALHOST, 0).into() };
        let mut line = String::new();
        if let Some(said) = said {
            BufReader::new(said).read_line(&mut line).trying("read the output of a node")?;
        }
        worker.address =
            line.trim().parse().trying(format_args!("start {}: it did not print its address", worker.name))?;
        Ok(worker)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The options of a worker node.
#[derive(Args, Clone, Debug)]
pub struct WorkerOptions {
    /// The directory with its identity
    identity: PathBuf,
}

/// Runs this program as a worker node: serves runs like `dflow worker` until it is killed.
pub fn serve(options: WorkerOptions) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).trying("tie this process to its parent")?;
    let options = ServeOptions {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        identity: options.identity,
        silence: None,
        metrics: None,
        node: NodeOptions { rdma: RdmaUse::Off, ..NodeOptions::detect() },
    };
    let mut told = Ok(());
    dflow_worker::serve(&options, dflow_worker::Cancellation::never(), |listening| {
        let mut out = std::io::stdout();
        told = writeln!(out, "{}", listening.address).and_then(|()| out.flush());
    })
    .trying("serve runs")?;
    told.trying("print the address of this node")
}
