//! A run on this node: the loop between the scheduler, the store, the launcher and the attempts.

use crate::attempt::{Attempt, Common, Record};
use crate::check::{Checked, InputFiles, RunSpec, SetupError, examine};
use crate::connection::{Arrival, Connection};
use crate::options::{cores, raise_descriptor_limit};
use crate::outputs::Staging;
use crate::report::{MemoryReport, Progress, RunReport};
use crate::sink;
use dflow_launcher::{Launcher, LauncherEvent, LauncherOptions};
use dflow_protocol::{Epoch, InstanceId, RunId, StreamId};
use dflow_scheduler::{Action, Event, InstanceKind, Outcome, RunMachine, RunOptions, RunState};
use dflow_shm::now_nanos;
use dflow_store::{Config, HashDone, Hasher, ProcessId, SpillDone, Spiller, Store, StoreError, StoreEvent};
use dflow_workflow::Workflow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How often the store is asked to look again, and a person is shown how far things are.
const TICK: Duration = Duration::from_millis(100);
/// Programs that are made ready ahead of their gates, for each slot, and at the most.
const AHEAD_PER_SLOT: u32 = 2;
const MAX_AHEAD: u32 = 64;
/// How long the loop sleeps when no timer is set.
const FAR: Duration = Duration::from_secs(3600);
/// Started processes at the same time.
const MAX_STARTED: u32 = 1024;

/// Runs a workflow on this machine and waits for its end. `progress` is called a few times a second.
///
/// Ctrl-C and SIGTERM cancel the run. Whatever happens, no process and no memory of the run is left when this returns.
///
/// # Errors
/// If the run could not be started. A run that was started and failed is an `Ok` whose report says so.
pub fn run(spec: &RunSpec, progress: impl FnMut(&Progress)) -> Result<RunReport, SetupError> {
    // The launcher first: a process is cheaply started while this one is small and has no threads.
    let options = LauncherOptions { containment: spec.options.containment, ..LauncherOptions::default() };
    let launcher = Launcher::start(&options)?;
    raise_descriptor_limit();
    let checked = examine(spec)?;
    let id = random_id();
    let system = |what| move |source| SetupError::System { what, source };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("start the event loop"))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let socket = launcher.as_fd().try_clone_to_owned().map_err(system("watch the launcher"))?;
        let socket = UnixDatagram::from_std(socket.into()).map_err(system("watch the launcher"))?;
        Driver::new(spec, checked, id, launcher)?.drive(socket, progress).await
    })
}

fn random_id() -> RunId {
    let mut bytes = [0; 16];
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        bytes[..8].copy_from_slice(&now_nanos().to_le_bytes());
        bytes[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    }
    RunId(u128::from_le_bytes(bytes))
}

pub(crate) struct Driver<'a> {
    pub(crate) spec: &'a RunSpec,
    pub(crate) workflow: Arc<Workflow>,
    pub(crate) checked: Checked,
    pub(crate) id: String,
    pub(crate) staging: Option<Staging>,
    pub(crate) machine: RunMachine,
    pub(crate) store: Store,
    pub(crate) launcher: Launcher,
    pub(crate) connections: HashMap<ProcessId, Connection>,
    pub(crate) attempts: BTreeMap<ProcessId, Attempt>,
    pub(crate) processes: HashMap<(InstanceId, u32), ProcessId>,
    pub(crate) records: HashMap<(InstanceId, u32), Record>,
    /// The present epoch of every stream.
    pub(crate) epochs: HashMap<StreamId, Epoch>,
    /// The streams of every output of an instance, by part.
    pub(crate) outputs: HashMap<(InstanceId, u32), Vec<StreamId>>,
    /// Who waits for the answer to a part that was asked for, in order.
    pub(crate) wanted_parts: HashMap<(InstanceId, u32), VecDeque<ProcessId>>,
    pub(crate) next_process: u64,
    /// When the run began, on the clock that functions use for their first bytes.
    pub(crate) start_nanos: u64,
    pub(crate) pending: VecDeque<Event>,
    pub(crate) cancelled: bool,
    wake_at: Option<Duration>,
    over: bool,
    pub(crate) arrivals: UnboundedSender<Arrival>,
    arriving: UnboundedReceiver<Arrival>,
    spilling: UnboundedReceiver<SpillDone>,
    hashing: UnboundedReceiver<HashDone>,
    /// Processes that are gone while what they wrote is still being compared.
    comparing: Vec<LauncherEvent>,
    pub(crate) thread_ends: UnboundedSender<(ProcessId, Result<(), String>)>,
    ending: UnboundedReceiver<(ProcessId, Result<(), String>)>,
}

impl<'a> Driver<'a> {
    fn new(spec: &'a RunSpec, mut checked: Checked, id: RunId, launcher: Launcher) -> Result<Self, SetupError> {
        let workflow = Arc::clone(&spec.workflow);
        sink::spool_where_needed(spec, &mut checked)?;
        let (spilled, spilling) = unbounded_channel();
        let spiller = Spiller::start(&spec.options.spill_dir, spec.options.spill_io, move |done| {
            // When the run is over nobody listens, and nobody has to.
            let _ = spilled.send(done);
        })?;
        let (hashed, hashing) = unbounded_channel();
        let hasher = Hasher::start(move |done| {
            let _ = hashed.send(done);
        })?;
        let store =
            Store::new(Config { memory: spec.options.budget()?, window: spec.options.window }, spiller, hasher)?;
        let input_parts = checked
            .inputs
            .iter()
            .map(|input| match input {
                InputFiles::Files(streams) => u32::try_from(streams.len()).unwrap_or(u32::MAX),
                InputFiles::Live(_) => 1,
            })
            .collect();
        let options = RunOptions {
            slots: spec.options.slots,
            invocation: spec.invocation,
            prepare_ahead: spec.options.slots.saturating_mul(AHEAD_PER_SLOT).clamp(4, MAX_AHEAD),
            max_started: MAX_STARTED,
            params: spec.params.clone(),
            input_parts,
        };
        let (arrivals, arriving) = unbounded_channel();
        let (thread_ends, ending) = unbounded_channel();
        let (machine, actions) = RunMachine::new(Arc::clone(&workflow), options)?;
        // Last of what can be refused, so that a refused run has made no directory.
        let staging = Staging::create(&spec.output, &id.to_string())?;
        let start_nanos = now_nanos();
        let mut driver = Self {
            spec,
            workflow,
            checked,
            id: id.to_string(),
            staging: Some(staging),
            machine,
            store,
            launcher,
            connections: HashMap::new(),
            attempts: BTreeMap::new(),
            processes: HashMap::new(),
            records: HashMap::new(),
            epochs: HashMap::new(),
            outputs: HashMap::new(),
            wanted_parts: HashMap::new(),
            next_process: 1,
            start_nanos,
            pending: VecDeque::new(),
            cancelled: false,
            wake_at: None,
            over: false,
            arrivals,
            arriving,
            spilling,
            hashing,
            comparing: Vec::new(),
            thread_ends,
            ending,
        };
        for action in actions {
            driver.perform(action);
        }
        Ok(driver)
    }

    async fn drive(
        mut self,
        launcher: UnixDatagram,
        mut progress: impl FnMut(&Progress),
    ) -> Result<RunReport, SetupError> {
        let system = |what| move |source| SetupError::System { what, source };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("watch for Ctrl-C"))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(system("watch for SIGTERM"))?;
        let mut hangup = signal(SignalKind::hangup()).map_err(system("watch for SIGHUP"))?;
        // With a handler, a file that grows past the process's limit is an error of that write, not the daemon's end.
        let _file_size = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.settle();
        while !self.over {
            let alarm = self.wake_at.map_or(FAR, |at| at.saturating_sub(self.elapsed()));
            tokio::select! {
                Some(arrival) = self.arriving.recv() => {
                    self.arrived(arrival);
                    // Whatever is there is handled before the scheduler looks at it.
                    while let Ok(arrival) = self.arriving.try_recv() {
                        self.arrived(arrival);
                    }
                }
                _ = launcher.readable() => {
                    // Everything that is there is taken, so what was noted as readable is not any more.
                    let _ = launcher.try_io(Interest::READABLE, || -> std::io::Result<()> {
                        self.launcher_events();
                        Err(std::io::ErrorKind::WouldBlock.into())
                    });
                }
                Some(done) = self.spilling.recv() => {
                    let result = self.store.spilled(done);
                    self.note(result);
                }
                Some(done) = self.hashing.recv() => {
                    let result = self.store.hashed(done);
                    self.note(result);
                    for exit in std::mem::take(&mut self.comparing) {
                        self.process_exited(&exit);
                    }
                }
                Some((process, result)) = self.ending.recv() => self.thread_ended(process, result),
                () = tokio::time::sleep(alarm) => {
                    if self.wake_at.take().is_some() {
                        self.pending.push_back(Event::TimerFired);
                    }
                }
                _ = tick.tick() => {
                    let result = self.store.tick();
                    self.note(result);
                    progress(&self.progress());
                }
                _ = interrupt.recv() => self.cancel("Ctrl-C"),
                _ = terminate.recv() => self.cancel("SIGTERM"),
                _ = hangup.recv() => self.cancel("the terminal is gone"),
            }
            self.settle();
        }
        self.finish()
    }

    /// The time since the run's start.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(now_nanos().saturating_sub(self.start_nanos))
    }

    fn cancel(&mut self, why: &str) {
        self.cancelled = true;
        self.pending.push_back(Event::Cancel { reason: why.into() });
    }

    /// Lets everything that has happened have its consequences, until nothing follows any more.
    fn settle(&mut self) {
        loop {
            for event in self.store.take_events() {
                self.store_event(event);
            }
            if let Some(event) = self.pending.pop_front() {
                for action in self.machine.handle(self.elapsed(), event) {
                    self.perform(action);
                }
                continue;
            }
            if !self.send_outgoing() {
                break;
            }
        }
        self.look_who_goes_on();
        if self.launcher.wants_write() {
            let result = self.launcher.flush();
            self.note_launcher(result);
        }
    }

    /// Sends what the store has to say; whether that was anything.
    pub(crate) fn send_outgoing(&mut self) -> bool {
        let outgoing = self.store.take_outgoing();
        let any = !outgoing.is_empty();
        for message in outgoing {
            let process = message.process;
            if let Some(connection) = self.connections.get_mut(&process)
                && let Err(what) = connection.send(message, self.store.bells())
            {
                self.misbehaved(process, what);
            }
        }
        any
    }

    /// Parked instances that go on count for the slots again.
    fn look_who_goes_on(&mut self) {
        let mut resumed = false;
        for (&process, attempt) in &mut self.attempts {
            if attempt.parked && !self.store.is_waiting(process) {
                attempt.parked = false;
                resumed = true;
                if let Some(instance) = attempt.instance {
                    self.pending.push_back(Event::Resumed { instance, attempt: attempt.number });
                }
            }
        }
        let busy =
            self.attempts.values().filter(|attempt| attempt.started && !attempt.parked && !attempt.is_thread).count();
        self.store.bells().set_crowded(busy > cores());
        if resumed {
            self.settle();
        }
    }

    pub(crate) fn misbehaved(&mut self, process: ProcessId, what: String) {
        if let Some(attempt) = self.attempts.get_mut(&process)
            && attempt.misbehaved.is_none()
        {
            tracing::warn!(instance = attempt.name, what, "an attempt broke the rules");
            attempt.misbehaved = Some(what);
            self.end_process(process);
        }
    }

    /// Ends whatever runs under this id; its end is reported by whoever runs it.
    fn end_process(&mut self, process: ProcessId) {
        let is_thread = self.attempts.get(&process).is_some_and(|attempt| attempt.is_thread);
        if is_thread {
            if let Some(connection) = self.connections.get_mut(&process) {
                connection.hang_up(self.store.bells());
            }
        } else {
            let result = self.launcher.kill(process.0);
            self.note_launcher(result);
        }
    }

    /// A failure of the store is the end of the run, not of the daemon.
    pub(crate) fn note(&mut self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.pending.push_back(Event::StoreFailed { reason: error.to_string() });
        }
    }

    /// Without a launcher nothing of the run is left: every attempt is over.
    pub(crate) fn note_launcher(&mut self, result: Result<(), dflow_launcher::Error>) {
        let Err(error) = result else { return };
        tracing::error!(%error, "the launcher cannot go on");
        self.pending.push_back(Event::StoreFailed { reason: error.to_string() });
        if matches!(error, dflow_launcher::Error::Ended { .. } | dflow_launcher::Error::Socket { .. }) {
            let dead: Vec<ProcessId> =
                self.attempts.iter().filter(|(_, attempt)| !attempt.is_thread).map(|(&process, _)| process).collect();
            for process in dead {
                let reason = format!("its launcher is gone: {error}");
                self.process_ended(process, Outcome::Failed { reason }, Record::default());
            }
        }
    }

    fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Message(process, Ok(message), fds) => {
                let result = self.store.receive(process, message, fds);
                self.note(result);
            }
            Arrival::Message(process, Err(what), _) => self.misbehaved(process, what),
            Arrival::Writable(process) => {
                if let Some(connection) = self.connections.get_mut(&process) {
                    connection.writable();
                }
            }
        }
    }

    fn launcher_events(&mut self) {
        loop {
            match self.launcher.recv() {
                Ok(Some(LauncherEvent::Spawned { .. })) => {}
                Ok(Some(event)) => self.process_exited(&event),
                Ok(None) => return,
                Err(error) => return self.note_launcher(Err(error)),
            }
        }
    }

    fn process_exited(&mut self, exit: &LauncherEvent) {
        let process = ProcessId(exit.id());
        // What it said last may still be in its channel.
        let last = self.connections.get(&process).map(Connection::drain).unwrap_or_default();
        while let Ok(arrival) = self.arriving.try_recv() {
            self.arrived(arrival);
        }
        for (message, fds) in last {
            self.arrived(Arrival::Message(process, message, fds));
        }
        for event in self.store.take_events() {
            self.store_event(event);
        }
        if self.store.is_comparing(process) {
            self.comparing.push(exit.clone());
            return;
        }
        let Some(attempt) = self.attempts.get(&process) else { return };
        let outcome = attempt.outcome(exit, self.store.was_told_unread(process));
        let mut record = Record { traffic: self.store.traffic(process), ..Record::default() };
        if let LauncherEvent::Exited { usage, .. } = exit {
            (record.user, record.system, record.max_rss) = (usage.user, usage.system, usage.max_rss);
        }
        self.process_ended(process, outcome, record);
    }

    fn thread_ended(&mut self, process: ProcessId, result: Result<(), String>) {
        while let Ok(arrival) = self.arriving.try_recv() {
            self.arrived(arrival);
        }
        for (message, fds) in self.connections.get(&process).map(Connection::drain).unwrap_or_default() {
            self.arrived(Arrival::Message(process, message, fds));
        }
        let Some(attempt) = self.attempts.get(&process) else { return };
        let outcome = match attempt.thread_outcome(result) {
            Outcome::Failed { .. } if attempt.instance.is_none() && self.store.was_told_unread(process) => {
                Outcome::Unread
            }
            outcome => outcome,
        };
        let record = Record { traffic: self.store.traffic(process), ..Record::default() };
        self.process_ended(process, outcome, record);
    }

    fn process_ended(&mut self, process: ProcessId, outcome: Outcome, record: Record) {
        let Some(attempt) = self.attempts.remove(&process) else { return };
        self.connections.remove(&process);
        let well = !matches!(outcome, Outcome::Failed { .. });
        let result = self.store.end(process, well);
        self.note(result);
        for event in self.store.take_events() {
            self.store_event(event);
        }
        match attempt.instance {
            Some(instance) => {
                self.processes.remove(&(instance, attempt.number));
                self.records.insert((instance, attempt.number), record);
                self.pending.push_back(Event::Ended { instance, attempt: attempt.number, outcome });
            }
            None => {
                if let Outcome::Failed { reason } = outcome {
                    self.pending.push_back(Event::StoreFailed { reason });
                }
            }
        }
    }

    pub(crate) fn store_event(&mut self, event: StoreEvent) {
        let of = |attempts: &BTreeMap<ProcessId, Attempt>, process| {
            attempts.get(&process).and_then(|attempt| Some((attempt.instance?, attempt.number)))
        };
        match event {
            StoreEvent::Ready(process) => match of(&self.attempts, process) {
                Some((instance, attempt)) => {
                    // A sink and a source have no gate of their own: they are started as soon as they exist.
                    if !self.attempts.get(&process).is_some_and(|attempt| attempt.is_thread) {
                        self.pending.push_back(Event::Ready { instance, attempt });
                    }
                }
                None => self.store.start(process),
            },
            StoreEvent::FirstBytes(stream) => {
                let epoch = self.epoch(stream);
                self.pending.push_back(Event::FirstBytes { stream, epoch });
            }
            StoreEvent::Finished(stream, length) => {
                let epoch = self.epoch(stream);
                self.pending.push_back(Event::Finished { stream, epoch, length });
            }
            StoreEvent::Diverged(stream, what) => {
                let epoch = self.epoch(stream);
                tracing::warn!(%stream, what, "a function that is declared deterministic is not");
                self.pending.push_back(Event::Diverged { stream, epoch });
            }
            StoreEvent::PartWanted(process, output) => {
                if let Some((instance, attempt)) = of(&self.attempts, process) {
                    self.wanted_parts.entry((instance, output)).or_default().push_back(process);
                    self.pending.push_back(Event::PartOpened { instance, attempt, output });
                }
            }
            StoreEvent::Parked(process) => {
                if let Some((instance, number)) = of(&self.attempts, process)
                    && let Some(attempt) = self.attempts.get_mut(&process)
                    && attempt.started
                    && !attempt.parked
                    && !attempt.is_thread
                    && self.store.is_waiting(process)
                {
                    attempt.parked = true;
                    self.pending.push_back(Event::Parked { instance, attempt: number });
                }
            }
            StoreEvent::Ended(process, said) => {
                if let Some(attempt) = self.attempts.get_mut(&process) {
                    attempt.said.get_or_insert(said);
                }
            }
            StoreEvent::Misbehaved(process, what) => self.misbehaved(process, what),
            StoreEvent::Failed(reason) => self.pending.push_back(Event::StoreFailed { reason }),
        }
    }

    pub(crate) fn epoch(&self, stream: StreamId) -> Epoch {
        self.epochs.get(&stream).copied().unwrap_or(Epoch(1))
    }

    pub(crate) fn common(&self) -> Common<'_> {
        Common { run: &self.id, params: &self.spec.params, spin: self.spec.options.spin }
    }

    /// Carries out what does not concern an attempt; [`crate::perform`] has the rest.
    pub(crate) fn perform(&mut self, action: Action) {
        match action {
            Action::WakeAt(at) => self.wake_at = Some(at),
            Action::Committed | Action::RunFailed { .. } => self.over = true,
            Action::Kill { instance, attempt, reason } => {
                if let Some(&process) = self.processes.get(&(instance, attempt)) {
                    if let Some(attempt) = self.attempts.get_mut(&process) {
                        attempt.killed.get_or_insert(reason);
                    }
                    self.end_process(process);
                }
            }
            other => self.perform_on_streams(other),
        }
    }

    fn progress(&self) -> Progress {
        let counts = self.machine.counts();
        let mut active = Vec::new();
        let mut bytes: u64 = self.records.values().map(|record| record.traffic.written).sum();
        for (&process, attempt) in &self.attempts {
            bytes += self.store.traffic(process).written;
            if attempt.started && !attempt.is_thread {
                active.push(attempt.name.clone());
            }
        }
        Progress {
            elapsed_ns: nanos(self.elapsed()),
            waiting: counts.waiting + counts.preparing + counts.ready + counts.pausing,
            running: counts.running,
            parked: counts.parked,
            ended: counts.ended + counts.unread + counts.skipped,
            bytes,
            memory: self.memory(),
            active,
        }
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

    /// Makes the outputs visible if the run has succeeded, and reports.
    fn finish(mut self) -> Result<RunReport, SetupError> {
        let staging = self.staging.take();
        let mut failure = match self.machine.state() {
            RunState::Failed { instance, reason } => {
                let instance = instance.and_then(|id| Some(self.machine.view(id)?.name));
                Some((instance, reason.clone()))
            }
            _ => None,
        };
        let mut outputs = Vec::new();
        if failure.is_none()
            && let Some(staging) = staging
        {
            outputs = self.output_reports(&staging);
            if let Err(error) = staging.commit() {
                outputs.clear();
                failure = Some((
                    None,
                    format!("the outputs cannot be made visible in {}: {error}", self.spec.output.display()),
                ));
            }
        }
        Ok(self.report(failure, outputs))
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Which function an instance is of.
pub(crate) fn function_of(machine: &RunMachine, instance: InstanceId) -> Option<InstanceKind> {
    machine.view(instance).map(|view| view.kind)
}
