//! The messages of a probe of what is between two nodes.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use rkyv::{Archive, Deserialize, Serialize};

/// This release.
pub(crate) const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The messages between the two ends of a probe.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) enum Probing {
    /// The asking end begins.
    Begin,
    /// The answer to it.
    About(About),
    /// The answer if there are too many probes already.
    Busy(String),
    Ping(u32),
    Pong(u32),
    /// The asking end wants to try QUIC over a path of this number.
    Quic(u64),
    /// The other end has begun that path.
    QuicBegun,
    /// The asking end has created an endpoint for a path of this number.
    Rdma(u64, Vec<u8>),
    /// The answering end has connected its own endpoint with it, or explains why it cannot.
    RdmaConnected(Result<Vec<u8>, String>),
    /// The asking end has connected its own endpoint: the path may be used.
    RdmaBegun,
    /// What has arrived at the answering end over the current path.
    Received(Result<Measured, String>),
}

/// How a node describes itself.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) release: String,
    pub(crate) slots: u32,
    /// The device that it would use towards the other end, and how it protects its windows.
    pub(crate) rdma: Result<(String, String), String>,
}

/// How fast bytes arrived; all of them were correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) bytes: u64,
    pub(crate) nanos: u64,
}

impl Measured {
    /// Bytes each second.
    pub(crate) fn rate(self) -> u64 {
        let rate = u128::from(self.bytes) * 1_000_000_000 / u128::from(self.nanos.max(1));
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}
