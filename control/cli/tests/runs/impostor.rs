//! A node that has a certificate and violates the protocol: it is a proxy before the worker of a node, which forwards the
//! messages between the worker and its callers, and inserts messages of its own.

use crate::nodes::Cluster;
use dflow_protocol::wire::PeerMessage;
use dflow_transport::identity::Identity;
use dflow_transport::quic::{QuicSettings, bare_endpoint};
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::sync::oneshot;

/// The attacked node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The driver of a run, which is the first to call.
    Driver,
    /// The other worker of that run, which calls next.
    Caller,
    /// The worker itself, in the name of the driver.
    Worker,
}

/// The message that it inserts.
#[derive(Clone, Debug)]
pub enum Attack {
    /// After the first message of the path.
    Message(PeerMessage),
    /// Instead of the first message of the path.
    Beginning(PeerMessage),
    /// On the management channel, as one message.
    Management(Vec<u8>),
    /// On a separate stream.
    Stream(Vec<u8>),
    /// No message: it closes each connection as soon as it is established.
    HangUp,
}

/// An impostor; dropping it ends it.
pub struct Impostor {
    pub address: String,
    calls: Arc<AtomicUsize>,
    thread: Option<(JoinHandle<()>, oneshot::Sender<()>)>,
}

struct Plan {
    node: String,
    worker: SocketAddr,
    /// The identities of the node and of its callers: the driver, then the other worker.
    identity: Identity,
    callers: [Identity; 2],
    victim: Victim,
    attack: Attack,
}

/// The greeting, behind which there are messages with their length before them.
const GREETING: usize = 12;
const HEADER: usize = 28;
/// So long its end waits until those are told that it was connected with.
const FAREWELL: Duration = Duration::from_millis(500);

impl Impostor {
    /// Starts an impostor before the worker of `node`; `caller` is the other node that calls it.
    pub fn start(cluster: &mut Cluster, node: &str, caller: &str, victim: Victim, attack: Attack) -> Self {
        let identity = |name: &str| Identity::load(&cluster.identity(name)).unwrap();
        let (own, callers) = (identity(node), ["a", caller].map(identity));
        let worker = cluster.worker(node).address.parse().unwrap();
        let plan = Plan { node: node.to_owned(), worker, identity: own, callers, victim, attack };
        let calls = Arc::<AtomicUsize>::default();
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = std::sync::mpsc::channel();
        let counted = Arc::clone(&calls);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let endpoint = endpoint(&plan.identity);
                bound.send(endpoint.local_addr().unwrap().to_string()).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = serve(&endpoint, Arc::new(plan), &counted) => {}
                }
                endpoint.close(0u32.into(), b"the impostor is gone");
                // Further callers are not waited for.
                let _ = tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await;
            });
        });
        Self { address: address.recv().unwrap(), calls, thread: Some((thread, stop)) }
    }

    /// The number of calls that it received.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        if let Some((thread, stop)) = self.thread.take() {
            drop(stop);
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok(), "the impostor has failed");
        }
    }
}

fn endpoint(identity: &Identity) -> Endpoint {
    bare_endpoint(SocketAddr::from(([127, 0, 0, 1], 0)), identity, &QuicSettings::default()).unwrap()
}

/// Runs a task in the background. It ends without an error when its connection is closed.
fn aside(task: impl Future<Output = Option<()>> + Send + 'static) {
    tokio::spawn(task);
}

async fn serve(endpoint: &Endpoint, plan: Arc<Plan>, calls: &AtomicUsize) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(caller) = incoming.await else { continue };
        let call = calls.fetch_add(1, Ordering::Relaxed);
        aside(stand_between(Arc::clone(&plan), caller, call));
    }
}

async fn stand_between(plan: Arc<Plan>, caller: Connection, call: usize) -> Option<()> {
    let (to_caller, from_caller) = caller.accept_bi().await.ok()?;
    let is_driver = call == 0;
    let client = endpoint(&plan.callers[usize::from(!is_driver)]);
    let worker = client.connect(plan.worker, &plan.node).ok()?.await.ok()?;
    let (to_worker, from_worker) = worker.open_bi().await.ok()?;
    let is_victim = |side| plan.victim == side;
    let attacked = match is_driver {
        true if is_victim(Victim::Worker) => Some(&worker),
        true if is_victim(Victim::Driver) => Some(&caller),
        false if is_victim(Victim::Caller) => Some(&caller),
        _ => None,
    };
    let against =
        |side: &Connection| attacked.filter(|at| at.stable_id() == side.stable_id()).map(|_| plan.attack.clone());
    let (to_caller, to_worker) = (Arc::new(Mutex::new(to_caller)), Arc::new(Mutex::new(to_worker)));
    aside(pass_streams(worker.clone(), caller.clone(), against(&caller)));
    aside(pass_streams(caller.clone(), worker.clone(), against(&worker)));
    aside(pass_management(from_worker, Arc::clone(&to_caller), 0, oneshot::channel().0));
    // Behind the driver's first order and the other's hello everything is in place.
    let (told, in_place) = oneshot::channel();
    aside(pass_management(from_caller, Arc::clone(&to_worker), if is_driver { 3 } else { 1 }, told));
    if let (Some(victim), Ok(())) = (attacked, in_place.await) {
        match &plan.attack {
            Attack::Management(bytes) => {
                let channel = if is_victim(Victim::Worker) { &to_worker } else { &to_caller };
                write_message(&mut *channel.lock().await, bytes).await?;
            }
            Attack::Stream(bytes) => {
                let mut stream = victim.open_uni().await.ok()?;
                stream.write_all(bytes).await.ok()?;
                let _ = stream.finish();
            }
            Attack::HangUp => victim.close(0u32.into(), b"not today"),
            Attack::Message(_) | Attack::Beginning(_) => {}
        }
    }
    // If one side disconnects, the other is disconnected, too.
    let (other, error) = tokio::select! {
        error = caller.closed() => (worker, error),
        error = worker.closed() => (caller, error),
    };
    other.close(0u32.into(), error.to_string().as_bytes());
    client.wait_idle().await;
    Some(())
}

/// Forwards the streams that one side opens.
async fn pass_streams(from: Connection, to: Connection, attack: Option<Attack>) -> Option<()> {
    loop {
        let (incoming, outgoing) = (from.accept_uni().await.ok()?, to.open_uni().await.ok()?);
        aside(pass_stream(incoming, outgoing, attack.clone()));
    }
}

async fn pass_stream(mut from: RecvStream, mut to: SendStream, attack: Option<Attack>) -> Option<()> {
    let mut header = [0; HEADER];
    if from.read_exact(&mut header).await.is_err() {
        // Dropping it would finish it, which is a violation of its own.
        let _ = to.reset(0u32.into());
        return None;
    }
    to.write_all(&header).await.ok()?;
    let carries_messages = header[0] == 1;
    if let (true, Some(Attack::Message(message) | Attack::Beginning(message))) = (carries_messages, &attack) {
        let first = read_message(&mut from).await?;
        if matches!(attack, Some(Attack::Message(_))) {
            write_message(&mut to, &first).await?;
        }
        write_message(&mut to, &message.encode().unwrap()).await?;
    }
    let mut bytes = vec![0; 64 * 1024];
    while let Some(length) = from.read(&mut bytes).await.ok()? {
        to.write_all(&bytes[..length]).await.ok()?;
    }
    to.finish().ok()
}

/// Forwards the management channel, and signals when this many messages have passed.
async fn pass_management(
    mut from: RecvStream,
    to: Arc<Mutex<SendStream>>,
    enough: usize,
    told: oneshot::Sender<()>,
) -> Option<()> {
    let mut greeting = [0; GREETING];
    from.read_exact(&mut greeting).await.ok()?;
    to.lock().await.write_all(&greeting).await.ok()?;
    let mut told = Some(told);
    for passed in 1.. {
        let message = read_message(&mut from).await?;
        write_message(&mut *to.lock().await, &message).await?;
        if passed == enough
            && let Some(told) = told.take()
        {
            let _ = told.send(());
        }
    }
    None
}

async fn read_message(from: &mut RecvStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await.ok()?;
    let mut message = vec![0; u32::from_le_bytes(length) as usize];
    from.read_exact(&mut message).await.ok()?;
    Some(message)
}

async fn write_message(to: &mut SendStream, message: &[u8]) -> Option<()> {
    to.write_all(&u32::try_from(message.len()).unwrap().to_le_bytes()).await.ok()?;
    to.write_all(message).await.ok()
}
