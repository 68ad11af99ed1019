//! A peer that keeps no rule, and a device that repeats what it has done.

use super::{FLOW, GRANT, PATIENCE, Rdma, SIZE, landing, small, strict, works};
use dflow_protocol::wire::PeerMessage;
use dflow_transport::rdma::{RdmaConfig, RdmaPath};
use dflow_transport::{Path, PathEvent};
use dflow_verbs::{
    Completion, CompletionQueue, Data, Devices, ProtectionDomain, QueuePair, QueuePairConfig, ReceiveRequest,
    RemoteKey, RemoteMemory, Status,
};
use std::net::IpAddr;
use std::time::Instant;

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
