//! A node that serves runs driven by other nodes.

use super::probe;
use super::serving::Serving;
use super::session::Session;
use crate::cancel::{Cancellation, Request};
use crate::error::SetupError;
use crate::metrics::Scrapes;
use crate::node::{Joining, NodeHandle, start_launcher};
use crate::options::{NodeOptions, raise_descriptor_limit};
use crate::peer::certificate;
use crate::peer::device::find_device;
use crate::peer::error::ClusterError;
use crate::peer::hello::first_message;
use crate::peer::message::{ManagementMessage, RunMessage, broken};
use crate::peer::name::PeerName;
use crate::peer::probing::Probing;
use crate::peer::spec::{MAX_SILENCE, MIN_SILENCE};
use crate::peer::wakeup::Wakeup;
use dflow_transport::{Connection, Node, NodeSettings};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;
use tokio::task::spawn_local;

/// Why nothing new begins on a node that ends.
const STOPPED: &str = "the node is being stopped";

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
        let node = Rc::new(node);
        let (joins, mut joining) = unbounded_channel();
        resources.set_endpoint(Rc::clone(&node), silence, Some(joins));
        let place = Rc::new(Serving {
            node,
            resources,
            silence,
            certificate_until: identity.validity().until,
            options: NodeOptions { node: identity.name().to_owned(), ..options.node.clone() },
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
                Some(joining) = joining.recv() => join(&place, joining),
                Request { reason, at_once } = cancellation.requested() => {
                    if at_once {
                        return Ok(());
                    }
                    tracing::info!(reason, runs = place.sessions.get(), "the worker ends when its runs have");
                    stop.send_replace(Some(reason));
                    break;
                }
            }
        }
        // Their drivers have their functions end, which may need their grace.
        while place.sessions.get() > 0 {
            tokio::select! {
                () = place.ended.notified() => {}
                Some(connection) = incoming.next() => connection.close(STOPPED),
                Some(Joining { driver, run, .. }) = joining.recv() => {
                    place.resources.send(driver, run, RunMessage::Refused { reason: STOPPED.to_owned() });
                }
                request = cancellation.requested() => if request.at_once { break },
            }
        }
        Ok(())
    })
}

/// Takes part in a run.
fn join(serving: &Rc<Serving>, joining: Joining) {
    let Some(mail) = serving.resources.open_mail(joining.run) else {
        let reason = "the node takes part in this run already".to_owned();
        return serving.resources.send(joining.driver, joining.run, RunMessage::Refused { reason });
    };
    tracing::info!(run = %joining.run, driver = joining.name.name, "a run begins");
    serving.sessions.set(serving.sessions.get() + 1);
    let serving = Rc::clone(serving);
    spawn_local(async move {
        Session::serve(Rc::clone(&serving), joining, mail).await;
        serving.sessions.set(serving.sessions.get() - 1);
        serving.ended.notify_one();
    });
}

/// Identifies this process, and finds out what a connection is for.
async fn introduce(serving: Rc<Serving>, connection: Connection) {
    let wakeup = Arc::new(Wakeup::default());
    if (ManagementMessage::Hello { life: serving.resources.life(), number: 0 }).send(&connection).is_err() {
        return;
    }
    match first_message(&connection, &wakeup).await {
        Ok(ManagementMessage::Hello { life, number }) => {
            let name = PeerName { name: connection.peer().to_owned(), life };
            if let Err(reason) = serving.resources.connected(&name, connection, number, false) {
                tracing::warn!(node = name.name, reason, "a connection cannot be used");
            }
        }
        Ok(ManagementMessage::Probe(Probing::Begin)) => {
            let going_on = serving.probes.get();
            serving.probes.set(going_on + 1);
            probe::answer(&serving.options, connection, &wakeup, going_on < probe::MAX_PROBES).await;
            serving.probes.set(serving.probes.get().saturating_sub(1));
        }
        Ok(_) => connection.violated(&broken("it did not begin by introducing itself")),
        // The connection is closed already.
        Err(_) => {}
    }
}
