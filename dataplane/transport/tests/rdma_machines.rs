//! RDMA between two machines, and what becomes of it when the way between them breaks. `scripts/soft-roce` starts this
//! in both; they meet in the directory that they share. One test: its parts need both ends at the same time.

#[allow(dead_code, reason = "the suite uses more of it")]
mod conformance {
    pub mod node;
    pub mod pattern;
}

use conformance::node::{Layout, Node};
use dflow_protocol::exchange::Order;
use dflow_protocol::wire::{FlowId, GrantId, PeerMessage, StreamKey};
use dflow_protocol::{Epoch, RunId, StreamId};
use dflow_shm::{Doorbell, Idle, Landing, Listener, wait_at_most};
use dflow_transport::rdma::{RdmaConfig, RdmaDevice, RdmaPath};
use dflow_transport::{Chunk, Link, LinkEvent, Path, PathError, PathEvent, PathKind, RemoteWindow};
use dflow_verbs::Connection;
use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long the other machine may be behind.
const MEETING: Duration = Duration::from_secs(60);
/// How long it may take until a broken way is noticed by the device, retries included; and the silence after which a
/// link gives a path up that says nothing.
const NOTICED: Duration = Duration::from_secs(15);
const SILENCE: Duration = Duration::from_secs(8);
const LENGTH: u64 = 24 << 20;
/// How often the silence is looked at.
const TICK: Duration = Duration::from_millis(100);

struct Machine {
    folder: PathBuf,
    number: usize,
    bell: Arc<Doorbell>,
    listener: Listener,
    node: Node,
    link: Link,
    paths: u64,
    /// Makes the queue pair of the present path fail.
    failure: Arc<AtomicBool>,
}

/// A path whose queue pair fails on request of the test.
struct Failing {
    path: RdmaPath,
    now: Arc<AtomicBool>,
}

impl Path for Failing {
    fn kind(&self) -> PathKind {
        self.path.kind()
    }

    fn send(&mut self, message: &PeerMessage) -> Result<(), PathError> {
        self.path.send(message)
    }

    fn offer(&mut self, flow: FlowId, grant: GrantId, landing: &Arc<Landing>) -> Result<RemoteWindow, PathError> {
        self.path.offer(flow, grant, landing)
    }

    fn withdraw(&mut self, flow: FlowId) {
        self.path.withdraw(flow);
    }

    fn has_room(&self) -> bool {
        self.path.has_room()
    }

    fn write(&mut self, order: &Order, chunk: Chunk) -> Result<(), PathError> {
        self.path.write(order, chunk)
    }

    fn finish(&mut self, flow: FlowId) {
        self.path.finish(flow);
    }

    fn poll(&mut self, events: &mut Vec<PathEvent>) {
        if self.now.swap(false, Ordering::Relaxed) {
            self.path.fail_queue_pair().expect("the device is there");
        }
        self.path.poll(events);
    }

    fn rest(&mut self) {
        self.path.rest();
    }
}

impl Machine {
    fn new() -> Self {
        let number: usize =
            env::var("DFLOW_VM_NODE").expect("run this through scripts/soft-roce").parse().expect("1, 2");
        let folder = env::var_os("DFLOW_VM_EXCHANGE").expect("run this through scripts/soft-roce").into();
        let bell = Arc::new(Doorbell::default());
        let listener = Listener::new(Arc::clone(&bell));
        let link = Link::new(70 + number as u64);
        Self { folder, number, bell, listener, node: Node::default(), link, paths: 0, failure: Arc::default() }
    }

    /// Writes a value for the other machine under a name, and returns the value that the other has written.
    fn meet(&self, name: &str, bytes: &[u8]) -> Vec<u8> {
        let place = |number: usize| self.folder.join(format!("{name}-{number}"));
        let part = self.folder.join(format!("{name}-{}.part", self.number));
        fs::write(&part, bytes).expect("written");
        fs::rename(part, place(self.number)).expect("renamed");
        let deadline = Instant::now() + MEETING;
        loop {
            if let Ok(bytes) = fs::read(place(3 - self.number)) {
                return bytes;
            }
            assert!(Instant::now() < deadline, "the other machine does not come to '{name}'");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn connect(&mut self) {
        let peer: IpAddr = env::var("DFLOW_VM_PEER").expect("set").parse().expect("an address");
        let deadline = Instant::now() + MEETING;
        let device = loop {
            // An address comes back a moment after its link.
            match RdmaDevice::open_towards(peer) {
                Ok(device) => break device,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        self.paths += 1;
        // A receive that is missing ends the connection here.
        let connection = Connection { timeout: 15, receiver_retries: 0, ..Connection::default() };
        let config = RdmaConfig { connection, ..RdmaConfig::default() };
        let prepared = RdmaPath::prepare(&device, &config, self.bell.waker()).expect("prepared");
        let peer = self.meet(&format!("endpoint-{}", self.paths), &prepared.endpoint());
        let path = prepared.connect(&peer).expect("connected");
        self.meet(&format!("connected-{}", self.paths), &[]);
        self.link.connect(Box::new(Failing { path, now: Arc::clone(&self.failure) }), self.paths);
    }

    /// Runs until this holds, and returns the path events in between.
    #[track_caller]
    fn until(&mut self, patience: Duration, holds: impl Fn(&Self) -> bool) -> Vec<LinkEvent> {
        let deadline = Instant::now() + patience;
        let mut events = Vec::new();
        while !holds(self) {
            assert!(Instant::now() < deadline, "not in time; the path: {events:?}");
            self.listener.hear();
            if self.node.work_on_all(&mut self.link) | self.link.step(&mut self.node) {
                continue;
            }
            let due = self.link.settle(&mut self.node);
            self.link.tick(Instant::now(), SILENCE);
            events.extend(self.link.take_events());
            let limit = due.map_or(TICK, |due| due.saturating_duration_since(Instant::now()).min(TICK));
            wait_at_most(&mut [&mut self.listener], None, Idle::SLEEP, limit);
        }
        events.extend(self.link.take_events());
        events
    }

    fn read(&self) -> u64 {
        self.node.sinks.values().map(|sink| sink.read).sum()
    }

    /// The path breaks in the middle; both sides detect it, each in its own way, and continue over the next one.
    fn broken(&mut self, name: &str, part: u64, cut: &dyn Fn(), mend: &dyn Fn()) -> Vec<LinkEvent> {
        // The first machine cuts when it has come far enough, however far the second is.
        let mut events = self.until(MEETING, |machine| machine.read() > part || machine.link.path_kind().is_none());
        if self.number == 1 {
            cut();
        }
        let start = Instant::now();
        events.extend(self.until(NOTICED + SILENCE, |machine| machine.link.path_kind().is_none()));
        println!("machine {}: {name}: after {:.1?}: {events:?}", self.number, start.elapsed());
        // The one call that can take longer than that is the end of the path.
        assert!(start.elapsed() < NOTICED + SILENCE + TICK, "the end of the path was waited for");
        assert!(matches!(events[..], [LinkEvent::PathLost(PathError::Lost { .. })]), "{events:?}");
        let read = self.read();
        self.meet(&format!("{name}-noticed"), &[]);
        self.node.work_on_all(&mut self.link);
        assert!(self.read() >= read && !self.node.is_done());
        if self.number == 1 {
            mend();
        }
        self.meet(&format!("{name}-mended"), &[]);
        self.connect();
        events
    }
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let program = words.next().expect("a program");
    let status = Command::new(program).args(words).status().unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(status.success(), "{command}");
}

#[test]
fn two_machines() {
    let mut machine = Machine::new();
    machine.connect();
    let stream = |number: usize| StreamKey::new(RunId(0xdf), StreamId(number as u32), Epoch(1));
    let (mine, theirs) = (stream(machine.number), stream(3 - machine.number));
    machine.node.write(mine, LENGTH);
    machine.node.read(&mut machine.link, theirs, Layout::Ring);

    let down = || run("ip link set rdma0 down");
    let up = || run("ip link set rdma0 up");
    let events = machine.broken("link", LENGTH / 4, &down, &up);
    if machine.number == 1 {
        assert!(format!("{events:?}").contains("lost its link"), "{events:?}");
    }

    // Packets vanish without an error.
    let drop = || run("tc qdisc add dev rdma0 root netem loss 100%");
    let pass = || run("tc qdisc del dev rdma0 root");
    machine.broken("packets", LENGTH / 2, &drop, &pass);

    // A driver destroys a queue pair only when its packets are gone, and the network card keeps them: the path is lost,
    // and the next one goes, all the same.
    let hold = || run("tc qdisc add dev rdma0 root tbf rate 1kbit burst 10kb limit 16mb");
    machine.broken("held packets", LENGTH * 5 / 8, &hold, &pass);

    // One end of the connection fails on its own.
    let failure = Arc::clone(&machine.failure);
    let events = machine.broken("queue pair", LENGTH * 3 / 4, &|| failure.store(true, Ordering::Relaxed), &|| ());
    if machine.number == 1 {
        assert!(format!("{events:?}").contains("its queue pair was ended"), "{events:?}");
    }

    // Every byte is checked where it is read.
    machine.until(MEETING, |machine| machine.node.is_done() && machine.node.readers.is_empty());
    assert_eq!(machine.read(), LENGTH);
    machine.meet("end", &[]);
}
