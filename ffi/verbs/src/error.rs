//! The errors of each operation. Each message says what failed, why, and what to do.

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
    /// The kernel's RDMA subsystem is not loaded.
    #[error(
        "no RDMA device: the kernel's InfiniBand subsystem is not loaded (/sys/class/infiniband is missing); load the \
         driver of the card, or 'modprobe rdma_rxe' for soft-RoCE"
    )]
    NoSubsystem,
    /// The kernel's RDMA subsystem is loaded, but there is no device.
    #[error(
        "no RDMA device: /sys/class/infiniband is empty; load the driver of the card, or create a soft-RoCE device \
         with 'rdma link add rxe0 type rxe netdev INTERFACE'"
    )]
    NoDevice,
    /// The kernel has devices, but libibverbs finds none.
    #[error(
        "no RDMA device: the kernel has {kernel}, but libibverbs has no provider for it; install the package \
         ibverbs-providers and load the kernel's ib_uverbs"
    )]
    NoProvider {
        /// The names of the kernel's devices.
        kernel: String,
    },
    /// No device has the requested name.
    #[error("there is no RDMA device '{name}'; the devices are: {have}")]
    UnknownDevice {
        /// The requested name.
        name: String,
        /// What there is.
        have: String,
    },
    /// The device file is missing.
    #[error(
        "the RDMA device {device} cannot be opened: {path} is missing; 'modprobe ib_uverbs' creates it, a container \
         needs it passed in (--device=/dev/infiniband)"
    )]
    NoDeviceFile {
        /// The device.
        device: String,
        /// The file.
        path: String,
    },
    /// There is no permission to open the device file.
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
    /// No device has the source address of the route to a peer.
    #[error(
        "no RDMA device has the address {local}, the source address of packets to {peer}; the addresses are: {have}. \
         Choose a peer address in an RDMA network, or name device and GID"
    )]
    NoPath {
        /// The peer.
        peer: IpAddr,
        /// The source address of the route to it.
        local: IpAddr,
        /// The existing GIDs.
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
    /// There is no route to the peer, by RDMA or otherwise.
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

/// Why memory cannot be registered.
#[cfg(feature = "rdma")]
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The limit on locked memory is too low.
    #[error(
        "cannot register {bytes} bytes with the RDMA device: {needed} bytes of locked memory are needed and the limit \
         is {limit}; raise it with 'ulimit -l {kib}' (limits.conf: memlock, systemd: LimitMEMLOCK=) to this or \
         'unlimited'",
        kib = needed.div_ceil(1024)
    )]
    Memlock {
        /// The length of the memory, in bytes.
        bytes: usize,
        /// The locked memory that would be needed in total, in bytes.
        needed: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The range is not within the memory.
    #[error("bytes {start} to {end} cannot be registered: the memory has {length}")]
    NotWithin {
        /// The first byte.
        start: usize,
        /// The end of the range, exclusive.
        end: usize,
        /// The memory's length, in bytes.
        length: usize,
    },
    /// The range is empty.
    #[error("an empty range of memory cannot be registered")]
    Empty,
    /// The memory is read-only, and the device would write to it.
    #[error("read-only memory cannot be registered for writing; register it as RegionAccess::Source")]
    ReadOnly,
    /// The kernel is too old to register a read-only mapping.
    #[error(
        "this kernel registers only memory that is mapped for writing, even for a device that only reads it (Linux \
         before 6.2 does that); map it writable"
    )]
    KernelWantsWritable,
    /// The device does not support memory windows of type 2B.
    #[error("{device} does not support memory windows of type 2B; use a protection domain for each peer instead")]
    NoWindows {
        /// The device.
        device: String,
    },
    /// The registration failed for another reason.
    #[error("cannot {action} of {bytes} bytes with the RDMA device {device}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The length of the memory, in bytes.
        bytes: usize,
        /// The device.
        device: String,
        /// What the kernel said.
        source: Errno,
    },
}

/// Why a queue cannot be created, changed or read.
#[cfg(feature = "rdma")]
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The depth is 0 or above the maximum.
    #[error("a {what} of {wanted} entries is not possible on {device}: the range is 1 to {most}")]
    Depth {
        /// Which queue.
        what: &'static str,
        /// What was asked for.
        wanted: u32,
        /// The maximum of the device and of dflow.
        most: u32,
        /// The device.
        device: String,
    },
    /// The completion queue could overflow, after which it would be unusable.
    #[error(
        "the completion queue has {free} of {capacity} entries left, and the queue pair's depth is {wanted}; make the \
         completion queue as deep as all queues that complete into it"
    )]
    NoCompletionRoom {
        /// The maximum number of requests that the queue pair can have in flight.
        wanted: u32,
        /// The entries left.
        free: u32,
        /// The depth of the completion queue.
        capacity: u32,
    },
    /// The arguments belong to different opened devices.
    #[error(
        "the completion queue and the protection domain belong to different opened devices; create both from one \
         Context"
    )]
    OtherContext,
    /// The queue pair is in another state.
    #[error("cannot {action} a queue pair in the state {state}; create a new one")]
    State {
        /// What was tried.
        action: &'static str,
        /// The state.
        state: QueuePairState,
    },
    /// The completion queue has no channel.
    #[error("this completion queue can only be polled; create it with a channel to sleep on it")]
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

/// Why a request cannot be posted. Except for [`PostError::System`], nothing of the batch was posted.
#[cfg(feature = "rdma")]
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PostError {
    /// Too many requests are in flight.
    #[error("the queue has room for {free} more requests, but {wanted} are needed; poll the completion queue first")]
    QueueFull {
        /// How many are needed.
        wanted: usize,
        /// How many can be posted now.
        free: usize,
    },
    /// The range is not within the region.
    #[error(
        "bytes {start} to {end} are not within a memory region of {length}, or are more than one request can carry"
    )]
    OutOfRange {
        /// The first byte.
        start: usize,
        /// The byte behind the last.
        end: usize,
        /// The region's length, in bytes.
        length: usize,
    },
    /// The data exceeds the queue pair's capacity for inline data.
    #[error("{length} bytes cannot be sent inline; the maximum of this queue pair is {most}")]
    InlineTooLong {
        /// The length of the data, in bytes.
        length: usize,
        /// The maximum, in bytes.
        most: usize,
    },
    /// The operation does not allow this data.
    #[error("{0}")]
    Unsuitable(&'static str),
    /// The queue pair is not connected, or not any more.
    #[error("nothing can be posted to a queue pair in the state {state}")]
    State {
        /// The state.
        state: QueuePairState,
    },
    /// The device rejected a request.
    #[error("the RDMA device rejected a request after {posted} of the batch: {source}; destroy the queue pair")]
    System {
        /// How many requests of the batch are posted and will complete.
        posted: usize,
        /// What the driver said.
        source: Errno,
    },
}
