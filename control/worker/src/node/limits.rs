//! The time limits of attempts. Each attempt's [`Stopwatch`](dflow_scheduler::Stopwatch) is told here what the node knows.

use super::attempt::Attempt;
use super::{Node, TICK, now};
use crate::notice::Remark;
use dflow_protocol::message::ProgramState;
use dflow_scheduler::{Stopwatch, Wait};
use dflow_store::{ProcessId, Waiting};
use std::time::Duration;

/// Limits are looked at with every tick. If it comes so late, this process did not run: it was stopped, or the machine slept.
const GAP: Duration = Duration::from_millis(250);

/// The longest text, in bytes, about processes that hold outputs open.
const MAX_HOLDERS: usize = 256;

impl Node {
    /// Ends the attempts that have exceeded a limit.
    pub(super) fn look_at_limits(&mut self) {
        let now = now();
        let passed = now.saturating_sub(std::mem::replace(&mut self.looked_at, now));
        if passed > GAP {
            let gap = passed - TICK;
            tracing::debug!(?gap, "the node did not run");
            self.attempts.values_mut().flat_map(|attempt| &mut attempt.watch).for_each(|watch| watch.skip(now, gap));
        }
        if self.overrunning(now).next().is_none() {
            return;
        }
        // What has ended has ended in time, and so has what goes on to wait, although the node has not seen it yet.
        self.take_arrivals();
        self.launcher_events();
        let late: Vec<ProcessId> = self.overrunning(now).collect();
        for process in late {
            let reason = self.attempts.get_mut(&process).and_then(|attempt| attempt.overrun(now));
            if let Some(reason) = reason {
                self.stop(process, reason);
            }
        }
    }

    fn overrunning(&self, now: Duration) -> impl Iterator<Item = ProcessId> {
        let is_late =
            move |attempt: &Attempt| attempt.watch.as_ref().and_then(Stopwatch::expires).is_some_and(|at| at <= now);
        self.attempts.iter().filter(move |(_, attempt)| is_late(attempt)).map(|(&process, _)| process)
    }

    /// The adapter of a command says what its program does. A program that computes holds no slot while its streams wait,
    /// or a program that looks for input again and again would keep its producer from starting; but its time counts.
    pub(super) fn program_state(&mut self, process: ProcessId, state: ProgramState) {
        let Some(attempt) = self.attempts.get_mut(&process).filter(|attempt| attempt.started) else { return };
        attempt.computing = state == ProgramState::Computing;
        match state {
            ProgramState::Computing => self.watch(process, Stopwatch::resume),
            ProgramState::Idle => self.watch_wait(process),
            ProgramState::HeldOpen { mut by } if attempt.held_open.is_none() => {
                by.truncate(by.floor_char_boundary(MAX_HOLDERS));
                attempt.held_open = Some(by.clone());
                let name = self.name_of(process);
                self.watch(process, |watch, now| watch.park(now, Wait::Helpers));
                self.park(process);
                if let Some((run, instance, attempt)) = name {
                    self.notify(run, Remark::HeldOpen { instance, attempt, by });
                }
            }
            ProgramState::HeldOpen { .. } => {}
        }
    }

    /// An attempt says that it waits.
    pub(super) fn watch_wait(&mut self, process: ProcessId) {
        if self.attempts.get(&process).is_some_and(|attempt| attempt.computing || attempt.held_open.is_some()) {
            return;
        }
        let wait = match self.store.waiting_for(process) {
            Some(Waiting::Input(input)) => Wait::Input(input),
            Some(Waiting::Room) => Wait::Room,
            None => return,
        };
        self.watch(process, |watch, now| watch.park(now, wait));
    }

    /// An attempt has said that it is done, or has closed its channel: it can do nothing more for the run.
    pub(super) fn has_to_end(&mut self, process: ProcessId) {
        self.watch(process, Stopwatch::ending);
    }

    pub(super) fn watch(&mut self, process: ProcessId, tell: impl FnOnce(&mut Stopwatch, Duration)) {
        let now = now();
        if let Some(watch) = self.attempts.get_mut(&process).and_then(|attempt| attempt.watch.as_mut()) {
            tell(watch, now);
        }
    }
}
