//! The program as a process: started, kept supplied, waited for.

use crate::activity::Activity;
use crate::connect::Connections;
use crate::explain;
use crate::helpers::OutputPipes;
use dflow_function::{Error, ProgramState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::SIGTERM;
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The variable that leads the adapter to its daemon. The program does not get it: the channel is the adapter's.
const SOCKET_VARIABLE: &str = "DFLOW_SOCKET";

/// When a program that goes on is looked at first, and at most how long it is left alone after that. Looking costs a
/// few files of /proc for each of its processes.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(2);

/// The stack of a thread that moves bytes.
const STACK_BYTES: usize = 256 << 10;

/// A program that runs. Dropping it kills the program and waits for its end.
pub(crate) struct Program {
    title: String,
    /// Its `argv[0]`.
    name: String,
    /// Its file.
    path: PathBuf,
    ends: Ends,
    child: Child,
    reports: Receiver<Report>,
    /// Outputs that have not reported [`Report::Drained`].
    draining: usize,
    pipes: OutputPipes,
}

/// How a program may end.
pub(crate) struct Ends {
    /// The exit statuses that count as success.
    pub(crate) success: Vec<i32>,
    /// The time from SIGTERM until it is killed.
    pub(crate) grace: Duration,
}

/// The messages of the threads that move bytes.
enum Report {
    /// An output has all bytes that were written to its pipe.
    Drained,
    /// Nobody reads any of the outputs any more.
    Unread(Error),
    /// A stream has failed, and the program is killed for it.
    Failed(Error),
}

impl Program {
    /// Starts it, and a thread for each of its pipes. `path`: its file, if that is not its first argument.
    pub(crate) fn start(
        path: Option<PathBuf>,
        title: String,
        ends: Ends,
        mut connections: Connections,
    ) -> Result<Self, Error> {
        let feeds = std::mem::take(&mut connections.feeds);
        let drains = std::mem::take(&mut connections.drains);
        let (mut program, killer) = Self::spawn(path, title, ends, connections)?;
        program.draining = drains.len();
        program.pipes = OutputPipes::of(drains.iter().map(|drain| &drain.pipe));
        for feed in feeds {
            killer.watch("in", move |_| feed.run())?;
        }
        for drain in drains {
            killer.watch("out", move |reports| {
                // Before the pipe closes: the SIGPIPE that follows must not be taken for a failure.
                drain.run(|unread| report(reports, Report::Unread(unread)))?;
                report(reports, Report::Drained);
                Ok(())
            })?;
        }
        Ok(program)
    }

    /// Starts the process alone. The program's ends of its pipes are closed here: while one is open, no pipe ends.
    fn spawn(
        path: Option<PathBuf>,
        title: String,
        ends: Ends,
        connections: Connections,
    ) -> Result<(Self, Killer), Error> {
        let Connections { arguments, stdin, stdout, inherited, .. } = connections;
        let mut arguments = arguments.into_iter();
        let name = arguments.next().unwrap_or_default();
        let path = path.unwrap_or_else(|| PathBuf::from(&name));
        let mut command = Command::new(&path);
        command.arg0(&name).args(arguments).env_remove(SOCKET_VARIABLE).stdin(stdin).stdout(stdout);
        let child = command.spawn().map_err(|error| explain::not_started(&title, &path, &error))?;
        drop(inherited);
        // A handler, because an ignored signal would be inherited. Set only now, because before this the adapter itself
        // must end.
        signal_hook::flag::register(SIGTERM, Arc::new(AtomicBool::new(false)))
            .map_err(|error| Error::new(format!("cannot leave SIGTERM to `{title}`: {error}")))?;
        let (sender, reports) = channel();
        let grace = ends.grace;
        let program =
            Self { title, name, path, ends, child, reports, draining: 0, pipes: OutputPipes::of::<OwnedFd>([]) };
        let killer = Killer { process: Arc::new(program.descriptor()?), grace, reports: sender };
        Ok((program, killer))
    }

    /// Waits until the program has ended and its outputs are here. Fails if it has not succeeded; `signal` is then the
    /// one that ended it, if one did.
    pub(crate) fn finish(mut self, tell: &dyn Fn(ProgramState), signal: &Cell<Option<i32>>) -> Result<(), Error> {
        self.watch(tell);
        let status = self
            .child
            .wait()
            .map_err(|error| Error::new(format!("cannot learn how `{}` has ended: {error}", self.title)))?;
        let success = status.code().is_some_and(|code| self.ends.success.contains(&code));
        loop {
            // A process that the program has left behind may still write to its outputs, and those bytes count. After a
            // failure none do.
            let report =
                if success && self.draining > 0 { self.last_reports(tell) } else { self.reports.try_recv().ok() };
            match report {
                Some(Report::Drained) => self.draining -= 1,
                Some(Report::Unread(error) | Report::Failed(error)) => return Err(error),
                None if !success => {
                    signal.set(status.signal());
                    return Err(explain::ended(&self.title, &self.name, &self.path, status));
                }
                None if self.draining > 0 => {
                    return Err(Error::new(format!("a thread that reads the outputs of `{}` has died", self.title)));
                }
                // Threads that still feed the program end with this process: their pipes have no reader left.
                None => return Ok(()),
            }
        }
    }

    /// Waits until the program has ended, and reports to the daemon when it begins or stops computing.
    fn watch(&self, tell: &dyn Fn(ProgramState)) {
        let Ok(process) = self.descriptor() else { return };
        let mut pause = FIRST_LOOK;
        if ends_within(&process, pause) {
            return;
        }
        let mut activity = Activity::begin();
        let mut computing = false;
        loop {
            // While it computes, the time until that is over is counted as well.
            pause = if computing { FIRST_LOOK } else { (pause * 2).min(LAST_LOOK) };
            if ends_within(&process, pause) {
                return;
            }
            if activity.take() != computing {
                computing = !computing;
                tell(if computing { ProgramState::Computing } else { ProgramState::Idle });
            }
        }
    }

    /// The next message after the program has ended. If it takes long, reports the processes that hold the outputs open
    /// to the daemon.
    fn last_reports(&self, tell: &dyn Fn(ProgramState)) -> Option<Report> {
        match self.reports.recv_timeout(FIRST_LOOK) {
            Ok(report) => return Some(report),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let by = self.pipes.holders().unwrap_or_else(|| "a process that cannot be seen".to_owned());
        tell(ProgramState::HeldOpen { by });
        self.reports.recv().ok()
    }

    /// A descriptor of the process. Its id alone could be another process's by the time it is used.
    fn descriptor(&self) -> Result<OwnedFd, Error> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::new(format!("`{}` has no process id", self.title)))?;
        pidfd_open(pid, PidfdFlags::empty())
            .map_err(|errno| Error::new(format!("cannot watch the process of `{}`: {errno}", self.title)))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both do nothing if it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends the program when a stream fails.
struct Killer {
    process: Arc<OwnedFd>,
    grace: Duration,
    reports: Sender<Report>,
}

impl Killer {
    /// Does `work` in a separate thread; if it fails, that is reported, and the program is killed.
    fn watch(
        &self,
        name: &str,
        work: impl FnOnce(&Sender<Report>) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (process, grace, reports) = (Arc::clone(&self.process), self.grace, self.reports.clone());
        let body = move || {
            if let Err(error) = work(&reports) {
                report(&reports, Report::Failed(error));
                end(&process, grace);
            }
        };
        let started = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(body);
        started.map(drop).map_err(|error| {
            Error::new(format!(
                "cannot start a thread for a pipe of the program: {error}; the limit of processes (`ulimit -u`, or pids.max \
                 of the cgroup) counts threads, too"
            ))
        })
    }
}

/// SIGTERM, and SIGKILL if the process has not ended after `grace`.
fn end(process: &OwnedFd, grace: Duration) {
    // It may already have ended.
    let _ = pidfd_send_signal(process, Signal::TERM);
    let _ = pidfd_send_signal(process, Signal::CONT);
    if !ends_within(process, grace) {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

/// Whether a process ends in this time.
fn ends_within(process: &OwnedFd, time: Duration) -> bool {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left =
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            Ok(1..) => return true,
            // The time is up, or it cannot be waited for.
            Ok(0) | Err(_) => return false,
        }
    }
}

fn report(reports: &Sender<Report>, what: Report) {
    // If the receiver is gone, the program has ended and the result is known.
    let _ = reports.send(what);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    /// A program that would run for long.
    fn sleeping() -> (Program, Killer) {
        running(&["sleep", "1000"], Duration::from_secs(3600))
    }

    fn running(arguments: &[&str], grace: Duration) -> (Program, Killer) {
        let connections = Connections {
            arguments: arguments.iter().map(|argument| (*argument).into()).collect(),
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            inherited: Vec::new(),
            feeds: Vec::new(),
            drains: Vec::new(),
        };
        Program::spawn(None, arguments.join(" "), Ends { success: vec![0], grace }, connections).unwrap()
    }

    /// A shell that does this at SIGTERM, once it waits for that.
    fn at_term(what: &str, grace: Duration) -> (Program, Killer, std::fs::File) {
        let (mut said, saying) = std::io::pipe().unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&saying));
        // Its child is not killed here and ends on its own; it holds no descriptor of the test.
        let script = format!(
            "exec >{path} 2>/dev/null; trap '{what}' TERM; sh -c 'echo; exec sleep 30 >/dev/null' & wait; wait"
        );
        let (program, killer) = running(&["sh", "-c", &script], grace);
        std::io::Read::read_exact(&mut said, &mut [0]).unwrap();
        drop(saying);
        (program, killer, std::os::fd::OwnedFd::from(said).into())
    }

    #[test]
    fn a_program_whose_stream_fails_can_clean_up() {
        let (program, killer, said) = at_term("echo clean; exit 0", Duration::from_secs(3600));
        killer.watch("in", |_| Err(Error::new("broken"))).unwrap();
        assert_eq!(program.finish(&|_| (), &Cell::new(None)).unwrap_err().to_string(), "broken");
        assert_eq!(std::io::read_to_string(said).unwrap(), "clean\n");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let (program, killer, _said) = at_term("", Duration::from_millis(100));
        killer.watch("in", |_| Err(Error::new("broken"))).unwrap();
        assert_eq!(program.finish(&|_| (), &Cell::new(None)).unwrap_err().to_string(), "broken");
    }

    #[test]
    fn a_stream_that_fails_ends_the_program_and_is_the_reason() {
        let (program, killer) = sleeping();
        killer.watch("in", |_| Err(Error::new("broken"))).unwrap();
        assert_eq!(program.finish(&|_| (), &Cell::new(None)).unwrap_err().to_string(), "broken");
    }

    #[test]
    fn a_program_does_not_outlive_its_adapter() {
        let (program, killer) = sleeping();
        drop(program);
        // It has been reaped.
        assert_eq!(pidfd_send_signal(&*killer.process, Signal::KILL), Err(rustix::io::Errno::SRCH));
    }

    #[test]
    fn a_program_that_is_killed_from_outside_is_not_waited_for() {
        let (mut program, killer) = sleeping();
        program.draining = 1;
        pidfd_send_signal(&*killer.process, Signal::KILL).unwrap();
        drop(killer);
        let error = program.finish(&|_| (), &Cell::new(None)).unwrap_err().to_string();
        assert!(error.starts_with("`sleep 1000` was killed by SIGKILL"), "{error}");
    }
}
