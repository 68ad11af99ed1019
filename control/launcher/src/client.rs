//! The daemon's end: a handle on the launcher process.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

use crate::channel::{Channel, Incoming};
use crate::message::{ToDaemon, ToLauncher};
use crate::{
    ARGUMENT, Containment, ContainmentChoice, ContainmentKind, Error, LauncherEvent, MAX_ATTEMPTS, MemoryLimits,
    MessageError, SpawnRequest, cgroup,
};

/// How long [`Launcher::start`] waits for the launcher.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How long [`Launcher::shutdown`] waits before it kills the launcher: longer than the launcher itself tries to kill
/// processes that do not end.
const END_DEADLINE: Duration = Duration::from_secs(15);
/// How long to wait for the reapers of a launcher that was killed.
const REAPERS_DEADLINE: Duration = Duration::from_secs(5);

/// How a launcher is started.
#[derive(Debug, Clone)]
pub struct LauncherOptions {
    /// The program that becomes the launcher: by default this process's own, `/proc/self/exe`.
    pub program: PathBuf,
    /// Arguments that make the program call [`serve`](crate::serve): by default [`ARGUMENT`].
    pub arguments: Vec<OsString>,
    /// Which containment it uses.
    pub containment: ContainmentChoice,
}

impl Default for LauncherOptions {
    fn default() -> Self {
        Self {
            program: "/proc/self/exe".into(),
            arguments: vec![ARGUMENT.into()],
            containment: ContainmentChoice::default(),
        }
    }
}

/// A running launcher process.
///
/// No method waits for the launcher except [`Self::start`], [`Self::shutdown`] and dropping it. The descriptor
/// ([`AsFd`], [`AsRawFd`]) is for a readiness loop such as tokio's `AsyncFd`: when it is readable, call [`Self::recv`]
/// until it returns `None`; while [`Self::wants_write`], call [`Self::flush`] when it is writable. Both kinds of loop
/// work, level-triggered and edge-triggered.
///
/// Dropping it kills every attempt and waits until all of their processes have ended (milliseconds; 10 s at most, if a
/// process hangs in the kernel).
#[derive(Debug)]
pub struct Launcher {
    channel: Channel,
    /// The launcher process has been waited for.
    ended: bool,
    process: Child,
    /// Closes when the launcher and all processes that it has forked, except the functions themselves, have ended.
    lifeline: OwnedFd,
    containment: Containment,
    alive: HashSet<u64>,
}

impl Launcher {
    /// Starts a launcher process and waits until it is ready, a few milliseconds.
    ///
    /// Call it early: starting a process from a large one takes longer.
    ///
    /// # Errors
    /// [`Error::Start`], [`Error::Refused`], [`Error::NotReady`], [`Error::Ended`] and [`Error::Socket`].
    pub fn start(options: &LauncherOptions) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::Start { program: options.program.clone(), source };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|errno| failed(errno.into()))?;
        let (lifeline, writer) = io::pipe().map_err(failed)?;
        // A separate process group, so that Ctrl-C reaches only the daemon, which ends its runs gracefully.
        let process = Command::new(&options.program)
            .args(&options.arguments)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(writer))
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let mut launcher = Self {
            channel: Channel::new(ours),
            ended: false,
            process,
            lifeline: lifeline.into(),
            // Until the launcher has reported it.
            containment: Containment {
                kind: ContainmentKind::Subreaper { reason: String::new() },
                memory: MemoryLimits::None { reason: String::new() },
            },
            alive: HashSet::new(),
        };
        let containment = options.containment;
        launcher.send(ToLauncher::Configure { containment }.encode()?, Vec::new())?;
        launcher.containment = launcher.await_ready()?;
        Ok(launcher)
    }

    /// Starts an attempt under an id of the caller's choice; events report its progress. The descriptors of the request
    /// are closed here once they are sent.
    ///
    /// # Errors
    /// Those of a request that cannot be sent ([`Error::ZeroByte`], [`Error::RequestTooLarge`], …), and then nothing
    /// has happened; [`Error::IdInUse`], [`Error::TooManyAttempts`], [`Error::QueueFull`]; [`Error::Ended`] and
    /// [`Error::Socket`] when the launcher is lost.
    pub fn spawn(&mut self, id: u64, request: SpawnRequest) -> Result<(), Error> {
        if self.alive.contains(&id) {
            return Err(Error::IdInUse(id));
        }
        if self.alive.len() >= MAX_ATTEMPTS {
            return Err(Error::TooManyAttempts);
        }
        let (message, fds) = request.into_message(id)?;
        let bytes = ToLauncher::Spawn(message).encode().map_err(|error| match error {
            MessageError::TooLong(size) => Error::RequestTooLarge(size),
            error => Error::Message(error),
        })?;
        self.send(bytes, fds)?;
        self.alive.insert(id);
        Ok(())
    }

    /// Ends an attempt: sends SIGTERM to each of its processes (and SIGCONT, for stopped ones), and after `grace`
    /// SIGKILL to the remaining ones. Its `Exited` event follows when all of its processes have ended, which may be
    /// long before the end of the grace. A second call can shorten the grace, not prolong it. Does nothing if the
    /// attempt has already ended.
    ///
    /// Processes that the attempt starts after the SIGTERM do not receive one: they most likely clean up.
    ///
    /// # Errors
    /// [`Error::QueueFull`], [`Error::Ended`] and [`Error::Socket`].
    pub fn stop(&mut self, id: u64, grace: Duration) -> Result<(), Error> {
        if !self.alive.contains(&id) {
            return Ok(());
        }
        self.send(ToLauncher::Stop { id, grace }.encode()?, Vec::new())
    }

    /// Kills all processes of an attempt with SIGKILL: [`Self::stop`] without a grace.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub fn kill(&mut self, id: u64) -> Result<(), Error> {
        self.stop(id, Duration::ZERO)
    }

    /// The next event, or `None` if there is none yet. Also sends queued requests.
    ///
    /// # Errors
    /// [`Error::Ended`] if the launcher process has died; its attempts are then dead as well (the call waits for that,
    /// a few seconds at most) and get no further events. [`Error::Socket`], [`Error::Message`] and
    /// [`Error::Unexpected`].
    pub fn recv(&mut self) -> Result<Option<LauncherEvent>, Error> {
        if self.wants_write() {
            self.flush()?;
        }
        match self.receive()? {
            None => Ok(None),
            Some(ToDaemon::Event(event)) => {
                if matches!(event, LauncherEvent::SpawnFailed { .. } | LauncherEvent::Exited { .. }) {
                    self.alive.remove(&event.id());
                }
                Ok(Some(event))
            }
            Some(ToDaemon::Ready(_) | ToDaemon::Refused(_)) => Err(Error::Unexpected("it reports ready twice")),
        }
    }

    /// Whether requests wait because the socket was full: then [`Self::flush`] when it is writable.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        !self.ended && self.channel.queued() > 0
    }

    /// Sends queued requests until the socket is full.
    ///
    /// # Errors
    /// [`Error::Ended`] and [`Error::Socket`].
    pub fn flush(&mut self) -> Result<(), Error> {
        if self.ended {
            return Err(ended_before());
        }
        self.channel.flush().map_err(|source| self.lost("sending", source))
    }

    /// The containment that the launcher has chosen.
    #[must_use]
    pub fn containment(&self) -> &Containment {
        &self.containment
    }

    /// The pid of the launcher process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Kills every attempt and ends the launcher; returns when all of their processes have ended. Dropping does the
    /// same, but cannot report errors.
    ///
    /// # Errors
    /// [`Error::Ended`] if the launcher had failed before.
    pub fn shutdown(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        // The descriptor itself stays open: it may be registered in a readiness loop.
        let closed = rustix::net::shutdown(&self.channel, Shutdown::Both);
        // The launcher exits when its socket is shut down, unless a sandbox forbids shutdown(2) or the launcher is
        // stopped.
        let ends =
            closed.is_ok() && wait_readable(self.lifeline.as_fd(), Instant::now() + END_DEADLINE).unwrap_or(false);
        if !ends {
            tracing::warn!(?closed, "the launcher does not end, and is killed");
            // This fails only if the process has already ended.
            let _ = self.process.kill();
            self.end_remains();
            return Ok(());
        }
        match self.process.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Error::Ended(status.to_string())),
            Err(source) => Err(Error::Socket { action: "waiting for its end", source }),
        }
    }

    fn await_ready(&mut self) -> Result<Containment, Error> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            match self.receive()? {
                Some(ToDaemon::Ready(containment)) => return Ok(containment),
                Some(ToDaemon::Refused(reason)) => return Err(Error::Refused(reason)),
                Some(ToDaemon::Event(_)) => return Err(Error::Unexpected("an event before it is ready")),
                None => {}
            }
            match wait_readable(self.channel.as_fd(), deadline) {
                Ok(true) => {}
                Ok(false) => {
                    let _ = self.process.kill();
                    return Err(Error::NotReady(START_DEADLINE));
                }
                Err(source) => return Err(self.lost("waiting", source)),
            }
        }
    }

    fn send(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Result<(), Error> {
        if self.ended {
            return Err(ended_before());
        }
        if self.channel.is_full() {
            return Err(Error::QueueFull);
        }
        self.channel.send(bytes, fds).map_err(|source| self.lost("sending", source))
    }

    fn receive(&mut self) -> Result<Option<ToDaemon>, Error> {
        if self.ended {
            return Err(ended_before());
        }
        match self.channel.receive() {
            Ok(Incoming::Nothing) => Ok(None),
            Ok(Incoming::Message { bytes, .. }) => Ok(Some(ToDaemon::decode(&bytes)?)),
            Ok(Incoming::Closed) => Err(self.end_remains()),
            Err(source) => Err(self.lost("receiving", source)),
        }
    }

    /// The error for a socket that failed: most often because the launcher is dead.
    fn lost(&mut self, action: &'static str, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
                self.end_remains()
            }
            _ => Error::Socket { action, source },
        }
    }

    /// Waits for everything that a dead launcher has left behind.
    fn end_remains(&mut self) -> Error {
        self.ended = true;
        self.alive.clear();
        let status = match self.process.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        match &self.containment.kind {
            ContainmentKind::Cgroup { directory } => cgroup::end_tree(directory),
            ContainmentKind::Subreaper { .. } => {
                // Each reaper kills its attempt when it sees that the launcher is dead, and then ends.
                let deadline = Instant::now() + REAPERS_DEADLINE;
                if !wait_readable(self.lifeline.as_fd(), deadline).unwrap_or(false) {
                    tracing::warn!("processes of functions do not end");
                }
            }
        }
        if let MemoryLimits::Version1 { directory } = &self.containment.memory {
            cgroup::end_tree(directory);
        }
        Error::Ended(status)
    }
}

impl AsFd for Launcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl AsRawFd for Launcher {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "while the launcher was ended");
        }
    }
}

fn ended_before() -> Error {
    Error::Ended("as reported before".to_owned())
}

/// Waits until `fd` is readable or closed at the other end; false after the deadline.
fn wait_readable(fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
