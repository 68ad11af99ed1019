//! The interface of all kinds of paths between two nodes.

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
/// flows, and bytes and messages, may overtake each other. When it is lost, each end gets [`PathEvent::Lost`] sooner or
/// later, and everything in flight is lost.
///
/// No method blocks. One thread drives a path ([`crate::Link`]); when other threads have events for it, the path calls the
/// [`std::task::Waker`] that it was made with, and [`Path::poll`] returns them. Dropping the path closes it. That is the
/// fence: after the drop returns, nothing lands in a window of this node, and no memory of a [`Chunk`] is read.
pub trait Path: Send {
    /// The kind.
    fn kind(&self) -> PathKind;

    /// Queues a message behind all earlier ones. A path whose queue is full is lost.
    ///
    /// # Errors
    /// If the path is lost, or the other side would refuse the message.
    fn send(&mut self, message: &PeerMessage) -> Result<(), PathError>;

    /// Opens a window for the other side to write into, as far as [`Landing::open`] allows at the time (RDMA: anywhere in
    /// the window). It follows the flow's previous window: bytes from its base on go there.
    ///
    /// # Errors
    /// If the window cannot be opened, for example because no more memory may be locked.
    fn offer(&mut self, flow: FlowId, grant: GrantId, landing: &Arc<Landing>) -> Result<RemoteWindow, PathError>;

    /// Closes the windows of a flow, of which nothing more is expected.
    fn withdraw(&mut self, flow: FlowId);

    /// Announces memory that chunks will be written from. The path can then prepare it (RDMA: register it) before the first
    /// chunk; otherwise it does so with the first.
    fn ready(&mut self, memory: &Arc<Memory>) {
        let _ = memory;
    }

    /// Whether [`Path::write`] accepts more at present. [`PathEvent::Room`] follows a `false`.
    fn has_room(&self) -> bool;

    /// Sends the chunk's bytes to offset `order.at` of the stream, in the window `order.grant`, which must be present.
    ///
    /// # Errors
    /// If the path is lost, or the memory cannot be sent from.
    fn write(&mut self, order: &Order, chunk: Chunk) -> Result<(), PathError>;

    /// The flow is over: nothing more is written to it.
    fn finish(&mut self, flow: FlowId);

    /// Appends the events since the last call.
    fn poll(&mut self, events: &mut Vec<PathEvent>);

    /// The driving thread is about to sleep until it is woken. A path that has to be polled again at once wakes it.
    fn rest(&mut self) {}
}

/// The kind of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Archive, Serialize, Deserialize)]
#[rkyv(derive(PartialEq, Eq, PartialOrd, Ord))]
#[allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]
pub enum PathKind {
    /// RDMA writes between registered memory.
    Rdma,
    /// QUIC.
    Quic,
    /// A simulated network.
    Sim,
}

impl PathKind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Rdma, Self::Quic, Self::Sim];
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

/// Where the other side finds a window. Zero for kinds of paths that do not need it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteWindow {
    /// The address of the window's first byte.
    pub address: u64,
    /// The remote key.
    pub key: u32,
}

/// An event of a path.
#[derive(Debug)]
pub enum PathEvent {
    /// A message has arrived.
    Message(PeerMessage),
    /// Bytes have landed in the window of a flow.
    Placed {
        /// The flow.
        flow: FlowId,
        /// The stream offset of the first of them.
        at: u64,
        /// Their number.
        length: u64,
    },
    /// There is room for writes again.
    Room,
    /// The path is lost. No event follows.
    Lost(PathError),
}

/// Why a path is lost, or an operation on it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The other side closed it, or the connection failed.
    #[error("the {kind} connection is lost: {reason}")]
    Lost {
        /// Its kind.
        kind: PathKind,
        /// Why.
        reason: String,
    },
    /// A malformed message.
    #[error("the peer broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// Bytes outside of the room of a window.
    #[error("the peer broke the protocol: {0}")]
    OutOfRoom(#[from] OutOfRoom),
    /// Another violation of the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// This node lacks a resource.
    #[error("{0}")]
    Resource(String),
}

impl PathError {
    /// Whether the other side broke the protocol.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Wire(_) | Self::OutOfRoom(_) | Self::Protocol(_))
    }
}
