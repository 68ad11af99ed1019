//! That QUIC is tuned as its settings say: what would only be slower without it, and fail no other test.

mod quic_common;

use dflow_protocol::limits::PEER_VERSION;
use dflow_transport::identity::ClusterCa;
use dflow_transport::quic::{Connection, ManagementError, QuicNode, QuicSettings, bare_endpoint};
use quic_common::{Bell, DAY, PATIENCE, Pair, localhost, settings};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

/// The largest packet that may be sent before anything is known of the way (`QuicSettings::first_packet`).
const LARGEST_FIRST_PACKET: u16 = 16_000;

/// Sends until packets have this size.
fn until_packets_have(connections: &[Connection; 2], size: impl Fn(u16) -> bool) -> u16 {
    let start = Instant::now();
    loop {
        let found = connections[0].stats().packet_size;
        if size(found) {
            return found;
        }
        assert!(start.elapsed() < PATIENCE / 2, "packets still have {found} bytes");
        match connections[0].send(vec![7; 10_000]) {
            Ok(()) | Err(ManagementError::Full) => {}
            Err(error) => panic!("{error}"),
        }
        while connections[1].try_recv().is_some() {}
        std::thread::yield_now();
    }
}

#[test]
fn packets_grow_to_the_limit_of_the_path_or_the_settings() {
    let largest = settings().largest_packet;
    assert!(largest > LARGEST_FIRST_PACKET);
    let found = until_packets_have(&Pair::new().connect(), |size| size > LARGEST_FIRST_PACKET);
    assert!(found <= largest, "{found}");

    let limited = QuicSettings { largest_packet: 4000, ..settings() };
    let found = until_packets_have(&Pair::with(limited).connect(), |size| size > 3900);
    assert!(found <= 4000, "{found}");
}

#[test]
fn first_packets_that_are_lost_are_soon_sent_again() {
    let network = std::net::UdpSocket::bind(localhost()).expect("a free port");
    network.set_read_timeout(Some(Duration::from_secs(4))).expect("not zero");
    let ca = ClusterCa::create("test").expect("an authority");
    let identity = ca.issue("a", DAY).expect("an identity");
    let (node, _) = QuicNode::bind(localhost(), &identity, QuicSettings::default()).expect("a free port");
    let dial = node.connect(network.local_addr().expect("bound"), "b");
    let mut start = None;
    for _ in 0..7 {
        network.recv(&mut [0; 2000]).expect("another packet soon");
        start.get_or_insert_with(Instant::now);
    }
    // One, and then two each time: the seventh comes after 1.05 s; with the round trip of RFC 9002, after 7 s.
    let took = start.expect("some have come").elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    drop(dial);
}

/// The statistics of a bare peer of a node with these settings after some megabytes in both directions, in packets of a
/// size that Ethernet carries.
fn counted(settings: &QuicSettings) -> quinn::ConnectionStats {
    const MESSAGES: usize = 16;
    const LENGTH: usize = 256 * 1024;
    let settings = QuicSettings { largest_packet: 1452, ..settings.clone() };
    let ca = ClusterCa::create("test").expect("an authority");
    let identity = ca.issue("server", DAY).expect("an identity");
    let (node, mut incoming) = QuicNode::bind(localhost(), &identity, settings.clone()).expect("a free port");
    let address = node.local_address();
    let identity = ca.issue("bare", DAY).expect("an identity");
    let message = vec![7; LENGTH];
    let framed = [&(message.len() as u32).to_le_bytes()[..], &message].concat();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let bare = async move {
        let endpoint = bare_endpoint(localhost(), &identity, &settings).expect("a port");
        let quic = endpoint.connect(address, "server").expect("a name").await.expect("of the cluster");
        let (mut send, mut receive) = quic.open_bi().await.expect("a stream");
        send.write_all(b"dflow\0\r\n").await.expect("it is there");
        send.write_all(&PEER_VERSION.to_le_bytes()).await.expect("it is there");
        let sending = async {
            for _ in 0..MESSAGES {
                send.write_all(&framed).await.expect("it is there");
            }
        };
        // Behind the greeting.
        let mut bytes = vec![0; 12 + MESSAGES * framed.len()];
        let ((), read) = tokio::join!(sending, receive.read_exact(&mut bytes));
        read.expect("it is there");
        let _ = stopped.await;
        quic.stats()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bare = std::thread::spawn(move || runtime.block_on(bare));
    let connection = incoming.wait().expect("it is accepted");
    let bell = Bell::new();
    connection.set_waker(bell.waker());
    for _ in 0..MESSAGES {
        connection.send(message.clone()).expect("there is room");
    }
    let mut came = 0;
    while came < MESSAGES {
        match connection.try_recv() {
            Some(_) => came += 1,
            None => assert!(bell.wait(PATIENCE), "nothing has come"),
        }
    }
    drop(stop);
    bare.join().expect("it does not panic")
}

#[test]
fn the_kernel_cuts_large_writes_into_packets() {
    let sent = counted(&settings()).udp_tx;
    assert!(sent.ios * 3 <= sent.datagrams, "{} packets in {} calls", sent.datagrams, sent.ios);
    // And not where it is not to.
    let sent = counted(&QuicSettings { segmentation_offload: false, ..settings() }).udp_tx;
    assert_eq!(sent.ios, sent.datagrams);
}

/// How often that is in the end depends on how many packets come with one look, too: on loopback that is most of it.
#[test]
fn the_other_side_is_asked_to_acknowledge_less_often() {
    let stats = counted(&settings());
    assert!(stats.frame_rx.ack_frequency > 0, "the node asks its peer: {stats:?}");
    assert!(stats.frame_tx.ack_frequency > 0, "the dialing side requests it, too: {stats:?}");
}

/// The threads that have woken it.
#[derive(Default)]
struct Callers {
    names: Mutex<BTreeSet<String>>,
    bell: Arc<Bell>,
}

impl Wake for Callers {
    fn wake(self: Arc<Self>) {
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        self.names.lock().expect("nobody panics with it").insert(name);
        self.bell.clone().wake();
    }
}

impl Callers {
    fn count(&self) -> usize {
        self.names.lock().expect("nobody panics with it").len()
    }
}

/// Each endpoint has its own thread and socket, and the kernel chooses by the ports of both sides.
#[test]
fn connections_are_spread_over_the_endpoints() {
    const ENDPOINTS: usize = 3;
    /// The probability that all of these fall on two of the three is one in ten billion.
    const PEERS: usize = 60;
    let ca = ClusterCa::create("test").expect("an authority");
    let bind = |name: &str, endpoints| {
        let settings = QuicSettings { endpoints, ..settings() };
        QuicNode::bind(localhost(), &ca.issue(name, DAY).expect("an identity"), settings).expect("a free port")
    };
    let (node, mut incoming) = bind("node", ENDPOINTS);
    let accepting: Arc<Callers> = Arc::default();
    for _ in 0..PEERS {
        let (peer, _) = bind("peer", 1);
        let dialed = peer.connect(node.local_address(), "node").wait().expect("of one cluster");
        let accepted = incoming.wait().expect("it is accepted");
        accepted.set_waker(Waker::from(accepting.clone()));
        dialed.send(b"hello".to_vec()).expect("there is room");
        while accepted.try_recv().is_none() {
            assert!(accepting.bell.wait(PATIENCE), "nothing has come");
        }
        if accepting.count() == ENDPOINTS {
            break;
        }
    }
    assert_eq!(accepting.count(), ENDPOINTS, "{:?}", accepting.names);

    // Those that it opens itself take turns.
    let (peer, mut incoming) = bind("peer", 1);
    let dialing: Arc<Callers> = Arc::default();
    for _ in 0..ENDPOINTS {
        let dialed = node.connect(peer.local_address(), "peer").wait().expect("of one cluster");
        let accepted = incoming.wait().expect("it is accepted");
        dialed.set_waker(Waker::from(dialing.clone()));
        accepted.send(b"hello".to_vec()).expect("there is room");
        while dialed.try_recv().is_none() {
            assert!(dialing.bell.wait(PATIENCE), "nothing has come");
        }
    }
    assert_eq!(dialing.count(), ENDPOINTS, "{:?}", dialing.names);
}
