//! Why a program could not be started: which step failed, why, and what to do.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::exec::{Failure, Step};
use crate::executable::explain_exec;
use crate::message::SpawnMessage;

/// The parts of a request that appear in error texts.
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
            Step::Session => format!("cannot run `{program}`: it cannot create a session: {error}"),
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
            libc::E2BIG => format!(
                "its arguments and environment take {} bytes, more than the kernel passes on (a quarter of the stack \
                 limit `ulimit -s`, and 128 KiB for each string); pass large data through an input or a file",
                self.strings
            ),
            _ => explain_exec(&path, &error),
        }
    }
}
