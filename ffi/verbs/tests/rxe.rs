//! The verbs on a real device, between two queue pairs of one machine. `scripts/soft-roce` makes the device.

mod common;

use common::{PATIENCE, Side, address, bytes, open, pattern};
use dflow_shm::{Access, Segment, SegmentKind};
use dflow_verbs::{
    AsyncEvent, Buffer, Completion, CompletionQueue, Connection, Data, DeviceError, Devices, Endpoint, GidChoice,
    GidKind, LinkLayer, MemoryError, MemoryRegion, MemoryWindow, Operation, PortState, PostError, ProtectionDomain,
    QueueError, QueuePair, QueuePairConfig, QueuePairState, ReceiveRequest, RegionAccess, RemoteKey, RemoteMemory,
    SendOperation, SendRequest, StableMemory, Status, probe,
};
use rustix::thread::CapabilitySet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const DEPTH: u32 = 32;

impl Side {
    /// The next completion, which must be the success of this request.
    fn succeed(&self, id: u64) -> Completion {
        let completion = self.next();
        assert_eq!((completion.id, completion.status), (id, Status::Success), "{completion:?}");
        completion
    }
}

/// Two connected ends.
fn connected() -> (Side, Side) {
    let (one, two) = (Side::new(DEPTH), Side::new(DEPTH));
    connect(&one, &two, &Connection::default());
    (one, two)
}

fn connect(one: &Side, two: &Side, connection: &Connection) {
    // As it would come over the wire.
    let over_the_wire = |endpoint: Endpoint| Endpoint::from_bytes(&endpoint.to_bytes()).expect("an endpoint");
    one.pair.connect(&over_the_wire(two.pair.endpoint()), connection).expect("connected");
    two.pair.connect(&over_the_wire(one.pair.endpoint()), connection).expect("connected");
}

fn remote(region: &MemoryRegion) -> RemoteMemory {
    region.remote().expect("open to peers")
}

#[test]
fn the_device_its_port_and_its_addresses_are_described() {
    let devices = Devices::list().expect("devices");
    let device = devices.named("rxe0").expect("rxe0");
    assert_ne!(device.guid(), 0);
    let context = device.open().expect("opened");
    let port = context.port(1).expect("a port");
    assert_eq!((port.state, port.link_layer), (PortState::Active, LinkLayer::Ethernet));
    assert_eq!(port.active_mtu.bytes(), 4096);
    assert!(context.max_queue_depth() > 0 && context.max_completions() > 0 && context.has_windows());
    let own = address("DFLOW_VM_ADDRESS");
    let gids = context.gids(1).expect("a table");
    assert!(gids.iter().any(|entry| entry.gid.to_ip() == own && entry.kind == GidKind::RoceV2), "{gids:?}");
    assert!(gids.iter().all(|entry| entry.interface.as_deref() == Some("rdma0")), "{gids:?}");

    let probe = probe();
    assert!(probe.usable, "{probe}");
    assert!(probe.to_string().contains(&own.to_string()), "{probe}");
}

#[test]
fn what_is_not_there_is_named_together_with_what_is() {
    let devices = Devices::list().expect("devices");
    let error = devices.named("mlx5_7").expect_err("no such device");
    assert_eq!(error.to_string(), "there is no RDMA device 'mlx5_7'; there are: rxe0");

    let context = devices.named("rxe0").expect("rxe0").open().expect("opened");
    let own = address("DFLOW_VM_ADDRESS");
    let error = context.choose_gid(1, GidChoice::Local("192.0.2.1".parse().expect("an address"))).expect_err("no GID");
    assert!(matches!(&error, DeviceError::GidNotFound { have, .. } if have.contains(&own.to_string())), "{error}");
    let error = context.choose_gid(1, GidChoice::Index(99)).expect_err("no GID");
    assert!(error.to_string().contains("has no GID for index 99"), "{error}");
    assert!(matches!(context.port(9), Err(DeviceError::System { .. })));

    // The other card has no RDMA device.
    let lan = address("DFLOW_VM_LAN_ADDRESS");
    let beside = IpAddr::from([10, 78, 0, 200]);
    let error = devices.open_towards(beside).expect_err("no RDMA there");
    assert!(matches!(&error, DeviceError::NoPath { local, .. } if *local == lan), "{error}");
}

/// What opening the device and the probe say while something is done to its file.
fn refused(change: impl FnOnce(&Path), back: impl FnOnce(&Path)) -> (DeviceError, String) {
    let file = Path::new("/dev/infiniband/uverbs0");
    let devices = Devices::list().expect("devices");
    let device = devices.named("rxe0").expect("rxe0");
    change(file);
    // Rights over files of others are the thread's, and root has them.
    let result = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let mut rights = rustix::thread::capabilities(None).expect("capabilities");
                rights.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
                rustix::thread::set_capabilities(None, rights).expect("given up");
                (device.open(), probe())
            })
            .join()
    });
    back(file);
    let (opened, probe) = result.expect("no panic");
    assert!(!probe.usable, "{probe}");
    (opened.expect_err("refused"), probe.to_string())
}

#[test]
fn a_device_that_may_not_be_opened_is_named_with_its_file() {
    let mode = |mode| move |file: &Path| fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("changed");
    let (error, probe) = refused(mode(0), mode(0o666));
    assert!(matches!(&error, DeviceError::NoPermission { path, .. } if path == "/dev/infiniband/uverbs0"), "{error}");
    assert!(probe.contains("no permission on /dev/infiniband/uverbs0"), "{probe}");
}

#[test]
fn a_device_without_its_file_is_named_with_it() {
    let (here, away) = ("/dev/infiniband/uverbs0", "/dev/infiniband/away");
    let (error, probe) =
        refused(|_| fs::rename(here, away).expect("moved"), |_| fs::rename(away, here).expect("moved back"));
    assert!(matches!(&error, DeviceError::NoDeviceFile { path, .. } if path == here), "{error}");
    assert!(probe.contains("/dev/infiniband/uverbs0 is missing"), "{probe}");
}

#[test]
fn the_gid_is_that_of_the_route_or_the_one_that_was_named() {
    let (context, port, chosen) = open();
    assert_eq!(chosen.gid.to_ip(), address("DFLOW_VM_ADDRESS"));
    assert_eq!(context.choose_gid(port, GidChoice::Index(chosen.index)).expect("by index"), chosen);
    assert_eq!(context.choose_gid(port, GidChoice::Local(chosen.gid.to_ip())).expect("by address"), chosen);
    assert_eq!(context.choose_gid(port, GidChoice::Index(0)).expect("by index").index, 0);
}

#[test]
fn a_write_arrives_where_it_was_sent() {
    let (one, two) = connected();
    let (source, from) = one.region(100_000, RegionAccess::Source);
    let (target, to) = two.region(200_000, RegionAccess::RemoteWrite);
    let sent = pattern(1, 70_000);
    source.write(17, &sent);
    let data = Data::Memory(from.slice(17..70_017).expect("within"));
    one.pair.write(5, data, remote(&to).offset(1000), true).expect("posted");
    let done = one.succeed(5);
    assert_eq!((done.operation, done.bytes, done.queue_pair), (Operation::Write, 70_000, one.pair.number()));
    assert_eq!(bytes(&target, 1000..71_000), sent);
    assert_eq!(bytes(&target, 0..1000), vec![0; 1000]);
    assert_eq!(bytes(&target, 71_000..72_000), vec![0; 1000]);
}

#[test]
fn a_write_with_an_immediate_says_how_long_it_was() {
    let (one, two) = connected();
    let (source, from) = one.region(8192, RegionAccess::Source);
    let (target, to) = two.region(8192, RegionAccess::RemoteWrite);
    two.pair
        .post_receives(&[ReceiveRequest { id: 70, into: None }, ReceiveRequest { id: 71, into: None }])
        .expect("posted");
    let sent = pattern(2, 5000);
    source.write(0, &sent);
    let data = Data::Memory(from.slice(0..5000).expect("within"));
    one.pair.write_with_immediate(1, data, remote(&to), 0xdead_beef, true).expect("posted");
    let got = two.succeed(70);
    assert_eq!((got.operation, got.bytes, got.immediate), (Operation::Receive, 5000, Some(0xdead_beef)));
    assert_eq!(bytes(&target, 0..5000), sent);
    one.succeed(1);

    // Without bytes it is a bare announcement.
    one.pair.write_with_immediate(2, Data::Empty, remote(&to), 7, true).expect("posted");
    let got = two.succeed(71);
    assert_eq!((got.bytes, got.immediate), (0, Some(7)));
    one.succeed(2);
}

#[test]
fn messages_arrive_in_order_also_inline() {
    let (one, two) = connected();
    let (inbox, receive) = two.region(4096, RegionAccess::Receive);
    let slots: Vec<_> = (0..4)
        .map(|at| ReceiveRequest {
            id: at,
            into: Some(receive.slice(at as usize * 64..at as usize * 64 + 64).expect("within")),
        })
        .collect();
    two.pair.post_receives(&slots).expect("posted");
    let (outbox, send) = one.region(4096, RegionAccess::Source);
    outbox.write(0, b"from memory");
    assert!(one.pair.max_inline() >= 64);
    let stack = *b"inline from the stack";
    one.pair
        .post(&[
            SendRequest { id: 1, operation: SendOperation::Send, data: Data::Inline(&stack), signaled: false },
            SendRequest {
                id: 2,
                operation: SendOperation::Send,
                data: Data::Memory(send.slice(0..11).expect("within")),
                signaled: false,
            },
            SendRequest {
                id: 3,
                operation: SendOperation::SendWithImmediate(9),
                data: Data::InlineMemory(send.slice(5..11).expect("within")),
                signaled: false,
            },
            SendRequest { id: 4, operation: SendOperation::Send, data: Data::Empty, signaled: true },
        ])
        .expect("posted");
    let expected: [(&[u8], Option<u32>); 4] =
        [(b"inline from the stack", None), (b"from memory", None), (b"memory", Some(9)), (b"", None)];
    for (at, (text, immediate)) in expected.into_iter().enumerate() {
        let got = two.succeed(at as u64);
        assert_eq!((got.bytes as usize, got.immediate), (text.len(), immediate));
        assert_eq!(bytes(&inbox, at * 64..at * 64 + text.len()), text);
    }
    // One completion for the four, for only one was asked for.
    one.succeed(4);
    assert!(one.next_within(Duration::ZERO).is_none());
    assert_eq!(one.pair.free_sends(), DEPTH as usize);
}

#[test]
fn a_read_pulls_bytes() {
    let (one, two) = connected();
    let (source, from) = two.region(65536, RegionAccess::RemoteRead);
    let (target, into) = one.region(65536, RegionAccess::Receive);
    source.write(0, &pattern(3, 65536));
    one.pair.read(8, into.slice(0..60_000).expect("within"), remote(&from).offset(5)).expect("posted");
    let done = one.succeed(8);
    assert_eq!((done.operation, done.bytes), (Operation::Read, 60_000));
    assert_eq!(bytes(&target, 0..60_000), pattern(3, 65536)[5..60_005]);
}

#[test]
fn a_wrong_key_ends_the_connection_and_says_so() {
    let (one, two) = connected();
    let (_, from) = one.region(4096, RegionAccess::Source);
    let (target, to) = two.region(4096, RegionAccess::RemoteWrite);
    let good = remote(&to);
    let bad = RemoteMemory { key: RemoteKey::from_number(good.key.number() ^ 0x5500), ..good };
    let data = Data::Memory(from.slice(0..100).expect("within"));
    one.pair.write(1, data, bad, true).expect("posted");
    one.pair.write(2, data, good, false).expect("posted");
    let failed = one.next();
    assert_eq!((failed.id, failed.status), (1, Status::RemoteAccess));
    assert!(failed.status.to_string().contains("refused the access"));
    // What comes after is given up, and that is reported even though its success would not have been.
    let flushed = one.next();
    assert_eq!((flushed.id, flushed.status), (2, Status::Flushed));
    assert_eq!(one.pair.state().expect("a state"), QueuePairState::Error);
    assert_eq!(bytes(&target, 0..100), vec![0; 100]);
}

#[test]
fn a_write_past_the_end_of_a_region_is_refused() {
    let (one, two) = connected();
    let (_, from) = one.region(8192, RegionAccess::Source);
    let (_, to) = two.region(4096, RegionAccess::RemoteWrite);
    let data = Data::Memory(from.slice(0..100).expect("within"));
    one.pair.write(1, data, remote(&to).offset(4000), true).expect("posted");
    assert_eq!(one.next().status, Status::RemoteAccess);
}

#[test]
fn memory_that_is_not_open_to_peers_is_not_reached() {
    let (one, two) = connected();
    let (_, from) = one.region(4096, RegionAccess::Source);
    let (_, private) = two.region(4096, RegionAccess::Receive);
    let (_, open) = two.region(4096, RegionAccess::RemoteWrite);
    assert_eq!(private.remote(), None);
    // Guessing does not help: the keys of soft-RoCE are near each other.
    let address = private.memory().address().as_ptr() as u64;
    let guess = RemoteMemory { address, key: remote(&open).key };
    one.pair.write(1, Data::Memory(from.slice(0..8).expect("within")), guess, true).expect("posted");
    assert_eq!(one.next().status, Status::RemoteAccess);
}

#[test]
fn a_message_without_a_receive_fails_after_its_retries() {
    let (one, two) = (Side::new(DEPTH), Side::new(DEPTH));
    let connection = Connection { receiver_retries: 1, receiver_timer: 1, ..Connection::default() };
    connect(&one, &two, &connection);
    one.pair.send(1, Data::Inline(b"anybody there?"), true).expect("posted");
    assert_eq!(one.next().status, Status::ReceiverNotReady);
}

#[test]
fn a_message_longer_than_its_receive_fails_on_both_sides() {
    let (one, two) = connected();
    let (_, receive) = two.region(4096, RegionAccess::Receive);
    two.pair
        .post_receives(&[ReceiveRequest { id: 1, into: Some(receive.slice(0..8).expect("within")) }])
        .expect("posted");
    one.pair.send(2, Data::Inline(b"more than eight bytes"), true).expect("posted");
    let status = one.next().status;
    assert!(matches!(status, Status::RemoteInvalidRequest | Status::RemoteOperation), "devices differ: {status}");
    let got = two.next();
    assert_eq!((got.id, got.operation), (1, Operation::Receive));
    assert_ne!(got.status, Status::Success);
}

#[test]
fn a_full_queue_refuses_and_loses_nothing() {
    let (one, two) = connected();
    let (target, to) = two.region(4096, RegionAccess::RemoteWrite);
    // Nobody polls, so there is room for as many as the queue is deep and not for one more, signaled or not.
    let mut posted = 0u64;
    let refused = loop {
        let data = (posted + 1).to_le_bytes();
        match one.pair.write(posted, Data::Inline(&data), remote(&to), false) {
            Ok(()) => posted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, PostError::QueueFull { wanted: 1, free: 0 }), "{refused}");
    assert_eq!(posted, u64::from(DEPTH));
    let batch = [SendRequest {
        id: 0,
        operation: SendOperation::Write(remote(&to)),
        data: Data::Inline(&[0; 8]),
        signaled: true,
    }; 2];
    // Room comes back although nobody asked for a report.
    let deadline = Instant::now() + PATIENCE;
    while one.pair.free_sends() < 2 {
        assert!(Instant::now() < deadline, "no room came back");
        assert_eq!(one.completions.poll(&mut [Completion::default(); 4]).expect("polled"), 0);
    }
    let free = one.pair.free_sends();
    let many = vec![batch[0]; free + 1];
    assert!(matches!(one.pair.post(&many), Err(PostError::QueueFull { wanted, .. }) if wanted == free + 1));
    one.pair.write(99, Data::Inline(&77u64.to_le_bytes()), remote(&to), true).expect("posted");
    one.succeed(99);
    assert_eq!(bytes(&target, 0..8), 77u64.to_le_bytes());
}

#[test]
fn a_completion_queue_is_never_promised_twice() {
    let (context, port, gid) = open();
    let domain = ProtectionDomain::new(&context).expect("a domain");
    let completions = CompletionQueue::new(&context, 20, false).expect("a completion queue");
    let config = QueuePairConfig {
        port,
        gid,
        send_depth: 5,
        receive_depth: 5,
        inline: 0,
        remote_write: false,
        remote_read: false,
    };
    let make = || QueuePair::new(&domain, &completions, &completions, &config);
    let (first, second) = (make().expect("room"), make().expect("room"));
    let error = make().expect_err("no room");
    assert!(matches!(error, QueueError::NoCompletionRoom { wanted: 5, free: 0, capacity: 20 }), "{error}");
    assert_eq!(first.max_inline(), 0, "inline is off");
    assert!(matches!(
        first.write(0, Data::Empty, RemoteMemory { address: 0, key: RemoteKey::from_number(0) }, true),
        Err(PostError::State { state: QueuePairState::Initialized })
    ));
    drop(second);
    make().expect("room again");
    assert!(matches!(completions.arm(), Err(QueueError::NoChannel)));
    assert!(matches!(CompletionQueue::new(&context, 0, false), Err(QueueError::Depth { .. })));
}

#[test]
fn wrong_requests_are_refused_before_the_device_sees_them() {
    let (one, _two) = connected();
    let (_, source) = one.region(4096, RegionAccess::Source);
    let somewhere = RemoteMemory { address: 0, key: RemoteKey::from_number(1) };
    assert!(matches!(source.slice(4000..4097), Err(PostError::OutOfRange { start: 4000, end: 4097, length: 4096 })));
    assert!(matches!(one.pair.read(1, source.slice(0..8).expect("within"), somewhere), Err(PostError::Unsuitable(_))));
    let into = Some(source.slice(0..8).expect("within"));
    assert!(matches!(one.pair.post_receives(&[ReceiveRequest { id: 1, into }]), Err(PostError::Unsuitable(_))));
    let long = vec![0; one.pair.max_inline() + 1];
    assert!(matches!(one.pair.send(1, Data::Inline(&long), true), Err(PostError::InlineTooLong { .. })));
    let other = ProtectionDomain::new(&one.context).expect("a domain");
    let elsewhere =
        MemoryRegion::register(&other, Arc::new(Buffer::zeroed(64)), RegionAccess::Source).expect("a region");
    let data = Data::Memory(elsewhere.slice(0..8).expect("within"));
    assert!(matches!(one.pair.send(1, data, true), Err(PostError::Unsuitable(_))));
    assert!(matches!(
        one.pair.connect(&one.pair.endpoint(), &Connection::default()),
        Err(QueueError::State { state: QueuePairState::Connected, .. })
    ));
    assert_eq!(one.pair.free_sends(), DEPTH as usize);
}

/// Memory that says when it is gone.
struct Watched {
    buffer: Buffer,
    gone: Arc<AtomicBool>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Release);
    }
}

// SAFETY: as the buffer.
unsafe impl StableMemory for Watched {
    fn address(&self) -> NonNull<u8> {
        self.buffer.address()
    }

    fn length(&self) -> usize {
        self.buffer.length()
    }

    fn writable(&self) -> bool {
        true
    }
}

fn watched(side: &Side, access: RegionAccess) -> (MemoryRegion, Arc<AtomicBool>) {
    let gone = Arc::new(AtomicBool::new(false));
    let memory = Watched { buffer: Buffer::zeroed(1 << 20), gone: gone.clone() };
    (MemoryRegion::register(&side.domain, Arc::new(memory), access).expect("a region"), gone)
}

#[test]
fn memory_lives_until_its_request_is_done() {
    let (one, two) = connected();
    let (_, to) = two.region(1 << 20, RegionAccess::RemoteWrite);
    let (from, gone) = watched(&one, RegionAccess::Source);
    one.pair.write(1, Data::Memory(from.slice(0..1 << 20).expect("within")), remote(&to), true).expect("posted");
    drop(from);
    assert!(!gone.load(Ordering::Acquire), "the device still reads it");
    one.succeed(1);
    assert!(gone.load(Ordering::Acquire), "nobody needs it any more");

    let (into, gone) = watched(&two, RegionAccess::Receive);
    two.pair
        .post_receives(&[ReceiveRequest { id: 2, into: Some(into.slice(0..64).expect("within")) }])
        .expect("posted");
    drop(into);
    assert!(!gone.load(Ordering::Acquire), "the device will write to it");
    one.pair.send(3, Data::Inline(b"now"), true).expect("posted");
    two.succeed(2);
    assert!(gone.load(Ordering::Acquire));
}

#[test]
fn a_queue_pair_can_go_in_the_middle_of_its_traffic() {
    let (one, two) = connected();
    let (target, to) = two.region(1 << 20, RegionAccess::RemoteWrite);
    let (from, gone) = watched(&one, RegionAccess::Source);
    for id in 0..u64::from(DEPTH) {
        one.pair.write(id, Data::Memory(from.slice(0..1 << 20).expect("within")), remote(&to), true).expect("posted");
    }
    drop(from);
    let Side { pair, completions, domain, context } = one;
    drop(pair);
    assert!(gone.load(Ordering::Acquire), "the device has let go of it");
    // Nothing of it is delivered to a successor in the same completion queue.
    let (_, port, gid) = open();
    let config = QueuePairConfig {
        port,
        gid,
        send_depth: DEPTH,
        receive_depth: DEPTH,
        inline: 64,
        remote_write: true,
        remote_read: false,
    };
    let deadline = Instant::now() + PATIENCE;
    let pair = loop {
        // What the old one left behind makes room when it is polled.
        assert_eq!(completions.poll(&mut [Completion::default(); 8]).expect("polled"), 0);
        match QueuePair::new(&domain, &completions, &completions, &config) {
            Ok(pair) => break pair,
            Err(QueueError::NoCompletionRoom { .. }) => assert!(Instant::now() < deadline, "no room came back"),
            Err(error) => panic!("{error}"),
        }
    };
    let one = Side { pair, completions, domain, context };
    let three = Side::new(DEPTH);
    connect(&one, &three, &Connection::default());
    let (other, to) = three.region(4096, RegionAccess::RemoteWrite);
    one.pair.write(1000, Data::Inline(b"next"), remote(&to), true).expect("posted");
    one.succeed(1000);
    assert_eq!(bytes(&other, 0..4), b"next");
    // The receiver's side of the fence: without its queue pair, no write of a peer can reach its memory.
    drop(two.pair);
    target.write(0, &[1; 64]);
    assert_eq!(bytes(&target, 0..64), vec![1; 64]);
}

#[test]
fn ending_the_traffic_gives_everything_back_as_flushed() {
    let (one, two) = connected();
    let (_, to) = one.region(4096, RegionAccess::RemoteWrite);
    let (from, gone) = watched(&two, RegionAccess::Source);
    two.pair.fail().expect("ended");
    assert_eq!(two.pair.state().expect("a state"), QueuePairState::Error);
    for id in 0..5 {
        let data = Data::Memory(from.slice(0..64).expect("within"));
        two.pair.write(id, data, remote(&to), false).expect("posted");
    }
    drop(from);
    for id in 0..5 {
        let got = two.next();
        assert_eq!((got.id, got.status, got.operation), (id, Status::Flushed, Operation::Write));
    }
    assert!(gone.load(Ordering::Acquire));
    assert_eq!(two.pair.free_sends(), DEPTH as usize);
    // The other end notices with its next request.
    one.pair.send(1, Data::Inline(b"?"), true).expect("posted");
    assert_eq!(one.next().status, Status::RetryExceeded);
}

#[test]
fn a_sleeper_is_woken_by_the_completion_it_armed_for() {
    let (one, two) = connected();
    two.pair.post_receives(&[ReceiveRequest { id: 1, into: None }]).expect("posted");
    assert!(!two.completions.wait(Some(Duration::from_millis(20))).expect("waited"), "not armed, nothing came");
    two.completions.arm().expect("armed");
    assert_eq!(two.completions.poll(&mut [Completion::default()]).expect("polled"), 0);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| two.completions.wait(Some(PATIENCE)).expect("waited"));
        one.pair.send(2, Data::Empty, true).expect("posted");
        assert!(sleeper.join().expect("no panic"), "woken");
    });
    two.succeed(1);
    one.succeed(2);
}

#[test]
fn shared_memory_is_registered_and_written_in_place() {
    let (one, two) = connected();
    let source = Segment::create("source", 1 << 20, SegmentKind::FunctionWritten).expect("a segment");
    let target = Segment::create("target", 1 << 20, SegmentKind::CreatorWritten).expect("a segment");
    let text = pattern(4, 1 << 20);
    assert_eq!(rustix::io::pwrite(&source, &text, 0).expect("written"), text.len());
    // Memory that can only be read is a source at most, and for Linux before 6.2 not even that.
    let from = Arc::new(source.map(Access::Read).expect("mapped"));
    let error =
        MemoryRegion::register(&one.domain, from.clone(), RegionAccess::RemoteWrite).expect_err("only readable");
    assert!(matches!(error, MemoryError::ReadOnly), "{error}");
    let from_region = match MemoryRegion::register(&one.domain, from, RegionAccess::Source) {
        Err(MemoryError::KernelWantsWritable) => {
            let from = Arc::new(source.map(Access::Write).expect("mapped"));
            MemoryRegion::register(&one.domain, from, RegionAccess::Source)
        }
        other => other,
    }
    .expect("a region");
    let into = Arc::new(target.map(Access::Write).expect("mapped"));
    let into_region = MemoryRegion::register(&two.domain, into, RegionAccess::RemoteWrite).expect("a region");
    one.pair
        .write(1, Data::Memory(from_region.slice(0..1 << 20).expect("within")), remote(&into_region), true)
        .expect("posted");
    one.succeed(1);
    // Seen through the file, not the mapping: these are the same pages.
    let mut seen = vec![0; text.len()];
    assert_eq!(rustix::io::pread(&target, &mut seen[..], 0).expect("read"), text.len());
    assert_eq!(seen, text);
}

#[test]
fn a_window_opens_a_part_to_one_peer_and_closes_again() {
    let (one, two) = connected();
    let (_, from) = one.region(4096, RegionAccess::Source);
    let (target, memory) = two.region(8192, RegionAccess::Windows);
    let window = MemoryWindow::new(&two.domain).expect("a window");
    let place = two.pair.bind_window(1, &window, memory.slice(4096..8192).expect("within"), true).expect("posted");
    assert_eq!(two.succeed(1).operation, Operation::BindWindow);
    one.pair.write(2, Data::Inline(b"through the window"), place, true).expect("posted");
    one.succeed(2);
    assert_eq!(bytes(&target, 4096..4114), b"through the window");

    two.pair.close_window(3, &window, true).expect("posted");
    assert_eq!(two.succeed(3).operation, Operation::Invalidate);
    one.pair.write(4, Data::Memory(from.slice(0..8).expect("within")), place, true).expect("posted");
    assert_eq!(one.next().status, Status::RemoteAccess);
    assert_eq!(bytes(&target, 4096..4104), b"through ");
}

/// One more queue pair in a domain, not connected.
fn beside(domain: &ProtectionDomain) -> QueuePair {
    let (_, port, gid) = open();
    let completions = CompletionQueue::new(domain.context(), 8, false).expect("a completion queue");
    let config = QueuePairConfig {
        port,
        gid,
        send_depth: 4,
        receive_depth: 4,
        inline: 64,
        remote_write: true,
        remote_read: false,
    };
    QueuePair::new(domain, &completions, &completions, &config).expect("a queue pair")
}

#[test]
fn a_window_is_closed_to_another_queue_pair() {
    let (one, two) = connected();
    let (target, memory) = two.region(4096, RegionAccess::Windows);
    let window = MemoryWindow::new(&two.domain).expect("a window");
    let place = two.pair.bind_window(1, &window, memory.slice(0..4096).expect("within"), true).expect("posted");
    two.succeed(1);
    // Another connection, even into the same domain.
    let beside = beside(&two.domain);
    let stranger = Side::new(DEPTH);
    stranger.pair.connect(&beside.endpoint(), &Connection::default()).expect("connected");
    beside.connect(&stranger.pair.endpoint(), &Connection::default()).expect("connected");
    stranger.pair.write(2, Data::Inline(b"not for you"), place, true).expect("posted");
    assert_eq!(stranger.next().status, Status::RemoteAccess);
    assert_eq!(bytes(&target, 0..11), vec![0; 11]);
    one.pair.write(3, Data::Inline(b"for you"), place, true).expect("posted");
    one.succeed(3);
    drop(window);
}

/// The fence of a fail-over: destroying the queue pair is quick, and closes what was open to its peer.
#[test]
fn windows_end_with_the_queue_pair_that_opened_them() {
    let (_one, two) = connected();
    let (memory, gone) = watched(&two, RegionAccess::Windows);
    let window = MemoryWindow::new(&two.domain).expect("a window");
    let slice = memory.slice(0..4096).expect("within");
    two.pair.bind_window(1, &window, slice, true).expect("posted");
    two.succeed(1);
    // Soft-RoCE needs a minute to destroy a queue pair that has a window.
    let start = Instant::now();
    drop(two.pair);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    let next = beside(&two.domain);
    let refused = next.bind_window(2, &window, slice, true);
    assert!(matches!(refused, Err(PostError::Unsuitable(reason)) if reason.contains("has ended")));
    drop(memory);
    assert!(gone.load(Ordering::Acquire), "the window no longer keeps it");
}

#[test]
fn the_limit_of_locked_memory_is_named_with_what_is_needed() {
    let one = Side::new(DEPTH);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    let set = |current| {
        rustix::process::setrlimit(
            rustix::process::Resource::Memlock,
            rustix::process::Rlimit { current, maximum: limit.maximum },
        )
        .expect("set");
    };
    // The limit binds those without the right to pass it, so this runs in a thread that has given it up.
    let result = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let mut rights = rustix::thread::capabilities(None).expect("capabilities");
                rights.effective.remove(CapabilitySet::IPC_LOCK);
                rustix::thread::set_capabilities(None, rights).expect("given up");
                set(Some(64 << 10));
                MemoryRegion::register(&one.domain, Arc::new(Buffer::zeroed(1 << 20)), RegionAccess::Source)
            })
            .join()
            .expect("no panic")
    });
    set(limit.current);
    let error = result.expect_err("too much");
    assert!(
        matches!(error, MemoryError::Memlock { bytes: 0x10_0000, needed, limit: 0x1_0000 } if needed >= 1 << 20),
        "{error}"
    );
    assert!(error.to_string().contains("ulimit -l "), "{error}");
}

#[test]
fn there_are_no_events_while_nothing_happens() {
    let one = Side::new(DEPTH);
    let seen: Vec<AsyncEvent> = std::iter::from_fn(|| one.context.next_event().expect("read")).collect();
    assert_eq!(seen, []);
}
