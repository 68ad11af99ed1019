//! This node's streams as one link sees them.

use crate::{Crossing, Report};
use dflow_function::{Incoming, Outgoing, RoomFor};
use dflow_protocol::limits::ARENA_SLOT;
use dflow_protocol::wire::{FlowId, StreamKey};
use dflow_shm::{Landing, Staging, Wait};
use dflow_transport::{Chunk, Link, Local};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// The size of the buffers through which bytes of files pass, in bytes.
const STAGING: usize = 256 * 1024;

/// The streams that pass between this node and one other.
pub(super) struct Streams {
    exports: HashMap<StreamKey, Export>,
    /// What the peer reads.
    readers: BTreeMap<FlowId, StreamKey>,
    imports: BTreeMap<FlowId, Import>,
    failures: Vec<Report>,
    staging: Staging,
}

/// A stream of this node's.
struct Export {
    stream: Outgoing,
    flow: Option<FlowId>,
    /// Bytes that were lent and that the peer does not have yet, with the stream offset of the first of each.
    lent: VecDeque<(u64, Chunk)>,
    /// What the link knows of it.
    told: u64,
    finished: bool,
}

/// A stream of the peer's.
struct Import {
    stream: Incoming,
    key: StreamKey,
    told: u64,
    stuck: bool,
    /// Nobody reads it any more; something may still be under way.
    closing: bool,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            exports: HashMap::new(),
            readers: BTreeMap::new(),
            imports: BTreeMap::new(),
            failures: Vec::new(),
            staging: Staging::new(STAGING),
        }
    }
}

impl Streams {
    /// The peer may read this stream, or does already.
    pub(super) fn export(&mut self, key: StreamKey, stream: Outgoing) {
        let flow = self.readers.iter().find(|(_, wanted)| **wanted == key).map(|(&flow, _)| flow);
        self.exports.insert(key, Export { stream, flow, lent: VecDeque::new(), told: 0, finished: false });
    }

    /// This stream comes from the peer.
    pub(super) fn import(&mut self, link: &mut Link, key: StreamKey, mut stream: Incoming) {
        // The first window is there already, if it is a slot of the arena; bytes come into it inside of messages.
        let until = match stream.room(Instant::now()) {
            Ok(RoomFor::Until(until, _)) if is_first(stream.landing()) => until,
            _ => 0,
        };
        match link.subscribe(key, until) {
            Ok(flow) => {
                self.imports.insert(flow, Import { stream, key, told: until, stuck: false, closing: false });
            }
            Err(error) => self.failures.push(Report::ImportFailed(key, error.to_string())),
        }
    }

    /// The epoch is over.
    pub(super) fn drop_stream(&mut self, link: &mut Link, key: StreamKey) {
        if let Some(Export { flow: Some(flow), .. }) = self.exports.remove(&key) {
            link.abort(flow, "its epoch was aborted");
        }
        for (&flow, import) in self.imports.iter_mut().filter(|(_, import)| import.key == key) {
            import.close(link, flow);
        }
    }

    /// Looks what has been written and read on this node; whether it was something.
    pub(super) fn look(&mut self, link: &mut Link, now: Instant) -> bool {
        let mut busy = false;
        for (&key, export) in &mut self.exports {
            match export.look(link) {
                Ok(did) => busy |= did,
                Err(error) => self.failures.push(Report::ExportFailed(key, error.to_string())),
            }
        }
        for (&flow, import) in &mut self.imports {
            match import.look(link, flow, now) {
                Ok(did) => busy |= did,
                Err(error) => {
                    import.close(link, flow);
                    self.failures.push(Report::ImportFailed(import.key, error.to_string()));
                }
            }
        }
        busy
    }

    /// How many are on their way.
    pub(super) fn crossing(&self) -> Crossing {
        Crossing { coming: self.imports.len(), going: self.readers.len() }
    }

    /// Streams that will not come, and those that cannot be read.
    pub(super) fn take_failures(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.failures)
    }

    /// When [`Streams::look`] is due although nothing has happened.
    pub(super) fn look_again_at(&self) -> Option<Instant> {
        self.imports.values().filter(|import| !import.closing).filter_map(|import| import.stream.look_again_at()).min()
    }

    /// Adds what can end a wait.
    pub(super) fn wait_for<'a>(&'a mut self, ports: &mut Vec<&'a mut dyn Wait>) {
        for export in self.exports.values_mut() {
            // While there are bytes that were not lent, it is the peer that does not go on.
            if export.flow.is_some() && !export.finished && export.stream.position() >= export.told {
                ports.push(export.stream.as_wait());
            }
        }
        for import in self.imports.values_mut() {
            // While there is room, it is the peer that does not go on.
            if !import.closing
                && import.stream.written() >= import.told
                && let Some(port) = import.stream.as_wait()
            {
                ports.push(port);
            }
        }
    }
}

/// Whether this is the window with which every stream begins; bytes come into it inside of messages.
fn is_first(landing: Option<&Arc<Landing>>) -> bool {
    landing.is_some_and(|landing| landing.base() == 0 && landing.size() <= ARENA_SLOT)
}

impl Export {
    fn look(&mut self, link: &mut Link) -> Result<bool, dflow_function::Error> {
        let (Some(flow), false) = (self.flow, self.finished) else { return Ok(false) };
        match self.stream.look() {
            Ok((length, finished)) => {
                let busy = length > self.told || finished;
                if length > self.told {
                    self.told = length;
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

    fn chunk(&mut self, at: u64, most: u64, staging: &mut Staging) -> Result<Option<Chunk>, dflow_function::Error> {
        let cut = |offset: u64, chunk: &Chunk| {
            let skip = usize::try_from(at - offset).ok()?;
            let length = chunk.len().checked_sub(skip)?.min(usize::try_from(most).ok()?);
            Some(chunk.part(skip..skip + length))
        };
        // The next byte is usually the one behind the last that was lent; after a lost path it is further back.
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
    fn look(&mut self, link: &mut Link, flow: FlowId, now: Instant) -> Result<bool, dflow_function::Error> {
        if self.closing {
            return Ok(false);
        }
        match self.stream.room(now)? {
            RoomFor::Until(until, window) => {
                self.set_stuck(link, flow, false);
                match window {
                    Some(landing) => link.window(flow, &landing, until),
                    None if until > self.told => link.room(flow, until),
                    None => return Ok(false),
                }
                self.told = until;
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

    fn note(&mut self, key: StreamKey, result: Result<(), dflow_function::Error>) {
        if let Err(error) = result {
            self.failures.push(Report::ImportFailed(key, error.to_string()));
        }
    }
}

impl Local for Streams {
    fn subscribed(&mut self, flow: FlowId, key: StreamKey, _: u64) {
        self.readers.insert(flow, key);
        if let Some(export) = self.exports.get_mut(&key) {
            export.flow = Some(flow);
        }
    }

    fn chunk(&mut self, flow: FlowId, at: u64, most: u64) -> Option<Chunk> {
        let &key = self.readers.get(&flow)?;
        match self.exports.get_mut(&key)?.chunk(at, most, &mut self.staging) {
            Ok(chunk) => chunk,
            Err(error) => {
                self.failures.push(Report::ExportFailed(key, error.to_string()));
                None
            }
        }
    }

    fn release(&mut self, flow: FlowId, upto: u64) {
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
        if let Some(key) = self.readers.remove(&flow)
            && self.exports.get(&key).is_some_and(|export| export.flow == Some(flow))
        {
            // Its reader on this node closes with it.
            self.exports.remove(&key);
        }
    }

    fn landing(&mut self, flow: FlowId) -> Option<Arc<Landing>> {
        let import = self.imports.get(&flow).filter(|import| !import.closing)?;
        import.stream.landing().cloned()
    }

    fn next_landing(&mut self, flow: FlowId) -> Option<Arc<Landing>> {
        let import = self.imports.get(&flow).filter(|import| !import.closing)?;
        import.stream.next_landing().cloned()
    }

    fn commit(&mut self, flow: FlowId, upto: u64) {
        if let Some(import) = self.imports.get_mut(&flow).filter(|import| !import.closing) {
            let result = import.stream.commit(upto);
            let key = import.key;
            self.note(key, result);
        }
    }

    fn ended(&mut self, flow: FlowId, _: u64) {
        if let Some(mut import) = self.imports.remove(&flow) {
            let result = import.stream.finish();
            self.note(import.key, result);
        }
    }

    /// It waits for its next epoch, or for the end of the run: the peer may know of that before this node does.
    fn aborted(&mut self, flow: FlowId, reason: &str) {
        if let Some(mut import) = self.imports.remove(&flow) {
            tracing::debug!(stream = %import.key, reason, "a peer has given up a stream");
            let result = import.stream.give_up();
            self.note(import.key, result);
        }
    }

    fn quiet(&mut self, flow: FlowId) {
        if let Some(mut import) = self.imports.remove(&flow) {
            let result = import.stream.give_up();
            self.note(import.key, result);
        }
    }
}
