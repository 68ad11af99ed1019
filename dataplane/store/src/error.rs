//! Why the store cannot do what it should.

use dflow_disk::DiskError;
use dflow_protocol::RunId;
use dflow_shm::SegmentError;
use rustix::io::Errno;
use std::path::PathBuf;

/// Why an attempt or a stream of it cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Shared memory.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The spill directory.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A descriptor cannot be duplicated.
    #[error("cannot hand over a descriptor: {0}; if there are too many, raise the limit with 'ulimit -n'")]
    Descriptor(Errno),
    /// Bytes that were written cannot be read to hash them.
    #[error("cannot read what was written to a stream, to hash it: {0}")]
    Hash(Errno),
    /// A file of a workflow input is opened when a reader comes to it, and cannot be.
    #[error("cannot open the input {path} when it is needed: {source}")]
    Input {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A thread.
    #[error("cannot start the {name} thread: {source}")]
    Thread {
        /// What it would do.
        name: &'static str,
        /// Why there is none.
        source: std::io::Error,
    },
    /// The run is not a guest of this node, or not any more.
    #[error("run {0} is not known here")]
    Unknown(RunId),
    /// Too many of something.
    #[error("{0}")]
    Limit(String),
}

/// Why a run cannot be a guest of this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The minima of the runs that are here leave too little. When some of them have ended, there may be room.
    #[error(
        "the run needs {minimum} bytes of memory for itself, but only {left} of {budget} are not promised to other runs"
    )]
    NoRoom {
        /// What it needs.
        minimum: u64,
        /// What is left.
        left: u64,
        /// The node's budget.
        budget: u64,
    },
    /// A run cannot work with so little.
    #[error("a minimum of {minimum} bytes is too little for a run: {least} is the least")]
    TooLittle {
        /// What was asked for.
        minimum: u64,
        /// The least possible.
        least: u64,
    },
    /// It may not use what it is guaranteed.
    #[error("the run may use {cap} bytes, less than the {minimum} that it is guaranteed")]
    CapBelowMinimum {
        /// What it is guaranteed.
        minimum: u64,
        /// What it may use.
        cap: u64,
    },
    /// It is here already.
    #[error("run {run} is here already")]
    Known {
        /// The run.
        run: RunId,
    },
}

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunFailure {
    /// There is no memory for what its streams must have, and no disk space to make any.
    #[error("no stream can go on: {lacked} bytes of memory are missing, and {disk}")]
    NoRoom {
        /// The bytes that its streams wait for.
        lacked: u64,
        /// Why nothing goes to disk.
        disk: String,
    },
    /// What its streams must have is far more than the budget.
    #[error(
        "the first bytes and least windows of the run's streams take {used} bytes, and the node can give all runs {most} at \
         the most; use fewer streams at the same time, or raise --memory"
    )]
    Overrun {
        /// What the run uses.
        used: u64,
        /// The budget and what is allowed beyond it.
        most: u64,
    },
    /// Something that it needs cannot be had.
    #[error(transparent)]
    Store(#[from] StoreError),
}
