//! The arguments of `dflow worker` and `dflow cluster`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};

use super::NodeArgs;
use super::values::{parse_listen, parse_new_node, parse_silence, parse_validity};

/// The arguments of `dflow worker`.
#[derive(Debug, Args)]
#[command(after_help = WORKER_HELP)]
pub struct WorkerArgs {
    /// The UDP address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_listen, default_value = "0.0.0.0:7411")]
    pub listen: SocketAddr,
    /// The directory with this node's identity, which `dflow cluster` creates
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, env = "DFLOW_IDENTITY")]
    pub identity: PathBuf,
    /// Leave a run if nothing is received from another of its nodes for this long (100ms to 1h), even if the run's own
    /// `--silence` is longer [default: the `--silence` of the run]
    #[arg(long, value_name = "DURATION", value_parser = parse_silence)]
    pub silence: Option<Duration>,
    /// Serve metrics for Prometheus at http://ADDRESS:PORT/metrics, without authentication
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_listen)]
    pub metrics: Option<SocketAddr>,
    /// The resources of the node, which all of its runs share.
    #[command(flatten)]
    pub node: NodeArgs,
}

const WORKER_HELP: &str = "\
Every node that runs functions needs their programs, and the directory of the workflow file, in which functions run. It \
needs no data: data travels in streams. The workflow's inputs are read, and its outputs written, on the node of \
`dflow run`.

Examples:
  dflow cluster create lab --node a --node b        (once; then copy lab/b to machine b)
  dflow worker --identity lab/b --listen 0.0.0.0:7411
  and on machine a:
  dflow run wordcount.yaml -i book.txt --identity lab/a --with b=10.0.0.2:7411
  dflow worker --identity lab/b --metrics 127.0.0.1:9411    (then: curl http://127.0.0.1:9411/metrics)

Exit status: 129, 130 or 143 ended by SIGHUP, SIGINT (Ctrl-C) or SIGTERM, 2 the command line is wrong or the node cannot \
be set up.";

/// The arguments of `dflow cluster`.
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

/// The arguments of `dflow cluster create` and `dflow cluster add`.
#[derive(Debug, Args)]
pub struct ClusterCreateArgs {
    /// The directory of the cluster: the authority is in DIR/authority, the identity of each node in DIR/NAME
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
