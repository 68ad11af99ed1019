//! The carrier: the thread that carries a node's streams to and from other nodes.
//!
//! The store treats the carrier as one more attempt ([`dflow_ports::Attachment`]), so epochs, credit, retention and spilling
//! need no second mechanism between nodes: a stream that another node reads has one more reader here, and a stream that
//! comes from another node has a producer here. A stream therefore crosses to a node once, however many functions read it
//! there, and a node can forward a stream that it has.
//!
//! It stands on `dflow-transport`, whose [`Link`] decides what is sent, and on `dflow-ports`, through which it reads and writes.
//! The worker tells it which streams cross ([`Command`]). Streams are named by run, stream and epoch: the streams of many runs
//! share the carrier and its links, and the end of a run drops its streams alone ([`Command::DropRun`]).

mod ports;
mod streams;

use dflow_ports::Attachment;
use dflow_protocol::wire::StreamKey;
use dflow_protocol::{PortId, RunId};
use dflow_shm::{Doorbell, Listener, Wait, Watchers};
use dflow_transport::{Link, LinkEvent, LinkStats, Path};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use streams::Streams;

/// Another node: its index in the list of nodes that both sides have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// The number of ports that the carrier itself watches while it sleeps: those that were active last. Other threads watch the
/// rest. One futex wait on many more words costs more than the wake-up that it saves.
const WATCHED: usize = 64;
/// The interval of liveness checks and reports.
const TICK: Duration = Duration::from_millis(100);
/// The time that the thread has to end by itself before its socket to the store is shut down.
const ORDERLY: Duration = Duration::from_millis(100);

/// A command to the carrier.
pub enum Command {
    /// The peer may read this stream, through this port of the store.
    Export(NodeId, StreamKey, PortId),
    /// This stream comes from the peer, through this port of the store.
    Import(NodeId, StreamKey, PortId),
    /// This epoch of a stream is aborted: it comes from no peer and goes to none any more.
    Drop(StreamKey),
    /// The run is over: none of its streams comes from a peer or goes to one any more.
    DropRun(RunId),
    /// Use this path to the peer from now on; its number is the same on both sides.
    Connect(NodeId, Box<dyn Path>, u64),
    /// Close the path to the peer.
    Disconnect(NodeId),
    /// Report the figures of every link, then [`Report::Summed`].
    Sum,
}

/// A report of the carrier.
#[derive(Debug)]
pub enum Report {
    /// A stream does not come any further, for a reason on this node. A stream that the peer aborted is not reported here: the
    /// peer's node reports the reason.
    ImportFailed(StreamKey, String),
    /// A stream of this node cannot be read, so that the peers do not get all of it.
    ExportFailed(StreamKey, String),
    /// The path of this number is lost, or was closed because the peer broke the protocol.
    Path(NodeId, u64, LinkEvent),
    /// The figures of the link to a peer. Reported when they have changed, ten times a second.
    Stats(NodeId, LinkStats),
    /// The answer to [`Command::Sum`]: the figures that were reported before it are current.
    Summed,
    /// The carrier cannot go on.
    Failed(String),
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
    /// Starts the thread. `socket`: its end of the socket to the store; `life`: a random number of this process; `silence`: a
    /// path that is silent for this long is lost; `report` is called on the thread.
    ///
    /// # Errors
    /// If the process has no more descriptors or threads.
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
            // Fails only after the thread has ended, which it has reported.
            let _ = commands.send(command);
            self.bell.ring();
        }
    }

    /// Ends the thread. Before this returns, it reports the final figures of every link.
    pub fn finish(self) {
        drop(self);
    }

    /// The waker of the thread, for the paths that it drives.
    pub fn waker(&self) -> Waker {
        self.bell.waker()
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.commands = None;
        self.bell.ring();
        // The caller may be the thread that runs the store: then nobody answers a carrier that waits for the store, and only
        // shutting down its socket wakes it.
        if self.ended.recv_timeout(ORDERLY) == Err(RecvTimeoutError::Timeout)
            && let Err(error) = rustix::net::shutdown(&self.store, rustix::net::Shutdown::Both)
        {
            // A sandbox may forbid it. The thread then ends when the store closes the other end, which it may only do after
            // this: to wait for the thread could be for ever.
            tracing::warn!(%error, "a carrier that waits for the store is left alone");
            return;
        }
        if let Some(thread) = self.thread.take() {
            // It ends with its queue of commands. A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

struct Peer {
    link: Link,
    streams: Streams,
    /// The figures that were reported last.
    reported: LinkStats,
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
        Self { link: Link::new(life), streams: Streams::default(), reported: Default::default() }
    }

    /// Uses a new path. Events and figures of the one before are reported first, under that one's number.
    fn connect(&mut self, id: NodeId, path: Box<dyn Path>, number: u64, report: &dyn Fn(Report)) {
        self.report_events(id, report);
        self.report_stats(id, report);
        self.link.connect(path, number);
    }

    fn report_events(&mut self, id: NodeId, report: &dyn Fn(Report)) {
        for event in self.link.take_events() {
            report(Report::Path(id, self.link.incarnation(), event));
        }
    }

    fn report_stats(&mut self, id: NodeId, report: &dyn Fn(Report)) {
        self.reported = self.link.stats();
        report(Report::Stats(id, self.reported));
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
                self.wake_ports_with_messages();
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
                        // A short run is over before the first tick, and would otherwise report nothing.
                        self.report_all();
                        return Ok(());
                    }
                }
            }
            let now = Instant::now();
            for (&id, peer) in &mut self.peers {
                busy |= peer.streams.look(&mut peer.link, now);
                busy |= peer.link.step(&mut peer.streams);
                peer.report_events(id, self.report);
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

    fn wake_ports_with_messages(&mut self) {
        match self.attachment.ports_with_mail() {
            Ok(ports) => ports.into_iter().for_each(|port| self.wake(port)),
            // The store is gone. Every port finds that out by itself.
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
            Command::DropRun(run) => {
                for peer in self.peers.values_mut() {
                    peer.streams.drop_run(&mut peer.link, run);
                }
            }
            Command::Connect(id, path, number) => {
                let report = self.report;
                self.peer(id).connect(id, path, number, report);
            }
            Command::Disconnect(id) => self.peer(id).link.disconnect(),
            Command::Sum => {
                self.report_all();
                (self.report)(Report::Summed);
            }
        }
    }

    fn report_all(&mut self) {
        for (&id, peer) in &mut self.peers {
            peer.report_stats(id, self.report);
        }
    }

    fn tick(&mut self, now: Instant) {
        for (&id, peer) in &mut self.peers {
            peer.link.tick(now, self.silence);
            peer.report_events(id, self.report);
            if peer.reported != peer.link.stats() {
                peer.report_stats(id, self.report);
            }
        }
    }

    /// Sends what was delayed, and waits.
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
        peer.report_events(id, &report);
        assert_eq!(*lost.borrow(), [1]);
    }
}
