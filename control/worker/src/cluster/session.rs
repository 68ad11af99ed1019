//! A run on a node that serves it for another node, the driver.

use super::backlog::Backlog;
use super::backoff::{Backoff, longer};
use super::members::FIRST_PATH;
use super::message::{Join, LinkSummary, ManagementMessage, broken};
use super::route::Route;
use super::serve::{Serving, refuse};
use super::{MIN_SILENCE, Wakeup};
use crate::logs::relay::{Chunk, Relay};
use crate::metrics::{PeerCounts, PeerSample, RunSample};
use crate::node::Guest;
use crate::nodes::Place;
use crate::order::Notice;
use dflow_protocol::{InstanceId, RunId};
use dflow_transport::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;

/// The least time for two nodes to connect, even with a shorter silence limit.
const MIN_CONNECT_TIME: Duration = Duration::from_secs(2);
/// The interval at which the metrics are updated and unreachable nodes are checked.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(100);

/// A connection to another node that serves the same run.
pub(super) struct PeerConnection {
    pub(super) place: Place,
    /// The number of the path that it is for.
    pub(super) incarnation: u64,
    pub(super) connection: Connection,
}

pub(super) struct Session {
    serving: Rc<Serving>,
    join: Join,
    host: Guest,
    wakeup: Arc<Wakeup>,
    /// The routes to the other nodes of the run. The one to the driver, place 0, always exists.
    routes: BTreeMap<Place, Route>,
    /// Messages for which the driver has no room yet.
    backlog: Backlog,
    /// What functions have printed and the driver has not got yet.
    relay: Relay<(InstanceId, u32)>,
    dialed: UnboundedSender<PeerConnection>,
    /// Fail-overs of routes whose connection was lost.
    failovers: BTreeMap<Place, u64>,
    /// Redials of nodes without a connection.
    backoff: Backoff,
    /// Nodes that broke the protocol.
    expelled: BTreeSet<Place>,
    /// When the metrics were updated last.
    observed: Instant,
}

impl Session {
    /// Serves a run until it is over or its driver is gone.
    pub(super) async fn serve(
        serving: Rc<Serving>,
        driver: Connection,
        wakeup: Arc<Wakeup>,
        join: Join,
        mut peer_connections: UnboundedReceiver<PeerConnection>,
    ) {
        let (dialed, mut dials) = unbounded_channel();
        let host = match Self::host(&serving, &driver, &wakeup, &join).await {
            Ok(host) => host,
            Err(reason) => {
                tracing::warn!(reason, "the node cannot take part in a run");
                return refuse(&driver, &wakeup, reason).await;
            }
        };
        driver.set_silence_limit(silence(&serving, &join));
        let joined = ManagementMessage::Joined { slots: serving.options.slots.max(1) }.send(&driver);
        let begin =
            |()| Route::begin(driver, 0, false, &serving.options, FIRST_PATH, &host).map_err(|(_, reason)| reason);
        let route = joined.and_then(begin);
        let routes = match route {
            Ok(route) => BTreeMap::from([(0, route)]),
            Err(reason) => return tracing::warn!(reason, "the driver of a run is gone"),
        };
        let mut session = Self {
            serving,
            join,
            host,
            wakeup: Arc::clone(&wakeup),
            routes,
            backlog: Backlog::default(),
            relay: Relay::new(),
            dialed,
            failovers: BTreeMap::new(),
            backoff: Backoff::default(),
            expelled: BTreeSet::new(),
            observed: Instant::now(),
        };
        session.dial_others();
        let run = session.join.run;
        session.serving.ledger.borrow_mut().begun();
        session.observe();
        let mut tick = tokio::time::interval(OBSERVE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopping = session.serving.stopping.clone();
        loop {
            session.report();
            tokio::select! {
                () = session.host.changed() => {}
                _ = tick.tick() => {}
                () = wakeup.woken() => {}
                Some(peer_connection) = peer_connections.recv() => session.add_peer(peer_connection),
                Some(peer_connection) = dials.recv() => session.add_peer(peer_connection),
                Ok(()) = stopping.changed() => session.stop(),
            }
            if session.obey() || session.driver().is_none_or(|driver| driver.closed().is_some()) {
                break;
            }
            session.tend();
            if session.host.has_summed() {
                session.sum_up();
            }
            if session.observed.elapsed() >= OBSERVE_INTERVAL {
                session.observe();
                session.check_unreachable();
            }
        }
        session.host.stop_carrying();
        session.serving.ledger.borrow_mut().over(run, &session.sample());
        tracing::info!("a run is over");
    }

    /// The node is to end, and the run cannot go on without it: its driver has everything end.
    fn stop(&mut self) {
        let reason = self.serving.stopping.borrow().clone().unwrap_or_default();
        self.host.fail(format!("its worker was stopped ({reason})"));
    }

    /// Updates the metrics of the run.
    fn observe(&mut self) {
        self.observed = Instant::now();
        self.serving.ledger.borrow_mut().update(self.join.run, self.sample());
    }

    fn sample(&self) -> RunSample {
        let links = self.host.links();
        let peers = links.iter().filter_map(|(&place, link)| {
            let route = self.routes.get(&place);
            let failovers = self.failovers.get(&place).copied().unwrap_or(0) + route.map_or(0, Route::failovers);
            let sample = PeerSample {
                path: link.path,
                why_not_rdma: route.and_then(Route::why_not_rdma),
                streams_in: link.streams_in,
                streams_out: link.streams_out,
                counts: PeerCounts { bytes: link.bytes, failovers, violations: link.violations },
            };
            Some((self.join.nodes.get(place as usize)?.0.clone(), sample))
        });
        RunSample { attempts: self.host.attempts(), written: self.host.written(), peers: peers.collect() }
    }

    async fn host(serving: &Serving, driver: &Connection, wakeup: &Wakeup, join: &Join) -> Result<Guest, String> {
        let queued = |runs| {
            tracing::info!(runs, "a run waits for memory");
            let reason = format!("all memory for streams is promised to {runs} other runs");
            // A driver that cannot be told is gone, which is found out below.
            let _ = ManagementMessage::Queued { reason }.send(driver);
        };
        let admitted = serving.resources.admit(RunId(join.run), driver.peer(), &join.surroundings, queued);
        let driver_left = async {
            while driver.closed().is_none() {
                wakeup.woken().await;
            }
        };
        let mut host = tokio::select! {
            admitted = admitted => admitted.map_err(|error| error.to_string())?,
            () = driver_left => return Err("its driver is gone".to_owned()),
        };
        for (function, wanted) in &join.programs {
            host.find_program(wanted)
                .map_err(|error| format!("the function '{function}' cannot run there: {error}"))?;
        }
        host.carry(crate::run::random_u64(), silence(serving, join))?;
        Ok(host)
    }

    fn driver(&self) -> Option<&Connection> {
        self.routes.get(&0).map(|route| &route.connection)
    }

    /// Handles lost paths, and the signals of other nodes about paths.
    fn tend(&mut self) {
        for (place, number, event) in self.host.take_lost_paths() {
            if let Some(route) = self.routes.get_mut(&place) {
                route.lost(&self.host, number, &event);
            }
        }
        let mut gone = Vec::new();
        for (&place, route) in self.routes.iter_mut().filter(|(place, _)| **place != 0) {
            loop {
                match ManagementMessage::receive(&route.connection) {
                    Ok(Some(ManagementMessage::Path(signal))) => route.heard(&self.host, signal),
                    Ok(None) => break,
                    Ok(Some(_)) => route.connection.violated(&broken("only the driver of a run gives orders")),
                    Err(what) => route.connection.violated(&broken(&what)),
                }
            }
            route.tick(&self.host);
            if route.connection.closed().is_some() {
                gone.push(place);
            }
        }
        for place in gone {
            let Some(route) = self.routes.remove(&place) else { continue };
            *self.failovers.entry(place).or_default() += route.failovers();
            match route.connection.violation() {
                Some(what) => self.expel(place, what),
                None => {
                    let reason = route.connection.closed().unwrap_or_default();
                    let pause = self.backoff.disconnected(place, route.has_settled(), reason);
                    self.dial(place, route.number().saturating_add(1), pause);
                }
            }
        }
        if let Some(driver) = self.routes.get_mut(&0) {
            driver.tick(&self.host);
        }
    }

    /// Expels a node that broke the protocol: the run fails, and the node is not admitted again.
    fn expel(&mut self, place: Place, what: &str) {
        if self.expelled.insert(place) {
            self.host.fail(format!("node {} is lost: {what}", self.name(place)));
        }
    }

    fn name(&self, place: Place) -> &str {
        self.join.nodes.get(place as usize).map_or("", |(name, _)| name.as_str())
    }

    /// Fails the run if a required peer stays unreachable for the silence limit.
    fn check_unreachable(&mut self) {
        let links = self.host.links();
        let awaited = links.iter().filter(|(_, link)| link.streams_in > 0).map(|(&place, _)| place);
        let is_there = |place| self.routes.get(&place).is_some_and(Route::has_settled);
        let awaited: Vec<Place> = awaited.filter(|&place| !is_there(place)).collect();
        let limit = silence(&self.serving, &self.join).max(MIN_CONNECT_TIME);
        let Some((place, reason)) = self.backoff.overdue(&awaited, Instant::now(), limit) else { return };
        let name = self.name(place);
        let reason = reason.unwrap_or_else(|| format!("it has not connected for {limit:?}"));
        self.host.fail(format!(
            "node {name}, from which a stream has to come, is unreachable: {reason}. The nodes of a run must reach each \
             other at the addresses that its driver gives with --with"
        ));
    }

    /// Dials the later nodes: of two nodes, the earlier one dials.
    fn dial_others(&self) {
        let count = u32::try_from(self.join.nodes.len()).unwrap_or(u32::MAX);
        (self.join.place + 1..count).for_each(|place| self.dial(place, FIRST_PATH, Duration::ZERO));
    }

    /// Dials a node after this pause, until it answers or the session ends.
    fn dial(&self, place: Place, incarnation: u64, pause: Duration) {
        if place <= self.join.place {
            return;
        }
        let Some((name, address)) = self.join.nodes.get(place as usize).cloned() else { return };
        let (serving, run, own, dialed) =
            (Rc::clone(&self.serving), self.join.run, self.join.place, self.dialed.clone());
        let silence = silence(&self.serving, &self.join);
        let reasons = self.backoff.reasons();
        spawn_local(async move {
            let mut pause = pause;
            loop {
                tokio::time::sleep(pause).await;
                if dialed.is_closed() {
                    return;
                }
                let reason = match address.parse() {
                    Ok(address) => match serving.node.connect_within(address, &name, silence).await {
                        Ok(connection) => {
                            let connect = ManagementMessage::Connect { run, place: own, incarnation };
                            match connect.send(&connection) {
                                Ok(()) => {
                                    let _ = dialed.send(PeerConnection { place, incarnation, connection });
                                    return;
                                }
                                Err(reason) => reason,
                            }
                        }
                        Err(error) => error.to_string(),
                    },
                    Err(_) => format!("'{address}' is no address"),
                };
                tracing::warn!(node = name, reason, "a node cannot be reached");
                reasons.borrow_mut().insert(place, reason);
                pause = longer(pause);
            }
        });
    }

    /// Adds a connection to another node of the run.
    fn add_peer(&mut self, peer_connection: PeerConnection) {
        let PeerConnection { place, incarnation, connection } = peer_connection;
        let expected = self.join.nodes.get(place as usize).map(|(name, _)| name.as_str());
        if expected != Some(connection.peer()) || place == self.join.place {
            return connection.violated(&broken("it claims the place of another node in the run"));
        }
        let violation = self.routes.get(&place).and_then(|route| route.connection.violation()).map(str::to_owned);
        if let Some(what) = violation {
            self.expel(place, &what);
        }
        if self.expelled.contains(&place) {
            return connection.close("it has violated the protocol and is excluded from this run");
        }
        connection.set_waker(self.wakeup.waker());
        // The dialing side has set the limit already; the other side learns it from the run.
        connection.set_silence_limit(silence(&self.serving, &self.join));
        let leads = self.join.place < place;
        match Route::begin(connection, place, leads, &self.serving.options, incarnation, &self.host) {
            Ok(route) => {
                self.routes.insert(place, route);
            }
            // The connection is closed already.
            Err((connection, reason)) => match connection.violation() {
                Some(what) => self.expel(place, what),
                None => {
                    tracing::warn!(reason, "a path cannot be used");
                    let pause = self.backoff.disconnected(place, false, reason);
                    self.dial(place, incarnation.saturating_add(1), pause);
                }
            },
        }
    }

    /// Carries out the driver's orders. Returns whether the run is over.
    fn obey(&mut self) -> bool {
        loop {
            let Some(route) = self.routes.get_mut(&0) else { return true };
            match ManagementMessage::receive(&route.connection) {
                Ok(Some(ManagementMessage::Order(order))) => self.host.obey(*order),
                Ok(Some(ManagementMessage::Path(signal))) => route.heard(&self.host, signal),
                Ok(Some(ManagementMessage::Sum)) => self.host.sum(),
                Ok(Some(ManagementMessage::Over)) => return true,
                Ok(None) => return false,
                Ok(Some(_)) => {
                    route.connection.violated(&broken("the driver may only send orders"));
                    return true;
                }
                Err(what) => {
                    route.connection.violated(&broken(&what));
                    return true;
                }
            }
        }
    }

    /// Reports the links to the later nodes to the driver: each pair of nodes is reported once, and the driver knows its own.
    fn sum_up(&mut self) {
        let links = self.host.links();
        let behind = links.into_iter().filter(|(place, link)| *place > self.join.place && link.paths > 0);
        let routes = behind.map(|(place, link)| LinkSummary {
            place,
            stats: link,
            why_not_rdma: self.routes.get(&place).and_then(Route::why_not_rdma),
        });
        self.say(ManagementMessage::Summed(routes.collect()));
    }

    /// Sends notices to the driver.
    fn report(&mut self) {
        if let Some(route) = self.routes.get(&0) {
            self.backlog.flush(&route.connection);
        }
        loop {
            let mut notices = Vec::new();
            notices.extend(std::iter::from_fn(|| self.host.next_notice()));
            if notices.is_empty() {
                self.host.settle();
                notices.extend(self.host.next_notice());
            }
            if notices.is_empty() {
                return self.report_output();
            }
            for notice in notices {
                match notice {
                    Notice::Printed { instance, attempt, bytes, lost } => {
                        self.relay.push((instance, attempt), &bytes, lost);
                        continue;
                    }
                    Notice::Ended { instance, attempt, .. } => {
                        self.relay.end(&(instance, attempt)).into_iter().for_each(|chunk| self.say(printed(chunk)));
                    }
                    _ => {}
                }
                self.say(ManagementMessage::Notice(Box::new(notice)));
            }
        }
    }

    /// Tells the driver what functions print, as far as nothing else waits.
    fn report_output(&mut self) {
        let now = self.host.elapsed();
        while let Some(route) = self.routes.get(&0)
            && self.backlog.has_room(&route.connection)
            && let Some(chunk) = self.relay.next(now)
        {
            self.say(printed(chunk));
        }
    }

    /// Sends a message to the driver.
    fn say(&mut self, what: ManagementMessage) {
        if let Some(route) = self.routes.get(&0) {
            self.backlog.send(&what, &route.connection);
        }
    }
}

fn printed(Chunk { key: (instance, attempt), bytes, lost }: Chunk<(InstanceId, u32)>) -> ManagementMessage {
    ManagementMessage::Notice(Box::new(Notice::Printed { instance, attempt, bytes, lost }))
}

/// The silence limit of the run: the driver's, or this node's if that is shorter.
fn silence(serving: &Serving, join: &Join) -> Duration {
    Duration::from_millis(join.silence).clamp(MIN_SILENCE, serving.silence)
}
