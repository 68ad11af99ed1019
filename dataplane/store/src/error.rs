//! Errors of the store, one enum for each operation.

use dflow_disk::DiskError;
use dflow_protocol::RunId;
use dflow_shm::SegmentError;
use rustix::io::Errno;
use std::path::PathBuf;

/// Why a request of an attempt cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Shared memory cannot be created or mapped.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The spill directory cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A descriptor cannot be duplicated.
    #[error("cannot hand over a descriptor: {0}; if there are too many, raise the limit with 'ulimit -n'")]
    Descriptor(Errno),
    /// Bytes that were written cannot be read to hash them.
    #[error("cannot read what was written to a stream, to hash it: {0}")]
    Hash(Errno),
    /// A file of a workflow input cannot be opened when a reader comes to it.
    #[error("cannot open the input {path} when it is needed: {source}")]
    Input {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start the {name} thread: {source}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The run is not admitted to this node, or has ended.
    #[error("run {0} is not admitted to this node")]
    Unknown(RunId),
    /// A limit is exceeded, as the message says.
    #[error("{0}")]
    Limit(String),
}

/// Why a run is not admitted to this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The minima of the admitted runs leave too little. There may be room when some of them have ended.
    #[error(
        "the run needs {minimum} bytes of memory for itself, but only {left} of {budget} are not promised to other runs"
    )]
    NoRoom {
        /// The minimum that was asked for, in bytes.
        minimum: u64,
        /// Bytes of the budget that are not guaranteed to other runs.
        left: u64,
        /// The node's budget in bytes.
        budget: u64,
    },
    /// The minimum is too small for any run.
    #[error("a minimum of {minimum} bytes is too little for a run: {least} is the least")]
    TooLittle {
        /// The minimum that was asked for, in bytes.
        minimum: u64,
        /// The smallest minimum, in bytes.
        least: u64,
    },
    /// The cap is below the minimum.
    #[error("the run may use {cap} bytes, less than the {minimum} that it is guaranteed")]
    CapBelowMinimum {
        /// The minimum that was asked for, in bytes.
        minimum: u64,
        /// The cap that was asked for, in bytes.
        cap: u64,
    },
    /// A run with this id is admitted already.
    #[error("run {run} is admitted already")]
    Known {
        /// The run.
        run: RunId,
    },
}

/// Why a run cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum RunFailure {
    /// Its streams wait for memory, and no disk space is left to free any.
    #[error("no stream can go on: {lacked} bytes of memory are missing, and {disk}")]
    NoRoom {
        /// The bytes of memory that its streams wait for.
        lacked: u64,
        /// Why no bytes can be spilled.
        disk: String,
    },
    /// Allocations that its streams cannot do without exceed the budget by more than the overrun.
    #[error(
        "the first bytes and least windows of the run's streams take {used} bytes, and the node can give all runs {most} at \
         the most; use fewer streams at the same time, or raise --memory"
    )]
    Overrun {
        /// Bytes that the run uses.
        used: u64,
        /// The budget and the overrun, in bytes.
        most: u64,
    },
    /// A request of the run cannot be served.
    #[error(transparent)]
    Store(#[from] StoreError),
}
