//! Streams between nodes: the paths that carry them and the link that drives a path.
//!
//! A [`Path`] connects this node with one other. It carries messages in order, and bytes from the memory that holds a
//! stream here into the window that was granted for it there: `rdma` without a copy, `quic` with one, `sim` inside of
//! one process, with every mishap that a seed asks for. A [`Link`] runs the state machine of the flows
//! (`dflow_protocol::exchange`) over whichever path there is. What a stream is on this node (memory, windows, readers)
//! is behind [`Local`], which the worker implements on DStore, and the conformance tests on plain vectors.

mod choice;
mod chunk;
mod link;
mod log_limit;
mod path;
pub mod quic;
#[cfg(feature = "rdma")]
pub mod rdma;
pub mod sim;

pub use choice::{Choice, Say, Step};
pub use chunk::Chunk;
pub use link::{Link, LinkEvent, Local, Traffic};
pub use log_limit::LogLimit;
pub use path::{Path, PathError, PathEvent, PathKind, RemoteWindow};
