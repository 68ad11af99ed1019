//! Containment by version 2 cgroups, and memory limits by either version.
//!
//! `dflow-<launcher's pid>`, below the cgroup in which the launcher was started, holds one cgroup per attempt. The
//! launcher keeps a lock (`flock`) on its directory while it lives, so that the next launcher can recognise what a
//! killed one has left behind. A pid would not suffice: pids are reused, and may belong to another pid namespace.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

mod locate;
mod memory;
mod stale;

pub(crate) use memory::{MemoryCgroup, MemoryTree};
pub(crate) use stale::end_tree;

use locate::{Controller, enable_memory, locate};
use stale::remove_stale;

/// Maximum depth of cgroups that an attempt creates below its own; removing them takes a descriptor per level.
const MAX_DEPTH: usize = 16;

/// The launcher's cgroup.
#[derive(Debug)]
pub(crate) struct CgroupTree {
    path: PathBuf,
    /// Holds the lock.
    directory: OwnedFd,
    no_memory_limits: Option<String>,
}

/// The cgroup of one attempt.
#[derive(Debug)]
pub(crate) struct Cgroup {
    name: String,
    directory: OwnedFd,
    memory_limited: bool,
}

impl CgroupTree {
    /// Creates the launcher's cgroup, after removing those of dead launchers. The error is a text for users.
    pub(crate) fn create() -> Result<Self, String> {
        let base = locate(Controller::Unified)?;
        remove_stale(&base);
        let (path, directory) = create_locked(&base).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                format!("the cgroup {} may not be written ({error})", base.display())
            }
            _ => format!("no cgroup can be made in {}: {error}", base.display()),
        })?;
        let mut tree = Self { path, directory, no_memory_limits: None };
        if rustix::fs::accessat(&tree.directory, "cgroup.kill", rustix::fs::Access::WRITE_OK, AtFlags::empty()).is_err()
        {
            tree.remove();
            return Err("cgroups have no cgroup.kill here (Linux before 5.14)".to_owned());
        }
        if let Err(error) = write(tree.directory.as_fd(), "cgroup.max.depth", &MAX_DEPTH.to_string()) {
            tracing::debug!(%error, "the depth of cgroups is not limited");
        }
        tree.no_memory_limits = enable_memory(&base, &tree.path).err();
        Ok(tree)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn no_memory_limits(&self) -> Option<&str> {
        self.no_memory_limits.as_deref()
    }

    /// Creates the cgroup of an attempt.
    pub(crate) fn attempt(&self, name: String, memory_limit: Option<u64>) -> io::Result<Cgroup> {
        rustix::fs::mkdirat(&self.directory, &name, Mode::from_raw_mode(0o755))?;
        let directory = open_directory(self.directory.as_fd(), &name).inspect_err(|_| {
            let _ = rustix::fs::unlinkat(&self.directory, &name, AtFlags::REMOVEDIR);
        })?;
        let mut cgroup = Cgroup { name, directory, memory_limited: false };
        if let (Some(limit), None) = (memory_limit, &self.no_memory_limits) {
            let directory = cgroup.directory.as_fd();
            let limited = write(directory, "memory.max", &limit.to_string())
                .and_then(|()| write(directory, "memory.oom.group", "1"));
            if let Err(error) = limited {
                let _ = self.remove_attempt(&cgroup);
                return Err(error);
            }
            cgroup.memory_limited = true;
        }
        Ok(cgroup)
    }

    /// Removes the cgroup of an attempt if nothing runs in it.
    pub(crate) fn remove_attempt(&self, cgroup: &Cgroup) -> io::Result<bool> {
        Ok(remove_at(self.directory.as_fd(), &cgroup.name, MAX_DEPTH)?)
    }

    /// Kills every attempt.
    pub(crate) fn kill_all(&self) -> io::Result<()> {
        kill(self.directory.as_fd())
    }

    /// Removes the launcher's cgroup if nothing runs in it.
    pub(crate) fn remove(&self) -> bool {
        remove_path(&self.path)
    }
}

impl Cgroup {
    /// Kills everything in it, atomically with respect to forks.
    pub(crate) fn kill(&self) -> io::Result<()> {
        kill(self.directory.as_fd())
    }

    /// Everything that runs in it and in those below it.
    pub(crate) fn processes(&self) -> io::Result<Vec<i32>> {
        let mut all = Vec::new();
        processes_at(self.directory.as_fd(), MAX_DEPTH, &mut all)?;
        Ok(all)
    }

    /// Whether nothing runs in it, as far as the kernel reports.
    pub(crate) fn is_empty(&self) -> bool {
        read(self.directory.as_fd(), "cgroup.events").is_ok_and(|events| value_of(&events, "populated") == 0)
    }

    /// Whether the kernel killed something in it because its memory limit was reached.
    pub(crate) fn out_of_memory(&self) -> bool {
        self.memory_limited
            && read(self.directory.as_fd(), "memory.events").is_ok_and(|events| value_of(&events, "oom_kill") > 0)
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

fn create_locked(base: &Path) -> io::Result<(PathBuf, OwnedFd)> {
    const ATTEMPTS: u32 = 100;
    let pid = std::process::id();
    for number in 0..ATTEMPTS {
        let path = match number {
            0 => base.join(format!("dflow-{pid}")),
            _ => base.join(format!("dflow-{pid}-{number}")),
        };
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        }
        // Another launcher may take it for a stale one and remove it between mkdir and flock.
        let Ok(directory) = open_directory(rustix::fs::CWD, &path) else { continue };
        rustix::fs::flock(&directory, FlockOperation::LockExclusive)?;
        let locked = rustix::fs::fstat(&directory)?;
        if rustix::fs::stat(&path).is_ok_and(|found| (found.st_dev, found.st_ino) == (locked.st_dev, locked.st_ino)) {
            return Ok((path, directory));
        }
    }
    Err(io::Error::other("every name is taken"))
}

fn remove_path(path: &Path) -> bool {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return false;
    };
    open_directory(rustix::fs::CWD, parent)
        .and_then(|parent| remove_at(parent.as_fd(), name, MAX_DEPTH + 1))
        .unwrap_or_else(|error| {
            tracing::warn!(cgroup = %path.display(), %error, "the cgroup cannot be removed");
            false
        })
}

/// Removes a cgroup and those below it; false if something runs in one of them.
fn remove_at(parent: BorrowedFd<'_>, name: &str, depth: usize) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::BUSY) if depth > 0 => {}
        Err(Errno::BUSY) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    let directory = match open_directory(parent, name) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(true),
        Err(errno) => return Err(errno),
    };
    let mut below = false;
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        if entry.file_type() == rustix::fs::FileType::Directory
            && let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
        {
            below = true;
            if !remove_at(directory.as_fd(), name, depth - 1)? {
                return Ok(false);
            }
        }
    }
    if !below {
        return Ok(false);
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn processes_at(cgroup: BorrowedFd<'_>, depth: usize, all: &mut Vec<i32>) -> io::Result<()> {
    all.extend(read(cgroup, "cgroup.procs")?.lines().filter_map(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for entry in rustix::fs::Dir::read_from(cgroup)? {
        let entry = entry?;
        if depth > 0
            && entry.file_type() == rustix::fs::FileType::Directory
            && let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
            && let Ok(directory) = open_directory(cgroup, name)
        {
            // The attempt may remove it at any time.
            let _ = processes_at(directory.as_fd(), depth - 1, all);
        }
    }
    Ok(())
}

fn open_directory<P: rustix::path::Arg>(parent: BorrowedFd<'_>, name: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn kill(cgroup: BorrowedFd<'_>) -> io::Result<()> {
    write(cgroup, "cgroup.kill", "1")
}

fn write(cgroup: BorrowedFd<'_>, file: &str, text: &str) -> io::Result<()> {
    let file = rustix::fs::openat(cgroup, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}

fn read(cgroup: BorrowedFd<'_>, file: &str) -> io::Result<String> {
    let file = rustix::fs::openat(cgroup, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    io::read_to_string(File::from(file))
}

fn value_of(events: &str, key: &str) -> u64 {
    events
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read() {
        let events = "low 0\noom 3\noom_kill 2\n";
        assert_eq!(value_of(events, "oom_kill"), 2);
        assert_eq!(value_of(events, "oom_group_kill"), 0);
    }
}
