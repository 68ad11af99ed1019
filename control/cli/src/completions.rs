//! `dflow completions`: shell completions.
//!
//! The script that a shell loads calls this binary for each completion ([`answer`]), so the completions always match
//! the installed release, and include the inputs and parameters of the workflow file on the command line.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{self, Path, PathBuf};

use clap::ValueEnum;
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::{Bash, CompleteEnv, EnvCompleter, Fish, Shells, Zsh};
use dflow_workflow::Workflow;

use crate::exit::Exit;
use crate::terminal::print;

/// The environment variable by which this binary recognises calls of the script. clap's default, `COMPLETE`, could be
/// set for another purpose.
const VARIABLE: &str = "DFLOW_COMPLETE";

/// The supported shells.
const SHELLS: Shells<'static> = Shells(&[&Bash, &Zsh, &Fish]);

/// Undoes the splitting of words at `=` by bash.
const JOIN_WORDS: &str = include_str!("completions.bash");

/// A shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// The Bourne-again shell
    Bash,
    /// The Z shell
    Zsh,
    /// The friendly interactive shell
    Fish,
}

/// Prints the script for a shell.
///
/// # Errors
/// If standard output cannot be written.
pub fn completions(shell: Shell) -> io::Result<Exit> {
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "dflow", "dflow", &own_command(), &mut script)?;
    let more = if shell == Shell::Bash { JOIN_WORDS } else { "" };
    print(&format!("{}{more}", String::from_utf8_lossy(&script)))?;
    Ok(Exit::Success)
}

/// Answers a call of the script for this command line and exits; returns at once if the script did not make the call.
pub fn answer(command_line: fn() -> clap::Command) {
    CompleteEnv::with_factory(command_line).var(VARIABLE).shells(SHELLS).complete();
}

/// How the script calls this binary: as the user did, but independent of the current directory.
fn own_command() -> String {
    let called = PathBuf::from(env::args_os().next().unwrap_or_else(|| "dflow".into()));
    let by_path = called.components().count() > 1;
    let command = if by_path { path::absolute(&called).unwrap_or(called) } else { called };
    command.to_string_lossy().into_owned()
}

/// Completes `--input NAME=PATH`.
pub fn inputs(current: &OsStr) -> Vec<CompletionCandidate> {
    let workflow = workflow();
    let names: Vec<&str> = workflow.iter().flat_map(|w| &w.inputs).map(|input| input.name.as_str()).collect();
    let paths = PathCompleter::any().stdio();
    if let Some((name, path)) = split(current)
        && names.contains(&name)
    {
        let candidates = paths.complete(path);
        return candidates.into_iter().map(|candidate| candidate.add_prefix(format!("{name}="))).collect();
    }
    let mut candidates = named(current, names.iter().map(|name| (*name, None)));
    // A path without a name is valid if the workflow has one input; a workflow that cannot be read may have one.
    if names.len() <= 1 {
        candidates.extend(paths.complete(current));
    }
    candidates
}

/// Completes `--param NAME=VALUE`; the value is completed to the default.
pub fn params(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(workflow) = workflow() else { return Vec::new() };
    if let Some((name, value)) = split(current) {
        let default = workflow.params.get(name).and_then(Option::as_ref);
        let fits = default.filter(|default| default.as_bytes().starts_with(value.as_bytes()));
        return fits.map(|default| CompletionCandidate::new(format!("{name}={default}"))).into_iter().collect();
    }
    let params = workflow.params.iter();
    named(current, params.map(|(name, default)| (name.as_str(), default.as_deref())))
}

/// `NAME=` for each name that begins with what was typed, with its default as help.
fn named<'a>(current: &OsStr, names: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Vec<CompletionCandidate> {
    names
        .filter(|(name, _)| name.as_bytes().starts_with(current.as_bytes()))
        .map(|(name, default)| {
            let help = default.map(|default| format!("default {default:?}").into());
            CompletionCandidate::new(format!("{name}=")).help(help)
        })
        .collect()
}

/// Splits a value at its first `=`, if the part before it is UTF-8.
fn split(current: &OsStr) -> Option<(&str, &OsStr)> {
    let bytes = current.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'=')?;
    Some((std::str::from_utf8(&bytes[..at]).ok()?, OsStr::from_bytes(&bytes[at + 1..])))
}

/// The workflow on the command line that is being completed, if there is a valid one. clap passes a completer only the
/// current word; the other words follow `--` in this process's own arguments.
fn workflow() -> Option<Workflow> {
    let words: Vec<OsString> = env::args_os().skip_while(|word| word != "--").skip(1).collect();
    let is_workflow = |word: &&OsString| {
        let path = Path::new(word);
        path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") && path.is_file()
    };
    Workflow::load(Path::new(words.iter().find(is_workflow)?)).ok()
}
