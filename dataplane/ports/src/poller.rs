//! A pollable descriptor for ports.

use crate::fan_in::FanIn;
use crate::input::InPort;
use crate::session::{PARK_AFTER, Port, Session};
use dflow_shm::{Doorbell, Idle, Listener, Wait, WordWait, wait, wait_until};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// The stack of the thread, in bytes: it holds a list of words.
const STACK: usize = 128 * 1024;

/// Makes a descriptor readable when ports can go on: for `poll(2)`, `epoll(7)` and the event loops of other languages.
///
/// The order of calls is: try every port; those that would block are armed; wait until the descriptor is readable; disarm
/// them; try again. An event costs a hand-over to the poller's thread beside the wake-up itself, so that
/// [`Session::wait`] is several times faster where a thread can block.
///
/// ```no_run
/// use dflow_ports::{Armed, InPort, Next, Poller};
/// use rustix::event::{PollFd, PollFlags, poll};
///
/// fn drain(poller: &mut Poller, input: &mut InPort) -> Result<(), Box<dyn std::error::Error>> {
///     loop {
///         match input.try_next_chunk()? {
///             Next::Ready(chunk) => println!("{} bytes", chunk.len()),
///             Next::End => return Ok(()),
///             Next::WouldBlock => {
///                 if poller.arm(&mut [input])? == Armed::Waiting {
///                     poll(&mut [PollFd::new(poller, PollFlags::IN)], None)?;
///                     poller.disarm(&mut [input]);
///                 }
///             }
///         }
///     }
/// }
/// ```
pub struct Poller {
    session: Arc<Session>,
    event: Arc<OwnedFd>,
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

/// The answer to [`Poller::arm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// A port may be able to go on already: nothing is armed, try again.
    Ready,
    /// The descriptor becomes readable when one may be.
    Waiting,
}

/// What the thread is to do.
#[derive(Default)]
struct Orders {
    bell: Arc<Doorbell>,
    order: Mutex<Order>,
}

#[derive(Default)]
enum Order {
    /// Nothing, until there is another order.
    #[default]
    Rest,
    /// To watch these words.
    Watch(Watch),
    /// To end.
    End,
}

struct Watch {
    words: Vec<WordWait>,
    /// The count of the session's bell that the ports have seen.
    seen: u64,
    /// When a port is to be tried again although nothing has happened.
    at: Option<Instant>,
    /// Rung by interrupters and by dropped views.
    calls: Listener,
}

impl Poller {
    /// A poller for the ports of this session, with a thread of its own.
    ///
    /// # Errors
    /// If there are no more descriptors or threads.
    pub fn new(session: &Arc<Session>) -> std::io::Result<Self> {
        let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let orders = Arc::<Orders>::default();
        session.calls.use_them();
        let work = (Arc::clone(session), Arc::clone(&event), Arc::clone(&orders));
        let run = move || watch(&work.0, &work.1, &work.2);
        let thread = std::thread::Builder::new().name("dflow-poll".into()).stack_size(STACK).spawn(run)?;
        Ok(Self { session: Arc::clone(session), event, orders, thread: Some(thread) })
    }

    /// Arms the descriptor for these ports, which would block. They must not be used before [`Poller::disarm`]. The daemon
    /// is told if they stay armed for a millisecond, as of any sleep: arm only while the function has nothing else to do, or
    /// it computes without a slot.
    ///
    /// # Errors
    /// If the descriptor fails.
    pub fn arm(&mut self, ports: &mut [&mut dyn Port]) -> std::io::Result<Armed> {
        let seen = ports.iter().map(|port| port.seen()).min().unwrap_or_else(|| self.session.news());
        self.arm_for(ports, seen)
    }

    /// Arms the descriptor for a fan-in: a stream that it has may be able to go on, or there is a new one.
    ///
    /// # Errors
    /// If the descriptor fails.
    pub fn arm_fan_in<T: From<InPort> + AsMut<InPort>>(&mut self, streams: &mut FanIn<T>) -> std::io::Result<Armed> {
        let (seen, mut ports) = streams.ports();
        self.arm_for(&mut ports, seen)
    }

    fn arm_for(&mut self, ports: &mut [&mut dyn Port], seen: u64) -> std::io::Result<Armed> {
        // Before the ports are looked at: what is called after that is news.
        let calls = self.session.calls.listener();
        self.clear();
        for port in ports.iter_mut() {
            port.announce();
        }
        let is_ready = ports.iter_mut().any(|port| port.ready());
        if is_ready || self.session.has_news(seen) || self.session.calls.is_interrupted() {
            retract(ports);
            return Ok(Armed::Ready);
        }
        let words = ports.iter().filter_map(|port| port.peer_word());
        let words = words.map(|(word, value)| WordWait::new(word, value)).collect();
        let at = ports.iter().filter_map(|port| port.try_again_at()).min();
        self.order(Order::Watch(Watch { words, seen, at, calls }));
        Ok(Armed::Waiting)
    }

    /// Takes the arming back: of the same ports, whether or not the descriptor has become readable. It is not readable any
    /// more.
    pub fn disarm(&mut self, ports: &mut [&mut dyn Port]) {
        self.order(Order::Rest);
        retract(ports);
        self.clear();
    }

    /// [`Poller::disarm`] for a fan-in.
    pub fn disarm_fan_in<T: From<InPort> + AsMut<InPort>>(&mut self, streams: &mut FanIn<T>) {
        self.disarm(&mut streams.ports().1);
    }

    fn order(&self, order: Order) {
        let mut present = self.orders.lock();
        *present = order;
        // Under the lock: the thread hears of an order exactly when it is there.
        self.orders.bell.ring();
    }

    /// The thread signals under the lock, and only for the order that is in force, so nothing comes after this.
    fn clear(&self) {
        let mut count = [0; 8];
        // It fails if there is nothing to be cleared.
        let _ = rustix::io::read(&self.event, &mut count);
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.order(Order::End);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

impl Orders {
    fn lock(&self) -> MutexGuard<'_, Order> {
        // Nothing panics while it holds the lock in an inconsistent state, so a poisoned order can be used.
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn retract(ports: &mut [&mut dyn Port]) {
    for port in ports {
        port.retract();
    }
}

/// The thread: sleeps on the words of the order in force, and signals when one has moved.
fn watch(session: &Session, event: &OwnedFd, orders: &Orders) {
    let mut listener = Listener::new(Arc::clone(&orders.bell));
    loop {
        let mut present = orders.lock();
        listener.hear();
        let order = std::mem::take(&mut *present);
        drop(present);
        let mut watch = match order {
            Order::End => return,
            Order::Rest => {
                wait(&mut [&mut listener], None, Idle::SLEEP, None);
                continue;
            }
            Order::Watch(watch) => watch,
        };
        let limit = watch.at.map(|at| at.saturating_duration_since(Instant::now()));
        let mut ports: Vec<&mut dyn Wait> = vec![&mut listener, &mut watch.calls];
        ports.extend(watch.words.iter_mut().map(|word| word as &mut dyn Wait));
        let mut park = || session.park();
        // A wait with a limit is short, so that the function keeps its slot.
        let park: Option<dflow_shm::Park<'_>> = if limit.is_none() { Some((PARK_AFTER, &mut park)) } else { None };
        wait_until(&mut ports, Some((&session.bell, watch.seen)), Idle::SLEEP, limit, park);
        let order = orders.lock();
        // After another order, this one is not in force any more, and nobody waits for it.
        if !listener.ready() {
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
        drop(order);
    }
}
