//! One stream over loopback, and the round trip of 64 bytes, beside bare quinn with the same transport in the same run.
//! `quic_speed [MiB] [in flight, MiB] [largest packet] [window, MiB]`

use dflow_protocol::limits::ARENA_SLOT;
use dflow_protocol::message::Window;
use dflow_protocol::wire::{FlowId, StreamKey};
use dflow_protocol::{Epoch, RunId, SegmentId, StreamId};
use dflow_shm::{Access, Landing, Memory, Segment, SegmentKind};
use dflow_transport::quic::{ClusterCa, Connection, Identity, QuicNode, QuicPath, QuicSettings, bare_endpoint};
use dflow_transport::{Chunk, Link, Local};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const ROUNDS: usize = 900;
const PART: usize = 64;
const RUNS: usize = 7;

fn main() {
    let number = |place: usize, or: u64| std::env::args().nth(place).and_then(|word| word.parse().ok()).unwrap_or(or);
    let total = number(1, 1024) * MIB;
    let settings = QuicSettings {
        endpoints: 1,
        in_flight: number(2, QuicSettings::default().in_flight / MIB) * MIB,
        largest_packet: u16::try_from(number(3, QuicSettings::default().largest_packet.into())).unwrap_or(u16::MAX),
        ..QuicSettings::default()
    };
    let window = number(4, 8) * MIB;
    let ca = ClusterCa::create("speed").expect("an authority");
    let identities = ["a", "b"].map(|name| ca.issue(name, Duration::from_secs(3600)).expect("an identity"));
    let mut speeds = [Vec::new(), Vec::new()];
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        let start = cpu();
        speeds[0].push(bare_stream(&identities, &settings, total));
        let middle = cpu();
        speeds[1].push(our_stream(&identities, &settings, total, window));
        costs[0].push(middle - start);
        costs[1].push(cpu() - middle);
    }
    let gib = total as f64 / (1u64 << 30) as f64;
    let [bare, ours] = speeds.map(median_and_best);
    println!("stream of {} MiB, {RUNS} runs, GB/s:", total / MIB);
    println!("  best: bare quinn {:.2}, dflow {:.2}: {:.2}", bare.1, ours.1, ours.1 / bare.1);
    println!("  median: bare quinn {:.2}, dflow {:.2}: {:.2}", bare.0, ours.0, ours.0 / bare.0);
    let [bare, ours] = costs.map(|costs| median_and_best(costs).0 / gib);
    println!("  CPU seconds per GiB, median: bare quinn {bare:.2}, dflow {ours:.2}: {:.2}", ours / bare);
    for inline in [true, false] {
        let mut trips = [Vec::new(), Vec::new()];
        for _ in 0..RUNS {
            trips[0].push(bare_round_trips(&identities, &settings).as_secs_f64() * 1e6);
            trips[1].push(our_round_trips(&identities, &settings, inline).as_secs_f64() * 1e6);
        }
        let how = if inline { "in messages" } else { "in a window" };
        let [bare, ours] = trips.map(|trips| median_and_best(trips).0);
        println!("round trip of {PART} bytes {how}, µs: bare quinn {bare:.1}, dflow {ours:.1}: {:.2}", ours / bare);
    }
}

/// The median, and the largest.
fn median_and_best(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_unstable_by(f64::total_cmp);
    (values[values.len() / 2], values[values.len() - 1])
}

/// CPU time of this process, in seconds.
fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

// ---- Bare quinn: a thread with a runtime of its own for each side ----

fn bare<T: Send + 'static>(
    identities: &[Identity; 2],
    settings: &QuicSettings,
    server: impl AsyncFn(quinn::Connection) + Send + 'static,
    client: impl AsyncFn(quinn::Connection) -> T,
) -> T {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (address, told) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            runtime().block_on(async move {
                let endpoint = bare_endpoint(localhost(), &identities[1], settings).expect("a port");
                address.send(endpoint.local_addr().expect("bound")).expect("somebody waits");
                let connection = endpoint.accept().await.expect("a client").await.expect("of the cluster");
                server(connection.clone()).await;
                connection.closed().await;
            });
        });
        runtime().block_on(async {
            let endpoint = bare_endpoint(localhost(), &identities[0], settings).expect("a port");
            let address = told.recv().expect("it is bound");
            let connection = endpoint.connect(address, "b").expect("a name").await.expect("of the cluster");
            let outcome = client(connection.clone()).await;
            connection.close(0u32.into(), b"");
            endpoint.wait_idle().await;
            outcome
        })
    })
}

fn bare_stream(identities: &[Identity; 2], settings: &QuicSettings, total: u64) -> f64 {
    let server = async move |connection: quinn::Connection| {
        let mut stream = connection.accept_uni().await.expect("a stream");
        // As with a window, the bytes end up in memory of the reader's.
        let mut window = vec![1u8; 8 * MIB as usize];
        let mut received = 0;
        while let Some(chunk) = stream.read_chunk(usize::MAX, false).await.expect("it goes on") {
            let start = (chunk.offset % (7 * MIB)) as usize;
            window[start..start + chunk.bytes.len()].copy_from_slice(&chunk.bytes);
            received += chunk.bytes.len() as u64;
        }
        assert_eq!(received, total);
        connection.open_uni().await.expect("a stream").write_all(b"x").await.expect("it goes on");
    };
    let seconds = bare(identities, settings, server, async move |connection| {
        let bytes = vec![7u8; 256 * 1024];
        let start = Instant::now();
        let mut stream = connection.open_uni().await.expect("a stream");
        for _ in 0..total / bytes.len() as u64 {
            stream.write_all(&bytes).await.expect("it goes on");
        }
        stream.finish().expect("once");
        connection.accept_uni().await.expect("all is there");
        start.elapsed().as_secs_f64()
    });
    total as f64 / 1e9 / seconds
}

fn bare_round_trips(identities: &[Identity; 2], settings: &QuicSettings) -> Duration {
    let server = async move |connection: quinn::Connection| {
        let (mut send, mut receive) = connection.accept_bi().await.expect("a stream");
        let mut bytes = [0; PART];
        while receive.read_exact(&mut bytes).await.is_ok() {
            send.write_all(&bytes).await.expect("it goes on");
        }
    };
    bare(identities, settings, server, async |connection| {
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            send.write_all(&[7; PART]).await.expect("it goes on");
            receive.read_exact(&mut [0; PART]).await.expect("it goes on");
            times.push(start.elapsed());
        }
        median(times)
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

// ---- dflow: a thread for each node's link, beside the threads of its endpoint ----

/// A node that writes one stream and reads one.
struct Node {
    /// What is written, over and over.
    source: Arc<Memory>,
    reader: Option<FlowId>,
    written: u64,
    landing: Option<(FlowId, Arc<Landing>)>,
    arrived: u64,
}

impl Local for Node {
    fn subscribed(&mut self, flow: FlowId, _: StreamKey, _: u64) {
        self.reader = Some(flow);
    }
    fn chunk(&mut self, _: FlowId, at: u64, most: u64) -> Option<Chunk> {
        let size = self.source.length() as u64;
        let start = at % size;
        let end = (start + most.min(self.written.checked_sub(at)?)).min(size);
        Some(Chunk::new(self.source.clone(), start as usize..end as usize))
    }
    fn release(&mut self, _: FlowId, _: u64) {}
    fn stuck(&mut self, _: FlowId, _: bool) {}
    fn unsubscribed(&mut self, _: FlowId) {}
    fn landing(&mut self, _: FlowId) -> Option<Arc<Landing>> {
        self.landing.as_ref().map(|(_, landing)| landing.clone())
    }
    fn commit(&mut self, _: FlowId, upto: u64) {
        self.arrived = upto;
    }
    fn ended(&mut self, _: FlowId, _: u64) {}
    fn aborted(&mut self, _: FlowId, reason: &str) {
        panic!("{reason}");
    }
    fn quiet(&mut self, _: FlowId) {}
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A node and its link, on a thread.
struct Side {
    node: Node,
    link: Link,
    _connection: Connection,
}

impl Side {
    fn new(connection: Connection, life: u64) -> Self {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let path = QuicPath::new(&connection, 1, waker).expect("a connection");
        let mut link = Link::new(life);
        link.connect(Box::new(path), 1);
        let source = Segment::create("source", 1 << 20, SegmentKind::FunctionWritten).expect("memory");
        let source = Arc::new(source.map(Access::Write).expect("a mapping"));
        let landing = Landing::new(&window(0, MIB, false), source.clone(), 0);
        landing.open(0..MIB);
        landing.place(0, &vec![7; MIB as usize]).expect("there is room");
        let node = Node { source, reader: None, written: 0, landing: None, arrived: 0 };
        Self { node, link, _connection: connection }
    }

    /// Reads stream `number` of the other side. `size`: of its ring; inline bytes only if there is none.
    fn read(&mut self, number: u32, size: Option<u64>) {
        let stream = StreamKey::new(RunId(1), StreamId(number), Epoch(1));
        let flow = self.link.subscribe(stream, if size.is_some() { 0 } else { ARENA_SLOT }).expect("not too many");
        let ring = size.is_some();
        let size = size.unwrap_or(ARENA_SLOT);
        let segment = Segment::create("sink", size as usize, SegmentKind::FunctionWritten).expect("memory");
        let memory = if ring {
            Memory::ring(segment.as_fd(), 0, size as usize, Access::Write)
        } else {
            segment.map(Access::Write)
        };
        let landing = Arc::new(Landing::new(&window(0, size, ring), Arc::new(memory.expect("a mapping")), 0));
        landing.open(0..size);
        if ring {
            self.link.window(flow, &landing, size);
        }
        self.node.landing = Some((flow, landing));
    }

    /// Goes on until this holds, or the other side is gone.
    fn until(&mut self, holds: impl Fn(&Node) -> bool) {
        loop {
            let busy = self.link.step(&mut self.node);
            if let Some((flow, landing)) = self.node.landing.as_ref().filter(|(_, landing)| landing.is_ring()) {
                let until = self.node.arrived + landing.size();
                if until - landing.room().end >= landing.size() / 8 {
                    landing.open(self.node.arrived..until);
                    self.link.room(*flow, until);
                }
            }
            if holds(&self.node) || self.link.path_kind().is_none() {
                return;
            }
            if !busy {
                self.link.settle(&mut self.node);
                if !self.link.step(&mut self.node) {
                    thread::park();
                }
            }
        }
    }

    fn write(&mut self, upto: u64) {
        self.until(|node| node.reader.is_some());
        self.node.written = upto;
        if let Some(flow) = self.node.reader {
            self.link.available(flow, upto);
        }
    }
}

fn window(base: u64, size: u64, ring: bool) -> Window {
    Window { segment: SegmentId(0), segment_offset: 0, base, size, ring }
}

fn ours<T>(
    identities: &[Identity; 2],
    settings: &QuicSettings,
    server: impl FnOnce(&mut Side) + Send,
    client: impl FnOnce(&mut Side) -> T,
) -> T {
    let [(a, _), (b, mut incoming)] =
        [0, 1].map(|side| QuicNode::bind(localhost(), &identities[side], settings.clone()).expect("a port"));
    thread::scope(|scope| {
        let dial = a.connect(b.local_address(), "b");
        let server = scope.spawn(move || {
            let mut side = Side::new(incoming.wait().expect("it is accepted"), 2);
            server(&mut side);
        });
        let mut side = Side::new(dial.wait().expect("of one cluster"), 1);
        let outcome = client(&mut side);
        drop(side);
        server.join().expect("it does not panic");
        outcome
    })
}

fn our_stream(identities: &[Identity; 2], settings: &QuicSettings, total: u64, size: u64) -> f64 {
    let reads = move |side: &mut Side| {
        side.read(1, Some(size));
        side.until(|node| node.arrived == total);
        side.write(1);
        side.until(|_| false);
    };
    let seconds = ours(identities, settings, reads, move |side| {
        side.read(2, None);
        side.until(|node| node.reader.is_some());
        let start = Instant::now();
        side.write(total);
        side.until(|node| node.arrived == 1);
        start.elapsed().as_secs_f64()
    });
    total as f64 / 1e9 / seconds
}

fn our_round_trips(identities: &[Identity; 2], settings: &QuicSettings, inline: bool) -> Duration {
    let size = if inline { None } else { Some(MIB) };
    let server = move |side: &mut Side| {
        side.read(1, size);
        for round in 1..=ROUNDS as u64 {
            side.until(|node| node.arrived == round * PART as u64);
            side.write(round * PART as u64);
        }
        side.until(|_| false);
    };
    ours(identities, settings, server, move |side| {
        side.read(2, size);
        side.until(|node| node.reader.is_some());
        let mut times = Vec::new();
        for round in 1..=ROUNDS as u64 {
            let start = Instant::now();
            side.write(round * PART as u64);
            side.until(|node| node.arrived == round * PART as u64);
            times.push(start.elapsed());
        }
        median(times)
    })
}
