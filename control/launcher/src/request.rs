//! A request of the daemon to start one attempt.

use std::collections::HashSet;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::message::SpawnMessage;
use crate::{Error, MAX_DESCRIPTORS, MAX_STDERR_TAIL, MAX_TARGET};

/// Everything about the main process of an attempt.
#[derive(Debug)]
pub struct SpawnRequest {
    /// The program file. It is not searched for in `PATH`; a relative path starts at `cwd`.
    pub program: PathBuf,
    /// Its arguments. The name of the program, `argv[0]`, comes before them and is `program`.
    pub args: Vec<OsString>,
    /// Its whole environment: nothing is inherited. Names must not be empty nor contain `=`.
    pub env: Vec<(OsString, OsString)>,
    /// The directory in which it starts; `None` for the one in which the daemon was started.
    pub cwd: Option<PathBuf>,
    /// Descriptors with the numbers that they get, each within `0..=`[`MAX_TARGET`]; at most [`MAX_DESCRIPTORS`].
    /// Everything else is closed. Without an entry for 0, standard input is `/dev/null`; standard output (1) and
    /// standard error (2) go to the launcher, which keeps their end.
    pub fds: Vec<(OwnedFd, RawFd)>,
    /// How many of the last bytes of the captured output to keep, at most [`MAX_STDERR_TAIL`].
    pub stderr_tail: usize,
    /// Maximum memory of the attempt, in bytes; beyond it, the kernel kills it. Has no effect where
    /// [`Containment::memory_limits`](crate::Containment::memory_limits) is false.
    pub memory_limit: Option<u64>,
    /// How much earlier (up to 1000) or later (down to -1000, needs privileges) than others the kernel kills it when
    /// the whole machine is out of memory. `None` leaves it as for the daemon.
    pub oom_score_adj: Option<i16>,
}

impl SpawnRequest {
    /// How many bytes of the captured output are kept unless `stderr_tail` says otherwise.
    pub const DEFAULT_STDERR_TAIL: usize = 8 << 10;

    /// A request that runs `program` without arguments, environment and descriptors.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            fds: Vec::new(),
            stderr_tail: Self::DEFAULT_STDERR_TAIL,
            memory_limit: None,
            oom_score_adj: None,
        }
    }

    /// Checks the request and splits it into the encoded message and the descriptors.
    pub(crate) fn into_message(self, id: u64) -> Result<(SpawnMessage, Vec<OwnedFd>), Error> {
        if self.fds.len() > MAX_DESCRIPTORS {
            return Err(Error::TooManyDescriptors(self.fds.len()));
        }
        let mut seen = HashSet::new();
        for &(_, target) in &self.fds {
            if !(0..=MAX_TARGET).contains(&target) {
                return Err(Error::Target(target));
            }
            if !seen.insert(target) {
                return Err(Error::TargetTwice(target));
            }
        }

        let program = c_string("the path of the program", self.program.into_os_string())?;
        let mut argv = vec![program.clone()];
        for argument in self.args {
            argv.push(c_string("an argument", argument)?);
        }
        let mut env = Vec::with_capacity(self.env.len());
        for (name, value) in self.env {
            env.push(variable(&name, &value)?);
        }
        let cwd = self.cwd.map(|cwd| c_string("the working directory", cwd.into_os_string())).transpose()?;
        let (fds, targets) = self.fds.into_iter().unzip();
        let message = SpawnMessage {
            id,
            program,
            argv,
            env,
            cwd,
            targets,
            stderr_tail: self.stderr_tail.min(MAX_STDERR_TAIL) as u32,
            memory_limit: self.memory_limit,
            oom_score_adj: self.oom_score_adj,
        };
        Ok((message, fds))
    }
}

fn variable(name: &OsStr, value: &OsStr) -> Result<CString, Error> {
    if name.is_empty() || name.as_bytes().contains(&b'=') {
        return Err(Error::VariableName(name.to_string_lossy().into_owned()));
    }
    let mut entry = name.to_os_string();
    entry.push("=");
    entry.push(value);
    c_string("an environment variable", entry)
}

fn c_string(what: &'static str, text: OsString) -> Result<CString, Error> {
    CString::new(text.into_vec())
        .map_err(|error| Error::ZeroByte { what, text: String::from_utf8_lossy(&error.into_vec()).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn refused(change: impl FnOnce(&mut SpawnRequest)) -> String {
        let mut request = SpawnRequest::new("/bin/true");
        change(&mut request);
        request.into_message(1).unwrap_err().to_string()
    }

    #[test]
    fn strings_that_cannot_be_passed_are_named() {
        assert!(refused(|r| r.program = "a\0b".into()).contains("the path of the program contains a zero byte"));
        assert!(refused(|r| r.args.push("x\0".into())).contains("an argument contains a zero byte"));
        assert!(refused(|r| r.env.push(("A=B".into(), "c".into()))).contains("`A=B` cannot be the name"));
        assert!(refused(|r| r.env.push(("".into(), "c".into()))).contains("cannot be the name"));
        assert!(refused(|r| r.env.push(("A".into(), "\0".into()))).contains("an environment variable"));
        assert!(refused(|r| r.cwd = Some("/\0".into())).contains("the working directory"));
    }

    #[test]
    fn descriptor_numbers_are_checked() {
        assert!(refused(|r| r.fds.push((null(), -1))).contains("-1 is outside of 0..=1023"));
        assert!(refused(|r| r.fds.push((null(), MAX_TARGET + 1))).contains("1024 is outside"));
        assert!(refused(|r| r.fds.extend([(null(), 4), (null(), 4)])).contains("4 is given twice"));
        let many = |r: &mut SpawnRequest| r.fds.extend((0..251).map(|target| (null(), target)));
        assert!(refused(many).contains("251 descriptors for one attempt"));
    }
}
