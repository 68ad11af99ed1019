//! Why a program could not be started, in words that help: the kernel's error number alone says "no such file" of a
//! script that exists.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::exec::{Failure, Step};
use crate::message::SpawnMessage;

/// What the error text needs to know about a request.
#[derive(Debug)]
pub(crate) struct Subject {
    program: PathBuf,
    cwd: Option<PathBuf>,
    /// Length of the arguments and of the environment with their terminators.
    strings: usize,
}

impl Subject {
    pub(crate) fn of(message: &SpawnMessage) -> Self {
        let path = |text: &CStr| PathBuf::from(OsStr::from_bytes(text.to_bytes()));
        let strings = message.argv.iter().chain(&message.env);
        Self {
            program: path(&message.program),
            cwd: message.cwd.as_deref().map(path),
            strings: strings.map(|string| string.as_bytes_with_nul().len()).sum(),
        }
    }

    /// A sentence that names the program, the failure, its reason and the remedy.
    pub(crate) fn explain(&self, failure: Failure) -> String {
        let program = self.program.display();
        let error = io::Error::from_raw_os_error(failure.errno);
        match failure.step {
            Step::Exec => format!("cannot run `{program}`: {}", self.explain_exec(failure.errno)),
            Step::Directory => {
                let cwd = self.cwd.as_deref().unwrap_or(Path::new("."));
                format!("cannot run `{program}`: its working directory `{}` cannot be entered: {error}", cwd.display())
            }
            Step::Descriptors => format!(
                "cannot run `{program}`: its descriptors cannot be put in place: {error}; is the limit of open files \
                 (`ulimit -n`) large enough?"
            ),
            Step::Memory => {
                format!("cannot run `{program}`: it cannot be moved to the cgroup that limits its memory: {error}")
            }
            Step::OomScore => format!(
                "cannot run `{program}`: its oom_score_adj cannot be set: {error}; values below the daemon's own need \
                 privileges"
            ),
            Step::Session => format!("cannot run `{program}`: it cannot get a session of its own: {error}"),
            Step::Fork => self.explain_create(&error),
        }
    }

    /// The same for a limit of memory that cannot be set.
    pub(crate) fn explain_memory(&self, limit: u64, error: &io::Error) -> String {
        format!("cannot run `{}`: its memory cannot be limited to {limit} bytes: {error}", self.program.display())
    }

    /// The same for an error before there was a process.
    pub(crate) fn explain_create(&self, error: &io::Error) -> String {
        let program = self.program.display();
        match error.raw_os_error() {
            Some(libc::EAGAIN) => format!(
                "cannot run `{program}`: no further process may be created ({error}); the limit of processes \
                 (`ulimit -u`, or pids.max of the cgroup) is reached"
            ),
            Some(libc::EMFILE | libc::ENFILE) => format!(
                "cannot run `{program}`: the launcher has no free descriptor ({error}); raise the limit of open files \
                 (`ulimit -n`)"
            ),
            _ => format!("cannot run `{program}`: no process can be created for it: {error}"),
        }
    }

    fn explain_exec(&self, errno: i32) -> String {
        let error = io::Error::from_raw_os_error(errno);
        let path = match &self.cwd {
            Some(cwd) => cwd.join(&self.program),
            None => self.program.clone(),
        };
        match errno {
            libc::ENOENT | libc::ENOTDIR => match (path.metadata(), interpreter(&path)) {
                (Err(_), _) => "there is no such file".to_owned(),
                (Ok(_), Some(interpreter)) => {
                    format!("its first line names the interpreter `{}`, which does not exist", interpreter.display())
                }
                (Ok(_), None) => "the file exists, but the dynamic loader that it names does not; it was built for \
                     another system or another C library"
                    .to_owned(),
            },
            libc::EACCES => match path.metadata() {
                Err(error) => format!("it cannot be reached: {error}"),
                Ok(file) if file.is_dir() => "it is a directory, not a program".to_owned(),
                Ok(file) if !file.is_file() => "it is not a regular file".to_owned(),
                Ok(file) if file.permissions().mode() & 0o111 == 0 => format!(
                    "it is not executable (mode {:03o}); make it so with `chmod +x`",
                    file.permissions().mode() & 0o7777
                ),
                Ok(_) => match interpreter(&path) {
                    Some(interpreter) => format!(
                        "neither it nor its interpreter `{}` may be without execute permission for this user, nor lie \
                         on a file system mounted noexec",
                        interpreter.display()
                    ),
                    None => "this user may not execute it, or its file system is mounted noexec".to_owned(),
                },
            },
            libc::ENOEXEC => "it is not a program of this machine: neither an executable for this processor nor a \
                 script whose first line names its interpreter, as in `#!/bin/sh`"
                .to_owned(),
            libc::E2BIG => format!(
                "its arguments and environment take {} bytes, more than the kernel passes on (a quarter of the stack \
                 limit `ulimit -s`, and 128 KiB for each string); pass large data through an input or a file",
                self.strings
            ),
            libc::ETXTBSY => "it is being written at this moment (by a compiler or a copy?); try again".to_owned(),
            libc::ENOMEM => format!("there is not enough memory: {error}"),
            libc::ELOOP => "its path, or that of its interpreter, has too many symbolic links".to_owned(),
            _ => error.to_string(),
        }
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

    #[test]
    fn the_interpreter_is_read_from_the_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        for (text, expected) in [
            ("#!/bin/sh\nexit", Some("/bin/sh")),
            ("#! /usr/bin/env python3\n", Some("/usr/bin/env")),
            ("#!", None),
            ("echo", None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(interpreter(&path), expected.map(PathBuf::from), "{text}");
        }
        assert_eq!(interpreter(&folder.path().join("missing")), None);
    }
}
