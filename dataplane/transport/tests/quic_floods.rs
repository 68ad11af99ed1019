//! Peers that send, subscribe or connect more than they may: their resources are bounded, and others are not affected.

#[allow(dead_code, unused_macros, unused_imports, reason = "only its nodes are used here")]
mod conformance;
mod quic_common;

use conformance::node::Node;
use conformance::world::stream;
use dflow_protocol::limits::{MAX_FLOWS, MAX_INLINE, PEER_VERSION};
use dflow_protocol::wire::{FlowId, PeerMessage};
use dflow_transport::quic::{Cause, Connection, NodeCounters, QuicNode, QuicSettings, bare_endpoint};
use dflow_transport::{Link, LinkEvent, Path, PathEvent};
use quic_common::hostile::{Hostile, INCARNATION, framed, messages};
use quic_common::{Bell, DAY, PATIENCE, Pair, localhost, settings};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

fn refused(counters: NodeCounters, cause: Cause) -> u64 {
    counters.causes[cause as usize]
}

#[test]
fn a_flood_of_messages_waits_for_the_reader() {
    let mut hostile = Hostile::new();
    let bytes = vec![1; MAX_INLINE];
    let message = framed(&PeerMessage::Inline { flow: FlowId(1), at: 0, bytes });
    let count = 64 * 1024 * 1024 / message.len();
    let quic = hostile.quic.clone();
    let (held, is_held) = std::sync::mpsc::channel();
    let flood = hostile.runtime.spawn(async move {
        let mut stream = quic.open_uni().await.expect("a stream");
        stream.write_all(&messages(INCARNATION)).await.expect("the connection continues");
        for _ in 0..count {
            let mut write = std::pin::pin!(stream.write_all(&message));
            if let Ok(outcome) = tokio::time::timeout(Duration::from_millis(500), &mut write).await {
                outcome.expect("the connection continues");
            } else {
                let _ = held.send(());
                write.await.expect("the connection continues");
            }
        }
        stream.finish().expect("once");
    });
    is_held.recv().expect("flow control holds it before all of it is sent");
    hostile.assert_others_unaffected();
    let mut received = 0;
    let mut events = Vec::new();
    while received < count {
        hostile.path.poll(&mut events);
        assert!(!events.is_empty() || hostile.bell.wait(PATIENCE), "nothing has come");
        received += events.drain(..).filter(|event| matches!(event, PathEvent::Message(_))).count();
    }
    hostile.runtime.block_on(flood).expect("all of it was sent");
    assert_eq!(hostile.connection.closed(), None);
}

#[test]
fn a_flood_of_subscriptions_is_cut_off() {
    let mut hostile = Hostile::new();
    // The path as a link has it, which keeps something for each subscription.
    let (mut node, mut link) = (Node::default(), Link::new(71));
    let waker = hostile.bell.waker();
    let path = dflow_transport::quic::QuicPath::new(&hostile.connection, INCARNATION + 1, waker).expect("a connection");
    link.connect(Box::new(path), INCARNATION + 1);
    let begin = PeerMessage::Begin { version: PEER_VERSION, life: 9, incarnation: INCARNATION + 1, flows: 0 };
    let mut bytes = [messages(INCARNATION + 1), framed(&begin)].concat();
    let most = u32::try_from(MAX_FLOWS).expect("it fits");
    for flow in 1..=most + 1 {
        let subscribe =
            PeerMessage::Subscribe { flow: FlowId(flow.into()), stream: stream(flow), received: 0, until: 10 };
        bytes.extend(framed(&subscribe));
    }
    let quic = hostile.quic.clone();
    hostile.runtime.spawn(async move {
        if let Ok(mut stream) = quic.open_uni().await {
            // It is cut off behind the last of them.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.stopped().await;
        }
    });
    let deadline = Instant::now() + PATIENCE;
    let events = loop {
        let events = link.take_events();
        if !events.is_empty() {
            break events;
        }
        assert!(Instant::now() < deadline, "it is not stopped");
        if !link.step(&mut node) {
            hostile.bell.wait(Duration::from_millis(100));
        }
    };
    assert!(
        matches!(&events[..], [LinkEvent::Violated(why)] if why.contains(&format!("more than {MAX_FLOWS} flows"))),
        "{events:?}"
    );
    assert_eq!(link.stats().violations, 1);
    if let [LinkEvent::Violated(why)] = &events[..] {
        hostile.connection.violated(why);
    }
    assert_eq!(hostile.node.counters().violations, 1);
    hostile.assert_others_unaffected();
}

#[test]
fn a_flood_of_connections_is_refused_and_existing_ones_continue() {
    const MOST: usize = 4;
    let Pair { ca, nodes: [a, b], mut incoming } = Pair::with(QuicSettings { max_connections: MOST, ..settings() });
    let bystander = a.connect(b.local_address(), "b").wait().expect("there is room");
    let accepted = incoming.wait().expect("it is accepted");
    let identity = ca.issue("hostile", DAY).expect("an identity");
    let (flooding, _) = QuicNode::bind(localhost(), &identity, settings()).expect("a free port");
    let dials: Vec<_> = (0..50).map(|_| flooding.connect(b.local_address(), "b")).collect();
    let (mut open, mut why) = (Vec::new(), Vec::new());
    for dial in dials {
        match dial.wait() {
            Ok(connection) => open.push(connection),
            Err(error) => why.push(error.to_string()),
        }
    }
    assert_eq!(open.len(), MOST - 1, "with the bystander they are as many as there may be");
    assert!(why.iter().all(|why| why.contains("refused")), "{why:?}");
    assert_eq!(refused(b.counters(), Cause::Busy), why.len() as u64);
    assert_eq!(b.counters().refused, why.len() as u64);
    let works = |[from, to]: [&Connection; 2]| {
        let bell = Bell::new();
        to.set_waker(bell.waker());
        from.send(vec![7; 1000]).expect("there is room");
        while to.try_recv().is_none() {
            assert!(bell.wait(PATIENCE), "nothing has come");
        }
    };
    works([&bystander, &accepted]);
    works([&accepted, &bystander]);
    // When they are gone there is room for others.
    drop(open);
    let deadline = Instant::now() + PATIENCE;
    let late = loop {
        match a.connect(b.local_address(), "b").wait() {
            Ok(connection) => break connection,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    let accepted =
        std::iter::from_fn(|| incoming.wait()).find(|connection| connection.peer() == "a").expect("it is there");
    works([&late, &accepted]);
}

/// First packets that nothing follows, from one address that never answers.
#[test]
fn a_flood_of_handshakes_does_not_lock_out_others() {
    const FLOOD: usize = 1000;
    let patience = Duration::from_secs(1);
    let Pair { ca, nodes: [a, b], mut incoming } =
        Pair::with(QuicSettings { handshake_timeout: patience, ..settings() });
    let identity = ca.issue("hostile", DAY).expect("an identity");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let to = b.local_address();
    let under_way = runtime.block_on(async {
        let endpoint = bare_endpoint(localhost(), &identity, &settings()).expect("an endpoint");
        let sink = UdpSocket::bind(localhost()).await.expect("a free port");
        let (address, own) = (sink.local_addr().expect("bound"), endpoint.local_addr().expect("bound"));
        let (mut packet, mut under_way) = (vec![0; 65_536], Vec::new());
        for _ in 0..FLOOD {
            under_way.push(endpoint.connect(address, "b").expect("a name"));
            // The node's answers arrive here, too, and are dropped.
            loop {
                let (length, from) = sink.recv_from(&mut packet).await.expect("a socket");
                if from.port() == own.port() {
                    sink.send_to(&packet[..length], to).await.expect("sent");
                    break;
                }
            }
        }
        under_way
    });
    // In the middle of it others come in: they show that their address is their own.
    let dialed = a.connect(b.local_address(), "b").wait().expect("there is room");
    let accepted = incoming.wait().expect("it is accepted");
    assert_eq!((accepted.peer(), dialed.closed()), ("a", None));
    drop(under_way);
    let deadline = Instant::now() + PATIENCE;
    while refused(b.counters(), Cause::Silence) == 0 {
        assert!(Instant::now() < deadline, "those that say nothing more are never given up: {:?}", b.counters());
        std::thread::yield_now();
    }
    assert_eq!((accepted.closed(), b.counters().accepted), (None, 1));
}
