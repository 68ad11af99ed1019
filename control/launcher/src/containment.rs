//! How the processes of an attempt are contained.

use std::fmt;
use std::path::PathBuf;

use rkyv::{Archive, Deserialize, Serialize};

use crate::message::PathBytes;

/// Which containment the launcher is to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Archive, Serialize, Deserialize)]
pub enum ContainmentChoice {
    /// A cgroup where the machine allows it, else a subreaper.
    #[default]
    Auto,
    /// A cgroup; the launcher refuses to start without one.
    Cgroup,
    /// A subreaper, even if a cgroup is possible.
    Subreaper,
}

/// The containment that the launcher uses, chosen when it started.
///
/// With either kind, every process that an attempt starts belongs to it for good: it cannot escape by a new session, a
/// double fork or an ignored signal.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Containment {
    /// How the processes of an attempt are contained.
    pub kind: ContainmentKind,
    /// How their memory is limited.
    pub memory: MemoryLimits,
}

/// How the processes of an attempt are contained.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum ContainmentKind {
    /// Each attempt is created inside its own version 2 cgroup, which the kernel kills as a whole.
    Cgroup {
        /// The launcher's cgroup, the parent of the cgroups of the attempts.
        #[rkyv(with = PathBytes)]
        directory: PathBuf,
    },
    /// Each attempt has its own reaper process above it. The kernel reparents all orphans of the attempt to the reaper,
    /// which kills its children until none is left. Unlike with a cgroup, a program that forks faster than it can be
    /// killed may survive for a while, and so may one that runs as another user.
    Subreaper {
        /// Why it is not a cgroup.
        reason: String,
    },
}

/// How the memory of an attempt is limited.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum MemoryLimits {
    /// By the version 2 cgroup that contains the attempt.
    Unified,
    /// By a cgroup of the version 1 memory controller.
    Version1 {
        /// The launcher's cgroup there, the parent of the cgroups of the attempts.
        #[rkyv(with = PathBytes)]
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

    /// One or two lines for a person; `dflow doctor` shows them.
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
