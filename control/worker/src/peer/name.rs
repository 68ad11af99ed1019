//! How a process of a cluster is named.

/// A process of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PeerName {
    /// The name in its certificate.
    pub(crate) name: String,
    /// The number that it has chosen at its start.
    pub(crate) life: u64,
}
