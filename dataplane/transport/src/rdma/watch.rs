//! The thread that waits for the events of a device and for its removal, so that the threads that drive its paths can sleep.

use crate::path::{PathError, PathKind};
use dflow_verbs::{AsyncEvent, CompletionQueue, Context, GidEntry};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Tokens of the polled descriptors: the end of the thread, the device, and from here on the paths.
const STOP: u64 = 0;
const DEVICE: u64 = 1;
const FIRST_PATH: u64 = 2;
/// How often the thread checks that the device still exists: its removal may cause no event.
const LOOK: Duration = Duration::from_millis(250);
/// The most events of one poll.
const BATCH: usize = 32;

/// The thread and what it watches. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Watch {
    state: Arc<State>,
    next: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    context: Context,
    port: u8,
    gid: GidEntry,
    epoll: OwnedFd,
    stop: OwnedFd,
    paths: Mutex<HashMap<u64, Arc<Shared>>>,
}

/// Shared by a path and the thread.
#[derive(Debug)]
struct Shared {
    completions: CompletionQueue,
    queue_pair: u32,
    waker: Waker,
    /// The next completion causes an event.
    armed: AtomicBool,
    /// Why the path is lost.
    failure: OnceLock<PathError>,
}

/// A watched path, until this is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    state: Arc<State>,
    shared: Arc<Shared>,
    number: u64,
}

impl Watch {
    pub(super) fn start(context: &Context, port: u8, gid: &GidEntry) -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
        epoll::add(&epoll, context, EventData::new_u64(DEVICE), EventFlags::IN)?;
        let (context, gid, paths) = (context.clone(), gid.clone(), Mutex::default());
        let state = Arc::new(State { context, port, gid, epoll, stop, paths });
        let run = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("rdma-events".into())
            .spawn(move || run.run())
            .map_err(|error| error.raw_os_error().map_or(Errno::AGAIN, Errno::from_raw_os_error))?;
        Ok(Self { state, next: AtomicU64::new(FIRST_PATH), thread: Some(thread) })
    }

    /// Watches a path's completions while it is armed ([`Watched::arm`]), and the device's events about its queue pair.
    pub(super) fn add(&self, completions: &CompletionQueue, queue_pair: u32, waker: Waker) -> Result<Watched, Errno> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let completions = completions.clone();
        let shared = Shared { completions, queue_pair, waker, armed: AtomicBool::new(false), failure: OnceLock::new() };
        let watched = Watched { state: Arc::clone(&self.state), shared: Arc::new(shared), number };
        self.state.paths().insert(number, Arc::clone(&watched.shared));
        // On an error the drop removes it again.
        let events = watched.shared.completions.events().ok_or(Errno::INVAL)?;
        epoll::add(&self.state.epoll, events, EventData::new_u64(number), EventFlags::IN)?;
        Ok(watched)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Cannot block: the counter is far from its limit.
        let _ = rustix::io::write(&self.state.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

impl Watched {
    /// Arms the wake-up with the next completion. Earlier completions wake nobody, so poll once more after this.
    pub(super) fn arm(&self) -> Result<(), dflow_verbs::QueueError> {
        if self.shared.armed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.shared.completions.arm()
    }

    /// Wakes the thread that drives the path.
    pub(super) fn wake(&self) {
        self.shared.waker.wake_by_ref();
    }

    /// Why the path is lost, if the device has reported it.
    pub(super) fn failure(&self) -> Option<&PathError> {
        self.shared.failure.get()
    }

    /// As [`Watched::dead`], but takes the device's events itself instead of waiting for the thread.
    pub(super) fn failure_by_now(&self) -> Option<&PathError> {
        if self.failure().is_none() {
            self.state.device();
        }
        self.failure()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.state.paths().remove(&self.number);
        if let Some(events) = self.shared.completions.events() {
            // It is absent if adding it failed.
            let _ = epoll::delete(&self.state.epoll, events);
        }
    }
}

impl Shared {
    fn fail(&self, error: PathError) {
        if self.failure.set(error).is_ok() {
            self.waker.wake_by_ref();
        }
    }

    fn completed(&self) {
        if let Err(error) = self.completions.take_events() {
            return self.fail(lost(error.to_string()));
        }
        // Before the wake-up: the woken thread arms again when it rests.
        self.armed.store(false, Ordering::Release);
        self.waker.wake_by_ref();
    }
}

impl State {
    fn paths(&self) -> MutexGuard<'_, HashMap<u64, Arc<Shared>>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut events: Vec<Event> = Vec::with_capacity(BATCH);
        let pause = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
        let mut looked = Instant::now();
        loop {
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look();
            }
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&pause)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return self.fail_all(format!("its events cannot be waited for: {error}")),
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    STOP => return,
                    DEVICE => self.device(),
                    path => {
                        let shared = self.paths().get(&path).cloned();
                        if let Some(shared) = shared {
                            shared.completed();
                        }
                    }
                }
            }
        }
    }

    /// A device can be removed only when no process holds it open any more.
    fn look(&self) {
        if !self.context.is_offered() {
            self.fail_all(going(self.context.name()));
        }
    }

    /// Ends the paths for which this holds.
    fn fail(&self, holds: impl Fn(&Shared) -> bool, error: &PathError) {
        let failed: Vec<Arc<Shared>> = self.paths().values().filter(|path| holds(path)).cloned().collect();
        for path in failed {
            path.fail(error.clone());
        }
    }

    fn fail_all(&self, reason: String) {
        self.fail(|_| true, &lost(reason));
    }

    fn device(&self) {
        loop {
            match self.context.next_event() {
                Ok(Some(event)) => self.take(event),
                Ok(None) => return,
                Err(error) => {
                    // It would stay readable, and the thread would spin.
                    let _ = epoll::delete(&self.epoll, self.context.as_fd());
                    return self.fail_all(error.to_string());
                }
            }
        }
    }

    fn take(&self, event: AsyncEvent) {
        let device = self.context.name();
        tracing::debug!("{device}: {event:?}");
        match Verdict::on(event, device, self.port, || self.has_address().then_some(()).ok_or(&self.gid)) {
            Verdict::Nothing => {}
            Verdict::All(reason) => self.fail_all(reason),
            Verdict::QueuePair(number, error) => self.fail(|path| path.queue_pair == number, &error),
        }
    }

    fn has_address(&self) -> bool {
        let mine = |entry: &GidEntry| entry.index == self.gid.index && entry.gid == self.gid.gid;
        self.context.gids(self.port).is_ok_and(|gids| gids.iter().any(mine))
    }
}

/// The consequence of an event of the device.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Nothing,
    /// Every path over the port is lost, for this reason.
    All(String),
    /// The path with the queue pair of this number is lost.
    QueuePair(u32, PathError),
}

impl Verdict {
    /// `port`: the one that the paths use; `address`: whether it still has theirs, which otherwise is returned.
    fn on<'a>(event: AsyncEvent, device: &str, port: u8, address: impl FnOnce() -> Result<(), &'a GidEntry>) -> Self {
        let broken = |what: &str| PathError::Protocol(what.to_owned());
        match event {
            AsyncEvent::QueuePairFatal(number) => {
                Self::QueuePair(number, lost("the device gave up its queue pair".to_owned()))
            }
            AsyncEvent::QueuePairRequest(number) => Self::QueuePair(number, broken("a request that makes no sense")),
            AsyncEvent::QueuePairAccess(number) => {
                Self::QueuePair(number, broken("an access to memory that it was not granted"))
            }
            AsyncEvent::DeviceFatal => Self::All(going(device)),
            AsyncEvent::PortError(of) if of == port => Self::All(format!("{device} port {port} has lost its link")),
            AsyncEvent::GidChange(of) if of == port => match address() {
                Ok(()) => Self::Nothing,
                Err(gid) => Self::All(format!("{device} port {port} has lost its address {}", gid.gid)),
            },
            AsyncEvent::CompletionQueueError => Self::All(format!("a completion queue of {device} has failed")),
            _ => Self::Nothing,
        }
    }
}

fn going(device: &str) -> String {
    format!("the device {device} has failed or is being removed")
}

fn lost(reason: String) -> PathError {
    PathError::Lost { kind: PathKind::Rdma, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_verbs::{Gid, GidKind};

    fn gid() -> GidEntry {
        let gid = Gid::from_ip([10, 77, 0, 1].into());
        GidEntry { index: 1, gid, kind: GidKind::RoceV2, interface: None }
    }

    /// With paths over port 1 of a device that has their address.
    fn verdict(event: AsyncEvent) -> Verdict {
        Verdict::on(event, "rxe0", 1, || Ok(()))
    }

    #[test]
    fn what_happens_to_a_queue_pair_ends_its_path_alone() {
        let Verdict::QueuePair(7, fatal) = verdict(AsyncEvent::QueuePairFatal(7)) else { panic!("not its path") };
        assert!(matches!(fatal, PathError::Lost { .. }), "the device's fault, not the peer's: {fatal}");
        for event in [AsyncEvent::QueuePairRequest(7), AsyncEvent::QueuePairAccess(7)] {
            let Verdict::QueuePair(7, error) = verdict(event) else { panic!("{event:?}") };
            assert!(error.is_violation(), "{event:?}: {error}");
        }
        for event in [AsyncEvent::Established(7), AsyncEvent::QueuePairOther(7)] {
            assert_eq!(verdict(event), Verdict::Nothing);
        }
    }

    #[test]
    fn what_happens_to_the_device_or_its_port_ends_all_paths() {
        let all = |event| match verdict(event) {
            Verdict::All(reason) => reason,
            other => panic!("{event:?}: {other:?}"),
        };
        assert_eq!(all(AsyncEvent::DeviceFatal), "the device rxe0 has failed or is being removed");
        assert_eq!(all(AsyncEvent::PortError(1)), "rxe0 port 1 has lost its link");
        assert_eq!(all(AsyncEvent::CompletionQueueError), "a completion queue of rxe0 has failed");
        for event in
            [AsyncEvent::PortError(2), AsyncEvent::PortActive(1), AsyncEvent::PortChange(1), AsyncEvent::Other(99)]
        {
            assert_eq!(verdict(event), Verdict::Nothing, "{event:?}");
        }
    }

    #[test]
    fn a_changed_table_of_addresses_matters_if_that_of_the_paths_is_gone() {
        let gid = gid();
        let gone = |port| Verdict::on(AsyncEvent::GidChange(port), "rxe0", 1, || Err(&gid));
        let Verdict::All(reason) = gone(1) else { panic!("its address is gone") };
        assert!(reason.starts_with("rxe0 port 1 has lost its address") && reason.contains("10.77.0.1"), "{reason}");
        assert_eq!(gone(2), Verdict::Nothing, "the table of another port");
        assert_eq!(verdict(AsyncEvent::GidChange(1)), Verdict::Nothing, "another address of the port");
    }
}
