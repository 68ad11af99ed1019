//! A peer that has a certificate and keeps no rule.

use super::{Bell, DAY, PATIENCE, Pair, lines_about, localhost, log, settings};
use dflow_protocol::SegmentId;
use dflow_protocol::limits::PEER_VERSION;
use dflow_protocol::message::Window;
use dflow_protocol::wire::{FlowId, GrantId, PeerMessage};
use dflow_shm::{Access, Landing, Segment, SegmentKind};
use dflow_transport::identity::Identity;
use dflow_transport::quic::{Connection, Incoming, QuicNode, QuicPath, QuicSettings, bare_endpoint};
use dflow_transport::{Path, PathError, PathEvent};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::runtime::Handle;
use tokio::sync::oneshot::Sender;

pub fn wait_for<T>(bell: &Bell, mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(bell.wait(PATIENCE), "nothing has come");
    }
}

/// A peer made of bare quinn, with a certificate, connected to a node that has a path to it.
pub struct Hostile {
    pub runtime: Handle,
    /// The runtime that runs it until the other field is dropped.
    pub thread: Option<(JoinHandle<()>, Sender<()>)>,
    pub quic: quinn::Connection,
    pub management: Option<(quinn::SendStream, quinn::RecvStream)>,
    pub node: QuicNode,
    /// Others are accepted, too.
    pub _incoming: Incoming,
    pub connection: Connection,
    pub path: QuicPath,
    pub landing: Arc<Landing>,
    pub bell: Arc<Bell>,
    /// Others of the cluster, and a path between one of them and the node, at both ends.
    pub others: Pair,
    pub bystander: [(Connection, QuicPath); 2],
}

/// The flow that the node has offered, with room for 4096 bytes.
pub const FLOW: u64 = 7;
pub const INCARNATION: u64 = 5;

impl Hostile {
    pub fn new() -> Self {
        Self::with(settings())
    }

    pub fn with(settings: QuicSettings) -> Self {
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
    pub fn stream(&self, bytes: &[u8]) {
        self.open(bytes, true);
    }

    pub fn open(&self, bytes: &[u8], finish: bool) -> Option<quinn::SendStream> {
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

    pub fn events(&mut self, enough: impl Fn(&[PathEvent]) -> bool) -> Vec<PathEvent> {
        let mut events = Vec::new();
        let (bell, path) = (&self.bell, &mut self.path);
        wait_for(bell, || {
            path.poll(&mut events);
            enough(&events).then_some(())
        });
        events
    }

    pub fn lost(&mut self) -> PathError {
        let events = self.events(|events| matches!(events.last(), Some(PathEvent::Lost(_))));
        match events.into_iter().last() {
            Some(PathEvent::Lost(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    /// The path is lost for this reason, the peer is informed, the violation is counted, and others are not affected.
    pub fn assert_cut_off(mut self, why: &str) {
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

    /// The existing path still works, and new connections are accepted.
    pub fn assert_others_unaffected(&mut self) {
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

pub async fn connect(identity: &Identity, address: SocketAddr) -> quinn::Connection {
    let endpoint = bare_endpoint(localhost(), identity, &settings()).expect("a port");
    endpoint.connect(address, "server").expect("a name").await.expect("of the cluster")
}

pub async fn greet(quic: &quinn::Connection, version: u32) -> (quinn::SendStream, quinn::RecvStream) {
    let (mut send, receive) = quic.open_bi().await.expect("a stream");
    send.write_all(b"dflow\0\r\n").await.expect("it is there");
    send.write_all(&version.to_le_bytes()).await.expect("it is there");
    (send, receive)
}

pub fn header(kind: u32, flow: u64, incarnation: u64, start: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &flow.to_le_bytes(), &incarnation.to_le_bytes(), &start.to_le_bytes()].concat()
}

pub fn messages(incarnation: u64) -> Vec<u8> {
    header(1, 0, incarnation, 0)
}

pub fn data(flow: u64, start: u64, length: usize) -> Vec<u8> {
    [header(2, flow, INCARNATION, start), vec![3; length]].concat()
}

pub fn framed(message: &PeerMessage) -> Vec<u8> {
    let bytes = message.encode().expect("a sound message");
    [&(bytes.len() as u32).to_le_bytes()[..], &bytes].concat()
}
