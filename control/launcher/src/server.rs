//! The launcher process: one thread, one loop, no waiting outside of `epoll_wait`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::attempt::{Attempt, Progress, Resources};
use crate::cgroup::{CgroupTree, MemoryTree};
use crate::channel::{Channel, Incoming};
use crate::message::{SpawnMessage, ToDaemon, ToLauncher};
use crate::startup::{ContainmentSetup, close_on_exec, configuration, contain, raise_open_files, take_socket};
use crate::sys::{self, Reaped};
use crate::watched::Source;
use crate::{LauncherEvent, MAX_GRACE, MAX_OUTPUT_BYTES};

/// How long the launcher tries to kill all attempts after the daemon has gone, before it exits anyway.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);
/// Messages to the daemon that may wait before the launcher stops reading what attempts write. That much (256 KiB), and
/// what the socket holds, is how far output delays other events.
const MAX_QUEUED_OUTPUT: usize = 8;
/// Maximum number of bytes that are read from an attempt after it has ended; the pipe of a live one holds less.
const MAX_REST_BYTES: usize = 2 << 20;
/// Requests that are taken before ended children are looked at again.
const REQUESTS_PER_TURN: usize = 16;
/// Epoll data of the socket to the daemon.
const CHANNEL: u64 = 0;
/// Epoll data of the descriptor that reports the end of children.
const CHILDREN: u64 = 1;
/// First pause before another look at an attempt that does not end at once; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(64);

/// The main loop of the launcher process: executes the requests of the daemon at the other end of standard input until
/// that end closes, then kills every attempt and returns.
///
/// Call it first thing in `main` when the first argument is [`ARGUMENT`](crate::ARGUMENT), before any thread is started
/// and before anything large is allocated, and end the process with the returned code. Signals that could end it
/// (`SIGINT`, `SIGTERM`, …) are blocked: only the daemon ends it.
///
/// # Errors
/// Prints a line on standard error and returns failure if this process cannot be a launcher (standard input is not the
/// socket of a [`Launcher`](crate::Launcher), or there are several threads), or if the socket fails.
#[must_use]
pub fn serve() -> ExitCode {
    match Server::start() {
        Ok(Some(server)) => match server.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("dflow launcher: the socket to the daemon failed: {error}; every attempt was killed");
                ExitCode::FAILURE
            }
        },
        // The daemon knows why, or is gone.
        Ok(None) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dflow launcher: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Server {
    channel: Channel,
    channel_interest: EventFlags,
    epoll: Rc<OwnedFd>,
    signals: OwnedFd,
    resources: Resources,
    /// By a number that is never used again, so that a late readiness report cannot hit another attempt.
    attempts: HashMap<u64, Attempt>,
    last_serial: u64,
    by_id: HashMap<u64, u64>,
    by_child: HashMap<i32, u64>,
    /// Attempts whose child has been reaped, but which may still have running processes.
    ending: Vec<u64>,
    /// The ends of graces. Entries of attempts that have already ended are ignored when their time comes.
    graces: BTreeSet<(Instant, u64)>,
    /// Attempts from which nothing is read until the daemon has caught up.
    paused: Vec<u64>,
    pause: Duration,
    buffer: Box<[u8]>,
}

impl Server {
    /// `None` if the launcher cannot work here, which the daemon has been told, or if the daemon is gone.
    fn start() -> io::Result<Option<Self>> {
        let threads = fs::read_dir("/proc/self/task")?.count();
        if threads != 1 {
            return Err(io::Error::other(format!(
                "this process has {threads} threads, but a launcher must have one: call dflow_launcher::serve first in main"
            )));
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let mut channel = Channel::new(take_socket(null.as_fd())?);
        let ignored = sys::ignored_signals();
        let signals = sys::children_signal()?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let _ = rustix::thread::set_name(c"dflow-launcher");
        close_on_exec()?;
        let open_files = raise_open_files();

        let Some(choice) = configuration(&mut channel)? else { return Ok(None) };
        let ContainmentSetup { containment, cgroups, memory } = match contain(choice) {
            Ok(cages) => cages,
            Err(reason) => {
                channel.send(encoded(&ToDaemon::Refused(reason))?, Vec::new())?;
                return Ok(None);
            }
        };
        channel.send(encoded(&ToDaemon::Ready(containment))?, Vec::new())?;

        let epoll = Rc::new(epoll::create(CreateFlags::CLOEXEC)?);
        epoll::add(&*epoll, &channel, EventData::new_u64(CHANNEL), EventFlags::IN)?;
        epoll::add(&*epoll, &signals, EventData::new_u64(CHILDREN), EventFlags::IN)?;
        Ok(Some(Self {
            channel,
            channel_interest: EventFlags::IN,
            epoll: Rc::clone(&epoll),
            signals,
            resources: Resources { cgroups, memory, null, open_files, ignored, epoll },
            attempts: HashMap::new(),
            last_serial: CHILDREN,
            by_id: HashMap::new(),
            by_child: HashMap::new(),
            ending: Vec::new(),
            graces: BTreeSet::new(),
            paused: Vec::new(),
            pause: MIN_PAUSE,
            buffer: vec![0; MAX_OUTPUT_BYTES].into(),
        }))
    }

    fn run(mut self) -> io::Result<()> {
        let served = self.serve_daemon();
        self.shut_down();
        match served {
            // The daemon exited while a message was being sent to it.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            served => served,
        }
    }

    fn serve_daemon(&mut self) -> io::Result<()> {
        let mut ready = Vec::with_capacity(64);
        loop {
            let timeout = self.timeout();
            ready.clear();
            match epoll::wait(&*self.epoll, rustix::buffer::spare_capacity(&mut ready), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if ready.is_empty() {
                self.pause = (self.pause * 2).min(MAX_PAUSE);
            }
            let mut open = true;
            for event in &ready {
                match event.data.u64() {
                    CHANNEL => open = self.take_requests()?,
                    CHILDREN => self.reap()?,
                    _ => match Source::of(event.data) {
                        (serial, Source::Report) => self.read_report(serial)?,
                        (serial, Source::Captured) => self.read_captured(serial)?,
                        (serial, Source::Memory) => self.check_memory(serial),
                    },
                }
            }
            if !open {
                return Ok(());
            }
            self.end_graces();
            self.finish_ending()?;
            self.channel.flush()?;
            self.resume_output()?;
            self.update_interest()?;
        }
    }

    /// Maximum wait: until a grace ends, or until the next look at an attempt that does not end at once.
    fn timeout(&self) -> Option<Timespec> {
        let grace = self.graces.first().map(|(until, _)| until.saturating_duration_since(Instant::now()));
        let pause = (!self.ending.is_empty()).then_some(self.pause);
        grace.into_iter().chain(pause).min().map(timespec)
    }

    /// Kills the attempts whose grace has ended.
    fn end_graces(&mut self) {
        let now = Instant::now();
        while let Some(&(until, serial)) = self.graces.first().filter(|(until, _)| *until <= now) {
            self.graces.remove(&(until, serial));
            if let Some(attempt) = self.attempts.get_mut(&serial).filter(|attempt| attempt.is_late(now)) {
                attempt.kill_now();
                self.pause = MIN_PAUSE;
            }
        }
    }

    /// False when the daemon is gone.
    fn take_requests(&mut self) -> io::Result<bool> {
        for _ in 0..REQUESTS_PER_TURN {
            if self.channel.is_full() {
                break;
            }
            let (bytes, fds) = match self.channel.receive()? {
                Incoming::Nothing => break,
                Incoming::Closed => return Ok(false),
                Incoming::Message { bytes, fds } => (bytes, fds),
            };
            match ToLauncher::decode(&bytes) {
                Ok(ToLauncher::Spawn(message)) => self.spawn(&message, &fds)?,
                Ok(ToLauncher::Stop { id, grace }) => {
                    // It may have ended while the request was in transit.
                    if let Some(&serial) = self.by_id.get(&id)
                        && let Some(attempt) = self.attempts.get_mut(&serial)
                    {
                        let until = (!grace.is_zero()).then(|| Instant::now() + grace.min(MAX_GRACE));
                        self.graces.extend(attempt.stop(until).map(|until| (until, serial)));
                    }
                }
                Ok(ToLauncher::Configure { .. }) => return Err(io::Error::other("the daemon configures it twice")),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(true)
    }

    fn spawn(&mut self, message: &SpawnMessage, fds: &[OwnedFd]) -> io::Result<()> {
        let id = message.id;
        self.last_serial += 1;
        let serial = self.last_serial;
        let started = if self.by_id.contains_key(&id) {
            Err(format!("attempt {id} has not ended yet"))
        } else {
            Attempt::start(&self.resources, serial, message, fds)
        };
        let attempt = match started {
            Ok(attempt) => attempt,
            Err(error) => return self.send(LauncherEvent::SpawnFailed { id, error }),
        };
        self.by_id.insert(id, serial);
        self.by_child.insert(attempt.child, serial);
        self.attempts.insert(serial, attempt);
        Ok(())
    }

    fn read_report(&mut self, serial: u64) -> io::Result<()> {
        let Some(attempt) = self.attempts.get_mut(&serial) else { return Ok(()) };
        match attempt.read_report() {
            Some(event) => self.send(event),
            None => Ok(()),
        }
    }

    fn read_captured(&mut self, serial: u64) -> io::Result<()> {
        let Some(attempt) = self.attempts.get_mut(&serial) else { return Ok(()) };
        if self.channel.queued() >= MAX_QUEUED_OUTPUT {
            attempt.pause_output()?;
            self.paused.push(serial);
            return Ok(());
        }
        match attempt.read_captured(&mut self.buffer) {
            Some(event) => self.send(event),
            None => Ok(()),
        }
    }

    /// Reads from all attempts again once the daemon has caught up.
    fn resume_output(&mut self) -> io::Result<()> {
        if self.channel.queued() > 0 {
            return Ok(());
        }
        for serial in std::mem::take(&mut self.paused) {
            if let Some(attempt) = self.attempts.get(&serial) {
                attempt.resume_output(serial)?;
            }
        }
        Ok(())
    }

    fn check_memory(&mut self, serial: u64) {
        if let Some(attempt) = self.attempts.get_mut(&serial) {
            attempt.check_memory();
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        sys::clear_signal(self.signals.as_fd());
        while let Reaped::Child { pid, end } = sys::reap()? {
            self.pause = MIN_PAUSE;
            // Others are orphans of an attempt.
            if let Some(serial) = self.by_child.remove(&pid)
                && let Some(attempt) = self.attempts.get_mut(&serial)
            {
                attempt.child_ended(end);
                self.ending.push(serial);
            }
        }
        Ok(())
    }

    fn finish_ending(&mut self) -> io::Result<()> {
        for serial in std::mem::take(&mut self.ending) {
            let Some(attempt) = self.attempts.get_mut(&serial) else { continue };
            let orphaned = attempt.is_orphaned();
            if attempt.finish(&self.resources) == Progress::Ending || orphaned && self.kill_strays() {
                self.ending.push(serial);
                continue;
            }
            self.read_report(serial)?;
            let Some(mut attempt) = self.attempts.remove(&serial) else { continue };
            self.by_id.remove(&attempt.id);
            for _ in 0..MAX_REST_BYTES / MAX_OUTPUT_BYTES {
                let Some(event) = attempt.read_rest(&mut self.buffer) else { break };
                self.send(event)?;
            }
            let event = attempt.into_last_event(&self.resources);
            self.send(event)?;
        }
        Ok(())
    }

    /// Kills the children that belong to no living attempt; whether there are any.
    fn kill_strays(&self) -> bool {
        let Ok(children) = sys::children() else { return true };
        let strays: Vec<_> = children.into_iter().filter(|pid| !self.by_child.contains_key(pid)).collect();
        for &pid in &strays {
            sys::kill_child(pid);
        }
        !strays.is_empty()
    }

    fn send(&mut self, event: LauncherEvent) -> io::Result<()> {
        self.channel.send(encoded(&ToDaemon::Event(event))?, Vec::new())
    }

    /// Waits for room in the socket while messages are queued; accepts no requests while too many are.
    fn update_interest(&mut self) -> io::Result<()> {
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, !self.channel.is_full());
        interest.set(EventFlags::OUT, self.channel.queued() > 0);
        if interest != self.channel_interest {
            epoll::modify(&*self.epoll, &self.channel, EventData::new_u64(CHANNEL), interest)?;
            self.channel_interest = interest;
        }
        Ok(())
    }

    /// Kills everything and waits until it has ended.
    fn shut_down(self) {
        let deadline = Instant::now() + SHUTDOWN_DEADLINE;
        for attempt in self.attempts.values() {
            attempt.kill();
        }
        let in_cgroups = self.resources.cgroups.is_some();
        // Reapers exit after the last process of their attempt. Every other child of this process has escaped from one.
        let mut reapers: HashSet<i32> =
            if in_cgroups { HashSet::new() } else { self.by_child.keys().copied().collect() };
        let mut pause = MIN_PAUSE;
        loop {
            match sys::reap() {
                Ok(Reaped::Child { pid, .. }) => {
                    reapers.remove(&pid);
                    pause = MIN_PAUSE;
                    continue;
                }
                Ok(Reaped::None) => {}
                Ok(Reaped::NoChildren) | Err(_) => {
                    let gone = self.resources.cgroups.as_ref().is_none_or(CgroupTree::remove);
                    if gone && self.resources.memory.as_ref().is_none_or(MemoryTree::remove) {
                        return;
                    }
                }
            }
            if Instant::now() >= deadline {
                tracing::warn!("processes of functions do not end");
                return;
            }
            if let Some(tree) = &self.resources.cgroups
                && let Err(error) = tree.kill_all()
            {
                tracing::warn!(%error, "the cgroups of the attempts cannot be killed");
            }
            for pid in sys::children().unwrap_or_default() {
                if !reapers.contains(&pid) {
                    sys::kill_child(pid);
                }
            }
            let _ = rustix::event::poll(&mut [PollFd::new(&self.signals, PollFlags::IN)], Some(&timespec(pause)));
            sys::clear_signal(self.signals.as_fd());
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}

fn encoded(message: &ToDaemon) -> io::Result<Vec<u8>> {
    message.encode().map_err(io::Error::other)
}

fn timespec(duration: Duration) -> Timespec {
    let tv_sec = duration.as_secs().try_into().unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: duration.subsec_nanos().into() }
}
