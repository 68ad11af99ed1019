//! A connection to one other node, with a management channel between the two.

use super::node::Counters;
use super::path::QuicPath;
use super::refusal::{Cause, Refusal};
use super::routes::{Routes, over, route};
use super::{lock, tls};
use crate::identity::Validity;
use crate::path::{Path, PathError};
use dflow_protocol::limits::{MAX_SETUP, PEER_VERSION};
use quinn::{RecvStream, SendStream, VarInt};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::Waker;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The longest message of the management channel, in bytes. The longest is an order to prepare a function with thousands
/// of ports: its setup, and for each input the names of its sources.
pub const MAX_MANAGEMENT_MESSAGE: usize = 2 * MAX_SETUP + 1024 * 1024;
/// The most bytes of messages that have come on the management channel and wait to be taken. Past it the channel is not
/// read, and QUIC's flow control holds the peer.
const MAX_UNREAD: usize = 2 * MAX_MANAGEMENT_MESSAGE;
/// The most messages of the management channel that wait in each direction.
const MAX_QUEUED: usize = 16 * 1024;

/// The first bytes from both sides; the protocol version follows.
const GREETING: &[u8; 8] = b"dflow\0\r\n";

/// Codes with which connections are closed.
pub(super) const CLOSED: VarInt = VarInt::from_u32(0);
pub(super) const VIOLATED: VarInt = VarInt::from_u32(1);
pub(super) const REFUSED: VarInt = VarInt::from_u32(2);
pub(super) const SILENT: VarInt = VarInt::from_u32(3);

/// Liveness is checked this many times within the silence limit, and at least once in [`MAX_CHECK_INTERVAL`].
const CHECKS: u32 = 8;
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A connection to an authenticated node. Dropping it closes it and the path on it.
pub struct Connection {
    shared: Arc<Shared>,
}

/// A message, and its share of [`MAX_UNREAD`] until it is taken.
type Received = (Vec<u8>, OwnedSemaphorePermit);

/// Shared by the link's thread, the worker's, and the endpoint's tasks.
pub(super) struct Shared {
    pub(super) quic: quinn::Connection,
    pub(super) runtime: Handle,
    pub(super) routes: Mutex<Routes>,
    /// The most bytes of a path in flight.
    pub(super) in_flight: u64,
    peer: String,
    validity: Validity,
    counters: Arc<Counters>,
    waker: Mutex<Option<Waker>>,
    outbox: mpsc::Sender<Vec<u8>>,
    inbox: Mutex<mpsc::Receiver<Received>>,
    /// The worker waits for room in the outbox.
    crowded: AtomicBool,
    /// The silence limit in milliseconds: after this long without a packet the peer is considered gone.
    silence: AtomicU64,
    /// Why this side has closed it: quinn does not keep the reason.
    closing: OnceLock<String>,
    /// How the peer broke the protocol.
    violation: OnceLock<String>,
}

/// The condition of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionStats {
    /// The round-trip time.
    pub round_trip: Duration,
    /// The size of packets in bytes.
    pub packet_size: u16,
    /// The congestion window, in bytes.
    pub congestion_window: u64,
    /// Packets that were sent.
    pub packets_sent: u64,
    /// Packets that were lost and retransmitted.
    pub packets_lost: u64,
}

/// Why a message was not queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManagementError {
    /// Too long.
    #[error("a management message of {0} bytes, where {MAX_MANAGEMENT_MESSAGE} are the most")]
    TooLong(usize),
    /// The queue is full: the other side does not read.
    #[error("{MAX_QUEUED} management messages wait already: the peer does not read them")]
    Full,
    /// The connection is gone.
    #[error("the connection is closed: {0}")]
    Closed(String),
}

impl Connection {
    /// The name in the peer's certificate.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.shared.peer
    }

    /// The validity period of the peer's certificate.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.shared.validity
    }

    /// The peer's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.quic.remote_address()
    }

    /// The condition of the connection.
    #[must_use]
    pub fn stats(&self) -> ConnectionStats {
        let path = self.shared.quic.stats().path;
        ConnectionStats {
            round_trip: path.rtt,
            packet_size: path.current_mtu,
            congestion_window: path.cwnd,
            packets_sent: path.sent_packets,
            packets_lost: path.lost_packets,
        }
    }

    /// Queues a message for the peer, at most [`MAX_MANAGEMENT_MESSAGE`] bytes. Messages arrive once and in order.
    ///
    /// # Errors
    /// If it is too long, too many wait already, or the connection is closed.
    pub fn send(&self, message: Vec<u8>) -> Result<(), ManagementError> {
        if message.len() > MAX_MANAGEMENT_MESSAGE {
            return Err(ManagementError::TooLong(message.len()));
        }
        if let Some(reason) = self.closed() {
            return Err(ManagementError::Closed(reason));
        }
        self.shared.outbox.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ManagementError::Full,
            mpsc::error::TrySendError::Closed(_) => ManagementError::Closed(self.closed().unwrap_or_default()),
        })
    }

    /// Whether [`Connection::send`] would not fail with [`ManagementError::Full`]. If it would, the waker is called once half
    /// of the queue is sent.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let outbox = &self.shared.outbox;
        if outbox.capacity() > 0 || outbox.is_closed() {
            return true;
        }
        self.shared.crowded.store(true, Ordering::SeqCst);
        // Checked again: the sending task may have made room between the check and the store.
        outbox.capacity() > 0
    }

    /// The next message from the peer, if there is one.
    #[must_use]
    pub fn try_recv(&self) -> Option<Vec<u8>> {
        lock(&self.shared.inbox).try_recv().ok().map(|(message, _)| message)
    }

    /// Sets the waker, in place of the one before. It is called when a message arrives, when there is room again
    /// ([`Connection::has_room`]), and when the connection is closed. Check for earlier messages after this call: they wake
    /// nobody.
    pub fn set_waker(&self, waker: Waker) {
        *lock(&self.shared.waker) = Some(waker);
    }

    /// Sets the silence limit: after this long without a packet the peer is considered gone. Both sides send keep-alives.
    /// The default is the idle timeout of the node's settings, or the one that the connection was dialed with.
    pub fn set_silence_limit(&self, silence: Duration) {
        self.shared.silence.store(milliseconds(silence), Ordering::Relaxed);
    }

    /// Why it is closed, by either side; `None` while it is open.
    #[must_use]
    pub fn closed(&self) -> Option<String> {
        self.shared.quic.close_reason().map(|error| self.shared.reason(&error))
    }

    /// Closes it. The peer receives the reason.
    pub fn close(&self, reason: &str) {
        self.shared.close(CLOSED, reason);
    }

    /// Closes the connection because the peer broke the protocol, above QUIC or on a path that was negotiated here. The
    /// violation is logged with the peer's name and counted ([`super::NodeCounters::violations`]), and the peer receives the
    /// reason. Only the first violation of a connection counts, even if the connection is closed already.
    pub fn violated(&self, reason: &str) {
        self.shared.violated(reason);
    }

    /// How the peer broke the protocol, if it did.
    #[must_use]
    pub fn violation(&self) -> Option<&str> {
        self.shared.violation.get().map(String::as_str)
    }

    /// A path on this connection, in place of the one before: see [`QuicPath::new`].
    ///
    /// # Errors
    /// If the connection is closed, or the number is not higher than those of the paths before.
    pub fn path(&self, number: u64, waker: Waker) -> Result<Box<dyn Path>, PathError> {
        Ok(Box::new(QuicPath::new(self, number, waker)?))
    }

    /// The connection of quinn.
    pub(super) fn quic(&self) -> &quinn::Connection {
        &self.shared.quic
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Checks that both sides are dflow and speak the same version, and begins to serve the connection. To be called within
    /// its runtime. `dialed`: this side has dialed; `silence`: see [`Connection::set_silence_limit`].
    pub(super) async fn establish(
        quic: quinn::Connection,
        dialed: bool,
        in_flight: u64,
        silence: Duration,
        counters: Arc<Counters>,
    ) -> Result<Self, Refusal> {
        let refuse = |refusal: &Refusal| quic.close(REFUSED, refusal.reason.as_bytes());
        let (peer, validity) =
            tls::peer(&quic).map_err(|problem| Refusal::new(Cause::Certificate, problem)).inspect_err(refuse)?;
        let (outgoing, incoming) = greet(&quic, dialed).await.inspect_err(refuse)?;
        let (outbox, to_send) = mpsc::channel(MAX_QUEUED);
        let (received, inbox) = mpsc::channel(MAX_QUEUED);
        let shared = Arc::new(Shared {
            quic,
            runtime: Handle::current(),
            routes: Mutex::default(),
            in_flight,
            peer,
            validity,
            counters,
            waker: Mutex::default(),
            outbox,
            inbox: Mutex::new(inbox),
            crowded: AtomicBool::new(false),
            silence: AtomicU64::new(milliseconds(silence)),
            closing: OnceLock::new(),
            violation: OnceLock::new(),
        });
        tokio::spawn(serve(shared.clone()));
        tokio::spawn(watch_liveness(shared.clone()));
        tokio::spawn(send_management(Arc::downgrade(&shared), outgoing, to_send));
        tokio::spawn(receive_management(shared.clone(), incoming, received));
        Ok(Self { shared })
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer()).field("address", &self.address()).finish()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close("this connection is not needed any more");
    }
}

impl Shared {
    /// A protocol violation on the connection itself. Ignored once the connection is closed, because then streams are cut
    /// off anywhere.
    pub(super) fn violation(&self, error: &PathError) {
        let reason = error.to_string();
        if self.quic.close_reason().is_none() && self.record_violation(&reason) {
            self.broken(error);
            self.close(VIOLATED, &reason);
        }
    }

    fn violated(&self, reason: &str) {
        if self.record_violation(reason) {
            self.close(VIOLATED, reason);
        }
    }

    /// Logs and counts a violation; `false` if it is not the first.
    fn record_violation(&self, reason: &str) -> bool {
        if self.violation.set(reason.to_owned()).is_err() {
            return false;
        }
        self.counters.violation(&self.runtime, self.quic.remote_address(), &self.peer, reason);
        true
    }

    fn close(&self, code: VarInt, reason: &str) {
        // Before closing: another thread that finds the connection closed must find the reason.
        let _ = self.closing.set(reason.to_owned());
        self.quic.close(code, reason.as_bytes());
    }

    /// Why it is closed, for people.
    pub(super) fn reason(&self, error: &quinn::ConnectionError) -> String {
        let own = match error {
            quinn::ConnectionError::LocallyClosed => self.violation.get().or(self.closing.get()),
            _ => self.violation.get(),
        };
        own.cloned().unwrap_or_else(|| tls::reason(error))
    }

    fn wake(&self) {
        if let Some(waker) = &*lock(&self.waker) {
            waker.wake_by_ref();
        }
    }
}

/// Takes the streams that the peer opens, until the connection is gone.
async fn serve(shared: Arc<Shared>) {
    let error = loop {
        match shared.quic.accept_uni().await {
            Ok(stream) => tokio::spawn(route(shared.clone(), stream)),
            Err(error) => break error,
        };
    };
    shared.broken(&over(&shared.reason(&error)));
    shared.wake();
}

/// Closes the connection after the silence limit. QUIC's own idle timeout is at least three probe timeouts; after this
/// process was stopped, or starved of CPU, that is many times the limit. Here only time counts during which this task ran.
async fn watch_liveness(shared: Arc<Shared>) {
    let packets = || shared.quic.stats().udp_rx.datagrams;
    let (mut before, mut quiet) = (packets(), Duration::ZERO);
    while shared.quic.close_reason().is_none() {
        let silence = Duration::from_millis(shared.silence.load(Ordering::Relaxed));
        let pause = (silence / CHECKS).min(MAX_CHECK_INTERVAL);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = shared.quic.closed() => return,
        }
        let now = packets();
        quiet = if now == before { quiet + pause } else { Duration::ZERO };
        before = now;
        if quiet >= silence {
            shared.close(SILENT, tls::SILENT_REASON);
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Exchanges greetings. The version comes first, so that releases with nothing else in common can still report it. The
/// dialing side waits for the answer: only then has the other side accepted its certificate.
async fn greet(quic: &quinn::Connection, dialed: bool) -> Result<(SendStream, RecvStream), Refusal> {
    let failed = |error: quinn::ConnectionError| Refusal::from(&error);
    let (mut outgoing, mut incoming) =
        if dialed { quic.open_bi().await.map_err(failed)? } else { quic.accept_bi().await.map_err(failed)? };
    let _ = outgoing.set_priority(i32::MAX);
    let mut greeting = GREETING.to_vec();
    greeting.extend_from_slice(&PEER_VERSION.to_le_bytes());
    let lost = || match quic.close_reason() {
        Some(error) => Refusal::from(&error),
        None => Refusal::new(Cause::Version, "its greeting is cut short"),
    };
    outgoing.write_all(&greeting).await.map_err(|_| lost())?;
    let mut theirs = [0; GREETING.len()];
    incoming.read_exact(&mut theirs).await.map_err(|_| lost())?;
    if &theirs != GREETING {
        return Err(Refusal::new(Cause::Version, "its greeting is not that of dflow"));
    }
    let mut version = [0; 4];
    incoming.read_exact(&mut version).await.map_err(|_| lost())?;
    let theirs = u32::from_le_bytes(version);
    if theirs != PEER_VERSION {
        let reason = format!(
            "it speaks version {theirs} of the protocol between nodes, this node {PEER_VERSION}: \
             run the same release on both"
        );
        return Err(Refusal::new(Cause::Version, reason));
    }
    Ok((outgoing, incoming))
}

/// `shared` is weak: the task ends when the last sender of messages is dropped, which `shared` owns.
async fn send_management(shared: Weak<Shared>, mut stream: SendStream, mut messages: mpsc::Receiver<Vec<u8>>) {
    while let Some(message) = messages.recv().await {
        if messages.len() <= MAX_QUEUED / 2
            && let Some(shared) = shared.upgrade()
            && shared.crowded.swap(false, Ordering::SeqCst)
        {
            shared.wake();
        }
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_le_bytes();
        // An error means that the connection is gone, which `serve` reports.
        if stream.write_all(&length).await.is_err() || stream.write_all(&message).await.is_err() {
            return;
        }
    }
}

async fn receive_management(shared: Arc<Shared>, mut stream: RecvStream, messages: mpsc::Sender<Received>) {
    let room = Arc::new(Semaphore::new(MAX_UNREAD));
    loop {
        let mut length = [0; 4];
        if stream.read_exact(&mut length).await.is_err() {
            break;
        }
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_MANAGEMENT_MESSAGE {
            return shared.violation(&PathError::Protocol(ManagementError::TooLong(length).to_string()));
        }
        // Before the memory is allocated.
        let share = tokio::select! {
            share = room.clone().acquire_many_owned(u32::try_from(length).unwrap_or(u32::MAX)) => share,
            _ = shared.quic.closed() => break,
        };
        // Nobody closes the semaphore.
        let Ok(share) = share else { break };
        let mut message = vec![0; length];
        if stream.read_exact(&mut message).await.is_err() || messages.send((message, share)).await.is_err() {
            break;
        }
        shared.wake();
    }
    // A peer that keeps to the protocol never ends the channel before the connection.
    shared.violation(&PathError::Protocol("the management channel ended".to_owned()));
}
