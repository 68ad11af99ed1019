//! The other processes of the cluster: one connection with each, shared by all runs.
//!
//! A connection is made once, kept while runs need it and for a while beyond, and made again when it is lost. The end
//! whose name comes first dials; a `dflow run`, which does not listen, dials always. A process is known by the name in its
//! certificate and a random number that it has chosen at its start, so that one that was restarted is not taken for the one
//! before it, nor a worker for a `dflow run` with the same identity.

use super::counts::{PeerCounts, PeerSample};
use super::dial::Dial;
use super::mail::{Letter, MailState};
use super::{Node, NodeHandle};
use crate::peer::backlog::Backlog;
use crate::peer::backoff::Backoff;
use crate::peer::message::{Join, ManagementMessage, RunMessage, broken};
use crate::peer::name::PeerName;
use crate::peer::route::Route;
use crate::peer::spec::MAX_SILENCE;
use crate::peer::wakeup::Wakeup;
use dflow_carrier::{Carrier, Command, NodeId};
use dflow_protocol::RunId;
use dflow_transport::{Connection, LinkEvent, LinkStats, Node as Endpoint};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// A connection that no run needs is kept for this long.
const IDLE: Duration = Duration::from_secs(60);
/// The number of messages that may wait for a run, which takes them at once unless it is flooded.
const MAX_MAIL: usize = 1 << 16;
/// Why a connection is closed that no run needs.
const NOT_NEEDED: &str = "no run needs it";

/// The connections of a node.
pub(super) struct Peers {
    pub(super) life: u64,
    pub(super) endpoint: Option<Rc<Endpoint>>,
    /// Held while the nodes of a run are dialed.
    pub(super) turn: Rc<tokio::sync::Mutex<()>>,
    /// The longest silence that this node accepts.
    pub(super) silence: Duration,
    /// Gets the runs that other processes ask this node to take part in.
    pub(super) joins: Option<UnboundedSender<Joining>>,
    pub(super) carrier: Option<Carrier>,
    pub(super) wakeup: Arc<Wakeup>,
    pub(super) ids: HashMap<PeerName, NodeId>,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) next: u32,
    pub(super) mail: HashMap<RunId, MailState>,
    /// Dials that the event loop has to begin.
    pub(super) dials: Vec<Dial>,
    /// The counters of processes that are gone, by the names of their nodes, until the metrics have them.
    pub(super) gone: BTreeMap<String, PeerCounts>,
}

/// A request to take part in a run.
pub(crate) struct Joining {
    /// The process that drives it.
    pub(crate) driver: NodeId,
    pub(crate) name: PeerName,
    pub(crate) run: RunId,
    pub(crate) join: Box<Join>,
}

pub(super) struct Peer {
    pub(super) name: PeerName,
    /// Where it is known to listen, if it was dialed for a run that is driven here.
    pub(super) listens_at: Option<SocketAddr>,
    /// Where it is dialed, if this end dials.
    pub(super) address: Option<SocketAddr>,
    pub(super) is_dialed: bool,
    pub(super) route: Option<Route>,
    /// Messages that wait for room on the connection.
    pub(super) backlog: Backlog,
    pub(super) backoff: Backoff,
    /// The number of the last path.
    pub(super) number: u64,
    pub(super) stats: LinkStats,
    /// Fail-overs of earlier connections.
    pub(super) failovers: u64,
    /// The runs that need it, each with the longest silence that it accepts.
    pub(super) users: BTreeMap<RunId, Duration>,
    /// Since when no run needs it.
    pub(super) idle_since: Instant,
    /// How it has violated the protocol. Then it is let in again only when all runs that needed it are over.
    pub(super) expelled: Option<String>,
}

impl Peers {
    pub(super) fn new() -> Self {
        Self {
            life: crate::time::random_u64(),
            endpoint: None,
            turn: Rc::default(),
            silence: MAX_SILENCE,
            joins: None,
            carrier: None,
            wakeup: Arc::default(),
            ids: HashMap::new(),
            peers: BTreeMap::new(),
            next: 1,
            mail: HashMap::new(),
            dials: Vec::new(),
            gone: BTreeMap::new(),
        }
    }

    pub(super) fn violation(&self, name: &PeerName) -> Option<&str> {
        self.peers.get(self.ids.get(name)?)?.expelled.as_deref()
    }

    /// The peer with this name, known from now on.
    pub(super) fn id_of(&mut self, name: &PeerName) -> NodeId {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        let id = NodeId(self.next);
        self.next += 1;
        self.ids.insert(name.clone(), id);
        let peer = Peer {
            name: name.clone(),
            listens_at: None,
            address: None,
            is_dialed: false,
            route: None,
            backlog: Backlog::default(),
            backoff: Backoff::default(),
            number: 0,
            stats: LinkStats::default(),
            failovers: 0,
            users: BTreeMap::new(),
            idle_since: Instant::now(),
            expelled: None,
        };
        self.peers.insert(id, peer);
        id
    }

    /// A run needs a process, and is told from now on what becomes of it. False if the process is gone already, so that nothing
    /// more can be told.
    pub(super) fn need(&mut self, run: RunId, id: NodeId, silence: Duration) -> bool {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.expelled.is_none()) else { return false };
        peer.users.insert(run, silence);
        self.update_silence(id);
        true
    }

    /// Whether there is a connection with a process now.
    pub(super) fn is_connected(&self, id: NodeId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.route.is_some())
    }

    /// Puts something into the mail of a run. What comes for a run that is over is dropped.
    fn deliver(&mut self, run: RunId, letter: Letter) -> Result<(), &'static str> {
        let Some(mail) = self.mail.get_mut(&run) else { return Ok(()) };
        // What has become of the process itself comes once, and is all that still ends the run after a flood.
        if mail.letters.len() >= MAX_MAIL && matches!(letter, Letter::Message(..)) {
            return Err("it has flooded a run with messages");
        }
        mail.letters.push_back(letter);
        mail.news.notify_one();
        Ok(())
    }

    /// Tells all runs that need a peer what has become of it.
    fn tell_users(&mut self, id: NodeId, letter: impl Fn() -> Letter) {
        let users: Vec<RunId> = self.peers.get(&id).into_iter().flat_map(|peer| peer.users.keys().copied()).collect();
        for run in users {
            // Only messages are refused.
            let _ = self.deliver(run, letter());
        }
    }

    /// Begins to dial a peer, after this pause.
    pub(super) fn dial(&mut self, id: NodeId, pause: Duration) {
        let silence = self.silence;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(address) = peer.address.filter(|_| !peer.is_dialed && peer.route.is_none()) else { return };
        peer.is_dialed = true;
        let (name, number, silence) = (peer.name.clone(), peer.number + 1, peer.silence(silence));
        self.dials.push(Dial { id, name, address, number, pause, silence });
        // The event loop begins it.
        self.wakeup.wake_up();
    }

    /// Forgets a peer that no run needs and that has no connection.
    pub(super) fn forget(&mut self, id: NodeId) {
        let Some(peer) = self.peers.remove(&id) else { return };
        self.ids.remove(&peer.name);
        if let Some(carrier) = &self.carrier {
            carrier.tell(Command::Forget(id));
        }
        let counts = peer.counts();
        self.gone.entry(peer.name.name).or_default().add(&counts);
    }

    /// Applies the shortest silence that the users of a peer bear.
    fn update_silence(&mut self, id: NodeId) {
        let (Some(peer), Some(carrier)) = (self.peers.get(&id), &self.carrier) else { return };
        let silence = peer.silence(self.silence);
        if let Some(route) = &peer.route {
            route.connection.set_silence_limit(silence);
        }
        carrier.tell(Command::Silence(id, silence));
    }
}

impl Peer {
    fn silence(&self, own: Duration) -> Duration {
        self.users.values().copied().fold(own, Duration::min)
    }

    fn counts(&self) -> PeerCounts {
        let failovers = self.failovers + self.route.as_ref().map_or(0, Route::failovers);
        PeerCounts { bytes: self.stats.bytes, failovers, violations: self.stats.violations }
    }
}

impl NodeHandle {
    /// The number that tells this process from others with the same identity.
    pub(crate) fn life(&self) -> u64 {
        self.node().peers.life
    }

    /// The node's end of all connections, if it has one.
    pub(crate) fn endpoint(&self) -> Option<Rc<Endpoint>> {
        self.node().peers.endpoint.clone()
    }

    /// To be locked while the nodes of a run are dialed.
    pub(crate) fn turn_to_dial(&self) -> Rc<tokio::sync::Mutex<()>> {
        Rc::clone(&self.node().peers.turn)
    }

    /// The process of this node that listens there, and its number, if there is a connection.
    pub(crate) fn connected_to(&self, name: &str, address: SocketAddr) -> Option<(NodeId, u64)> {
        let node = self.node();
        let is_it = |peer: &Peer| {
            peer.name.name == name
                && peer.listens_at == Some(address)
                && peer.expelled.is_none()
                && peer.route.is_some()
        };
        node.peers.peers.iter().find(|(_, peer)| is_it(peer)).map(|(&id, peer)| (id, peer.name.life))
    }

    /// The number of the first path on a new connection with a process of this node: higher than any before.
    pub(crate) fn next_path(&self, name: &str) -> u64 {
        let node = self.node();
        let of_node = node.peers.peers.values().filter(|peer| peer.name.name == name);
        of_node.map(|peer| peer.route.as_ref().map_or(0, Route::number).max(peer.number)).max().unwrap_or(0) + 1
    }

    /// A process listens at this address.
    pub(crate) fn listens_at(&self, id: NodeId, address: SocketAddr) {
        if let Some(peer) = self.node().peers.peers.get_mut(&id) {
            peer.listens_at = Some(address);
        }
    }

    /// Gives the node its end of all connections. `silence`: the longest that it accepts; `joins` gets the runs that it is asked
    /// to take part in.
    pub(crate) fn set_endpoint(
        &self,
        endpoint: Rc<Endpoint>,
        silence: Duration,
        joins: Option<UnboundedSender<Joining>>,
    ) {
        let mut node = self.node();
        (node.peers.endpoint, node.peers.silence, node.peers.joins) = (Some(endpoint), silence, joins);
    }

    /// Uses a connection whose other end has identified itself. `leads`: this end has dialed.
    ///
    /// # Errors
    /// Why it cannot be used; it is closed then.
    pub(crate) fn connected(
        &self,
        name: &PeerName,
        connection: Connection,
        number: u64,
        leads: bool,
    ) -> Result<NodeId, String> {
        self.node().connected(name, connection, number, leads)
    }

    /// Sends a message about a run to a process.
    pub(crate) fn send(&self, id: NodeId, run: RunId, message: RunMessage) {
        self.node().send(id, &ManagementMessage::Run { run: run.0, message });
    }

    /// The counters of the links to processes that are gone since the last call, by the names of their nodes.
    pub(crate) fn take_gone_peers(&self) -> BTreeMap<String, PeerCounts> {
        std::mem::take(&mut self.node().peers.gone)
    }

    /// The state of the links to other processes, by the names of their nodes.
    pub(crate) fn peer_samples(&self) -> Vec<(String, PeerSample)> {
        let node = self.node();
        let samples = node.peers.peers.values().map(|peer| {
            let sample = PeerSample {
                path: peer.stats.path,
                why_not_rdma: peer.route.as_ref().and_then(Route::why_not_rdma),
                streams_in: peer.stats.streams_in,
                streams_out: peer.stats.streams_out,
                counts: peer.counts(),
            };
            (peer.name.name.clone(), sample)
        });
        samples.collect()
    }
}

impl Node {
    pub(super) fn connected(
        &mut self,
        name: &PeerName,
        connection: Connection,
        number: u64,
        leads: bool,
    ) -> Result<NodeId, String> {
        if let Some(what) = self.peers.violation(name) {
            let reason = format!("it has violated the protocol: {what}");
            connection.close(&reason);
            return Err(reason);
        }
        let paths = self.options.paths();
        self.start_carrier().inspect_err(|reason| connection.close(reason))?;
        let id = self.peers.id_of(name);
        connection.set_waker(self.peers.wakeup.waker());
        let Some(carrier) = &self.peers.carrier else { return Err("there is no carrier".to_owned()) };
        let begun = Route::begin(connection, id, leads, &paths, number, carrier);
        match begun {
            Ok(mut route) => {
                // A better kind of path is offered at once.
                route.tick(carrier, 0);
                let Some(peer) = self.peers.peers.get_mut(&id) else { return Err("the peer is gone".to_owned()) };
                peer.number = number;
                peer.failovers += peer.route.take().map_or(0, |route| route.failovers());
                peer.route = Some(route);
                peer.idle_since = Instant::now();
                self.peers.update_silence(id);
                self.peers.tell_users(id, || Letter::Connected(id));
                // Messages may have come before there was a waker.
                self.peers.wakeup.wake_up();
                Ok(id)
            }
            Err((connection, reason)) => {
                if let Some(what) = connection.violation() {
                    let what = what.to_owned();
                    self.peers.expel(id, &what);
                } else if self.peers.peers.get(&id).is_some_and(|peer| peer.users.is_empty() && peer.route.is_none()) {
                    self.peers.forget(id);
                }
                Err(reason)
            }
        }
    }

    /// Sends a message to a process. What cannot be sent is lost with the connection, which is found out soon.
    pub(super) fn send(&mut self, id: NodeId, message: &ManagementMessage) {
        if let Some(Peer { route: Some(route), backlog, .. }) = self.peers.peers.get_mut(&id) {
            backlog.send(message, &route.connection);
        }
    }

    /// A path of the carrier is lost.
    pub(super) fn path_lost(&mut self, id: NodeId, number: u64, event: &LinkEvent) {
        let Peers { peers, carrier: Some(carrier), .. } = &mut self.peers else { return };
        if let Some(route) = peers.get_mut(&id).and_then(|peer| peer.route.as_mut()) {
            route.lost(carrier, number, event);
        }
        self.peers.wakeup.wake_up();
    }

    /// What the link to a process has counted.
    pub(super) fn link_stats(&self, id: NodeId) -> LinkStats {
        self.peers.peers.get(&id).map(|peer| peer.stats).unwrap_or_default()
    }

    /// Why the path to a process is not by RDMA.
    pub(super) fn why_not_rdma(&self, id: NodeId) -> Option<String> {
        self.peers.peers.get(&id)?.route.as_ref()?.why_not_rdma()
    }

    pub(super) fn set_link_stats(&mut self, id: NodeId, stats: LinkStats) {
        if let Some(peer) = self.peers.peers.get_mut(&id) {
            peer.stats = stats;
        }
    }

    /// Takes everything that has come on the connections.
    pub(super) fn take_messages(&mut self) {
        let (mut messages, mut closed) = (Vec::new(), Vec::new());
        let Peers { peers, carrier: Some(carrier), .. } = &mut self.peers else { return };
        for (&id, peer) in peers.iter_mut() {
            let Some(route) = &mut peer.route else { continue };
            peer.backlog.flush(&route.connection);
            let broken_by = loop {
                match ManagementMessage::receive(&route.connection) {
                    Ok(Some(ManagementMessage::Path(signal))) => route.heard(carrier, signal),
                    Ok(Some(ManagementMessage::Run { run, message })) => messages.push((id, RunId(run), message)),
                    Ok(Some(_)) => break Some("a message that has no place here".to_owned()),
                    Ok(None) => break None,
                    Err(what) => break Some(what),
                }
            };
            if let Some(what) = broken_by {
                route.connection.violated(&broken(&what));
            }
            if route.connection.closed().is_some() {
                closed.push(id);
            }
        }
        for (id, run, message) in messages {
            if let Err(what) = self.dispatch(id, run, message) {
                self.violated(id, what);
            }
        }
        closed.into_iter().for_each(|id| self.disconnected(id));
    }

    fn dispatch(&mut self, driver: NodeId, run: RunId, message: RunMessage) -> Result<(), &'static str> {
        match (message, &self.peers.joins) {
            (RunMessage::Join(join), Some(joins)) => {
                let Some(peer) = self.peers.peers.get(&driver) else { return Ok(()) };
                // Fails only when the node is being stopped, and closes its connections.
                let _ = joins.send(Joining { driver, name: peer.name.clone(), run, join });
                Ok(())
            }
            (RunMessage::Join(_), None) => Err("only workers take part in the runs of others"),
            (message, _) => self.peers.deliver(run, Letter::Message(driver, message)),
        }
    }

    /// A process has violated the protocol: its connection is closed, and found closed soon.
    pub(super) fn violated(&mut self, id: NodeId, what: &str) {
        if let Some(route) = self.peers.peers.get(&id).and_then(|peer| peer.route.as_ref()) {
            route.connection.violated(&broken(what));
            self.peers.wakeup.wake_up();
        }
    }

    fn disconnected(&mut self, id: NodeId) {
        let Some(peer) = self.peers.peers.get_mut(&id) else { return };
        let Some(route) = peer.route.take() else { return };
        peer.number = peer.number.max(route.number());
        peer.failovers += route.failovers();
        peer.backlog = Backlog::default();
        if let Some(what) = route.connection.violation() {
            let what = what.to_owned();
            return self.peers.expel(id, &what);
        }
        let reason = route.connection.closed().unwrap_or_default();
        if peer.users.is_empty() {
            return self.peers.forget(id);
        }
        let pause = peer.backoff.disconnected(route.has_settled(), reason.clone());
        self.peers.tell_users(id, || Letter::Lost(id, reason.clone()));
        self.peers.dial(id, pause);
    }

    /// To be called now and then: makes the offers of paths that are due, and closes connections that no run needs.
    pub(super) fn tick_peers(&mut self) {
        let Peers { peers, carrier: Some(carrier), .. } = &mut self.peers else { return };
        for peer in peers.values_mut() {
            let heard_on = peer.stats.heard_on;
            let Some(route) = &mut peer.route else { continue };
            route.tick(carrier, heard_on);
            if peer.users.is_empty() && peer.idle_since.elapsed() > IDLE {
                route.connection.close(NOT_NEEDED);
            }
        }
        // Closing one's own connection wakes nobody.
        self.take_messages();
    }

    /// A run needs no process any more.
    pub(super) fn release_peers(&mut self, run: RunId) {
        let mut unused = Vec::new();
        let mut changed = Vec::new();
        for (&id, peer) in &mut self.peers.peers {
            if peer.users.remove(&run).is_none() {
                continue;
            }
            changed.push(id);
            if peer.users.is_empty() {
                peer.idle_since = Instant::now();
                if peer.route.is_none() && !peer.is_dialed {
                    unused.push(id);
                }
            }
        }
        changed.into_iter().for_each(|id| self.peers.update_silence(id));
        unused.into_iter().for_each(|id| self.peers.forget(id));
    }

    /// The carrier, started when it is needed first.
    pub(super) fn start_carrier(&mut self) -> Result<&Carrier, String> {
        let reports = self.carried.clone();
        let carrier = match self.peers.carrier.take() {
            Some(carrier) => carrier,
            None => Carrier::start(self.peers.life, move |report| {
                // Fails only when the node is gone.
                let _ = reports.send(report);
            })
            .map_err(|error| format!("cannot start a thread: {error}"))?,
        };
        Ok(self.peers.carrier.insert(carrier))
    }
}

impl Peers {
    /// Expels a process that has violated the protocol: the runs that need it fail.
    pub(super) fn expel(&mut self, id: NodeId, what: &str) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(route) = peer.route.take() {
            peer.failovers += route.failovers();
        }
        peer.address = None;
        peer.expelled.get_or_insert_with(|| what.to_owned());
        self.tell_users(id, || Letter::Expelled(id, what.to_owned()));
        if self.peers.get(&id).is_some_and(|peer| peer.users.is_empty()) {
            self.forget(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use tokio::sync::Notify;

    const RUN: RunId = RunId(7);

    fn name(life: u64) -> PeerName {
        PeerName { name: "b".to_owned(), life }
    }

    #[test]
    fn a_flooded_run_still_learns_that_a_process_is_lost() {
        let mut peers = Peers::new();
        let id = peers.id_of(&name(1));
        peers.peers.get_mut(&id).expect("it is known").users.insert(RUN, MAX_SILENCE);
        peers.mail.insert(RUN, MailState { letters: VecDeque::new(), news: Rc::new(Notify::new()) });
        for _ in 0..MAX_MAIL {
            assert_eq!(peers.deliver(RUN, Letter::Message(id, RunMessage::Over)), Ok(()));
        }
        peers.deliver(RUN, Letter::Message(id, RunMessage::Over)).expect_err("that is too much");
        peers.tell_users(id, || Letter::Lost(id, "gone".to_owned()));
        let last = peers.mail.get_mut(&RUN).and_then(|mail| mail.letters.pop_back());
        assert!(matches!(last, Some(Letter::Lost(lost, _)) if lost == id), "{last:?}");
    }

    #[test]
    fn a_process_that_is_gone_already_cannot_be_needed() {
        let mut peers = Peers::new();
        let [gone, violates] = [1, 2].map(|life| peers.id_of(&name(life)));
        peers.forget(gone);
        assert!(!peers.need(RUN, gone, MAX_SILENCE), "its loss has been told, before the run was there");
        assert!(peers.need(RunId(8), violates, MAX_SILENCE));
        peers.expel(violates, "nonsense");
        assert!(!peers.need(RUN, violates, MAX_SILENCE));
    }

    #[test]
    fn processes_of_a_node_that_are_gone_are_counted_together() {
        let mut peers = Peers::new();
        for life in 0..1000 {
            let id = peers.id_of(&name(life));
            peers.peers.get_mut(&id).expect("it is known").failovers = 2;
            peers.forget(id);
        }
        assert_eq!((peers.gone.len(), peers.gone["b"].failovers), (1, 2000));
        assert!(peers.peers.is_empty() && peers.ids.is_empty());
    }
}
