//! `dflow`, the one binary: the command line of everything below it.
//!
//! It turns arguments into calls of `dflow-workflow` and `dflow-worker` and their answers into text for a person, JSON
//! for a program and an exit status. It decides nothing about runs. The same binary is started again by the worker for
//! processes of its own; they are told apart by a hidden first argument.
//!
//! | file | holds |
//! | --- | --- |
//! | `args` | commands, options, units, defaults, help |
//! | `run`, `check`, `graph`, `doctor`, `cluster` | a command each (`cluster` also has `dflow worker`) |
//! | `dry_run` | `dflow run --dry-run`: what a run would do |
//! | `completions`, `man` | completions for shells, manual pages |
//! | `logs`, `record` | what functions printed, in the records of runs; which record a run leaves |
//! | `file`, `inputs` | the workflow file; `--input` and `--param` against what the workflow asks for |
//! | `progress`, `follow` | the live lines while a run goes on, and what functions print |
//! | `timeline`, `summary`, `trace` | what a run has been, for a person and for trace viewers |
//! | `signals` | the signals that end a run or a worker |
//! | `error`, `exit` | why a call is refused; exit statuses |
//! | `terminal`, `units`, `log` | width, colours, printing; sizes and times; the log |

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
use clap::Parser;
use error::CallError;
use exit::Exit;
use terminal::{Look, print, print_error};

fn main() -> ExitCode {
    // Processes that the worker starts: before any thread exists and any memory is taken.
    if let Some(argument) = std::env::args_os().nth(1) {
        if argument == dflow_launcher::ARGUMENT {
            return dflow_launcher::serve();
        }
        if argument == dflow_command::ARGUMENT {
            return dflow_command::main();
        }
    }
    completions::answer();
    let args: Vec<OsString> = std::env::args_os().collect();
    let exit = match Cli::try_parse_from(&args) {
        Ok(cli) => dispatch(cli.command),
        Err(error) => misunderstood(&error, &args),
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
        Command::Check(args) => check::check(&args),
        Command::Graph(args) => graph::graph(&args),
        Command::Schema => graph::schema(),
        Command::Completions(args) => completions::completions(&args),
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

/// Says why a call is refused: on standard error for a person, and on standard output where JSON is expected.
fn refuse(error: &CallError, format: Format) -> io::Result<Exit> {
    print_error(&error.render(&Look::of(&io::stderr())));
    if format == Format::Json {
        print(&format!("{:#}\n", error.to_json()))?;
    }
    Ok(Exit::Wrong)
}

/// Help that was asked for, or what is wrong with the arguments.
fn misunderstood(error: &clap::Error, args: &[OsString]) -> io::Result<Exit> {
    let asked_for = !error.use_stderr();
    match error.print() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
        _ => {}
    }
    if asked_for {
        return Ok(Exit::Success);
    }
    if args::asks_for_json(args) {
        let reason = error.to_string();
        let reason = reason.trim().trim_start_matches("error: ");
        print(&format!("{:#}\n", serde_json::json!({ "error": { "reason": reason, "help": [] } })))?;
    }
    Ok(Exit::Wrong)
}
