//! Paths over RDMA: bytes go from the memory that holds a stream here straight into the window that was granted for it
//! there, without a copy on either side.
//!
//! Each path is one reliable queue pair with a completion queue and a protection domain of its own. A message is a SEND
//! with a small header; bytes are a WRITE whose immediate names the grant. Both use up a receive at the other side, in
//! the order in which they were posted; so the reader of a completion knows which bytes of which stream have come
//! (`arrivals`), and the sender never sends what the other side has no receive for (`credit`).
//!
//! **A peer that breaks the rules.** Where it may write is checked by the device: what is outside of the windows that are
//! open to it does not land, and the queue pair is at its end on both sides. That it was a violation, and not a device that
//! failed, the attacked side knows if the device says so: with the receive that the write would have used up, or by an event
//! of its own. Soft-RoCE does the first for a write of one packet and says nothing of longer ones: then the path is lost like
//! one whose peer is gone, streams go on by QUIC, and nothing is counted. A write that is within a window and beyond what
//! was granted, or names no grant, is found by its immediate, and is always a violation (`arrivals`). A peer that sends more
//! than there are receives for is held back by the device, which tells it to try again, and disturbs nobody; that it has not
//! waited for credit cannot be told.
//!
//! How two paths find each other is the caller's affair: [`Prepared::endpoint`] goes to the peer over an authenticated
//! channel, and the peer's comes back.

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

/// The most requests that one work queue of a path may hold.
pub const MAX_DEPTH: u32 = 8192;
/// The least that a path works with.
pub const MIN_DEPTH: u32 = 4;
/// The most bytes that a request carries inline, whatever the setting says.
pub const MAX_INLINE_REQUEST: u32 = 256;

/// How long completions are looked for by default, where there is a core for it: some round trips of a network card, and
/// about what it costs to be woken by one.
pub const SPIN: Duration = Duration::from_micros(50);

/// How a path uses its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RdmaConfig {
    /// Requests that may be posted and not completed, from [`MIN_DEPTH`] to [`MAX_DEPTH`].
    pub send_depth: u32,
    /// Receives that are posted, from [`MIN_DEPTH`] to [`MAX_DEPTH`]: so many messages and writes of the peer may be under
    /// way. Each takes a buffer for the longest message.
    pub receive_depth: u32,
    /// Up to so many bytes travel inside of a request, at most [`MAX_INLINE_REQUEST`]; 0 switches that off.
    pub inline: u32,
    /// Bytes that may be under way before [`crate::Path::has_room`] says no.
    pub in_flight: u64,
    /// How long whoever drives the path looks for completions after the last thing that has passed, before the path has
    /// itself woken by the device: [`Idle::SLEEP`] for not at all, [`Idle::SPIN`] for always.
    pub idle: Idle,
    /// Timeouts and retries, and how packets are marked.
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

/// What is right for this machine: [`SPIN`], and sleep at once where looking would take the only core from those who
/// are waited for.
#[must_use]
pub fn default_idle() -> Idle {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cores > 1 { Idle { spin: SPIN } } else { Idle::SLEEP }
}

/// Why there is no path over RDMA.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RdmaError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Its memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Its queues.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The first receives.
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
    /// What the peer has sent as its endpoint.
    #[error("the peer's RDMA endpoint is none: {0}")]
    Endpoint(#[from] EndpointError),
    /// The peer speaks another version.
    #[error("the peer speaks version {theirs} of dflow over RDMA, this node {ours}: update the older one")]
    Version {
        /// This node's.
        ours: u32,
        /// The peer's.
        theirs: u32,
    },
    /// A setting, or what the peer says of its own.
    #[error("a {what} of {value} is not possible for RDMA: from {MIN_DEPTH} to {MAX_DEPTH}")]
    Depth {
        /// Which.
        what: &'static str,
        /// Its value.
        value: u32,
    },
    /// The thread that waits for events could not be made.
    #[error("cannot wait for the events of an RDMA device: {0}; is there a limit on threads or descriptors?")]
    Events(std::io::Error),
}
