//! A node that serves runs which others drive.

use super::find_device;
use super::message::{Managed, broken};
use super::probe::{self, Probing};
use super::session::{Meeting, Session};
use super::{ClusterError, MAX_SILENCE, MIN_SILENCE, Ring, certificate};
use crate::cancel::{Cancellation, Request};
use crate::check::SetupError;
use crate::metrics::{self, Ledger, Scrapes};
use crate::options::{NodeOptions, raise_descriptor_limit};
use dflow_transport::{Connection, Node, NodeSettings};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::spawn_local;

/// A connection that does not say what it is for within this time is closed.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// How a node serves.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where it listens (UDP).
    pub listen: SocketAddr,
    /// The directory with its identity.
    pub identity: PathBuf,
    /// Another node that takes part in a run is lost after so long without a sign of life, even if the run's driver waits
    /// longer; without it, when the driver says so.
    pub silence: Option<Duration>,
    /// Where it serves metrics over HTTP (TCP), if it does.
    pub metrics: Option<SocketAddr>,
    /// What it may use, for each run.
    pub node: NodeOptions,
}

/// A node that is ready to serve.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Its name.
    pub node: String,
    /// Where it listens (UDP).
    pub address: SocketAddr,
    /// Where it serves metrics (TCP).
    pub metrics: Option<SocketAddr>,
    /// What is to be done soon, or else it will not work any more.
    pub warning: Option<String>,
}

/// Serves runs until it is cancelled: then the runs that it takes part in fail, and end in order. `ready` is called when it
/// listens.
///
/// Whatever happens, no process and no memory of a run is left when this returns.
///
/// # Errors
/// If the node cannot be set up.
pub fn serve(
    options: &ServeOptions,
    mut cancellation: Cancellation,
    ready: impl FnOnce(&Listening),
) -> Result<(), SetupError> {
    let system = |what| move |source| SetupError::System { what, source };
    dflow_launcher::ignore_file_size_signal();
    raise_descriptor_limit();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("start the event loop"))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let identity = certificate::load(&options.identity)?;
        find_device(&options.node.rdma)?;
        // Whoever dials says how long, and the shorter holds.
        let silence = options.silence.unwrap_or(MAX_SILENCE).clamp(MIN_SILENCE, MAX_SILENCE);
        let settings = NodeSettings { idle_timeout: silence, ..NodeSettings::default() };
        let (node, mut incoming) = Node::bind(options.listen, &identity, settings).map_err(ClusterError::from)?;
        let scrapes = match options.metrics {
            Some(address) => Some(Scrapes::bind(address).await?),
            None => None,
        };
        cancellation.listen();
        let (stop, stopping) = watch::channel(None);
        ready(&Listening {
            node: identity.name().to_owned(),
            address: node.local_address(),
            metrics: scrapes.as_ref().map(Scrapes::address),
            warning: certificate::warning(&identity, &options.identity, SystemTime::now()),
        });
        let place = Rc::new(Serving {
            node,
            silence,
            certificate_until: identity.validity().until,
            options: NodeOptions { node: identity.name().to_owned(), ..options.node.clone() },
            meetings: RefCell::default(),
            probes: Cell::new(0),
            sessions: Cell::new(0),
            ended: Notify::new(),
            stopping,
            ledger: RefCell::default(),
        });
        if let Some(scrapes) = scrapes {
            let place = Rc::clone(&place);
            spawn_local(scrapes.serve(move || place.metrics()));
        }
        loop {
            tokio::select! {
                Some(connection) = incoming.next() => {
                    spawn_local(introduce(Rc::clone(&place), connection));
                }
                Request { reason, at_once } = cancellation.requested() => {
                    if at_once {
                        return Ok(());
                    }
                    stop.send_replace(Some(reason));
                    break;
                }
            }
        }
        // Their drivers have their functions end, which may need their grace.
        while place.sessions.get() > 0 {
            tokio::select! {
                () = place.ended.notified() => {}
                Some(connection) = incoming.next() => connection.close("the node is being stopped"),
                request = cancellation.requested() => if request.at_once { break },
            }
        }
        Ok(())
    })
}

/// What all sessions of a node share.
pub(super) struct Serving {
    pub(super) node: Node,
    /// The longest silence that it bears.
    pub(super) silence: Duration,
    certificate_until: SystemTime,
    pub(super) options: NodeOptions,
    /// For each run, where connections from other nodes go that take part in it; whoever comes first makes it.
    meetings: RefCell<HashMap<u128, Room>>,
    /// Connections of nodes that look at this one.
    probes: Cell<usize>,
    /// Runs that it takes part in.
    sessions: Cell<usize>,
    /// One of them is over.
    ended: Notify,
    /// Why the node is to end, once it is.
    pub(super) stopping: watch::Receiver<Option<String>>,
    /// What has been counted.
    pub(super) ledger: RefCell<Ledger>,
}

struct Room {
    door: UnboundedSender<Meeting>,
    /// Until the session takes it.
    inside: Option<UnboundedReceiver<Meeting>>,
}

impl Serving {
    fn metrics(&self) -> String {
        let counters = self.node.counters();
        let (name, slots) = (self.options.node.as_str(), self.options.slots.max(1));
        self.ledger.borrow().render(&metrics::Node { name, slots, counters, certificate_until: self.certificate_until })
    }

    /// Where the other nodes of a run come in; there is one session for a run.
    pub(super) fn enter(&self, run: u128) -> Option<UnboundedReceiver<Meeting>> {
        self.room(run, |room| room.inside.take())
    }

    /// The run is over.
    pub(super) fn leave(&self, run: u128) {
        self.meetings.borrow_mut().remove(&run);
    }

    /// Nobody has driven the run here: whoever waits for it is sent away.
    fn forget(&self, run: u128) {
        let mut meetings = self.meetings.borrow_mut();
        if meetings.get(&run).is_some_and(|room| room.inside.is_some()) {
            meetings.remove(&run);
        }
    }

    fn room<T>(&self, run: u128, with: impl FnOnce(&mut Room) -> T) -> T {
        let mut meetings = self.meetings.borrow_mut();
        with(meetings.entry(run).or_insert_with(|| {
            let (door, inside) = unbounded_channel();
            Room { door, inside: Some(inside) }
        }))
    }
}

/// Tells the driver of a run why this node does not take part. Closing the connection at once could overtake the reason,
/// so that is left to the driver, for a while.
pub(super) async fn refuse(driver: &Connection, ring: &Ring, reason: String) {
    let refused = Managed::Refused { reason };
    if refused.send(driver).is_err() {
        return;
    }
    let left = async {
        while driver.closed().is_none() {
            ring.rung().await;
        }
    };
    let _ = tokio::time::timeout(INTRODUCTION, left).await;
}

/// Finds out what a connection is for.
async fn introduce(serving: Rc<Serving>, connection: Connection) {
    let ring = Arc::new(Ring::default());
    connection.set_waker(ring.waker());
    let first = async {
        loop {
            match Managed::receive(&connection) {
                Ok(None) if connection.closed().is_none() => ring.rung().await,
                other => return other,
            }
        }
    };
    let Ok(first) = tokio::time::timeout(INTRODUCTION, first).await else {
        return connection.close("it did not say what it is for");
    };
    match first {
        Ok(Some(Managed::Join(join))) => {
            let run = join.run;
            let Some(meetings) = serving.enter(run) else {
                return refuse(&connection, &ring, "the node takes part in this run already".to_owned()).await;
            };
            tracing::info!(driver = connection.peer(), "a run begins");
            serving.sessions.set(serving.sessions.get() + 1);
            Session::serve(Rc::clone(&serving), connection, ring, join, meetings).await;
            serving.sessions.set(serving.sessions.get() - 1);
            serving.ended.notify_one();
            serving.leave(run);
        }
        Ok(Some(Managed::Meet { run, place, incarnation })) => {
            let meeting = Meeting { place, incarnation, connection };
            let is_early = serving.room(run, |room| {
                // A session that has just ended takes nothing any more.
                let _ = room.door.send(meeting);
                room.inside.is_some()
            });
            if is_early {
                tokio::time::sleep(INTRODUCTION).await;
                serving.forget(run);
            }
        }
        Ok(Some(Managed::Probe(Probing::Begin))) => {
            let going_on = serving.probes.get();
            serving.probes.set(going_on + 1);
            probe::answer(&serving.options, connection, &ring, going_on < probe::MAX_PROBES).await;
            serving.probes.set(serving.probes.get().saturating_sub(1));
        }
        Ok(Some(_)) => connection.violated(&broken("it began with something else than what it is for")),
        Ok(None) => {}
        Err(what) => connection.violated(&broken(&what)),
    }
}
