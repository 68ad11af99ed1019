//! The resources of a node: the options that `dflow run`, `dflow worker` and `dflow doctor` share.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum, ValueHint};
use dflow_disk::IoChoice;
use dflow_launcher::ContainmentChoice;
use dflow_worker::{Idle, NodeOptions, RdmaUse};
use dflow_workflow::units;

use super::values::{parse_idle, parse_rdma, parse_spin};

/// The resources of a node.
#[derive(Debug, Args)]
#[command(next_help_heading = "Resources")]
pub struct NodeArgs {
    /// Maximum number of instances that compute on this node at the same time, over all of its runs. Instances that wait
    /// for data do not count [default: the number of processors that dflow may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub slots: Option<u32>,
    /// Memory for the streams of all runs on this node, at least 256KiB, reduced if the cgroup's limit requires it. Data that does not fit is
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

impl NodeArgs {
    /// The resources of the options, and otherwise what is detected on the machine.
    pub fn options(&self) -> NodeOptions {
        let detected = NodeOptions::detect();
        NodeOptions {
            slots: self.slots.unwrap_or(detected.slots),
            memory: self.memory.unwrap_or(detected.memory),
            window: self.window.unwrap_or(detected.window),
            spill_dir: self.spill_dir.clone().unwrap_or(detected.spill_dir),
            spill_io: self.spill_io.into(),
            containment: self.containment.into(),
            spin: self.spin.unwrap_or(detected.spin),
            node: detected.node,
            rdma: self.rdma.clone(),
            rdma_idle: self.rdma_idle,
        }
    }
}

/// [`IoChoice`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpillIoArg {
    /// The best method that the machine allows.
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
    /// A cgroup if the machine allows it, otherwise a subreaper
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
