//! What connects two nodes.

use crate::chunk::Chunk;
use dflow_protocol::exchange::Order;
use dflow_protocol::wire::{FlowId, GrantId, PeerMessage, WireError};
use dflow_shm::{Landing, Memory, OutOfRoom};
use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// One end of a connection between two nodes.
///
/// While it lives it is reliable: messages arrive once and in order, bytes once and in any order; bytes of different
/// flows, and bytes and messages, may overtake each other. When it dies, both ends get [`PathEvent::Lost`] sooner or
/// later, and what was under way is lost.
///
/// No method blocks. A path is driven by one thread ([`crate::Link`]); whatever happens on others makes it call the
/// [`std::task::Waker`] that it was made with, after which [`Path::poll`] has something to say. Dropping it closes the
/// connection; when the drop returns, nothing lands in a window of this node any more, and no memory of a [`Chunk`] is
/// read any more.
pub trait Path: Send {
    /// What kind it is.
    fn kind(&self) -> PathKind;

    /// Sends a message behind all those before. It is queued where it cannot go at once; a path that cannot queue any more
    /// is lost.
    ///
    /// # Errors
    /// If the path is lost, or the message is one that the other side would refuse.
    fn send(&mut self, message: &PeerMessage) -> Result<(), PathError>;

    /// Lets the other side write into a window, as far as [`Landing::open`] allows at each time (RDMA: anywhere in the
    /// window). It follows the
    /// flow's window before: bytes from its base on go there.
    ///
    /// # Errors
    /// If the window cannot be offered, for want of memory that may be locked, say.
    fn offer(&mut self, flow: FlowId, grant: GrantId, landing: &Arc<Landing>) -> Result<RemoteWindow, PathError>;

    /// Nothing more is expected for this flow: the other side has said that nothing is under way, or it does not matter
    /// where it goes.
    fn withdraw(&mut self, flow: FlowId);

    /// Chunks of this memory are going to be written. What it takes to send from it is done ahead of the first of them, when
    /// there is time; without this it is done with the first.
    fn ready(&mut self, memory: &Arc<Memory>) {
        let _ = memory;
    }

    /// Whether [`Path::write`] would take more at present.
    fn has_room(&self) -> bool;

    /// Sends the chunk's bytes to their place: `order.at` and on, in the window of `order.grant`, which is there.
    ///
    /// # Errors
    /// If the path is lost, or the memory cannot be used for it.
    fn write(&mut self, order: &Order, chunk: Chunk) -> Result<(), PathError>;

    /// Nothing more will be written to this flow; it is over.
    fn finish(&mut self, flow: FlowId);

    /// What has happened since the last call.
    fn poll(&mut self, events: &mut Vec<PathEvent>);

    /// Whoever drives the path is about to sleep, and does not poll before it is woken. A path that wants to be polled
    /// again at once wakes it.
    fn rest(&mut self) {}
}

/// The kind of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Archive, Serialize, Deserialize)]
#[rkyv(derive(PartialEq, Eq, PartialOrd, Ord))]
#[allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]
pub enum PathKind {
    /// RDMA writes between registered memories.
    Rdma,
    /// QUIC.
    Quic,
    /// A simulated network.
    Sim,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rdma => "RDMA",
            Self::Quic => "QUIC",
            Self::Sim => "simulation",
        })
    }
}

/// Where the other side finds a window. Zero where the path needs no such thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteWindow {
    /// The address of the window's first byte.
    pub address: u64,
    /// The key that opens it.
    pub key: u32,
}

/// Something that has happened on a path.
#[derive(Debug)]
pub enum PathEvent {
    /// A message has come.
    Message(PeerMessage),
    /// Bytes have landed in the window of a flow.
    Placed {
        /// The flow.
        flow: FlowId,
        /// The stream offset of the first of them.
        at: u64,
        /// How many they are.
        length: u64,
    },
    /// There is room for writes again.
    Room,
    /// The path is dead.
    Lost(PathError),
}

/// Why a path is dead, or cannot do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The other side has closed it, or the connection broke.
    #[error("the {kind} connection is lost: {reason}")]
    Lost {
        /// Of what kind it was.
        kind: PathKind,
        /// What was noticed.
        reason: String,
    },
    /// A message that is none.
    #[error("the peer broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// Bytes for a place where none may arrive.
    #[error("the peer broke the protocol: {0}")]
    OutOfRoom(#[from] OutOfRoom),
    /// Something else that a peer does not do.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// Something that this node lacks.
    #[error("{0}")]
    Resource(String),
}

impl PathError {
    /// Whether the other side did what a peer that keeps to the protocol does not do.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Wire(_) | Self::OutOfRoom(_) | Self::Protocol(_))
    }
}
