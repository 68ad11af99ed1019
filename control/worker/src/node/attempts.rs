//! The attempts on a node: which of them compute, which wait, and how they are ended.

use super::attempt::Attempt;
use super::{Node, now};
use crate::notice::Remark;
use dflow_protocol::{InstanceId, RunId};
use dflow_scheduler::Event;
use dflow_store::ProcessId;
use std::time::Duration;

/// Threads that want to run while streams go from node to node: the carrier's, and the one that encrypts.
const CARRIER_THREADS: usize = 2;

impl Node {
    pub(super) fn attempts_of(&self, run: RunId) -> impl Iterator<Item = (ProcessId, &Attempt)> {
        let attempts = self.guests.get(&run).into_iter().flat_map(|guest| &guest.attempts);
        attempts.filter_map(|&process| Some((process, self.attempts.get(&process)?)))
    }

    /// The run, the instance and the number of an attempt; `None` for the source of a workflow input.
    pub(super) fn name_of(&self, process: ProcessId) -> Option<(RunId, InstanceId, u32)> {
        let attempt = self.attempts.get(&process)?;
        Some((attempt.run, attempt.instance?, attempt.number))
    }

    pub(super) fn process_of(&self, run: RunId, instance: InstanceId, attempt: u32) -> Option<ProcessId> {
        self.guests.get(&run)?.processes.get(&(instance, attempt)).copied()
    }

    /// Removes an attempt from all lists but that of its guest.
    pub(super) fn forget(&mut self, process: ProcessId) {
        self.connections.remove(&process);
        self.running.remove(&process);
        self.parked.remove(&process);
    }

    /// Starts an attempt at once. A process must have its slots.
    pub(super) fn start(&mut self, process: ProcessId) {
        if let Some(attempt) = self.attempts.get_mut(&process) {
            attempt.started = true;
            if !attempt.is_thread {
                self.running.insert(process);
            }
        }
        self.watch(process, dflow_scheduler::Stopwatch::start);
        self.store.start(process);
    }

    /// Starts a thread at once, and a process when it gets its slots.
    pub(super) fn start_in_turn(&mut self, run: RunId, process: ProcessId) {
        match self.attempts.get_mut(&process) {
            Some(attempt) if !attempt.is_thread && attempt.killed.is_none() => {
                self.slots.request(run, process, attempt.slots);
                attempt.is_queued = false;
                self.grant_slots();
                let Some(attempt) = self.attempts.get_mut(&process).filter(|attempt| !attempt.started) else { return };
                attempt.is_queued = true;
                self.store.set_queued(process, true);
                if let Some(instance) = attempt.instance {
                    let attempt = attempt.number;
                    self.notify(run, Remark::Queued { instance, attempt });
                }
            }
            Some(attempt) if attempt.is_thread => self.start(process),
            _ => {}
        }
    }

    /// Starts the attempts that get their slots now.
    pub(super) fn grant_slots(&mut self) {
        while let Some((run, process)) = self.slots.grant() {
            self.start(process);
            if let Some(attempt) = self.attempts.get(&process)
                && attempt.is_queued
                && let Some(instance) = attempt.instance
            {
                let attempt = attempt.number;
                self.notify(run, Event::Started { instance, attempt });
                self.notify(run, Remark::Started { instance, attempt });
            }
        }
    }

    /// An attempt waits for something that is not its own: others may have its slots.
    pub(super) fn park(&mut self, process: ProcessId) {
        let Some(attempt) = self.attempts.get_mut(&process) else { return };
        if std::mem::replace(&mut attempt.parked, true) {
            return;
        }
        let (run, instance, number) = (attempt.run, attempt.instance, attempt.number);
        self.running.remove(&process);
        self.parked.insert(process);
        self.slots.park(run, process);
        if let Some(instance) = instance {
            self.notify(run, Event::Parked { instance, attempt: number });
            self.notify(run, Remark::Parked { instance, attempt: number });
        }
    }

    /// Takes slots for parked attempts that have resumed.
    pub(super) fn resume_parked(&mut self) {
        let resumed = |process: &ProcessId| {
            !self.store.is_waiting(*process) && self.attempts.get(process).is_some_and(|it| it.held_open.is_none())
        };
        let resumed: Vec<ProcessId> = self.parked.iter().copied().filter(resumed).collect();
        let now = now();
        for process in resumed {
            self.parked.remove(&process);
            self.running.insert(process);
            let Some(attempt) = self.attempts.get_mut(&process) else { continue };
            attempt.parked = false;
            attempt.watch.iter_mut().for_each(|watch| watch.resume(now));
            let (run, instance, number) = (attempt.run, attempt.instance, attempt.number);
            self.slots.resume(run, process);
            if let Some(instance) = instance {
                self.notify(run, Event::Resumed { instance, attempt: number });
                self.notify(run, Remark::Resumed { instance, attempt: number });
            }
        }
        let carrying = if self.peers.carrier.is_some() { CARRIER_THREADS } else { 0 };
        self.store.bells().set_crowded(self.running.len() + carrying > self.cores);
    }

    pub(super) fn misbehaved(&mut self, process: ProcessId, what: String) {
        if let Some(attempt) = self.attempts.get_mut(&process)
            && attempt.misbehaved.is_none()
        {
            tracing::warn!(instance = attempt.name, what, "an attempt violated the protocol");
            attempt.misbehaved = Some(what);
            // It has no claim to a grace.
            self.end_process(process, Duration::ZERO);
        }
    }

    /// Tells an attempt to end. A process has its grace.
    pub(super) fn stop(&mut self, process: ProcessId, reason: String) {
        let Some(attempt) = self.attempts.get_mut(&process) else { return };
        attempt.killed.get_or_insert(reason);
        attempt.watch.iter_mut().for_each(|watch| watch.stop(now()));
        if !attempt.started {
            // It must not start while it ends.
            self.slots.release(attempt.run, process);
        }
        let grace = attempt.grace;
        self.end_process(process, grace);
    }

    /// The same, because the driver of its run says so.
    pub(super) fn stop_for_driver(&mut self, process: ProcessId, reason: String) {
        if let Some(attempt) = self.attempts.get_mut(&process) {
            attempt.is_stopped = true;
        }
        self.stop(process, reason);
    }

    /// Kills every process of a run.
    pub(super) fn kill_all(&mut self, run: RunId, reason: &str) {
        let processes: Vec<ProcessId> =
            self.attempts_of(run).filter(|(_, attempt)| !attempt.is_thread).map(|(process, _)| process).collect();
        for process in processes {
            if let Some(attempt) = self.attempts.get_mut(&process) {
                attempt.grace = Duration::ZERO;
            }
            self.stop_for_driver(process, reason.to_owned());
        }
    }

    /// Ends the process or thread with this id. Its end is reported later, by the launcher or the thread.
    fn end_process(&mut self, process: ProcessId, grace: Duration) {
        let is_thread = self.attempts.get(&process).is_some_and(|attempt| attempt.is_thread);
        if is_thread {
            if let Some(connection) = self.connections.get_mut(&process) {
                connection.hang_up(self.store.bells());
            }
        } else {
            self.stop_process(process, grace);
        }
    }

    /// Tells the launcher to end a process.
    pub(super) fn stop_process(&mut self, process: ProcessId, grace: Duration) {
        self.launcher.stops.push_back((process, grace));
        self.send_stops();
    }

    /// Tells the launcher which processes to end, as far as its queue has room: none may be forgotten.
    pub(super) fn send_stops(&mut self) {
        while let Some(&(process, grace)) = self.launcher.stops.front() {
            match self.launcher.launcher.stop(process.0, grace) {
                Err(dflow_launcher::Error::QueueFull) => return,
                result => {
                    self.launcher.stops.pop_front();
                    self.note_launcher(result);
                }
            }
        }
    }
}
