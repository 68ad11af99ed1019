//! The events that the launcher reports to the daemon.

use std::fmt;
use std::time::Duration;

use rkyv::{Archive, Deserialize, Serialize};

use crate::sys::signal_name;

/// What happened to an attempt.
///
/// Each attempt yields either one `SpawnFailed`, or at most one `Spawned`, any number of `Output` and one `Exited`,
/// which is the last. `Spawned` is missing when the attempt was killed before its program ran.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum LauncherEvent {
    /// The program is running: `execve` has succeeded.
    Spawned {
        /// The id given to [`Launcher::spawn`](crate::Launcher::spawn).
        id: u64,
        /// The main process, for display only. It may have ended already: never send it a signal.
        pid: i32,
    },
    /// The program could not be started. No process of the attempt is left, and its id is free again.
    SpawnFailed {
        /// The id given to [`Launcher::spawn`](crate::Launcher::spawn).
        id: u64,
        /// The failure, its reason, and what to do about it.
        error: String,
    },
    /// The attempt has written to its captured standard error (or standard output).
    ///
    /// The launcher stops reading from attempts while the daemon is behind with these events, so a program that writes
    /// faster than the daemon takes it waits in its `write`, and nothing is lost.
    Output {
        /// The id given to [`Launcher::spawn`](crate::Launcher::spawn).
        id: u64,
        /// The bytes, at most [`MAX_OUTPUT_BYTES`](crate::MAX_OUTPUT_BYTES) at a time; they are not split at line ends.
        bytes: Vec<u8>,
    },
    /// The attempt has ended: all of its processes have ended, and its id is free again.
    Exited {
        /// The id given to [`Launcher::spawn`](crate::Launcher::spawn).
        id: u64,
        /// How the main process ended.
        status: ExitStatus,
        /// Whether a process of the attempt was still running at the end of its grace (or the grace was zero), so that
        /// the launcher killed it: see [`Launcher::stop`](crate::Launcher::stop). Processes that remain after the main
        /// process has exited on its own are always killed, and do not count.
        killed: bool,
        /// Whether the kernel killed a process of the attempt because its memory limit was reached. Always false where
        /// [`Containment::memory_limits`](crate::Containment::memory_limits) is false.
        out_of_memory: bool,
        /// The last bytes that were written to the captured standard error (and standard output), at most as many as
        /// [`SpawnRequest::stderr_tail`](crate::SpawnRequest::stderr_tail) says.
        stderr_tail: Vec<u8>,
        /// The total number of bytes written there.
        stderr_bytes: u64,
        /// The resources that the main process used.
        usage: Usage,
    },
}

impl LauncherEvent {
    /// The attempt that the event is about.
    #[must_use]
    pub fn id(&self) -> u64 {
        match self {
            Self::Spawned { id, .. }
            | Self::SpawnFailed { id, .. }
            | Self::Output { id, .. }
            | Self::Exited { id, .. } => *id,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited with this status (0..=255).
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
}

impl ExitStatus {
    /// Whether the process exited with status 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(code) => write!(f, "exit status {code}"),
            Self::Signaled(signal) => match signal_name(signal) {
                Some(name) if signal == libc::SIGXFSZ => {
                    write!(f, "killed by {name} (signal {signal}): it wrote a file larger than 'ulimit -f' allows")
                }
                Some(name) => write!(f, "killed by {name} (signal {signal})"),
                None => write!(f, "killed by signal {signal}"),
            },
        }
    }
}

/// The resources used by a process and by the children that it has waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Archive, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Maximum resident set size of one process, in bytes. Never less than that of the launcher, a few MiB, because the
    /// kernel counts the moments before `execve` as well.
    pub max_rss: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_reads_well() {
        assert_eq!(ExitStatus::Exited(3).to_string(), "exit status 3");
        assert_eq!(ExitStatus::Signaled(libc::SIGSEGV).to_string(), "killed by SIGSEGV (signal 11)");
        assert_eq!(ExitStatus::Signaled(40).to_string(), "killed by signal 40");
        assert!(ExitStatus::Exited(0).success());
        assert!(!ExitStatus::Exited(1).success());
    }
}
