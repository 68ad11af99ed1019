//! The nodes of a run as its user names them.

use dflow_scheduler::planner::{Link, Policy};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The nodes that take part in a run beside the one that drives it.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// The directory with this node's identity.
    pub identity: PathBuf,
    /// The other nodes: the name in each one's certificate, and where it listens.
    pub nodes: Vec<(String, SocketAddr)>,
    /// The nodes over which a function's instances are spread. The others are placed by the policy.
    pub placement: BTreeMap<String, Vec<String>>,
    /// How the functions without an entry are placed.
    pub policy: Policy,
    /// The link between each two nodes that the policy assumes.
    pub link: Link,
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
