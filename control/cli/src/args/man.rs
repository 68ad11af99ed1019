//! The arguments of `dflow man`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// The arguments of `dflow man`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ManArgs {
    /// The directory that the pages are written to; it is created if it does not exist
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
}

const HELP: &str = "\
The pages are dflow.1, one for each command (dflow-run.1, dflow-cluster-create.1, …), and dflow-workflow.5, which \
describes the workflow file.

Examples:
  dflow man pages && man -l pages/dflow-run.1
  dflow man pages && sudo install -Dm644 -t /usr/local/share/man/man1 pages/*.1
  dflow man pages && sudo install -Dm644 -t /usr/local/share/man/man5 pages/*.5

Exit status: 0 success, 2 a page cannot be written.";
