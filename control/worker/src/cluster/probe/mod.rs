//! What is between two nodes: `dflow doctor --peer` asks ([`peers`]), a worker answers ([`answer`]).
//!
//! Both ends use the paths as runs do: the same connection, the same endpoints, a [`dflow_transport::Link`] on a thread of
//! its own at each end ([`trial`]), bytes that land in a window and are compared, one by one, with what was sent.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

mod answer;
mod peers;
mod report;
mod trial;

pub(super) use answer::{MAX_PROBES, answer};
pub use peers::examine_peers;
pub(super) use report::SOON_DAYS;
pub use report::{PathTrial, PeerRdma, PeerReport, Problem, Rates};

use rkyv::{Archive, Deserialize, Serialize};

/// This release.
pub(super) const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// What the two ends of a probe say to each other.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(super) enum Probing {
    /// Who asks begins.
    Begin,
    /// The answer to it.
    About(About),
    /// The answer to it, if there is no room for one more probe.
    Busy(String),
    Ping(u32),
    Pong(u32),
    /// Who asks wants to try QUIC, by a path of this number.
    Quic(u64),
    /// The other end has begun that path.
    QuicBegun,
    /// Who asks has made an endpoint, for a path of this number.
    Rdma(u64, Vec<u8>),
    /// The other end has connected one of its own with it, or cannot.
    RdmaConnected(Result<Vec<u8>, String>),
    /// Who asks has connected its own: the path may be used.
    RdmaBegun,
    /// What has arrived at the other end over the present path.
    Received(Result<Measured, String>),
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) release: String,
    pub(super) slots: u32,
    /// The device that it would use towards the other end, and how it guards its windows.
    pub(super) rdma: Result<(String, String), String>,
}

/// How fast bytes came. All of them were right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) bytes: u64,
    pub(super) nanos: u64,
}

impl Measured {
    /// Bytes each second.
    pub(super) fn rate(self) -> u64 {
        let rate = u128::from(self.bytes) * 1_000_000_000 / u128::from(self.nanos.max(1));
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}
