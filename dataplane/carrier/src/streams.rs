//! The streams of one link, on the store's side.

use crate::export::Export;
use crate::import::Import;
use crate::ports::Ports;
use crate::runs::RunNumber;
use crate::watch::{Port, Watch, Watched};
use dflow_ports::{Incoming, Outgoing, ReadError, SessionError, WriteError};
use dflow_protocol::wire::{FlowId, StreamKey};
use dflow_shm::{Landing, Memory, Staging, Wait, Watchers};
use dflow_transport::{Chunk, FlowEvent, Link, Local};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

/// The size of the buffers for bytes that are read from files, in bytes.
const STAGING: usize = 256 * 1024;

/// The streams that pass between this node and one other.
///
/// Only streams that are awake are polled. A stream is woken by the link, by a message of the store, or by the shared word that
/// it waits for, which the carrier itself or [`Watchers`] watch.
pub(super) struct Streams {
    exports: Ports<StreamKey, Export>,
    imports: Ports<FlowId, Import>,
    /// The flows that the peer reads. Their streams may not be exported yet, or not any more.
    readers: BTreeMap<FlowId, StreamKey>,
    /// The same, by stream.
    flows: HashMap<StreamKey, FlowId>,
    /// The flows of imports, by stream.
    sources: HashMap<StreamKey, FlowId>,
    runs: HashMap<RunNumber, OfRun>,
    owners: HashMap<Port, PortOwner>,
    /// Ports that were woken while watchers had their words: the watchers have to forget them.
    unwatched: Vec<Port>,
    /// The number of polls so far.
    turn: u64,
    failures: Vec<Failure>,
    /// Flows whose bytes could not be read, and why. They are to be aborted.
    unreadable: Vec<(FlowId, String)>,
    staging: Staging,
}

/// The streams of one run.
#[derive(Debug, Default)]
struct OfRun {
    exports: HashSet<StreamKey>,
    imports: HashSet<FlowId>,
}

/// The stream that a port belongs to.
#[derive(Clone, Copy, Debug)]
enum PortOwner {
    Export(StreamKey),
    Import(FlowId),
}

/// A failure on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// A stream cannot be read.
    Export(StreamKey, String),
    /// A stream cannot be written.
    Import(StreamKey, String),
    /// The channel to the store is of no use any more.
    Channel(RunNumber, String),
}

impl Failure {
    fn of_export(run: RunNumber, key: StreamKey, error: &ReadError) -> Self {
        match error {
            ReadError::Session(error) if is_fatal(error) => Self::Channel(run, error.to_string()),
            _ => Self::Export(key, error.to_string()),
        }
    }

    fn of_import(run: RunNumber, key: StreamKey, error: &WriteError) -> Self {
        match error {
            WriteError::Session(error) if is_fatal(error) => Self::Channel(run, error.to_string()),
            _ => Self::Import(key, error.to_string()),
        }
    }
}

/// Whether the channel can carry no other stream either. Memory that cannot be mapped concerns one stream.
fn is_fatal(error: &SessionError) -> bool {
    !matches!(error, SessionError::Segment(_))
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            exports: Ports::default(),
            imports: Ports::default(),
            readers: BTreeMap::new(),
            flows: HashMap::new(),
            sources: HashMap::new(),
            runs: HashMap::new(),
            owners: HashMap::new(),
            unwatched: Vec::new(),
            turn: 0,
            failures: Vec::new(),
            unreadable: Vec::new(),
            staging: Staging::new(STAGING),
        }
    }
}

impl Streams {
    /// The peer may read this stream, or has subscribed to it already.
    pub(super) fn export(&mut self, key: StreamKey, port: Port, stream: Outgoing) {
        self.remove_export(key);
        let flow = self.flows.get(&key).copied();
        self.owners.insert(port, PortOwner::Export(key));
        self.runs.entry(port.run).or_default().exports.insert(key);
        self.exports.insert(key, Export::new(stream, Watch::new(port), flow));
    }

    /// This stream comes from the peer.
    pub(super) fn import(&mut self, link: &mut Link, key: StreamKey, port: Port, mut stream: Incoming) {
        let until = Import::first_credit(&mut stream);
        match link.subscribe(key, until) {
            Ok(flow) => {
                self.owners.insert(port, PortOwner::Import(flow));
                self.runs.entry(port.run).or_default().imports.insert(flow);
                if let Some(before) = self.sources.insert(key, flow) {
                    self.close_import(link, before);
                }
                self.imports.insert(flow, Import::new(stream, Watch::new(port), key, until));
            }
            Err(error) => {
                self.failures.push(Failure::Import(key, error.to_string()));
                let given_up = stream.give_up();
                self.record(port.run, key, given_up);
            }
        }
    }

    /// The epoch is aborted.
    pub(super) fn drop_stream(&mut self, link: &mut Link, key: StreamKey) {
        self.drop_export(link, key, "its epoch was aborted");
        if let Some(&flow) = self.sources.get(&key) {
            self.close_import(link, flow);
        }
    }

    /// The run is over here.
    pub(super) fn end_run(&mut self, link: &mut Link, run: RunNumber, reason: &str) {
        let Some(streams) = self.runs.get(&run) else { return };
        let (exports, imports): (Vec<_>, Vec<_>) =
            (streams.exports.iter().copied().collect(), streams.imports.iter().copied().collect());
        for key in exports {
            self.drop_export(link, key, reason);
        }
        for flow in imports {
            self.close_import(link, flow);
        }
    }

    /// The peer is gone, and the link has no path.
    pub(super) fn end_all(&mut self, link: &mut Link) {
        for run in self.runs.keys().copied().collect::<Vec<_>>() {
            self.end_run(link, run, "its reader is gone");
        }
    }

    /// Polls the awake streams. Returns whether anything was written or read on this node.
    pub(super) fn look(&mut self, link: &mut Link, now: Instant) -> bool {
        let mut busy = false;
        self.turn += 1;
        for (&key, export) in self.exports.awake_mut() {
            match export.look(link) {
                Ok(did) => busy |= export.watch.note(did, self.turn),
                Err(error) => self.failures.push(Failure::of_export(export.watch.port.run, key, &error)),
            }
        }
        for (&flow, import) in self.imports.awake_mut() {
            match import.look(link, flow, now) {
                Ok(did) => busy |= import.watch.note(did, self.turn),
                Err(error) => {
                    import.close(link, flow);
                    self.failures.push(Failure::of_import(import.watch.port.run, import.key, &error));
                }
            }
        }
        busy
    }

    /// Something may have happened to this port. Returns whether it belongs to one of these streams.
    pub(super) fn wake(&mut self, port: Port) -> bool {
        match self.owners.get(&port) {
            Some(&PortOwner::Export(key)) => _ = self.wake_export(&key),
            Some(&PortOwner::Import(flow)) => _ = self.wake_import(flow),
            None => return false,
        }
        true
    }

    /// Prepares for sleep, after [`Streams::forget_unwatched`]. Streams that wait for nothing on this node go to sleep; of
    /// those that wait for a word, the `most` that were active last stay awake, and watchers take over the others.
    pub(super) fn rest(&mut self, most: usize, watchers: &mut Watchers) {
        self.exports.put_to_sleep(|_, export| !export.waits());
        self.imports.put_to_sleep(|_, import| !import.waits());
        let exports = self.exports.awake().map(|export| export.watch.active);
        let imports = self.imports.awake().map(|import| import.watch.active);
        let mut active: Vec<u64> = exports.chain(imports).collect();
        if active.len() <= most {
            return;
        }
        // Down to half of `most`: otherwise the next active stream would make this due again.
        let mut left = active.len() - most / 2;
        let (_, &mut last, _) = active.select_nth_unstable(left - 1);
        let mut list = Vec::new();
        let mut leave = |watch: &mut Watch, port: Option<&mut dyn Wait>| {
            let leaves = left > 0 && watch.active <= last && port.is_some_and(|port| watch.leave(port, &mut list));
            left -= usize::from(leaves);
            leaves
        };
        self.exports.put_to_sleep(|_, export| leave(&mut export.watch, Some(export.stream.as_wait())));
        self.imports.put_to_sleep(|_, import| {
            import.stream.look_again_at().is_none() && leave(&mut import.watch, import.stream.as_wait())
        });
        if let Err(error) = watchers.watch(&mut list) {
            tracing::warn!(%error, "cannot start a thread that watches idle streams: they are polled at intervals");
        }
        // What the watchers did not take has to be polled here.
        for (name, ..) in list {
            if let Watched::Port(port) = Watched::named(name) {
                self.wake(port);
            }
        }
    }

    /// Watchers forget the ports that they watch no more.
    pub(super) fn forget_unwatched(&mut self, watchers: &mut Watchers) {
        for port in self.unwatched.drain(..) {
            watchers.forget(Watched::Port(port).name());
        }
    }

    /// The failures since the last call.
    pub(super) fn take_failures(&mut self) -> Vec<Failure> {
        std::mem::take(&mut self.failures)
    }

    /// Aborts the flows whose bytes could not be read. Returns whether there were any.
    pub(super) fn abort_unreadable(&mut self, link: &mut Link) -> bool {
        let unreadable = std::mem::take(&mut self.unreadable);
        unreadable.iter().for_each(|(flow, reason)| link.abort(*flow, reason));
        !unreadable.is_empty()
    }

    /// When [`Streams::look`] is due without any event.
    pub(super) fn look_again_at(&self) -> Option<Instant> {
        self.imports.awake().filter(|import| !import.closing).filter_map(|import| import.stream.look_again_at()).min()
    }

    /// Adds the ports that the carrier itself has to watch.
    pub(super) fn wait_for<'a>(&'a mut self, ports: &mut Vec<&'a mut dyn Wait>) {
        ports.extend(self.exports.awake_mut().filter(|(_, it)| it.waits()).map(|(_, export)| export.stream.as_wait()));
        ports.extend(
            self.imports
                .awake_mut()
                .filter(|(_, it)| it.waits_for_readers())
                .filter_map(|(_, import)| import.stream.as_wait()),
        );
    }
}

impl Streams {
    fn reader(&mut self, flow: FlowId) -> Option<&mut Export> {
        self.exports.get_mut(self.readers.get(&flow)?)
    }

    fn wake_export(&mut self, key: &StreamKey) -> Option<&mut Export> {
        let unwatched = &mut self.unwatched;
        self.exports.wake(key, |export| export.watch.resume(Some(export.stream.as_wait()), unwatched))
    }

    fn wake_import(&mut self, flow: FlowId) -> Option<&mut Import> {
        let unwatched = &mut self.unwatched;
        self.imports.wake(&flow, |import| import.watch.resume(import.stream.as_wait(), unwatched))
    }

    fn close_import(&mut self, link: &mut Link, flow: FlowId) {
        if let Some(import) = self.imports.get_mut(&flow) {
            import.close(link, flow);
        }
    }

    fn drop_export(&mut self, link: &mut Link, key: StreamKey, reason: &str) {
        if let Some(Export { flow: Some(flow), .. }) = self.remove_export(key) {
            link.abort(flow, reason);
        }
    }

    fn remove_export(&mut self, key: StreamKey) -> Option<Export> {
        let export = self.exports.remove(&key)?;
        self.remove_port(export.watch.port, |streams| streams.exports.remove(&key));
        Some(export)
    }

    fn remove_import(&mut self, flow: FlowId) -> Option<Import> {
        let import = self.imports.remove(&flow)?;
        self.remove_port(import.watch.port, |streams| streams.imports.remove(&flow));
        if self.sources.get(&import.key) == Some(&flow) {
            self.sources.remove(&import.key);
        }
        Some(import)
    }

    fn remove_port(&mut self, port: Port, remove: impl FnOnce(&mut OfRun) -> bool) {
        self.owners.remove(&port);
        // Its number may be given to another stream, which must not be woken by this one's word.
        self.unwatched.push(port);
        if let Some(streams) = self.runs.get_mut(&port.run) {
            remove(streams);
            if streams.exports.is_empty() && streams.imports.is_empty() {
                self.runs.remove(&port.run);
            }
        }
    }

    fn record(&mut self, run: RunNumber, key: StreamKey, result: Result<(), WriteError>) {
        if let Err(error) = result {
            self.failures.push(Failure::of_import(run, key, &error));
        }
    }

    fn record_of_channel(&mut self, run: RunNumber, result: Result<(), SessionError>) {
        if let Err(error) = result {
            self.failures.push(Failure::Channel(run, error.to_string()));
        }
    }
}

impl Local for Streams {
    fn chunk(&mut self, flow: FlowId, at: u64, most: u64) -> Option<Chunk> {
        let &key = self.readers.get(&flow)?;
        let unwatched = &mut self.unwatched;
        let export = self.exports.wake(&key, |export| export.watch.resume(Some(export.stream.as_wait()), unwatched))?;
        match export.chunk(at, most, &mut self.staging) {
            Ok(chunk) => chunk,
            Err(error) => {
                // Aborted later: the link is in the middle of asking for these bytes.
                export.finished = true;
                self.unreadable.push((flow, error.to_string()));
                self.failures.push(Failure::of_export(export.watch.port.run, key, &error));
                None
            }
        }
    }

    fn memory(&mut self, flow: FlowId) -> Option<Arc<Memory>> {
        self.reader(flow)?.stream.memory().cloned()
    }

    fn landing(&mut self, flow: FlowId) -> Option<Arc<Landing>> {
        let import = self.imports.get(&flow).filter(|import| !import.closing)?;
        import.stream.landing().cloned()
    }

    fn next_landing(&mut self, flow: FlowId) -> Option<Arc<Landing>> {
        let import = self.imports.get(&flow).filter(|import| !import.closing)?;
        import.stream.next_landing().cloned()
    }

    fn handle(&mut self, flow: FlowId, event: FlowEvent) {
        match event {
            FlowEvent::Subscribed { stream, .. } => self.subscribed(flow, stream),
            FlowEvent::Acknowledged(upto) => self.acknowledged(flow, upto),
            FlowEvent::Stuck(stuck) => self.stuck(flow, stuck),
            FlowEvent::Unsubscribed => self.unsubscribed(flow),
            FlowEvent::Arrived(upto) => self.arrived(flow, upto),
            FlowEvent::Finished(_) => self.finished(flow),
            FlowEvent::Aborted(reason) => self.aborted(flow, &reason),
            FlowEvent::Drained => self.drained(flow),
        }
    }
}

/// What happens to flows.
impl Streams {
    fn subscribed(&mut self, flow: FlowId, key: StreamKey) {
        self.readers.insert(flow, key);
        self.flows.insert(key, flow);
        if let Some(export) = self.wake_export(&key) {
            export.flow = Some(flow);
        }
    }

    fn acknowledged(&mut self, flow: FlowId, upto: u64) {
        if let Some(export) = self.reader(flow) {
            let run = export.watch.port.run;
            let released = export.release(upto);
            self.record_of_channel(run, released);
        }
    }

    fn stuck(&mut self, flow: FlowId, stuck: bool) {
        if let Some(export) = self.reader(flow) {
            let run = export.watch.port.run;
            let told = export.stream.set_stuck(stuck);
            self.record_of_channel(run, told);
        }
    }

    fn unsubscribed(&mut self, flow: FlowId) {
        let Some(key) = self.readers.remove(&flow) else { return };
        if self.flows.get(&key) == Some(&flow) {
            self.flows.remove(&key);
        }
        if self.exports.get(&key).is_some_and(|export| export.flow == Some(flow)) {
            // Dropping it closes its reader on this node.
            self.remove_export(key);
        }
    }

    fn arrived(&mut self, flow: FlowId, upto: u64) {
        if let Some(import) = self.wake_import(flow).filter(|import| !import.closing) {
            let (run, key) = (import.watch.port.run, import.key);
            let committed = import.stream.commit(upto);
            self.record(run, key, committed);
        }
    }

    fn finished(&mut self, flow: FlowId) {
        if let Some(mut import) = self.remove_import(flow) {
            let finished = import.stream.finish();
            self.record(import.watch.port.run, import.key, finished);
        }
    }

    /// The stream waits for its next epoch or the end of the run, which the peer may know of before this node does.
    fn aborted(&mut self, flow: FlowId, reason: &str) {
        if let Some(mut import) = self.remove_import(flow) {
            tracing::debug!(stream = %import.key, reason, "a peer has aborted a stream");
            let given_up = import.stream.give_up();
            self.record(import.watch.port.run, import.key, given_up);
        }
    }

    fn drained(&mut self, flow: FlowId) {
        // Only now can no peer write into the window any more, so that the store may use it for something else.
        if let Some(mut import) = self.remove_import(flow) {
            let given_up = import.stream.give_up();
            self.record(import.watch.port.run, import.key, given_up);
        }
    }
}
