//! QUIC: the connections between nodes, and the path that every connection has.
//!
//! A [`QuicNode`] owns the sockets and the threads on which quinn runs. It accepts and dials [`Connection`]s, each to a node
//! with a certificate of the same cluster ([`crate::identity`]). A connection has a management channel, on which the two
//! nodes negotiate paths of any kind, and carries one [`QuicPath`] at a time.
//!
//! Each endpoint has one thread with all tasks of its connections, so that a connection's state is not contended. It shares
//! queues with the link's thread in `incoming` and `outgoing`, behind locks that are never held across a wait.

mod connection;
mod farewell;
mod first_hop;
mod header;
mod incoming;
mod node;
mod outgoing;
mod path;
mod refusal;
mod routes;
mod settings;
mod socket;
mod tls;

pub use connection::{Connection, ConnectionStats, MAX_MANAGEMENT_MESSAGE, ManagementError};
pub use node::{ConnectError, Dial, Incoming, NodeCounters, NodeError, QuicNode, bare_endpoint, default_endpoint};
pub use path::QuicPath;
pub use refusal::Cause;
pub use settings::{Congestion, QuicSettings};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it, even after a panic of another thread: the values are only ever replaced or taken, so that none is left
/// half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
