//! A peer that follows no rule, and a device that repeats operations.

use super::{FLOW, GRANT, PATIENCE, Rdma, SIZE, landing, small, strict, works};
use dflow_protocol::wire::PeerMessage;
use dflow_transport::rdma::{RdmaConfig, RdmaPath};
use dflow_transport::{Path, PathError, PathEvent};
use dflow_verbs::{
    Buffer, Completion, CompletionQueue, Connection, Data, Devices, MemoryRegion, Operation, ProtectionDomain,
    QueuePair, QueuePairConfig, ReceiveRequest, RegionAccess, RemoteKey, RemoteMemory, Status,
};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Everything that arrived before the end is processed first, whatever the end is.
#[test]
fn a_violation_is_one_also_where_the_connection_ends_behind_it() {
    let mut hostile = Hostile::new(strict());
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = hostile.path.offer(FLOW, GRANT, &landing).expect("offered");
    let place = RemoteMemory { address: remote.address, key: RemoteKey::from_number(remote.key) };
    hostile.pair.write_with_immediate(1, Data::Inline(&[7; 8]), place, GRANT.0 + 1, true).expect("posted");
    let outside = RemoteMemory { address: remote.address.wrapping_add(SIZE), ..place };
    hostile.pair.write_with_immediate(2, Data::Inline(&[7; 8]), outside, 1 << 24 | GRANT.0, true).expect("posted");
    hostile.refused();
    let seen = hostile.end();
    assert!(
        matches!(&seen[..], [PathEvent::Lost(PathError::Protocol(why))] if why.contains("not granted")),
        "{seen:?}"
    );
}

/// The peer does not wait for credit, and its device retries as often as it can be configured to, or forever.
#[test]
fn a_flood_waits_for_the_reader_and_does_not_disturb_others() {
    const FOR_EVER: u8 = 7;
    for receiver_retries in [Connection::default().receiver_retries, FOR_EVER] {
        let connection = Connection { receiver_retries, ..strict().connection };
        let mut hostile = Hostile::new(RdmaConfig { connection, ..small() });
        let (receives, flood) = (u64::from(small().receive_depth), 4 * u64::from(small().receive_depth));
        for number in 0..flood {
            hostile.pair.send(number, Data::Inline(&ping(number)), true).expect("posted");
        }
        // The path does not look, and so posts no receive again: as much comes as there are receives for.
        let ended = if receiver_retries == FOR_EVER {
            works(&hostile.network);
            assert_eq!(hostile.completed(receives), (0..receives).collect::<Vec<_>>());
            None
        } else {
            let refused = hostile.refused();
            assert_eq!((refused.status, refused.id), (Status::ReceiverNotReady, receives), "{refused:?}");
            Some(receives)
        };
        let expected = ended.unwrap_or(flood);
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while (seen.len() as u64) < expected {
            assert!(Instant::now() < deadline, "only {seen:?}");
            hostile.path.poll(&mut seen);
        }
        for (number, event) in (0..expected).zip(&seen) {
            assert!(matches!(event, PathEvent::Message(PeerMessage::Ping(said)) if *said == number), "{seen:?}");
        }
        // It cannot be detected that the peer has not waited for credit: if the path ends, it ends like one
        // whose peer is gone.
        if receiver_retries == FOR_EVER {
            hostile.path.send(&PeerMessage::Ping(1)).expect("the path is there");
        }
        hostile.path.poll(&mut seen);
        let ends: Vec<_> = seen.iter().filter(|event| !matches!(event, PathEvent::Message(_))).collect();
        let is_loss = |event: &&PathEvent| matches!(event, PathEvent::Lost(error) if !error.is_violation());
        assert!(ends.iter().all(is_loss) && (ends.is_empty() || receiver_retries != FOR_EVER), "{ends:?}");
        works(&hostile.network);
    }
}

/// The room of each of its receives, in bytes.
const ROOM: usize = 1024;

/// A queue pair of a peer that keeps no rule, connected with a path.
struct Hostile {
    pair: QueuePair,
    completions: CompletionQueue,
    path: RdmaPath,
    network: Rdma,
    _receives: MemoryRegion,
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
        let buffer = Arc::new(Buffer::zeroed(receive_depth as usize * ROOM));
        let region = MemoryRegion::register(&domain, buffer as _, RegionAccess::Receive).expect("registered");
        for slot in 0..receive_depth as usize {
            let into = Some(region.slice(slot * ROOM..(slot + 1) * ROOM).expect("a part of it"));
            pair.post_receives(&[ReceiveRequest { id: 1, into }]).expect("posted");
        }
        let hello = [&1u32.to_le_bytes()[..], &receive_depth.to_le_bytes(), &pair.endpoint().to_bytes()].concat();

        let network = Rdma::new(config);
        let prepared = RdmaPath::prepare(&network.device, &config, network.bell.waker()).expect("prepared");
        let attacked = prepared.endpoint();
        let attacked = dflow_verbs::Endpoint::from_bytes(&attacked[8..]).expect("an endpoint");
        let path = prepared.connect(&hello).expect("connected");
        pair.connect(&attacked, &config.connection).expect("connected");
        Self { pair, completions, path, network, _receives: region }
    }
}

impl Hostile {
    /// The first request that has failed.
    fn refused(&self) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        let mut done = [Completion::default(); 32];
        loop {
            assert!(Instant::now() < deadline, "it is not stopped");
            let count = self.completions.poll(&mut done).expect("polled");
            if let Some(failed) = done[..count].iter().find(|completion| completion.status != Status::Success) {
                return *failed;
            }
        }
    }

    /// Waits until this many of its requests have arrived, and as long again as that took; returns the number that
    /// have.
    fn completed(&self, enough: u64) -> Vec<u64> {
        let start = Instant::now();
        let (mut arrived, mut took) = (Vec::new(), PATIENCE);
        let mut done = [Completion::default(); 32];
        while start.elapsed() < 2 * took {
            let count = self.completions.poll(&mut done).expect("polled");
            for completion in done[..count].iter().filter(|completion| completion.operation != Operation::Receive) {
                assert_eq!(completion.status, Status::Success, "{completion:?}");
                arrived.push(completion.id);
            }
            if arrived.len() as u64 >= enough {
                took = took.min(start.elapsed().max(Duration::from_millis(50)));
            }
        }
        arrived
    }

    /// The events of the path up to its end.
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
fn repeated_or_invented_messages_of_a_device_are_not_taken_for_bytes() {
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
