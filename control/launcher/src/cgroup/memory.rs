//! Memory limits by the version 1 memory controller, for machines where version 2 does not have it.
//!
//! Such a cgroup only limits memory; the attempt is still contained by a version 2 cgroup or a reaper. When the limit
//! is reached, version 1 kills a single process where version 2 kills the whole cgroup (`memory.oom.group`). So the
//! launcher asks the kernel for a notification and ends the attempt itself.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::event::EventfdFlags;
use rustix::event::epoll::{self, CreateFlags};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::watched::{Source, Watched};

use super::locate::{Controller, locate};
use super::stale::remove_stale;
use super::{create_locked, open_directory, read, remove_at, remove_path, value_of, write};

/// Maximum depth of cgroups that an attempt creates below its own.
const MAX_DEPTH: usize = 16;

/// A cgroup this close to its limit counts as being at it, because the kernel charges memory in per-core batches.
const CLOSE: u64 = 1 << 20;

/// The launcher's cgroup in the hierarchy of the version 1 memory controller.
#[derive(Debug)]
pub(crate) struct MemoryTree {
    path: PathBuf,
    /// Holds the lock.
    directory: OwnedFd,
    last: Cell<u64>,
    /// Cgroups that could not be removed yet: a process may be charged for a moment after its end.
    left: RefCell<Vec<String>>,
}

/// The memory cgroup of one attempt.
#[derive(Debug)]
pub(crate) struct MemoryCgroup {
    name: String,
    directory: OwnedFd,
    /// A process that writes `0` here moves itself into the cgroup.
    entrance: OwnedFd,
    /// Readable when the kernel has run out of memory in this cgroup or in one above.
    alarm: Watched,
    limit: u64,
    reached: bool,
}

impl MemoryTree {
    /// Creates the launcher's cgroup, and one below it to verify that all of it works. The error is a text for users.
    pub(crate) fn create() -> Result<Self, String> {
        let base = locate(Controller::Memory)?;
        let epoll =
            epoll::create(CreateFlags::CLOEXEC).map_err(|error| format!("an epoll set cannot be made: {error}"))?;
        remove_stale(&base);
        let (path, directory) =
            create_locked(&base).map_err(|error| format!("no cgroup can be made in {}: {error}", base.display()))?;
        let tree = Self { path, directory, last: Cell::new(0), left: RefCell::new(Vec::new()) };
        match tree.attempt(1 << 30, &Rc::new(epoll), 0) {
            Ok(tried) => tree.end(tried),
            Err(error) => {
                tree.remove();
                return Err(format!("memory cannot be limited by the cgroups in {}: {error}", base.display()));
            }
        }
        Ok(tree)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the cgroup of an attempt that may use `limit` bytes. The epoll set reports when to call
    /// [`MemoryCgroup::take_alarm`].
    pub(crate) fn attempt(&self, limit: u64, epoll: &Rc<OwnedFd>, serial: u64) -> io::Result<MemoryCgroup> {
        self.remove_left();
        self.last.set(self.last.get() + 1);
        let name = self.last.get().to_string();
        rustix::fs::mkdirat(&self.directory, &name, Mode::from_raw_mode(0o755))?;
        self.furnish(&name, limit, epoll, serial).inspect_err(|_| {
            let _ = rustix::fs::unlinkat(&self.directory, &name, AtFlags::REMOVEDIR);
        })
    }

    fn furnish(&self, name: &str, limit: u64, epoll: &Rc<OwnedFd>, serial: u64) -> io::Result<MemoryCgroup> {
        let directory = open_directory(self.directory.as_fd(), name)?;
        write(directory.as_fd(), "memory.limit_in_bytes", &limit.to_string())?;
        let open = |file, flags| rustix::fs::openat(&directory, file, flags | OFlags::CLOEXEC, Mode::empty());
        let entrance = open("cgroup.procs", OFlags::WRONLY)?;
        let alarm = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let control = open("memory.oom_control", OFlags::RDONLY)?;
        let numbers = format!("{} {}", alarm.as_raw_fd(), control.as_raw_fd());
        write(directory.as_fd(), "cgroup.event_control", &numbers)?;
        let alarm = Watched::new(epoll, alarm, serial, Source::Memory)?;
        Ok(MemoryCgroup { name: name.to_owned(), directory, entrance, alarm, limit, reached: false })
    }

    /// Removes the cgroup of an attempt that has ended.
    pub(crate) fn end(&self, cgroup: MemoryCgroup) {
        self.left.borrow_mut().push(cgroup.name);
        self.remove_left();
    }

    fn remove_left(&self) {
        self.left.borrow_mut().retain(|name| match remove_at(self.directory.as_fd(), name, MAX_DEPTH) {
            Ok(removed) => !removed,
            Err(error) => {
                tracing::debug!(%error, name, "a memory cgroup cannot be removed yet");
                true
            }
        });
    }

    /// Removes the launcher's cgroup if nothing runs in it.
    pub(crate) fn remove(&self) -> bool {
        remove_path(&self.path)
    }
}

impl MemoryCgroup {
    /// A process that writes `0` here moves itself into the cgroup.
    pub(crate) fn entrance(&self) -> BorrowedFd<'_> {
        self.entrance.as_fd()
    }

    /// Whether the alarm concerned this cgroup's limit rather than the limit of an ancestor.
    pub(crate) fn take_alarm(&mut self) -> bool {
        // The counter must be read, or the descriptor stays readable; its value does not matter.
        let _ = rustix::io::read(&self.alarm, &mut [0; 8]);
        let usage = read(self.directory.as_fd(), "memory.usage_in_bytes").unwrap_or_default();
        let usage: u64 = usage.trim().parse().unwrap_or(0);
        self.reached |= usage + CLOSE >= self.limit || self.killed();
        self.reached
    }

    /// Whether the limit was reached and something in it was killed for that reason.
    pub(crate) fn out_of_memory(&self) -> bool {
        self.reached || self.killed()
    }

    fn killed(&self) -> bool {
        read(self.directory.as_fd(), "memory.oom_control").is_ok_and(|text| value_of(&text, "oom_kill") > 0)
    }
}
