//! The node: the process that owns a store, drives a run's scheduler and starts the functions' processes.
//!
//! The deciders are elsewhere and know no clock: `dflow-scheduler` says which instance starts when, `dflow-store` which
//! stream gets which memory. This crate is the edge between them and the world: channels to attempts, the launcher,
//! timers, files. Its caller handles signals, and ends a run with a [`Canceller`]. [`run()`] runs one workflow on this
//! machine; `dflow` is the command line around it.
//!
//! From the ground up, each row using only those above it:
//!
//! | module | holds |
//! | --- | --- |
//! | `options`, `spec`, `order`, `notice`, `report`, `logs`, `profiles` | what is asked for, said and written down |
//! | `input`, `output` | files of a run: which are data, and what a run may replace |
//! | `peer` | other processes: names, connections, messages |
//! | `node` | what the node owns, and its guests, the runs |
//! | `metrics` | what a node has counted, for Prometheus |
//! | `part` | the part of a run on one node: its scheduler, and what follows from its decisions |
//! | `cluster` | a node that serves runs of others; probes |
//! | `driver` | a run: checks before it, the loop of it, its report |

mod cancel;
mod cluster;
mod doctor;
mod driver;
mod error;
mod input;
pub mod logs;
mod metrics;
mod node;
mod notice;
mod options;
mod order;
mod output;
mod part;
mod peer;
pub mod profiles;
pub mod report;
mod setup;
mod spec;
mod time;

pub use cancel::{Cancellation, Canceller, cancellation};

pub use cluster::{Listening, PathTrial, PeerRdma, PeerReport, Rates, ServeOptions, examine_peers, serve};
pub use dflow_shm::Idle;
pub use dflow_transport::RdmaUse;
pub use doctor::{Finding, Health, doctor};
pub use driver::journal::{Output, Update};
pub use driver::local::LocalNode;
pub use driver::preflight::{Prepared, prepare};
pub use driver::preview::{FunctionPreview, InputPreview, NodePreview, OutputPreview, RunPreview, preview};
pub use driver::run;
pub use error::SetupError;
pub use input::{InputError, input_sizes};
pub use node::AdmissionError;
pub use node::error::NodeError;
pub use node::program::ProgramError;
pub use node::unusable::UnusablePrograms;
pub use options::{BudgetError, DEFAULT_SPIN, NodeOptions, cores, memory_limit};
pub use output::{OutputError, OutputTarget};
pub use peer::error::ClusterError;
pub use peer::problem::Problem;
pub use peer::spec::{ClusterSpec, DEFAULT_SILENCE, MAX_SILENCE, MIN_SILENCE};
pub use spec::RunSpec;
