//! Sets up the launcher process before it serves: its socket, descriptors and containment.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::FdFlags;

use crate::cgroup::{CgroupTree, MemoryTree};
use crate::channel::{Channel, Incoming};
use crate::message::ToLauncher;
use crate::sys::{self, Fork, Reaped};
use crate::{Containment, ContainmentChoice, ContainmentKind, MemoryLimits};

/// How long a reaped process may still be counted in its cgroup.
const REAPED_DEADLINE: Duration = Duration::from_millis(64);

/// Takes the socket from standard input and replaces it with `null`.
pub(crate) fn take_socket(null: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    use rustix::net::{SocketType, sockopt::socket_type};
    let stdin = io::stdin();
    if socket_type(&stdin) != Ok(SocketType::SEQPACKET) {
        return Err(io::Error::other(
            "standard input is not the socket of a daemon: this command is internal and is started by dflow",
        ));
    }
    let socket = rustix::io::fcntl_dupfd_cloexec(&stdin, libc::STDERR_FILENO + 1)?;
    // SAFETY: nothing in this process reads standard input.
    unsafe { sys::replace_fd(null, libc::STDIN_FILENO)? };
    Ok(socket)
}

/// Marks all inherited descriptors close-on-exec, so that functions do not inherit descriptors that the daemon
/// inherited.
pub(crate) fn close_on_exec() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if fd > libc::STDERR_FILENO {
            // SAFETY: it is listed as open and used at once. The one through which the list is read is open, too.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}

/// Raises the launcher's limit of descriptors as far as allowed, and returns the original limit for the functions.
pub(crate) fn raise_open_files() -> libc::rlimit {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    libc::rlimit {
        rlim_cur: before.current.unwrap_or(libc::RLIM_INFINITY),
        rlim_max: before.maximum.unwrap_or(libc::RLIM_INFINITY),
    }
}

/// Waits for the daemon's first message; `None` if the daemon is gone.
pub(crate) fn configuration(channel: &mut Channel) -> io::Result<Option<ContainmentChoice>> {
    loop {
        match channel.receive()? {
            Incoming::Nothing => {
                rustix::event::poll(&mut [PollFd::new(channel, PollFlags::IN)], None)?;
            }
            Incoming::Closed => return Ok(None),
            Incoming::Message { bytes, .. } => match ToLauncher::decode(&bytes) {
                Ok(ToLauncher::Configure { containment }) => return Ok(Some(containment)),
                _ => return Err(io::Error::other("the daemon's first message is not a configuration")),
            },
        }
    }
}

/// Chooses the containment and the memory limits: the description for the daemon, and the launcher's own cgroups.
pub(crate) struct ContainmentSetup {
    pub(crate) containment: Containment,
    pub(crate) cgroups: Option<CgroupTree>,
    pub(crate) memory: Option<MemoryTree>,
}

pub(crate) fn contain(choice: ContainmentChoice) -> Result<ContainmentSetup, String> {
    let cgroups = match choice {
        ContainmentChoice::Subreaper => Err("it was asked for".to_owned()),
        ContainmentChoice::Auto | ContainmentChoice::Cgroup => CgroupTree::create().and_then(try_cgroup),
    };
    let (kind, cgroups) = match cgroups {
        Ok(tree) => (ContainmentKind::Cgroup { directory: tree.path().to_owned() }, Some(tree)),
        Err(reason) if choice == ContainmentChoice::Cgroup => {
            return Err(format!("containment by cgroups is not possible: {reason}"));
        }
        Err(reason) => (ContainmentKind::Subreaper { reason }, None),
    };
    let unlimited = match &cgroups {
        Some(tree) => tree.no_memory_limits().map(str::to_owned),
        None => Some("a subreaper limits nothing".to_owned()),
    };
    let (memory, tree) = match unlimited {
        None => (MemoryLimits::Unified, None),
        Some(unlimited) => match MemoryTree::create() {
            Ok(tree) => (MemoryLimits::Version1 { directory: tree.path().to_owned() }, Some(tree)),
            Err(reason) => (MemoryLimits::None { reason: format!("{unlimited}, and {reason}") }, None),
        },
    };
    Ok(ContainmentSetup { containment: Containment { kind, memory }, cgroups, memory: tree })
}

/// Creates a process inside a cgroup to verify that this works here.
fn try_cgroup(tree: CgroupTree) -> Result<CgroupTree, String> {
    let born = (|| {
        let cgroup = tree.attempt("try".to_owned(), None)?;
        // SAFETY: the launcher has one thread, and the child exits at once.
        let forked = unsafe { sys::fork_into(cgroup.as_fd()) };
        match forked {
            Ok(Fork::Child) => sys::exit_now(0),
            Ok(Fork::Parent { .. }) => {
                while !matches!(sys::reap()?, Reaped::NoChildren) {
                    std::thread::yield_now();
                }
            }
            Err(_) => {}
        }
        // Some kernels count a process for a moment after it was reaped.
        let deadline = Instant::now() + REAPED_DEADLINE;
        while !tree.remove_attempt(&cgroup)? && Instant::now() < deadline {
            std::thread::yield_now();
        }
        forked.map(drop)
    })();
    match born {
        Ok(()) => Ok(tree),
        Err(error) => {
            tree.remove();
            Err(match error.raw_os_error() {
                Some(libc::ENOSYS | libc::EPERM) => {
                    format!("no process can be born in a cgroup ({error}): clone3 is forbidden or unknown here")
                }
                _ => format!("no process can be born in a cgroup: {error}"),
            })
        }
    }
}
