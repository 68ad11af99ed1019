//! The cost of set-up: a QUIC connection, an RDMA path on it, registered memory, and a stream.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dflow_protocol::wire::{FlowId, StreamKey};
use dflow_protocol::{Epoch, RunId, StreamId};
use dflow_shm::{Access, Doorbell, Idle, Landing, Listener, Memory, Segment, SegmentKind, wait_at_most};
use dflow_transport::identity::{ClusterCa, Identity};
use dflow_transport::quic::{Connection, QuicNode, QuicSettings};
use dflow_transport::rdma::{RdmaConfig, RdmaPath};
use dflow_transport::{Chunk, FlowEvent, Link, Local};
use dflow_verbs::{MemoryRegion, ProtectionDomain, RegionAccess};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::link::sleep;
use super::path::window;
use super::{Machine, Order, Patience};
use crate::failure::{Failure, Trying};
use crate::latency::{Repeat, Summary, histogram, write_log};
use crate::report::{LATENCY_COLUMNS, Report, Row, Table, latency_figures};
use crate::settings::Settings;
use crate::subject::{Card, Role, Side, Subject, Waiting};

/// The number of set-ups of each kind in one repeat.
const TIMES: u64 = 16;
/// The number of streams that are set up.
const STREAMS: u32 = 64;
/// The interval at which an idle thread wakes.
const TICK: Duration = Duration::from_millis(100);
/// Sizes of registered memory in MiB: a stream's ring, and a larger size that shows the cost per MiB.
const REGISTERED: [usize; 2] = [1, 17];
/// The length of a stream in bytes.
const SMALL: u64 = 64;
/// The stream that marks the end of the measurement.
const LAST: u32 = u32::MAX;
const NAMES: [&str; 2] = ["first", "second"];

/// The kinds of set-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// A QUIC connection.
    Connection,
    /// An RDMA path on such a connection.
    Path,
    /// Registered memory, in MiB.
    Memory(usize),
    /// A stream.
    Stream,
}

impl Subject for Work {
    fn card(&self) -> Card {
        Card {
            name: match self {
                Work::Connection => "quic-connection",
                Work::Path => "rdma-path",
                Work::Memory(1) => "register-1-mib",
                Work::Memory(_) => "register-17-mib",
                Work::Stream => "stream",
            },
            about: match self {
                Work::Connection => {
                    "a QUIC connection: both sides are authenticated, and its management channel is open"
                }
                Work::Path => {
                    "an RDMA path on that connection, from the decision until both ends can send: queues, buffers, \
                     and a message each way"
                }
                Work::Memory(_) => "memory that is registered for remote writes; the pages are there",
                Work::Stream => "a stream of 64 B, from the subscription until all of it is there",
            },
            role: Role::Ours,
            waiting: Waiting::Sleeping,
        }
    }
}

/// Measures the kinds of set-up that involve both machines.
pub fn measure(settings: &Settings, report: &mut Report, machine: &mut Machine) -> Result<(), Failure> {
    let [some, more] = REGISTERED.map(Work::Memory);
    let all: [&Work; 5] = [&Work::Connection, &Work::Path, &some, &more, &Work::Stream];
    let found = settings.in_turns("rdma set-up", &settings.wanted(&all), |work| {
        let began = SystemTime::now();
        let (here, _) = machine.both(&Order::SetUp(*work))?;
        let mut histogram = histogram();
        here.latency.add_to(&mut histogram);
        Ok(Repeat { began, took: began.elapsed().unwrap_or_default(), histogram })
    });
    let mut notes = vec!["by the first machine's clock".to_owned()];
    let median = |work: &Work| {
        let (_, repeats) = found.iter().find(|(subject, _)| *subject == work)?;
        Some(Summary::of_repeats(repeats.as_ref().ok()?)?.p50)
    };
    if let (Some(some_took), Some(more_took)) = (median(&some), median(&more)) {
        let each = (more_took - some_took).max(0.0) / (REGISTERED[1] - REGISTERED[0]) as f64;
        notes.push(format!("registering memory: {:.1} µs for each MiB more", each / 1e3));
    }
    let mut rows = Vec::new();
    for (subject, repeats) in &found {
        if let (Ok(repeats), Some(dir)) = (repeats, &settings.hlog) {
            write_log(dir, &format!("rdma-set-up-{}", subject.card().name), repeats)?;
        }
        let figures = repeats
            .as_ref()
            .map_err(Failure::clone)
            .map(|repeats| Summary::of_repeats(repeats).map_or_else(Vec::new, |own| latency_figures(own, None)));
        rows.push(Row::new("set-up", *subject, figures));
    }
    // These have no limit to compare with.
    let columns = &LATENCY_COLUMNS[..LATENCY_COLUMNS.len() - 2];
    report.add(Table { topic: "rdma", title: "setting up".into(), notes, columns, rows })
}

/// Does this machine's part. On the first machine, returns the measured times in nanoseconds.
pub fn act(machine: &mut Machine, work: Work) -> Result<Histogram<u64>, Failure> {
    let mut histogram = histogram();
    let mut note = |took: Duration| histogram.saturating_record(took.as_nanos() as u64);
    match work {
        Work::Memory(mebibytes) => {
            if machine.side == Side::First {
                register(machine, mebibytes << 20, &mut note)?;
            }
        }
        Work::Stream => streams(machine, &mut note)?,
        Work::Connection | Work::Path => {
            let mut nodes = Nodes::new(machine)?;
            let mut connection = nodes.connect(machine)?;
            machine.line.swap(&())?;
            for _ in 0..TIMES {
                let began = Instant::now();
                if work == Work::Path {
                    let path = Nodes::path(machine, &connection)?;
                    note(began.elapsed());
                    machine.line.swap(&())?;
                    drop(path);
                } else {
                    drop(connection);
                    machine.line.swap(&())?;
                    let began = Instant::now();
                    connection = nodes.connect(machine)?;
                    note(began.elapsed());
                }
                machine.line.swap(&())?;
            }
        }
    }
    Ok(histogram)
}

fn register(machine: &Machine, length: usize, note: &mut impl FnMut(Duration)) -> Result<(), Failure> {
    let (context, ..) = machine.open();
    let domain = ProtectionDomain::new(&context).trying("make a protection domain")?;
    let segment = Segment::create("dflow-bench", length, SegmentKind::FunctionWritten).trying("make a segment")?;
    segment.fault_in(0, length as u64).trying("allocate memory")?;
    let memory = Arc::new(segment.map(Access::Write).trying("map a segment")?);
    for _ in 0..TIMES {
        let began = Instant::now();
        let region = MemoryRegion::register(&domain, Arc::clone(&memory) as _, RegionAccess::RemoteWrite)
            .trying("register memory")?;
        note(began.elapsed());
        drop(region);
    }
    Ok(())
}

/// Two nodes of one cluster, one on each machine.
struct Nodes {
    node: QuicNode,
    incoming: dflow_transport::quic::Incoming,
    peer: SocketAddr,
}

impl Nodes {
    fn new(machine: &mut Machine) -> Result<Nodes, Failure> {
        let identity = identity(machine)?;
        let own = SocketAddr::new(machine.line.own()?.ip(), 0);
        let (node, incoming) = QuicNode::bind(own, &identity, QuicSettings::default()).trying("listen for QUIC")?;
        let peer = machine.line.swap(&node.local_address())?;
        Ok(Nodes { node, incoming, peer })
    }

    /// The first machine dials.
    fn connect(&mut self, machine: &Machine) -> Result<Connection, Failure> {
        match machine.side {
            Side::First => self.node.connect(self.peer, NAMES[1]).wait().trying("connect over QUIC"),
            Side::Second => {
                self.incoming.wait().ok_or_else(|| Failure::new("the other machine did not connect over QUIC"))
            }
        }
    }

    /// Connects as nodes do: the leading side sends its endpoint, and the other connects and answers with its own.
    fn path(machine: &Machine, connection: &Connection) -> Result<RdmaPath, Failure> {
        let prepare = || {
            let waker = Arc::new(Doorbell::default()).waker();
            RdmaPath::prepare(machine.device(), &RdmaConfig::default(), waker).trying("prepare a path")
        };
        let send = |endpoint| connection.send(endpoint).trying("send an endpoint");
        if machine.side == Side::First {
            let prepared = prepare()?;
            send(prepared.endpoint())?;
            return prepared.connect(&receive(connection)?).trying("connect a path");
        }
        let theirs = receive(connection)?;
        let prepared = prepare()?;
        let endpoint = prepared.endpoint();
        let path = prepared.connect(&theirs).trying("connect a path")?;
        send(endpoint)?;
        Ok(path)
    }
}

/// Receives the next message of the management channel.
fn receive(connection: &Connection) -> Result<Vec<u8>, Failure> {
    let bell = Arc::new(Doorbell::default());
    let mut listener = Listener::new(Arc::clone(&bell));
    connection.set_waker(bell.waker());
    let mut patience = Patience::new();
    loop {
        listener.hear();
        if let Some(message) = connection.try_recv() {
            return Ok(message);
        }
        if let Some(reason) = connection.closed() {
            return Err(Failure::new(format!("the QUIC connection is closed: {reason}")));
        }
        wait_at_most(&mut [&mut listener], None, Idle::SLEEP, TICK);
        patience.check()?;
    }
}

/// This machine's identity in a cluster that the first machine creates for this measurement.
fn identity(machine: &mut Machine) -> Result<Identity, Failure> {
    const VALIDITY: Duration = Duration::from_secs(24 * 3600);
    let place = tempfile::tempdir().trying("make a temporary directory")?;
    if machine.side == Side::First {
        let authority = ClusterCa::create("dflow-bench").trying("create a cluster")?;
        let [mine, theirs] = NAMES.map(|name| authority.issue(name, VALIDITY).trying("issue an identity"));
        theirs?.save(place.path()).trying("write an identity")?;
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(place.path()).trying("read an identity")? {
            let path = entry.trying("read an identity")?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(name, std::fs::read_to_string(&path).trying("read an identity")?);
        }
        machine.line.send(&files)?;
        return mine;
    }
    let files: BTreeMap<String, String> = machine.line.receive()?;
    for (name, text) in files {
        write_secret(&place.path().join(name), &text)?;
    }
    Identity::load(place.path()).trying("read an identity")
}

/// Writes a file that only this user can read, as required for keys.
fn write_secret(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).trying("write an identity")
}

/// One machine's state of streams that are set up one after another. The second machine has all of them, each with the
/// same length.
struct Small {
    memory: Arc<Memory>,
    sink: Arc<Landing>,
    subscribed: Vec<(FlowId, StreamKey)>,
    ended: bool,
    last: bool,
}

impl Local for Small {
    fn chunk(&mut self, _: FlowId, at: u64, most: u64) -> Option<Chunk> {
        let end = SMALL.min(at + most) as usize;
        Some(Chunk::new(Arc::clone(&self.memory), at as usize..end))
    }

    fn landing(&mut self, _: FlowId) -> Option<Arc<Landing>> {
        Some(Arc::clone(&self.sink))
    }

    fn handle(&mut self, flow: FlowId, event: FlowEvent) {
        match event {
            FlowEvent::Subscribed { stream, .. } => {
                self.subscribed.push((flow, stream));
                self.last = stream.stream == StreamId(LAST);
            }
            FlowEvent::Finished(_) => self.ended = true,
            _ => {}
        }
    }
}

fn streams(machine: &mut Machine, note: &mut impl FnMut(Duration)) -> Result<(), Failure> {
    let bell = Arc::new(Doorbell::default());
    let mut listener = Listener::new(Arc::clone(&bell));
    let mut link = Link::new(machine.side as u64 + 1);
    link.connect(Box::new(machine.path(bell.waker(), RdmaConfig::default().idle)?), 1);
    let memory = super::path::ring(4096)?;
    let sink = Arc::new(window(&memory));
    sink.open(0..SMALL);
    let mut small = Small { memory, sink, subscribed: Vec::new(), ended: false, last: false };
    let mut until = |link: &mut Link, small: &mut Small, holds: &dyn Fn(&Small, &Link) -> bool| {
        let mut patience = Patience::new();
        while !holds(small, link) {
            listener.hear();
            let busy = link.step(small);
            for (flow, _) in std::mem::take(&mut small.subscribed) {
                link.available(flow, SMALL);
                link.finish(flow, SMALL);
            }
            if !busy {
                let due = link.settle(small);
                sleep(&mut listener, due);
            }
            if let Some(event) = link.take_events().first() {
                return Err(Failure::new(format!("the path is lost: {event:?}")));
            }
            patience.check()?;
        }
        Ok(())
    };
    if machine.side == Side::Second {
        until(&mut link, &mut small, &|small, _| small.last)?;
    } else {
        until(&mut link, &mut small, &|_, link| link.is_up())?;
        let stream = |number| StreamKey::new(RunId(1), StreamId(number), Epoch(1));
        for number in 1..=STREAMS {
            let began = Instant::now();
            small.ended = false;
            link.subscribe(stream(number), SMALL).trying("subscribe")?;
            until(&mut link, &mut small, &|small, _| small.ended)?;
            note(began.elapsed());
        }
        link.subscribe(stream(LAST), SMALL).trying("subscribe")?;
        while link.step(&mut small) {}
        // The other side waits for this subscription. A subscription is never postponed, so no flush is needed.
        let _later = link.settle(&mut small);
    }
    machine.line.swap(&())
}
