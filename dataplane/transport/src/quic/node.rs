//! This node's end of QUIC: sockets, threads, and the connections that come and go.

use super::connection::{CLOSED, Connection};
use super::refusal::{Cause, Refusal, Refusals};
use super::settings::QuicSettings;
use super::socket::{Socket, bind};
use super::tls::Tls;
use crate::identity::{Identity, IdentityError, check_name};
use crate::log_limit::LogLimit;
use quinn::{ConnectionError, Endpoint, EndpointConfig, Runtime, TokioRuntime};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// The most endpoints of a node.
const MAX_ENDPOINTS: usize = 64;
/// Connections that have been accepted and not taken by the worker.
const MAX_WAITING: usize = 64;
/// With so many handshakes under way, a client first has to show that its address is its own.
const BUSY_HANDSHAKES: usize = 64;
/// With so many handshakes under way, no other begins.
const MAX_HANDSHAKES: usize = 512;
/// The largest packet that may come, in bytes: what UDP can carry.
const MAX_PACKET: u16 = 65_527;
/// How long the end of a node waits until its peers were told.
const FAREWELL: Duration = Duration::from_millis(500);

/// Sockets at one address, and the threads that serve them. Dropping it closes all connections.
pub struct QuicNode {
    address: SocketAddr,
    endpoints: Vec<EndpointThread>,
    next: AtomicUsize,
    shared: Arc<NodeShared>,
}

/// Connections that others have opened to this node.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<Connection>);

/// A connection that is being opened: a future, on any executor.
#[derive(Debug)]
pub struct Dial(oneshot::Receiver<Result<Connection, ConnectError>>);

/// Why this node has no QUIC.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The address cannot be used.
    #[error("cannot listen on UDP {address}: {source}; choose another address or port, or stop what uses it")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread for QUIC: {0}")]
    Thread(io::Error),
    /// The node's certificate is not usable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Why there is no connection to a peer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name is none that a node can have.
    #[error(transparent)]
    Name(#[from] IdentityError),
    /// It did not come about.
    #[error("no connection to node {peer} at UDP {address}: {reason}")]
    Failed {
        /// The peer.
        peer: String,
        /// Its address.
        address: SocketAddr,
        /// What is at fault.
        cause: Cause,
        /// What happened, and what to look at.
        reason: String,
    },
    /// This node is at its end.
    #[error("this node is shutting down")]
    Closed,
}

/// What has happened at a node since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// Connections that others have opened.
    pub accepted: u64,
    /// Connections that this node has opened.
    pub dialed: u64,
    /// Others that were not let in, or that this node did not trust.
    pub refused: u64,
    /// The same, by the cause, in the order of [`Cause::ALL`].
    pub causes: [u64; Cause::ALL.len()],
    /// Connections that were closed because the peer broke the protocol.
    pub violations: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    dialed: AtomicU64,
    refused: Refusals,
    violations: AtomicU64,
    violated: LogLimit,
}

impl Counters {
    /// One more. `runtime`: that of the connection.
    pub(super) fn violation(&self, runtime: &Handle, address: SocketAddr, peer: &str, reason: &str) {
        self.violations.fetch_add(1, Ordering::Relaxed);
        self.violated.warn(runtime, address, format!("closed a connection of node {peer}: {reason}"));
    }
}

struct NodeShared {
    settings: QuicSettings,
    tls: Tls,
    server: quinn::ServerConfig,
    counters: Arc<Counters>,
    handshakes: AtomicUsize,
    accepted: mpsc::Sender<Connection>,
}

struct EndpointThread {
    runtime: Handle,
    /// The endpoint that dials.
    client: Endpoint,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl QuicNode {
    /// Listens on this address; port 0 takes one that is free. `identity`: who this node is, and which cluster it belongs
    /// to.
    ///
    /// # Errors
    /// If the address cannot be used, the identity is not usable, or threads cannot be started.
    pub fn bind(
        address: SocketAddr,
        identity: &Identity,
        settings: QuicSettings,
    ) -> Result<(Self, Incoming), NodeError> {
        keep_freed_memory();
        let count = settings.endpoints.clamp(1, MAX_ENDPOINTS);
        let failed = |source| NodeError::Bind { address, source };
        let sockets = bind(address, count, settings.socket_buffer).map_err(failed)?;
        let bound = sockets.first().map_or(Ok(address), UdpSocket::local_addr).map_err(failed)?;
        let (accepted, incoming) = mpsc::channel(MAX_WAITING);
        let tls = Tls::new(identity)?;
        let shared = Arc::new(NodeShared {
            server: server_config(&tls, &settings),
            tls,
            settings,
            counters: Arc::default(),
            handshakes: AtomicUsize::new(0),
            accepted,
        });
        let mut endpoints = Vec::with_capacity(count);
        for (index, socket) in sockets.into_iter().enumerate() {
            // The kernel gives each peer's packets to one of the sockets that share a port, perhaps not to the one that
            // has dialed that peer: those that dial have a port of their own.
            let client = if count > 1 {
                let own = SocketAddr::new(address.ip(), 0);
                bind(own, 1, shared.settings.socket_buffer).map_err(failed)?.pop()
            } else {
                None
            };
            endpoints.push(EndpointThread::start(index, socket, client, shared.clone())?);
        }
        Ok((Self { address: bound, endpoints, next: AtomicUsize::new(0), shared }, Incoming(incoming)))
    }

    /// The address that it listens on.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Opens a connection to the node of this name.
    pub fn connect(&self, address: SocketAddr, expected_peer: &str) -> Dial {
        self.connect_within(address, expected_peer, self.shared.settings.idle_timeout)
    }

    /// Opens a connection to the node of this name that is lost when nothing has come for so long, or for less if the
    /// other side says less.
    pub fn connect_within(&self, address: SocketAddr, expected_peer: &str, idle_timeout: Duration) -> Dial {
        let (outcome, dial) = oneshot::channel();
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len().max(1);
        let (peer, shared) = (expected_peer.to_owned(), self.shared.clone());
        if let Some(endpoint) = self.endpoints.get(index) {
            let client = endpoint.client.clone();
            endpoint.runtime.spawn(async move {
                // Nobody may be waiting any more; the connection is then closed.
                let _ = outcome.send(dial_peer(&shared, &client, address, peer, idle_timeout).await);
            });
        }
        Dial(dial)
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> NodeCounters {
        let counters = &self.shared.counters;
        let causes = Cause::ALL.map(|cause| counters.refused.get(cause));
        NodeCounters {
            accepted: counters.accepted.load(Ordering::Relaxed),
            dialed: counters.dialed.load(Ordering::Relaxed),
            refused: causes.iter().sum(),
            causes,
            violations: counters.violations.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for QuicNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicNode").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for QuicNode {
    fn drop(&mut self) {
        for endpoint in &mut self.endpoints {
            drop(endpoint.stop.take());
        }
        for endpoint in &mut self.endpoints {
            if let Some(thread) = endpoint.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

impl Incoming {
    /// The next connection that somebody has opened, if there is one.
    pub fn try_next(&mut self) -> Option<Connection> {
        self.0.try_recv().ok()
    }

    /// The next connection that somebody opens; `None` once the node is gone.
    pub async fn next(&mut self) -> Option<Connection> {
        self.0.recv().await
    }

    /// As [`Self::next`], blocking this thread.
    ///
    /// # Panics
    /// Within an asynchronous task, which must not block.
    pub fn wait(&mut self) -> Option<Connection> {
        self.0.blocking_recv()
    }
}

impl Dial {
    /// Waits for the connection, blocking this thread.
    ///
    /// # Errors
    /// [`ConnectError`] if there is none.
    ///
    /// # Panics
    /// Within an asynchronous task, which must not block.
    pub fn wait(self) -> Result<Connection, ConnectError> {
        self.0.blocking_recv().unwrap_or(Err(ConnectError::Closed))
    }
}

impl Future for Dial {
    type Output = Result<Connection, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|outcome| outcome.unwrap_or(Err(ConnectError::Closed)))
    }
}

impl EndpointThread {
    fn start(
        index: usize,
        socket: UdpSocket,
        client: Option<UdpSocket>,
        shared: Arc<NodeShared>,
    ) -> Result<Self, NodeError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(NodeError::Thread)?;
        let guard = runtime.enter();
        let server = endpoint(socket, Some(shared.server.clone())).map_err(NodeError::Thread)?;
        let client = match client {
            Some(socket) => endpoint(socket, None).map_err(NodeError::Thread)?,
            None => server.clone(),
        };
        drop(guard);
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let both = [server.clone(), client.clone()];
        let serve = async move {
            tokio::select! {
                _ = stopped => {}
                () = accept(shared, server) => {}
            }
            for endpoint in &both {
                endpoint.close(CLOSED, b"this node is shutting down");
            }
            for endpoint in &both {
                let _ = tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await;
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("dflow-quic-{index}"))
            .spawn(move || runtime.block_on(serve))
            .map_err(NodeError::Thread)?;
        Ok(Self { runtime: handle, client, stop: Some(stop), thread: Some(thread) })
    }
}

/// quinn itself, with the transport, the TLS and the sockets that a [`QuicNode`] has and nothing of what is above them: what
/// a node's speed is measured against, and what a peer can be made of that does not keep to the protocol. To be called
/// within a tokio runtime.
///
/// # Errors
/// If the address cannot be used or the identity is not usable.
pub fn bare_endpoint(address: SocketAddr, identity: &Identity, settings: &QuicSettings) -> Result<Endpoint, NodeError> {
    keep_freed_memory();
    let failed = |source| NodeError::Bind { address, source };
    let tls = Tls::new(identity)?;
    let socket = bind(address, 1, settings.socket_buffer).and_then(|mut sockets| sockets.pop().ok_or_else(no_socket));
    let server = server_config(&tls, settings);
    let mut endpoint = socket.and_then(|socket| endpoint(socket, Some(server))).map_err(failed)?;
    endpoint.set_default_client_config(client_config(&tls, settings, settings.idle_timeout));
    Ok(endpoint)
}

/// quinn as it comes, with the TLS of a [`QuicNode`] alone. To be called within a tokio runtime.
///
/// # Errors
/// If the address cannot be used or the identity is not usable.
pub fn default_endpoint(address: SocketAddr, identity: &Identity) -> Result<Endpoint, NodeError> {
    let tls = Tls::new(identity)?;
    let server = quinn::ServerConfig::with_crypto(tls.server);
    let mut endpoint = Endpoint::server(server, address).map_err(|source| NodeError::Bind { address, source })?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(tls.client));
    Ok(endpoint)
}

fn no_socket() -> io::Error {
    io::Error::other("there is no socket")
}

fn server_config(tls: &Tls, settings: &QuicSettings) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::with_crypto(tls.server.clone());
    config.transport_config(Arc::new(settings.transport(1, settings.idle_timeout)));
    // Nodes do not move to other addresses in the middle of a connection.
    config.migration(false);
    config.max_incoming(MAX_HANDSHAKES);
    config
}

/// The settings are those of the way to the peer.
fn client_config(tls: &Tls, settings: &QuicSettings, idle_timeout: Duration) -> quinn::ClientConfig {
    let mut config = quinn::ClientConfig::new(tls.client.clone());
    config.transport_config(Arc::new(settings.transport(0, idle_timeout)));
    config
}

impl NodeShared {
    /// Within the runtime of an endpoint.
    fn refused(&self, address: SocketAddr, refusal: &Refusal) {
        self.counters.refused.note(&Handle::current(), address, refusal);
    }
}

/// quinn takes memory for every packet that comes. glibc gives the memory of large packets back to the kernel whenever the
/// last of them is freed, and takes it again, page by page: half of all time went there. It stops doing so for blocks up to
/// the size of the largest that was ever freed.
fn keep_freed_memory() {
    const LARGEST: usize = 16 * 1024 * 1024;
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGEST)));
}

/// Within the runtime of its thread.
fn endpoint(socket: UdpSocket, server: Option<quinn::ServerConfig>) -> io::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(MAX_PACKET).map_err(io::Error::other)?;
    let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime);
    Endpoint::new_with_abstract_socket(config, server, Arc::new(Socket::new(socket)?), runtime)
}

async fn accept(shared: Arc<NodeShared>, endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        let address = incoming.remote_address();
        let under_way = shared.handshakes.load(Ordering::Relaxed);
        if under_way >= MAX_HANDSHAKES || endpoint.open_connections() >= shared.settings.max_connections {
            shared.refused(address, &Refusal::new(Cause::Busy, "there are too many already"));
            incoming.refuse();
        } else if under_way >= BUSY_HANDSHAKES && incoming.may_retry() && !incoming.remote_address_validated() {
            let _ = incoming.retry();
        } else {
            let mut config = shared.server.clone();
            let settings = shared.settings.on_the_way_to(address.ip());
            config.transport_config(Arc::new(settings.transport(1, settings.idle_timeout)));
            // At once, so that it counts as open for those that come right behind it.
            let connecting = match incoming.accept_with(Arc::new(config)) {
                Ok(connecting) => connecting,
                Err(error) => {
                    shared.refused(address, &Refusal::from(&error));
                    continue;
                }
            };
            shared.handshakes.fetch_add(1, Ordering::Relaxed);
            let shared = shared.clone();
            tokio::spawn(async move {
                let limit = shared.settings.handshake_timeout;
                let outcome = tokio::time::timeout(limit, accept_peer(&shared, connecting)).await;
                shared.handshakes.fetch_sub(1, Ordering::Relaxed);
                let late = || Refusal::new(Cause::Silence, format!("it has not proven who it is within {limit:?}"));
                if let Err(refusal) = outcome.unwrap_or_else(|_| Err(late())) {
                    shared.refused(address, &refusal);
                }
            });
        }
    }
}

async fn accept_peer(shared: &NodeShared, connecting: quinn::Connecting) -> Result<(), Refusal> {
    let connection = connecting.await.map_err(|error| Refusal::from(&error))?;
    let QuicSettings { in_flight, idle_timeout, .. } = shared.settings;
    let counters = shared.counters.clone();
    let connection = Connection::establish(connection, false, in_flight, idle_timeout, counters).await?;
    shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(peer = connection.peer(), address = %connection.address(), "a peer has connected");
    if let Err(error) = shared.accepted.try_send(connection) {
        let (mpsc::error::TrySendError::Full(connection) | mpsc::error::TrySendError::Closed(connection)) = error;
        connection.close("the node is busy: try again later");
    }
    Ok(())
}

async fn dial_peer(
    shared: &NodeShared,
    endpoint: &Endpoint,
    address: SocketAddr,
    peer: String,
    idle_timeout: Duration,
) -> Result<Connection, ConnectError> {
    check_name(&peer)?;
    let settings = shared.settings.on_the_way_to(address.ip());
    let limit = settings.handshake_timeout;
    let attempt = async {
        let connecting = endpoint
            .connect_with(client_config(&shared.tls, &settings, idle_timeout), address, &peer)
            .map_err(|error| Refusal::new(Cause::Closed, error.to_string()))?;
        let connection = connecting.await.map_err(|error| {
            let refusal = Refusal::from(&error);
            if matches!(error, ConnectionError::TransportError(_)) {
                shared.refused(address, &refusal);
            }
            refusal
        })?;
        Connection::establish(connection, true, shared.settings.in_flight, idle_timeout, shared.counters.clone()).await
    };
    let outcome = tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {limit:?}; is dflow running there, and does UDP get through to it?");
        Err(Refusal::new(Cause::Silence, reason))
    });
    match outcome {
        Ok(connection) => {
            shared.counters.dialed.fetch_add(1, Ordering::Relaxed);
            Ok(connection)
        }
        Err(Refusal { cause, reason }) => Err(ConnectError::Failed { peer, address, cause, reason }),
    }
}
