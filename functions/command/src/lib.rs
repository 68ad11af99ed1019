//! The adapter that makes any existing program a function of a workflow (`command: ["sort", "-k1,1"]`).
//!
//! The daemon starts the `dflow` binary with the first argument [`ARGUMENT`]; [`main`] is then a function like any
//! other, which links `dflow-function`, the SDK. It starts the program and moves bytes between the program's pipes and
//! the function's streams: one `write(2)` from each borrowed chunk, one `read(2)` into each reserved room, and no other
//! copy. Each stream has its own thread.
//!
//! # The program's files
//! - *Standard input*: a pipe; the streams of a fan-in follow one after the other. If no input is the standard input,
//!   `/dev/null`.
//! - *Standard output*: a pipe. If no output is the standard output, it is the same as standard error, which the daemon
//!   captures.
//! - *Other inputs and outputs*: `{in.NAME}` and `{out.NAME}` in its arguments become paths, `/dev/fd/N`, of pipes that
//!   it inherits. A list of streams becomes one argument for each stream, once their number is known.
//! - *Kept inputs* (`keep: true` or `gate: whole`): a pipe cannot be read twice, nor from its end. A kept input is
//!   therefore a regular file (unnamed, in `$TMPDIR` or `/tmp`), both as standard input and under its path, and the
//!   program starts when the file is complete.
//!
//! An output is always a pipe. A program that seeks in its output, or renames a file over it, must write to a temporary
//! file first: `sh -c 'zip "$TMPDIR/all.zip" … && cat "$TMPDIR/all.zip"'`.
//!
//! # How it ends
//! The function succeeds if the program exits with an accepted status (0, or one listed in `success` in the file); only
//! then are its outputs finished. As in a shell's pipeline, an output ends when the last process that has it open ends,
//! which may be one that the program has left behind.
//!
//! Processes that the program has left behind and that hold its outputs open are named, and hold no slot. For time
//! limits, the program counts as computing while it uses a processor, whatever its streams wait for; otherwise it
//! counts as waiting for the same as its streams.
//!
//! SIGTERM is meant for the program: once the program runs, the adapter ignores the signal and ends after the program,
//! so that everything that the program writes while it cleans up has a reader.
//!
//! A program that stops reading, as `head` does, is not an error. When none of the program's outputs has a reader left,
//! its pipes are closed, so that it gets SIGPIPE, and the function ends as unread, whatever the status. While one of
//! them still has a reader, the program continues, and its other outputs are discarded.

mod activity;
mod connect;
mod drain;
mod explain;
mod feed;
mod helpers;
mod kept;
mod pipe;
mod program;

use connect::Connections;
use dflow_function::{Context, Error};
use program::{Ends, Program};
use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The first argument with which the `dflow` binary becomes the adapter. The second, if there is one, is the path of
/// the program; without it, the program is the first argument of the function's command, which must then be a path. The
/// third, if there is one, lists the exit statuses that count as success, separated by commas. The fourth is the grace
/// in milliseconds.
pub const ARGUMENT: &str = "__command";

/// The adapter exits with this status plus the number of the signal that ended its program, like a shell.
pub const SIGNALED: i32 = 128;

/// The arguments with which the `dflow` binary runs this program as a function. Only the statuses in `success` count as
/// success. When one of its streams fails, the program gets SIGTERM, and is killed after `grace`.
#[must_use]
pub fn arguments(program: &OsStr, success: &[u8], grace: Duration) -> Vec<OsString> {
    let success: Vec<String> = success.iter().map(u8::to_string).collect();
    vec![ARGUMENT.into(), program.into(), success.join(",").into(), grace.as_millis().to_string().into()]
}

/// Runs the program of the function that the daemon describes; for a process that was started for nothing else.
///
/// It also prints an error to standard error, in addition to reporting it to the daemon.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(2);
    let program = arguments.next().map(PathBuf::from);
    let success = arguments.next().map_or_else(|| vec![0], |statuses| parse_statuses(&statuses));
    let grace =
        arguments.next().and_then(|grace| grace.to_str()?.parse().ok()).map_or(Duration::ZERO, Duration::from_millis);
    let signal = Cell::new(None);
    let code = dflow_function::run_under_daemon(|ctx| execute(ctx, program, Ends { success, grace }, &signal));
    match signal.get().and_then(|signal| u8::try_from(SIGNALED + signal).ok()) {
        Some(status) => ExitCode::from(status),
        None => code,
    }
}

fn parse_statuses(statuses: &OsStr) -> Vec<i32> {
    statuses.to_str().unwrap_or_default().split(',').filter_map(|status| status.parse().ok()).collect()
}

/// The work of the function. If it fails, the program has ended; `signal` is then the signal that ended it, if one did.
fn execute(ctx: &mut Context, program: Option<PathBuf>, ends: Ends, signal: &Cell<Option<i32>>) -> Result<(), Error> {
    let setup = ctx.setup();
    let Some(command) = setup.command.clone() else {
        return Err(Error::new(format!("'{}' was started as a command, but has no arguments to run", setup.instance)));
    };
    let title = explain::title(&command, &setup.inputs, &setup.outputs);
    let connections = Connections::make(ctx, &command)?;
    let session = ctx.session();
    // If the daemon is gone, its launcher ends this process.
    let tell = |state| drop(session.tell_program_state(state));
    Program::start(program, title, ends, connections)?.finish(&tell, signal)
}
