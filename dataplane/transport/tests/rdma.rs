//! The conformance suite over RDMA, between two paths of one machine. `scripts/soft-roce` makes the device.

mod conformance;

use conformance::world::{Network, World, stream};
use dflow_protocol::SegmentId;
use dflow_protocol::exchange::Order;
use dflow_protocol::message::Window;
use dflow_protocol::wire::{FlowId, Grant, GrantId, PeerMessage};
use dflow_shm::{Access, Doorbell, Idle, Landing, Listener, Memory, Segment, SegmentKind, Wait, wait_at_most};
use dflow_transport::rdma::{RdmaConfig, RdmaDevice, RdmaError, RdmaPath};
use dflow_transport::{Chunk, Path, PathError, PathEvent, PathKind, RemoteWindow};
use dflow_verbs::{
    Completion, CompletionQueue, Connection, Data, Devices, ProtectionDomain, QueuePair, QueuePairConfig,
    ReceiveRequest, RemoteKey, RemoteMemory, Status,
};
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

    /// 1 GiB once: that takes an emulated processor most of a minute. Else many times what fits into the windows and queues.
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
        it_does_not_matter_who_comes_first,
        a_reader_that_stops_holds_its_own_stream_alone,
        thousands_of_streams_at_once,
        a_stream_that_is_given_up_ends_there_and_nowhere_else,
        a_reader_that_leaves_is_missed_by_nobody,
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
    // In the middle of its memory, of which the rest is nobody else's.
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

fn bytes(memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; memory.length()];
    memory.shared(0..memory.length()).copy_to(&mut bytes);
    bytes
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

#[test]
fn bytes_land_in_their_window_and_nowhere_else() {
    let mut paths = Rdma::new(strict()).pair();
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
    paths[1].write(&order(remote, 0), chunk(7, 5000)).expect("written");
    paths[1].write(&order(remote, 5000), chunk(8, 3192)).expect("written");
    let end = |event: &PathEvent| matches!(event, PathEvent::Placed { at: 5000, length: 3192, flow: FLOW });
    look_until(&mut paths, end);
    let (start, bytes) = (SIZE as usize, bytes(landing.memory()));
    assert!(bytes[start..start + 5000].iter().all(|&byte| byte == 7));
    assert!(bytes[start + 5000..2 * start].iter().all(|&byte| byte == 8));
    assert!(bytes[..start].iter().chain(&bytes[2 * start..]).all(|&byte| byte == 0));
    assert_eq!(paths[0].kind(), PathKind::Rdma);
}

/// As a reader of a stream has it. Kernels before 6.2 do not let a device read it.
#[test]
fn memory_that_can_only_be_read_is_sent_too() {
    let mut paths = Rdma::new(strict()).pair();
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
    paths[1].write(&order(remote, 0), mapped(7, 4000, Access::Read)).expect("written");
    paths[1].write(&order(remote, 4000), mapped(8, 4000, Access::Read).passing()).expect("written");
    look_until(&mut paths, |event| matches!(event, PathEvent::Placed { at: 4000, .. }));
    let (start, bytes) = (SIZE as usize, bytes(landing.memory()));
    assert!(bytes[start..start + 4000].iter().all(|&byte| byte == 7));
    assert!(bytes[start + 4000..start + 8000].iter().all(|&byte| byte == 8));
}

#[test]
fn a_write_outside_of_its_window_is_refused_and_ends_the_connection() {
    for (from, length) in [(SIZE, 64), (SIZE - 10, 64), (0u64.wrapping_sub(64), 64), (0, SIZE + 1)] {
        let mut paths = Rdma::new(strict()).pair();
        let landing = landing(SIZE);
        landing.open(0..SIZE);
        let mut remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
        remote.address = remote.address.wrapping_add(from);
        paths[1].write(&order(remote, 0), chunk(7, length as usize)).expect("posted");
        paths.reverse();
        let seen = look_until(&mut paths, |event| matches!(event, PathEvent::Lost(_)));
        assert!(format!("{seen:?}").contains("refused the access"), "{seen:?}");
        // The connection is over for the attacked side, too. It has been told by now, or, by soft-RoCE for some writes,
        // learns it with its next message.
        paths.reverse();
        if paths[0].send(&PeerMessage::Ping(1)).is_ok() {
            look_until(&mut paths, |event| matches!(event, PathEvent::Lost(_)));
        }
        assert!(bytes(landing.memory()).iter().all(|&byte| byte == 0), "nothing of it has landed");
    }
}

#[test]
fn a_withdrawn_window_is_closed() {
    let mut paths = Rdma::new(strict()).pair();
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
    paths[0].withdraw(FLOW);
    paths[1].write(&order(remote, 0), chunk(7, 100)).expect("posted");
    paths.reverse();
    look_until(&mut paths, |event| matches!(event, PathEvent::Lost(_)));
    assert!(bytes(landing.memory()).iter().all(|&byte| byte == 0));
}

#[test]
fn a_write_past_its_credit_or_without_a_grant_is_a_violation() {
    for (grant, open) in [(GRANT, 99), (GrantId(10), SIZE)] {
        let mut paths = Rdma::new(strict()).pair();
        let landing = landing(SIZE);
        landing.open(0..open);
        let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
        let mut order = order(remote, 0);
        order.grant = order.grant.map(|sound| Grant { id: grant, ..sound });
        paths[1].write(&order, chunk(7, 100)).expect("posted");
        let seen = look_until(&mut paths, |event| matches!(event, PathEvent::Lost(_)));
        assert!(matches!(&seen[..], [PathEvent::Lost(error)] if error.is_violation()), "{seen:?}");
    }
}

#[test]
fn one_path_cannot_use_the_windows_of_another() {
    let network = Rdma::new(strict());
    let (mut mine, others) = (network.pair(), network.pair());
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = mine[0].offer(FLOW, GRANT, &landing).expect("offered");
    let mut others = others;
    others[1].write(&order(remote, 0), chunk(7, 100)).expect("posted");
    others.reverse();
    look_until(&mut others, |event| matches!(event, PathEvent::Lost(_)));
    assert!(bytes(landing.memory()).iter().all(|&byte| byte == 0));
    // The one whose window it is has not noticed anything.
    mine[1].write(&order(remote, 0), chunk(7, 100)).expect("posted");
    look_until(&mut mine, |event| matches!(event, PathEvent::Placed { at: 0, length: 100, .. }));
}

#[test]
fn nothing_lands_when_the_path_is_gone() {
    let mut paths = Rdma::new(strict()).pair();
    let landing = landing(1 << 20);
    landing.open(0..1 << 20);
    let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
    let grant = Grant { id: GRANT, base: 0, size: 1 << 20, ring: false, address: remote.address, key: remote.key };
    let mut at = 0;
    while paths[1].has_room() && at < 3 << 18 {
        let order = Order { flow: FLOW, grant: Some(grant), at, most: 1 << 18 };
        paths[1].write(&order, chunk(7, 1 << 18)).expect("posted");
        at += 1 << 18;
    }
    let [receiver, mut sender] = paths;
    drop(receiver);
    let before = bytes(landing.memory());
    let again = sender.write(&order(remote, 0), chunk(9, 4096)).and_then(|()| sender.send(&PeerMessage::Ping(1)));
    let lost = |event: &PathEvent| matches!(event, PathEvent::Lost(PathError::Lost { .. }));
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while again.is_ok() && !seen.iter().any(lost) {
        assert!(Instant::now() < deadline, "the sender has not noticed: {seen:?}");
        sender.poll(&mut seen);
    }
    assert!(bytes(landing.memory()) == before, "something has landed afterwards");
}

#[test]
fn source_memory_is_let_go_when_it_is_sent_and_nobody_has_it() {
    let mut paths = Rdma::new(strict()).pair();
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
    let chunk = chunk(7, 4096);
    let memory = Arc::downgrade(chunk.memory());
    paths[1].write(&order(remote, 0), chunk).expect("written");
    assert!(memory.upgrade().is_some());
    look_until(&mut paths, |event| matches!(event, PathEvent::Placed { .. }));
    let deadline = Instant::now() + PATIENCE;
    let mut at = 4096;
    // Something must follow for its end to be reported, as a sign of life does now and then.
    while memory.upgrade().is_some() {
        assert!(Instant::now() < deadline, "it is kept");
        if at < SIZE && paths[1].has_room() {
            paths[1].rest();
            paths[1].write(&order(remote, at), self::chunk(8, 1)).expect("written");
            at += 1;
        }
        paths[1].poll(&mut Vec::new());
        paths[0].poll(&mut Vec::new());
        paths[1].rest();
    }
}

#[test]
fn whoever_rests_is_woken() {
    let mut network = Rdma::new(idle(Idle::SLEEP));
    let mut paths = network.pair();
    for number in 0..20 {
        for path in &mut paths {
            path.rest();
        }
        network.listener.hear();
        let ping = PeerMessage::Ping(number);
        paths[1].send(&ping).expect("sent");
        assert!(wait_at_most(&mut [&mut network.listener], None, Idle::SLEEP, PATIENCE).is_some(), "woken");
        let seen = look_until(&mut paths, |event| matches!(event, PathEvent::Message(_)));
        assert!(matches!(&seen[..], [PathEvent::Message(message)] if *message == ping), "{seen:?}");
    }
}

/// The device wakes nobody then, so the driver must not fall asleep.
#[test]
fn a_path_that_looks_for_completions_keeps_its_driver_awake() {
    let mut network = Rdma::new(idle(Idle::SPIN));
    let [mut one, mut other] = network.pair();
    let start = Instant::now();
    let mut rests = 0;
    while start.elapsed() < Duration::from_millis(20) {
        network.listener.hear();
        one.rest();
        rests += 1;
        assert!(network.listener.ready(), "after {rests} rests");
    }
    other.send(&PeerMessage::Ping(1)).expect("sent");
    look_until(&mut [one, other], |event| matches!(event, PathEvent::Message(_)));
}

#[test]
fn after_the_time_for_looking_a_path_has_itself_woken() {
    let spin = Duration::from_millis(5);
    let mut network = Rdma::new(idle(Idle { spin }));
    let mut paths = network.pair();
    for number in 0..3 {
        let start = Instant::now();
        let mut looks = 0;
        loop {
            network.listener.hear();
            paths[0].rest();
            if !network.listener.ready() {
                break;
            }
            looks += 1;
            assert!(start.elapsed() < PATIENCE, "it never rests");
        }
        assert!(looks > 0 && start.elapsed() >= spin, "{looks} looks");
        paths[1].send(&PeerMessage::Ping(number)).expect("sent");
        assert!(wait_at_most(&mut [&mut network.listener], None, Idle::SLEEP, PATIENCE).is_some(), "woken");
        look_until(&mut paths, |event| matches!(event, PathEvent::Message(_)));
    }
}

#[test]
fn bad_settings_and_endpoints_are_refused() {
    let device = device();
    let waker = Arc::new(Doorbell::default()).waker();
    let none = RdmaConfig { send_depth: 2, ..strict() };
    let error = RdmaPath::prepare(&device, &none, waker.clone()).expect_err("too small");
    assert!(matches!(error, RdmaError::Depth { what: "send queue", value: 2 }), "{error}");
    for endpoint in [vec![], vec![1; 7], vec![1, 0, 0, 0, 64, 0, 0, 0, 5], vec![0; 36]] {
        let prepared = RdmaPath::prepare(&device, &strict(), waker.clone()).expect("prepared");
        prepared.connect(&endpoint).expect_err("no endpoint");
    }
    assert!(device.describe().contains("rxe0 port 1"), "{}", device.describe());
    assert!(device.guard().contains("protection domain"));
}

#[test]
fn a_link_that_goes_down_is_said_at_once() {
    let mut world = World::new(Rdma::new(strict()));
    world.nodes[0].write(stream(1), 8 << 20);
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    let flow = node.read(link, stream(1), conformance::node::Layout::Ring);
    world.until(|world| world.nodes[1].sinks[&flow].read > 1 << 20);
    let start = Instant::now();
    world.network.cut();
    world.until(|world| world.links.iter().all(|link| link.path_kind().is_none()));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(
        world.events.iter().flatten().any(|event| format!("{event:?}").contains("lost its link")),
        "{:?}",
        world.events
    );
}

/// soft-RoCE has no surprise removal: its device goes when nobody has it any more.
#[test]
fn a_device_that_is_to_go_away_is_let_go_of() {
    let mut paths = Rdma::new(strict()).pair();
    let mut deleting = Command::new("rdma").args(["link", "delete", "rxe0"]).spawn().expect("rdma");
    let lost = |event: &PathEvent| matches!(event, PathEvent::Lost(PathError::Lost { .. }));
    let seen = look_until(&mut paths, lost);
    assert!(format!("{seen:?}").contains("rxe0 has failed or is being removed"), "{seen:?}");
    assert!(paths[1].send(&PeerMessage::Ping(1)).is_err(), "both ends have it");
    assert!(deleting.try_wait().expect("a process").is_none(), "the paths are there, and so is the device");
    drop(paths);
    assert!(deleting.wait().expect("a process").success());
    let add = ["link", "add", "rxe0", "type", "rxe", "netdev", "rdma0"];
    assert!(Command::new("rdma").args(add).status().expect("rdma").success());
    works(&Rdma::new(strict()));
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

/// A queue pair of a peer that keeps no rule, connected with a path.
struct Hostile {
    pair: QueuePair,
    completions: CompletionQueue,
    path: RdmaPath,
    network: Rdma,
}

impl Hostile {
    fn new(config: RdmaConfig) -> Self {
        let peer: IpAddr = std::env::var("DFLOW_VM_PEER").expect("set").parse().expect("an address");
        let (context, port, gid) = Devices::list().expect("devices").open_towards(peer).expect("the route's device");
        let domain = ProtectionDomain::new(&context).expect("a domain");
        let completions = CompletionQueue::new(&context, 64, false).expect("a completion queue");
        let (send_depth, receive_depth) = (32, 8);
        let own = QueuePairConfig {
            port,
            gid,
            send_depth,
            receive_depth,
            inline: 64,
            remote_write: false,
            remote_read: false,
        };
        let pair = QueuePair::new(&domain, &completions, &completions, &own).expect("a queue pair");
        pair.post_receives(&[ReceiveRequest { id: 1, into: None }; 8]).expect("posted");
        let hello = [&1u32.to_le_bytes()[..], &receive_depth.to_le_bytes(), &pair.endpoint().to_bytes()].concat();

        let network = Rdma::new(config);
        let prepared = RdmaPath::prepare(&network.device, &config, network.bell.waker()).expect("prepared");
        let attacked = prepared.endpoint();
        let attacked = dflow_verbs::Endpoint::from_bytes(&attacked[8..]).expect("an endpoint");
        let path = prepared.connect(&hello).expect("connected");
        pair.connect(&attacked, &config.connection).expect("connected");
        Self { pair, completions, path, network }
    }
}

impl Hostile {
    /// What the path makes of what was sent, up to its end.
    fn end(&mut self) -> Vec<PathEvent> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while !matches!(seen.last(), Some(PathEvent::Lost(_))) {
            assert!(Instant::now() < deadline, "only {seen:?}");
            self.path.poll(&mut seen);
        }
        seen
    }
}

/// A message as a path sends it, of this number.
fn ping(number: u64) -> Vec<u8> {
    let ping = PeerMessage::Ping(number).encode().expect("sound");
    [&(number << 32).to_le_bytes()[..], &ping].concat()
}

#[test]
fn a_flood_is_refused_by_the_device() {
    let mut hostile = Hostile::new(small());
    let receives = u64::from(small().receive_depth);
    // The path does not look, and so posts no receive again.
    for number in 0..3 * receives {
        hostile.pair.send(number, Data::Inline(&ping(number)), true).expect("posted");
    }
    let deadline = Instant::now() + PATIENCE;
    let mut done = [Completion::default(); 32];
    let refused = loop {
        assert!(Instant::now() < deadline, "nobody stops it");
        let count = hostile.completions.poll(&mut done).expect("polled");
        if let Some(failed) = done[..count].iter().find(|completion| completion.status != Status::Success) {
            break *failed;
        }
    };
    assert_eq!((refused.status, refused.id), (Status::ReceiverNotReady, receives), "{refused:?}");
    let mut seen = Vec::new();
    while (seen.len() as u64) < receives {
        assert!(Instant::now() < deadline, "only {seen:?}");
        hostile.path.poll(&mut seen);
    }
    assert!(seen.iter().all(|event| matches!(event, PathEvent::Message(_))), "{seen:?}");
    works(&hostile.network);
}

#[test]
fn messages_that_no_path_sends_are_violations() {
    let posted = |posted: u64| posted.to_le_bytes().to_vec();
    for message in
        [vec![0], vec![0; 7], posted(1), posted(u32::MAX.into()), vec![0; 9], [posted(0), vec![5; 8]].concat()]
    {
        let mut hostile = Hostile::new(strict());
        hostile.pair.send(1, Data::Inline(&message), true).expect("posted");
        let seen = hostile.end();
        assert!(matches!(&seen[..], [PathEvent::Lost(error)] if error.is_violation()), "{message:?}: {seen:?}");
    }
}

/// As soft-RoCE does when it sends packets again of which the acknowledgement is only late.
#[test]
fn what_a_device_repeats_or_makes_up_is_not_taken_for_bytes_of_a_stream() {
    let is_loss = |event: &PathEvent| matches!(event, PathEvent::Lost(error) if !error.is_violation());
    let mut hostile = Hostile::new(strict());
    hostile.pair.send(1, Data::Empty, true).expect("posted");
    assert!(is_loss(&hostile.end()[0]));

    let mut hostile = Hostile::new(strict());
    for number in [0, 1, 1] {
        hostile.pair.send(number, Data::Inline(&ping(number)), true).expect("posted");
    }
    let seen = hostile.end();
    assert!(matches!(&seen[..], [PathEvent::Message(_), PathEvent::Message(_), end] if is_loss(end)), "{seen:?}");

    for (length, immediate) in [(8, GRANT.0), (8, 2 << 24 | GRANT.0), (0, 1 << 24 | GRANT.0)] {
        let mut hostile = Hostile::new(strict());
        let landing = landing(SIZE);
        landing.open(0..SIZE);
        let remote = hostile.path.offer(FLOW, GRANT, &landing).expect("offered");
        let place = RemoteMemory { address: remote.address, key: RemoteKey::from_number(remote.key) };
        for (id, length, immediate) in [(1, 8, GRANT.0), (2, length, immediate)] {
            let data = Data::Inline(&[7; 8][..length]);
            hostile.pair.write_with_immediate(id, data, place, immediate, true).expect("posted");
        }
        let seen = hostile.end();
        assert!(matches!(&seen[..], [PathEvent::Placed { at: 0, length: 8, .. }, end] if is_loss(end)), "{seen:?}");
    }
}

#[test]
fn memory_is_registered_ahead_of_its_first_chunk() {
    let mut paths = Rdma::new(strict()).pair();
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
    let chunks = [7, 8, 9].map(|byte| chunk(byte, 100));
    chunks.iter().for_each(|chunk| paths[1].ready(chunk.memory()));
    // One in each turn.
    chunks.iter().for_each(|_| paths[1].poll(&mut Vec::new()));
    for (number, chunk) in (0..).zip(chunks) {
        paths[1].write(&order(remote, 100 * number), chunk).expect("written");
    }
    look_until(&mut paths, |event| matches!(event, PathEvent::Placed { at: 200, .. }));
    assert_eq!(paths[1].registered_late(), 0);
    paths[1].write(&order(remote, 300), chunk(9, 100)).expect("written");
    assert_eq!(paths[1].registered_late(), 1, "nothing was said of this one");
}
