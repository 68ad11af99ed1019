//! Why a call is refused, for a person and as JSON. All of these end with exit status 2.

use std::path::PathBuf;

use dflow_worker::SetupError;
use dflow_workflow::{Diagnostics, ParamError};
use serde_json::{Value, json};

use crate::inputs::InputError;
use crate::terminal::{Look, Style, clean};

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Something in the workflow file is wrong.
    #[error("{} in the workflow file {}", crate::units::count(.0.iter().count() + .0.omitted(), "error"), .0.file())]
    Workflow(Diagnostics),
    /// The inputs do not fit the workflow.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The parameters do not fit the workflow.
    #[error(transparent)]
    Param(#[from] ParamError),
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
    /// A node's address.
    #[error("the address '{address}' of node '{node}' cannot be used: {source}")]
    Address {
        /// The node.
        node: String,
        /// What was given.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Two placements of one function.
    #[error("the function '{function}' is placed twice")]
    PlacedTwice {
        /// The function.
        function: String,
    },
    /// A certificate.
    #[error(transparent)]
    Identity(#[from] dflow_transport::identity::IdentityError),
    /// The thread that draws.
    #[error("cannot start the thread that draws on the terminal: {0}")]
    Screen(std::io::Error),
    /// There is no folder for records.
    #[error("there are no records of runs: neither XDG_STATE_HOME nor HOME names a folder, or --logs says none")]
    NoRecordFolder,
    /// The records cannot be read.
    #[error("the records of runs in {path} cannot be read: {source}")]
    Records {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no record.
    #[error("there is no record of a run in {path}")]
    NoRecords {
        /// The folder.
        path: PathBuf,
    },
    /// There is no such run.
    #[error("there is no record of a run whose name begins with '{run}'")]
    UnknownRun {
        /// What was given.
        run: String,
    },
    /// There are several.
    #[error("the names of {} begin with '{run}'", crate::logs::runs(*count))]
    ManyRuns {
        /// What was given.
        run: String,
        /// How many.
        count: usize,
    },
    /// There is no such function or instance.
    #[error("nothing that is called '{instance}' has printed anything in the run {run}")]
    UnknownInstance {
        /// The run.
        run: String,
        /// What was given.
        instance: String,
    },
    /// Signals cannot be watched for.
    #[error("cannot watch for signals: {0}")]
    Signals(std::io::Error),
    /// `DFLOW_LOG` is no filter.
    #[error("DFLOW_LOG is not a log filter: {0}")]
    Log(String),
}

impl CallError {
    /// What to do about it, a line each.
    pub fn help(&self) -> Vec<String> {
        match self {
            Self::Input(error) => error.help(),
            Self::Trace { .. } => vec!["name a file in a folder that exists and that you may write to".into()],
            Self::Man { .. } => vec!["name a directory that you may write to".into()],
            Self::Log(_) => {
                vec!["use off, error, warn, info, debug or trace, or a list such as info,dflow_worker=debug".into()]
            }
            Self::Address { .. } => vec!["write it as ADDRESS:PORT, as in 10.0.0.2:7411 or [fe80::2]:7411".into()],
            Self::TwoDocuments => vec!["name a folder with --output, or leave out --format json".into()],
            Self::PlacedTwice { function } => {
                vec![format!("name all its nodes at once, as in --place {function}=a,b")]
            }
            Self::NoRecordFolder => vec!["name the folder of the records with --logs DIR".into()],
            Self::NoRecords { .. } => vec!["`dflow run` leaves one; name another folder with --logs DIR".into()],
            Self::UnknownRun { .. } | Self::ManyRuns { .. } => vec!["`dflow logs --list` shows all runs".into()],
            Self::UnknownInstance { .. } => vec!["`dflow logs RUN` shows everything that was printed".into()],
            Self::Setup(error) => error.help().map(str::to_owned).into_iter().collect(),
            Self::Workflow(_)
            | Self::Param(_)
            | Self::Identity(_)
            | Self::Records { .. }
            | Self::Screen(_)
            | Self::Signals(_) => Vec::new(),
        }
    }

    /// The text for a person, with a line feed at its end.
    pub fn render(&self, look: &Look) -> String {
        match self {
            Self::Workflow(diagnostics) => diagnostics.render(look.color) + "\n",
            _ => render(look, &self.to_string(), &self.help()),
        }
    }

    /// The JSON document: `{"error": {"reason": …, "help": […]}}`, for a workflow file also with `diagnostics`.
    pub fn to_json(&self) -> Value {
        let mut error = json!({ "reason": self.to_string(), "help": self.help() });
        if let Self::Workflow(diagnostics) = self {
            error["diagnostics"] = list(diagnostics);
        }
        json!({ "error": error })
    }
}

/// An error for a person: what is wrong, then what to do about it.
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

/// Something that is not wrong, and that a person should know.
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
