//! The command line: every command, option, unit and default, and the help that states them.
//!
//! | file | holds |
//! | --- | --- |
//! | `run` | `dflow run`: options of the run, of its record, of the other nodes |
//! | `plan`, `logs`, `doctor`, `completions`, `man` | the options of the other commands |
//! | `check`, `cluster` | the same; `check` has `graph` too, `cluster` has `worker` |
//! | `node` | the resources of a node, which several commands share |
//! | `values` | parsers of option values |

mod check;
mod cluster;
mod completions;
mod doctor;
mod logs;
mod man;
mod node;
mod plan;
mod run;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;

use clap::{Parser, Subcommand, ValueEnum};

pub use check::{CheckArgs, GraphArgs, GraphFormat};
pub use cluster::{ClusterArgs, ClusterCommand, WorkerArgs};
pub use completions::CompletionsArgs;
pub use doctor::DoctorArgs;
pub use logs::LogsArgs;
pub use man::ManArgs;
pub use node::NodeArgs;
pub use plan::PlanArgs;
pub use run::{RecordArgs, RunArgs, RunClusterArgs};

/// Runs workflows of functions by their data: a function starts as soon as the first bytes of its input exist.
#[derive(Debug, Parser)]
#[command(name = "dflow", version, arg_required_else_help = true, after_help = AFTER_HELP, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  dflow check wordcount.yaml
  dflow run wordcount.yaml --input text=book.txt
  dflow plan wordcount.yaml --nodes a=4,b=4
  dflow graph wordcount.yaml --format dot | dot -Tsvg > wordcount.svg
  dflow doctor

Exit status: 0 success, 1 the run failed, 2 the command line or the workflow file is wrong, 129, 130 or 143 ended by \
SIGHUP, SIGINT (Ctrl-C) or SIGTERM.
Environment: DFLOW_LOG=info (or debug, or dflow_worker=debug,…) logs to standard error and turns off the live progress; \
NO_COLOR turns off colours; COLUMNS sets the width of the timeline.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a workflow
    Run(Box<RunArgs>),
    /// Show what the functions of a run printed, or list the recorded runs
    Logs(LogsArgs),
    /// Check a workflow file for errors without running it
    Check(CheckArgs),
    /// Show where the functions of a workflow should run, and what the run will look like
    Plan(Box<PlanArgs>),
    /// Print the graph of a workflow for Mermaid or Graphviz
    Graph(GraphArgs),
    /// Print the JSON Schema of the workflow file, for editors
    #[command(after_help = SCHEMA_HELP)]
    Schema,
    /// Serve runs of `dflow run` on other machines
    Worker(WorkerArgs),
    /// Create the certificates with which the nodes of a cluster authenticate each other
    Cluster(ClusterArgs),
    /// Examine this machine or the connection to another node, and explain how to improve it
    Doctor(DoctorArgs),
    /// Print the completion script for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages
    Man(ManArgs),
}

const SCHEMA_HELP: &str = "\
Examples:
  dflow schema > dflow.schema.json
  and as the first line of a workflow file, for editors with the YAML language server:
  # yaml-language-server: $schema=./dflow.schema.json

Exit status: 0.";

/// The format of standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people
    Human,
    /// One JSON document
    Json,
}

/// Whether arguments that cannot be parsed ask for JSON, so that the error is printed as JSON too.
pub fn asks_for_json(args: &[OsString]) -> bool {
    args.iter().any(|arg| arg == "--format=json" || arg == "--json")
        || args.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json")
}
