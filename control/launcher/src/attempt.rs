//! One attempt in the launcher: its start, its reports, its output and its end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Instant;

use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::cgroup::{Cgroup, CgroupTree, MemoryCgroup, MemoryTree};
use crate::diagnose::Subject;
use crate::exec::{Failure, Plan, PlanParts};
use crate::message::SpawnMessage;
use crate::reaper::Reaper;
use crate::sys::{self, Fork, ProcessEnd};
use crate::tail::Tail;
use crate::watched::{Source, Watched};
use crate::{ExitStatus, LauncherEvent, Usage};

/// The launcher's resources that every attempt needs.
pub(crate) struct Resources {
    /// The launcher's cgroup; without one, every attempt has a [`Reaper`].
    pub(crate) cgroups: Option<CgroupTree>,
    /// The cgroup that limits memory, if that is not the same one.
    pub(crate) memory: Option<MemoryTree>,
    pub(crate) null: OwnedFd,
    /// The limit of open files that the daemon was started with.
    pub(crate) open_files: libc::rlimit,
    /// The signals that stay ignored in functions.
    pub(crate) ignored: u64,
    /// The descriptors that the launcher waits for.
    pub(crate) epoll: Rc<OwnedFd>,
}

pub(crate) struct Attempt {
    pub(crate) id: u64,
    /// The launcher's own child: the main process, or its reaper.
    pub(crate) child: i32,
    container: Container,
    memory: Option<MemoryCgroup>,
    subject: Subject,
    report: Report,
    captured: Option<Watched>,
    tail: Tail,
    end: Option<ProcessEnd>,
    out_of_memory: bool,
    /// The end of its grace: set from SIGTERM until it is killed.
    grace_until: Option<Instant>,
    /// Some process of it was running when it was killed at the daemon's request.
    killed: bool,
    /// Its reaper was killed, so that its processes have become the launcher's own children.
    orphaned: bool,
}

enum Container {
    Cgroup(Cgroup),
    Reaper(Reaper),
}

/// The pipe through which the new process says how far it came; `execve` closes it.
struct Report {
    pipe: Option<Watched>,
    /// Pid of the main process where that is not the launcher's child, then a failure.
    bytes: Vec<u8>,
    has_pid: bool,
}

/// Whether an attempt is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A process of it may still be running: ask again.
    Ending,
    /// All of its processes have ended.
    Ended,
}

impl Attempt {
    /// Starts an attempt. `serial` is the launcher's number for it and is never reused. `fds` are the descriptors of
    /// the message; if some are missing, this process's descriptor table was full. The error is a text for users.
    pub(crate) fn start(
        resources: &Resources,
        serial: u64,
        message: &SpawnMessage,
        fds: &[OwnedFd],
    ) -> Result<Self, String> {
        let subject = Subject::of(message);
        if fds.len() != message.targets.len() {
            return Err(subject.explain_create(&Errno::MFILE.into()));
        }
        let memory = match (&resources.memory, message.memory_limit) {
            (Some(tree), Some(limit)) => {
                let cgroup = tree.attempt(limit, &resources.epoll, serial);
                Some(cgroup.map_err(|error| subject.explain_memory(limit, &error))?)
            }
            _ => None,
        };
        match Self::create(resources, serial, message, fds, memory.as_ref()) {
            Ok((child, container, report, captured)) => Ok(Self {
                id: message.id,
                child,
                container,
                memory,
                subject,
                report,
                captured,
                tail: Tail::new(message.stderr_tail as usize),
                end: None,
                out_of_memory: false,
                grace_until: None,
                killed: false,
                orphaned: false,
            }),
            Err(error) => {
                if let (Some(tree), Some(memory)) = (&resources.memory, memory) {
                    tree.end(memory);
                }
                Err(subject.explain_create(&error))
            }
        }
    }

    fn create(
        resources: &Resources,
        serial: u64,
        message: &SpawnMessage,
        fds: &[OwnedFd],
        memory: Option<&MemoryCgroup>,
    ) -> io::Result<(i32, Container, Report, Option<Watched>)> {
        let (report_reader, report_writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&report_reader, true)?;
        let report_reader = Watched::new(&resources.epoll, report_reader, serial, Source::Report)?;
        let given = |target: RawFd| message.targets.contains(&target);
        let mut moves: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).zip(message.targets.iter().copied()).collect();
        if !given(libc::STDIN_FILENO) {
            moves.push((resources.null.as_raw_fd(), libc::STDIN_FILENO));
        }
        let outputs = [libc::STDOUT_FILENO, libc::STDERR_FILENO];
        let captured = if outputs.into_iter().all(given) {
            None
        } else {
            let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&reader, true)?;
            let reader = Watched::new(&resources.epoll, reader, serial, Source::Captured)?;
            let missing = outputs.into_iter().filter(|&target| !given(target));
            moves.extend(missing.map(|target| (writer.as_raw_fd(), target)));
            Some((reader, writer))
        };

        let mut plan = Plan::new(PlanParts {
            program: &message.program,
            argv: &message.argv,
            env: &message.env,
            cwd: message.cwd.as_deref(),
            moves,
            report: report_writer.as_raw_fd(),
            report_pid: resources.cgroups.is_none(),
            memory: memory.map(|memory| memory.entrance().as_raw_fd()),
            oom_score_adj: message.oom_score_adj,
            open_files: resources.open_files,
            ignored: resources.ignored,
        });
        let (child, container) = match &resources.cgroups {
            Some(tree) => {
                let (child, cgroup) = start_in_cgroup(tree, message, &mut plan)?;
                (child, Container::Cgroup(cgroup))
            }
            None => {
                let (reaper, child) = Reaper::start(&mut plan)?;
                (child, Container::Reaper(reaper))
            }
        };
        let report = Report { pipe: Some(report_reader), bytes: Vec::new(), has_pid: resources.cgroups.is_none() };
        Ok((child, container, report, captured.map(|(reader, _)| reader)))
    }

    /// Ends the attempt by this time: sends SIGTERM unless that has been done, and kills at once if the grace is zero.
    /// Returns the end of the grace if that has changed.
    pub(crate) fn stop(&mut self, until: Option<Instant>) -> Option<Instant> {
        let Some(until) = until.filter(|_| !self.killed) else {
            self.kill_now();
            return None;
        };
        match self.grace_until {
            Some(before) if before <= until => return None,
            Some(_) => {}
            None => self.terminate(),
        }
        self.grace_until = Some(until);
        self.grace_until
    }

    /// Whether it has a grace that has ended.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.grace_until.is_some_and(|until| until <= now)
    }

    /// At the daemon's request.
    pub(crate) fn kill_now(&mut self) {
        self.grace_until = None;
        self.killed = true;
        self.kill();
    }

    fn terminate(&self) {
        match &self.container {
            Container::Cgroup(cgroup) => {
                let list = || {
                    let mut all = cgroup.processes()?;
                    // A privileged function may have left its cgroup.
                    if self.end.is_none() && !all.contains(&self.child) {
                        all.push(self.child);
                    }
                    Ok(all)
                };
                if let Err(error) = sys::terminate(list) {
                    tracing::warn!(attempt = self.id, %error, "its cgroup cannot be read");
                }
            }
            Container::Reaper(reaper) => reaper.terminate(),
        }
    }

    /// Kills all processes of the attempt.
    pub(crate) fn kill(&self) {
        match &self.container {
            Container::Cgroup(cgroup) => {
                if let Err(error) = cgroup.kill() {
                    tracing::warn!(attempt = self.id, %error, "its cgroup cannot be killed");
                }
                // A privileged function may have left its cgroup.
                if self.end.is_none() {
                    sys::kill_child(self.child);
                }
            }
            Container::Reaper(reaper) => reaper.kill(),
        }
    }

    /// Kills all processes of the attempt if it has reached its memory limit.
    pub(crate) fn check_memory(&mut self) {
        if self.memory.as_mut().is_some_and(MemoryCgroup::take_alarm) {
            self.kill();
        }
    }

    /// Reads the report of the new process; returns an event when it has become the program.
    pub(crate) fn read_report(&mut self) -> Option<LauncherEvent> {
        let pipe = self.report.pipe.as_ref()?;
        let mut bytes = [0; 64];
        loop {
            match rustix::io::read(pipe, &mut bytes) {
                Ok(0) => break,
                Ok(length) => self.report.bytes.extend_from_slice(&bytes[..length]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(_) => break,
            }
        }
        self.report.pipe = None;
        match self.failure() {
            Some(_) => None,
            None => self.main_pid().map(|pid| LauncherEvent::Spawned { id: self.id, pid }),
        }
    }

    /// Reads some of the attempt's output, if there is any.
    pub(crate) fn read_captured(&mut self, buffer: &mut [u8]) -> Option<LauncherEvent> {
        let pipe = self.captured.as_ref()?;
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(length @ 1..) => {
                let bytes = &buffer[..length];
                self.tail.push(bytes);
                return Some(LauncherEvent::Output { id: self.id, bytes: bytes.to_vec() });
            }
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Ok(0) => {}
            Err(error) => tracing::warn!(attempt = self.id, %error, "its standard error cannot be read"),
        }
        self.captured = None;
        None
    }

    /// Stops reading its output, so that it blocks in `write` once the pipe is full.
    pub(crate) fn pause_output(&self) -> io::Result<()> {
        self.captured.as_ref().map_or(Ok(()), Watched::pause)
    }

    /// Ends [`Self::pause_output`].
    pub(crate) fn resume_output(&self, serial: u64) -> io::Result<()> {
        self.captured.as_ref().map_or(Ok(()), |pipe| pipe.resume(serial, Source::Captured))
    }

    /// Notes that [`Self::child`] has been reaped.
    pub(crate) fn child_ended(&mut self, end: ProcessEnd) {
        let reported = match &self.container {
            Container::Cgroup(_) => Some(end),
            Container::Reaper(reaper) => reaper.report(),
        };
        self.orphaned = reported.is_none();
        self.end = reported;
    }

    /// Whether it ends only when the launcher has no children of unknown origin.
    pub(crate) fn is_orphaned(&self) -> bool {
        self.orphaned
    }

    /// After the end of the child: kills the remaining processes of the attempt, unless its grace has not ended, and
    /// returns whether there were any.
    pub(crate) fn finish(&mut self, resources: &Resources) -> Progress {
        let (Container::Cgroup(cgroup), Some(tree)) = (&self.container, &resources.cgroups) else {
            // A reaper ends after all processes that it has adopted.
            return Progress::Ended;
        };
        self.out_of_memory = cgroup.out_of_memory();
        match tree.remove_attempt(cgroup) {
            Ok(true) => return Progress::Ended,
            Ok(false) => {}
            Err(error) if cgroup.is_empty() => {
                tracing::warn!(attempt = self.id, %error, "its empty cgroup cannot be removed");
                return Progress::Ended;
            }
            Err(error) => tracing::warn!(attempt = self.id, %error, "its cgroup cannot be removed yet"),
        }
        if self.grace_until.is_none() {
            self.kill();
        }
        Progress::Ending
    }

    /// The next event after all processes of the attempt have ended: its remaining output, then its end. All writers of
    /// the pipe are dead, unless one has passed it to a process outside the attempt; output of that process is not
    /// waited for.
    pub(crate) fn read_rest(&mut self, buffer: &mut [u8]) -> Option<LauncherEvent> {
        if self.failure().is_some() {
            return None;
        }
        self.read_captured(buffer)
    }

    /// The last event.
    pub(crate) fn into_last_event(mut self, resources: &Resources) -> LauncherEvent {
        let id = self.id;
        if let (Some(tree), Some(memory)) = (&resources.memory, self.memory.take()) {
            self.out_of_memory |= memory.out_of_memory();
            tree.end(memory);
        }
        if let Some(failure) = self.failure() {
            let error = self.subject.explain(failure);
            return LauncherEvent::SpawnFailed { id, error };
        }
        // Killing a reaper also kills the main process.
        let end =
            self.end.unwrap_or(ProcessEnd { status: ExitStatus::Signaled(libc::SIGKILL), usage: Usage::default() });
        let (stderr_tail, stderr_bytes) = self.tail.into_parts();
        LauncherEvent::Exited {
            id,
            status: end.status,
            killed: self.killed,
            out_of_memory: self.out_of_memory,
            stderr_tail,
            stderr_bytes,
            usage: end.usage,
        }
    }

    fn failure(&self) -> Option<Failure> {
        let bytes = self.report.bytes.as_slice();
        // If a reaper could not create the main process, the report has a failure and no pid.
        let tail = bytes.len().checked_sub(Failure::LENGTH)?;
        Failure::from_bytes(bytes[tail..].try_into().ok()?)
    }

    fn main_pid(&self) -> Option<i32> {
        if self.report.has_pid {
            self.report.bytes.first_chunk().copied().map(i32::from_ne_bytes)
        } else {
            Some(self.child)
        }
    }
}

fn start_in_cgroup(tree: &CgroupTree, message: &SpawnMessage, plan: &mut Plan<'_>) -> io::Result<(i32, Cgroup)> {
    let cgroup = tree.attempt(message.id.to_string(), message.memory_limit)?;
    // SAFETY: the launcher has one thread; the child calls `Plan::run` only, which is async-signal-safe.
    match unsafe { sys::fork_into(cgroup.as_fd()) } {
        Ok(Fork::Parent { child }) => Ok((child, cgroup)),
        // SAFETY: this is a fresh child.
        Ok(Fork::Child) => unsafe { plan.run() },
        Err(error) => {
            let _ = tree.remove_attempt(&cgroup);
            Err(error)
        }
    }
}
