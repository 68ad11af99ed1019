//! Why a run or a worker cannot be started.

use crate::input::InputError;
use crate::node::AdmissionError;
use crate::node::error::NodeError;
use crate::node::program::ProgramError;
use crate::node::surroundings::MAX_ENVIRONMENT_BYTES;
use crate::node::unusable::UnusablePrograms;
use crate::options::{BudgetError, LEAST_DESCRIPTORS, LEAST_FILE_SIZE};
use crate::output::OutputError;
use crate::peer::error::ClusterError;
use dflow_scheduler::PlanError;
use std::net::SocketAddr;

/// Why a run cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The run was cancelled before it began.
    #[error("the run was cancelled before it began: {reason}")]
    Cancelled {
        /// Why.
        reason: String,
    },
    /// The data of an input cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Programs of functions do not exist or cannot be executed.
    #[error(transparent)]
    Programs(#[from] UnusablePrograms<ProgramError>),
    /// The environment of `dflow run` is too large to be sent to other nodes.
    #[error(
        "the environment of this call has {bytes} bytes, and at most {MAX_ENVIRONMENT_BYTES} can be sent to the nodes of a \
         run: unset what the functions do not need ('env -u NAME dflow run …')"
    )]
    Environment {
        /// The size of its names and values, in bytes.
        bytes: usize,
    },
    /// The outputs cannot be published at their destination.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The options do not fit the workflow.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The node does not take in the run.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// There is too little memory for streams.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The node cannot be set up.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The limit of open files is too small for any run.
    #[error(
        "this process may open {limit} files, which is too little: dflow needs {LEAST_DESCRIPTORS} at least, and about 5 \
         more for each running instance; raise the limit with 'ulimit -n'"
    )]
    Descriptors {
        /// The hard limit.
        limit: u64,
    },
    /// The limit of the size of files is too small for any run.
    #[error(
        "this process may write files of at most {limit} bytes (ulimit -f), which is too little: memory for streams counts \
         as files, and dflow needs {} MiB at least",
        LEAST_FILE_SIZE >> 20
    )]
    FileSize {
        /// The limit, in bytes.
        limit: u64,
    },
    /// Another node cannot be used.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Metrics cannot be served.
    #[error(
        "cannot serve metrics on TCP {address}: {source}; choose another address or port, or stop the program that uses it"
    )]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The launcher cannot be started.
    #[error(transparent)]
    Launcher(#[from] dflow_launcher::Error),
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    System {
        /// The operation.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl SetupError {
    /// What to do about it, if the text does not say so.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Cluster(error) => error.help(),
            Self::Output(error) => Some(error.help()),
            Self::Input(error) => error.help(),
            Self::FileSize { .. } => Some("raise the limit with 'ulimit -f', as far as its hard limit allows"),
            _ => None,
        }
    }
}
