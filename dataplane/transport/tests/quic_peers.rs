//! Connections and their management channel, and what becomes of peers that do not keep to the protocol.

mod quic_common;

use dflow_protocol::SegmentId;
use dflow_protocol::limits::{MAX_INLINE, MAX_PEER_MESSAGE, PEER_VERSION};
use dflow_protocol::message::Window;
use dflow_protocol::wire::{FlowId, GrantId, PeerMessage};
use dflow_shm::{Access, Landing, Segment, SegmentKind};
use dflow_transport::quic::{
    Cause, ClusterCa, ConnectError, Connection, Identity, Incoming, MAX_MANAGEMENT_MESSAGE, ManagementError, QuicNode,
    QuicPath, QuicSettings, bare_endpoint,
};
use dflow_transport::{Path, PathError, PathEvent};
use quic_common::{Bell, DAY, PATIENCE, Pair, lines_about, localhost, log, node, settings, until_refused};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot::Sender;

// ---- Connections ----

fn wait_for<T>(bell: &Bell, mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(bell.wait(PATIENCE), "nothing has come");
    }
}

#[test]
fn management_messages_arrive_in_order() {
    let mut pair = Pair::new();
    let [a, b] = pair.connect();
    let bell = Bell::new();
    b.set_waker(bell.waker());
    // More than what the queues and the flow control of QUIC hold.
    let messages: Vec<Vec<u8>> = (0..60_000u32).map(|number| vec![number as u8; 500 + number as usize % 97]).collect();
    let mut expected = messages.iter();
    for message in &messages {
        while let Err(error) = a.send(message.clone()) {
            assert_eq!(error, ManagementError::Full);
            // There is room again when the other side reads.
            assert_eq!(Some(&wait_for(&bell, || b.try_recv())), expected.next());
        }
    }
    assert!(expected.len() < messages.len(), "so many do not fit into the queues");
    for message in expected {
        assert_eq!(&wait_for(&bell, || b.try_recv()), message);
    }
    assert_eq!(a.send(vec![0; MAX_MANAGEMENT_MESSAGE + 1]), Err(ManagementError::TooLong(MAX_MANAGEMENT_MESSAGE + 1)));
    assert!(a.stats().round_trip > Duration::ZERO && a.stats().packets_sent > 0);
    a.close("it is enough");
    let reason = wait_for(&bell, || b.closed());
    assert!(reason.contains("it is enough"), "{reason}");
    assert!(matches!(b.send(vec![1]), Err(ManagementError::Closed(_))));
}

#[test]
fn several_endpoints_share_an_address() {
    let ca = ClusterCa::create("test").expect("an authority");
    let settings = QuicSettings { endpoints: 3, ..settings() };
    let address = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0));
    let [(a, _), (b, mut incoming)] = ["a", "b"].map(|name| {
        QuicNode::bind(address, &ca.issue(name, DAY).expect("an identity"), settings.clone()).expect("a free port")
    });
    let mut open = Vec::new();
    for _ in 0..12 {
        let dialed = a.connect(b.local_address(), "b").wait().expect("of one cluster");
        let accepted = incoming.wait().expect("it is accepted");
        let bell = Bell::new();
        accepted.set_waker(bell.waker());
        dialed.send(b"hello".to_vec()).expect("there is room");
        assert_eq!(wait_for(&bell, || accepted.try_recv()), b"hello");
        open.push((dialed, accepted));
    }
    assert_eq!((a.counters().dialed, b.counters().accepted), (12, 12));
    // Nobody else gets the port by mistake.
    let identity = ca.issue("c", DAY).expect("an identity");
    let problem = QuicNode::bind(b.local_address(), &identity, settings).expect_err("it is taken").to_string();
    assert!(problem.contains(&b.local_address().to_string()), "{problem}");
    drop(b);
    let bell = Bell::new();
    open[0].0.set_waker(bell.waker());
    assert!(wait_for(&bell, || open[0].0.closed()).contains("shutting down"));
}

// ---- Peers that have a certificate and break the rules ----

/// A peer made of bare quinn, with a certificate, connected to a node that has a path to it.
struct Hostile {
    runtime: Handle,
    /// What runs it, until the other is dropped.
    thread: Option<(JoinHandle<()>, Sender<()>)>,
    quic: quinn::Connection,
    management: Option<(quinn::SendStream, quinn::RecvStream)>,
    node: QuicNode,
    /// Others are accepted, too.
    _incoming: Incoming,
    connection: Connection,
    path: QuicPath,
    landing: Arc<Landing>,
    bell: Arc<Bell>,
    /// Others of the cluster, and a path between one of them and the node, at both ends.
    others: Pair,
    bystander: [(Connection, QuicPath); 2],
}

/// The flow that the node has offered, with room for 4096 bytes.
const FLOW: u32 = 7;
const INCARNATION: u64 = 5;

impl Hostile {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: QuicSettings) -> Self {
        log();
        let others = Pair::new();
        let identity = others.ca.issue("server", DAY).expect("an identity");
        let (node, mut incoming) = QuicNode::bind(localhost(), &identity, settings).expect("a free port");
        let bell = Bell::new();
        let dialed = others.nodes[0].connect(node.local_address(), "server").wait().expect("of the cluster");
        let bystander = [dialed, incoming.wait().expect("it is accepted")].map(|connection| {
            let path = QuicPath::new(&connection, INCARNATION, bell.waker()).expect("a connection");
            (connection, path)
        });
        let own = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let runtime = own.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || drop(own.block_on(stopped)));
        let identity = others.ca.issue("hostile", DAY).expect("an identity");
        let (quic, management) = runtime.block_on(async {
            let quic = connect(&identity, node.local_address()).await;
            let management = greet(&quic, PEER_VERSION).await;
            (quic, management)
        });
        let connection = incoming.wait().expect("it is accepted");
        assert_eq!(connection.peer(), "hostile");
        let mut path = QuicPath::new(&connection, INCARNATION, bell.waker()).expect("a connection");
        let segment = Segment::create("test", 4096, SegmentKind::FunctionWritten).expect("memory");
        let memory = Arc::new(segment.map(Access::Write).expect("a mapping"));
        let window = Window { segment: SegmentId(0), segment_offset: 0, base: 0, size: 4096, ring: false };
        let landing = Arc::new(Landing::new(&window, memory, 0));
        landing.open(0..4096);
        path.offer(FlowId(FLOW), GrantId(1), &landing).expect("it needs nothing");
        Self {
            runtime,
            thread: Some((thread, stop)),
            quic,
            management: Some(management),
            node,
            _incoming: incoming,
            connection,
            path,
            landing,
            bell,
            others,
            bystander,
        }
    }

    /// Opens a stream, writes the bytes, and ends it.
    fn stream(&self, bytes: &[u8]) {
        self.open(bytes, true);
    }

    fn open(&self, bytes: &[u8], finish: bool) -> Option<quinn::SendStream> {
        self.runtime.block_on(async {
            // It may be cut off in the middle.
            let mut stream = self.quic.open_uni().await.ok()?;
            stream.write_all(bytes).await.ok()?;
            if finish {
                stream.finish().ok()?;
            }
            Some(stream)
        })
    }

    fn events(&mut self, enough: impl Fn(&[PathEvent]) -> bool) -> Vec<PathEvent> {
        let mut events = Vec::new();
        let (bell, path) = (&self.bell, &mut self.path);
        wait_for(bell, || {
            path.poll(&mut events);
            enough(&events).then_some(())
        });
        events
    }

    fn lost(&mut self) -> PathError {
        let events = self.events(|events| matches!(events.last(), Some(PathEvent::Lost(_))));
        match events.into_iter().last() {
            Some(PathEvent::Lost(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    /// The path is lost for this reason, the peer is told, it is counted, and others are not affected.
    fn assert_cut_off(mut self, why: &str) {
        let error = self.lost();
        assert!(error.is_violation() && error.to_string().contains(why), "{error}");
        let closed = self.runtime.block_on(self.quic.closed());
        assert!(
            matches!(&closed, quinn::ConnectionError::ApplicationClosed(close)
            if String::from_utf8_lossy(&close.reason).contains(why)),
            "{closed:?}"
        );
        for reason in [self.connection.closed(), self.connection.violation().map(str::to_owned)] {
            assert!(reason.as_ref().is_some_and(|reason| reason.contains(why)), "{reason:?}");
        }
        assert_eq!(self.node.counters().violations, 1);
        let lines = lines_about(self.connection.address());
        let is_told = |line: &String| ["WARN", "node hostile", why].iter().all(|word| line.contains(word));
        assert!(lines.len() == 1 && lines.iter().all(is_told), "{lines:?}");
        assert!(matches!(
            QuicPath::new(&self.connection, INCARNATION + 1, self.bell.waker()),
            Err(PathError::Lost { .. })
        ));

        self.assert_others_unaffected();
    }

    /// The path that there was is still there, and new connections are accepted.
    fn assert_others_unaffected(&mut self) {
        for from in 0..2 {
            self.bystander[from].1.send(&PeerMessage::Ping(from as u64)).expect("it is there");
            let mut events = Vec::new();
            let (bell, to) = (&self.bell, &mut self.bystander[1 - from].1);
            wait_for(bell, || {
                to.poll(&mut events);
                (!events.is_empty()).then_some(())
            });
            let is_ping = |event: &PathEvent| matches!(event, PathEvent::Message(PeerMessage::Ping(_)));
            assert!(events.iter().all(is_ping), "{events:?}");
        }
        assert!(self.bystander.iter().all(|(connection, _)| connection.closed().is_none()));
        let address = self.node.local_address();
        let other = self.others.nodes[0].connect(address, "server").wait().expect("others still connect");
        assert_eq!(other.closed(), None);
    }
}

async fn connect(identity: &Identity, address: SocketAddr) -> quinn::Connection {
    let endpoint = bare_endpoint(localhost(), identity, &settings()).expect("a port");
    endpoint.connect(address, "server").expect("a name").await.expect("of the cluster")
}

async fn greet(quic: &quinn::Connection, version: u32) -> (quinn::SendStream, quinn::RecvStream) {
    let (mut send, receive) = quic.open_bi().await.expect("a stream");
    send.write_all(b"dflow\0\r\n").await.expect("it is there");
    send.write_all(&version.to_le_bytes()).await.expect("it is there");
    (send, receive)
}

fn header(kind: u32, flow: u32, incarnation: u64, start: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &flow.to_le_bytes(), &incarnation.to_le_bytes(), &start.to_le_bytes()].concat()
}

fn messages(incarnation: u64) -> Vec<u8> {
    header(1, 0, incarnation, 0)
}

fn data(flow: u32, start: u64, length: usize) -> Vec<u8> {
    [header(2, flow, INCARNATION, start), vec![3; length]].concat()
}

fn framed(message: &PeerMessage) -> Vec<u8> {
    let bytes = message.encode().expect("a sound message");
    [&(bytes.len() as u32).to_le_bytes()[..], &bytes].concat()
}

#[test]
fn a_peer_that_keeps_to_the_rules_is_heard() {
    let mut hostile = Hostile::new();
    hostile.stream(&data(FLOW, 1000, 500));
    let ping = framed(&PeerMessage::Ping(3));
    let stream = hostile.open(&[messages(INCARNATION), ping].concat(), false);
    let events = hostile.events(|events| {
        let placed: u64 =
            events.iter().map(|event| if let PathEvent::Placed { length, .. } = event { *length } else { 0 }).sum();
        placed == 500 && events.iter().any(|event| matches!(event, PathEvent::Message(PeerMessage::Ping(3))))
    });
    assert!(!events.iter().any(|event| matches!(event, PathEvent::Lost(_))), "{events:?}");
    let mut bytes = [0; 500];
    hostile.landing.memory().shared(1000..1500).copy_to(&mut bytes);
    assert_eq!(bytes, [3; 500]);
    drop(stream);
    // It ends its messages: the path is over, and it has broken no rule.
    let error = hostile.lost();
    assert!(!error.is_violation(), "{error}");
    assert_eq!((hostile.node.counters().violations, hostile.connection.closed()), (0, None));
}

#[test]
fn streams_without_a_proper_header_are_violations() {
    let attacks: [(&[u8], &str); 3] =
        [(&[0xff; 64], "header that is none"), (&[1, 0, 0], "after 3 bytes"), (&[], "after 0 bytes")];
    for (bytes, why) in attacks {
        let hostile = Hostile::new();
        hostile.stream(bytes);
        hostile.assert_cut_off(why);
    }
    let hostile = Hostile::new();
    hostile.stream(&header(2, FLOW, INCARNATION, 1 << 62));
    hostile.assert_cut_off("header that is none");
    let hostile = Hostile::new();
    hostile.stream(&[&messages(INCARNATION)[..], &[9, 0, 0, 0, 1]].concat());
    hostile.assert_cut_off("end after 5 bytes of one");
}

#[test]
fn bytes_for_a_place_where_none_may_arrive_are_violations() {
    for (start, length) in [(4000, 97), (4096, 1), (1 << 61, 10)] {
        let hostile = Hostile::new();
        hostile.stream(&data(FLOW, start, length));
        hostile.assert_cut_off("where only 0..4096 may arrive");
    }
    let hostile = Hostile::new();
    hostile.stream(&data(FLOW + 1, 0, 10));
    hostile.assert_cut_off("has no window");
    let hostile = Hostile::new();
    hostile.stream(&data(FLOW, 0, 10));
    hostile.stream(&data(FLOW, 0, 10));
    hostile.assert_cut_off("a second stream for flow 7");
    let hostile = Hostile::new();
    hostile.stream(&header(2, FLOW, INCARNATION + 1, 0));
    hostile.assert_cut_off("a path that this node has not begun");
}

#[test]
fn messages_that_are_none_are_violations() {
    let size = MAX_PEER_MESSAGE + 1;
    let too_long = [&messages(INCARNATION)[..], &(size as u32).to_le_bytes()].concat();
    let hostile = Hostile::new();
    let stream = hostile.open(&too_long, false);
    hostile.assert_cut_off("a message of 8193 bytes");
    drop(stream);
    for noise in [vec![0u8; 40], (0..200).map(|byte| byte ^ 0x5a).collect()] {
        let hostile = Hostile::new();
        let length = (noise.len() as u32).to_le_bytes();
        let stream = hostile.open(&[&messages(INCARNATION)[..], &length, &noise].concat(), false);
        hostile.assert_cut_off("no message of version");
        drop(stream);
    }
    let hostile = Hostile::new();
    let streams = [(); 2].map(|()| hostile.open(&messages(INCARNATION), false));
    hostile.assert_cut_off("a second stream for messages");
    drop(streams);
}

#[test]
fn a_management_message_that_is_too_long_is_a_violation() {
    let mut hostile = Hostile::new();
    let (mut send, receive) = hostile.management.take().expect("it is open");
    hostile.runtime.block_on(async {
        send.write_all(&(MAX_MANAGEMENT_MESSAGE as u32 + 1).to_le_bytes()).await.expect("it is open");
    });
    hostile.assert_cut_off("a management message of 262145 bytes");
    drop((send, receive));
}

#[test]
fn a_violation_above_quic_closes_the_connection_counts_once_and_keeps_its_reason() {
    let mut hostile = Hostile::new();
    let ping = framed(&PeerMessage::Ping(3));
    let _stream = hostile.open(&[messages(INCARNATION), ping].concat(), false);
    hostile.events(|events| matches!(events, [PathEvent::Message(PeerMessage::Ping(3))]));
    assert_eq!(hostile.connection.violation(), None);
    hostile.connection.violated("it must not say this");
    hostile.connection.violated("nor that");
    hostile.connection.close("the run is over");
    let error = hostile.lost();
    assert!(error.to_string().contains("it must not say this"), "{error}");
    let closed = hostile.runtime.block_on(hostile.quic.closed()).to_string();
    assert!(closed.contains("it must not say this"), "{closed}");
    for reason in [hostile.connection.closed().as_deref(), hostile.connection.violation()] {
        assert_eq!(reason, Some("it must not say this"));
    }
    assert_eq!((hostile.node.counters().violations, lines_about(hostile.connection.address()).len()), (1, 1));
    hostile.assert_others_unaffected();
}

#[test]
fn a_violator_that_has_hung_up_is_counted_all_the_same() {
    let hostile = Hostile::new();
    hostile.connection.set_waker(hostile.bell.waker());
    hostile.quic.close(0u32.into(), b"goodbye");
    assert!(wait_for(&hostile.bell, || hostile.connection.closed()).contains("goodbye"));
    hostile.connection.violated("its last message was none");
    assert_eq!(hostile.connection.closed().as_deref(), Some("its last message was none"));
    assert_eq!(hostile.node.counters().violations, 1);
}

#[test]
fn why_this_node_has_closed_a_connection_is_kept() {
    let hostile = Hostile::new();
    hostile.connection.close("it is not needed");
    assert_eq!(hostile.connection.closed().as_deref(), Some("it is not needed"));
    assert_eq!((hostile.connection.violation(), hostile.node.counters().violations), (None, 0));
}

#[test]
fn late_streams_are_ignored_as_many_as_there_can_be_and_no_more() {
    let mut hostile = Hostile::new();
    hostile.path.withdraw(FlowId(FLOW));
    // Bytes that were under way when the flow was withdrawn, and a path that is over.
    for bytes in [data(FLOW, 0, 100), messages(INCARNATION - 1), header(2, 1, INCARNATION - 1, 0)] {
        let stream = hostile.open(&bytes, false).expect("nothing is wrong with it");
        assert!(hostile.runtime.block_on(stream.stopped()).expect("the connection stays").is_some(), "it is stopped");
    }
    assert_eq!(hostile.connection.closed(), None);
    let mut bytes = [0; 100];
    hostile.landing.memory().shared(0..100).copy_to(&mut bytes);
    assert_eq!(bytes, [0; 100], "nothing lands in a window that was withdrawn");
    for _ in 0..64 {
        hostile.stream(&data(FLOW, 0, 100));
    }
    hostile.assert_cut_off("more streams than there are flows");
}

#[test]
fn a_peer_that_has_begun_the_next_path_ends_this_one() {
    let mut hostile = Hostile::new();
    let ping = framed(&PeerMessage::Ping(9));
    let stream = hostile.open(&[messages(INCARNATION + 1), ping].concat(), false);
    let error = hostile.lost();
    assert!(!error.is_violation() && error.to_string().contains("another path"), "{error}");
    // What it has said on the next path is not lost.
    hostile.path = QuicPath::new(&hostile.connection, INCARNATION + 1, hostile.bell.waker()).expect("a connection");
    hostile.events(|events| matches!(events, [PathEvent::Message(PeerMessage::Ping(9))]));
    let stale = QuicPath::new(&hostile.connection, INCARNATION + 1, hostile.bell.waker());
    assert!(matches!(stale, Err(PathError::Resource(_))), "a number is used once");
    drop(stream);
}

#[test]
fn noise_is_cut_off_sooner_or_later() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..4 {
        let mut hostile = Hostile::new();
        let stream = hostile.open(&messages(INCARNATION), false);
        for _ in 0..100 {
            let length = random() as usize % 2000;
            let noise: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            hostile.stream(&noise);
        }
        assert!(hostile.lost().is_violation());
        assert_eq!(hostile.node.counters().violations, 1);
        drop(stream);
    }
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
        stream.write_all(&messages(INCARNATION)).await.expect("it goes on");
        for _ in 0..count {
            let mut write = std::pin::pin!(stream.write_all(&message));
            if let Ok(outcome) = tokio::time::timeout(Duration::from_millis(500), &mut write).await {
                outcome.expect("it goes on");
            } else {
                let _ = held.send(());
                write.await.expect("it goes on");
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
fn another_version_is_refused_and_both_are_named() {
    let ca = ClusterCa::create("test").expect("an authority");
    let (node, _incoming) = node(&ca.issue("server", DAY).expect("an identity"));
    let identity = ca.issue("hostile", DAY).expect("an identity");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let quic = connect(&identity, node.local_address()).await;
        let _streams = greet(&quic, 4711).await;
        let closed = quic.closed().await.to_string();
        assert!(closed.contains("4711") && closed.contains(&format!("this node {PEER_VERSION}")), "{closed}");
    });
    until_refused(&node);
}

#[test]
fn one_that_is_dialed_and_speaks_another_version_is_told_apart() {
    let ca = ClusterCa::create("test").expect("an authority");
    let (node, _incoming) = node(&ca.issue("client", DAY).expect("an identity"));
    let identity = ca.issue("hostile", DAY).expect("an identity");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let endpoint = bare_endpoint(localhost(), &identity, &settings()).expect("an endpoint");
        let dial = node.connect(endpoint.local_addr().expect("bound"), "hostile");
        let quic = endpoint.accept().await.expect("a call").await.expect("a connection");
        let (mut send, _receive) = quic.accept_bi().await.expect("a stream");
        send.write_all(b"dflow\0\r\n").await.expect("it is there");
        send.write_all(&4711u32.to_le_bytes()).await.expect("it is there");
        let error = dial.await.expect_err("another version");
        assert!(matches!(error, ConnectError::Failed { cause: Cause::Version, .. }), "{error:?}");
        assert!(error.to_string().contains("4711"), "{error}");
    });
}

#[test]
fn a_peer_that_vanishes_is_noticed() {
    let limit = Duration::from_secs(1);
    let mut hostile = Hostile::with(QuicSettings { idle_timeout: limit, keep_alive: limit / 4, ..settings() });
    // Its process is gone: nobody says goodbye.
    let (thread, stop) = hostile.thread.take().expect("it runs");
    drop(stop);
    thread.join().expect("it does not panic");
    let error = hostile.lost();
    assert!(!error.is_violation() && error.to_string().contains("too long"), "{error}");
    assert!(hostile.connection.closed().is_some());
}

#[test]
fn who_dials_says_how_long_a_silence_may_last() {
    let ca = ClusterCa::create("test").expect("an authority");
    let patient = QuicSettings { idle_timeout: Duration::from_secs(3600), ..settings() };
    let bind = |name: &str| {
        let identity = ca.issue(name, DAY).expect("an identity");
        QuicNode::bind(localhost(), &identity, patient.clone()).expect("a node")
    };
    let (server, mut incoming) = bind("server");
    let (client, _) = bind("client");
    let silence = Duration::from_millis(500);
    let dialed = client.connect_within(server.local_address(), "server", silence).wait().expect("a connection");
    let accepted = incoming.wait().expect("it is accepted");
    // Both say nothing for longer than that, and signs of life keep the connection.
    let bell = Bell::new();
    accepted.set_waker(bell.waker());
    assert!(!bell.wait(3 * silence) && accepted.closed().is_none() && dialed.closed().is_none());

    // Nothing is heard of these any more, although they never said goodbye.
    for (idle_timeout, borne) in [(silence, None), (patient.idle_timeout, Some(silence))] {
        let identity = ca.issue("hostile", DAY).expect("an identity");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let quic = runtime.block_on(async {
            let settings = QuicSettings { idle_timeout, keep_alive: silence / 4, ..settings() };
            let endpoint = bare_endpoint(localhost(), &identity, &settings).expect("an endpoint");
            let quic = endpoint.connect(server.local_address(), "server").expect("a call").await.expect("a connection");
            let (send, mut receive) = greet(&quic, PEER_VERSION).await;
            receive.read_exact(&mut [0; 12]).await.expect("its greeting");
            (endpoint, quic, send, receive)
        });
        let silent = incoming.wait().expect("it is accepted");
        silent.set_waker(bell.waker());
        borne.inspect(|silence| silent.bear_silence(*silence));
        let reason = wait_for(&bell, || silent.closed());
        assert!(reason.contains("too long"), "{reason}");
        drop(quic);
    }
}
