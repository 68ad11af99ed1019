//! The node: one store, one launcher, one set of slots, one thread for spilling, and one connection with each other process
//! of the cluster, for all runs that it takes part in.
//!
//! A run is a [`Guest`]: it gives orders, and gets notices of what has happened. Everything that a run has on the node is
//! charged to it and returned when the guest is dropped; what follows from a notice is decided by the run's driver, on this
//! node or on another.
//!
//! The node lives on one thread. [`NodeHandle::serve`] is its event loop; the drivers and sessions of runs are other tasks of
//! the same thread, and borrow the node only between two awaits.

mod admission;
mod attempt;
mod attempts;
mod carry;
mod connection;
pub(crate) mod counts;
mod dial;
pub(crate) mod error;
mod events;
mod guest;
mod limits;
mod mail;
mod orders;
mod peers;
pub(crate) mod program;
pub(crate) mod sink;
mod start;
pub(crate) mod surroundings;
pub(crate) mod unusable;

pub use admission::AdmissionError;
pub(crate) use dflow_carrier::NodeId;
pub(crate) use guest::Guest;
pub(crate) use mail::{Letter, Mail};
pub(crate) use peers::Joining;

use crate::options::{NodeOptions, cores};
use crate::report::MemoryReport;
use admission::Admission;
use attempt::Attempt;
use connection::{Arrival, Connection};
use dflow_carrier::Report;
use dflow_launcher::{Launcher, LauncherEvent, LauncherOptions};
use dflow_protocol::RunId;
use dflow_scheduler::SlotPool;
use dflow_shm::now_nanos;
use dflow_store::{Completion, Config, ProcessId, Store, TenantId, Threads};
use error::NodeError;
use guest::GuestState;
use peers::Peers;
use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The most events of the launcher in one turn, so that a program that prints without end does not starve the others.
const LAUNCHER_EVENTS: usize = 64;
/// The interval at which the store re-examines its streams and attempts are checked against their time limits.
const TICK: Duration = Duration::from_millis(100);

/// The end of a thread of the node.
type ThreadEnd = (ProcessId, Result<(), String>);

/// A node, shared by the tasks of one thread.
#[derive(Clone)]
pub(crate) struct NodeHandle(Rc<RefCell<Node>>);

/// See the [module](self).
pub(crate) struct Node {
    options: NodeOptions,
    /// Kept, because determining it reads files.
    cores: usize,
    store: Store,
    launcher: LauncherSeat,
    slots: SlotPool<ProcessId>,
    guests: BTreeMap<RunId, GuestState>,
    /// Guests with notices that they have not been woken for.
    noticed: BTreeSet<RunId>,
    admission: Admission,
    /// The tenants by name. Their number is bounded by that of the cluster's certificates.
    tenants: HashMap<String, TenantId>,
    connections: HashMap<ProcessId, Connection>,
    attempts: BTreeMap<ProcessId, Attempt>,
    /// Processes that compute, and those that wait for data or credit.
    running: BTreeSet<ProcessId>,
    parked: BTreeSet<ProcessId>,
    next_process: u64,
    tick: tokio::time::Interval,
    /// When time limits were checked last.
    looked_at: Duration,
    arrivals: UnboundedSender<Arrival>,
    arriving: UnboundedReceiver<Arrival>,
    /// Jobs of the store that its threads have done.
    completing: UnboundedReceiver<Completion>,
    /// Exits of processes whose output is still being compared with that of an earlier attempt.
    comparing: Vec<LauncherEvent>,
    thread_ends: UnboundedSender<ThreadEnd>,
    ending: UnboundedReceiver<ThreadEnd>,
    carried: UnboundedSender<Report>,
    carrying: UnboundedReceiver<Report>,
    peers: Peers,
    /// The carrier's attempts of runs that are over.
    leaving: BTreeMap<ProcessId, RunId>,
}

/// The launcher and the socket on which it is heard.
struct LauncherSeat {
    launcher: Launcher,
    /// A duplicate of the launcher's socket, for the event loop.
    socket: UnixDatagram,
    /// It has more events than one turn takes.
    is_ahead: bool,
    /// It has ended, and another is started when the next run is admitted.
    is_gone: bool,
    /// Attempts to be ended that its queue has no room for yet, each with its grace.
    stops: VecDeque<(ProcessId, Duration)>,
}

impl LauncherSeat {
    fn new(launcher: Launcher) -> std::io::Result<Self> {
        let socket = UnixDatagram::from_std(launcher.as_fd().try_clone_to_owned()?.into())?;
        Ok(Self { launcher, socket, is_ahead: false, is_gone: false, stops: VecDeque::new() })
    }
}

/// The time as the store and the functions count it.
fn now() -> Duration {
    Duration::from_nanos(now_nanos())
}

impl NodeHandle {
    /// A node without runs. Must be called on a tokio `LocalSet`.
    ///
    /// # Errors
    /// If the machine lacks what a store needs.
    pub(crate) fn new(options: &NodeOptions, launcher: Launcher) -> Result<Self, NodeError> {
        Node::new(options, launcher).map(|node| Self(Rc::new(RefCell::new(node))))
    }

    /// The node's event loop. It never ends by itself.
    pub(crate) async fn serve(self) {
        let wakeup = Arc::clone(&self.node().peers.wakeup);
        loop {
            tokio::select! {
                () = poll_fn(|context| self.node().poll_turn(context)) => {}
                () = wakeup.woken() => self.node().take_messages(),
            }
            self.node().settle();
            self.begin_dials();
            let is_ahead = self.node().launcher.is_ahead;
            if is_ahead {
                // Otherwise a program that prints without end would keep the drivers from taking what it has printed.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Borrows the node, which must not last beyond an await or a call of another method of a handle or guest.
    fn node(&self) -> RefMut<'_, Node> {
        self.0.borrow_mut()
    }

    /// The memory for streams, over all runs.
    pub(crate) fn memory(&self) -> MemoryReport {
        self.node().memory()
    }
}

/// Starts a launcher for a node with these options.
///
/// # Errors
/// If it does not start.
pub(crate) fn start_launcher(options: &NodeOptions) -> Result<Launcher, dflow_launcher::Error> {
    Launcher::start(&LauncherOptions { containment: options.containment, ..LauncherOptions::default() })
}

impl Node {
    fn new(options: &NodeOptions, launcher: Launcher) -> Result<Self, NodeError> {
        let launcher = LauncherSeat::new(launcher).map_err(NodeError::Watch)?;
        let (completed, completing) = unbounded_channel();
        let threads = Threads::start(&options.spill_dir, options.spill_io, move |completion| {
            // Fails only when the node is gone, which no longer needs it.
            let _ = completed.send(completion);
        })?;
        let config = Config { window: options.window, ..Config::new(options.budget()?) };
        let store = Store::new(config, Box::new(threads))?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (arrivals, arriving) = unbounded_channel();
        let (thread_ends, ending) = unbounded_channel();
        let (carried, carrying) = unbounded_channel();
        Ok(Self {
            options: options.clone(),
            cores: cores(),
            store,
            launcher,
            slots: SlotPool::new(options.slots),
            guests: BTreeMap::new(),
            noticed: BTreeSet::new(),
            admission: Admission::default(),
            tenants: HashMap::new(),
            connections: HashMap::new(),
            attempts: BTreeMap::new(),
            running: BTreeSet::new(),
            parked: BTreeSet::new(),
            next_process: 0,
            tick,
            looked_at: now(),
            arrivals,
            arriving,
            completing,
            comparing: Vec::new(),
            thread_ends,
            ending,
            carried,
            carrying,
            peers: Peers::new(),
            leaving: BTreeMap::new(),
        })
    }

    /// Handles everything that has happened; pending if that was nothing.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut any = false;
        while let Poll::Ready(Some(arrival)) = self.arriving.poll_recv(context) {
            self.arrived(arrival);
            any = true;
        }
        while self.launcher.is_ahead || self.poll_launcher(context).is_ready() {
            any = true;
            self.launcher_events();
            if self.launcher.is_ahead {
                break;
            }
        }
        while let Poll::Ready(Some(completion)) = self.completing.poll_recv(context) {
            self.store.complete(now(), completion);
            // The job may have been the last comparison that one of these exits waits for.
            for exit in std::mem::take(&mut self.comparing) {
                self.process_exited(&exit);
            }
            any = true;
        }
        while let Poll::Ready(Some((process, result))) = self.ending.poll_recv(context) {
            self.thread_ended(process, result);
            any = true;
        }
        while let Poll::Ready(Some(report)) = self.carrying.poll_recv(context) {
            self.carrier_report(report);
            any = true;
        }
        if self.tick.poll_tick(context).is_ready() {
            self.store.tick(now());
            self.look_at_limits();
            self.tick_peers();
            any = true;
        }
        if any { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ready if the launcher's socket is readable. That is forgotten before the events are taken: what comes from then on
    /// makes it readable again.
    fn poll_launcher(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.launcher.is_gone {
            return Poll::Pending;
        }
        let ready = self.launcher.socket.poll_recv_ready(context).map(|_| ());
        if ready.is_ready() {
            let _ = self
                .launcher
                .socket
                .try_io(Interest::READABLE, || -> std::io::Result<()> { Err(std::io::ErrorKind::WouldBlock.into()) });
        }
        ready
    }

    /// Hands out slots, sends what is to be sent, and wakes the guests that have notices.
    fn settle(&mut self) {
        self.take_store_events();
        self.grant_slots();
        self.send_outgoing();
        // Behind the messages: these wake attempts, which hold slots again from now on.
        self.resume_parked();
        self.send_stops();
        if self.launcher.launcher.wants_write() {
            let result = self.launcher.launcher.flush();
            self.note_launcher(result);
        }
        for run in std::mem::take(&mut self.noticed) {
            if let Some(guest) = self.guests.get(&run) {
                guest.news.notify_one();
            }
        }
    }

    fn memory(&self) -> MemoryReport {
        let usage = self.store.usage();
        MemoryReport {
            budget_bytes: usage.limit,
            used_bytes: usage.memory,
            peak_bytes: usage.peak,
            spilled_bytes: usage.spilled,
        }
    }

    /// Sends the messages of the store to the attempts.
    fn send_outgoing(&mut self) {
        for message in self.store.take_outgoing() {
            let process = message.process;
            // Windows are granted, and pieces delivered, by these messages.
            tracing::trace!(
                instance = self.attempts.get(&process).map(|attempt| attempt.name.as_str()), message = ?message.message,
                "a message to the attempt"
            );
            if let Some(connection) = self.connections.get_mut(&process)
                && let Err(what) = connection.send(message, self.store.bells())
            {
                self.store.condemn(process, what);
            }
        }
    }
}
