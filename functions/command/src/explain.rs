//! Words for what went wrong with the program.

use dflow_function::{ArgPiece, Error, InputSpec, OutputSpec};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// The longest title, in bytes; more is cut.
const MAX_TITLE: usize = 200;

/// The command as a person would type it, without the folder of the program.
pub(crate) fn title(command: &[Vec<ArgPiece>], inputs: &[InputSpec], outputs: &[OutputSpec]) -> String {
    let mut title = String::new();
    for (number, pieces) in command.iter().enumerate() {
        let word: String = pieces
            .iter()
            .map(|piece| match piece {
                ArgPiece::Text(text) => text.clone(),
                ArgPiece::Input(index) => {
                    format!("{{in.{}}}", inputs.get(*index as usize).map_or("?", |spec| &spec.name))
                }
                ArgPiece::Output(index) => {
                    format!("{{out.{}}}", outputs.get(*index as usize).map_or("?", |spec| &spec.name))
                }
            })
            .collect();
        let word = match number {
            0 => Path::new(&word).file_name().map_or(&*word, |name| name.to_str().unwrap_or(&word)),
            _ => {
                title.push(' ');
                &word
            }
        };
        title.push_str(&quoted(word));
        if title.len() > MAX_TITLE {
            title.truncate(title.floor_char_boundary(MAX_TITLE));
            title.push('…');
            break;
        }
    }
    title
}

/// A word as a shell has to read it; the braces of placeholders stay as they are.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-{}".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The program has ended, and not with status 0.
pub(crate) fn ended(title: &str, status: ExitStatus) -> Error {
    let how = match (status.code(), status.signal()) {
        (Some(code @ 126), _) => {
            format!("ended with exit status {code}: a shell says so of a command that it may not run")
        }
        (Some(code @ 127), _) => {
            format!("ended with exit status {code}: a shell says so of a command that it cannot find")
        }
        (Some(code), _) => format!("ended with exit status {code}"),
        (None, Some(9)) => {
            "was killed by SIGKILL: if nobody sent it, the kernel did, for want of memory (see 'dmesg')".into()
        }
        (None, Some(signal)) => format!("was killed by {}", signal_name(signal)),
        (None, None) => format!("ended in an unknown way ({status})"),
    };
    Error::new(format!("`{title}` {how}"))
}

fn signal_name(signal: i32) -> String {
    /// From 1 on.
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let name = usize::try_from(signal).ok().and_then(|signal| NAMES.get(signal.checked_sub(1)?));
    name.map_or_else(|| format!("signal {signal}"), |name| format!("SIG{name}"))
}

/// The program could not be started.
pub(crate) fn not_started(title: &str, program: &Path, error: &io::Error) -> Error {
    let reason = match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => not_found(program),
        Some(Errno::ACCESS) => not_allowed(program),
        Some(Errno::NOEXEC) => "it is not a program of this machine: neither an executable for this processor nor a script \
            whose first line names its interpreter, as in `#!/bin/sh`; name the interpreter in the command, as in [sh, FILE]"
            .to_owned(),
        Some(Errno::TOOBIG) => "its arguments and environment are longer than the kernel passes on (a quarter of the stack \
            limit `ulimit -s`, and 128 KiB for each); pass large data through an input"
            .to_owned(),
        Some(Errno::TXTBSY) => "it is being written at this moment (by a compiler or a copy?); try again".to_owned(),
        Some(Errno::AGAIN) => format!(
            "no further process may be created ({error}); the limit of processes (`ulimit -u`, or pids.max of the cgroup) is \
             reached"
        ),
        Some(Errno::MFILE | Errno::NFILE) => {
            format!("there are no descriptors left ({error}); raise the limit of open files (`ulimit -n`)")
        }
        _ => error.to_string(),
    };
    Error::new(format!("cannot run `{title}`: {}: {reason}", program.display()))
}

fn not_found(program: &Path) -> String {
    match (program.metadata(), interpreter(program)) {
        (Err(_), _) => "there is no such file; is it installed on this machine?".to_owned(),
        (Ok(_), Some(interpreter)) => {
            format!("its first line names the interpreter {}, which does not exist", interpreter.display())
        }
        (Ok(_), None) => {
            "the file exists, but the dynamic loader that it names does not; it was built for another system \
            or another C library"
                .to_owned()
        }
    }
}

fn not_allowed(program: &Path) -> String {
    match program.metadata() {
        Err(error) => format!("it cannot be reached: {error}"),
        Ok(file) if file.is_dir() => "it is a directory, not a program".to_owned(),
        Ok(file) if file.permissions().mode() & 0o111 == 0 => {
            format!(
                "it is not executable (mode {:03o}); make it so with `chmod +x`",
                file.permissions().mode() & 0o7777
            )
        }
        Ok(_) => "this user may not execute it or its interpreter, or its file system is mounted noexec".to_owned(),
    }
}

/// The interpreter that the first line of a script names.
fn interpreter(path: &Path) -> Option<PathBuf> {
    /// The kernel looks no further.
    const LONGEST: usize = 256;
    let mut start = [0; LONGEST];
    let length = File::open(path).ok()?.read(&mut start).ok()?;
    let line = start[..length].strip_prefix(b"#!")?;
    let word = line.split(|byte| byte.is_ascii_whitespace()).find(|word| !word.is_empty())?;
    Some(OsStr::from_bytes(word).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_function::OutputStreams;

    fn titled(command: &[&[ArgPiece]]) -> String {
        let input = InputSpec { name: "text".into(), many: false, keep: false, stdin: false };
        let streams = OutputStreams::Discovered;
        let output = OutputSpec { name: "copy".into(), streams, stdout: false };
        title(&command.iter().map(|pieces| pieces.to_vec()).collect::<Vec<_>>(), &[input], &[output])
    }

    fn text(text: &str) -> ArgPiece {
        ArgPiece::Text(text.into())
    }

    #[test]
    fn a_title_is_what_a_person_would_type() {
        let arguments: [&[ArgPiece]; 6] = [
            &[text("/usr/bin/sort")],
            &[text("-k1,1")],
            &[text("")],
            &[text("it's $1")],
            &[text("--output="), ArgPiece::Output(0)],
            &[ArgPiece::Input(0)],
        ];
        assert_eq!(titled(&arguments), r"sort -k1,1 '' 'it'\''s $1' --output={out.copy} {in.text}");
        assert_eq!(titled(&[&[ArgPiece::Input(7)]]), "'{in.?}'");
        let long = titled(&[&[text("sh")], &[text("-c")], &[text(&"é".repeat(1000))]]);
        assert!(long.ends_with('…') && long.len() <= MAX_TITLE + '…'.len_utf8(), "{long}");
    }

    #[test]
    fn signals_have_names() {
        for (signal, name) in [(1, "SIGHUP"), (9, "SIGKILL"), (11, "SIGSEGV"), (13, "SIGPIPE"), (31, "SIGSYS")] {
            assert_eq!(signal_name(signal), name);
        }
        assert_eq!(signal_name(34), "signal 34");
        assert_eq!(signal_name(0), "signal 0");
    }
}
