//! DStore on one node: where the bytes of each stream are, which readers still need them, how much memory each run may
//! use, and which bytes go to disk when memory is short.
//!
//! A stream is a list of *pieces*: slots of a small arena, windows of memory (a ring, or an extent that is filled
//! once), ranges of files. The store gives a producer its next window when the present one is full or held by a stuck
//! reader, and a reader its next piece when it has finished the present one. It does not move bytes: functions share
//! them (`dflow-shm`).
//!
//! [`Store`] is one single-threaded state machine: the worker feeds it messages and ends of processes, and carries out
//! the messages ([`Store::take_outgoing`]) and events ([`Store::take_events`]) that it produces. It has no clock: every
//! call that may depend on the time takes `now`, the time since an origin that is the same for all calls. It has no
//! threads either: its slow work is done by a [`Backend`]. So a simulation drives it as a node does
//! (`tests/simulation.rs`).
//!
//! It trusts no control word and no message of a function. A value that cannot be true is reported as
//! [`StoreEvent::Misbehaved`] and fails that process alone.

mod ahead;
mod attempt;
mod back;
mod backend;
mod carrier;
mod credit;
mod deliver;
mod epoch;
mod error;
mod fingerprint;
mod grant;
mod hash;
mod input;
mod jobs;
mod memory;
mod observe;
mod outbox;
mod pieces;
mod process;
mod receive;
mod replay;
mod run;
mod shares;
mod spill;
mod store;
mod stream;
mod subscription;
mod threads;
mod unread;
mod window_size;

pub use back::{BackJob, CleanJob};
pub use backend::{Backend, Completion, Job, backed_segment};
pub use error::{Refusal, RunFailure, StoreError};
pub use hash::HashJob;
pub use input::InputFile;
pub use observe::{RunUsage, Traffic, Usage, Waiting};
pub use outbox::Outgoing;
pub use spill::SpillJob;
pub use store::{Config, Store, StoreEvent, StreamCopy};
pub use subscription::Subscriber;
pub use threads::Threads;

use dflow_protocol::{RunId, StreamId};
use std::fmt;

/// An attempt of an instance, as the store knows it; unique within the daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub u64);

/// The owner of runs. Memory is shared fairly between tenants, and no tenant sees bytes of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(pub u64);

/// A stream, among those of all runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunStream {
    /// The run.
    pub run: RunId,
    /// The stream, unique within it.
    pub stream: StreamId,
}

impl fmt::Display for RunStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {} of run {}", self.stream, self.run)
    }
}
