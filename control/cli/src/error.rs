//! Why a command is refused, as text and as JSON. All of these errors end with exit status 2.

use std::path::PathBuf;

use dflow_worker::SetupError;
use dflow_workflow::Diagnostics;
use serde_json::{Value, json};

use crate::inputs::InputError;
use crate::terminal::{Look, Style, clean};

/// Why a command is refused.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The workflow file has errors.
    #[error("{} in the workflow file {}", crate::units::count(.0.iter().count() + .0.omitted(), "error"), .0.file())]
    Workflow(Diagnostics),
    /// The inputs or parameters do not fit the workflow.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The run cannot start.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The file for the trace cannot be written.
    #[error("the trace cannot be written to {path}: {source}")]
    Trace {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A manual page cannot be written.
    #[error("the manual page {path} cannot be written: {source}")]
    Man {
        /// The page, or its directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The result and the report would both go to standard output.
    #[error("with --output - standard output holds the result, and with --format json it holds the report")]
    TwoDocuments,
    /// The address of a node cannot be resolved.
    #[error("the address '{address}' of node '{node}' cannot be used: {source}")]
    Address {
        /// The node.
        node: String,
        /// The address on the command line.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Other nodes are named, but not this node's identity.
    #[error("{option} needs --identity DIR")]
    NoIdentity {
        /// The option that names other nodes.
        option: &'static str,
    },
    /// `--with` names the node of `dflow run` itself.
    #[error("--with names {node}, but --identity {identity} makes this node {node} too")]
    OwnName {
        /// The node.
        node: String,
        /// The directory of its identity.
        identity: PathBuf,
    },
    /// `--place` names a function twice.
    #[error("--place names the function '{function}' twice")]
    PlacedTwice {
        /// The function.
        function: String,
    },
    /// A node is planned twice.
    #[error("--nodes names the node '{node}' twice")]
    NodeTwice {
        /// The node.
        node: String,
    },
    /// A link of a node that does not exist.
    #[error("--link names the node '{node}'; the nodes of this plan are {known}")]
    LinkNode {
        /// The node.
        node: String,
        /// The nodes that there are.
        known: String,
    },
    /// The run cannot be planned.
    #[error(transparent)]
    Plan(#[from] dflow_scheduler::planner::ProblemError),
    /// A certificate cannot be created, read or written.
    #[error(transparent)]
    Identity(#[from] dflow_transport::identity::IdentityError),
    /// The thread that draws the progress cannot be started.
    #[error("cannot start the thread that draws on the terminal: {0}")]
    Screen(std::io::Error),
    /// No directory of records is known.
    #[error("no directory of records: --logs is none, or neither XDG_STATE_HOME nor HOME is set")]
    NoRecordDirectory,
    /// The records cannot be read.
    #[error("the records of runs in {path} cannot be read: {source}")]
    Records {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no record of any run.
    #[error("there is no record of a run in {path}")]
    NoRecords {
        /// The directory.
        path: PathBuf,
    },
    /// No recorded run has this name or prefix.
    #[error("there is no record of a run whose name begins with '{run}'")]
    UnknownRun {
        /// The name or prefix on the command line.
        run: String,
    },
    /// Several recorded runs have this prefix.
    #[error("the names of {} begin with '{run}'", crate::units::count(*count, "run"))]
    ManyRuns {
        /// The prefix on the command line.
        run: String,
        /// The number of runs.
        count: usize,
    },
    /// The directory of the records does not exist.
    #[error("there is no directory {path}, so there is no record of a run")]
    NoSuchDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// No function or instance that the command line names had such an attempt.
    #[error("no attempt {attempt} was made of {of} in the run {run}")]
    UnknownAttempt {
        /// The run.
        run: String,
        /// The function or instance on the command line, or any function.
        of: String,
        /// The attempt on the command line.
        attempt: u32,
        /// The last attempt that was made.
        last: u32,
    },
    /// The run has no such function or instance.
    #[error("the run {run} has no logs of a function or instance '{instance}'")]
    UnknownInstance {
        /// The run.
        run: String,
        /// The function or instance on the command line.
        instance: String,
    },
    /// The signal handlers cannot be installed.
    #[error("cannot install signal handlers: {0}")]
    Signals(std::io::Error),
    /// `DFLOW_LOG` is not a valid filter.
    #[error("DFLOW_LOG is not a log filter: {0}")]
    Log(String),
}

impl CallError {
    /// What to do about it, one line each.
    pub fn help(&self) -> Vec<String> {
        match self {
            Self::Input(error) => error.help(),
            Self::Trace { .. } => vec!["name a file in an existing, writable directory".into()],
            Self::Man { .. } => vec!["name a writable directory".into()],
            Self::Log(_) => {
                vec!["use off, error, warn, info, debug or trace, or a list such as info,dflow_worker=debug".into()]
            }
            Self::Address { .. } => vec!["write it as ADDRESS:PORT, as in 10.0.0.2:7411 or [fe80::2]:7411".into()],
            Self::TwoDocuments => vec!["name a directory with --output, or leave out --format json".into()],
            Self::NoIdentity { .. } => vec!["`dflow cluster create` makes it".into()],
            Self::OwnName { .. } => vec!["give each node an identity of its own: `dflow cluster add`".into()],
            Self::PlacedTwice { function } => {
                vec![format!("name all its nodes in one option, as in --place {function}=a,b")]
            }
            Self::NodeTwice { .. } => vec!["give each node a name of its own, as in --nodes a=4,b=4".into()],
            Self::NoRecordDirectory => vec!["name the directory of the records with --logs DIR".into()],
            Self::NoSuchDirectory { .. } | Self::NoRecords { .. } => {
                vec!["`dflow run` writes one; name another directory with --logs DIR".into()]
            }
            Self::UnknownRun { .. } | Self::ManyRuns { .. } => vec!["`dflow logs --list` lists all runs".into()],
            Self::UnknownAttempt { last: 1, .. } => vec!["there was one: --attempt 1".into()],
            Self::UnknownAttempt { last, .. } => vec![format!("there were {last}: --attempt 1 to --attempt {last}")],
            Self::UnknownInstance { .. } => vec!["`dflow logs RUN` shows all logs of the run".into()],
            Self::Setup(error) => error.help().map(str::to_owned).into_iter().collect(),
            Self::Workflow(_)
            | Self::Identity(_)
            | Self::LinkNode { .. }
            | Self::Plan(_)
            | Self::Records { .. }
            | Self::Screen(_)
            | Self::Signals(_) => Vec::new(),
        }
    }

    /// The error as text, with a line feed at its end.
    pub fn render(&self, look: &Look) -> String {
        match self {
            Self::Workflow(diagnostics) => diagnostics.render(look.color) + "\n",
            _ => render(look, &self.to_string(), &self.help()),
        }
    }

    /// The error as JSON: `{"error": {"reason": …, "help": […]}}`, for a workflow file also with `diagnostics`.
    pub fn to_json(&self) -> Value {
        let mut error = json!({ "reason": self.to_string(), "help": self.help() });
        if let Self::Workflow(diagnostics) = self {
            error["diagnostics"] = list(diagnostics);
        }
        json!({ "error": error })
    }
}

/// An error as text: what is wrong, then what to do about it.
pub fn render(look: &Look, reason: &str, help: &[String]) -> String {
    let mut lines = reason.lines();
    let mut text = format!("{}: {}\n", look.paint(Style::Red, "error"), clean(lines.next().unwrap_or_default()));
    for line in lines {
        text.push_str(&format!("  {}\n", clean(line)));
    }
    for line in help {
        text.push_str(&format!("{}: {}\n", look.paint(Style::Cyan, "help"), clean(line)));
    }
    text
}

/// A note as text: something that is not an error, but that the user should know.
pub fn render_note(look: &Look, text: &str) -> String {
    format!("{}: {}\n", look.paint(Style::Yellow, "note"), clean(text))
}

/// The errors of a workflow file as a JSON list.
pub fn list(diagnostics: &Diagnostics) -> Value {
    let one = |diagnostic: &dflow_workflow::Diagnostic| {
        json!({
            "line": diagnostic.location().map(|location| location.line),
            "column": diagnostic.location().map(|location| location.column),
            "message": diagnostic.message(),
            "label": diagnostic.label(),
            "help": diagnostic.help().collect::<Vec<_>>(),
        })
    };
    diagnostics.iter().map(one).collect()
}
