//! A run that another node drives, on a node that serves it.

use super::Ring;
use super::members::FIRST_PATH;
use super::message::{Join, Managed};
use super::serve::Serving;
use crate::host::Host;
use crate::nodes::Place;
use dflow_carrier::{Command, NodeId};
use dflow_launcher::{Launcher, LauncherOptions};
use dflow_protocol::RunId;
use dflow_transport::quic::{Connection, QuicPath};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;

/// The first and the longest pause before a node is dialed again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

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
    driver: Connection,
    /// Connections with the other nodes that serve the run.
    peers: BTreeMap<Place, Connection>,
    dialed: UnboundedSender<Meeting>,
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
        let mut session = match Self::begin(serving, &join, &driver) {
            Ok((serving, host)) => Self { serving, join, host, driver, peers: BTreeMap::new(), dialed },
            Err(reason) => {
                tracing::warn!(reason, "the node cannot take part in a run");
                let _ = Managed::Refused { reason }.send(&driver);
                return;
            }
        };
        session.dial_others();
        loop {
            session.report();
            tokio::select! {
                () = session.host.turn() => {}
                () = ring.rung() => {}
                Some(meeting) = meetings.recv() => session.meet(meeting),
                Some(meeting) = dials.recv() => session.meet(meeting),
            }
            if session.obey() || session.driver.closed().is_some() {
                break;
            }
            for place in session.host.take_lost_paths() {
                session.dial(place);
            }
        }
        tracing::info!("a run is over");
    }

    fn begin(serving: Rc<Serving>, join: &Join, driver: &Connection) -> Result<(Rc<Serving>, Host), String> {
        let options = LauncherOptions { containment: serving.options.containment, ..LauncherOptions::default() };
        let launcher = Launcher::start(&options).map_err(|error| error.to_string())?;
        let mut host = Host::new(&serving.options, RunId(join.run), launcher).map_err(|error| error.to_string())?;
        let carrier = host.carry(crate::run::random_u64(), Duration::from_millis(join.silence))?;
        let path = QuicPath::new(driver, FIRST_PATH, carrier.waker()).map_err(|error| error.to_string())?;
        carrier.tell(Command::Connect(NodeId(0), Box::new(path), FIRST_PATH));
        Managed::Joined { slots: serving.options.slots.max(1) }.send(driver)?;
        Ok((serving, host))
    }

    /// Of two nodes the earlier one dials.
    fn dial_others(&self) {
        let count = u32::try_from(self.join.nodes.len()).unwrap_or(u32::MAX);
        (self.join.place + 1..count).for_each(|place| self.dial(place));
    }

    /// Dials a node until it answers. It ends with the session: nobody takes the connection then.
    fn dial(&self, place: Place) {
        if place <= self.join.place {
            return;
        }
        let Some((name, address)) = self.join.nodes.get(place as usize).cloned() else { return };
        let (serving, run, own, dialed) =
            (Rc::clone(&self.serving), self.join.run, self.join.place, self.dialed.clone());
        let incarnation = self.host.next_path(place);
        spawn_local(async move {
            let mut pause = FIRST_PAUSE;
            while !dialed.is_closed() {
                let reason = match address.parse() {
                    Ok(address) => match serving.node.connect(address, &name).await {
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
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        });
    }

    /// There is a connection with another node.
    fn meet(&mut self, meeting: Meeting) {
        let Meeting { place, incarnation, connection } = meeting;
        let expected = self.join.nodes.get(place as usize).map(|(name, _)| name.as_str());
        if expected != Some(connection.peer()) || place == self.join.place {
            tracing::warn!(peer = connection.peer(), place, "a node says that it is another one");
            return connection.close("this place in the run belongs to another node");
        }
        let Some(carrier) = self.host.carrier() else { return };
        match QuicPath::new(&connection, incarnation, carrier.waker()) {
            Ok(path) => {
                carrier.tell(Command::Connect(NodeId(place), Box::new(path), incarnation));
                self.host.note_path(place, incarnation);
                self.peers.insert(place, connection);
            }
            Err(error) => tracing::warn!(%error, "a path cannot be used"),
        }
    }

    /// Does what the driver wants; whether the run is over.
    fn obey(&mut self) -> bool {
        loop {
            match Managed::receive(&self.driver) {
                Ok(Some(Managed::Order(order))) => self.host.obey(*order),
                Ok(Some(Managed::Over)) => return true,
                Ok(None) => return false,
                Ok(Some(_)) => {
                    self.driver.close("a driver gives orders");
                    return true;
                }
                Err(reason) => {
                    self.driver.close(&reason);
                    return true;
                }
            }
        }
    }

    /// Tells the driver what has happened.
    fn report(&mut self) {
        loop {
            while let Some(notice) = self.host.next_notice() {
                if let Err(reason) = Managed::Notice(Box::new(notice)).send(&self.driver) {
                    self.driver.close(&reason);
                    return;
                }
            }
            self.host.settle();
            match self.host.next_notice() {
                Some(notice) => {
                    if let Err(reason) = Managed::Notice(Box::new(notice)).send(&self.driver) {
                        return self.driver.close(&reason);
                    }
                }
                None => return,
            }
        }
    }
}
