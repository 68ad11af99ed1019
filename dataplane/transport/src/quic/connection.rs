//! A connection to one other node, and the channel on it over which the two manage it.

use super::node::Counters;
use super::path::QuicPath;
use super::refusal::{Cause, Refusal};
use super::routes::{Routes, over, route};
use super::{lock, tls};
use crate::identity::Validity;
use crate::path::{Path, PathError};
use dflow_protocol::limits::PEER_VERSION;
use quinn::{RecvStream, SendStream, VarInt};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::Waker;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// The longest message of the management channel, in bytes.
pub const MAX_MANAGEMENT_MESSAGE: usize = 256 * 1024;
/// Messages of the management channel that wait in each direction.
const MAX_QUEUED: usize = 16 * 1024;

/// What both sides say first: that they are dflow, and which version they speak.
const GREETING: &[u8; 8] = b"dflow\0\r\n";

/// Codes with which connections are closed.
pub(super) const CLOSED: VarInt = VarInt::from_u32(0);
pub(super) const VIOLATED: VarInt = VarInt::from_u32(1);
pub(super) const REFUSED: VarInt = VarInt::from_u32(2);
pub(super) const SILENT: VarInt = VarInt::from_u32(3);

/// Whether anything has come is looked at in each of so many parts of the silence that is borne, but at least so often.
const LOOKS: u32 = 8;
const LOOK: Duration = Duration::from_secs(1);

/// A connection to another node, which has proven who it is. Dropping it closes it, and whatever path there is on it.
pub struct Connection {
    shared: Arc<Shared>,
}

/// What the link's thread, the worker's, and the endpoint's tasks share.
pub(super) struct Shared {
    pub(super) quic: quinn::Connection,
    pub(super) runtime: Handle,
    pub(super) routes: Mutex<Routes>,
    /// How many bytes a path may have under way.
    pub(super) in_flight: u64,
    peer: String,
    validity: Validity,
    counters: Arc<Counters>,
    waker: Mutex<Option<Waker>>,
    outbox: mpsc::Sender<Vec<u8>>,
    inbox: Mutex<mpsc::Receiver<Vec<u8>>>,
    /// Somebody waits for room in the outbox.
    crowded: AtomicBool,
    /// Milliseconds without a packet after which the peer counts as gone.
    silence: AtomicU64,
    /// Why this side has closed it; QUIC does not keep that.
    closing: OnceLock<String>,
    /// What the peer has done that breaks the protocol.
    violation: OnceLock<String>,
}

/// How a connection fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionStats {
    /// The time that a packet takes there and its acknowledgement back.
    pub round_trip: Duration,
    /// The size of packets in bytes.
    pub packet_size: u16,
    /// How many bytes congestion control lets be under way.
    pub congestion_window: u64,
    /// Packets that were sent.
    pub packets_sent: u64,
    /// Packets that were lost, and their bytes sent again.
    pub packets_lost: u64,
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManagementError {
    /// Too long.
    #[error("a management message of {0} bytes, where {MAX_MANAGEMENT_MESSAGE} are the most")]
    TooLong(usize),
    /// The other side does not read.
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

    /// When the peer's certificate holds.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.shared.validity
    }

    /// The peer's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.quic.remote_address()
    }

    /// How it fares.
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

    /// Queues a message for the peer, at most [`MAX_MANAGEMENT_MESSAGE`] bytes. It arrives behind those before, once.
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

    /// Whether another message would be taken, or refused for another reason than [`ManagementError::Full`]. If not, the
    /// waker is called once half of those that wait have gone.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let outbox = &self.shared.outbox;
        if outbox.capacity() > 0 || outbox.is_closed() {
            return true;
        }
        self.shared.crowded.store(true, Ordering::SeqCst);
        // Whoever takes messages out sees that from now on; what was taken out before is seen here.
        outbox.capacity() > 0
    }

    /// The next message from the peer, if there is one.
    #[must_use]
    pub fn try_recv(&self) -> Option<Vec<u8>> {
        lock(&self.shared.inbox).try_recv().ok()
    }

    /// Calls this one, instead of the one before, when a message has come, when there is room again
    /// ([`Connection::has_room`]), or when the connection is closed. What came before
    /// is there already: look after the call.
    pub fn set_waker(&self, waker: Waker) {
        *lock(&self.shared.waker) = Some(waker);
    }

    /// After so long without a packet the peer counts as gone; both sides send some now and then. At first what the node's
    /// settings say, or what was said when it was dialed.
    pub fn bear_silence(&self, silence: Duration) {
        self.shared.silence.store(milliseconds(silence), Ordering::Relaxed);
    }

    /// Why it is closed, whoever has done that; `None` while it is not.
    #[must_use]
    pub fn closed(&self) -> Option<String> {
        self.shared.quic.close_reason().map(|error| self.shared.reason(&error))
    }

    /// Closes it. The peer is told the reason.
    pub fn close(&self, reason: &str) {
        self.shared.close(CLOSED, reason);
    }

    /// The peer has broken the protocol, above QUIC or on another path that was agreed on here: this is logged with the
    /// peer's name, counted ([`super::NodeCounters::violations`]), and the connection is closed. The peer is told the
    /// reason. Only the first violation of a connection counts, also where the connection is closed already.
    pub fn violated(&self, reason: &str) {
        self.shared.violated(reason);
    }

    /// What the peer has done that breaks the protocol, if it has.
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

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Makes sure that both sides are dflow and speak the same version, and begins to serve the connection. Within its
    /// runtime. `dialed`: this side has dialed; `silence`: see [`Connection::bear_silence`].
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
        tokio::spawn(listen(shared.clone()));
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
    /// What has come on the connection is none of what a peer sends that keeps to the protocol. Of one that is closed
    /// already, whatever is cut off says nothing.
    pub(super) fn violation(&self, error: &PathError) {
        let reason = error.to_string();
        if self.quic.close_reason().is_none() && self.blame(&reason) {
            self.broken(error);
            self.close(VIOLATED, &reason);
        }
    }

    fn violated(&self, reason: &str) {
        if self.blame(reason) {
            self.close(VIOLATED, reason);
        }
    }

    /// Logs and counts what the peer has done; `false` if it has been blamed before.
    fn blame(&self, reason: &str) -> bool {
        if self.violation.set(reason.to_owned()).is_err() {
            return false;
        }
        self.counters.violation(&self.runtime, self.quic.remote_address(), &self.peer, reason);
        true
    }

    fn close(&self, code: VarInt, reason: &str) {
        // Before it is closed, so that whoever finds it closed finds the reason.
        let _ = self.closing.set(reason.to_owned());
        self.quic.close(code, reason.as_bytes());
    }

    /// Why it is closed, in words.
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

/// Closes the connection when nothing has come for too long. QUIC has a time-out of its own for that, but it is never less
/// than three times what an answer may take; after this process was stopped for a while, or had no processor, that is many
/// times the silence. Here only the time counts in which this side has looked.
async fn listen(shared: Arc<Shared>) {
    let heard = || shared.quic.stats().udp_rx.datagrams;
    let (mut before, mut quiet) = (heard(), Duration::ZERO);
    while shared.quic.close_reason().is_none() {
        let silence = Duration::from_millis(shared.silence.load(Ordering::Relaxed));
        let pause = (silence / LOOKS).min(LOOK);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = shared.quic.closed() => return,
        }
        let now = heard();
        quiet = if now == before { quiet + pause } else { Duration::ZERO };
        before = now;
        if quiet >= silence {
            shared.close(SILENT, tls::NOTHING_HAS_COME);
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The version goes first, so that releases that otherwise share nothing can still say so. The side that has dialed waits
/// for the answer: only then has the other side accepted its certificate.
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

/// `shared`: not kept by this task, which ends when nobody can queue messages any more.
async fn send_management(shared: Weak<Shared>, mut stream: SendStream, mut messages: mpsc::Receiver<Vec<u8>>) {
    while let Some(message) = messages.recv().await {
        if messages.len() <= MAX_QUEUED / 2
            && let Some(shared) = shared.upgrade()
            && shared.crowded.swap(false, Ordering::SeqCst)
        {
            shared.wake();
        }
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_le_bytes();
        // An error means that the connection is gone, which others tell.
        if stream.write_all(&length).await.is_err() || stream.write_all(&message).await.is_err() {
            return;
        }
    }
}

async fn receive_management(shared: Arc<Shared>, mut stream: RecvStream, messages: mpsc::Sender<Vec<u8>>) {
    loop {
        let mut length = [0; 4];
        if stream.read_exact(&mut length).await.is_err() {
            break;
        }
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_MANAGEMENT_MESSAGE {
            return shared.violation(&PathError::Protocol(ManagementError::TooLong(length).to_string()));
        }
        let mut message = vec![0; length];
        if stream.read_exact(&mut message).await.is_err() || messages.send(message).await.is_err() {
            break;
        }
        shared.wake();
    }
    // It lives as long as the connection.
    shared.violation(&PathError::Protocol("the management channel ended".to_owned()));
}
