//! This node's QUIC endpoints: sockets, threads, and the connections that they accept and dial.

use super::connection::{CLOSED, Connection};
use super::farewell::Farewell;
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
/// The most accepted connections that the worker has not taken.
const MAX_WAITING: usize = 64;
/// With this many handshakes in progress, a client first has to prove its address (QUIC Retry): spoofed packets then cost
/// little.
const BUSY_HANDSHAKES: usize = 64;
/// The most handshakes in progress.
const MAX_HANDSHAKES: usize = 512;
/// The largest packet that is received, in bytes: what UDP can carry.
const MAX_PACKET: u16 = 65_527;
/// How long a node that shuts down tries to tell its peers.
const FAREWELL: Duration = Duration::from_millis(500);

/// Sockets at one address, and the threads that serve them. Dropping it closes all connections.
pub struct QuicNode {
    address: SocketAddr,
    endpoints: Vec<EndpointThread>,
    next: AtomicUsize,
    shared: Arc<NodeShared>,
}

/// Accepted connections.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<Connection>);

/// A connection that is being opened: a future for any executor.
#[derive(Debug)]
pub struct Dial(oneshot::Receiver<Result<Connection, ConnectError>>);

/// Why a node cannot listen.
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
    /// A node cannot have this name.
    #[error(transparent)]
    Name(#[from] IdentityError),
    /// It could not be established.
    #[error("no connection to node {peer} at UDP {address}: {reason}")]
    Failed {
        /// The peer.
        peer: String,
        /// Its address.
        address: SocketAddr,
        /// The cause.
        cause: Cause,
        /// What happened, and what to check.
        reason: String,
    },
    /// This node is shutting down.
    #[error("this node is shutting down")]
    Closed,
}

/// The counters of a node since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// Connections that others have opened.
    pub accepted: u64,
    /// Connections that this node has opened.
    pub dialed: u64,
    /// Connections that were refused, by this node or because it did not trust the peer.
    pub refused: u64,
    /// Refused connections by cause, in the order of [`Cause::ALL`].
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
    /// Counts and logs a violation. `runtime`: that of the connection.
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
    farewell: Arc<Farewell>,
}

struct EndpointThread {
    runtime: Handle,
    /// The endpoint that dials.
    client: Endpoint,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl QuicNode {
    /// Listens on this address; port 0 selects a free port. `identity`: the certificate of this node.
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
            farewell: Arc::default(),
            accepted,
        });
        let mut endpoints = Vec::with_capacity(count);
        for (index, socket) in sockets.into_iter().enumerate() {
            // Among sockets that share a port the kernel assigns each peer to one, perhaps not the one that dialed it. So
            // dialing endpoints have ports of their own.
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

    /// The address on which it listens.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Opens a connection to the node of this name.
    pub fn connect(&self, address: SocketAddr, expected_peer: &str) -> Dial {
        self.connect_within(address, expected_peer, self.shared.settings.idle_timeout)
    }

    /// Opens a connection to the node of this name, with this idle timeout in place of the setting.
    pub fn connect_within(&self, address: SocketAddr, expected_peer: &str, idle_timeout: Duration) -> Dial {
        let (outcome, dial) = oneshot::channel();
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len().max(1);
        let (peer, shared) = (expected_peer.to_owned(), self.shared.clone());
        if let Some(endpoint) = self.endpoints.get(index) {
            let client = endpoint.client.clone();
            endpoint.runtime.spawn(async move {
                // If the dial was dropped, dropping the connection closes it.
                let _ = outcome.send(dial_peer(&shared, &client, address, peer, idle_timeout).await);
            });
        }
        Dial(dial)
    }

    /// The counters so far.
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
    /// The next accepted connection, if there is one.
    pub fn try_next(&mut self) -> Option<Connection> {
        self.0.try_recv().ok()
    }

    /// Waits for the next accepted connection; `None` once the node is dropped.
    pub async fn next(&mut self) -> Option<Connection> {
        self.0.recv().await
    }

    /// As [`Self::next`], but blocks this thread.
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
    /// [`ConnectError`] if it cannot be established.
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
        let farewell = Arc::clone(&shared.farewell);
        let serve = async move {
            tokio::select! {
                _ = stopped => {}
                () = accept(shared, server) => {}
            }
            for endpoint in &both {
                endpoint.close(CLOSED, b"this node is shutting down");
            }
            // Not until they have drained, which takes three probe timeouts: the peers are told, that is enough.
            let _ = tokio::time::timeout(FAREWELL, farewell.all_said()).await;
        };
        let thread = std::thread::Builder::new()
            .name(format!("dflow-quic-{index}"))
            .spawn(move || runtime.block_on(serve))
            .map_err(NodeError::Thread)?;
        Ok(Self { runtime: handle, client, stop: Some(stop), thread: Some(thread) })
    }
}

/// A bare quinn endpoint with the transport, TLS and sockets of a [`QuicNode`]: a baseline for benchmarks, and the basis of
/// hostile peers in tests. To be called within a tokio runtime.
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

/// A quinn endpoint with default settings and the TLS of a [`QuicNode`]. To be called within a tokio runtime.
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
    // Nodes do not change their address within a connection.
    config.migration(false);
    config.max_incoming(MAX_HANDSHAKES);
    config
}

/// `settings`: those for the peer ([`QuicSettings::for_peer`]).
fn client_config(tls: &Tls, settings: &QuicSettings, idle_timeout: Duration) -> quinn::ClientConfig {
    let mut config = quinn::ClientConfig::new(tls.client.clone());
    config.transport_config(Arc::new(settings.transport(0, idle_timeout)));
    config
}

impl NodeShared {
    /// To be called within the runtime of an endpoint.
    fn refused(&self, address: SocketAddr, refusal: &Refusal) {
        self.counters.refused.note(&Handle::current(), address, refusal);
    }
}

/// Makes glibc keep the memory of large packets. quinn allocates for every received packet; glibc returned that memory to
/// the kernel with each free and faulted it in again, which took half of all time. It stops doing so for blocks up to the
/// size of the largest that was ever freed, so one such block is freed here.
fn keep_freed_memory() {
    const LARGEST: usize = 16 * 1024 * 1024;
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGEST)));
}

/// To be called within the runtime of its thread.
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
            shared.refused(address, &Refusal::new(Cause::Busy, "there are too many connections or handshakes"));
            incoming.refuse();
        } else if under_way >= BUSY_HANDSHAKES && incoming.may_retry() && !incoming.remote_address_validated() {
            let _ = incoming.retry();
        } else {
            let mut config = shared.server.clone();
            let settings = shared.settings.for_peer(address.ip());
            config.transport_config(Arc::new(settings.transport(1, settings.idle_timeout)));
            // Accepted before the handshake task runs, so that it counts as open for the next one.
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
                let late =
                    || Refusal::new(Cause::Silence, format!("it did not complete the handshake within {limit:?}"));
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
    shared.farewell.watch(connection.quic().clone());
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
    let settings = shared.settings.for_peer(address.ip());
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
            shared.farewell.watch(connection.quic().clone());
            shared.counters.dialed.fetch_add(1, Ordering::Relaxed);
            Ok(connection)
        }
        Err(Refusal { cause, reason }) => Err(ConnectError::Failed { peer, address, cause, reason }),
    }
}
