//! What can go wrong, one error for each kind of work, each with what to do about it.

#[cfg(feature = "rdma")]
use crate::queue_pair::QueuePairState;
use rustix::io::Errno;
use std::net::IpAddr;
use thiserror::Error;

/// Why a device, one of its ports or one of its addresses cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The feature is off.
    #[error("dflow was built without the feature 'rdma'; build it with its default features to have RDMA")]
    NotBuilt,
    /// The kernel knows nothing of RDMA.
    #[error(
        "no RDMA device: the kernel's InfiniBand part is not loaded (/sys/class/infiniband is missing); load the \
         driver of the card, or 'modprobe rdma_rxe' for soft-RoCE"
    )]
    NoSubsystem,
    /// The kernel can, but no device is there.
    #[error(
        "no RDMA device: /sys/class/infiniband is empty; load the driver of the card, or make a soft-RoCE device with \
         'rdma link add rxe0 type rxe netdev INTERFACE'"
    )]
    NoDevice,
    /// The kernel has devices, libibverbs finds none of them.
    #[error(
        "no RDMA device: the kernel has {kernel}, but libibverbs has no provider for it; install the package \
         ibverbs-providers and load the kernel's ib_uverbs"
    )]
    NoProvider {
        /// The names of the kernel's devices.
        kernel: String,
    },
    /// The name that was asked for is none of those that there are.
    #[error("there is no RDMA device '{name}'; there are: {have}")]
    UnknownDevice {
        /// What was asked for.
        name: String,
        /// What there is.
        have: String,
    },
    /// The device's file is not there.
    #[error(
        "the RDMA device {device} cannot be opened: {path} is missing; 'modprobe ib_uverbs' makes it, a container needs \
         it passed in (--device=/dev/infiniband)"
    )]
    NoDeviceFile {
        /// The device.
        device: String,
        /// The file.
        path: String,
    },
    /// The device's file may not be opened.
    #[error(
        "the RDMA device {device} cannot be opened: no permission on {path}; let this user read and write it (group \
         'rdma', or a udev rule)"
    )]
    NoPermission {
        /// The device.
        device: String,
        /// The file.
        path: String,
    },
    /// No device has the local address of the route to a peer.
    #[error(
        "no RDMA device has the address {local}, from which packets to {peer} leave; its addresses are: {have}. Choose \
         a peer address in an RDMA network, or name device and GID"
    )]
    NoPath {
        /// The peer.
        peer: IpAddr,
        /// The local address of the route to it.
        local: IpAddr,
        /// The GIDs that there are.
        have: String,
    },
    /// The GID table has no such entry.
    #[error("{device} port {port} has no GID for {wanted}; it has: {have}")]
    GidNotFound {
        /// The device.
        device: String,
        /// Its port.
        port: u8,
        /// What was asked for.
        wanted: String,
        /// What there is.
        have: String,
    },
    /// There is no way to the peer, by RDMA or otherwise.
    #[error("no route to {peer}: {source}; check the address and 'ip route get {peer}'")]
    NoRoute {
        /// The peer.
        peer: IpAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A call to the device failed for another reason.
    #[error("cannot {action} the RDMA device {device}: {source}; the kernel's log may say more")]
    System {
        /// What was tried.
        action: &'static str,
        /// The device.
        device: String,
        /// What the kernel said.
        source: Errno,
    },
}

/// Why memory was not registered.
#[cfg(feature = "rdma")]
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The process may not lock that much.
    #[error(
        "cannot register {bytes} bytes with the RDMA device: {needed} bytes of locked memory are needed and the limit is \
         {limit}; raise it with 'ulimit -l {kib}' (limits.conf: memlock, systemd: LimitMEMLOCK=) to this or 'unlimited'",
        kib = needed.div_ceil(1024)
    )]
    Memlock {
        /// The length of the memory, in bytes.
        bytes: usize,
        /// What would be locked with it, in bytes.
        needed: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A part that is not one.
    #[error("bytes {start} to {end} cannot be registered: the memory has {length}")]
    NotWithin {
        /// The first byte.
        start: usize,
        /// The byte behind the last.
        end: usize,
        /// The memory's length, in bytes.
        length: usize,
    },
    /// Memory of no length.
    #[error("memory of no length cannot be registered")]
    Empty,
    /// The device would write what may only be read.
    #[error("memory that may only be read cannot be registered for writing; register it as RegionAccess::Source")]
    ReadOnly,
    /// The kernel is too old to register a mapping that can only be read.
    #[error(
        "this kernel registers only memory that is mapped for writing, even if the device only reads it (Linux before \
         6.2 does that); map it writable"
    )]
    KernelWantsWritable,
    /// The device has no memory windows of type 2B.
    #[error("{device} has no memory windows of type 2B; use a protection domain for each peer in their place")]
    NoWindows {
        /// The device.
        device: String,
    },
    /// The registration failed for another reason.
    #[error("cannot {action} of {bytes} bytes with the RDMA device {device}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// How long the memory is, in bytes.
        bytes: usize,
        /// The device.
        device: String,
        /// What the kernel said.
        source: Errno,
    },
}

/// Why a queue was not made, changed or read.
#[cfg(feature = "rdma")]
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The depth is 0 or more than can be had.
    #[error("a {what} of {wanted} entries is not possible on {device}: from 1 to {most}")]
    Depth {
        /// Which queue.
        what: &'static str,
        /// What was asked for.
        wanted: u32,
        /// The most that the device and dflow allow.
        most: u32,
        /// The device.
        device: String,
    },
    /// The completion queue could overflow, which would be the end of it.
    #[error(
        "the completion queue has {free} of {capacity} entries left, and the queue pair's depth is {wanted}; make the \
         completion queue as deep as all queues that complete into it"
    )]
    NoCompletionRoom {
        /// What the queue pair could have in flight.
        wanted: u32,
        /// What is left.
        free: u32,
        /// The depth of the completion queue.
        capacity: u32,
    },
    /// Parts that belong to different opened devices were put together.
    #[error(
        "the completion queue and the protection domain belong to different opened devices; make both from one Context"
    )]
    OtherContext,
    /// The queue pair is in another state.
    #[error("cannot {action} a queue pair in the state {state}; make a new one")]
    State {
        /// What was tried.
        action: &'static str,
        /// The state.
        state: QueuePairState,
    },
    /// The completion queue has no channel.
    #[error("this completion queue can only be polled; make it with a channel to sleep on it")]
    NoChannel,
    /// A call failed for another reason.
    #[error("cannot {action} on the RDMA device {device}: {source}{}", hint(*source))]
    System {
        /// What was tried.
        action: &'static str,
        /// The device.
        device: String,
        /// What the kernel said.
        source: Errno,
    },
}

#[cfg(feature = "rdma")]
fn hint(error: Errno) -> &'static str {
    match error {
        Errno::NOMEM => "; queues may need locked memory, too: raise 'ulimit -l', or make the queues less deep",
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::TIMEDOUT => {
            "; the peer's GID is not reachable from this device: check that both are in one network"
        }
        Errno::INVAL => "; the peer's endpoint or the chosen GID does not fit this port",
        _ => "",
    }
}

/// Why work was not posted. Unless it says otherwise, nothing of it was.
#[cfg(feature = "rdma")]
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PostError {
    /// Too much is in flight.
    #[error("the queue has room for {free} more requests, not for {wanted}; poll the completion queue first")]
    QueueFull {
        /// How many were to be posted.
        wanted: usize,
        /// How many can be posted now.
        free: usize,
    },
    /// Not all of the range is in the region.
    #[error("bytes {start} to {end} are not within a memory region of {length}, or more than one request can carry")]
    OutOfRange {
        /// The first byte.
        start: usize,
        /// The byte behind the last.
        end: usize,
        /// The region's length, in bytes.
        length: usize,
    },
    /// More bytes than the queue pair can take up inline.
    #[error("{length} bytes cannot be sent inline; this queue pair takes up to {most}")]
    InlineTooLong {
        /// How many bytes.
        length: usize,
        /// How many would be possible.
        most: usize,
    },
    /// What the request does with its data does not go together.
    #[error("{0}")]
    Unsuitable(&'static str),
    /// The queue pair is not connected, or not any more.
    #[error("nothing can be posted to a queue pair in the state {state}")]
    State {
        /// The state.
        state: QueuePairState,
    },
    /// The device refused.
    #[error("the RDMA device refused the request after {posted} of the batch: {source}; destroy the queue pair")]
    System {
        /// How many requests of the batch are posted and will complete.
        posted: usize,
        /// What the driver said.
        source: Errno,
    },
}
