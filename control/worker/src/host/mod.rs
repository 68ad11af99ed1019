//! The part of a run on this node: the store, the launcher, the attempts with their channels, and the carrier of
//! streams from and to other nodes. It carries out orders and reports what happens. The driver of the run
//! ([`crate::run`]), on this node or on another, decides what follows.

mod limits;
mod obey;
mod start;

use crate::attempt::Attempt;
use crate::check::SetupError;
use crate::connection::{Arrival, Connection};
use crate::options::{NodeOptions, cores};
use crate::order::{Notice, Record};
use crate::program::Wanted;
use crate::report::MemoryReport;
use crate::run::nanos;
use crate::surroundings::Surroundings;
use dflow_carrier::{Carrier, Report};
use dflow_launcher::{Launcher, LauncherEvent};
use dflow_protocol::{Epoch, InstanceId, RunId, StreamId};
use dflow_scheduler::{Outcome, Stopwatch};
use dflow_shm::now_nanos;
use dflow_store::{Completion, Config, ProcessId, RunStream, Store, StoreError, StoreEvent, TenantId, Threads};
use dflow_transport::{LinkEvent, LinkStats};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Threads that are runnable while streams cross between nodes: the carrier's, and the one that encrypts.
const CARRIER_THREADS: usize = 2;
/// The most events of the launcher in one turn: a program that prints without end does not keep the node from the others.
const LAUNCHER_EVENTS: usize = 64;
/// How often the store re-examines its streams.
const TICK: Duration = Duration::from_millis(100);

pub(crate) struct Host {
    id: RunId,
    spin: Duration,
    /// Cached, because counting the cores reads several files.
    cores: usize,
    store: Store,
    launcher: Launcher,
    /// A duplicate of the launcher's socket, to wait for its readiness.
    launcher_socket: UnixDatagram,
    /// It has more events than one turn takes.
    launcher_is_ahead: bool,
    /// The environment of functions that set no variables of their own.
    environment: BTreeMap<OsString, OsString>,
    /// The files of programs that have been found.
    programs: HashMap<Wanted, PathBuf>,
    connections: HashMap<ProcessId, Connection>,
    attempts: BTreeMap<ProcessId, Attempt>,
    processes: HashMap<(InstanceId, u32), ProcessId>,
    /// The present epoch of every stream.
    epochs: HashMap<StreamId, Epoch>,
    /// The attempts that wait for a new part, in the order of their requests.
    wanted_parts: HashMap<(InstanceId, u32), VecDeque<ProcessId>>,
    next_process: u64,
    /// When the run began, on the clock that functions use for their first bytes.
    start_nanos: u64,
    notices: VecDeque<Notice>,
    /// Bytes written by ended attempts.
    written: u64,
    /// Ended attempts, by outcome.
    ended: Ended,
    carrier: Option<Carrier>,
    /// The link to each node with which streams are exchanged.
    links: BTreeMap<u32, LinkStats>,
    summed: bool,
    lost_paths: Vec<(u32, u64, LinkEvent)>,
    tick: tokio::time::Interval,
    /// When limits of time were looked at last.
    looked_at: Duration,
    arrivals: UnboundedSender<Arrival>,
    arriving: UnboundedReceiver<Arrival>,
    /// Completed jobs of the store's threads.
    completing: UnboundedReceiver<Completion>,
    /// Processes that have ended while their output is still being verified.
    comparing: Vec<LauncherEvent>,
    thread_ends: UnboundedSender<(ProcessId, Result<(), String>)>,
    ending: UnboundedReceiver<(ProcessId, Result<(), String>)>,
    carried: UnboundedSender<Report>,
    carrying: UnboundedReceiver<Report>,
}

/// Attempts of functions on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AttemptCounts {
    pub(crate) prepared: u64,
    pub(crate) running: u64,
    /// Started, and waiting for data or credit.
    pub(crate) waiting: u64,
    /// The slots held by running attempts.
    pub(crate) slots: u64,
    pub(crate) ended: Ended,
}

/// Ended attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) succeeded: u64,
    pub(crate) unread: u64,
    pub(crate) failed: u64,
}

impl Ended {
    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Succeeded => self.succeeded += 1,
            Outcome::Unread => self.unread += 1,
            Outcome::Failed { .. } => self.failed += 1,
        }
    }
}

/// The time as the store and the functions count it.
fn now() -> Duration {
    Duration::from_nanos(now_nanos())
}

impl Host {
    /// A host without streams and attempts. Must be called on a tokio `LocalSet`.
    ///
    /// # Errors
    /// If the machine cannot provide what the store needs.
    pub(crate) fn new(
        options: &NodeOptions,
        id: RunId,
        launcher: Launcher,
        surroundings: &Surroundings,
    ) -> Result<Self, SetupError> {
        let system = |what| move |source| SetupError::System { what, source };
        let socket = launcher.as_fd().try_clone_to_owned().map_err(system("watch the launcher"))?;
        let launcher_socket = UnixDatagram::from_std(socket.into()).map_err(system("watch the launcher"))?;
        let (completed, completing) = unbounded_channel();
        let threads = Threads::start(&options.spill_dir, options.spill_io, move |completion| {
            // The receiver is gone once the run is over; that is fine.
            let _ = completed.send(completion);
        })?;
        let memory = options.budget()?;
        let config = Config { window: options.window, ..Config::new(memory) };
        let mut store = Store::new(config, Box::new(threads))?;
        // As long as each run has a store of its own, all of its memory is the run's.
        store.admit(id, TenantId::default(), Config::MIN_MEMORY, memory)?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (arrivals, arriving) = unbounded_channel();
        let (thread_ends, ending) = unbounded_channel();
        let (carried, carrying) = unbounded_channel();
        Ok(Self {
            id,
            spin: options.spin,
            cores: cores(),
            store,
            launcher,
            launcher_socket,
            launcher_is_ahead: false,
            environment: surroundings.here(),
            programs: HashMap::new(),
            connections: HashMap::new(),
            attempts: BTreeMap::new(),
            processes: HashMap::new(),
            epochs: HashMap::new(),
            wanted_parts: HashMap::new(),
            next_process: 1,
            start_nanos: now_nanos(),
            notices: VecDeque::new(),
            written: 0,
            ended: Ended::default(),
            carrier: None,
            links: BTreeMap::new(),
            summed: false,
            lost_paths: Vec::new(),
            tick,
            looked_at: Duration::ZERO,
            arrivals,
            arriving,
            completing,
            comparing: Vec::new(),
            thread_ends,
            ending,
            carried,
            carrying,
        })
    }

    /// Waits for the next event and handles it. Cancel-safe: dropping the future loses nothing.
    pub(crate) async fn turn(&mut self) {
        tokio::select! {
            Some(arrival) = self.arriving.recv() => {
                self.arrived(arrival);
                // All pending messages are handled before any decision rests on them.
                while let Ok(arrival) = self.arriving.try_recv() {
                    self.arrived(arrival);
                }
            }
            () = std::future::ready(()), if self.launcher_is_ahead => self.launcher_events(),
            _ = self.launcher_socket.readable(), if !self.launcher_is_ahead => self.launcher_readable(),
            Some(completion) = self.completing.recv() => {
                self.store.complete(now(), completion);
                for exit in std::mem::take(&mut self.comparing) {
                    self.process_exited(&exit);
                }
            }
            Some((process, result)) = self.ending.recv() => self.thread_ended(process, result),
            Some(report) = self.carrying.recv() => self.carrier_report(report),
            _ = self.tick.tick() => {
                self.store.tick(now());
                self.look_at_limits();
            }
        }
    }

    /// Applies what has happened on this node, and returns the next notice for the driver.
    pub(crate) fn next_notice(&mut self) -> Option<Notice> {
        if self.notices.is_empty() {
            for event in self.store.take_events() {
                self.store_event(event);
            }
        }
        self.notices.pop_front()
    }

    /// Sends pending messages and finds attempts that continue. To be called when there are no notices; it may cause
    /// new ones.
    pub(crate) fn settle(&mut self) {
        self.send_outgoing();
        self.look_who_goes_on();
        if self.launcher.wants_write() {
            let result = self.launcher.flush();
            self.note_launcher(result);
        }
    }

    /// The time since the run's start.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(now_nanos().saturating_sub(self.start_nanos))
    }

    /// When the run began, on the machine's monotonic clock.
    pub(crate) fn start_nanos(&self) -> u64 {
        self.start_nanos
    }

    /// Bytes that functions have written so far.
    pub(crate) fn written(&self) -> u64 {
        let written = self.attempts.keys().map(|&process| self.store.traffic(process).written);
        written.fold(self.written, u64::saturating_add)
    }

    /// Instances that have been started and not ended.
    pub(crate) fn active(&self) -> Vec<String> {
        let active = self.attempts.values().filter(|attempt| attempt.started && !attempt.is_thread);
        let name = |attempt: &Attempt| match &attempt.held_open {
            Some(by) => format!("{} (has ended; {by} holds its output)", attempt.name),
            None => attempt.name.clone(),
        };
        active.map(name).collect()
    }

    /// The attempts of functions on this node.
    pub(crate) fn attempts(&self) -> AttemptCounts {
        let mut counts = AttemptCounts { ended: self.ended, ..AttemptCounts::default() };
        for attempt in self.attempts.values().filter(|attempt| !attempt.is_thread) {
            match (attempt.started, attempt.parked) {
                (false, _) => counts.prepared += 1,
                (true, true) => counts.waiting += 1,
                (true, false) => {
                    counts.running += 1;
                    counts.slots += u64::from(attempt.slots);
                }
            }
        }
        counts
    }

    pub(crate) fn memory(&self) -> MemoryReport {
        let usage = self.store.usage();
        MemoryReport {
            budget_bytes: usage.limit,
            used_bytes: usage.memory,
            peak_bytes: usage.peak,
            spilled_bytes: usage.spilled,
        }
    }

    /// Sends the store's messages. Returns whether there were any.
    fn send_outgoing(&mut self) -> bool {
        let outgoing = self.store.take_outgoing();
        let any = !outgoing.is_empty();
        for message in outgoing {
            let process = message.process;
            // Windows are granted, and pieces delivered, by these messages.
            tracing::trace!(
                instance = self.attempts.get(&process).map(|attempt| attempt.name.as_str()), message = ?message.message,
                "a message to the attempt"
            );
            if let Some(connection) = self.connections.get_mut(&process)
                && let Err(what) = connection.send(message, self.store.bells())
            {
                self.store.condemn(process, what);
            }
        }
        any
    }

    /// The node cannot go on with the run.
    pub(crate) fn fail(&mut self, reason: String) {
        self.notices.push_back(Notice::Failed { reason });
    }

    /// Parked instances that continue hold their slots again.
    fn look_who_goes_on(&mut self) {
        let now = self.elapsed();
        for (&process, attempt) in &mut self.attempts {
            if attempt.parked && attempt.held_open.is_none() && !self.store.is_waiting(process) {
                attempt.parked = false;
                attempt.watch.iter_mut().for_each(|watch| watch.resume(now));
                if let Some(instance) = attempt.instance {
                    self.notices.push_back(Notice::Resumed { instance, attempt: attempt.number });
                }
            }
        }
        let busy =
            self.attempts.values().filter(|attempt| attempt.started && !attempt.parked && !attempt.is_thread).count();
        let carrying = if self.carrier.is_some() { CARRIER_THREADS } else { 0 };
        self.store.bells().set_crowded(busy + carrying > self.cores);
    }

    fn misbehaved(&mut self, process: ProcessId, what: String) {
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
    fn stop(&mut self, process: ProcessId, reason: String) {
        let now = self.elapsed();
        let Some(attempt) = self.attempts.get_mut(&process) else { return };
        attempt.killed.get_or_insert(reason);
        attempt.watch.iter_mut().for_each(|watch| watch.stop(now));
        let grace = attempt.grace;
        self.end_process(process, grace);
    }

    /// Kills every process that still runs.
    pub(crate) fn kill_all(&mut self, reason: &str) {
        let processes: Vec<ProcessId> =
            self.attempts.iter().filter(|(_, attempt)| !attempt.is_thread).map(|(&process, _)| process).collect();
        for process in processes {
            if let Some(attempt) = self.attempts.get_mut(&process) {
                attempt.grace = Duration::ZERO;
            }
            self.stop(process, reason.to_owned());
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
            let result = self.launcher.stop(process.0, grace);
            self.note_launcher(result);
        }
    }

    /// A failure of the store fails the run, not the daemon.
    fn note(&mut self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.notices.push_back(Notice::Failed { reason: error.to_string() });
        }
    }

    /// Without its launcher every attempt of the run is dead.
    fn note_launcher(&mut self, result: Result<(), dflow_launcher::Error>) {
        let Err(error) = result else { return };
        tracing::error!(%error, "the launcher has failed");
        self.notices.push_back(Notice::Failed { reason: error.to_string() });
        if matches!(error, dflow_launcher::Error::Ended { .. } | dflow_launcher::Error::Socket { .. }) {
            let dead: Vec<ProcessId> =
                self.attempts.iter().filter(|(_, attempt)| !attempt.is_thread).map(|(&process, _)| process).collect();
            for process in dead {
                let reason = format!("its launcher is gone: {error}");
                self.process_ended(process, Outcome::Failed { reason }, Record::default());
            }
        }
    }

    fn launcher_readable(&mut self) {
        // Forgotten before the events are taken: what comes from now on makes the socket readable anew.
        let _ = self
            .launcher_socket
            .try_io(Interest::READABLE, || -> std::io::Result<()> { Err(std::io::ErrorKind::WouldBlock.into()) });
        self.launcher_events();
    }

    fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Message(process, Ok(message), fds) => {
                self.store.receive(now(), process, message, fds);
            }
            Arrival::Message(process, Err(what), _) => self.store.condemn(process, what),
            Arrival::Closed(process) => self.has_to_end(process),
            Arrival::Writable(process) => {
                if let Some(connection) = self.connections.get_mut(&process) {
                    connection.writable();
                }
            }
        }
    }

    fn launcher_events(&mut self) {
        self.launcher_is_ahead = false;
        for _ in 0..LAUNCHER_EVENTS {
            match self.launcher.recv() {
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
        self.launcher_is_ahead = true;
    }

    fn printed(&mut self, process: ProcessId, bytes: Vec<u8>) {
        let Some(attempt) = self.attempts.get_mut(&process) else { return };
        attempt.lines.count(&bytes);
        if let Some(instance) = attempt.instance {
            self.notices.push_back(Notice::Printed { instance, attempt: attempt.number, bytes, lost: 0 });
        }
    }

    fn process_exited(&mut self, exit: &LauncherEvent) {
        let process = ProcessId(exit.id());
        // Its last messages may still be in its channel.
        let last = self.connections.get(&process).map(Connection::drain).unwrap_or_default();
        while let Ok(arrival) = self.arriving.try_recv() {
            self.arrived(arrival);
        }
        for (message, fds) in last {
            self.arrived(Arrival::Message(process, message, fds));
        }
        self.store.examine(process);
        for event in self.store.take_events() {
            self.store_event(event);
        }
        if self.store.is_comparing(process) {
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

    fn thread_ended(&mut self, process: ProcessId, result: Result<(), String>) {
        while let Ok(arrival) = self.arriving.try_recv() {
            self.arrived(arrival);
        }
        for (message, fds) in self.connections.get(&process).map(Connection::drain).unwrap_or_default() {
            self.arrived(Arrival::Message(process, message, fds));
        }
        self.store.examine(process);
        for event in self.store.take_events() {
            self.store_event(event);
        }
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
        self.connections.remove(&process);
        let well = !matches!(outcome, Outcome::Failed { .. });
        self.store.end(now(), process, well);
        for event in self.store.take_events() {
            self.store_event(event);
        }
        match attempt.instance {
            Some(instance) => {
                self.processes.remove(&(instance, attempt.number));
                if !attempt.is_thread {
                    self.ended.count(&outcome);
                }
                self.written = self.written.saturating_add(record.written);
                self.notices.push_back(Notice::Ended {
                    instance,
                    attempt: attempt.number,
                    end: outcome.into(),
                    record,
                });
            }
            None => {
                if let Outcome::Failed { reason } = outcome {
                    self.notices.push_back(Notice::Failed { reason });
                }
            }
        }
    }

    fn record(&self, process: ProcessId) -> Record {
        let traffic = self.store.traffic(process);
        let since_start = |at: Option<u64>| at.map(|at| at.saturating_sub(self.start_nanos));
        Record {
            read: traffic.read,
            written: traffic.written,
            first_read: since_start(traffic.first_read),
            first_written: since_start(traffic.first_written),
            ..Record::default()
        }
    }

    fn store_event(&mut self, event: StoreEvent) {
        let of = |attempts: &BTreeMap<ProcessId, Attempt>, process| {
            attempts.get(&process).and_then(|attempt| Some((attempt.instance?, attempt.number)))
        };
        match event {
            StoreEvent::Ready(process) => match of(&self.attempts, process) {
                Some((instance, attempt)) => {
                    // Sinks and sources have no gates: they start as soon as they exist.
                    self.watch(process, Stopwatch::ready);
                    if !self.attempts.get(&process).is_some_and(|attempt| attempt.is_thread) {
                        self.notices.push_back(Notice::Ready { instance, attempt });
                    }
                }
                None => self.store.start(process),
            },
            StoreEvent::FirstBytes(RunStream { stream, .. }) => {
                let epoch = self.epoch(stream);
                self.notices.push_back(Notice::FirstBytes { stream, epoch });
            }
            StoreEvent::Finished(RunStream { stream, .. }, length) => {
                let epoch = self.epoch(stream);
                self.notices.push_back(Notice::Finished { stream, epoch, length });
            }
            StoreEvent::Diverged(RunStream { stream, .. }, what) => {
                let epoch = self.epoch(stream);
                tracing::warn!(%stream, what, "a function that is declared deterministic is not");
                self.notices.push_back(Notice::Diverged { stream, epoch });
            }
            StoreEvent::PartWanted(process, output) => {
                if let Some((instance, attempt)) = of(&self.attempts, process) {
                    self.wanted_parts.entry((instance, output)).or_default().push_back(process);
                    self.notices.push_back(Notice::PartWanted { instance, attempt, output });
                }
            }
            StoreEvent::Parked(process) => {
                self.watch_wait(process);
                if let Some((instance, number)) = of(&self.attempts, process)
                    && let Some(attempt) = self.attempts.get_mut(&process)
                    && attempt.started
                    && !attempt.parked
                    && !attempt.is_thread
                    && self.store.is_waiting(process)
                {
                    attempt.parked = true;
                    self.notices.push_back(Notice::Parked { instance, attempt: number });
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
            StoreEvent::Failed(_, failure) => self.notices.push_back(Notice::Failed { reason: failure.to_string() }),
        }
    }

    /// A stream of the run, as the store knows it.
    fn of_run(&self, stream: StreamId) -> RunStream {
        RunStream { run: self.id, stream }
    }

    fn epoch(&self, stream: StreamId) -> Epoch {
        self.epochs.get(&stream).copied().unwrap_or(Epoch(1))
    }
}
