//! The arguments of `dflow doctor`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::values::parse_node;
use super::{Format, NodeArgs};

/// The arguments of `dflow doctor`: the resources are the same as for a run, so that it shows what that run would get.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_HELP)]
pub struct DoctorArgs {
    /// The format on standard output: text for people, or one JSON document
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// Where to look for the leftovers of killed runs: an output directory, or a directory of output directories
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath, default_value = "dflow-out")]
    pub output: PathBuf,
    /// Examine the connection to another node instead: its name and the address of its `dflow worker`. Needs
    /// `--identity`. May be repeated
    #[arg(long = "peer", value_name = "NAME=ADDRESS:PORT", value_parser = parse_node)]
    pub peers: Vec<(String, String)>,
    /// The directory with this node's identity, which `dflow cluster` creates
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, env = "DFLOW_IDENTITY")]
    pub identity: Option<PathBuf>,
    /// The resources that a run may use.
    #[command(flatten)]
    pub node: NodeArgs,
}

const DOCTOR_HELP: &str = "\
With --peer, reports whether the node answers and its release, how long the certificates are valid, the round trip, the \
packet size, and the throughput in both directions over QUIC and RDMA, with every byte verified. If RDMA is not used, it \
says why. This takes a second or two per node and does not interrupt runs.

Examples:
  dflow doctor
  dflow doctor --memory 64MiB --spill-dir /var/tmp  (what a run would get)
  dflow doctor --output results  (the leftovers of killed runs there)
  dflow doctor --format json | jq '.findings[] | select(.state == \"bad\")'
  dflow doctor --peer b=10.0.0.2:7411 --identity lab/a
  dflow doctor --peer b=10.0.0.2:7411 --identity lab/a --rdma-idle spin  (for this end; b uses its worker's setting)
  dflow doctor --peer b=10.0.0.2:7411 --identity lab/a --format json | jq '.peers[0].rdma'

Exit status: 0 no problem, 1 workflows cannot run here, or a node does not answer or refuses the connection, 2 the \
command line is wrong.";
