//! Streams between nodes: the paths that carry them, and the link that drives a path.
//!
//! A [`Path`] connects this node to one other. It carries messages in order, and bytes from the memory that holds a
//! stream here into the window that was granted for it there. Each kind of path has a directory: [`rdma`] (no copy),
//! [`quic`] (one copy), and [`sim`] (within one process, with every fault that a seed asks for). A [`Link`] runs the
//! state machine of the flows (`dflow_protocol::exchange`) over whichever path there is. A stream's local side (memory,
//! windows, readers) is behind [`Local`]; the carrier implements it on the store, and the conformance tests on plain
//! vectors.
//!
//! Two nodes meet over a [`Connection`]: authenticated by their certificates ([`identity`]), with a control channel on
//! which a [`Negotiator`] at each end agrees on paths. `kinds.rs` lists the kinds.

mod chunk;
pub mod identity;
mod kinds;
mod link;
mod log_limit;
mod path;
mod provider;
pub mod quic;
#[cfg(feature = "rdma")]
pub mod rdma;
mod selection;
pub mod sim;
mod stats;

pub use chunk::Chunk;
pub use dflow_protocol::exchange::{FlowEvent, RunTraffic};
pub use kinds::{BASE, PathSettings, RdmaUse, providers, rdma_provider};
pub use link::{Link, LinkEvent, Local};
pub use log_limit::LogLimit;
pub use path::{Path, PathError, PathEvent, PathKind, RemoteWindow};
pub use provider::{Description, Provider, ProviderError};
// Nodes connect by QUIC, whatever kind of path carries their streams.
pub use quic::{
    Cause, ConnectError, Connection, ConnectionStats, Dial, Incoming, MAX_MANAGEMENT_MESSAGE, ManagementError,
    NodeCounters, NodeError, QuicNode as Node, QuicSettings as NodeSettings,
};
pub use selection::{Effect, Negotiator, Selector, Signal, Step};
pub use stats::{LinkBytes, LinkStats};
