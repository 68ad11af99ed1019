//! Several nodes of one process: each a store in a thread with a carrier beside it.

#![allow(dead_code, reason = "no file of tests uses all of it")]

pub mod crowd;

use dflow_carrier::{Carrier, Command, NodeId, Report, RunTraffic};
use dflow_protocol::wire::StreamKey;
use dflow_protocol::{Epoch, InstanceId, PortId, RunId, StreamId};
use dflow_store::{InputFile, ProcessId, Subscriber};
use dflow_testkit::node::{Arrival, Node, RUN, carrier_of, key, now, run_of};
use dflow_transport::sim::{SimConfig, SimNet};
use dflow_transport::{LinkBytes, LinkStats, Path};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// So long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The condition that a test waits for.
type Awaited = Box<dyn FnMut(&Node) -> bool + Send>;

pub struct Cluster {
    nodes: Vec<Member>,
    net: SimNet,
    stop: Arc<AtomicBool>,
    frozen: Arc<AtomicBool>,
    /// How often the clock has found itself frozen.
    idle: Arc<AtomicU64>,
    clock: Option<JoinHandle<()>>,
    incarnation: u64,
    epochs: BTreeMap<u32, u32>,
    /// The number behind the highest port of each node's carrier.
    ports: BTreeMap<usize, u32>,
    /// Readers on other nodes have numbers of their own.
    next_subscriber: u32,
    /// Whether the streams keep all their bytes, as those do that a retry may need again.
    pub keep: bool,
}

struct Member {
    door: Sender<Arrival>,
    awaited: Sender<Awaited>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Until the end of the test.
    carrier: Option<Carrier>,
    reports: Arc<Reports>,
}

/// The reports of a node's carrier.
#[derive(Default)]
struct Reports {
    so_far: Mutex<SoFar>,
    news: Condvar,
}

#[derive(Default)]
struct SoFar {
    traffic: BTreeMap<NodeId, LinkStats>,
    runs: BTreeMap<(RunId, NodeId), RunTraffic>,
    sums: u64,
    /// What went wrong.
    failures: Vec<String>,
}

impl Reports {
    fn note(&self, change: impl FnOnce(&mut SoFar)) {
        change(&mut self.so_far.lock().expect("no panic"));
        self.news.notify_all();
    }

    fn look<T>(&self, look: impl FnOnce(&SoFar) -> T) -> T {
        look(&self.so_far.lock().expect("no panic"))
    }

    /// Waits until this holds; whether it does.
    fn wait(&self, holds: impl Fn(&SoFar) -> bool) -> bool {
        let so_far = self.so_far.lock().expect("no panic");
        let (so_far, _) = self.news.wait_timeout_while(so_far, PATIENCE, |so_far| !holds(so_far)).expect("no panic");
        holds(&so_far)
    }
}

impl Cluster {
    /// Nodes with this memory budget each, every one connected with the next.
    pub fn new(count: usize, memory: u64) -> Self {
        Self::over(SimConfig { delay: (1, 20), ..SimConfig::default() }, false, count, memory)
    }

    /// The same over a network of this kind. `paced`: a tick takes a microsecond; otherwise as little time as possible.
    pub fn over(config: SimConfig, paced: bool, count: usize, memory: u64) -> Self {
        let net = SimNet::new(7, config);
        let stop = Arc::new(AtomicBool::new(false));
        let (clock_net, clock_stop) = (net.clone(), Arc::clone(&stop));
        let (frozen, idle) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (clock_frozen, clock_idle) = (Arc::clone(&frozen), Arc::clone(&idle));
        let clock = std::thread::spawn(move || {
            let start = Instant::now();
            while !clock_stop.load(Ordering::Relaxed) {
                if clock_frozen.load(Ordering::Relaxed) {
                    clock_idle.fetch_add(1, Ordering::Release);
                    std::thread::sleep(Duration::from_micros(50));
                    continue;
                }
                if paced {
                    clock_net.advance_to(start.elapsed().as_micros() as u64);
                }
                if !paced && clock_net.advance() {
                    // Others want the network, too, and its lock is not a fair one.
                    std::thread::yield_now();
                } else {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        });
        let nodes = (0..count).map(|number| Member::start(number, memory)).collect();
        let mut cluster = Self {
            nodes,
            net,
            stop,
            frozen,
            idle,
            clock: Some(clock),
            incarnation: 0,
            epochs: BTreeMap::new(),
            ports: BTreeMap::new(),
            next_subscriber: 1 << 20,
            keep: false,
        };
        (1..count).for_each(|number| cluster.connect(number - 1, number));
        cluster
    }

    /// A new path between two nodes.
    pub fn connect(&mut self, one: usize, other: usize) {
        self.incarnation += 1;
        let ends = [one, other];
        let paths = self.net.connect_waking(ends.map(|end| self.nodes[end].carrier().waker()));
        for (end, path) in ends.into_iter().zip(paths) {
            let peer = id(ends[0] + ends[1] - end);
            let path: Box<dyn Path> = Box::new(path);
            self.nodes[end].tell(Command::Silence(peer, PATIENCE));
            self.nodes[end].tell(Command::Connect(peer, path, self.incarnation));
        }
    }

    pub fn cut(&self) {
        self.net.cut();
    }

    /// Stream `stream` is written on one node and read on another, by these functions through these inputs.
    pub fn cross(&mut self, stream: u32, from: usize, to: usize, readers: &[(u32, u32)]) {
        self.cross_all(&[stream], from, to, readers);
    }

    /// The same for many streams at once.
    pub fn cross_all(&mut self, streams: &[u32], from: usize, to: usize, readers: &[(u32, u32)]) {
        let (opened, keep) = (streams.to_vec(), self.keep);
        self.epochs.extend(streams.iter().map(|&stream| (stream, 1)));
        self.on(from, move |node| opened.into_iter().for_each(|stream| node.store.open_stream(key(stream), keep)));
        self.pass_on_all(streams, from, to, readers);
    }

    /// Stream `stream`, which is on one node, is read on another, too.
    pub fn pass_on(&mut self, stream: u32, from: usize, to: usize, readers: &[(u32, u32)]) {
        self.pass_on_all(&[stream], from, to, readers);
    }

    fn pass_on_all(&mut self, streams: &[u32], from: usize, to: usize, readers: &[(u32, u32)]) {
        let (opened, readers, keep) = (streams.to_vec(), readers.to_vec(), self.keep);
        self.on(to, move |node| {
            for stream in opened {
                node.store.open_stream(key(stream), false);
                for &(instance, input) in &readers {
                    let subscriber = Subscriber { instance: InstanceId(instance), input };
                    node.store.subscribe(now(), key(stream), subscriber, keep);
                }
            }
        });
        self.attach_all(streams, from, to);
    }

    /// Nobody reads the stream any more that was the last to cross from one node to another: its memory is for others.
    pub fn forget(&self, stream: u32, from: usize, to: usize, reader: u32) {
        for (node, instance) in [(from, self.next_subscriber), (to, reader)] {
            let subscriber = Subscriber { instance: InstanceId(instance), input: 0 };
            self.on(node, move |node| node.store.unsubscribe(key(stream), subscriber));
        }
    }

    fn attach_all(&mut self, streams: &[u32], from: usize, to: usize) {
        self.export(streams, from, to);
        self.import(streams, from, to);
    }

    /// Streams of one node may be read by another.
    pub fn export(&mut self, streams: &[u32], from: usize, to: usize) {
        let (first, opened) = (self.next_subscriber + 1, streams.to_vec());
        self.next_subscriber += streams.len() as u32;
        let read = self.on(from, move |node| {
            let mut export = |(instance, stream)| {
                let remote = Subscriber { instance: InstanceId(instance), input: 0 };
                node.store.subscribe(now(), key(stream), remote, false);
                node.store.export(carrier_of(run_of(stream)), remote, key(stream)).expect("a port").expect("a carrier")
            };
            (first..).zip(opened).map(&mut export).collect::<Vec<_>>()
        });
        self.note_ports(from, &read);
        for (&stream, port) in streams.iter().zip(read) {
            self.nodes[from].tell(Command::Export(id(to), self.key(stream), port));
        }
    }

    /// Streams of one node are read by another.
    pub fn import(&mut self, streams: &[u32], from: usize, to: usize) {
        let opened = streams.to_vec();
        let written = self.on(to, move |node| {
            let mut import = |stream| {
                let port = node.store.import(carrier_of(run_of(stream)), key(stream)).expect("a port");
                port.expect("a carrier and a stream")
            };
            opened.into_iter().map(&mut import).collect::<Vec<_>>()
        });
        self.note_ports(to, &written);
        for (&stream, port) in streams.iter().zip(written) {
            self.nodes[to].tell(Command::Import(id(from), self.key(stream), port));
        }
    }

    /// A stream that consists of a file on one node is read on another by this function.
    pub fn cross_file(&mut self, stream: u32, from: usize, to: usize, reader: u32, file: std::fs::File, length: u64) {
        self.epochs.insert(stream, 1);
        let files = vec![(InputFile::Open(file.into()), length)];
        self.on(from, move |node| node.store.open_files(key(stream), files));
        self.pass_on(stream, from, to, &[(reader, 0)]);
    }

    fn note_ports(&mut self, node: usize, ports: &[PortId]) {
        let most = self.ports.entry(node).or_default();
        *most = ports.iter().map(|port| port.0 + 1).max().unwrap_or(0).max(*most);
    }

    /// How many ports the carrier of a node has had at the most, in one run.
    pub fn ports(&self, node: usize) -> u32 {
        self.ports.get(&node).copied().unwrap_or(0)
    }

    /// Opens streams on a node without attaching them to another, each with a reader if there is one.
    pub fn open(&mut self, streams: &[u32], node: usize, reader: Option<u32>) {
        let (opened, keep) = (streams.to_vec(), self.keep);
        self.epochs.extend(streams.iter().map(|&stream| (stream, 1)));
        self.on(node, move |node| {
            for stream in opened {
                node.store.open_stream(key(stream), keep);
                if let Some(instance) = reader {
                    let subscriber = Subscriber { instance: InstanceId(instance), input: 0 };
                    node.store.subscribe(now(), key(stream), subscriber, keep);
                }
            }
        });
    }

    /// The epoch of a stream is aborted on both nodes, and the next one opened, which another function reads.
    pub fn abort(&mut self, stream: u32, from: usize, to: usize, reader: u32, next: u32) {
        let old = self.key(stream);
        for node in [from, to] {
            self.on(node, move |node| node.store.abort(key(stream)));
            self.nodes[node].tell(Command::Drop(old));
        }
        *self.epochs.get_mut(&stream).expect("it was opened") += 1;
        self.on(to, move |node| {
            let subscriber = |instance| Subscriber { instance: InstanceId(instance), input: 0 };
            node.store.unsubscribe(key(stream), subscriber(reader));
            node.store.subscribe(now(), key(stream), subscriber(next), false);
        });
        self.attach_all(&[stream], from, to);
    }

    fn key(&self, stream: u32) -> StreamKey {
        StreamKey::new(run_of(stream), StreamId(stream), Epoch(self.epochs[&stream]))
    }

    /// One more run begins on a node.
    pub fn begin(&self, node: usize, run: RunId) {
        let channel = self.on(node, move |node| {
            node.admit(run);
            node.attach(run)
        });
        self.nodes[node].tell(Command::Begin(run, channel));
    }

    /// The run is over on a node.
    #[track_caller]
    pub fn end(&self, node: usize, run: RunId) {
        self.tell_end(node, run);
        self.await_end(node, run);
    }

    /// The carrier of a node is told that the run is over there. It knows when this returns.
    #[track_caller]
    pub fn tell_end(&self, node: usize, run: RunId) {
        self.nodes[node].tell(Command::End(run));
        self.sum(node, run);
    }

    /// Waits until the carrier of a node has closed its channel for the run, and ends the run in the store.
    #[track_caller]
    pub fn await_end(&self, node: usize, run: RunId) {
        self.until(node, move |node| node.is_detached(run));
        self.on(node, move |node| {
            node.store.end(now(), carrier_of(run), false);
            node.store.end_run(now(), run);
        });
    }

    /// A function is killed.
    #[track_caller]
    pub fn kill(&self, node: usize, function: u32) {
        let thread = self.on(node, move |node| node.kill(function));
        // Before that, it may still write.
        thread.expect("a function dies once").join().expect("no panic");
        self.until(node, move |node| node.is_gone(function));
        // How it has ended is of no interest: it may have been told already that nobody reads its outputs.
        self.on(node, move |node| _ = node.outcomes.remove(&ProcessId(function.into())));
    }

    /// A peer is forgotten by a node's carrier.
    pub fn forget_peer(&self, node: usize, peer: usize) {
        self.nodes[node].tell(Command::Forget(id(peer)));
    }

    /// Gives a command to a node's carrier.
    pub fn tell(&self, node: usize, command: Command) {
        self.nodes[node].tell(command);
    }

    /// The figures of a run on each link of a node, as they are now.
    #[track_caller]
    pub fn sum(&self, node: usize, run: RunId) -> BTreeMap<NodeId, RunTraffic> {
        let reports = &self.nodes[node].reports;
        let before = reports.look(|so_far| so_far.sums);
        self.nodes[node].tell(Command::Sum(run));
        assert!(reports.wait(|so_far| so_far.sums > before), "no sum");
        reports.look(|so_far| {
            so_far.runs.iter().filter(|((id, _), _)| *id == run).map(|((_, peer), traffic)| (*peer, *traffic)).collect()
        })
    }

    /// The figures of a node's link to another, as they are now.
    #[track_caller]
    pub fn link(&self, node: usize, peer: usize) -> LinkStats {
        self.sum(node, RUN);
        self.nodes[node].reports.look(|so_far| so_far.traffic.get(&id(peer)).copied().unwrap_or_default())
    }

    /// Nothing arrives any more, until it does again.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
        // The clock's thread sees it between two packets.
        if frozen {
            let idle = Arc::clone(&self.idle);
            let seen = idle.load(Ordering::Acquire);
            while idle.load(Ordering::Acquire) == seen {
                std::thread::yield_now();
            }
        }
    }

    /// What has gone wrong at a node so far.
    pub fn failures(&self, node: usize) -> Vec<String> {
        self.nodes[node].reports.look(|so_far| so_far.failures.clone())
    }

    /// Waits until this many streams cross from one node to another, as both of them count.
    #[track_caller]
    pub fn until_crossing(&self, from: usize, to: usize, count: u64) {
        let out = |so_far: &SoFar| so_far.traffic.get(&id(to)).is_some_and(|stats| stats.streams_out == count);
        let coming = |so_far: &SoFar| so_far.traffic.get(&id(from)).is_some_and(|stats| stats.streams_in == count);
        assert!(self.nodes[from].reports.wait(out), "at node {from}");
        assert!(self.nodes[to].reports.wait(coming), "at node {to}");
    }

    /// Does something in a node's thread.
    pub fn on<T: Send + 'static>(&self, node: usize, work: impl FnOnce(&mut Node) -> T + Send + 'static) -> T {
        let (answer, result) = channel();
        let work = move |node: &mut Node| {
            let _ = answer.send(work(node));
        };
        self.nodes[node].door.send(Arrival::Work(Box::new(work))).expect("the node's thread has failed");
        result.recv().expect("the node's thread has failed")
    }

    /// Waits until this holds on a node; gives up after a minute.
    #[track_caller]
    pub fn until(&self, node: usize, holds: impl Fn(&Node) -> bool + Send + 'static) {
        let (answer, result) = channel();
        let awaited = move |node: &Node| holds(node) && answer.send(()).is_ok();
        self.nodes[node].awaited.send(Box::new(awaited)).expect("the node's thread has failed");
        // It looks at once.
        self.on(node, |_| ());
        result.recv_timeout(PATIENCE).expect("stuck");
    }

    /// Waits until the first node has sent this many bytes.
    #[track_caller]
    pub fn until_passed(&self, bytes: u64) {
        let sent = |so_far: &SoFar| so_far.traffic.get(&id(1)).is_some_and(|traffic| traffic.total().sent >= bytes);
        assert!(self.nodes[0].reports.wait(sent), "stuck after {:?}", self.stats());
    }

    /// Waits until a node's carrier has reported something of this kind.
    #[track_caller]
    pub fn until_reported(&self, node: usize, kind: &str) {
        let is_there = |so_far: &SoFar| so_far.failures.iter().any(|report| report.starts_with(kind));
        assert!(self.nodes[node].reports.wait(is_there), "no {kind}");
    }

    /// The number of bytes that a node has sent to all others.
    pub fn traffic_of(&self, node: usize) -> u64 {
        self.nodes[node].reports.look(|so_far| so_far.traffic.values().map(|traffic| traffic.total().sent).sum())
    }

    fn stats(&self) -> LinkStats {
        self.nodes[0].reports.look(|so_far| so_far.traffic.get(&id(1)).copied().unwrap_or_default())
    }

    /// Waits until every function has ended well.
    #[track_caller]
    pub fn until_idle(&self) {
        for node in 0..self.nodes.len() {
            self.until(node, Node::is_idle);
            self.on(node, |node| {
                assert!(node.misbehaved.is_empty(), "{:?}", node.misbehaved);
                for (process, outcome) in &node.outcomes {
                    assert_eq!(outcome, &Ok(()), "{process:?}");
                }
            });
        }
    }

    /// Waits until every function has ended well, and ends the carriers; what passed between the first two nodes.
    #[track_caller]
    pub fn finish(&mut self) -> LinkBytes {
        self.until_idle();
        for member in &mut self.nodes {
            // Its last word is on the traffic.
            member.carrier.take().expect("a test ends once").finish();
        }
        self.stats().total()
    }
}

impl Member {
    fn start(number: usize, memory: u64) -> Self {
        let (awaited, queue) = channel::<Awaited>();
        let (ready, door) = channel();
        let over = Arc::<AtomicBool>::default();
        let is_over = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut node = Node::new(memory);
            let _ = ready.send((node.attach(RUN), node.sender()));
            let mut awaited = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                node.step();
                assert!(node.misbehaved.is_empty(), "{:?}", node.misbehaved);
                awaited.extend(queue.try_iter());
                awaited.retain_mut(|holds: &mut Awaited| !holds(&node));
            }
        });
        let reports = Arc::<Reports>::default();
        let told = Arc::clone(&reports);
        let report = move |report| match report {
            Report::Stats(peer, traffic) => told.note(|so_far| _ = so_far.traffic.insert(peer, traffic)),
            failure @ (Report::ImportFailed(..)
            | Report::ExportFailed(..)
            | Report::RunFailed(..)
            | Report::Path(..)) => {
                eprintln!("node {number}: {failure:?}");
                told.note(|so_far| so_far.failures.push(format!("{failure:?}")));
            }
            Report::RunStats(run, peer, traffic) => told.note(|so_far| _ = so_far.runs.insert((run, peer), traffic)),
            Report::Summed(_) => told.note(|so_far| so_far.sums += 1),
            Report::Failed(reason) => panic!("{reason}"),
        };
        let (socket, door) = door.recv().expect("a node");
        let carrier = Carrier::start(number as u64 + 1, report).expect("a thread");
        carrier.tell(Command::Begin(RUN, socket));
        Self { door, awaited, over, thread: Some(thread), carrier: Some(carrier), reports }
    }

    fn carrier(&self) -> &Carrier {
        self.carrier.as_ref().expect("the carrier is running")
    }

    fn tell(&self, command: Command) {
        self.carrier().tell(command);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for member in &mut self.nodes {
            member.over.store(true, Ordering::Relaxed);
            // So that it looks.
            let _ = member.door.send(Arrival::Work(Box::new(|_| ())));
            if let Some(thread) = member.thread.take() {
                let _ = thread.join();
            }
        }
        if let Some(clock) = self.clock.take() {
            let _ = clock.join();
        }
    }
}

fn id(node: usize) -> NodeId {
    NodeId(node as u32)
}
