//! A node whose streams are in plain memory: a minimal replacement of DStore for a link.

use super::pattern;
use dflow_protocol::SegmentId;
use dflow_protocol::limits::ARENA_SLOT;
use dflow_protocol::message::Window;
use dflow_protocol::wire::{FlowId, StreamKey};
use dflow_shm::{Access, Landing, Memory, Segment, SegmentKind};
use dflow_transport::{Chunk, FlowEvent, Link, Local};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::AsFd;
use std::sync::Arc;

/// The ring through which a source passes, and the windows of a sink.
const WINDOW: u64 = 256 * 1024;

/// One of two nodes.
#[derive(Default)]
pub struct Node {
    pub sources: BTreeMap<StreamKey, Source>,
    pub sinks: BTreeMap<FlowId, Sink>,
    /// The peer's subscriptions.
    pub readers: BTreeMap<FlowId, StreamKey>,
    /// Flows that the peer gave up, or that ended, in order.
    pub unsubscribed: Vec<StreamKey>,
    /// The peer's state of its readers.
    pub stuck: BTreeMap<StreamKey, bool>,
    /// Subscriptions that must be told how much has been written.
    news: VecDeque<FlowId>,
    /// Sources and sinks of which something has come.
    moved: (BTreeSet<StreamKey>, BTreeSet<FlowId>),
}

/// A stream that is written here, through a ring: a byte that is released is overwritten.
pub struct Source {
    stream: StreamKey,
    length: u64,
    written: u64,
    released: BTreeMap<FlowId, u64>,
    /// The producer makes no more than this.
    pub limit: u64,
    memory: Arc<Memory>,
    ring: u64,
    aborted: Option<String>,
}

/// How a sink gets its windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A ring behind the first 64 KiB.
    Ring,
    /// Windows that are filled once.
    Extents,
}

/// A stream that arrives here.
pub struct Sink {
    pub stream: StreamKey,
    layout: Layout,
    landing: Arc<Landing>,
    /// Earlier windows, with bytes that have not been read.
    old: Vec<Arc<Landing>>,
    pub arrived: u64,
    pub read: u64,
    /// The reader does not go past this.
    pub limit: u64,
    pub ended: Option<u64>,
    pub aborted: Option<String>,
    pub quiet: bool,
    closed: bool,
}

fn memory(size: u64, ring: bool) -> Arc<Memory> {
    let segment = Segment::create("conformance", size as usize, SegmentKind::FunctionWritten).expect("memory");
    let memory =
        if ring { Memory::ring(segment.as_fd(), 0, size as usize, Access::Write) } else { segment.map(Access::Write) };
    Arc::new(memory.expect("a mapping"))
}

fn landing(base: u64, size: u64, ring: bool) -> Arc<Landing> {
    let window = Window { segment: SegmentId(0), segment_offset: 0, base, size, ring };
    Arc::new(Landing::new(&window, memory(size, ring), 0))
}

impl Source {
    fn new(stream: StreamKey, length: u64) -> Self {
        let ring = length.next_power_of_two().clamp(4096, WINDOW);
        let memory = memory(ring, true);
        let released = BTreeMap::new();
        Self { stream, length, written: 0, released, limit: u64::MAX, memory, ring, aborted: None }
    }

    /// Writes as much as the ring has room for, and returns whether that was anything. Unread bytes stay.
    fn produce(&mut self) -> bool {
        let held = self.released.values().min().copied().unwrap_or(0);
        let end = self.length.min(held + self.ring).min(self.limit);
        if end <= self.written || self.aborted.is_some() {
            return false;
        }
        let mut bytes = vec![0; (end - self.written) as usize];
        pattern::fill(self.stream, self.written, &mut bytes);
        let base = self.written / self.ring * self.ring;
        let window = Window { segment: SegmentId(0), segment_offset: 0, base, size: self.ring, ring: true };
        let place = Landing::new(&window, Arc::clone(&self.memory), 0);
        place.open(self.written..end);
        place.place(self.written, &bytes).expect("within the ring");
        self.written = end;
        true
    }

    fn is_complete(&self) -> bool {
        self.written == self.length
    }
}

impl Node {
    /// A stream of this length is written here.
    pub fn write(&mut self, stream: StreamKey, length: u64) -> &mut Source {
        self.news.extend(self.readers.iter().filter(|(_, key)| **key == stream).map(|(flow, _)| *flow));
        self.sources.entry(stream).or_insert_with(|| Source::new(stream, length))
    }

    /// The stream that is written here is given up.
    pub fn abort(&mut self, link: &mut Link, stream: StreamKey, reason: &str) {
        if let Some(source) = self.sources.get_mut(&stream) {
            source.aborted = Some(reason.to_owned());
        }
        for (flow, _) in self.readers.iter().filter(|(_, key)| **key == stream) {
            link.abort(*flow, reason);
        }
    }

    /// Reads a stream of the other node's.
    pub fn read(&mut self, link: &mut Link, stream: StreamKey, layout: Layout) -> FlowId {
        let flow = link.subscribe(stream, ARENA_SLOT).expect("not too many");
        let first = landing(0, ARENA_SLOT, false);
        first.open(0..ARENA_SLOT);
        let sink = Sink {
            stream,
            layout,
            landing: first,
            old: Vec::new(),
            arrived: 0,
            read: 0,
            limit: u64::MAX,
            ended: None,
            aborted: None,
            quiet: false,
            closed: false,
        };
        self.sinks.insert(flow, sink);
        flow
    }

    /// Reads the stream no more.
    pub fn close(&mut self, link: &mut Link, flow: FlowId) {
        if let Some(sink) = self.sinks.get_mut(&flow) {
            sink.closed = true;
            link.unsubscribe(flow);
        }
    }

    /// Lets producers write and readers read, and returns whether any of them did.
    pub fn work(&mut self, link: &mut Link) -> bool {
        let (sources, sinks) = std::mem::take(&mut self.moved);
        self.work_on(link, sources, sinks)
    }

    /// The same for all of them.
    pub fn work_on_all(&mut self, link: &mut Link) -> bool {
        let (sources, sinks) = (self.sources.keys().copied().collect(), self.sinks.keys().copied().collect());
        self.work_on(link, sources, sinks)
    }

    fn work_on(&mut self, link: &mut Link, sources: BTreeSet<StreamKey>, sinks: BTreeSet<FlowId>) -> bool {
        let mut busy = false;
        let mut told: Vec<FlowId> = self.news.drain(..).collect();
        for stream in sources {
            let Some(source) = self.sources.get_mut(&stream) else { continue };
            if source.produce() {
                busy = true;
                told.extend(self.readers.iter().filter(|(_, key)| **key == source.stream).map(|(flow, _)| *flow));
            }
        }
        for flow in told {
            let Some(source) = self.readers.get(&flow).and_then(|key| self.sources.get(key)) else { continue };
            link.available(flow, source.written);
            if source.is_complete() {
                link.finish(flow, source.length);
            }
            if let Some(reason) = &source.aborted {
                link.abort(flow, reason);
            }
        }
        for flow in sinks {
            busy |= self.sinks.get_mut(&flow).is_some_and(|sink| sink.work(flow, link));
        }
        busy
    }

    /// Whether everything that was to be read has been.
    pub fn is_done(&self) -> bool {
        self.sinks.values().all(|sink| sink.aborted.is_some() || sink.closed || sink.ended == Some(sink.read))
    }
}

impl Sink {
    /// Reads and checks the bytes that have arrived, and makes room.
    fn work(&mut self, flow: FlowId, link: &mut Link) -> bool {
        let end = self.arrived.min(self.limit);
        let mut busy = false;
        while self.read < end {
            busy = true;
            let from = self.old.first().unwrap_or(&self.landing);
            let here = match self.old.first() {
                Some(old) => (old.base() + old.size()).min(end) - self.read,
                None => end - self.read,
            };
            if here == 0 {
                self.old.remove(0);
                continue;
            }
            let start = from.index(self.read);
            let mut bytes = vec![0; here as usize];
            from.memory().shared(start..start + here as usize).copy_to(&mut bytes);
            pattern::check(self.stream, self.read, &bytes);
            self.read += here;
        }
        if self.ended.is_some() || self.aborted.is_some() || self.closed {
            return busy;
        }
        if self.landing.is_ring() {
            let until = self.read.max(self.landing.base()) + self.landing.size();
            if until > self.landing.room().end {
                self.landing.open(self.arrived..until);
                link.credit(flow, until);
            }
        } else if self.arrived == self.landing.base() + self.landing.size()
            && (self.read >= self.arrived || self.may_run_ahead())
        {
            let next = landing(self.arrived, WINDOW, self.layout == Layout::Ring);
            next.open(self.arrived..self.arrived + WINDOW);
            self.old.push(std::mem::replace(&mut self.landing, next));
            link.window(flow, &self.landing, self.arrived + WINDOW);
            busy = true;
        }
        busy
    }

    /// Extents may hold a few windows that the reader has not come to.
    fn may_run_ahead(&self) -> bool {
        self.layout == Layout::Extents && self.old.len() < 3
    }
}

impl Local for Node {
    fn chunk(&mut self, flow: FlowId, at: u64, most: u64) -> Option<Chunk> {
        let source = self.sources.get(self.readers.get(&flow)?)?;
        let length = most.min(source.written.checked_sub(at)?);
        let start = (at % source.ring) as usize;
        Some(Chunk::new(Arc::clone(&source.memory), start..start + length as usize))
    }

    fn landing(&mut self, flow: FlowId) -> Option<Arc<Landing>> {
        self.sinks.get(&flow).filter(|sink| !sink.closed).map(|sink| Arc::clone(&sink.landing))
    }

    fn handle(&mut self, flow: FlowId, event: FlowEvent) {
        match event {
            FlowEvent::Subscribed { stream, from } => self.subscribed(flow, stream, from),
            FlowEvent::Acknowledged(upto) => self.acknowledged(flow, upto),
            FlowEvent::Stuck(stuck) => self.stuck(flow, stuck),
            FlowEvent::Unsubscribed => self.unsubscribed(flow),
            FlowEvent::Arrived(upto) => self.arrived(flow, upto),
            FlowEvent::Finished(length) => self.finished(flow, length),
            FlowEvent::Aborted(reason) => self.aborted(flow, &reason),
            FlowEvent::Drained => self.drained(flow),
        }
    }
}

/// The events of flows.
impl Node {
    fn subscribed(&mut self, flow: FlowId, stream: StreamKey, from: u64) {
        if let Some(source) = self.sources.get_mut(&stream) {
            source.released.insert(flow, from);
        }
        self.readers.insert(flow, stream);
        self.moved.0.insert(stream);
        self.news.push_back(flow);
    }

    fn acknowledged(&mut self, flow: FlowId, upto: u64) {
        let Some(source) = self.readers.get(&flow).and_then(|key| self.sources.get_mut(key)) else { return };
        self.moved.0.insert(source.stream);
        let before = source.released.insert(flow, upto);
        assert!(before.is_none_or(|before| before < upto), "released bytes stay released");
        assert!(upto <= source.written, "bytes that were never written cannot have arrived");
    }

    fn stuck(&mut self, flow: FlowId, stuck: bool) {
        if let Some(&stream) = self.readers.get(&flow) {
            self.stuck.insert(stream, stuck);
        }
    }

    fn unsubscribed(&mut self, flow: FlowId) {
        let stream = self.readers.remove(&flow).expect("it was subscribed");
        if let Some(source) = self.sources.get_mut(&stream) {
            source.released.remove(&flow);
        }
        self.unsubscribed.push(stream);
    }

    fn arrived(&mut self, flow: FlowId, upto: u64) {
        let sink = self.sinks.get_mut(&flow).expect("it is read");
        assert!(upto > sink.arrived, "a commit goes forward");
        self.moved.1.insert(flow);
        sink.arrived = upto;
        sink.landing.open(upto..sink.landing.room().end);
    }

    fn finished(&mut self, flow: FlowId, length: u64) {
        let sink = self.sinks.get_mut(&flow).expect("it is read");
        assert_eq!(sink.arrived, length, "an end comes after everything else");
        assert_eq!(sink.ended.replace(length), None, "an end comes once");
    }

    fn aborted(&mut self, flow: FlowId, reason: &str) {
        let sink = self.sinks.get_mut(&flow).expect("it is read");
        assert_eq!(sink.aborted.replace(reason.to_owned()), None, "a stream is given up once");
    }

    fn drained(&mut self, flow: FlowId) {
        let sink = self.sinks.get_mut(&flow).expect("it was read");
        assert!(sink.closed && !std::mem::replace(&mut sink.quiet, true), "a closed flow gets quiet once");
    }
}
