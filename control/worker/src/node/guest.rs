//! What one run has on a node.

use super::counts::{AttemptCounts, Ended};
use super::sink::SinkError;
use super::{Node, NodeHandle, now};
use crate::node::program::Wanted;
use crate::notice::Notice;
use crate::order::Order;
use crate::peer::message::LinkSummary;
use crate::report::MemoryReport;
use crate::time::nanos;
use dflow_carrier::{NodeId, RunTraffic};
use dflow_ports::Session;
use dflow_protocol::{Epoch, InstanceId, RunId, StreamId};
use dflow_scheduler::Place;
use dflow_shm::now_nanos;
use dflow_store::{InputFile, ProcessId, RunStream, StreamCopy};
use rustix::process::{Resource, getrlimit};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The programs that are prepared ahead on a node for all its runs.
const AHEAD_ON_NODE: u32 = 32;
/// One program is prepared ahead for so many files that the node may open. It needs only a few, for its channel, its
/// process and its streams, but the inputs of the runs may need most of the others.
const FILES_FOR_ONE_AHEAD: u64 = 64;

/// A run on a node. Dropping it ends everything that the run has there.
pub(crate) struct Guest {
    node: NodeHandle,
    run: RunId,
    news: Rc<Notify>,
    start_nanos: u64,
}

/// The node's record of a run.
pub(super) struct GuestState {
    /// The environment of functions that set no variables of their own.
    pub(super) environment: BTreeMap<OsString, OsString>,
    /// The files of programs that have been found.
    pub(super) programs: HashMap<Wanted, PathBuf>,
    /// Everything of the run that is alive: processes, threads, and its part of the carrier.
    pub(super) attempts: BTreeSet<ProcessId>,
    pub(super) processes: HashMap<(InstanceId, u32), ProcessId>,
    /// Those that wait for a slot of the run.
    queued: BTreeSet<ProcessId>,
    /// The current epoch of every stream.
    pub(super) epochs: HashMap<StreamId, Epoch>,
    /// The attempts that have requested a part, in the order of their requests.
    pub(super) wanted_parts: HashMap<(InstanceId, u32), VecDeque<ProcessId>>,
    /// The start of the run, on the clock that functions use for their first bytes.
    pub(super) start_nanos: u64,
    pub(super) notices: VecDeque<Notice>,
    /// Signalled when there are notices.
    pub(super) news: Rc<Notify>,
    /// Bytes written by attempts that are over.
    pub(super) written: u64,
    /// Attempts that are over, by how they ended.
    pub(super) ended: Ended,
    /// The carrier, as an attempt of the run.
    pub(super) carrier: Option<ProcessId>,
    /// The other nodes of the run.
    pub(super) places: BTreeMap<Place, NodeId>,
    /// What their links had counted before the run: paths and violations.
    before: BTreeMap<NodeId, (u64, u64)>,
    /// What of the run has passed on the links.
    pub(super) traffic: BTreeMap<NodeId, RunTraffic>,
    pub(super) summed: bool,
}

impl GuestState {
    pub(super) fn new(environment: BTreeMap<OsString, OsString>) -> Self {
        Self {
            environment,
            programs: HashMap::new(),
            attempts: BTreeSet::new(),
            processes: HashMap::new(),
            queued: BTreeSet::new(),
            epochs: HashMap::new(),
            wanted_parts: HashMap::new(),
            start_nanos: now_nanos(),
            notices: VecDeque::new(),
            news: Rc::new(Notify::new()),
            written: 0,
            ended: Ended::default(),
            carrier: None,
            places: BTreeMap::new(),
            before: BTreeMap::new(),
            traffic: BTreeMap::new(),
            summed: false,
        }
    }

    pub(super) fn epoch(&self, stream: StreamId) -> Epoch {
        self.epochs.get(&stream).copied().unwrap_or(Epoch(1))
    }
}

impl Guest {
    /// The guest of a run that the node has admitted.
    pub(super) fn new(node: NodeHandle, run: RunId, state: &GuestState) -> Self {
        Self { node, run, news: Rc::clone(&state.news), start_nanos: state.start_nanos }
    }

    /// Waits until there may be notices.
    pub(crate) async fn changed(&self) {
        self.news.notified().await;
    }

    /// The next thing that has happened to the run on this node.
    pub(crate) fn next_notice(&mut self) -> Option<Notice> {
        let mut node = self.node.node();
        node.take_store_events();
        node.guests.get_mut(&self.run)?.notices.pop_front()
    }

    /// Carries out an order.
    pub(crate) fn obey(&mut self, order: Order) {
        self.node.node().obey(self.run, order);
    }

    /// The attempts that wait for nothing but a slot of the run.
    pub(crate) fn set_waiting_for_slot(&mut self, attempts: impl Iterator<Item = (InstanceId, u32)>) {
        let mut node = self.node.node();
        let node = &mut *node;
        let Some(guest) = node.guests.get_mut(&self.run) else { return };
        let queued: BTreeSet<ProcessId> = attempts.filter_map(|it| guest.processes.get(&it).copied()).collect();
        for &process in guest.queued.difference(&queued) {
            // It may wait for a slot of the node now.
            let is_queued = node.attempts.get(&process).is_some_and(|attempt| attempt.is_queued);
            node.store.set_queued(process, is_queued);
        }
        for &process in queued.difference(&guest.queued) {
            node.store.set_queued(process, true);
        }
        guest.queued = queued;
    }

    /// Lets the orders take effect: sends what is to be sent. To be called when there are no notices; there may be some
    /// afterwards.
    pub(crate) fn settle(&mut self) {
        self.node.node().settle();
    }

    /// The time since the run's start.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(now_nanos().saturating_sub(self.start_nanos))
    }

    /// The start of the run, on the machine's monotonic clock.
    pub(crate) fn start_nanos(&self) -> u64 {
        self.start_nanos
    }

    /// Bytes that functions have written so far.
    pub(crate) fn written(&self) -> u64 {
        let node = self.node.node();
        let Some(guest) = node.guests.get(&self.run) else { return 0 };
        let written = guest.attempts.iter().map(|&process| node.store.traffic(process).written);
        written.fold(guest.written, u64::saturating_add)
    }

    /// Instances that have been started and not ended.
    pub(crate) fn active(&self) -> Vec<String> {
        let node = self.node.node();
        node.attempts_of(self.run)
            .filter(|(_, attempt)| attempt.started && !attempt.is_thread)
            .map(|(_, attempt)| match &attempt.held_open {
                Some(by) => format!("{} (has ended; {by} holds its output)", attempt.name),
                None => attempt.name.clone(),
            })
            .collect()
    }

    /// The attempts of functions on this node.
    pub(crate) fn attempts(&self) -> AttemptCounts {
        let node = self.node.node();
        let ended = node.guests.get(&self.run).map(|guest| guest.ended).unwrap_or_default();
        let mut counts = AttemptCounts { ended, ..AttemptCounts::default() };
        for (_, attempt) in node.attempts_of(self.run).filter(|(_, attempt)| !attempt.is_thread) {
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

    /// The memory of the run.
    pub(crate) fn memory(&self) -> MemoryReport {
        let node = self.node.node();
        let budget_bytes = node.store.usage().limit;
        let usage = node.store.run_usage(self.run).unwrap_or_default();
        MemoryReport { budget_bytes, used_bytes: usage.memory, peak_bytes: usage.peak, spilled_bytes: usage.spilled }
    }

    /// Kills every process of the run.
    pub(crate) fn kill_all(&mut self, reason: &str) {
        self.node.node().kill_all(self.run, reason);
    }

    /// A finished stream that consists of these files.
    pub(crate) fn open_files(&mut self, stream: StreamId, files: Vec<(InputFile, u64)>) {
        self.node.node().open_files(self.run, stream, files);
    }

    /// What the node has of a stream, apart from so many holds on it.
    pub(crate) fn copy_of(&self, stream: StreamId, holds: u32) -> Option<StreamCopy> {
        self.node.node().store.copy_of(RunStream { run: self.run, stream }, holds)
    }

    /// Whether an attempt has a process or a thread.
    pub(crate) fn has_attempt(&self, instance: InstanceId, attempt: u32) -> bool {
        let node = self.node.node();
        node.guests.get(&self.run).is_some_and(|guest| guest.processes.contains_key(&(instance, attempt)))
    }

    /// Starts a thread that is a function of the run: the sink of an instance, or the source of a workflow input.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub(crate) fn begin_thread(
        &mut self,
        instance: Option<InstanceId>,
        attempt: u32,
        name: &str,
        outputs: &[Vec<StreamId>],
        work: impl FnOnce(&Arc<Session>) -> Result<(), SinkError> + Send + 'static,
    ) -> Result<(), String> {
        self.node.node().begin_thread(self.run, instance, attempt, name, outputs, work)
    }

    /// The run.
    pub(crate) fn run(&self) -> RunId {
        self.run
    }

    /// Streams of the run can come from other nodes and go to them from now on.
    ///
    /// # Errors
    /// Why streams cannot be carried.
    pub(crate) fn carry(&mut self) -> Result<(), String> {
        self.node.node().carry(self.run)
    }

    /// The node with this place in the run is this process.
    pub(crate) fn set_place(&mut self, place: Place, id: NodeId) {
        let mut node = self.node.node();
        let stats = node.link_stats(id);
        // A path that exists already counts as the first of this run.
        let paths = stats.paths.saturating_sub(u64::from(stats.path.is_some()));
        if let Some(guest) = node.guests.get_mut(&self.run) {
            guest.places.insert(place, id);
            guest.before.insert(id, (paths, stats.violations));
        }
    }

    /// The run has lasted this long on the node that drives it. Times count from its start there, less the time that this took
    /// to arrive.
    pub(crate) fn began(&mut self, elapsed: Duration) {
        self.start_nanos = now_nanos().saturating_sub(nanos(elapsed));
        let start_nanos = self.start_nanos;
        self.state(|guest| guest.start_nanos = start_nanos);
    }

    /// How many programs of the run may be prepared ahead, for its share of what the node has room for.
    pub(crate) fn programs_ahead(&self) -> u32 {
        let runs = u32::try_from(self.node.node().guests.len()).unwrap_or(u32::MAX);
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / FILES_FOR_ONE_AHEAD;
        AHEAD_ON_NODE.min(u32::try_from(files).unwrap_or(u32::MAX)) / runs.max(1)
    }

    /// The process of the node with this place.
    pub(crate) fn id_of(&self, place: Place) -> Option<NodeId> {
        self.state(|guest| guest.places.get(&place).copied()).flatten()
    }

    /// The files of programs that were found on this node.
    pub(crate) fn set_programs(&mut self, programs: HashMap<Wanted, PathBuf>) {
        self.state(|guest| guest.programs.extend(programs));
    }

    /// The place of a process in the run.
    pub(crate) fn place_of(&self, id: NodeId) -> Option<Place> {
        self.state(|guest| guest.places.iter().find(|(_, other)| **other == id).map(|(place, _)| *place)).flatten()
    }

    /// The nodes that a stream of the run has to come from.
    pub(crate) fn awaited(&self) -> Vec<(Place, NodeId)> {
        let awaited = |guest: &mut GuestState| {
            let comes_from = |id| guest.traffic.get(id).is_some_and(|traffic| traffic.streams_in > 0);
            guest.places.iter().filter(|(_, id)| comes_from(id)).map(|(&place, &id)| (place, id)).collect()
        };
        self.state(awaited).unwrap_or_default()
    }

    /// Requests the current figures of the links; [`Guest::has_summed`] says when they have arrived.
    pub(crate) fn sum(&mut self) {
        self.node.node().sum(self.run);
    }

    /// Whether the figures that were requested with [`Guest::sum`] have arrived.
    pub(crate) fn has_summed(&mut self) -> bool {
        self.state(|guest| std::mem::take(&mut guest.summed)).unwrap_or_default()
    }

    /// The links to the other nodes of the run.
    pub(crate) fn links(&self) -> Vec<LinkSummary> {
        let node = self.node.node();
        let Some(guest) = node.guests.get(&self.run) else { return Vec::new() };
        let link = |(&place, &id): (&Place, &NodeId)| {
            let stats = node.link_stats(id);
            let (paths, violations) = guest.before.get(&id).copied().unwrap_or_default();
            LinkSummary {
                place,
                traffic: guest.traffic.get(&id).copied().unwrap_or_default(),
                path: stats.last_path,
                paths: stats.paths.saturating_sub(paths),
                violations: stats.violations.saturating_sub(violations),
                why_not_rdma: node.why_not_rdma(id),
            }
        };
        guest.places.iter().map(link).collect()
    }

    fn state<T>(&self, of: impl FnOnce(&mut GuestState) -> T) -> Option<T> {
        self.node.node().guests.get_mut(&self.run).map(of)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut node = self.node.node();
        node.end_run(self.run);
        node.settle();
    }
}

impl Node {
    /// Tells the run's driver what has happened.
    pub(super) fn notify(&mut self, run: RunId, notice: impl Into<Notice>) {
        if let Some(guest) = self.guests.get_mut(&run) {
            guest.notices.push_back(notice.into());
            self.noticed.insert(run);
        }
    }

    /// Ends everything that a run has on this node. Its processes are killed; the launcher reports their ends to nobody.
    fn end_run(&mut self, run: RunId) {
        let carrier = self.stop_carrying(run);
        let Some(guest) = self.guests.remove(&run) else { return };
        self.noticed.remove(&run);
        // The carrier's part stays until it has closed its channel: a peer may write into the run's windows until then.
        for process in guest.attempts.into_iter().filter(|process| Some(*process) != carrier) {
            let Some(attempt) = self.attempts.remove(&process) else { continue };
            self.forget(process);
            if attempt.is_thread {
                continue;
            }
            self.stop_process(process, Duration::ZERO);
        }
        self.comparing.retain(|exit| self.attempts.contains_key(&ProcessId(exit.id())));
        self.slots.end_run(run);
        match carrier {
            Some(process) => _ = self.leaving.insert(process, run),
            // No other node can reach the run's memory.
            None => self.return_memory(run),
        }
    }

    /// An attempt has closed its channel. If it is the carrier's part of a run that is over, nothing can write into the run's
    /// memory any more.
    pub(super) fn finish_leaving(&mut self, process: ProcessId) -> bool {
        let Some(run) = self.leaving.remove(&process) else { return false };
        self.attempts.remove(&process);
        self.forget(process);
        self.store.end(now(), process, true);
        self.return_memory(run);
        true
    }

    fn return_memory(&mut self, run: RunId) {
        self.store.end_run(now(), run);
        self.admission.wake();
    }
}
