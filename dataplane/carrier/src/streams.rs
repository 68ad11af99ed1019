//! The streams of one link, on the store's side.

use crate::Report;
use crate::ports::Ports;
use dflow_ports::{Incoming, Outgoing, ReadError, RoomFor, WriteError};
use dflow_protocol::limits::ARENA_SLOT;
use dflow_protocol::wire::{FlowId, StreamKey};
use dflow_protocol::{PortId, RunId};
use dflow_shm::{Landing, Memory, PeerWord, Staging, Wait, Watchers};
use dflow_transport::{Chunk, FlowEvent, Link, Local};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};
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
    /// The flows that the peer reads.
    readers: BTreeMap<FlowId, StreamKey>,
    /// The same, by stream.
    flows: HashMap<StreamKey, FlowId>,
    owners: HashMap<PortId, PortOwner>,
    /// Ports that were woken while watchers had their words: the watchers have to forget them.
    unwatched: Vec<PortId>,
    /// The number of polls so far.
    turn: u64,
    failures: Vec<Report>,
    staging: Staging,
}

/// The stream that a port belongs to.
#[derive(Clone, Copy, Debug)]
enum PortOwner {
    Export(StreamKey),
    Import(FlowId),
}

/// A stream of this node that the peer may read.
struct Export {
    stream: Outgoing,
    watch: Watch,
    flow: Option<FlowId>,
    /// The memory that was announced to the link.
    ready: Weak<Memory>,
    /// Lent bytes that are not acknowledged, each chunk with its stream offset.
    lent: VecDeque<(u64, Chunk)>,
    /// The watermark that the link knows.
    announced: u64,
    finished: bool,
}

/// A stream that comes from the peer.
struct Import {
    stream: Incoming,
    watch: Watch,
    key: StreamKey,
    /// Bytes below this offset may be sent by the peer.
    credit: u64,
    stuck: bool,
    /// It is unsubscribed; bytes may still be in flight.
    closing: bool,
}

/// What a port waits for, and which thread watches it.
struct Watch {
    port: PortId,
    /// The turn of the last activity.
    active: u64,
    /// [`Watchers`] watch its word.
    is_watched: bool,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            exports: Ports::default(),
            imports: Ports::default(),
            readers: BTreeMap::new(),
            flows: HashMap::new(),
            owners: HashMap::new(),
            unwatched: Vec::new(),
            turn: 0,
            failures: Vec::new(),
            staging: Staging::new(STAGING),
        }
    }
}

impl Streams {
    /// The peer may read this stream, or has subscribed to it already.
    pub(super) fn export(&mut self, key: StreamKey, port: PortId, stream: Outgoing) {
        let flow = self.flows.get(&key).copied();
        let watch = Watch::new(port);
        self.owners.insert(port, PortOwner::Export(key));
        let (ready, lent) = (Weak::new(), VecDeque::new());
        let before =
            self.exports.insert(key, Export { stream, watch, flow, ready, lent, announced: 0, finished: false });
        if let Some(before) = before {
            self.owners.remove(&before.watch.port);
            self.unwatched.push(before.watch.port);
        }
    }

    /// This stream comes from the peer.
    pub(super) fn import(&mut self, link: &mut Link, key: StreamKey, port: PortId, mut stream: Incoming) {
        // The arena slot is there from the beginning. It gets no grant: its bytes travel inside messages.
        let until = match stream.room(Instant::now()) {
            Ok(RoomFor::Until(until, _)) if is_first(stream.landing()) => until,
            _ => 0,
        };
        match link.subscribe(key, until) {
            Ok(flow) => {
                let watch = Watch::new(port);
                self.owners.insert(port, PortOwner::Import(flow));
                let import = Import { stream, watch, key, credit: until, stuck: false, closing: false };
                self.imports.insert(flow, import);
            }
            Err(error) => self.failures.push(Report::ImportFailed(key, error.to_string())),
        }
    }

    /// The epoch is aborted.
    pub(super) fn drop_stream(&mut self, link: &mut Link, key: StreamKey) {
        self.drop_export(link, key, "its epoch was aborted");
        for (&flow, import) in self.imports.all_mut().filter(|(_, import)| import.key == key) {
            import.close(link, flow);
        }
    }

    /// The run is over.
    pub(super) fn drop_run(&mut self, link: &mut Link, run: RunId) {
        let keys: Vec<StreamKey> = self.exports.all_mut().map(|(key, _)| *key).filter(|key| key.run() == run).collect();
        for key in keys {
            self.drop_export(link, key, "its run is over");
        }
        for (&flow, import) in self.imports.all_mut().filter(|(_, import)| import.key.run() == run) {
            import.close(link, flow);
        }
    }

    /// Polls the awake streams. Returns whether anything was written or read on this node.
    pub(super) fn look(&mut self, link: &mut Link, now: Instant) -> bool {
        let mut busy = false;
        self.turn += 1;
        for (&key, export) in self.exports.awake_mut() {
            match export.look(link) {
                Ok(did) => busy |= export.watch.note(did, self.turn),
                Err(error) => self.failures.push(Report::ExportFailed(key, error.to_string())),
            }
        }
        for (&flow, import) in self.imports.awake_mut() {
            match import.look(link, flow, now) {
                Ok(did) => busy |= import.watch.note(did, self.turn),
                Err(error) => {
                    import.close(link, flow);
                    self.failures.push(Report::ImportFailed(import.key, error.to_string()));
                }
            }
        }
        busy
    }

    /// Something may have happened to this port. Returns whether it belongs to one of these streams.
    pub(super) fn wake(&mut self, port: PortId) -> bool {
        match self.owners.get(&port) {
            Some(&PortOwner::Export(key)) => _ = self.wake_export(&key),
            Some(&PortOwner::Import(flow)) => _ = self.wake_import(flow),
            None => return false,
        }
        true
    }

    /// Something may have happened to every port.
    pub(super) fn wake_all(&mut self) {
        for port in self.owners.keys().copied().collect::<Vec<_>>() {
            self.wake(port);
        }
    }

    /// Prepares for sleep. Streams that wait for nothing on this node go to sleep; of those that wait for a word, the `most`
    /// that were active last stay awake, and watchers take over the others.
    pub(super) fn rest(&mut self, most: usize, watchers: &mut Watchers) {
        for port in self.unwatched.drain(..) {
            watchers.forget(port.0.into());
        }
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
        for (name, ..) in list {
            self.wake(PortId(u32::try_from(name).unwrap_or(u32::MAX)));
        }
    }

    /// The failures since the last call.
    pub(super) fn take_failures(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.failures)
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

impl Watch {
    fn new(port: PortId) -> Self {
        Self { port, active: 0, is_watched: false }
    }

    /// Records activity.
    fn note(&mut self, did: bool, turn: u64) -> bool {
        if did {
            self.active = turn;
        }
        did
    }

    /// Hands the port over to the watchers, unless something has happened to it already. A port that waits for a message of
    /// the store has no word to watch.
    fn leave(&mut self, port: &mut dyn Wait, list: &mut Vec<(u64, PeerWord, u64)>) -> bool {
        // Announced before the check: a writer that has not seen the ticket has written before it.
        port.announce();
        if port.ready() {
            port.retract();
            return false;
        }
        if let Some((word, value)) = port.peer_word() {
            self.is_watched = true;
            list.push((self.port.0.into(), word, value));
        }
        true
    }

    /// The carrier polls the port again.
    fn resume(&mut self, port: Option<&mut dyn Wait>, unwatched: &mut Vec<PortId>) {
        if std::mem::take(&mut self.is_watched) {
            unwatched.push(self.port);
        }
        if let Some(port) = port {
            port.retract();
        }
    }
}

/// Whether this is the arena slot, with which every stream begins.
fn is_first(landing: Option<&Arc<Landing>>) -> bool {
    landing.is_some_and(|landing| landing.base() == 0 && landing.size() <= ARENA_SLOT)
}

impl Export {
    /// Whether it waits for its producer. While there are bytes that were not lent, it waits for the peer.
    fn waits(&self) -> bool {
        self.flow.is_some() && !self.finished && self.stream.position() >= self.announced
    }

    fn look(&mut self, link: &mut Link) -> Result<bool, ReadError> {
        let (Some(flow), false) = (self.flow, self.finished) else { return Ok(false) };
        match self.stream.look() {
            Ok((length, finished)) => {
                if let Some(memory) = self.stream.memory().filter(|memory| Arc::as_ptr(memory) != self.ready.as_ptr()) {
                    self.ready = Arc::downgrade(memory);
                    link.ready(memory);
                }
                let busy = length > self.announced || finished;
                if length > self.announced {
                    self.announced = length;
                    link.available(flow, length);
                }
                if finished {
                    self.finished = true;
                    link.finish(flow, length);
                }
                Ok(busy)
            }
            Err(error) => {
                self.finished = true;
                link.abort(flow, &error.to_string());
                Err(error)
            }
        }
    }

    fn chunk(&mut self, at: u64, most: u64, staging: &mut Staging) -> Result<Option<Chunk>, ReadError> {
        let cut = |offset: u64, chunk: &Chunk| {
            let skip = usize::try_from(at - offset).ok()?;
            let length = chunk.len().checked_sub(skip)?.min(usize::try_from(most).ok()?);
            Some(chunk.part(skip..skip + length))
        };
        // Behind the last lent byte, except after a lost path: then bytes that were lent before are sent again.
        if at < self.stream.position() {
            let index = self.lent.partition_point(|(offset, _)| *offset <= at).checked_sub(1);
            return Ok(index.and_then(|index| self.lent.get(index)).and_then(|(offset, chunk)| cut(*offset, chunk)));
        }
        let offset = self.stream.position();
        let Some(lent) = self.stream.lend(most, staging)? else { return Ok(None) };
        let staged = staging.owns(&lent.memory);
        let chunk = Chunk::new(lent.memory, lent.range);
        let chunk = if staged { chunk.passing() } else { chunk };
        match self.lent.back_mut() {
            Some((_, last)) if last.precedes(&chunk) => *last = last.joined(&chunk),
            _ => self.lent.push_back((offset, chunk.clone())),
        }
        Ok(Some(chunk))
    }

    fn release(&mut self, upto: u64) {
        while self.lent.front().is_some_and(|(offset, chunk)| offset + chunk.len() as u64 <= upto) {
            self.lent.pop_front();
        }
        if let Err(error) = self.stream.take_back(upto) {
            tracing::debug!(%error, "the store is gone");
        }
    }
}

impl Import {
    /// Whether it waits for anything on this node.
    fn waits(&self) -> bool {
        self.waits_for_readers() || (!self.closing && self.stream.look_again_at().is_some())
    }

    /// Whether it waits for its readers. While there is credit left, it waits for the peer.
    fn waits_for_readers(&self) -> bool {
        !self.closing && self.stream.written() >= self.credit
    }

    fn look(&mut self, link: &mut Link, flow: FlowId, now: Instant) -> Result<bool, WriteError> {
        if self.closing {
            return Ok(false);
        }
        match self.stream.room(now)? {
            RoomFor::Until(until, window) => {
                self.set_stuck(link, flow, false);
                match window {
                    Some(landing) => link.window(flow, &landing, until),
                    None if until > self.credit => link.credit(flow, until),
                    None => return Ok(false),
                }
                self.credit = until;
                Ok(true)
            }
            RoomFor::Nothing => Ok(false),
            RoomFor::Stuck => {
                self.set_stuck(link, flow, true);
                Ok(false)
            }
            RoomFor::Unread => {
                self.close(link, flow);
                Ok(true)
            }
        }
    }

    fn set_stuck(&mut self, link: &mut Link, flow: FlowId, stuck: bool) {
        if std::mem::replace(&mut self.stuck, stuck) != stuck {
            link.stuck(flow, stuck);
        }
    }

    fn close(&mut self, link: &mut Link, flow: FlowId) {
        if !std::mem::replace(&mut self.closing, true) {
            link.unsubscribe(flow);
        }
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

    fn drop_export(&mut self, link: &mut Link, key: StreamKey, reason: &str) {
        if let Some(Export { flow: Some(flow), .. }) = self.remove_export(key) {
            link.abort(flow, reason);
        }
    }

    fn remove_export(&mut self, key: StreamKey) -> Option<Export> {
        let export = self.exports.remove(&key)?;
        self.owners.remove(&export.watch.port);
        self.unwatched.push(export.watch.port);
        Some(export)
    }

    fn remove_import(&mut self, flow: FlowId) -> Option<Import> {
        let import = self.imports.remove(&flow)?;
        self.owners.remove(&import.watch.port);
        self.unwatched.push(import.watch.port);
        Some(import)
    }

    fn record(&mut self, key: StreamKey, result: Result<(), WriteError>) {
        if let Err(error) = result {
            self.failures.push(Report::ImportFailed(key, error.to_string()));
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
                self.failures.push(Report::ExportFailed(key, error.to_string()));
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
            export.release(upto);
        }
    }

    fn stuck(&mut self, flow: FlowId, stuck: bool) {
        if let Some(export) = self.reader(flow)
            && let Err(error) = export.stream.set_stuck(stuck)
        {
            tracing::debug!(%error, "the store is gone");
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
            let result = import.stream.commit(upto);
            let key = import.key;
            self.record(key, result);
        }
    }

    fn finished(&mut self, flow: FlowId) {
        if let Some(mut import) = self.remove_import(flow) {
            let result = import.stream.finish();
            self.record(import.key, result);
        }
    }

    /// The stream waits for its next epoch or the end of the run, which the peer may know of before this node does.
    fn aborted(&mut self, flow: FlowId, reason: &str) {
        if let Some(mut import) = self.remove_import(flow) {
            tracing::debug!(stream = %import.key, reason, "a peer has aborted a stream");
            let result = import.stream.give_up();
            self.record(import.key, result);
        }
    }

    fn drained(&mut self, flow: FlowId) {
        if let Some(mut import) = self.remove_import(flow) {
            let result = import.stream.give_up();
            self.record(import.key, result);
        }
    }
}
