//! The protocols of dflow: ids, the control words that processes share for each stream, the messages between a function
//! and its node's daemon, and the messages between two nodes with the state machine that moves streams between them
//! ([`exchange`]).
//!
//! Nothing here touches a socket, a clock or mapped memory. The control-word protocol is generic over its atomics and
//! its futex: `dflow-shm` runs it on mapped memory, and loom explores it exhaustively (`tests/`). Every other crate of
//! the data plane, and the SDK that functions link, builds on this one.

pub mod exchange;
pub mod ids;
pub mod limits;
pub mod message;
pub mod wire;
pub mod words;

pub use ids::{Epoch, InstanceId, PortId, RunId, SegmentId, StreamId};
