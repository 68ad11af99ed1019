//! Containment by a subreaper: a process between the launcher and the main process of an attempt.
//!
//! It is a subreaper, so the kernel makes it the parent of every orphan of the attempt, whatever sessions and process
//! groups the attempt has created. When the main process has ended, or on request, it kills its children until none is
//! left, and then exits: its end is the end of the attempt. It only ever kills its own, unreaped children, so no signal
//! can hit a reused pid. On a request to terminate the attempt, it sends SIGTERM to all of its processes and waits.
//! When the launcher dies, the socket closes, and the attempt is killed as well.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::exec::{Failure, Plan, Step};
use crate::sys::{self, Fork, ProcessEnd, Reaped};

/// The descriptor of the socket to the launcher in the reaper: the first after the standard ones.
const SOCKET: RawFd = 3;
/// Maximum pause between two attempts to kill processes that do not end at once.
const MAX_PAUSE: Duration = Duration::from_millis(64);
/// A request of the launcher.
const KILL: u8 = b'k';
const TERMINATE: u8 = b't';

/// The launcher's end.
#[derive(Debug)]
pub(crate) struct Reaper {
    socket: OwnedFd,
}

impl Reaper {
    /// Starts a reaper that starts the main process by `plan`; also returns the pid of the reaper.
    pub(crate) fn start(plan: &mut Plan<'_>) -> io::Result<(Self, i32)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // SAFETY: the launcher has one thread.
        match unsafe { sys::fork()? } {
            Fork::Parent { child } => Ok((Self { socket: ours }, child)),
            // SAFETY: this is a fresh child that runs nothing else.
            Fork::Child => unsafe { run(plan, theirs.as_fd()) },
        }
    }

    /// Kills the attempt.
    pub(crate) fn kill(&self) {
        self.tell(KILL);
    }

    /// Sends SIGTERM to everything of the attempt.
    pub(crate) fn terminate(&self) {
        self.tell(TERMINATE);
    }

    fn tell(&self, what: u8) {
        // Two messages always fit; if it is closed, the reaper is dead.
        let _ = rustix::net::send(&self.socket, &[what], SendFlags::NOSIGNAL);
    }

    /// How the main process ended, as reported by the reaper before it exited. `None` if the reaper was killed; its
    /// children have then become the launcher's, which must kill them.
    pub(crate) fn report(&self) -> Option<ProcessEnd> {
        let mut bytes = [0; ProcessEnd::ENCODED_LENGTH];
        let (length, _) = rustix::net::recv(&self.socket, &mut bytes, RecvFlags::empty()).ok()?;
        ProcessEnd::decode(&bytes[..length]).ok()
    }
}

/// The main function of the reaper process.
///
/// # Safety
/// This process is a fresh child with one thread: its descriptors are its own, whatever owns them in the launcher.
unsafe fn run(plan: &mut Plan<'_>, socket: BorrowedFd<'_>) -> ! {
    let set_up = || -> io::Result<OwnedFd> {
        rustix::process::setsid()?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let _ = rustix::thread::set_name(c"dflow-reaper");
        sys::children_signal()
    };
    let fail = |plan: &Plan<'_>, error: io::Error| -> ! {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        plan.fail(Failure { step: Step::Fork, errno })
    };
    let signals = match set_up() {
        Ok(signals) => signals,
        Err(error) => fail(plan, error),
    };
    plan.parent = std::process::id() as i32;
    // SAFETY: by the caller's promise.
    let main = match unsafe { sys::fork() } {
        Ok(Fork::Parent { child }) => child,
        // SAFETY: this is a fresh child.
        Ok(Fork::Child) => unsafe { plan.run() },
        Err(error) => fail(plan, error),
    };

    // Descriptors of the launcher must not stay open here: the closing of the sockets to the daemon and to other
    // reapers is a signal to their other ends, and the streams of the function belong to the function alone. SAFETY: by
    // the caller's promise nothing else uses these descriptors; the two that are needed are first copied out of the way
    // and then placed at 3 and 4; nothing that owned one of them is dropped, since this function does not return.
    let (socket, signals) = unsafe {
        let keep = [socket.as_raw_fd(), signals.as_raw_fd()].map(|fd| libc::fcntl(fd, libc::F_DUPFD, SOCKET + 2));
        if keep.contains(&-1) {
            sys::kill_child(main);
            sys::exit_now(1);
        }
        std::mem::forget(signals);
        let [socket, signals] = [(keep[0], SOCKET), (keep[1], SOCKET + 1)].map(|(fd, target)| {
            libc::dup2(fd, target);
            OwnedFd::from_raw_fd(target)
        });
        sys::close_from(SOCKET + 2);
        (socket, signals)
    };
    supervise(main, &socket, &signals);
    sys::exit_now(0)
}

/// Reaps until the main process has ended, then kills until no child is left, and reports. After a request to terminate
/// the attempt, it kills only on a further request, even if the main process ends.
fn supervise(main: i32, socket: &OwnedFd, signals: &OwnedFd) {
    let mut ended = None;
    let mut killing = false;
    let mut terminated = false;
    let mut pause = Duration::from_millis(1);
    loop {
        loop {
            match sys::reap() {
                Ok(Reaped::Child { pid, end }) => {
                    pause = Duration::from_millis(1);
                    if pid == main {
                        ended = Some(end);
                        killing |= !terminated;
                    }
                }
                Ok(Reaped::None) => break,
                Ok(Reaped::NoChildren) | Err(_) => {
                    if let Some(report) = ended.and_then(|end: ProcessEnd| end.encode().ok()) {
                        let _ = rustix::net::send(socket, &report, SendFlags::NOSIGNAL);
                    }
                    return;
                }
            }
        }
        if killing {
            for child in sys::children().unwrap_or_default() {
                sys::kill_child(child);
            }
        }

        let timeout = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
        // Once it kills, it no longer polls the socket: a closed socket is always readable.
        let mut fds = [PollFd::new(signals, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
        let watched = if killing { &mut fds[..1] } else { &mut fds[..] };
        match rustix::event::poll(watched, killing.then_some(&timeout)) {
            Ok(0) => pause = (pause * 2).min(MAX_PAUSE),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => killing = true,
        }
        sys::clear_signal(signals.as_fd());
        if !fds[1].revents().is_empty() {
            let mut message = [0];
            match rustix::net::recv(socket, &mut message, RecvFlags::empty()) {
                Ok((1, _)) if message == [TERMINATE] => {
                    terminated = true;
                    // Without /proc, the remaining processes are killed after the grace.
                    let _ = sys::terminate(sys::descendants);
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                // A request to kill, or the launcher is dead.
                Ok(_) | Err(_) => killing = true,
            }
        }
    }
}
