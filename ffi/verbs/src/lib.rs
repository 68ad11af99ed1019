//! A safe interface to RDMA verbs: devices, registered memory, reliable queue pairs, completions and events.
//!
//! The RDMA path of dflow's transport is built on this crate, and `dflow doctor` uses it to explain why RDMA is on or
//! off ([`probe`]). The crate knows nothing about streams. It contains every `unsafe` call of verbs, over the bindings
//! of `rdma-sys`.
//!
//! **Memory safety.** A [`MemoryRegion`] owns the memory that it registers. A queue pair holds the region of each
//! posted request until the request has completed or the queue pair has been destroyed. Safe code therefore cannot free
//! memory that the device may still access. The compiler does not see the device's writes, so [`StableMemory`] exposes
//! addresses and never slices.
//!
//! Without the feature `rdma`, only [`probe`] and [`Devices::list`] remain, and both report that RDMA is not built in.
//! The build then needs neither libibverbs nor librdmacm nor libclang.

mod error;
mod probe;

#[cfg(not(feature = "rdma"))]
mod absent;
#[cfg(feature = "rdma")]
mod completion;
#[cfg(feature = "rdma")]
mod device;
#[cfg(feature = "rdma")]
mod endpoint;
#[cfg(feature = "rdma")]
mod event;
#[cfg(feature = "rdma")]
mod gid;
#[cfg(feature = "rdma")]
mod in_flight;
#[cfg(feature = "rdma")]
mod memory;
#[cfg(feature = "rdma")]
mod post;
#[cfg(feature = "rdma")]
mod queue_pair;
#[cfg(feature = "rdma")]
mod region;
#[cfg(feature = "rdma")]
mod slow;
#[cfg(feature = "rdma")]
mod status;
#[cfg(feature = "rdma")]
mod window;

#[cfg(not(feature = "rdma"))]
pub use absent::Devices;
#[cfg(feature = "rdma")]
pub use completion::{Completion, CompletionQueue};
#[cfg(feature = "rdma")]
pub use device::{Context, Device, Devices, LinkLayer, Port, PortState};
#[cfg(feature = "rdma")]
pub use endpoint::{Endpoint, EndpointError, Mtu};
pub use error::DeviceError;
#[cfg(feature = "rdma")]
pub use error::{MemoryError, PostError, QueueError};
#[cfg(feature = "rdma")]
pub use event::AsyncEvent;
#[cfg(feature = "rdma")]
pub use gid::{Gid, GidChoice, GidEntry, GidKind, local_address_towards};
#[cfg(feature = "rdma")]
pub use memory::{Buffer, StableMemory};
#[cfg(feature = "rdma")]
pub use post::{Data, ReceiveRequest, SendOperation, SendRequest};
pub use probe::{Probe, probe};
#[cfg(feature = "rdma")]
pub use queue_pair::{Connection, QueuePair, QueuePairConfig, QueuePairState};
#[cfg(feature = "rdma")]
pub use region::{LocalKey, MemoryRegion, MemorySlice, ProtectionDomain, RegionAccess, RemoteKey, RemoteMemory};
#[cfg(feature = "rdma")]
pub use status::{Operation, Status};
#[cfg(feature = "rdma")]
pub use window::MemoryWindow;
