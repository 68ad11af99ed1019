//! One attempt on this node: its set-up, its reports and its end.

use crate::logs::excerpt::{Printed, excerpt, seek_advice};
use crate::notice::Stopped;
use crate::order::Limits;
use dflow_launcher::{ExitStatus, LauncherEvent};
use dflow_protocol::{InstanceId, RunId};
use dflow_scheduler::{Outcome, Overrun, Stopwatch, TimeLimits, Wait};
use rustix::process::Signal;
use std::time::Duration;

/// An attempt that is alive.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) run: RunId,
    /// The instance, or `None` for the source of a workflow input.
    pub(crate) instance: Option<InstanceId>,
    pub(crate) number: u32,
    pub(crate) name: String,
    /// A thread of the daemon instead of a process.
    pub(crate) is_thread: bool,
    /// The slots that it holds while it computes.
    pub(crate) slots: u32,
    /// For a command: the inputs that it gets as pipes.
    pub(crate) pipes: Vec<String>,
    /// It is the adapter of a command.
    pub(crate) is_command: bool,
    /// What it has printed.
    pub(crate) printed: Printed,
    pub(crate) started: bool,
    /// It had to wait for its slots.
    pub(crate) is_queued: bool,
    pub(crate) parked: bool,
    /// The program of a command uses a processor.
    pub(crate) computing: bool,
    /// The program of a command has ended, and these processes hold its outputs open.
    pub(crate) held_open: Option<String>,
    /// The function's own report of its end.
    pub(crate) said: Option<Result<(), (String, bool)>>,
    /// Counts the time of a process.
    pub(crate) watch: Option<Stopwatch>,
    /// How long it may go on after its SIGTERM.
    pub(crate) grace: Duration,
    /// For each input the outputs that it reads.
    pub(crate) sources: Vec<String>,
    /// Its run's driver has told it to end.
    pub(crate) is_stopped: bool,
    /// Why it was told to end.
    pub(crate) killed: Option<String>,
    /// Its protocol violation.
    pub(crate) misbehaved: Option<String>,
}

impl Attempt {
    pub(crate) fn new(run: RunId, instance: Option<InstanceId>, number: u32, name: String, is_thread: bool) -> Self {
        Self {
            run,
            instance,
            number,
            name,
            is_thread,
            slots: 1,
            pipes: Vec::new(),
            is_command: false,
            printed: Printed::default(),
            started: false,
            is_queued: false,
            parked: false,
            computing: false,
            held_open: None,
            said: None,
            watch: None,
            grace: Duration::ZERO,
            sources: Vec::new(),
            is_stopped: false,
            killed: None,
            misbehaved: None,
        }
    }

    /// Its process is being started.
    pub(crate) fn limit(&mut self, now: Duration, limits: Limits, sources: Vec<String>) {
        let duration = Duration::from_nanos;
        self.grace = duration(limits.grace);
        self.sources = sources;
        let limits = TimeLimits {
            start: duration(limits.start),
            computing: limits.computing.map(duration),
            total: limits.total.map(duration),
            // Without a grace it would be killed as soon as it has done its work.
            ending: self.grace.max(MIN_ENDING),
        };
        self.watch = Some(Stopwatch::new(now, limits));
    }

    /// Whether it has exceeded a limit of time, and then why it is to end.
    pub(crate) fn overrun(&mut self, now: Duration) -> Option<String> {
        let overrun = self.watch.as_mut()?.check(now)?;
        let text = overrun.describe(|wait| match wait {
            Wait::Input(input) => self.sources.get(input as usize).cloned().unwrap_or_else(|| "an input".into()),
            Wait::Room => "room in its outputs".into(),
            Wait::Helpers => "processes that it had left behind".into(),
        });
        Some(match (overrun, &self.said) {
            (Overrun::Start { limit }, _) => format!(
                "it has not become a dflow function within {limit:?}: a 'program' has to call dflow_function::run; any other \
                 program goes under 'command'. One that takes longer to start needs a longer 'start_timeout'"
            ),
            (Overrun::Ending { .. }, Some(Ok(()))) => format!("its work was done, but {text}"),
            (Overrun::Ending { .. }, Some(Err((reason, _)))) => format!("{reason}; after it had said so, {text}"),
            (Overrun::Ending { .. }, None) => format!("it closed its channel to dflow, and {text}"),
            (Overrun::Computing { .. } | Overrun::Total { .. }, _) => text,
        })
    }

    /// How it ended, if it was told to.
    pub(crate) fn stopped(&self, exit: &LauncherEvent) -> Option<Stopped> {
        self.killed.as_ref()?;
        match exit {
            LauncherEvent::Exited { killed: true, .. } => Some(Stopped::Killed),
            LauncherEvent::Exited { .. } => Some(Stopped::ByItself),
            LauncherEvent::Spawned { .. } | LauncherEvent::Output { .. } | LauncherEvent::SpawnFailed { .. } => None,
        }
    }

    /// The outcome of an attempt whose processes have all ended. `told_unread`: the store had told it that its outputs
    /// have no reader.
    pub(crate) fn outcome(&self, exit: &LauncherEvent, told_unread: bool) -> Outcome {
        let (status, tail, bytes, out_of_memory) = match exit {
            LauncherEvent::Exited { status, stderr_tail, stderr_bytes, out_of_memory, .. } => {
                (*status, stderr_tail.as_slice(), *stderr_bytes, *out_of_memory)
            }
            LauncherEvent::SpawnFailed { error, .. } => return Outcome::Failed { reason: error.clone() },
            LauncherEvent::Spawned { .. } | LauncherEvent::Output { .. } => (ExitStatus::Exited(0), &[][..], 0, false),
        };
        let failed = |reason: String| {
            let printed = excerpt(tail, bytes, &self.printed, &reason);
            let advice = self.is_command.then(|| seek_advice(tail, &self.pipes)).flatten();
            let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
            let separator = if printed.is_empty() { "" } else { "\n" };
            Outcome::Failed { reason: format!("{reason}{advice}{separator}{printed}") }
        };
        if let Some(what) = &self.misbehaved {
            return failed(format!("it violated the protocol of its streams: {what}"));
        }
        if let Some(reason) = &self.killed {
            let how = match self.stopped(exit) {
                Some(Stopped::Killed) if self.grace.is_zero() => String::new(),
                Some(Stopped::Killed) => format!("; it was killed, {:?} after SIGTERM", self.grace),
                Some(Stopped::ByItself) => "; it ended by itself after SIGTERM".into(),
                None => String::new(),
            };
            return failed(format!("{reason}{how}"));
        }
        if out_of_memory {
            return failed("it was killed because it used more memory than 'resources: memory' allows".into());
        }
        match (&self.said, status) {
            (Some(Ok(())), ExitStatus::Exited(0)) => Outcome::Succeeded,
            (Some(Ok(())), status) => failed(format!("its work was done, but then it {}", verb(status))),
            (Some(Err((_, true))), _) if told_unread => Outcome::Unread,
            (Some(Err((reason, _))), _) => failed(reason.clone()),
            (None, ExitStatus::Exited(0)) => failed(
                "it ended without having been a dflow function: a 'program' has to call dflow_function::run and return its \
                 exit code; any other program goes under 'command'"
                    .into(),
            ),
            (None, status) => failed(format!("it {}", verb(status))),
        }
    }

    /// Whether another attempt may succeed where this one has failed: a time limit has ended it, or a signal that is not the
    /// answer to what the program itself did.
    pub(crate) fn is_transient(&self, exit: &LauncherEvent) -> bool {
        let LauncherEvent::Exited { status, out_of_memory, .. } = exit else { return false };
        if *out_of_memory || self.misbehaved.is_some() {
            return false;
        }
        let signal = match *status {
            ExitStatus::Signaled(signal) => Some(signal),
            // As a shell does, the adapter says by its status that a signal has ended its program.
            ExitStatus::Exited(code) if self.is_command => {
                code.checked_sub(dflow_command::SIGNALED).filter(|it| *it > 0)
            }
            ExitStatus::Exited(_) => None,
        };
        self.killed.is_some() || signal.is_some_and(|signal| !FAULTS.iter().any(|fault| fault.as_raw() == signal))
    }

    /// The outcome of a thread of the daemon.
    pub(crate) fn thread_outcome(&self, result: Result<(), String>) -> Outcome {
        match (&self.killed, &self.misbehaved, result) {
            (Some(reason), ..) | (None, Some(reason), _) => Outcome::Failed { reason: reason.clone() },
            (None, None, Err(reason)) => Outcome::Failed { reason },
            (None, None, Ok(())) => Outcome::Succeeded,
        }
    }
}

/// Signals that a program gets for what it did, and will do again.
const FAULTS: [Signal; 9] = [
    Signal::ILL,
    Signal::TRAP,
    Signal::ABORT,
    Signal::BUS,
    Signal::FPE,
    Signal::SEGV,
    Signal::PIPE,
    Signal::XFSZ,
    Signal::SYS,
];

/// How long a process may at least go on after it has said that it is done: it frees its memory, say.
const MIN_ENDING: Duration = Duration::from_secs(1);

const SIGKILL: i32 = Signal::KILL.as_raw();

fn verb(status: ExitStatus) -> String {
    match status {
        ExitStatus::Exited(code) => format!("ended with exit status {code}"),
        ExitStatus::Signaled(SIGKILL) => {
            format!(
                "was {status}: unless another process sent the signal, the kernel did, because memory was short (see 'dmesg')"
            )
        }
        ExitStatus::Signaled(_) => format!("was {status}"),
    }
}
