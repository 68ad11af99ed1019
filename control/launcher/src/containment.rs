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
/// With either kind, every process that an attempt starts belongs to it for good: a second session, a double fork or an
/// ignored signal does not help it to escape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containment {
    /// How the processes of an attempt are held together.
    pub kind: ContainmentKind,
    /// How their memory is limited.
    pub memory: MemoryLimits,
}

/// How the processes of an attempt are held together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainmentKind {
    /// Each attempt is born into a cgroup (version 2) of its own, which the kernel kills as one.
    Cgroup {
        /// The launcher's cgroup, the parent of those of the attempts.
        directory: PathBuf,
    },
    /// Each attempt has a process of its own above it, to which the kernel gives all orphans of the attempt, and which
    /// kills its children until none is left. Unlike with a cgroup, a program that keeps forking faster than it can be
    /// killed may survive for a while, and so may one that runs as another user.
    Subreaper {
        /// Why it is not a cgroup.
        reason: String,
    },
}

/// How the memory of an attempt is limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryLimits {
    /// By the cgroup (version 2) that holds the attempt.
    Unified,
    /// By a cgroup of the memory controller of version 1.
    Version1 {
        /// The launcher's cgroup there, the parent of those of the attempts.
        directory: PathBuf,
    },
    /// Not at all.
    None {
        /// Why.
        reason: String,
    },
}

impl Containment {
    /// Whether [`SpawnRequest::memory_limit`](crate::SpawnRequest::memory_limit) is enforced.
    #[must_use]
    pub fn memory_limits(&self) -> bool {
        !matches!(self.memory, MemoryLimits::None { .. })
    }

    /// One or two lines for a person, as `dflow doctor` shows them.
    #[must_use]
    pub fn describe(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Containment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ContainmentKind::Cgroup { directory } => {
                writeln!(f, "attempts are contained by cgroups below {}", directory.display())?;
            }
            ContainmentKind::Subreaper { reason } => {
                writeln!(f, "attempts are contained by a subreaper process each: {reason}")?;
            }
        }
        match &self.memory {
            MemoryLimits::Unified => write!(f, "memory limits of functions are enforced"),
            MemoryLimits::Version1 { directory } => {
                write!(f, "memory limits of functions are enforced by version 1 cgroups below {}", directory.display())
            }
            MemoryLimits::None { reason } => write!(f, "memory limits of functions are not enforced: {reason}"),
        }
    }
}
