//! How the processes of an attempt are held together.

use std::fmt;
use std::path::PathBuf;

/// Which containment the launcher is to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContainmentChoice {
    /// A cgroup where the machine allows it, else a subreaper.
    #[default]
    Auto,
    /// A cgroup; the launcher does not start without.
    Cgroup,
    /// A subreaper, even where a cgroup is possible.
    Subreaper,
}

/// The containment that the launcher uses, chosen when it started.
///
/// With either, every process that an attempt starts belongs to it for good: a second session, a double fork or an
/// ignored signal does not help it to escape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Containment {
    /// Each attempt is born into a cgroup (version 2) of its own, which the kernel kills as one.
    Cgroup {
        /// The launcher's cgroup, the parent of those of the attempts.
        directory: PathBuf,
        /// Why a memory limit of an attempt cannot be enforced; `None` when it can.
        no_memory_limits: Option<String>,
    },
    /// Each attempt has a process of its own above it, to which the kernel gives all orphans of the attempt, and which
    /// kills its children until none is left. Unlike with a cgroup, a program that keeps forking faster than it can be
    /// killed may survive for a while, and so may one that runs as another user.
    Subreaper {
        /// Why it is not a cgroup.
        reason: String,
    },
}

impl Containment {
    /// Whether [`SpawnRequest::memory_limit`](crate::SpawnRequest::memory_limit) is enforced.
    #[must_use]
    pub fn memory_limits(&self) -> bool {
        matches!(self, Self::Cgroup { no_memory_limits: None, .. })
    }

    /// One or two lines for a person, as `dflow doctor` shows them.
    #[must_use]
    pub fn describe(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Containment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup { directory, no_memory_limits } => {
                writeln!(f, "attempts are contained by cgroups below {}", directory.display())?;
                match no_memory_limits {
                    None => write!(f, "memory limits of functions are enforced"),
                    Some(reason) => write!(f, "memory limits of functions are not enforced: {reason}"),
                }
            }
            Self::Subreaper { reason } => {
                writeln!(f, "attempts are contained by a subreaper process each: {reason}")?;
                write!(f, "memory limits of functions are not enforced: that takes cgroups")
            }
        }
    }
}
