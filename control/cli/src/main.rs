//! `dflow`, the one binary: the command line.
//!
//! It translates arguments into calls of `dflow-workflow` and `dflow-worker`, and their results into text for people,
//! JSON for programs, and an exit status. It makes no decisions about runs. The worker starts the same binary again for
//! its helper processes, which a hidden first argument selects.
//!
//! | file | holds |
//! | --- | --- |
//! | `args` | commands, options, units, defaults, help |
//! | `run`, `check`, `graph`, `doctor`, `cluster` | one command each (`cluster` also has `dflow worker`) |
//! | `dry_run` | `dflow run --dry-run` |
//! | `plan` | `dflow plan` |
//! | `completions`, `man` | completions for shells, manual pages |
//! | `logs`, `record` | `dflow logs`; the options for the record of a run |
//! | `file`, `inputs` | the workflow file; `--input` and `--param` |
//! | `progress`, `follow` | the terminal during a run: live panel and the output of functions |
//! | `timeline`, `summary`, `trace` | the report of a run, for people and for trace viewers |
//! | `signals` | the signals that end a run or a worker |
//! | `error`, `exit` | errors of the command line; exit statuses |
//! | `terminal`, `units`, `log` | width, colours, printing; sizes and times; `DFLOW_LOG` |

mod args;
mod check;
mod cluster;
mod completions;
mod doctor;
mod dry_run;
mod error;
mod exit;
mod file;
mod follow;
mod graph;
mod inputs;
mod log;
mod logs;
mod man;
mod plan;
mod progress;
mod record;
mod run;
#[cfg(test)]
mod samples;
mod signals;
mod summary;
mod terminal;
mod timeline;
mod trace;
mod units;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use args::{Cli, Command, Format};
use clap::{CommandFactory, Parser};
use error::CallError;
use exit::Exit;
use terminal::{Look, print, print_error};

fn main() -> ExitCode {
    // Helper processes of the worker start here, before any thread exists and any memory is allocated.
    if let Some(argument) = std::env::args_os().nth(1) {
        if argument == dflow_launcher::ARGUMENT {
            return dflow_launcher::serve();
        }
        if argument == dflow_command::ARGUMENT {
            return dflow_command::main();
        }
    }
    completions::answer(Cli::command);
    let args: Vec<OsString> = std::env::args_os().collect();
    let exit = match Cli::try_parse_from(&args) {
        Ok(cli) => dispatch(cli.command),
        Err(error) => not_parsed(&error, &args),
    };
    exit.unwrap_or_else(|error| {
        print_error(&error::render(
            &Look::of(&io::stderr()),
            &format!("standard output cannot be written: {error}"),
            &[],
        ));
        Exit::Failed
    })
    .into()
}

fn dispatch(command: Command) -> io::Result<Exit> {
    let format = match &command {
        Command::Run(args) => args.format,
        Command::Plan(args) => args.format(),
        Command::Check(args) => args.format,
        Command::Logs(args) => args.format,
        Command::Doctor(args) => args.format,
        Command::Graph(_)
        | Command::Schema
        | Command::Worker(_)
        | Command::Cluster(_)
        | Command::Completions(_)
        | Command::Man(_) => Format::Human,
    };
    if let Err(error) = log::start() {
        return refuse(&error, format);
    }
    match command {
        Command::Run(args) => match run::run(&args) {
            Ok(exit) => exit,
            Err(error) => refuse(&error, format),
        },
        Command::Logs(args) => match logs::logs(&args) {
            Ok(exit) => exit,
            Err(error) => refuse(&error, format),
        },
        Command::Worker(args) => match cluster::worker(&args) {
            Ok(exit) => exit,
            Err(error) => refuse(&error, format),
        },
        Command::Cluster(args) => match cluster::cluster(&args.command) {
            Ok(exit) => exit,
            Err(error) => refuse(&error, format),
        },
        Command::Plan(args) => match plan::plan(&args) {
            Ok(exit) => exit,
            Err(error) => refuse(&error, format),
        },
        Command::Check(args) => check::check(&args),
        Command::Graph(args) => graph::graph(&args),
        Command::Schema => graph::schema(),
        Command::Completions(args) => completions::completions(args.shell),
        Command::Man(args) => match man::man(&args) {
            Ok(exit) => exit,
            Err(error) => refuse(&error, format),
        },
        Command::Doctor(args) => match doctor::doctor(&args) {
            Ok(exit) => exit,
            Err(error) => refuse(&error, format),
        },
    }
}

/// Prints why a command is refused: as text on standard error, and with `--format json` also on standard output.
fn refuse(error: &CallError, format: Format) -> io::Result<Exit> {
    print_error(&error.render(&Look::of(&io::stderr())));
    if format == Format::Json {
        print(&format!("{:#}\n", error.to_json()))?;
    }
    Ok(Exit::Wrong)
}

/// Prints the help if the arguments ask for it, or otherwise what is wrong with them.
fn not_parsed(error: &clap::Error, args: &[OsString]) -> io::Result<Exit> {
    let is_help = !error.use_stderr();
    match error.print() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
        _ => {}
    }
    if is_help {
        return Ok(Exit::Success);
    }
    if args::asks_for_json(args) {
        let reason = error.to_string();
        let reason = reason.trim().trim_start_matches("error: ");
        print(&format!("{:#}\n", serde_json::json!({ "error": { "reason": reason, "help": [] } })))?;
    }
    Ok(Exit::Wrong)
}
