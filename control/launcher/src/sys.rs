//! System calls without a safe wrapper elsewhere: creating, reaping and killing processes, and signals.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::{ExitStatus, Usage};

/// How often [`terminate`] looks for newly forked processes. Each round stops the processes found in the previous one.
const MAX_ROUNDS: u32 = 32;

/// Which side of a fork this is.
pub(crate) enum Fork {
    Parent { child: i32 },
    Child,
}

/// Forks this process.
///
/// # Safety
/// This process has one thread.
pub(crate) unsafe fn fork() -> io::Result<Fork> {
    // SAFETY: with one thread, the child sees no lock held by a thread that it does not have.
    fork_result(unsafe { libc::fork() }.into())
}

/// Forks this process with the child inside `cgroup`, which is hundreds of times faster than moving it there.
///
/// # Safety
/// This process has one thread. The child calls only what is async-signal-safe, then `execve` or `_exit`: the C library
/// does not know that it is another process.
pub(crate) unsafe fn fork_into(cgroup: BorrowedFd<'_>) -> io::Result<Fork> {
    /// `struct clone_args` as of Linux 5.7.
    #[repr(C, align(8))]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

    let args = CloneArgs {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: the kernel reads `args`, of the size that is passed. Without CLONE_VM the child gets a copy of
    // everything, its stack included, as after fork.
    fork_result(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })
}

fn fork_result(returned: libc::c_long) -> io::Result<Fork> {
    match returned {
        0 => Ok(Fork::Child),
        child if child > 0 => Ok(Fork::Parent { child: child as i32 }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process at once, without running anything of the program.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` is always sound and does not return.
    unsafe { libc::_exit(status) }
}

/// The result of [`reap`].
pub(crate) enum Reaped {
    /// This child has ended, and its pid is free again.
    Child { pid: i32, end: ProcessEnd },
    /// No child has ended.
    None,
    /// This process has no children.
    NoChildren,
}

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct ProcessEnd {
    pub(crate) status: ExitStatus,
    pub(crate) usage: Usage,
}

/// Reaps one ended child, if there is one.
pub(crate) fn reap() -> io::Result<Reaped> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are to places of the right type that live through the call.
        let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
        if pid > 0 {
            // SAFETY: all zeroes is a valid rusage, and wait4 has filled it in.
            let usage = unsafe { usage.assume_init() };
            let end = ProcessEnd { status: exit_status(status), usage: usage_of(&usage) };
            return Ok(Reaped::Child { pid, end });
        }
        if pid == 0 {
            return Ok(Reaped::None);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(Reaped::NoChildren),
            _ => return Err(error),
        }
    }
}

fn exit_status(status: i32) -> ExitStatus {
    if libc::WIFSIGNALED(status) {
        ExitStatus::Signaled(libc::WTERMSIG(status))
    } else {
        ExitStatus::Exited(libc::WEXITSTATUS(status))
    }
}

fn usage_of(usage: &libc::rusage) -> Usage {
    let duration = |time: libc::timeval| {
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
            + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
    };
    Usage {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        max_rss: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    }
}

/// Kills a child of this process that has not been reaped yet: until then the kernel does not reuse its pid, so that
/// the signal cannot hit another process. Has no effect on a child that has ended, or that this process may not signal.
pub(crate) fn kill_child(pid: i32) {
    debug_assert!(pid > 0, "0 and negative numbers mean whole groups");
    // SAFETY: `kill` touches no memory.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Sends SIGTERM to the processes of a list, then SIGCONT for stopped ones. The list may change at any time.
pub(crate) fn terminate(list: impl Fn() -> io::Result<Vec<i32>>) -> io::Result<()> {
    use rustix::process::{Signal, pidfd_send_signal};
    let send = |process: &OwnedFd, signal| {
        // It has ended, or runs as another user. Processes that remain after the grace are killed.
        let _ = pidfd_send_signal(process, signal);
    };
    let mut processes: HashMap<i32, OwnedFd> = HashMap::new();
    // They are stopped first. Otherwise a child that one of them forks just before its SIGTERM would be missed, and one
    // that it forks just after, to clean up, would be hit. No fork is under way in a process that has a signal pending.
    for _ in 0..MAX_ROUNDS {
        let new = open_all(&list, &processes)?;
        if new.is_empty() {
            break;
        }
        new.iter().for_each(|(_, process)| send(process, Signal::STOP));
        processes.extend(new);
    }
    for signal in [Signal::TERM, Signal::CONT] {
        processes.values().for_each(|process| send(process, signal));
    }
    Ok(())
}

/// Opens the processes of a list, except those already known, as pidfds: by the time a pid is used, it may have been
/// reused by an unrelated process.
fn open_all(
    list: &impl Fn() -> io::Result<Vec<i32>>,
    known: &HashMap<i32, OwnedFd>,
) -> io::Result<Vec<(i32, OwnedFd)>> {
    let new = list()?.into_iter().filter(|pid| !known.contains_key(pid));
    let mut opened: Vec<_> = new.filter_map(|pid| Some((pid, open_process(pid)?))).collect();
    // A pid can be reused only after its process has left the list. If the pid is still in the list after the pidfd was
    // opened, the pidfd refers to a process of the list or to one that has ended.
    let still: HashSet<i32> = list()?.into_iter().collect();
    opened.retain(|(pid, _)| still.contains(pid));
    Ok(opened)
}

fn open_process(pid: i32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(rustix::process::Pid::from_raw(pid)?, rustix::process::PidfdFlags::empty()).ok()
}

/// All descendants of this process. A process that is being forked may be missing.
pub(crate) fn descendants() -> io::Result<Vec<i32>> {
    let mut all = children()?;
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        next += 1;
        // Empty for a process that has just ended: its children have become children of this process.
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
        for task in tasks.filter_map(Result::ok) {
            let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    Ok(all)
}

/// The signals that this process ignores, as a mask whose lowest bit is signal 1, and that stay ignored in functions,
/// as with any POSIX shell: SIGHUP under nohup, for example. Not SIGPIPE, which Rust itself ignores, and without which
/// `yes | head` would not end; nor SIGCHLD, without which a program cannot wait for its children; nor SIGXFSZ, which
/// dflow ignores for itself ([`ignore_file_size_signal`]); nor those that the C library keeps for itself.
pub(crate) fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.unwrap_or(0) & !(bit(libc::SIGPIPE) | bit(libc::SIGCHLD) | bit(libc::SIGXFSZ) | bit(32) | bit(33))
}

/// Makes a write past `ulimit -f` fail with an error. By default, SIGXFSZ would kill the process. Functions get the
/// default disposition back.
pub fn ignore_file_size_signal() {
    // SAFETY: no handler is installed, so nothing runs when the signal comes, and the return value says only that the
    // signal's number is valid.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The children of this process, including adopted orphans and ended children that are not reaped yet.
///
/// The list is complete if this process has one thread: only [`reap`] removes children, and new ones are appended.
pub(crate) fn children() -> io::Result<Vec<i32>> {
    match fs::read_to_string("/proc/thread-self/children") {
        Ok(list) => Ok(list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()),
        // A kernel without CONFIG_PROC_CHILDREN.
        Err(error) if error.kind() == io::ErrorKind::NotFound => children_by_scan(),
        Err(error) => Err(error),
    }
}

fn children_by_scan() -> io::Result<Vec<i32>> {
    let me = std::process::id();
    let pids = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| parent_of(&stat) == Some(me)));
    Ok(pids.collect())
}

/// The parent in `/proc/PID/stat`: the second word after the name, which is in parentheses and may contain any
/// character.
fn parent_of(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Blocks every signal of this process and returns a descriptor that is readable when a child has ended.
pub(crate) fn children_signal() -> io::Result<OwnedFd> {
    // SAFETY: the sets are initialised by sigfillset and sigemptyset before use; `signal` and `sigprocmask` change only
    // this process's dispositions and mask; signalfd returns a new descriptor, which has no other owner.
    unsafe {
        // An inherited SIG_IGN would make the kernel reap children itself and discard their statuses.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Reads everything readable from a descriptor of [`children_signal`].
pub(crate) fn clear_signal(signals: BorrowedFd<'_>) {
    // Pending SIGCHLDs are merged into one, so one record empties it.
    let mut record = [0u8; size_of::<libc::signalfd_siginfo>()];
    let _ = rustix::io::read(signals, &mut record);
}

/// Duplicates `fd` to the number `target`, replacing any descriptor there. The copy stays open across `execve`.
///
/// # Safety
/// No code in this process owns the descriptor `target`, or its owner expects the change.
pub(crate) unsafe fn replace_fd(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: by the caller's promise.
    match unsafe { libc::dup2(fd.as_raw_fd(), target) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Closes all descriptors from `first` on.
///
/// # Safety
/// No code in this process uses or closes any of them afterwards.
pub(crate) unsafe fn close_from(first: RawFd) {
    // SAFETY: by the caller's promise; close touches no memory.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) == 0 {
            return;
        }
        // A seccomp filter may not know close_range.
        let limit = libc::sysconf(libc::_SC_OPEN_MAX).clamp(0, 1 << 16) as RawFd;
        for fd in first..limit {
            libc::close(fd);
        }
    }
}

/// The name of a signal of the classic 31.
pub(crate) fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGVTALRM => "SIGVTALRM",
        libc::SIGPROF => "SIGPROF",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent_of("12 (sh) S 7 12 12 0 -1"), Some(7));
        assert_eq!(parent_of("12 (a) S 3 (b) c) R 9 12"), Some(9));
        assert_eq!(parent_of("12 (sh"), None);
    }
}
