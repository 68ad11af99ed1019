//! Memory limits by the memory controller of cgroups version 1, for machines where version 2 does not have it.
//!
//! Such a cgroup limits and contains nothing else: what holds an attempt together is a version 2 cgroup or a reaper, as
//! elsewhere. Version 1 kills one process of a cgroup where version 2 kills all of it (`memory.oom.group`), so the kernel
//! is asked for a notification, and the launcher ends the attempt.

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

/// How deep an attempt may have nested cgroups of its own.
const MAX_DEPTH: usize = 16;

/// So close to its limit a cgroup is at it: the kernel charges in batches for each core.
const CLOSE: u64 = 1 << 20;

/// The launcher's cgroup in the hierarchy of the version 1 memory controller.
#[derive(Debug)]
pub(crate) struct MemoryTree {
    path: PathBuf,
    /// Carries the lock.
    directory: OwnedFd,
    last: Cell<u64>,
    /// Cgroups that could not be removed yet: a process may count for a moment after its end.
    left: RefCell<Vec<String>>,
}

/// The memory cgroup of one attempt.
#[derive(Debug)]
pub(crate) struct MemoryCgroup {
    name: String,
    directory: OwnedFd,
    /// Who writes `0` here is moved into it.
    entrance: OwnedFd,
    /// Readable when the kernel has found no memory for it, or for a cgroup above.
    alarm: Watched,
    limit: u64,
    reached: bool,
}

impl MemoryTree {
    /// Makes the launcher's cgroup, and one below it to see that all of it works. The error is a text for a person.
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

    /// Makes the cgroup of an attempt that may use `limit` bytes; the epoll set says when
    /// [`MemoryCgroup::take_alarm`] is to be called.
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

    /// Gives the cgroup of an attempt back of which nothing runs any more.
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
    /// Who writes `0` here is moved into the cgroup.
    pub(crate) fn entrance(&self) -> BorrowedFd<'_> {
        self.entrance.as_fd()
    }

    /// Whether the alarm was about this cgroup's limit, not about that of one above.
    pub(crate) fn take_alarm(&mut self) -> bool {
        // Read, or it stays readable; what it counts does not matter.
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
