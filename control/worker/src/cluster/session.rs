//! A run on a node that takes part in it for another node, the driver.

use super::absence::Absence;
use super::joined::Joined;
use super::serving::Serving;
use crate::logs::relay::{Chunk, Relay};
use crate::metrics::RunSample;
use crate::node::counts::Ended;
use crate::node::{Guest, Joining, Letter, Mail, NodeId};
use crate::notice::Remark;
use crate::part::fact_link::{FactLinks, Facts};
use crate::part::plan::ReadPlan;
use crate::part::{Effect, Part};
use crate::peer::message::{LinkSummary, Participant, RunMessage};
use crate::peer::name::PeerName;
use crate::peer::spec::MIN_SILENCE;
use dflow_protocol::InstanceId;
use dflow_scheduler::{Event, Fact, Place};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The least time for two nodes to connect, even with a shorter silence limit.
const MIN_CONNECT_TIME: Duration = Duration::from_secs(2);
/// How long the loop sleeps when no timer is set.
const FAR: Duration = Duration::from_secs(3600);
/// The interval at which the metrics are updated and unreachable nodes are checked.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Session {
    serving: Rc<Serving>,
    joining: Joining,
    part: Part,
    mail: Mail,
    /// The facts between this node and the others.
    links: FactLinks,
    /// What functions have printed and the driver has not got yet.
    relay: Relay<(InstanceId, u32)>,
    absent_sources: Absence,
    absent_hearers: Absence,
    /// Nodes without which the run goes on, or is about to.
    given_up: BTreeSet<Place>,
}

impl Session {
    /// Serves a run until it is over or its driver is gone.
    pub(super) async fn serve(serving: Rc<Serving>, joining: Joining, mail: Mail) {
        if !mail.need(joining.driver, silence(&serving, &joining)) {
            return tracing::info!(run = %joining.run, "the driver of a run is gone before it has begun");
        }
        let entered = match Self::enter(&serving, &joining, &mail).await {
            Ok(entered) => entered,
            Err(reason) => {
                tracing::warn!(run = %joining.run, reason, "the node cannot take part in a run");
                return mail.send(joining.driver, RunMessage::Refused { reason });
            }
        };
        let Some(mut session) = Self::begin(serving, joining, mail, entered).await else { return };
        let run = session.joining.run.0;
        session.serving.ledger.borrow_mut().begun();
        session.observe();
        let mut tick = tokio::time::interval(OBSERVE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopping = session.serving.stopping.clone();
        while !session.take_letters() {
            if session.part.guest.has_summed() {
                session.sum_up();
            }
            session.settle();
            let alarm = session.part.wake_at.map_or(FAR, |at| at.saturating_sub(session.part.guest.elapsed()));
            tokio::select! {
                () = session.part.guest.changed() => {}
                () = session.mail.changed() => {}
                () = tokio::time::sleep(alarm) => {
                    if session.part.wake_at.take().is_some() {
                        session.part.push(Event::TimerFired);
                    }
                }
                _ = tick.tick() => {
                    session.observe();
                    session.check_absence();
                    session.acknowledge();
                }
                Ok(()) = stopping.changed() => session.stop(),
            }
        }
        session.serving.ledger.borrow_mut().over(run, &session.sample());
        let Ended { succeeded, unread, failed, stopped } = session.part.guest.attempts().ended;
        tracing::info!(run = %session.joining.run, succeeded, unread, failed, stopped, "a run is over");
    }

    /// Says that the node takes part, and waits until all others do. `None` if the run is over before it has begun.
    async fn begin(
        serving: Rc<Serving>,
        joining: Joining,
        mail: Mail,
        (host, ReadPlan { plan, lacks, .. }): (Guest, ReadPlan),
    ) -> Option<Self> {
        mail.send(joining.driver, RunMessage::Joined { slots: serving.options.slots.max(1), lacks });
        let mut joined = Joined::new(host, plan);
        loop {
            while let Some(letter) = mail.next() {
                let from = letter.from();
                match letter {
                    Letter::Message(_, RunMessage::Begin { slots, elapsed, placement }) if from == joining.driver => {
                        let (part, links) = match joined.begin(&slots, Duration::from_nanos(elapsed), placement) {
                            Ok(begun) => begun,
                            Err(error) => {
                                mail.violated(from, &error.to_string());
                                return None;
                            }
                        };
                        let relay = Relay::new();
                        let (absent_sources, absent_hearers) = Default::default();
                        return Some(Self {
                            serving,
                            joining,
                            part,
                            mail,
                            links,
                            relay,
                            absent_sources,
                            absent_hearers,
                            given_up: BTreeSet::new(),
                        });
                    }
                    Letter::Message(_, RunMessage::Facts(facts)) => {
                        let heard = joined.host.place_of(from).map(|place| joined.hear(place, facts));
                        if let Some(Err(what)) = heard {
                            mail.violated(from, what);
                        }
                    }
                    Letter::Message(..) | Letter::Lost(..) | Letter::Expelled(..) if from == joining.driver => {
                        return None;
                    }
                    Letter::Message(..) => mail.violated(from, "only the driver of a run begins it"),
                    Letter::Connected(..) | Letter::Lost(..) | Letter::Expelled(..) => {}
                }
            }
            mail.changed().await;
        }
    }

    /// Takes the run in, as soon as the node has room for it.
    async fn enter(serving: &Serving, joining: &Joining, mail: &Mail) -> Result<(Guest, ReadPlan), String> {
        let Joining { driver, name, run, join } = joining;
        let queued = |runs| {
            tracing::info!(run = %run, runs, "a run waits for memory");
            let reason = format!("all memory for streams is promised to {runs} other runs");
            mail.send(*driver, RunMessage::Queued { reason });
        };
        let admitted = serving.resources.admit(*run, &name.name, &join.surroundings, queued);
        // Until then the driver has nothing to say but that the run is over.
        let driver_left = async {
            while mail.next().is_none() {
                mail.changed().await;
            }
        };
        let mut host = tokio::select! {
            admitted = admitted => admitted.map_err(|error| error.to_string())?,
            () = driver_left => return Err("its driver is gone".to_owned()),
        };
        // A workflow of many functions takes a while to check, and programs may be on a slow filesystem.
        let (plan, id, place) = (join.plan.clone(), run.to_string(), join.place);
        let nodes = join.nodes.iter().map(|node| node.name.clone()).collect();
        let read = tokio::task::spawn_blocking(move || plan.read(id, place, nodes));
        let read = read.await.map_err(|_| "its plan cannot be read".to_owned())?;
        let mut plan = read.map_err(|refused| refused.to_string())?;
        host.set_programs(std::mem::take(&mut plan.programs));
        host.carry()?;
        host.set_place(0, *driver);
        let silence = silence(serving, joining);
        let own = join.nodes.get(join.place as usize).map_or("", |own| own.name.as_str());
        for (place, node) in (0..).zip(&join.nodes).skip(1).filter(|(place, _)| *place != join.place) {
            let Participant { name, address, life } = node;
            let address = address.parse().map_err(|_| format!("'{address}' is not an address"))?;
            let peer = PeerName { name: name.clone(), life: *life };
            let id = mail
                .need_at(&peer, address, own < name.as_str(), silence)
                .map_err(|what| format!("node {name} has violated the protocol: {what}"))?;
            host.set_place(place, id);
        }
        Ok((host, plan))
    }

    /// The node is to end: the run goes on without it, and its driver says when it is over here.
    fn stop(&mut self) {
        let reason = self.serving.stopping.borrow().clone().unwrap_or_default();
        let place = self.joining.join.place;
        self.say(RunMessage::Unreachable { place, reason: format!("its worker was stopped ({reason})") });
    }

    /// Updates the metrics of the run.
    fn observe(&self) {
        self.serving.ledger.borrow_mut().update(self.joining.run.0, self.sample());
    }

    fn sample(&self) -> RunSample {
        RunSample { attempts: self.part.guest.attempts(), written: self.part.guest.written() }
    }

    /// Tells the driver if a node that a stream has to come from stays unreachable for the silence limit, or one that has to be
    /// told something for twice as long: with the former, its reason is the better one. The run goes on without that node.
    fn check_absence(&mut self) {
        let limit = silence(&self.serving, &self.joining).max(MIN_CONNECT_TIME);
        let awaited = self.part.guest.awaited();
        let told = self.links.waiting().filter_map(|place| Some((place, self.part.guest.id_of(place)?))).collect();
        let now = Instant::now();
        let missed = match self.missed(awaited, |session| &mut session.absent_sources, now, limit) {
            Some(missed) => Some((missed, "and a stream has to come from it")),
            None => {
                let missed = self.missed(told, |session| &mut session.absent_hearers, now, 2 * limit);
                missed.map(|missed| (missed, "and it has to hear what happens there"))
            }
        };
        let Some(((place, reason), which)) = missed else { return };
        let reason = reason.unwrap_or_else(|| format!("it has not connected for {limit:?}"));
        self.give_up(
            place,
            format!(
                "it is unreachable, {which}: {reason}. The nodes of a run must reach each other at the addresses that its driver \
                 gives with --with"
            ),
        );
    }

    /// Tells the driver, once, that this node cannot go on together with another one.
    fn give_up(&mut self, place: Place, reason: String) {
        if self.given_up.insert(place) {
            self.say(RunMessage::Unreachable { place, reason });
        }
    }

    /// One of these nodes that has been unreachable for all of `limit`, and why, if that is known.
    fn missed(
        &mut self,
        nodes: Vec<(Place, NodeId)>,
        absence: impl Fn(&mut Self) -> &mut Absence,
        now: Instant,
        limit: Duration,
    ) -> Option<(Place, Option<String>)> {
        let absent = nodes.into_iter().filter(|(place, _)| !self.given_up.contains(place)).collect::<Vec<_>>();
        let absent: Vec<(Place, Option<String>)> =
            absent.into_iter().filter_map(|(place, id)| Some((place, self.mail.is_connected(id).err()?))).collect();
        let places: Vec<Place> = absent.iter().map(|(place, _)| *place).collect();
        let overdue = absence(self).overdue(&places, now, limit)?;
        absent.into_iter().find(|(place, _)| *place == overdue)
    }

    /// Takes what other nodes have sent. Returns whether the run is over.
    fn take_letters(&mut self) -> bool {
        let driver = self.joining.driver;
        while let Some(letter) = self.mail.next() {
            let from = letter.from();
            match letter {
                Letter::Message(_, RunMessage::Facts(facts)) => self.take_facts(from, facts),
                Letter::Message(_, RunMessage::Sum) if from == driver => self.part.guest.sum(),
                Letter::Message(_, RunMessage::Over) if from == driver => return true,
                Letter::Message(..) => {
                    self.mail.violated(from, "it sent a message that has no place between these nodes of a run");
                    if from == driver {
                        return true;
                    }
                }
                Letter::Connected(_) => {
                    let place = self.part.guest.place_of(from).filter(|place| !self.given_up.contains(place));
                    place.into_iter().for_each(|place| self.links.reconnected(place));
                }
                Letter::Lost(..) | Letter::Expelled(..) if from == driver => return true,
                // It is dialed again, and missed if a stream has to come from it.
                Letter::Lost(..) => {}
                Letter::Expelled(id, what) => self.expelled(id, &what),
            }
        }
        false
    }

    fn take_facts(&mut self, from: NodeId, facts: Facts) {
        let Some(place) = self.part.guest.place_of(from) else { return };
        if self.part.machine.is_without(place) {
            return;
        }
        match self.links.receive(place, facts) {
            Ok(facts) => facts.into_iter().for_each(|fact| self.part.push(Event::Fact { from: place, fact })),
            Err(what) => self.mail.violated(from, what),
        }
    }

    /// A node of the run has violated the protocol, and is not let in again.
    fn expelled(&mut self, id: NodeId, what: &str) {
        if let Some(place) = self.part.guest.place_of(id) {
            self.give_up(place, what.to_owned());
        }
    }

    /// Reports the links to the later nodes to the driver: each pair of nodes is reported once, and the driver knows its own.
    fn sum_up(&mut self) {
        let own = self.joining.join.place;
        let behind: Vec<LinkSummary> =
            self.part.guest.links().into_iter().filter(|link| link.place > own && link.paths > 0).collect();
        self.say(RunMessage::Summed(behind));
    }

    /// Processes everything that has happened, and tells the other nodes.
    fn settle(&mut self) {
        while let Some(effect) = self.part.next() {
            match effect {
                Effect::Tell { to, fact } => to.into_iter().for_each(|place| self.tell(place, &fact)),
                Effect::Remark(remark) => self.report(remark),
                Effect::Forsake { places } => {
                    for place in places {
                        self.links.forget(place);
                        self.given_up.insert(place);
                    }
                }
                // These are the driver's. A plan that has them elsewhere is not one of ours.
                Effect::OpenInput { .. } | Effect::BeginSink { .. } => {}
                Effect::Over => {}
            }
        }
        let (mail, guest) = (&self.mail, &self.part.guest);
        self.links.flush(|place, facts| send_facts(mail, guest, place, facts));
        self.report_output();
    }

    fn tell(&mut self, place: Place, fact: &Fact) {
        if !self.links.tell(place, fact.clone())
            && let Some(id) = self.part.guest.id_of(place)
        {
            self.mail.violated(id, "it does not acknowledge what it is told");
        }
    }

    /// Tells the other nodes what has arrived, even if that is little.
    fn acknowledge(&mut self) {
        let (mail, guest) = (&self.mail, &self.part.guest);
        self.links.acknowledge(|place, facts| send_facts(mail, guest, place, facts));
    }

    /// Tells the driver what has happened.
    fn report(&mut self, remark: Remark) {
        match remark {
            Remark::Printed { instance, attempt, bytes, lost } => {
                self.relay.push((instance, attempt), &bytes, lost);
                // At once, as far as there is room: of many megabytes in one batch only the end would be kept.
                return self.report_output();
            }
            Remark::Ended { instance, attempt, .. } => {
                self.relay.end(&(instance, attempt)).into_iter().for_each(|chunk| self.say(printed(chunk)));
            }
            _ => {}
        }
        self.say(RunMessage::Remark(remark));
    }

    /// Tells the driver what functions print, as far as nothing else waits.
    fn report_output(&mut self) {
        let now = self.part.guest.elapsed();
        while self.mail.has_room(self.joining.driver)
            && let Some(chunk) = self.relay.next(now)
        {
            self.say(printed(chunk));
        }
    }

    /// Sends a message to the driver.
    fn say(&self, what: RunMessage) {
        self.mail.send(self.joining.driver, what);
    }
}

fn send_facts(mail: &Mail, guest: &Guest, place: Place, facts: Facts) {
    if let Some(id) = guest.id_of(place) {
        mail.send(id, RunMessage::Facts(facts));
    }
}

fn printed(Chunk { key: (instance, attempt), bytes, lost }: Chunk<(InstanceId, u32)>) -> RunMessage {
    RunMessage::Remark(Remark::Printed { instance, attempt, bytes, lost })
}

/// The silence limit of the run: the driver's, or this node's if that is shorter.
fn silence(serving: &Serving, joining: &Joining) -> Duration {
    Duration::from_millis(joining.join.silence).clamp(MIN_SILENCE, serving.silence)
}
