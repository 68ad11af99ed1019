//! Why a node cannot take part in a cluster.

use super::problem::Problem;
use dflow_transport::NodeError;
use dflow_transport::identity::IdentityError;
use std::path::PathBuf;

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
    /// The plan of the run cannot be sent to other nodes.
    #[error(
        "the workflow file, the names of its input files and its placement have {bytes} bytes together, and at most {limit} can \
         be sent to other nodes; split the workflow, or make its parts with a function instead of naming files"
    )]
    PlanTooLarge {
        /// Their size.
        bytes: usize,
        /// The maximum.
        limit: usize,
    },
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
