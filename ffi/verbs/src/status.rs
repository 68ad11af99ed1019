//! How a piece of work ended.

use rdma_sys::ibv_wc_status as wc;
use thiserror::Error;

/// What a completed piece of work was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A message to the peer's receive queue.
    #[default]
    Send,
    /// Bytes written into the peer's memory, with or without an immediate.
    Write,
    /// Bytes read out of the peer's memory.
    Read,
    /// A message from the peer, or the immediate of one of its writes: then the bytes are not in the buffer of this
    /// request, but where the peer wrote them.
    Receive,
    /// A memory window was bound.
    BindWindow,
    /// A key was made invalid.
    Invalidate,
}

/// How a piece of work ended. After any failure the queue pair is in its error state: everything else that it has in
/// flight ends with [`Status::Flushed`], and a new queue pair is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Status {
    /// It is done.
    #[default]
    #[error("done")]
    Success,
    /// A message is longer than the buffer of the request that received it.
    #[error("the message is longer than the receive buffer")]
    LocalLength,
    /// The request itself is wrong for this queue pair.
    #[error("the device could not carry out the request on this queue pair")]
    LocalOperation,
    /// The local memory is not registered for this.
    #[error("the local memory is not registered, or not for this access")]
    LocalProtection,
    /// The local memory could not be written.
    #[error("the device could not write to the local memory")]
    LocalAccess,
    /// The queue pair failed or was closed before it was this request's turn.
    #[error("given up because the queue pair was in its error state")]
    Flushed,
    /// A memory window was not bound.
    #[error("the memory window could not be bound")]
    WindowBind,
    /// The peer's answer makes no sense.
    #[error("the peer's device answered what it should not")]
    BadResponse,
    /// The peer's device does not take such a request.
    #[error(
        "the peer's device refused the request as invalid (a message longer than its receive buffer, or a read that it has no room for)"
    )]
    RemoteInvalidRequest,
    /// The key or the range is not valid at the peer.
    #[error("the peer's device refused the access: key, range or rights are not valid there (any more)")]
    RemoteAccess,
    /// The peer's device could not finish.
    #[error("the peer's device could not carry out the request")]
    RemoteOperation,
    /// The peer does not answer.
    #[error("the peer did not answer, all retries are used up: its link, machine or queue pair is gone")]
    RetryExceeded,
    /// The peer had no receive request for the message.
    #[error("the peer had no receive request posted, all retries are used up")]
    ReceiverNotReady,
    /// The peer gave up.
    #[error("the peer's device gave up the request")]
    RemoteAborted,
    /// The device is lost.
    #[error("the device failed; let go of it")]
    Fatal,
    /// Something that is not among the above, with the number of verbs.
    #[error("the device reported the status {0}")]
    Other(u32),
}

impl Status {
    pub(crate) fn from_raw(raw: wc::Type) -> Self {
        match raw {
            wc::IBV_WC_SUCCESS => Self::Success,
            wc::IBV_WC_LOC_LEN_ERR => Self::LocalLength,
            wc::IBV_WC_LOC_QP_OP_ERR => Self::LocalOperation,
            wc::IBV_WC_LOC_PROT_ERR => Self::LocalProtection,
            wc::IBV_WC_LOC_ACCESS_ERR => Self::LocalAccess,
            wc::IBV_WC_WR_FLUSH_ERR => Self::Flushed,
            wc::IBV_WC_MW_BIND_ERR => Self::WindowBind,
            wc::IBV_WC_BAD_RESP_ERR => Self::BadResponse,
            wc::IBV_WC_REM_INV_REQ_ERR => Self::RemoteInvalidRequest,
            wc::IBV_WC_REM_ACCESS_ERR => Self::RemoteAccess,
            wc::IBV_WC_REM_OP_ERR => Self::RemoteOperation,
            wc::IBV_WC_RETRY_EXC_ERR | wc::IBV_WC_RESP_TIMEOUT_ERR => Self::RetryExceeded,
            wc::IBV_WC_RNR_RETRY_EXC_ERR => Self::ReceiverNotReady,
            wc::IBV_WC_REM_ABORT_ERR => Self::RemoteAborted,
            wc::IBV_WC_FATAL_ERR => Self::Fatal,
            other => Self::Other(other),
        }
    }
}
