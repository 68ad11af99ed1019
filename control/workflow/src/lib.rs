//! The workflow file: parsed, fully checked, and turned into a [`Workflow`] that holds no errors.
//!
//! Start with [`Workflow::load`] or [`Workflow::parse`]. They report all errors of a file at once as [`Diagnostics`],
//! each with its place, what is wrong and how to fix it. The scheduler, the worker and the command line build on the
//! [`model`]. This crate knows nothing of processes, memory or time, and does no I/O except reading the file.
//!
//! ```
//! use dflow_workflow::Workflow;
//!
//! let errors = Workflow::parse("top.yaml", "
//! workflow: top
//! inputs: [text]
//! functions:
//!   sort: { command: [sort, -r], inputs: [inputs.text] }
//!   head: { command: [head, -n, 3], inputs: [srot.out] }
//! ").unwrap_err();
//! let error = errors.iter().next().unwrap();
//! assert_eq!(error.location().unwrap().to_string(), "6:44");
//! assert_eq!(error.message(), "there is no function `srot`");
//! assert_eq!(error.help().next(), Some("did you mean `sort`?"));
//! ```
//!
//! | file | holds |
//! | --- | --- |
//! | `model`, `expect` | the checked workflow; the run times and sizes that its author expects |
//! | `yaml` | YAML text as a tree with places |
//! | `file` | the shape of the file: every key, its type and its documentation |
//! | `check` | names resolved, rules checked, functions sorted |
//! | `schema` | the JSON Schema of the file, from the types in `file` |
//! | `graph` | the workflow as a picture |
//! | `streams`, `retention`, `params` | questions about a workflow, for the scheduler and the worker |

mod check;
pub mod diagnostics;
mod expect;
mod file;
pub mod graph;
pub mod limits;
mod load;
pub mod model;
#[cfg(test)]
mod mutations;
mod nearest;
mod params;
mod report;
pub mod retention;
mod schema;
mod seen;
mod streams;
pub mod units;
mod yaml;

pub use diagnostics::{Diagnostic, Diagnostics, Location};
pub use expect::{Amount, Expect, ExpectInput};
pub use model::*;
pub use params::ParamError;
pub use retention::{Causes, Retention};
pub use schema::schema;
