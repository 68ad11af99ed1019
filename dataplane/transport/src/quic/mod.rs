//! Streams between nodes over QUIC: the path that every pair of nodes has.
//!
//! A [`QuicNode`] holds the sockets and the threads on which quinn runs. It accepts and dials [`Connection`]s, each with a
//! node that has shown a certificate of the same cluster ([`crate::identity`]). A connection carries a management
//! channel, over which the two nodes agree on paths (of this kind or of another), and one [`QuicPath`] after the other.
//!
//! Each endpoint has one thread, with all tasks of its connections: a connection's state is never fought over. The link's
//! thread and that one meet in `incoming` and `outgoing`, in short queues behind locks that nobody holds while waiting.

mod connection;
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
mod way;

pub use connection::{Connection, ConnectionStats, MAX_MANAGEMENT_MESSAGE, ManagementError};
pub use node::{ConnectError, Dial, Incoming, NodeCounters, NodeError, QuicNode, bare_endpoint, default_endpoint};
pub use path::QuicPath;
pub use refusal::Cause;
pub use settings::{Congestion, QuicSettings};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it. A thread that panicked with the lock held left the values whole: they are only ever replaced or taken.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
