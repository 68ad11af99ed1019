//! The conformance suite over RDMA, between two paths of one machine. `scripts/soft-roce` makes the device.

#[path = "../conformance/mod.rs"]
mod conformance;
mod devices;
mod hostile;
mod waiting;
mod windows;

use conformance::world::Network;
use dflow_protocol::SegmentId;
use dflow_protocol::exchange::Order;
use dflow_protocol::message::Window;
use dflow_protocol::wire::{FlowId, Grant, GrantId};
use dflow_shm::{Access, Doorbell, Idle, Landing, Listener, Segment, SegmentKind, wait_at_most};
use dflow_transport::rdma::{RdmaConfig, RdmaDevice, RdmaPath};
use dflow_transport::{Chunk, Path, PathEvent, RemoteWindow};
use dflow_verbs::Connection;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long nothing has come when nothing more will.
const QUIET: Duration = Duration::from_millis(700);
/// Longer than everything takes, retries included.
const PATIENCE: Duration = Duration::from_secs(20);

fn device() -> RdmaDevice {
    let peer = std::env::var("DFLOW_VM_PEER").expect("run this test through scripts/soft-roce");
    RdmaDevice::open_towards(peer.parse::<IpAddr>().expect("an address")).expect("the device of the route")
}

/// A receive that is missing ends the connection here, and a peer that is gone is missed soon.
fn strict() -> RdmaConfig {
    let connection = Connection { timeout: 14, receiver_retries: 0, ..Connection::default() };
    RdmaConfig { connection, ..RdmaConfig::default() }
}

fn small() -> RdmaConfig {
    RdmaConfig { send_depth: 8, receive_depth: 4, inline: 0, in_flight: 100_000, ..idle(Idle::SLEEP) }
}

fn idle(idle: Idle) -> RdmaConfig {
    RdmaConfig { idle, ..strict() }
}

struct Rdma {
    device: RdmaDevice,
    config: RdmaConfig,
    large: u64,
    bell: Arc<Doorbell>,
    listener: Listener,
}

impl Rdma {
    fn new(config: RdmaConfig) -> Self {
        let bell = Arc::new(Doorbell::default());
        Self { device: device(), config, large: 24 << 20, listener: Listener::new(Arc::clone(&bell)), bell }
    }

    /// With a large stream of 1 GiB, as elsewhere.
    fn large() -> Self {
        Self { large: 1 << 30, ..Self::new(strict()) }
    }

    fn pair(&self) -> [RdmaPath; 2] {
        let prepare = || RdmaPath::prepare(&self.device, &self.config, self.bell.waker()).expect("prepared");
        let (one, two) = (prepare(), prepare());
        let (first, second) = (one.endpoint(), two.endpoint());
        [one.connect(&second).expect("connected"), two.connect(&first).expect("connected")]
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip");
    assert!(status.success(), "ip {arguments}");
}

impl Network for Rdma {
    fn connect(&mut self) -> [Box<dyn Path>; 2] {
        self.pair().map(|path| Box::new(path) as Box<dyn Path>)
    }

    /// The link goes down, and up again for the next connection.
    fn cut(&mut self) {
        ip("link set rdma0 down");
        ip("link set rdma0 up");
        // The address comes back a moment later, and perhaps at another place.
        let deadline = Instant::now() + PATIENCE;
        let peer: IpAddr = std::env::var("DFLOW_VM_PEER").expect("set").parse().expect("an address");
        loop {
            match RdmaDevice::open_towards(peer) {
                Ok(device) => break self.device = device,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::yield_now();
        }
    }

    fn idle(&mut self) -> bool {
        let woken = wait_at_most(&mut [&mut self.listener], None, Idle::SLEEP, QUIET).is_some();
        self.listener.hear();
        woken
    }

    /// 1 GiB once: that takes an emulated processor most of a minute. Else many times what fits into the windows and
    /// queues.
    fn large(&self) -> u64 {
        self.large
    }
}

conformance!(Rdma::large());

mod small_queues {
    use super::*;

    conformance! {
        Rdma::new(small());
        streams_of_every_length_arrive_as_they_are,
        the_order_of_reader_and_writer_does_not_matter,
        a_reader_that_stops_holds_its_own_stream_alone,
        thousands_of_streams_at_once,
        a_stream_that_is_given_up_ends_there_and_nowhere_else,
        a_reader_that_leaves_does_not_affect_others,
        a_lost_path_loses_and_doubles_nothing,
    }
}

mod never_asleep {
    use super::*;

    conformance! {
        Rdma::new(idle(Idle::SPIN));
        a_large_stream_passes_through_small_windows,
        a_lost_path_loses_and_doubles_nothing,
        streams_share_the_path,
    }
}

fn landing(size: u64) -> Arc<Landing> {
    let segment = Segment::create("test", 4 * size as usize, SegmentKind::FunctionWritten).expect("a segment");
    let memory = Arc::new(segment.map(Access::Write).expect("a mapping"));
    let window = Window { segment: SegmentId(0), segment_offset: 0, base: 0, size, ring: false };
    // In the middle of its memory; the rest is not granted to any peer.
    Arc::new(Landing::new(&window, memory, size as usize))
}

fn chunk(byte: u8, length: usize) -> Chunk {
    mapped(byte, length, Access::Write)
}

fn mapped(byte: u8, length: usize, access: Access) -> Chunk {
    let segment = Segment::create("test", length, SegmentKind::FunctionWritten).expect("a segment");
    assert_eq!(rustix::io::pwrite(&segment, &vec![byte; length], 0).expect("written"), length);
    Chunk::new(Arc::new(segment.map(access).expect("a mapping")), 0..length)
}

/// Looks at both ends until this is among the events of the first.
#[track_caller]
fn look_until(paths: &mut [RdmaPath; 2], holds: impl Fn(&PathEvent) -> bool) -> Vec<PathEvent> {
    let deadline = Instant::now() + PATIENCE;
    let (mut seen, mut other) = (Vec::new(), Vec::new());
    while !seen.iter().any(&holds) {
        assert!(Instant::now() < deadline, "only {seen:?} and {other:?}");
        paths[0].poll(&mut seen);
        paths[1].poll(&mut other);
    }
    seen
}

const FLOW: FlowId = FlowId(1);
const GRANT: GrantId = GrantId(9);
const SIZE: u64 = 8192;

fn order(remote: RemoteWindow, at: u64) -> Order {
    let grant = Grant { id: GRANT, base: 0, size: SIZE, ring: false, address: remote.address, key: remote.key };
    Order { flow: FLOW, grant: Some(grant), at, most: SIZE }
}

/// A new path carries bytes.
fn works(network: &Rdma) {
    let mut paths = network.pair();
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
    paths[1].write(&order(remote, 0), chunk(7, 100)).expect("posted");
    look_until(&mut paths, |event| matches!(event, PathEvent::Placed { at: 0, length: 100, .. }));
}
