//! What the two ends of a connection tell each other about paths.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use crate::path::PathKind;
use rkyv::{Archive, Deserialize, Serialize};

/// A message about the path between two nodes, on a channel that keeps the order.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Signal {
    /// The leading end has prepared an endpoint for this path.
    Offer {
        /// The path's number.
        path: u64,
        /// The path's kind.
        kind: PathKind,
        /// What the other end needs to connect to it.
        endpoint: Vec<u8>,
    },
    /// The other end has connected an endpoint of its own, and uses it once the leading end confirms.
    Accept {
        /// The path's number.
        path: u64,
        /// What the leading end needs to connect to it.
        endpoint: Vec<u8>,
    },
    /// The other end cannot use the path that was offered.
    Decline {
        /// The path's number.
        path: u64,
        /// Why.
        reason: String,
    },
    /// The leading end has connected its endpoint as well, and uses the path.
    Confirm {
        /// The path's number.
        path: u64,
    },
    /// The present path is lost. The next one is of the base kind and has this number.
    FallBack {
        /// The path's number.
        path: u64,
    },
    /// The other end, which declined because it had no device of this kind, has one again.
    Available {
        /// The kind.
        kind: PathKind,
    },
}
