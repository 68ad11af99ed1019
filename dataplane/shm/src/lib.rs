//! Streams in shared memory: segments, the windows mapped from them, the control words with everybody's progress, and
//! waiting for one of them to change.
//!
//! This is the fast path of DStore on one node. A producer's [`Writer`] fills a window in place and publishes its
//! watermark; each consumer's [`Reader`] maps the same pages read-only and reads in place. Between them there is no
//! daemon, no copy and, unless one has to sleep, no system call. `dflow-store` decides which window each of them gets,
//! and what happens when it is full; `dflow-ports` carries the decision out.
//!
//! Every `unsafe` of shared memory is in this crate. The rules for the words are `dflow_protocol::words`.

#[cfg(not(all(target_os = "linux", target_endian = "little", target_pointer_width = "64")))]
compile_error!(
    "dflow's shared memory needs 64-bit little-endian Linux: a futex compares the low half of each control word"
);

mod backing;
mod bells;
pub mod channel;
mod control;
mod doorbell;
mod futex;
mod landing;
mod memory;
mod reader;
mod segment;
mod shared;
mod span;
mod staging;
mod view;
mod wait;
mod watchers;
mod writer;

pub use bells::{Bell, BellWait, Bells};
pub use control::{Control, PeerControl, PortWords};
pub use doorbell::{Doorbell, Listener};
pub use futex::Kernel;
pub use landing::{Landing, OutOfRoom};
pub use memory::{Access, Memory};
pub use reader::{MemoryPiece, Reader, Seen};
pub use segment::{HUGE_PAGE, Segment, SegmentError, SegmentKind};
pub use shared::SharedBytes;
pub use span::Span;
pub use staging::{Staging, StagingError};
pub use view::{Ledger, View};
pub use wait::{Idle, Park, Wait, Woken, now_nanos, wait, wait_at_most, wait_until};
pub use watchers::{PeerWord, Watchers, WordWait};
pub use writer::{Room, Writer, finish};
