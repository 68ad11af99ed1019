//! What the launcher, the store and the threads of a node report, and what follows from it on the node.

use super::connection::{Arrival, Connection};
use super::{LAUNCHER_EVENTS, Node, now};
use crate::notice::{Record, Remark};
use crate::time::nanos;
use dflow_launcher::LauncherEvent;
use dflow_protocol::RunId;
use dflow_scheduler::{Event, Outcome, Stopwatch};
use dflow_store::{ProcessId, RunStream, StoreError, StoreEvent};

impl Node {
    /// A failure of the store fails the run that it concerns, not the node.
    pub(super) fn note(&mut self, run: RunId, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.notify(run, Event::StoreFailed { reason: error.to_string() });
        }
    }

    /// Without its launcher every process of the node is dead.
    pub(super) fn note_launcher(&mut self, result: Result<(), dflow_launcher::Error>) {
        let Err(error) = result else { return };
        tracing::error!(%error, "the launcher has failed");
        let is_gone = matches!(error, dflow_launcher::Error::Ended { .. } | dflow_launcher::Error::Socket { .. });
        if self.launcher.is_gone {
            return;
        }
        self.launcher.is_gone = is_gone;
        let runs: Vec<RunId> = self.guests.keys().copied().collect();
        for run in runs {
            self.notify(run, Event::StoreFailed { reason: error.to_string() });
        }
        if is_gone {
            let dead: Vec<ProcessId> =
                self.attempts.iter().filter(|(_, attempt)| !attempt.is_thread).map(|(&process, _)| process).collect();
            for process in dead {
                let reason = format!("its launcher is gone: {error}");
                self.process_ended(process, Outcome::Failed { reason }, Record::default());
            }
        }
    }

    pub(super) fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Message(process, Ok(message), fds) => {
                self.store.receive(now(), process, message, fds);
            }
            Arrival::Message(process, Err(what), _) => self.store.condemn(process, what),
            Arrival::Closed(process) => {
                if !self.finish_leaving(process) {
                    self.has_to_end(process);
                }
            }
            Arrival::Writable(process) => {
                if let Some(connection) = self.connections.get_mut(&process) {
                    connection.writable();
                }
            }
        }
    }

    /// Takes everything that attempts have sent.
    pub(super) fn take_arrivals(&mut self) {
        while let Ok(arrival) = self.arriving.try_recv() {
            self.arrived(arrival);
        }
        self.take_store_events();
    }

    pub(super) fn launcher_events(&mut self) {
        self.launcher.is_ahead = false;
        for _ in 0..LAUNCHER_EVENTS {
            match self.launcher.launcher.recv() {
                Ok(Some(LauncherEvent::Spawned { id, pid })) => {
                    let instance = self.attempts.get(&ProcessId(id)).map(|attempt| attempt.name.as_str());
                    tracing::debug!(instance, pid, "its process runs");
                }
                Ok(Some(LauncherEvent::Output { id, bytes })) => self.printed(ProcessId(id), bytes),
                Ok(Some(event)) => self.process_exited(&event),
                Ok(None) => return,
                Err(error) => return self.note_launcher(Err(error)),
            }
        }
        self.launcher.is_ahead = true;
    }

    fn printed(&mut self, process: ProcessId, bytes: Vec<u8>) {
        let Some(attempt) = self.attempts.get_mut(&process) else { return };
        attempt.printed.push(&bytes);
        if let Some(instance) = attempt.instance {
            let (run, attempt) = (attempt.run, attempt.number);
            self.notify(run, Remark::Printed { instance, attempt, bytes, lost: 0 });
        }
    }

    /// Takes the last messages of an attempt that is over: they may still be in its channel.
    fn take_last_messages(&mut self, process: ProcessId) {
        let last = self.connections.get(&process).map(Connection::drain).unwrap_or_default();
        while let Ok(arrival) = self.arriving.try_recv() {
            self.arrived(arrival);
        }
        for (message, fds) in last {
            self.arrived(Arrival::Message(process, message, fds));
        }
        self.store.examine(process);
        self.take_store_events();
    }

    pub(super) fn process_exited(&mut self, exit: &LauncherEvent) {
        let process = ProcessId(exit.id());
        self.take_last_messages(process);
        if self.store.is_comparing(process) {
            // Its end is reported when it is known whether its readers can keep what they have read.
            self.comparing.push(exit.clone());
            return;
        }
        let Some(attempt) = self.attempts.get(&process) else { return };
        let outcome = attempt.outcome(exit, self.store.was_told_unread(process));
        let mut record = self.record(process);
        record.stopped = attempt.stopped(exit);
        if let LauncherEvent::Exited { usage, .. } = exit {
            (record.user, record.system) = (nanos(usage.user), nanos(usage.system));
            record.max_rss = usage.max_rss;
        }
        record.transient = matches!(outcome, Outcome::Failed { .. }) && attempt.is_transient(exit);
        self.process_ended(process, outcome, record);
    }

    pub(super) fn thread_ended(&mut self, process: ProcessId, result: Result<(), String>) {
        self.take_last_messages(process);
        let Some(attempt) = self.attempts.get(&process) else { return };
        let outcome = match attempt.thread_outcome(result) {
            Outcome::Failed { .. } if attempt.instance.is_none() && self.store.was_told_unread(process) => {
                Outcome::Unread
            }
            outcome => outcome,
        };
        let record = self.record(process);
        self.process_ended(process, outcome, record);
    }

    fn process_ended(&mut self, process: ProcessId, outcome: Outcome, record: Record) {
        let Some(attempt) = self.attempts.remove(&process) else { return };
        self.forget(process);
        self.slots.release(attempt.run, process);
        let well = !matches!(outcome, Outcome::Failed { .. });
        self.store.end(now(), process, well);
        self.take_store_events();
        let Some(guest) = self.guests.get_mut(&attempt.run) else { return };
        guest.attempts.remove(&process);
        match attempt.instance {
            Some(instance) => {
                guest.processes.remove(&(instance, attempt.number));
                if !attempt.is_thread {
                    guest.ended.count(&outcome, attempt.is_stopped);
                }
                guest.written = guest.written.saturating_add(record.written);
                let (attempt, run) = (attempt.number, attempt.run);
                // Its record comes first: its end may be the end of the run.
                self.notify(run, Remark::Ended { instance, attempt, record });
                self.notify(run, Event::Ended { instance, attempt, outcome });
            }
            None => {
                if let Outcome::Failed { reason } = outcome {
                    self.notify(attempt.run, Event::StoreFailed { reason });
                }
            }
        }
    }

    fn record(&self, process: ProcessId) -> Record {
        let traffic = self.store.traffic(process);
        let guest = self.attempts.get(&process).and_then(|attempt| self.guests.get(&attempt.run));
        let start = guest.map_or(0, |guest| guest.start_nanos);
        let since_start = |at: Option<u64>| at.map(|at| at.saturating_sub(start));
        Record {
            read: traffic.read,
            written: traffic.written,
            first_read: since_start(traffic.first_read),
            first_written: since_start(traffic.first_written),
            ..Record::default()
        }
    }

    /// Handles what the store reports.
    pub(super) fn take_store_events(&mut self) {
        for event in self.store.take_events() {
            self.store_event(event);
        }
    }

    fn store_event(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Ready(process) => match self.name_of(process) {
                Some((run, instance, attempt)) => {
                    // Sinks and sources have no gates: they start as soon as they exist.
                    self.watch(process, Stopwatch::ready);
                    if !self.attempts.get(&process).is_some_and(|attempt| attempt.is_thread) {
                        self.notify(run, Event::Ready { instance, attempt });
                    }
                }
                None => self.store.start(process),
            },
            StoreEvent::FirstBytes(RunStream { run, stream }) => {
                let epoch = self.epoch(run, stream);
                self.notify(run, Event::FirstBytes { stream, epoch });
            }
            StoreEvent::Finished(RunStream { run, stream }, length) => {
                let epoch = self.epoch(run, stream);
                self.notify(run, Event::Finished { stream, epoch, length });
            }
            StoreEvent::Diverged(RunStream { run, stream }, what) => {
                let epoch = self.epoch(run, stream);
                tracing::warn!(%stream, what, "a function that is declared deterministic is not");
                self.notify(run, Event::Diverged { stream, epoch });
            }
            StoreEvent::PartWanted(process, output) => {
                if let Some((run, instance, attempt)) = self.name_of(process) {
                    if let Some(guest) = self.guests.get_mut(&run) {
                        guest.wanted_parts.entry((instance, output)).or_default().push_back(process);
                    }
                    self.notify(run, Event::PartOpened { instance, attempt, output });
                }
            }
            StoreEvent::Parked(process) => {
                self.watch_wait(process);
                let is_function = |process| {
                    let attempt = self.attempts.get(process);
                    attempt.is_some_and(|it| it.instance.is_some() && it.started && !it.is_thread)
                };
                if is_function(&process) && self.store.is_waiting(process) {
                    self.park(process);
                }
            }
            StoreEvent::Program(process, state) => self.program_state(process, state),
            StoreEvent::Ended(process, said) => {
                if let Some(attempt) = self.attempts.get_mut(&process) {
                    attempt.said.get_or_insert(said);
                }
                self.has_to_end(process);
            }
            StoreEvent::Misbehaved(process, what) => self.misbehaved(process, what),
            StoreEvent::Failed(run, failure) => self.notify(run, Event::StoreFailed { reason: failure.to_string() }),
        }
    }
}
