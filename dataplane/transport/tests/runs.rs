//! Streams of several runs over one link.

use dflow_protocol::message::Window;
use dflow_protocol::wire::{FlowId, StreamKey};
use dflow_protocol::{Epoch, RunId, SegmentId, StreamId};
use dflow_shm::{Access, Landing, Memory, Segment, SegmentKind};
use dflow_transport::sim::{SimConfig, SimNet};
use dflow_transport::{Chunk, FlowEvent, Link, Local};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

/// The window of every stream, in bytes.
const WINDOW: u64 = 64 * 1024;
/// The time that a packet takes, in ticks.
const DELAY: u64 = 500;
/// Bytes in each tick. As many are in flight as fill the network.
const BANDWIDTH: u64 = 1000;
/// The resolution of the measurements, in ticks.
const STEP: u64 = 5;

const SMALL: RunId = RunId(1);
const FLOOD: RunId = RunId(2);

/// One side: the streams that the peer reads, and the progress of the streams that it reads itself.
struct Side {
    memory: Arc<Memory>,
    landings: BTreeMap<FlowId, Arc<Landing>>,
    readers: BTreeMap<StreamKey, FlowId>,
    arrived: BTreeMap<FlowId, u64>,
    events: Vec<(FlowId, FlowEvent)>,
}

impl Side {
    fn new() -> Self {
        let segment = Segment::create("runs", WINDOW as usize, SegmentKind::FunctionWritten).expect("memory");
        let memory = Memory::ring(segment.as_fd(), 0, WINDOW as usize, Access::Write);
        let (landings, readers, arrived) = Default::default();
        Self { memory: Arc::new(memory.expect("a mapping")), landings, readers, arrived, events: Vec::new() }
    }

    /// Reads a stream into a ring.
    fn read(&mut self, link: &mut Link, stream: StreamKey) -> FlowId {
        let flow = link.subscribe(stream, 0).expect("room for a flow");
        let window = Window { segment: SegmentId(0), segment_offset: 0, base: 0, size: WINDOW, ring: true };
        let landing = Arc::new(Landing::new(&window, Arc::clone(&self.memory), 0));
        landing.open(0..WINDOW);
        link.window(flow, &landing, WINDOW);
        self.landings.insert(flow, landing);
        flow
    }

    /// Arriving bytes are read at once, and the flooding run writes new ones for those that were acknowledged.
    fn work(&mut self, link: &mut Link) {
        for (flow, event) in std::mem::take(&mut self.events) {
            match event {
                FlowEvent::Subscribed { stream, .. } => {
                    self.readers.insert(stream, flow);
                    if stream.run() == FLOOD {
                        link.available(flow, WINDOW);
                    }
                }
                FlowEvent::Acknowledged(upto)
                    if self.readers.iter().any(|(key, of)| *of == flow && key.run() == FLOOD) =>
                {
                    link.available(flow, upto + WINDOW);
                }
                FlowEvent::Arrived(upto) => {
                    self.landings[&flow].open(upto..upto + WINDOW);
                    link.credit(flow, upto + WINDOW);
                    self.arrived.insert(flow, upto);
                }
                _ => {}
            }
        }
    }
}

impl Local for Side {
    fn chunk(&mut self, _: FlowId, at: u64, most: u64) -> Option<Chunk> {
        let start = (at % WINDOW) as usize;
        Some(Chunk::new(Arc::clone(&self.memory), start..start + most as usize))
    }

    fn landing(&mut self, flow: FlowId) -> Option<Arc<Landing>> {
        self.landings.get(&flow).cloned()
    }

    fn handle(&mut self, flow: FlowId, event: FlowEvent) {
        self.events.push((flow, event));
    }
}

struct World {
    net: SimNet,
    now: u64,
    links: [Link; 2],
    sides: [Side; 2],
}

impl World {
    fn new() -> Self {
        let config = SimConfig {
            delay: (DELAY, DELAY),
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            packet: 0,
            bandwidth: BANDWIDTH,
            in_flight: DELAY * BANDWIDTH,
            ..SimConfig::default()
        };
        let net = SimNet::new(1, config);
        let mut links = [Link::new(1), Link::new(2)];
        for (link, path) in links.iter_mut().zip(net.connect()) {
            link.connect(Box::new(path), 1);
        }
        Self { net, now: 0, links, sides: [Side::new(), Side::new()] }
    }

    fn read(&mut self, run: RunId, stream: u32) -> FlowId {
        self.sides[1].read(&mut self.links[1], StreamKey::new(run, StreamId(stream), Epoch(1)))
    }

    fn step(&mut self) {
        self.now += STEP;
        self.net.advance_to(self.now);
        for (link, side) in self.links.iter_mut().zip(&mut self.sides) {
            while link.step(side) {
                side.work(link);
            }
            side.work(link);
            let _ = link.settle(side);
            side.work(link);
        }
    }

    /// How long each of many small messages of one stream takes, in ticks; each is written when the one before has
    /// arrived.
    fn latencies(&mut self, messages: u64) -> Vec<u64> {
        let key = StreamKey::new(SMALL, StreamId(0), Epoch(1));
        let flow = self.read(SMALL, 0);
        // Until the stream's window is known, and the other run's streams are at full speed.
        (0..DELAY).for_each(|_| self.step());
        let mut latencies = Vec::new();
        for message in 1..=messages {
            let (written, start) = (64 * message, self.now);
            self.links[0].available(self.sides[0].readers[&key], written);
            while self.sides[1].arrived.get(&flow).is_none_or(|arrived| *arrived < written) {
                assert!(self.now < start + 1000 * DELAY, "message {message} does not arrive");
                self.step();
            }
            latencies.push(self.now - start);
        }
        latencies.sort_unstable();
        latencies
    }
}

fn p99(latencies: &[u64]) -> u64 {
    latencies[latencies.len() * 99 / 100]
}

#[test]
fn a_run_that_floods_the_link_does_not_double_the_latency_of_a_small_one() {
    let alone = p99(&World::new().latencies(200));
    let mut world = World::new();
    (0..500).for_each(|stream| _ = world.read(FLOOD, stream));
    let beside = p99(&world.latencies(200));
    assert!(beside <= 2 * alone, "alone {alone} ticks, beside the flood {beside}");
    let sent = world.links[0].stats().total().sent;
    assert!(sent > world.now / 2 * BANDWIDTH, "the flood fills the link: {sent} bytes in {} ticks", world.now);
}
