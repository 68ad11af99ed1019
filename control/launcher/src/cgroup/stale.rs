//! Cleans up after launchers that were killed.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{kill, open_directory, read, remove_path};

/// How long to wait for the processes of a dead launcher to end; they are not our children.
const STALE_DEADLINE: Duration = Duration::from_secs(2);

/// Kills and removes the cgroup of a launcher that is known to be dead. Gives up after a time limit.
pub(crate) fn end_tree(path: &Path) {
    let deadline = Instant::now() + STALE_DEADLINE;
    // A child that it was about to exec may hold its lock for a moment.
    while end_if_stale(path) == Stale::Locked && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Stale {
    /// Its launcher lives.
    Locked,
    /// It is gone already, or nothing more can be done.
    Done,
}

fn end_if_stale(path: &Path) -> Stale {
    let ended = lock_stale(path).and_then(|lock| match lock {
        Some(directory) => kill_and_remove(path, &directory).map(Some),
        None => Ok(None),
    });
    match ended {
        Ok(None) => return Stale::Locked,
        Ok(Some(true)) | Err(Errno::NOENT) => {}
        Ok(Some(false)) => tracing::warn!(cgroup = %path.display(), "processes of a dead launcher do not end"),
        Err(error) => tracing::warn!(cgroup = %path.display(), %error, "the cgroup of a dead launcher stays"),
    }
    Stale::Done
}

fn lock_stale(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let directory = open_directory(rustix::fs::CWD, path)?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(directory)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Removes an empty cgroup; false if it did not become empty in time.
fn kill_and_remove(path: &Path, directory: &OwnedFd) -> Result<bool, Errno> {
    if remove_path(path) {
        return Ok(true);
    }
    kill(directory.as_fd()).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let deadline = Instant::now() + STALE_DEADLINE;
    loop {
        wait_until_empty(directory.as_fd(), deadline)?;
        if remove_path(path) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

/// Waits until a cgroup is empty, up to a time limit.
fn wait_until_empty(cgroup: BorrowedFd<'_>, deadline: Instant) -> Result<(), Errno> {
    /// The kernel sometimes reports a change late, and dying processes are counted for a moment after the report.
    const PAUSE: Duration = Duration::from_millis(10);
    let events = rustix::fs::openat(cgroup, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // Reading arms the notification.
    let _ = read(cgroup, "cgroup.events");
    let pause = PAUSE.min(deadline.saturating_duration_since(Instant::now()));
    let timeout = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
    match rustix::event::poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Ends and removes the cgroups of dead launchers in `base`.
pub(super) fn remove_stale(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_ours) {
            end_if_stale(&entry.path());
        }
    }
}

/// `dflow-<pid>` or, where that name was taken, `dflow-<pid>-<number>`; nothing else that begins like it, such as a
/// unit of systemd.
fn is_ours(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix("dflow-").is_some_and(|rest| rest.splitn(2, '-').all(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_launchers_are_ours() {
        assert!(is_ours("dflow-12"));
        assert!(is_ours("dflow-12-3"));
        for name in
            ["dflow-", "dflow-worker.service", "dflow-12-", "dflow-12-a", "dflow-12.scope", "xdflow-1", "dflow-1-2-3"]
        {
            assert!(!is_ours(name), "{name}");
        }
    }
}
