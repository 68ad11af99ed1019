//! The arguments of `dflow logs`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::Format;
use crate::record;

/// The arguments of `dflow logs`.
#[derive(Debug, Args)]
#[command(after_help = LOGS_HELP)]
pub struct LogsArgs {
    /// The run: its name as shown by `--list`, a prefix of the name, or `last` [default: last]
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// A function, or one of its instances such as `qc[1]`. Without RUN, it is looked up in the last run [default: all]
    #[arg(value_name = "FUNCTION[part]")]
    pub instance: Option<String>,
    /// Show only this attempt, counted from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,
    /// Print logs as they grow, until the run has ended
    #[arg(long, short, conflicts_with = "format")]
    pub follow: bool,
    /// List the recorded runs, each with its name, workflow, end and duration
    #[arg(long, short, conflicts_with_all = ["run", "instance", "attempt", "follow"])]
    pub list: bool,
    /// The directory of the records [default: as for `dflow run`]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, env = record::VARIABLE)]
    pub logs: Option<PathBuf>,
    /// The format on standard output: text for people, or one JSON document
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

const LOGS_HELP: &str = "\
A log is the unchanged standard error of one attempt. An attempt that printed nothing has no log. On a terminal, control \
characters are left out.

Examples:
  dflow logs                                    (everything that the functions of the last run printed)
  dflow logs qc                                 (all instances of the function qc)
  dflow logs 'qc[1]' --attempt 1
  dflow logs --list
  dflow logs 20260131-142501 align              (of the run whose name begins so)
  dflow logs --follow                           (while the run is still running in another terminal)
  dflow logs --format json | jq -r '.logs[].path'

Exit status: 0 success, 2 there is no such run or function, or the command line is wrong.";
