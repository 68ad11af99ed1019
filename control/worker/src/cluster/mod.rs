//! Runs on several nodes: the node that drives a run and the nodes that serve it.
//!
//! Each pair of nodes of a run has a connection (QUIC, mutual TLS); the node that comes first in the run's list dials.
//! Orders and notices travel on the management channels of the driver's connections, streams on the paths that the
//! carriers of both ends use.

mod absence;
mod backlog;
mod backoff;
mod certificate;
mod dial;
mod hello;
mod members;
pub(crate) mod message;
#[cfg(test)]
#[path = "../../../../dataplane/protocol/tests/mutation/mod.rs"]
mod mutation;
mod probe;
mod route;
mod serve;
mod session;

pub(crate) use backlog::Backlog;
pub(crate) use backoff::Backoff;
pub(crate) use certificate::{load as load_identity, warning as certificate_warning};
pub(crate) use hello::hello;
pub(crate) use members::{Invitation, Members, News};
pub(crate) use probe::reach;
pub use probe::{PathTrial, PeerRdma, PeerReport, Problem, Rates, examine_peers};
pub(crate) use route::Route;
pub use serve::{Listening, ServeOptions, serve};

use dflow_transport::identity::IdentityError;
use dflow_transport::{NodeError, RdmaUse};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;
use tokio::sync::Notify;

/// The nodes that take part in a run beside the one that drives it.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// The directory with this node's identity.
    pub identity: PathBuf,
    /// The other nodes: the name in each one's certificate, and where it listens.
    pub nodes: Vec<(String, SocketAddr)>,
    /// The nodes over which a function's instances are spread. The instances of a `foreach` without an entry are spread
    /// over all nodes; everything else runs on the node that drives the run.
    pub placement: BTreeMap<String, Vec<String>>,
    /// How long a node that does not answer yet is waited for.
    pub wait: Duration,
    /// A node is lost after this long without a sign of life. From [`MIN_SILENCE`] to [`MAX_SILENCE`].
    pub silence: Duration,
}

/// The minimum of [`ClusterSpec::silence`]: less would mistake a busy node for a lost one.
pub const MIN_SILENCE: Duration = Duration::from_millis(100);
/// Its maximum: a connection whose other end is gone is not kept longer.
pub const MAX_SILENCE: Duration = Duration::from_secs(3600);

/// The default of [`ClusterSpec::silence`].
pub const DEFAULT_SILENCE: Duration = Duration::from_secs(10);

/// Why a node cannot take part in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Its certificate, or another's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its own certificate is not valid now.
    #[error(
        "the certificate of node {node} in {} {standing}, and no other node lets this one in with it: make another with \
         'dflow cluster add DIR --node {node}' where DIR/authority is, and put it in the place of this one; or set the clock \
         of this machine",
        directory.display()
    )]
    Certificate {
        /// The node.
        node: String,
        /// The directory with its identity.
        directory: PathBuf,
        /// Since when it has expired, or when it becomes valid.
        standing: String,
    },
    /// The RDMA device that was named.
    #[error(
        "the RDMA device '{name}', which --rdma names, cannot be used: {reason} (with --rdma auto, streams go by QUIC \
             where there is no RDMA)"
    )]
    Device {
        /// What was named.
        name: String,
        /// Why not.
        reason: String,
    },
    /// Its socket.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Another node cannot be reached.
    #[error("{}", .0.reason)]
    Unreachable(Problem),
    /// Another node refuses to take part.
    #[error("node {node} does not take part in the run: {reason}")]
    Refused {
        /// The node.
        node: String,
        /// Why.
        reason: String,
    },
    /// An unknown node.
    #[error("the placement of '{function}' names the node '{node}'; the nodes of this run are {known}")]
    UnknownNode {
        /// The function.
        function: String,
        /// The name.
        node: String,
        /// The names that there are.
        known: String,
    },
    /// A node is named twice.
    #[error("the node '{node}' is named twice: each other node once, and never {own}, which drives the run itself")]
    NamedTwice {
        /// The name.
        node: String,
        /// The name of the node that drives the run.
        own: String,
    },
    /// An unknown function.
    #[error("a placement names the function '{function}', which the workflow does not have; it has {known}")]
    UnknownFunction {
        /// The name.
        function: String,
        /// The names that there are.
        known: String,
    },
}

impl ClusterError {
    /// What to do about it, unless the text says so already.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Unreachable(problem) => Some(&problem.help),
            _ => None,
        }
    }
}

/// Checks that the device named by the user exists.
///
/// # Errors
/// [`ClusterError::Device`]: why it cannot be used.
pub(crate) fn find_device(wanted: &RdmaUse) -> Result<(), ClusterError> {
    wanted.find_device().map_err(|error| {
        let name = if let RdmaUse::Device(name) = wanted { name.clone() } else { String::new() };
        ClusterError::Device { name, reason: error.to_string() }
    })
}

/// Wakes an event loop when a connection has news.
#[derive(Debug, Default)]
pub(crate) struct Wakeup(Notify);

impl Wakeup {
    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// Tells it that there is something to do.
    pub(crate) fn wake_up(&self) {
        self.0.notify_one();
    }

    pub(crate) async fn woken(&self) {
        self.0.notified().await;
    }
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}
