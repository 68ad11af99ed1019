//! The node: the process that owns a store, drives a run's scheduler and starts the functions' processes.
//!
//! The deciders are elsewhere and know no clock: `dflow-scheduler` says which instance starts when, `dflow-store` which
//! stream gets which memory. This crate is the edge between them and the world: channels to attempts, the launcher,
//! timers, files. Signals are its caller's, who ends a run with a [`Canceller`]. [`run()`] runs one workflow on this machine; `dflow` is the command line around it.

mod attempt;
mod cancel;
mod check;
mod cluster;
mod connection;
mod doctor;
mod finish;
mod input;
mod journal;
pub mod logs;
mod metrics;
mod node;
mod nodes;
mod options;
mod order;
mod output;
mod parts;
mod perform;
mod placement;
mod preview;
mod program;
pub mod report;
mod run;
mod sink;
mod surroundings;

pub use cancel::{Cancellation, Canceller, cancellation};
pub use check::{Prepared, RunSpec, SetupError, prepare};
pub use cluster::{
    ClusterError, ClusterSpec, DEFAULT_SILENCE, Listening, MAX_SILENCE, MIN_SILENCE, PathTrial, PeerRdma, PeerReport,
    Problem, Rates, ServeOptions, examine_peers, serve,
};
pub use dflow_shm::Idle;
pub use dflow_transport::RdmaUse;
pub use doctor::{Finding, Health, doctor};
pub use input::InputError;
pub use journal::{Output, Update};
pub use node::AdmissionError;
pub use options::{DEFAULT_SPIN, NodeOptions, cores, memory_limit};
pub use output::{OutputError, OutputTarget};
pub use preview::{FunctionPreview, InputPreview, NodePreview, OutputPreview, RunPreview, preview};
pub use program::ProgramError;
pub use run::run;
