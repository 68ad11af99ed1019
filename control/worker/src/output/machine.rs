//! Which machine a run is on, so that no other machine takes it for dead.

use serde::{Deserialize, Serialize};

/// A machine between two starts of its kernel.
///
/// A lock on a file tells whether the process that took it is alive, but not on every shared filesystem: NFS with
/// `local_lock` and Lustre with `localflock` keep locks to one machine. So a free lock counts only here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    /// Shared by all containers of the machine, which share its locks, too.
    boot: String,
    /// The machine's own id and name. Clones of a virtual machine often have the same id.
    identity: String,
}

impl Machine {
    pub(super) fn this() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { boot: read("/proc/sys/kernel/random/boot_id"), identity: format!("{} {name}", read("/etc/machine-id")) }
    }

    /// The machine's name.
    pub(super) fn name(&self) -> &str {
        self.identity.split_once(' ').map_or("another machine", |(_, name)| name)
    }

    /// Whether a free lock of a run on `self` shows to a process on `observer` that the run is dead: both are under one
    /// kernel, or `self` is the same machine before it was started again.
    pub(super) fn shares_locks_with(&self, observer: &Self) -> bool {
        let same = |one: &str, other: &str| !one.is_empty() && one == other;
        same(&self.boot, &observer.boot) || same(&self.identity, &observer.identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_trusted_on_the_same_machine_only() {
        let machine = |boot: &str, identity: &str| Machine { boot: boot.into(), identity: identity.into() };
        let here = machine("boot 1", "id a");
        assert!(here.shares_locks_with(&here));
        assert!(machine("boot 1", "id container").shares_locks_with(&here), "one kernel");
        assert!(machine("boot 0", "id a").shares_locks_with(&here), "the machine was started again");
        assert!(!machine("boot 2", "id b").shares_locks_with(&here), "a clone with another name");
        assert!(!Machine::default().shares_locks_with(&Machine::default()), "unknown machines may be different ones");
        assert!(Machine::this().shares_locks_with(&Machine::this()));
    }
}
