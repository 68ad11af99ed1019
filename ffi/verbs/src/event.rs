//! What a device says by itself.

use crate::device::{Context, last_error};
use crate::error::DeviceError;
use rdma_sys::{ibv_ack_async_event, ibv_async_event, ibv_event_type as kind, ibv_get_async_event};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

/// Something happened to a device, a port or a queue. Queue pairs are named by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AsyncEvent {
    /// The device failed or is being removed: let go of everything on it.
    DeviceFatal,
    /// The port has a link.
    PortActive(u8),
    /// The port has lost its link.
    PortError(u8),
    /// The port's GID table changed; chosen GIDs may be others now.
    GidChange(u8),
    /// The port's LID, partition keys or subnet manager changed, or the latter wants registrations anew.
    PortChange(u8),
    /// A queue pair failed without a completion that could say so.
    QueuePairFatal(u32),
    /// The peer of a queue pair sent a request that makes no sense.
    QueuePairRequest(u32),
    /// The peer of a queue pair tried what it may not.
    QueuePairAccess(u32),
    /// The first packet came before the queue pair was completely connected.
    Established(u32),
    /// Something else about a queue pair that needs no action.
    QueuePairOther(u32),
    /// A completion queue overflowed or failed: its queue pairs are lost.
    CompletionQueueError,
    /// Something that is not among the above, with the number of verbs.
    Other(u32),
}

impl Context {
    /// Takes the next event, if there is one now. The descriptor of the context ([`AsFd`]) is readable when there is.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn next_event(&self) -> Result<Option<AsyncEvent>, DeviceError> {
        let mut raw = MaybeUninit::<ibv_async_event>::zeroed();
        // SAFETY: the context is open, its descriptor does not block, and the call fills the event if it gives 0.
        if unsafe { ibv_get_async_event(self.raw(), raw.as_mut_ptr()) } != 0 {
            return match last_error() {
                Errno::AGAIN | Errno::INTR => Ok(None),
                source => {
                    Err(DeviceError::System { action: "read the events of", device: self.name().to_owned(), source })
                }
            };
        }
        let event = raw.as_mut_ptr();
        // SAFETY: filled above. Read as a number, because a newer kernel may have more than the type knows.
        let number = unsafe { (&raw const (*event).event_type).cast::<u32>().read() };
        let port = || {
            // SAFETY: only called for events of ports, whose element is the port's number.
            u8::try_from(unsafe { (*event).element.port_num }).unwrap_or(0)
        };
        let queue_pair = || {
            // SAFETY: only called for events of queue pairs; ibv_destroy_qp waits until the event is acknowledged below.
            unsafe { (*(*event).element.qp).qp_num }
        };
        let seen = match number {
            n if n == kind::IBV_EVENT_DEVICE_FATAL as u32 => AsyncEvent::DeviceFatal,
            n if n == kind::IBV_EVENT_PORT_ACTIVE as u32 => AsyncEvent::PortActive(port()),
            n if n == kind::IBV_EVENT_PORT_ERR as u32 => AsyncEvent::PortError(port()),
            n if n == kind::IBV_EVENT_GID_CHANGE as u32 => AsyncEvent::GidChange(port()),
            n if [
                kind::IBV_EVENT_LID_CHANGE as u32,
                kind::IBV_EVENT_PKEY_CHANGE as u32,
                kind::IBV_EVENT_SM_CHANGE as u32,
                kind::IBV_EVENT_CLIENT_REREGISTER as u32,
            ]
            .contains(&n) =>
            {
                AsyncEvent::PortChange(port())
            }
            n if n == kind::IBV_EVENT_QP_FATAL as u32 => AsyncEvent::QueuePairFatal(queue_pair()),
            n if n == kind::IBV_EVENT_QP_REQ_ERR as u32 => AsyncEvent::QueuePairRequest(queue_pair()),
            n if n == kind::IBV_EVENT_QP_ACCESS_ERR as u32 => AsyncEvent::QueuePairAccess(queue_pair()),
            n if n == kind::IBV_EVENT_COMM_EST as u32 => AsyncEvent::Established(queue_pair()),
            n if [
                kind::IBV_EVENT_SQ_DRAINED as u32,
                kind::IBV_EVENT_PATH_MIG as u32,
                kind::IBV_EVENT_PATH_MIG_ERR as u32,
                kind::IBV_EVENT_QP_LAST_WQE_REACHED as u32,
            ]
            .contains(&n) =>
            {
                AsyncEvent::QueuePairOther(queue_pair())
            }
            n if n == kind::IBV_EVENT_CQ_ERR as u32 => AsyncEvent::CompletionQueueError,
            other => AsyncEvent::Other(other),
        };
        // SAFETY: the event was got above and is acknowledged once.
        unsafe { ibv_ack_async_event(event) };
        Ok(Some(seen))
    }
}

impl AsFd for Context {
    /// Readable when [`Context::next_event`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the context, which is borrowed.
        unsafe { BorrowedFd::borrow_raw((*self.raw()).async_fd) }
    }
}
