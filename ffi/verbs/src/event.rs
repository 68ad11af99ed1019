//! Asynchronous events of a device.

use crate::device::{Context, last_error};
use crate::error::DeviceError;
use rdma_sys::{ibv_ack_async_event, ibv_async_event, ibv_event_type as kind, ibv_get_async_event};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

/// An event of a device, a port or a queue. Queue pairs are identified by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AsyncEvent {
    /// The device failed or is being removed: drop every object on it.
    DeviceFatal,
    /// The port has a link.
    PortActive(u8),
    /// The port has lost its link.
    PortError(u8),
    /// The port's GID table changed: an index chosen earlier may refer to another GID.
    GidChange(u8),
    /// The port's LID, partition keys or subnet manager changed, or the subnet manager requests reregistration.
    PortChange(u8),
    /// A queue pair failed without a completion to report it.
    QueuePairFatal(u32),
    /// The peer of a queue pair sent an invalid request.
    QueuePairRequest(u32),
    /// The peer of a queue pair attempted an access that is not permitted.
    QueuePairAccess(u32),
    /// The first packet arrived before the connection was complete.
    Established(u32),
    /// Another event of a queue pair that requires no action.
    QueuePairOther(u32),
    /// A completion queue overflowed or failed: its queue pairs are lost.
    CompletionQueueError,
    /// Any other event, with its number in verbs.
    Other(u32),
}

impl Context {
    /// Returns the next pending event, if any. The context's descriptor ([`AsFd`]) is readable while one is pending.
    ///
    /// # Errors
    /// If the device was removed.
    pub fn next_event(&self) -> Result<Option<AsyncEvent>, DeviceError> {
        let mut raw = MaybeUninit::<ibv_async_event>::zeroed();
        // SAFETY: the context is open, its descriptor is non-blocking, and the call fills the event if it returns 0.
        if unsafe { ibv_get_async_event(self.raw(), raw.as_mut_ptr()) } != 0 {
            return match last_error() {
                Errno::AGAIN | Errno::INTR => Ok(None),
                source => {
                    Err(DeviceError::System { action: "read the events of", device: self.name().to_owned(), source })
                }
            };
        }
        let event = raw.as_mut_ptr();
        // SAFETY: filled above. Read as a number, because a newer kernel may report values that the enum does not have.
        let number = unsafe { (&raw const (*event).event_type).cast::<u32>().read() };
        let port = || {
            // SAFETY: only called for events of ports, whose element is the port's number.
            u8::try_from(unsafe { (*event).element.port_num }).unwrap_or(0)
        };
        let queue_pair = || {
            // SAFETY: only called for events of queue pairs; ibv_destroy_qp waits until the event is acknowledged
            // below.
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
        // SAFETY: the event was returned above and is acknowledged once.
        unsafe { ibv_ack_async_event(event) };
        Ok(Some(seen))
    }
}

impl AsFd for Context {
    /// Readable while [`Context::next_event`] has an event.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor stays open as long as the context, which is borrowed.
        unsafe { BorrowedFd::borrow_raw((*self.raw()).async_fd) }
    }
}
