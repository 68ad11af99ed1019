//! What two sides of dflow say to each other, and the rules by which they say it: ids, the shared control words of a
//! stream, the messages between a function and its node's daemon, and those between two nodes with the state machine
//! that sends streams over whatever connects them ([`exchange`]).
//!
//! Nothing in here touches a socket, a clock or mapped memory. The control-word protocol is generic over its atomics
//! and its futex, so that `dflow-shm` runs it on mapped memory and loom explores it exhaustively (`tests/`). Every
//! other crate of the data plane, and the SDK that functions link, builds on this one.

pub mod exchange;
pub mod ids;
pub mod limits;
pub mod message;
pub mod wire;
pub mod words;

pub use ids::{Epoch, InstanceId, PortId, RunId, SegmentId, StreamId};
