//! A node that serves runs driven by other nodes.

use super::find_device;
use super::message::{ManagementMessage, broken};
use super::probe::{self, Probing};
use super::session::{PeerConnection, Session};
use super::{ClusterError, MAX_SILENCE, MIN_SILENCE, Wakeup, certificate};
use crate::cancel::{Cancellation, Request};
use crate::check::SetupError;
use crate::metrics::{self, Ledger, Scrapes};
use crate::node::{NodeHandle, start_launcher};
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

/// A connection that does not introduce itself within this time is closed.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// The options of a serving node.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where it listens (UDP).
    pub listen: SocketAddr,
    /// The directory with its identity.
    pub identity: PathBuf,
    /// Another node of a run is lost after this long without a sign of life, even if the run's own limit is longer.
    /// `None`: the run's limit applies.
    pub silence: Option<Duration>,
    /// Where it serves metrics over HTTP (TCP), if it does.
    pub metrics: Option<SocketAddr>,
    /// What it may use, for all runs together.
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
    /// A warning about something that will stop the node from working soon.
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
    // Before anything else, while this process is small and has no threads.
    let launcher = start_launcher(&options.node)?;
    local.block_on(&runtime, async {
        let resources = NodeHandle::new(&options.node, launcher)?;
        spawn_local(resources.clone().serve());
        let identity = certificate::load(&options.identity)?;
        find_device(&options.node.rdma)?;
        // Each end has a limit, and the shorter one applies.
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
            resources,
            silence,
            certificate_until: identity.validity().until,
            options: NodeOptions { node: identity.name().to_owned(), ..options.node.clone() },
            peer_connections: RefCell::default(),
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
    /// Its store, launcher and slots.
    pub(super) resources: NodeHandle,
    /// The longest silence limit that it accepts.
    pub(super) silence: Duration,
    certificate_until: SystemTime,
    pub(super) options: NodeOptions,
    /// For each run, the queue of connections from other nodes of the run, made by the first of them or the session.
    peer_connections: RefCell<HashMap<u128, Arrivals>>,
    /// The number of probes in progress.
    probes: Cell<usize>,
    /// Runs that it takes part in.
    sessions: Cell<usize>,
    /// One of them is over.
    ended: Notify,
    /// Why the node is to end, once it is.
    pub(super) stopping: watch::Receiver<Option<String>>,
    /// The node's counters.
    pub(super) ledger: RefCell<Ledger>,
}

struct Arrivals {
    sender: UnboundedSender<PeerConnection>,
    /// Until the session takes it.
    receiver: Option<UnboundedReceiver<PeerConnection>>,
}

impl Serving {
    fn metrics(&self) -> String {
        let counters = self.node.counters();
        let (name, slots) = (self.options.node.as_str(), self.options.slots.max(1));
        self.ledger.borrow().render(&metrics::Node {
            name,
            slots,
            memory: self.resources.memory(),
            counters,
            certificate_until: self.certificate_until,
        })
    }

    /// The queue of connections for the session of a run; `None` if there is a session already.
    pub(super) fn enter(&self, run: u128) -> Option<UnboundedReceiver<PeerConnection>> {
        self.arrivals(run, |arrivals| arrivals.receiver.take())
    }

    /// The run is over.
    pub(super) fn leave(&self, run: u128) {
        self.peer_connections.borrow_mut().remove(&run);
    }

    /// No driver has come for the run: closes the connections that wait for it.
    fn forget(&self, run: u128) {
        let mut peer_connections = self.peer_connections.borrow_mut();
        if peer_connections.get(&run).is_some_and(|arrivals| arrivals.receiver.is_some()) {
            peer_connections.remove(&run);
        }
    }

    fn arrivals<T>(&self, run: u128, with: impl FnOnce(&mut Arrivals) -> T) -> T {
        let mut peer_connections = self.peer_connections.borrow_mut();
        with(peer_connections.entry(run).or_insert_with(|| {
            let (sender, receiver) = unbounded_channel();
            Arrivals { sender, receiver: Some(receiver) }
        }))
    }
}

/// Tells the driver of a run why this node does not take part. Closing the connection at once could overtake the reason,
/// so that is left to the driver, for a while.
pub(super) async fn refuse(driver: &Connection, wakeup: &Wakeup, reason: String) {
    let refused = ManagementMessage::Refused { reason };
    if refused.send(driver).is_err() {
        return;
    }
    let left = async {
        while driver.closed().is_none() {
            wakeup.woken().await;
        }
    };
    let _ = tokio::time::timeout(INTRODUCTION, left).await;
}

/// Reads the first message of a connection and dispatches it.
async fn introduce(serving: Rc<Serving>, connection: Connection) {
    let wakeup = Arc::new(Wakeup::default());
    connection.set_waker(wakeup.waker());
    let first = async {
        loop {
            match ManagementMessage::receive(&connection) {
                Ok(None) if connection.closed().is_none() => wakeup.woken().await,
                other => return other,
            }
        }
    };
    let Ok(first) = tokio::time::timeout(INTRODUCTION, first).await else {
        return connection.close("it did not introduce itself in time");
    };
    match first {
        Ok(Some(ManagementMessage::Join(join))) => {
            let run = join.run;
            let Some(peer_connections) = serving.enter(run) else {
                return refuse(&connection, &wakeup, "the node takes part in this run already".to_owned()).await;
            };
            tracing::info!(driver = connection.peer(), "a run begins");
            serving.sessions.set(serving.sessions.get() + 1);
            Session::serve(Rc::clone(&serving), connection, wakeup, join, peer_connections).await;
            serving.sessions.set(serving.sessions.get() - 1);
            serving.ended.notify_one();
            serving.leave(run);
        }
        Ok(Some(ManagementMessage::Connect { run, place, incarnation })) => {
            let peer_connection = PeerConnection { place, incarnation, connection };
            let is_early = serving.arrivals(run, |arrivals| {
                // The session may have ended just now.
                let _ = arrivals.sender.send(peer_connection);
                arrivals.receiver.is_some()
            });
            if is_early {
                tokio::time::sleep(INTRODUCTION).await;
                serving.forget(run);
            }
        }
        Ok(Some(ManagementMessage::Probe(Probing::Begin))) => {
            let going_on = serving.probes.get();
            serving.probes.set(going_on + 1);
            probe::answer(&serving.options, connection, &wakeup, going_on < probe::MAX_PROBES).await;
            serving.probes.set(serving.probes.get().saturating_sub(1));
        }
        Ok(Some(_)) => connection.violated(&broken("it did not begin by introducing itself")),
        Ok(None) => {}
        Err(what) => connection.violated(&broken(&what)),
    }
}
