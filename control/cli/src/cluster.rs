//! `dflow worker` and `dflow cluster`: the nodes of a cluster and their certificates.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use dflow_scheduler::planner::Link;
use dflow_transport::identity::{ClusterCa, Identity};
use dflow_worker::{ClusterError, ClusterSpec, NodeOptions, ServeOptions, SetupError};

use crate::args::{ClusterCommand, RunClusterArgs, WorkerArgs};
use crate::error::{self, CallError};
use crate::exit::Exit;
use crate::signals;
use crate::terminal::{Look, print, print_error};

/// The subdirectory of a cluster's directory that holds its authority.
pub const AUTHORITY: &str = "authority";

/// Serves runs until a signal ends it. The inner result is the result of printing.
///
/// # Errors
/// If the node cannot be set up.
pub fn worker(args: &WorkerArgs) -> Result<io::Result<Exit>, CallError> {
    let options = ServeOptions {
        listen: args.listen,
        identity: args.identity.clone(),
        silence: args.silence,
        metrics: args.metrics,
        node: args.node.options(),
    };
    let mut printed = Ok(());
    let (canceller, cancellation) = dflow_worker::cancellation();
    let caught = signals::watch(canceller).map_err(CallError::Signals)?;
    dflow_worker::serve(&options, cancellation, |listening| {
        let mut text = format!("node {} listens on UDP {}\n", listening.node, listening.address);
        if let Some(metrics) = listening.metrics {
            text += &format!("metrics at http://{metrics}/metrics\n");
        }
        printed = print(&text);
        if let Some(warning) = &listening.warning {
            print_error(&error::render_note(&Look::of(&io::stderr()), warning));
        }
    })?;
    Ok(printed.map(|()| caught.first().map_or(Exit::Success, Exit::Signalled)))
}

/// Creates certificates. The inner result is the result of printing.
///
/// # Errors
/// If the authority already exists (`create`) or is missing (`add`), or if a file cannot be written.
pub fn cluster(command: &ClusterCommand) -> Result<io::Result<Exit>, CallError> {
    let (args, authority) = match command {
        ClusterCommand::Create(args) => {
            let name = args.directory.file_name().map_or("dflow".into(), |name| name.to_string_lossy());
            (args, ClusterCa::create(&name)?)
        }
        ClusterCommand::Add(args) => (args, ClusterCa::load(&args.directory.join(AUTHORITY))?),
    };
    // All certificates are issued before anything is written, so that an invalid name leaves nothing behind.
    let identities = args.nodes.iter().map(|node| authority.issue(node, args.validity));
    let identities = identities.collect::<Result<Vec<_>, _>>()?;
    if matches!(command, ClusterCommand::Create(_)) {
        authority.save(&args.directory.join(AUTHORITY))?;
    }
    let mut text = String::new();
    for (node, identity) in args.nodes.iter().zip(identities) {
        let directory = args.directory.join(node);
        identity.save(&directory)?;
        text += &format!("{node}: {}\n", directory.display());
    }
    Ok(print(&text).map(|()| Exit::Success))
}

/// The other nodes of a run, if there are any.
///
/// # Errors
/// If there are other nodes but no identity, an address cannot be resolved, or a function is placed twice.
pub fn spec(args: &RunClusterArgs) -> Result<Option<ClusterSpec>, CallError> {
    if args.nodes.is_empty() {
        return Ok(None);
    }
    let identity = args.identity.clone().ok_or(CallError::NoIdentity { option: "--with" })?;
    let nodes = addresses(&args.nodes)?;
    let mut placement = BTreeMap::new();
    for (function, nodes) in &args.placement {
        if placement.insert(function.clone(), nodes.clone()).is_some() {
            return Err(CallError::PlacedTwice { function: function.clone() });
        }
    }
    Ok(Some(ClusterSpec {
        identity,
        nodes,
        placement,
        policy: args.policy,
        link: Link { bandwidth: args.bandwidth, latency: args.latency },
        wait: args.wait.unwrap_or_default(),
        silence: args.silence,
    }))
}

/// Sets the node's name: in a cluster, it is the name in the certificate.
///
/// # Errors
/// If the identity cannot be read, or is that of one of the other nodes.
pub fn named(options: NodeOptions, args: &RunClusterArgs) -> Result<NodeOptions, CallError> {
    let Some(directory) = args.identity.as_ref().filter(|_| !args.nodes.is_empty()) else { return Ok(options) };
    let identity = Identity::load(directory).map_err(|error| SetupError::Cluster(ClusterError::Identity(error)))?;
    if args.nodes.iter().any(|(node, _)| node == identity.name()) {
        return Err(CallError::OwnName { node: identity.name().to_owned(), identity: directory.clone() });
    }
    Ok(NodeOptions { node: identity.name().to_owned(), ..options })
}

/// Resolves the addresses of nodes.
///
/// # Errors
/// If an address cannot be resolved.
pub fn addresses(nodes: &[(String, String)]) -> Result<Vec<(String, SocketAddr)>, CallError> {
    nodes.iter().map(|(node, address)| Ok((node.clone(), resolve(node, address)?))).collect()
}

fn resolve(node: &str, address: &str) -> Result<SocketAddr, CallError> {
    let problem = |source| CallError::Address { node: node.to_owned(), address: address.to_owned(), source };
    let none = || io::Error::new(io::ErrorKind::NotFound, "it has no address");
    address.to_socket_addrs().map_err(problem)?.next().ok_or_else(|| problem(none()))
}
