//! Other processes of a cluster, as one process deals with them: how they are named, reached and told things.
//!
//! Each pair of processes that have something to say to each other has one connection (QUIC, mutual TLS). Orders and notices
//! of all runs travel on its management channel, streams on the paths that the carriers of both ends use.

pub(crate) mod backlog;
pub(crate) mod backoff;
pub(crate) mod certificate;
pub(crate) mod device;
pub(crate) mod dial;
pub(crate) mod error;
pub(crate) mod hello;
pub(crate) mod message;
pub(crate) mod name;
pub(crate) mod probing;
pub(crate) mod problem;
pub(crate) mod route;
pub(crate) mod spec;
pub(crate) mod wakeup;
