//! A run on a node that serves it for another node, the driver.

use super::absence::Absence;
use super::serving::Serving;
use crate::logs::relay::{Chunk, Relay};
use crate::metrics::RunSample;
use crate::node::counts::Ended;
use crate::node::{Guest, Joining, Letter, Mail, NodeId};
use crate::order::Notice;
use crate::peer::message::{LinkSummary, Participant, RunMessage};
use crate::peer::name::PeerName;
use crate::peer::spec::MIN_SILENCE;
use dflow_protocol::InstanceId;
use dflow_scheduler::Place;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The least time for two nodes to connect, even with a shorter silence limit.
const MIN_CONNECT_TIME: Duration = Duration::from_secs(2);
/// The interval at which the metrics are updated and unreachable nodes are checked.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Session {
    serving: Rc<Serving>,
    joining: Joining,
    host: Guest,
    mail: Mail,
    /// What functions have printed and the driver has not got yet.
    relay: Relay<(InstanceId, u32)>,
    absence: Absence,
}

impl Session {
    /// Serves a run until it is over or its driver is gone.
    pub(super) async fn serve(serving: Rc<Serving>, joining: Joining, mail: Mail) {
        if !mail.need(joining.driver, silence(&serving, &joining)) {
            return tracing::info!(run = %joining.run, "the driver of a run is gone before it has begun");
        }
        let host = match Self::enter(&serving, &joining, &mail).await {
            Ok(host) => host,
            Err(reason) => {
                tracing::warn!(run = %joining.run, reason, "the node cannot take part in a run");
                return mail.send(joining.driver, RunMessage::Refused { reason });
            }
        };
        mail.send(joining.driver, RunMessage::Joined { slots: serving.options.slots.max(1) });
        let run = joining.run.0;
        let (relay, absence) = (Relay::new(), Absence::default());
        let mut session = Self { serving, joining, host, mail, relay, absence };
        session.serving.ledger.borrow_mut().begun();
        session.observe();
        let mut tick = tokio::time::interval(OBSERVE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopping = session.serving.stopping.clone();
        while !session.take_letters() {
            if session.host.has_summed() {
                session.sum_up();
            }
            session.report();
            tokio::select! {
                () = session.host.changed() => {}
                () = session.mail.changed() => {}
                _ = tick.tick() => {
                    session.observe();
                    session.check_absence();
                }
                Ok(()) = stopping.changed() => session.stop(),
            }
        }
        session.serving.ledger.borrow_mut().over(run, &session.sample());
        let Ended { succeeded, unread, failed, stopped } = session.host.attempts().ended;
        tracing::info!(run = %session.joining.run, succeeded, unread, failed, stopped, "a run is over");
    }

    /// Takes the run in, as soon as the node has room for it.
    async fn enter(serving: &Serving, joining: &Joining, mail: &Mail) -> Result<Guest, String> {
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
        for (function, wanted) in &join.programs {
            host.find_program(wanted)
                .map_err(|error| format!("the function '{function}' cannot run there: {error}"))?;
        }
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
        Ok(host)
    }

    /// The node is to end, and the run cannot go on without it: its driver has everything end.
    fn stop(&mut self) {
        let reason = self.serving.stopping.borrow().clone().unwrap_or_default();
        self.host.fail(format!("its worker was stopped ({reason})"));
    }

    /// Updates the metrics of the run.
    fn observe(&self) {
        self.serving.ledger.borrow_mut().update(self.joining.run.0, self.sample());
    }

    fn sample(&self) -> RunSample {
        RunSample { attempts: self.host.attempts(), written: self.host.written() }
    }

    fn name(&self, place: Place) -> &str {
        self.joining.join.nodes.get(place as usize).map_or("", |node| node.name.as_str())
    }

    /// Fails the run if a node that a stream has to come from stays unreachable for the silence limit.
    fn check_absence(&mut self) {
        let awaited = self.host.awaited().into_iter();
        let absent: Vec<(Place, Option<String>)> =
            awaited.filter_map(|(place, id)| Some((place, self.mail.is_connected(id).err()?))).collect();
        let limit = silence(&self.serving, &self.joining).max(MIN_CONNECT_TIME);
        let places: Vec<Place> = absent.iter().map(|(place, _)| *place).collect();
        let Some(place) = self.absence.overdue(&places, Instant::now(), limit) else { return };
        let reason = absent.into_iter().find(|(absent, _)| *absent == place).and_then(|(_, reason)| reason);
        let reason = reason.unwrap_or_else(|| format!("it has not connected for {limit:?}"));
        self.host.fail(format!(
            "node {}, from which a stream has to come, is unreachable: {reason}. The nodes of a run must reach each other at \
             the addresses that its driver gives with --with",
            self.name(place)
        ));
    }

    /// Carries out the driver's orders. Returns whether the run is over.
    fn take_letters(&mut self) -> bool {
        let driver = self.joining.driver;
        while let Some(letter) = self.mail.next() {
            match letter {
                Letter::Message(from, message) if from == driver => match message {
                    RunMessage::Order(order) => self.host.obey(*order),
                    RunMessage::Sum => self.host.sum(),
                    RunMessage::Over => return true,
                    _ => {
                        self.mail.violated(from, "the driver may only send orders");
                        return true;
                    }
                },
                Letter::Message(from, _) => self.mail.violated(from, "only the driver of a run gives orders"),
                Letter::Lost(id, _) | Letter::Expelled(id, _) if id == driver => return true,
                // It is dialed again, and missed if a stream has to come from it.
                Letter::Lost(..) => {}
                Letter::Expelled(id, what) => self.expelled(id, &what),
            }
        }
        false
    }

    /// A node of the run has violated the protocol, and is not let in again.
    fn expelled(&mut self, id: NodeId, what: &str) {
        let place = self.host.place_of(id).unwrap_or_default();
        self.host.fail(format!("node {} is lost: {what}", self.name(place)));
    }

    /// Reports the links to the later nodes to the driver: each pair of nodes is reported once, and the driver knows its own.
    fn sum_up(&mut self) {
        let own = self.joining.join.place;
        let behind: Vec<LinkSummary> =
            self.host.links().into_iter().filter(|link| link.place > own && link.paths > 0).collect();
        self.say(RunMessage::Summed(behind));
    }

    /// Sends notices to the driver.
    fn report(&mut self) {
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
                        // At once, as far as there is room: of many megabytes in one batch only the end would be kept.
                        self.report_output();
                        continue;
                    }
                    Notice::Ended { instance, attempt, .. } => {
                        self.relay.end(&(instance, attempt)).into_iter().for_each(|chunk| self.say(printed(chunk)));
                    }
                    _ => {}
                }
                self.say(RunMessage::Notice(Box::new(notice)));
            }
        }
    }

    /// Tells the driver what functions print, as far as nothing else waits.
    fn report_output(&mut self) {
        let now = self.host.elapsed();
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

fn printed(Chunk { key: (instance, attempt), bytes, lost }: Chunk<(InstanceId, u32)>) -> RunMessage {
    RunMessage::Notice(Box::new(Notice::Printed { instance, attempt, bytes, lost }))
}

/// The silence limit of the run: the driver's, or this node's if that is shorter.
fn silence(serving: &Serving, joining: &Joining) -> Duration {
    Duration::from_millis(joining.join.silence).clamp(MIN_SILENCE, serving.silence)
}
