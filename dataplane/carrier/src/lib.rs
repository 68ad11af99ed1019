//! The carrier: the thread that carries the streams of all runs of a node to and from other nodes.
//!
//! The store treats the carrier as one more attempt of each run ([`dflow_ports::Attachment`]), so epochs, credit, retention and
//! spilling need no second mechanism between nodes: a stream that another node reads has one more reader here, and a stream
//! that comes from another node has a producer here. A stream therefore crosses to a node once, however many functions read it
//! there, and a node can forward a stream that it has.
//!
//! It stands on `dflow-transport`, whose [`Link`](dflow_transport::Link) decides what is sent, and on `dflow-ports`, through
//! which it reads and writes. There is one link to each other node, and all runs share it: streams are named by run, stream and
//! epoch. The node tells the carrier which runs there are and which streams cross ([`Command`]). A run that ends, or whose
//! channel to the store fails, disturbs no other.

mod channels;
mod export;
mod import;
mod peer;
mod ports;
mod runs;
mod streams;
mod watch;
mod worker;

use channels::Channels;
pub use dflow_transport::RunTraffic;

use dflow_protocol::wire::StreamKey;
use dflow_protocol::{PortId, RunId};
use dflow_shm::Doorbell;
use dflow_transport::{LinkEvent, LinkStats, Path};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;
use worker::Worker;

/// Another node: its index in the list of nodes that both sides have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// The time that the thread has to end by itself before its channels to the store are shut down.
const ORDERLY: Duration = Duration::from_millis(100);

/// A command to the carrier.
pub enum Command {
    /// A run begins on this node. The descriptor is the carrier's end of a channel to the store, for which the store has begun
    /// one more attempt of the run.
    Begin(RunId, OwnedFd),
    /// The run is over: none of its streams comes from a peer or goes to one any more. Its channel to the store is closed as
    /// soon as no peer can write into its windows, which is when the last of them has said so or has lost its path. Only then
    /// may the store regard the attempt as ended.
    End(RunId),
    /// The peer may read this stream, through this port of the store.
    Export(NodeId, StreamKey, PortId),
    /// This stream comes from the peer, through this port of the store.
    Import(NodeId, StreamKey, PortId),
    /// This epoch of a stream is aborted: it comes from no peer and goes to none any more.
    Drop(StreamKey),
    /// The run has nothing more to do with this peer: none of its streams comes from it or goes to it any more.
    Leave(NodeId, RunId),
    /// Use this path to the peer from now on; its number is the same on both sides.
    Connect(NodeId, Box<dyn Path>, u64),
    /// A path to the peer is lost after this long without a sign of life. Ten seconds, unless this says otherwise.
    Silence(NodeId, Duration),
    /// The peer is gone for good: its link is closed, and every stream on it is dropped. If it is connected again, both ends
    /// begin again.
    Forget(NodeId),
    /// Report the figures of this run on every link, and those of the links, then [`Report::Summed`].
    Sum(RunId),
}

/// A report of the carrier.
#[derive(Debug)]
pub enum Report {
    /// A stream does not come any further, for a reason on this node. A stream that the peer aborted is not reported here: the
    /// peer's node reports the reason.
    ImportFailed(StreamKey, String),
    /// A stream of this node cannot be read, so that the peers do not get all of it.
    ExportFailed(StreamKey, String),
    /// The path of this number is lost, or was closed because the peer broke the protocol.
    Path(NodeId, u64, LinkEvent),
    /// The figures of the link to a peer. Reported when they have changed, ten times a second.
    Stats(NodeId, LinkStats),
    /// The figures of a run on the link to a peer. Reported when they have changed, ten times a second, and at the run's end.
    RunStats(RunId, NodeId, RunTraffic),
    /// The answer to [`Command::Sum`]: the figures of this run that were reported before it are current.
    Summed(RunId),
    /// The channel to the store for this run has failed, so that this run cannot go on here. Its streams are dropped as at
    /// [`Command::End`].
    RunFailed(RunId, String),
    /// The carrier cannot go on.
    Failed(String),
}

/// The carrier's thread. Dropping it ends it.
pub struct Carrier {
    commands: Option<Sender<Command>>,
    bell: Arc<Doorbell>,
    thread: Option<JoinHandle<()>>,
    /// Closed by the thread at its end.
    ended: Receiver<()>,
    channels: Arc<Channels>,
}

impl Carrier {
    /// Starts the thread. `life`: a random number of this process; `report` is called on the thread.
    ///
    /// # Errors
    /// If the process has no more threads.
    pub fn start(life: u64, report: impl Fn(Report) + Send + 'static) -> std::io::Result<Self> {
        let (commands, queue) = channel();
        let (ending, ended) = channel();
        let bell = Arc::new(Doorbell::default());
        let channels = Arc::<Channels>::default();
        let (rung, opened) = (Arc::clone(&bell), Arc::clone(&channels));
        let run = move || {
            let _ending: Sender<()> = ending;
            let work = || Worker::new(queue, rung, opened, life, &report).run();
            // Otherwise the node would wait for ever for streams that nothing carries any more.
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                report(Report::Failed("its thread has panicked".into()));
            }
        };
        let thread = std::thread::Builder::new().name("carrier".into()).spawn(run)?;
        Ok(Self { commands: Some(commands), bell, thread: Some(thread), ended, channels })
    }

    /// Queues a command and wakes the thread.
    pub fn tell(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // Fails only after the thread has ended, which it has reported.
            let _ = commands.send(command);
            self.bell.ring();
        }
    }

    /// Ends the thread. Before this returns, it reports the final figures of every link and run.
    pub fn finish(self) {
        drop(self);
    }

    /// The waker of the thread, for the paths that it drives.
    pub fn waker(&self) -> Waker {
        self.bell.waker()
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.commands = None;
        self.bell.ring();
        // The caller may be the thread that runs the store: then nobody answers a carrier that waits for the store, and only
        // shutting down its channels wakes it.
        if self.ended.recv_timeout(ORDERLY) == Err(RecvTimeoutError::Timeout)
            && let Err(error) = self.channels.shut_down()
        {
            // A sandbox may forbid it. The thread then ends when the store closes the other end, which it may only do after
            // this: to wait for the thread could be for ever.
            tracing::warn!(%error, "a carrier that waits for the store is left alone");
            return;
        }
        if let Some(thread) = self.thread.take() {
            // It ends with its queue of commands. A panic there has been printed already.
            let _ = thread.join();
        }
    }
}
