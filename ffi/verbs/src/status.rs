//! How a request ended.

use rdma_sys::ibv_wc_status as wc;
use thiserror::Error;

/// The kind of a completed request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A message to the peer's receive queue.
    #[default]
    Send,
    /// Bytes written to the peer's memory, with or without immediate data.
    Write,
    /// Bytes read from the peer's memory.
    Read,
    /// A message from the peer, or the notification of a write with immediate data. The bytes of a write are where the
    /// peer wrote them, not in the buffer of this request.
    Receive,
    /// A memory window was bound.
    BindWindow,
    /// A key was invalidated.
    Invalidate,
}

/// How a request ended. After any failure the queue pair is in the error state: every other request in flight ends with
/// [`Status::Flushed`], and a new queue pair is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Status {
    /// It succeeded.
    #[default]
    #[error("success")]
    Success,
    /// A message is longer than the buffer of the request that received it.
    #[error("the message is longer than the receive buffer")]
    LocalLength,
    /// The request is invalid for this queue pair.
    #[error("the device could not carry out the request on this queue pair")]
    LocalOperation,
    /// The local memory is not registered, or not for this access.
    #[error("the local memory is not registered, or not for this access")]
    LocalProtection,
    /// The local memory could not be written.
    #[error("the device could not write to the local memory")]
    LocalAccess,
    /// The queue pair failed or was closed before the request was processed.
    #[error("flushed because the queue pair was in the error state")]
    Flushed,
    /// A memory window was not bound.
    #[error("the memory window could not be bound")]
    WindowBind,
    /// The peer sent an invalid response.
    #[error("the peer's device sent an invalid response")]
    BadResponse,
    /// The peer's device rejected the request as invalid.
    #[error(
        "the peer's device rejected the request as invalid (a message longer than its receive buffer, or more \
         reads than it allows)"
    )]
    RemoteInvalidRequest,
    /// The peer's device rejected the key, the range or the kind of access.
    #[error(
        "the peer's device refused the access: the key, the range or the access rights are not valid there (any more)"
    )]
    RemoteAccess,
    /// The peer's device could not complete the request.
    #[error("the peer's device could not carry out the request")]
    RemoteOperation,
    /// The peer does not respond.
    #[error("the peer did not respond to any retry: its link, machine or queue pair is lost")]
    RetryExceeded,
    /// The peer had no receive request for the message.
    #[error("the peer had no receive request posted during all retries")]
    ReceiverNotReady,
    /// The peer aborted the request.
    #[error("the peer's device aborted the request")]
    RemoteAborted,
    /// The device failed.
    #[error("the device failed; close it")]
    Fatal,
    /// Any other status, with its number in verbs.
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
