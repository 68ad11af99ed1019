//! A run that another node drives, on a node that serves it.

use super::apart::{Apart, longer};
use super::backlog::Backlog;
use super::members::FIRST_PATH;
use super::message::{Join, Managed, WayNow, broken};
use super::serve::{Serving, refuse};
use super::way::Way;
use super::{MIN_SILENCE, Ring};
use crate::host::Host;
use crate::logs::relay::{Chunk, Relay};
use crate::metrics::{PeerCounts, PeerSample, RunSample};
use crate::nodes::Place;
use crate::order::Notice;
use dflow_launcher::{Launcher, LauncherOptions};
use dflow_protocol::{InstanceId, RunId};
use dflow_transport::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;

/// How long two nodes have at least to find each other, even where one that is silent for less is lost.
const MEETING: Duration = Duration::from_secs(2);
/// How often the metrics are told how a run stands, and nodes are missed that there is no way to.
const OBSERVED_EVERY: Duration = Duration::from_millis(100);

/// A connection with another node that serves the same run.
pub(super) struct Meeting {
    pub(super) place: Place,
    /// The number of the path that it is for.
    pub(super) incarnation: u64,
    pub(super) connection: Connection,
}

pub(super) struct Session {
    serving: Rc<Serving>,
    join: Join,
    host: Host,
    ring: Arc<Ring>,
    /// The ways to the other nodes of the run; that to its driver, place 0, is always there.
    ways: BTreeMap<Place, Way>,
    /// What the driver has no room for yet.
    backlog: Backlog,
    /// What functions have printed and the driver has not got yet.
    relay: Relay<(InstanceId, u32)>,
    dialed: UnboundedSender<Meeting>,
    /// Those of ways whose connection was lost.
    failovers: BTreeMap<Place, u64>,
    /// Nodes with which there is no connection.
    apart: Apart,
    /// Nodes that have broken the protocol.
    outcasts: BTreeSet<Place>,
    /// When the metrics were told last.
    observed: Instant,
}

impl Session {
    /// Takes part in a run until it is over, or its driver is gone.
    pub(super) async fn serve(
        serving: Rc<Serving>,
        driver: Connection,
        ring: Arc<Ring>,
        join: Join,
        mut meetings: UnboundedReceiver<Meeting>,
    ) {
        let (dialed, mut dials) = unbounded_channel();
        let host = match Self::host(&serving, &join) {
            Ok(host) => host,
            Err(reason) => {
                tracing::warn!(reason, "the node cannot take part in a run");
                return refuse(&driver, &ring, reason).await;
            }
        };
        driver.set_silence_limit(silence(&serving, &join));
        let joined = Managed::Joined { slots: serving.options.slots.max(1) }.send(&driver);
        let begin =
            |()| Way::begin(driver, 0, false, &serving.options, FIRST_PATH, &host).map_err(|(_, reason)| reason);
        let way = joined.and_then(begin);
        let ways = match way {
            Ok(way) => BTreeMap::from([(0, way)]),
            Err(reason) => return tracing::warn!(reason, "the driver of a run is gone"),
        };
        let mut session = Self {
            serving,
            join,
            host,
            ring: Arc::clone(&ring),
            ways,
            backlog: Backlog::default(),
            relay: Relay::new(),
            dialed,
            failovers: BTreeMap::new(),
            apart: Apart::default(),
            outcasts: BTreeSet::new(),
            observed: Instant::now(),
        };
        session.dial_others();
        let run = session.join.run;
        session.serving.ledger.borrow_mut().begun();
        session.observe();
        let mut stopping = session.serving.stopping.clone();
        loop {
            session.report();
            tokio::select! {
                () = session.host.turn() => {}
                () = ring.rung() => {}
                Some(meeting) = meetings.recv() => session.meet(meeting),
                Some(meeting) = dials.recv() => session.meet(meeting),
                Ok(()) = stopping.changed() => session.stop(),
            }
            if session.obey() || session.driver().is_none_or(|driver| driver.closed().is_some()) {
                break;
            }
            session.tend();
            if session.host.has_summed() {
                session.sum_up();
            }
            if session.observed.elapsed() >= OBSERVED_EVERY {
                session.observe();
                session.miss_nodes();
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

    /// Tells the metrics how the run stands.
    fn observe(&mut self) {
        self.observed = Instant::now();
        self.serving.ledger.borrow_mut().update(self.join.run, self.sample());
    }

    fn sample(&self) -> RunSample {
        let peers = self.host.links().filter_map(|(place, link)| {
            let way = self.ways.get(&place);
            let failovers = self.failovers.get(&place).copied().unwrap_or(0) + way.map_or(0, Way::failovers);
            let sample = PeerSample {
                path: link.path,
                why_not_rdma: way.and_then(Way::why_not_rdma),
                streams_in: link.streams_in,
                streams_out: link.streams_out,
                counts: PeerCounts { bytes: link.bytes, failovers, violations: link.violations },
            };
            Some((self.join.nodes.get(place as usize)?.0.clone(), sample))
        });
        RunSample {
            attempts: self.host.attempts(),
            memory: self.host.memory(),
            written: self.host.written(),
            peers: peers.collect(),
        }
    }

    fn host(serving: &Serving, join: &Join) -> Result<Host, String> {
        let options = LauncherOptions { containment: serving.options.containment, ..LauncherOptions::default() };
        let launcher = Launcher::start(&options).map_err(|error| error.to_string())?;
        let mut host = Host::new(&serving.options, RunId(join.run), launcher, &join.surroundings)
            .map_err(|error| error.to_string())?;
        for (function, wanted) in &join.programs {
            host.find_program(wanted)
                .map_err(|error| format!("the function '{function}' cannot run there: {error}"))?;
        }
        host.carry(crate::run::random_u64(), silence(serving, join))?;
        Ok(host)
    }

    fn driver(&self) -> Option<&Connection> {
        self.ways.get(&0).map(|way| &way.connection)
    }

    /// Deals with paths that were lost, and with what other nodes say about them.
    fn tend(&mut self) {
        for (place, number, event) in self.host.take_lost_paths() {
            if let Some(way) = self.ways.get_mut(&place) {
                way.lost(&self.host, number, &event);
            }
        }
        let mut gone = Vec::new();
        for (&place, way) in self.ways.iter_mut().filter(|(place, _)| **place != 0) {
            loop {
                match Managed::receive(&way.connection) {
                    Ok(Some(Managed::Path(signal))) => way.heard(&self.host, signal),
                    Ok(None) => break,
                    Ok(Some(_)) => way.connection.violated(&broken("only the driver of a run gives orders")),
                    Err(what) => way.connection.violated(&broken(&what)),
                }
            }
            way.tick(&self.host);
            if way.connection.closed().is_some() {
                gone.push(place);
            }
        }
        for place in gone {
            let Some(way) = self.ways.remove(&place) else { continue };
            *self.failovers.entry(place).or_default() += way.failovers();
            match way.connection.violation() {
                Some(what) => self.cast_out(place, what),
                None => {
                    let reason = way.connection.closed().unwrap_or_default();
                    let pause = self.apart.parted(place, way.has_settled(), reason);
                    self.dial(place, way.number().saturating_add(1), pause);
                }
            }
        }
        if let Some(driver) = self.ways.get_mut(&0) {
            driver.tick(&self.host);
        }
    }

    /// A node of the run has broken the protocol. The run cannot do without it, and it is not let in again.
    fn cast_out(&mut self, place: Place, what: &str) {
        if self.outcasts.insert(place) {
            self.host.fail(format!("node {} is lost: {what}", self.name(place)));
        }
    }

    fn name(&self, place: Place) -> &str {
        self.join.nodes.get(place as usize).map_or("", |(name, _)| name.as_str())
    }

    /// A node that this one is to get a stream from, and has had no connection with for as long as one may be silent, is
    /// one that the run cannot do without.
    fn miss_nodes(&mut self) {
        let awaited = self.host.links().filter(|(_, link)| link.streams_in > 0).map(|(place, _)| place);
        let is_there = |place| self.ways.get(&place).is_some_and(Way::has_settled);
        let awaited: Vec<Place> = awaited.filter(|&place| !is_there(place)).collect();
        let limit = silence(&self.serving, &self.join).max(MEETING);
        let Some((place, reason)) = self.apart.note(&awaited, Instant::now(), limit) else { return };
        let name = self.name(place);
        let reason = reason.unwrap_or_else(|| format!("it has not connected for {limit:?}"));
        self.host.fail(format!(
            "there is no way to node {name}, which a stream is to come from: {reason}. The nodes of a run must reach each \
             other at the addresses that its driver gives with --with"
        ));
    }

    /// Of two nodes the earlier one dials.
    fn dial_others(&self) {
        let count = u32::try_from(self.join.nodes.len()).unwrap_or(u32::MAX);
        (self.join.place + 1..count).for_each(|place| self.dial(place, FIRST_PATH, Duration::ZERO));
    }

    /// Dials a node, after this pause, until it answers. It ends with the session: nobody takes the connection then.
    fn dial(&self, place: Place, incarnation: u64, pause: Duration) {
        if place <= self.join.place {
            return;
        }
        let Some((name, address)) = self.join.nodes.get(place as usize).cloned() else { return };
        let (serving, run, own, dialed) =
            (Rc::clone(&self.serving), self.join.run, self.join.place, self.dialed.clone());
        let silence = silence(&self.serving, &self.join);
        let reasons = self.apart.reasons();
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
                            let meet = Managed::Meet { run, place: own, incarnation };
                            match meet.send(&connection) {
                                Ok(()) => {
                                    let _ = dialed.send(Meeting { place, incarnation, connection });
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

    /// There is a connection with another node.
    fn meet(&mut self, meeting: Meeting) {
        let Meeting { place, incarnation, connection } = meeting;
        let expected = self.join.nodes.get(place as usize).map(|(name, _)| name.as_str());
        if expected != Some(connection.peer()) || place == self.join.place {
            return connection.violated(&broken("it takes the place in a run of another node"));
        }
        let violation = self.ways.get(&place).and_then(|way| way.connection.violation()).map(str::to_owned);
        if let Some(what) = violation {
            self.cast_out(place, &what);
        }
        if self.outcasts.contains(&place) {
            return connection.close("it has broken the protocol, and takes part in this run no more");
        }
        connection.set_waker(self.ring.waker());
        // Whoever has dialed it has said so; whoever was dialed has not known how long.
        connection.set_silence_limit(silence(&self.serving, &self.join));
        let leads = self.join.place < place;
        match Way::begin(connection, place, leads, &self.serving.options, incarnation, &self.host) {
            Ok(way) => {
                self.ways.insert(place, way);
            }
            // It is closed already.
            Err((connection, reason)) => match connection.violation() {
                Some(what) => self.cast_out(place, what),
                None => {
                    tracing::warn!(reason, "a path cannot be used");
                    let pause = self.apart.parted(place, false, reason);
                    self.dial(place, incarnation.saturating_add(1), pause);
                }
            },
        }
    }

    /// Does what the driver wants; whether the run is over.
    fn obey(&mut self) -> bool {
        loop {
            let Some(way) = self.ways.get_mut(&0) else { return true };
            match Managed::receive(&way.connection) {
                Ok(Some(Managed::Order(order))) => self.host.obey(*order),
                Ok(Some(Managed::Path(signal))) => way.heard(&self.host, signal),
                Ok(Some(Managed::Sum)) => self.host.sum(),
                Ok(Some(Managed::Over)) => return true,
                Ok(None) => return false,
                Ok(Some(_)) => {
                    way.connection.violated(&broken("a driver gives orders"));
                    return true;
                }
                Err(what) => {
                    way.connection.violated(&broken(&what));
                    return true;
                }
            }
        }
    }

    /// Tells the driver what has passed between this node and those behind it: each pair is told of once, and those with the
    /// driver it knows itself.
    fn sum_up(&mut self) {
        let behind = self.host.links().filter(|(place, link)| *place > self.join.place && link.paths > 0);
        let ways = behind.map(|(place, link)| WayNow {
            place,
            stats: *link,
            why_not_rdma: self.ways.get(&place).and_then(Way::why_not_rdma),
        });
        self.say(Managed::Summed(ways.collect()));
    }

    /// Tells the driver what has happened.
    fn report(&mut self) {
        if let Some(way) = self.ways.get(&0) {
            self.backlog.flush(&way.connection);
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
                self.say(Managed::Notice(Box::new(notice)));
            }
        }
    }

    /// Tells the driver what functions print, as far as nothing else waits.
    fn report_output(&mut self) {
        let now = self.host.elapsed();
        while let Some(way) = self.ways.get(&0)
            && self.backlog.has_room(&way.connection)
            && let Some(chunk) = self.relay.next(now)
        {
            self.say(printed(chunk));
        }
    }

    /// Says this to the driver.
    fn say(&mut self, what: Managed) {
        if let Some(way) = self.ways.get(&0) {
            self.backlog.send(&what, &way.connection);
        }
    }
}

fn printed(Chunk { key: (instance, attempt), bytes, lost }: Chunk<(InstanceId, u32)>) -> Managed {
    Managed::Notice(Box::new(Notice::Printed { instance, attempt, bytes, lost }))
}

/// How long a node of the run may say nothing: as the driver says, or less if this node bears less.
fn silence(serving: &Serving, join: &Join) -> Duration {
    Duration::from_millis(join.silence).clamp(MIN_SILENCE, serving.silence)
}
