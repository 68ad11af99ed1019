//! Paths over RDMA: bytes go from the memory that holds a stream here straight into the window that was granted for it there,
//! without a copy on either side.
//!
//! Each path is one reliable queue pair with its own completion queue and protection domain. A message is a SEND with a small
//! header; bytes are a WRITE whose immediate names the grant. Both consume a receive of the other side in the order in which
//! they were posted. So a completion identifies the bytes that have arrived (`arrivals`), and a sender that counts receives
//! never sends without one (`credit`).
//!
//! **Hostile peers.** The device checks where a peer writes: a write outside of the windows that are open to it does not land,
//! and the queue pair fails on both sides. The attacked side can tell this from a failed device only if the device reports it:
//! with the receive that the write would have consumed, or by an asynchronous event. Soft-RoCE does the first for a write of
//! one packet, and reports nothing for longer ones: the path is then lost as if the peer were gone, streams continue by QUIC,
//! and no violation is counted. A write within a window but past the credit, or without a grant, is recognised by its immediate
//! and always a violation (`arrivals`). A peer that sends more than there are receives for is held back by the device (RNR) and
//! disturbs nobody; that it ignored its credit cannot be detected.
//!
//! The caller exchanges [`Prepared::endpoint`] with the peer over an authenticated channel.

mod arrivals;
mod credit;
mod device;
mod endpoint;
mod fence;
mod flight;
mod inbox;
mod outbox;
mod path;
mod provider;
mod sequence;
mod sources;
mod watch;

pub use device::RdmaDevice;
pub use dflow_verbs::probe;
pub use path::{Prepared, RdmaPath};
pub use provider::RdmaProvider;

use dflow_shm::Idle;
use dflow_verbs::{Connection, DeviceError, EndpointError, MemoryError, PostError, QueueError};
use std::time::Duration;

/// The largest depth of a work queue.
pub const MAX_DEPTH: u32 = 8192;
/// The smallest depth of a work queue.
pub const MIN_DEPTH: u32 = 4;
/// The most bytes that a request carries inline, whatever the setting says.
pub const MAX_INLINE_REQUEST: u32 = 256;

/// The default time for which completions are polled before a sleep, on machines with several cores: some round trips of a
/// network card, and about the cost of a wake-up.
pub const SPIN: Duration = Duration::from_micros(50);

/// How a path uses its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RdmaConfig {
    /// The depth of the send queue, from [`MIN_DEPTH`] to [`MAX_DEPTH`].
    pub send_depth: u32,
    /// The depth of the receive queue, from [`MIN_DEPTH`] to [`MAX_DEPTH`]: the most messages and writes of the peer in flight.
    /// Each receive has a buffer for the longest message.
    pub receive_depth: u32,
    /// The most bytes that are inlined into a request, at most [`MAX_INLINE_REQUEST`]; 0 disables inlining.
    pub inline: u32,
    /// The bytes in flight from which [`crate::Path::has_room`] is false.
    pub in_flight: u64,
    /// How long completions are polled after the last activity before the path waits for the device's event:
    /// [`Idle::SLEEP`] for not at all, [`Idle::SPIN`] for ever.
    pub idle: Idle,
    /// Timeouts, retries and traffic class.
    pub connection: Connection,
}

impl Default for RdmaConfig {
    fn default() -> Self {
        Self {
            send_depth: 256,
            receive_depth: 256,
            inline: 220,
            in_flight: 1 << 20,
            idle: default_idle(),
            connection: Connection::default(),
        }
    }
}

/// The default for this machine: [`SPIN`], or no polling where it would take the only core from the threads that it waits
/// for.
#[must_use]
pub fn default_idle() -> Idle {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cores > 1 { Idle { spin: SPIN } } else { Idle::SLEEP }
}

/// Why there is no path over RDMA.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RdmaError {
    /// A device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Memory cannot be registered.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Queues cannot be created or connected.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The first receives cannot be posted.
    #[error(transparent)]
    Post(#[from] PostError),
    /// The device's port has no link.
    #[error("{device} port {port} has no link; see 'ip link' and 'rdma link'")]
    LinkDown {
        /// The device.
        device: String,
        /// Its port.
        port: u8,
    },
    /// The peer's endpoint is malformed.
    #[error("the peer's RDMA endpoint is malformed: {0}")]
    Endpoint(#[from] EndpointError),
    /// The peer speaks another version.
    #[error("the peer speaks version {theirs} of dflow over RDMA, this node {ours}: update the older one")]
    Version {
        /// This node's.
        ours: u32,
        /// The peer's.
        theirs: u32,
    },
    /// A queue depth, of this node or the peer, is out of range.
    #[error("a {what} of {value} is out of range for RDMA: from {MIN_DEPTH} to {MAX_DEPTH}")]
    Depth {
        /// Which queue.
        what: &'static str,
        /// Its value.
        value: u32,
    },
    /// The thread that waits for events could not be started.
    #[error("cannot wait for the events of an RDMA device: {0}; is there a limit on threads or descriptors?")]
    Events(std::io::Error),
}
