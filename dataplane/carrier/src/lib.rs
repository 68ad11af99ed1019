//! The thread that carries a node's streams to and from other nodes.
//!
//! To the store it is an attempt like any other ([`dflow_ports::Attachment`]), so epochs, credit, retention and
//! spilling need nothing of their own between nodes: a stream that another node reads has one more reader here, and a
//! stream that comes from another node has a producer here. So a stream crosses to a node once, however many read it
//! there, and a node that has a stream can pass it on.
//!
//! Above it are `dflow-transport`, whose [`Link`] decides what is sent, and `dflow-ports`, through which it reads and writes;
//! the worker tells it which streams cross ([`Command`]).

mod ports;
mod streams;

use dflow_ports::Attachment;
use dflow_protocol::PortId;
use dflow_protocol::wire::StreamKey;
use dflow_shm::{Doorbell, Listener, Wait, Watchers};
use dflow_transport::{Link, LinkEvent, Path, PathKind, Traffic};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use streams::Streams;

/// Another node: its place in the list of nodes that both sides were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// Ports whose words the carrier watches itself while it sleeps; other threads watch those that were active longer ago. As
/// many as one sleep can watch well.
const WATCHED: usize = 64;
/// How often a silent path is looked at.
const TICK: Duration = Duration::from_millis(100);
/// A thread that has not ended so long after it was told to is cut off from the store.
const ORDERLY: Duration = Duration::from_millis(100);

/// What the carrier is told.
pub enum Command {
    /// A peer may read this stream, through this port of the store.
    Export(NodeId, StreamKey, PortId),
    /// A stream comes from a peer, through this port of the store.
    Import(NodeId, StreamKey, PortId),
    /// The epoch is over: it is read from nobody and by nobody any more.
    Drop(StreamKey),
    /// From now on this path connects the peer; its number is the same on both sides.
    Connect(NodeId, Box<dyn Path>, u64),
    /// The path to the peer is not to be used any more.
    Disconnect(NodeId),
    /// The peer is gone.
    GiveUp(NodeId, String),
    /// Report the traffic with every peer, and then that this was all.
    Sum,
}

/// What the carrier says.
#[derive(Debug)]
pub enum Report {
    /// A stream will not come, or not all of it. That its other end has given it up is not said here: there it is known
    /// why.
    ImportFailed(StreamKey, String),
    /// A stream of this node's cannot be read, so that its peers do not get all of it.
    ExportFailed(StreamKey, String),
    /// The path of this number is dead, or was closed because the peer broke the protocol.
    Path(NodeId, u64, LinkEvent),
    /// What has passed between this node and a peer so far, over what kind of path, and what is on its way. Said at least
    /// before each new path, so that what has passed over which can be told.
    Traffic(NodeId, Traffic, Option<PathKind>, Crossing),
    /// The answer to [`Command::Sum`]: what was said before holds for now.
    Summed,
    /// The carrier cannot go on.
    Failed(String),
}

/// Streams that cross between this node and a peer at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crossing {
    /// Those that come from it.
    pub coming: usize,
    /// Those that it reads.
    pub going: usize,
}

/// The carrier's thread. Dropping it ends it.
pub struct Carrier {
    commands: Option<Sender<Command>>,
    bell: Arc<Doorbell>,
    thread: Option<JoinHandle<()>>,
    /// Closed by the thread at its end.
    ended: Receiver<()>,
    /// The thread's socket to the store.
    store: OwnedFd,
}

impl Carrier {
    /// Starts the thread over the other end of its socket to the store. `life`: a random number of this process;
    /// `silence`: after so long without a sign of life a path is lost; `report` is called on the thread.
    ///
    /// # Errors
    /// If there are no more descriptors or threads.
    pub fn start(
        socket: OwnedFd,
        life: u64,
        silence: Duration,
        report: impl Fn(Report) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (commands, queue) = channel();
        let (ending, ended) = channel();
        let store = socket.try_clone()?;
        let bell = Arc::new(Doorbell::default());
        let (listener, watchers) = (Listener::new(Arc::clone(&bell)), Watchers::new(Arc::clone(&bell)));
        let run = move || {
            let _ending: Sender<()> = ending;
            let result = Attachment::open(socket).map_err(|error| error.to_string()).and_then(|attachment| {
                let peers = BTreeMap::new();
                Worker { attachment, queue, listener, watchers, peers, life, silence, report: &report }.run()
            });
            if let Err(reason) = result {
                report(Report::Failed(reason));
            }
        };
        let thread = std::thread::Builder::new().name("carrier".into()).spawn(run)?;
        Ok(Self { commands: Some(commands), bell, thread: Some(thread), ended, store })
    }

    /// Queues a command and wakes the thread.
    pub fn tell(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // When the thread has ended, it has said why.
            let _ = commands.send(command);
            self.bell.ring();
        }
    }

    /// Ends the thread. Before this returns it reports the traffic with every peer, as it is at the end.
    pub fn finish(self) {
        drop(self);
    }

    /// What wakes the thread: for the paths that are made for it.
    pub fn waker(&self) -> Waker {
        self.bell.waker()
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.commands = None;
        self.bell.ring();
        // Whoever ends it may be the one that the store runs on: then nobody answers a thread that waits for the store.
        if self.ended.recv_timeout(ORDERLY) == Err(RecvTimeoutError::Timeout) {
            let _ = rustix::net::shutdown(&self.store, rustix::net::Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            // It ends when its queue does; a panic there has been printed already.
            let _ = thread.join();
        }
    }
}

struct Peer {
    link: Link,
    streams: Streams,
    told: (Traffic, Crossing),
}

struct Worker<'a> {
    attachment: Attachment,
    queue: Receiver<Command>,
    listener: Listener,
    watchers: Watchers,
    peers: BTreeMap<NodeId, Peer>,
    life: u64,
    silence: Duration,
    report: &'a dyn Fn(Report),
}

impl Peer {
    fn new(life: u64) -> Self {
        Self { link: Link::new(life), streams: Streams::default(), told: Default::default() }
    }

    fn passed(&self) -> (Traffic, Crossing) {
        (self.link.traffic(), self.streams.crossing())
    }

    /// Uses a new path. What became of the one before is said first, under that one's number.
    fn connect(&mut self, id: NodeId, path: Box<dyn Path>, number: u64, report: &dyn Fn(Report)) {
        self.tell_events(id, report);
        self.tell(id, report);
        self.link.connect(path, number);
    }

    fn tell_events(&mut self, id: NodeId, report: &dyn Fn(Report)) {
        for event in self.link.take_events() {
            report(Report::Path(id, self.link.incarnation(), event));
        }
    }

    fn tell(&mut self, id: NodeId, report: &dyn Fn(Report)) {
        self.told = self.passed();
        let (traffic, crossing) = self.told;
        report(Report::Traffic(id, traffic, self.link.path_kind(), crossing));
    }
}

impl Worker<'_> {
    fn run(mut self) -> Result<(), String> {
        let mut tick = Instant::now();
        let mut seen = None;
        loop {
            self.listener.hear();
            let news = self.attachment.news();
            if seen.replace(news) != Some(news) {
                self.wake_those_with_mail();
            }
            for port in self.watchers.take_news() {
                self.wake(PortId(u32::try_from(port).unwrap_or(u32::MAX)));
            }
            let mut busy = false;
            loop {
                match self.queue.try_recv() {
                    Ok(command) => {
                        busy = true;
                        self.obey(command);
                    }
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                        // Short runs are over before the first tick.
                        self.tell_all();
                        return Ok(());
                    }
                }
            }
            let now = Instant::now();
            for (&id, peer) in &mut self.peers {
                busy |= peer.streams.look(&mut peer.link, now);
                busy |= peer.link.step(&mut peer.streams);
                peer.tell_events(id, self.report);
                for failure in peer.streams.take_failures() {
                    (self.report)(failure);
                }
            }
            if now.duration_since(tick) >= TICK {
                tick = now;
                self.tick(now);
            }
            if !busy {
                self.rest(news, now);
            }
        }
    }

    fn wake_those_with_mail(&mut self) {
        match self.attachment.ports_with_mail() {
            Ok(ports) => ports.into_iter().for_each(|port| self.wake(port)),
            // The store is gone: each of them finds that.
            Err(_) => self.peers.values_mut().for_each(|peer| peer.streams.wake_all()),
        }
    }

    fn wake(&mut self, port: PortId) {
        self.peers.values_mut().any(|peer| peer.streams.wake(port));
    }

    fn peer(&mut self, id: NodeId) -> &mut Peer {
        let life = self.life;
        self.peers.entry(id).or_insert_with(|| Peer::new(life))
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Export(id, stream, port) => {
                let outgoing = self.attachment.outgoing(port);
                self.peer(id).streams.export(stream, port, outgoing);
            }
            Command::Import(id, stream, port) => {
                let incoming = self.attachment.incoming(port);
                let peer = self.peer(id);
                peer.streams.import(&mut peer.link, stream, port, incoming);
            }
            Command::Drop(stream) => {
                for peer in self.peers.values_mut() {
                    peer.streams.drop_stream(&mut peer.link, stream);
                }
            }
            Command::Connect(id, path, number) => {
                let report = self.report;
                self.peer(id).connect(id, path, number, report);
            }
            Command::Disconnect(id) => self.peer(id).link.disconnect(),
            Command::GiveUp(id, reason) => self.peer(id).link.give_up(&reason),
            Command::Sum => {
                self.tell_all();
                (self.report)(Report::Summed);
            }
        }
    }

    fn tell_all(&mut self) {
        for (&id, peer) in &mut self.peers {
            peer.tell(id, self.report);
        }
    }

    fn tick(&mut self, now: Instant) {
        for (&id, peer) in &mut self.peers {
            peer.link.tick(now, self.silence);
            peer.tell_events(id, self.report);
            if peer.told != peer.passed() {
                peer.tell(id, self.report);
            }
        }
    }

    /// Says what was put off, and waits.
    fn rest(&mut self, news: u64, now: Instant) {
        let mut limit = TICK;
        let most = WATCHED / self.peers.len().max(1);
        let mut ports: Vec<&mut dyn Wait> = vec![&mut self.listener];
        for peer in self.peers.values_mut() {
            let credit_due = peer.link.settle(&mut peer.streams);
            for at in credit_due.into_iter().chain(peer.streams.look_again_at()) {
                limit = limit.min(at.saturating_duration_since(now));
            }
            peer.streams.rest(most, &mut self.watchers);
            peer.streams.wait_for(&mut ports);
        }
        self.attachment.wait(&mut ports, news, limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_transport::sim::{SimConfig, SimNet};
    use std::cell::RefCell;

    #[test]
    fn it_ends_also_where_the_store_does_not_answer() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (_silent, socket) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("two descriptors");
        let (say, heard) = channel();
        let report = move |report| say.send(report).expect("the test listens");
        let carrier = Carrier::start(socket, 1, Duration::from_secs(1), report).expect("a thread");
        carrier.finish();
        assert!(matches!(heard.recv(), Ok(Report::Failed(_))));
        heard.recv().expect_err("the thread is gone");
    }

    #[test]
    fn a_loss_that_was_not_told_yet_is_not_that_of_the_next_path() {
        let net = SimNet::new(1, SimConfig::default());
        let lost = RefCell::new(Vec::new());
        let report = |report| {
            if let Report::Path(_, number, LinkEvent::PathLost(_)) = report {
                lost.borrow_mut().push(number);
            }
        };
        let (id, limit) = (NodeId(1), Duration::from_secs(1));
        let mut peer = Peer::new(7);
        let [(first, _other), (second, _another)] = [net.connect(), net.connect()].map(|[own, other]| (own, other));
        peer.connect(id, Box::new(first), 1, &report);
        let start = Instant::now();
        for quarter in 1..100 {
            peer.link.tick(start + limit / 4 * quarter, limit);
        }
        assert!(peer.link.path_kind().is_none() && lost.borrow().is_empty());
        peer.connect(id, Box::new(second), 2, &report);
        peer.tell_events(id, &report);
        assert_eq!(*lost.borrow(), [1]);
    }
}
