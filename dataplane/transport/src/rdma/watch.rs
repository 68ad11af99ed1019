//! The thread that waits for the events of a device, and for its end, so that those who drive its paths can sleep.

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

/// What the descriptors are known by: the end of the thread, the device, and from here on the paths.
const STOP: u64 = 0;
const DEVICE: u64 = 1;
const FIRST_PATH: u64 = 2;
/// How often it looks whether the machine still offers the device, of which there may be no event.
const LOOK: Duration = Duration::from_millis(250);
/// So many events are taken with one call.
const BATCH: usize = 32;

/// The thread, and what it looks at. Dropping it ends the thread.
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

/// What a path and the thread have in common.
#[derive(Debug)]
struct Shared {
    completions: CompletionQueue,
    queue_pair: u32,
    waker: Waker,
    /// The next completion makes an event.
    armed: AtomicBool,
    /// Why the path is dead.
    failure: OnceLock<PathError>,
}

/// A path that is looked at, until this is dropped.
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

    /// Looks at a path's completions when it rests ([`Watched::arm`]), and at what the device says of its queue pair.
    pub(super) fn add(&self, completions: &CompletionQueue, queue_pair: u32, waker: Waker) -> Result<Watched, Errno> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let completions = completions.clone();
        let shared = Shared { completions, queue_pair, waker, armed: AtomicBool::new(false), failure: OnceLock::new() };
        let watched = Watched { state: Arc::clone(&self.state), shared: Arc::new(shared), number };
        self.state.paths().insert(number, Arc::clone(&watched.shared));
        // On an error the drop takes it back.
        let events = watched.shared.completions.events().ok_or(Errno::INVAL)?;
        epoll::add(&self.state.epoll, events, EventData::new_u64(number), EventFlags::IN)?;
        Ok(watched)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The count of an eventfd has room for this one.
        let _ = rustix::io::write(&self.state.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

impl Watched {
    /// Asks to be woken with the next completion. Whatever came before wakes nobody, so look once more after this.
    pub(super) fn arm(&self) -> Result<(), dflow_verbs::QueueError> {
        if self.shared.armed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.shared.completions.arm()
    }

    /// Wakes whoever drives the path.
    pub(super) fn wake(&self) {
        self.shared.waker.wake_by_ref();
    }

    /// Why the path is dead, if the device has said so.
    pub(super) fn failure(&self) -> Option<&PathError> {
        self.shared.failure.get()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.state.paths().remove(&self.number);
        if let Some(events) = self.shared.completions.events() {
            // It was not added if adding it failed.
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
        // Before the waking: whoever is woken and rests again must ask again.
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

    /// A device that is to go away does so only when nobody has it any more.
    fn look(&self) {
        if !self.context.is_offered() {
            self.fail_all(going(self.context.name()));
        }
    }

    /// Ends the paths that this holds for.
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
                    // It would be readable for ever.
                    let _ = epoll::delete(&self.epoll, self.context.as_fd());
                    return self.fail_all(error.to_string());
                }
            }
        }
    }

    fn take(&self, event: AsyncEvent) {
        let device = self.context.name();
        tracing::debug!("{device}: {event:?}");
        let broken = |what: &str| PathError::Protocol(what.to_owned());
        let (queue_pair, error) = match event {
            AsyncEvent::QueuePairFatal(number) => (number, lost("the device gave up its queue pair".to_owned())),
            AsyncEvent::QueuePairRequest(number) => (number, broken("a request that makes no sense")),
            AsyncEvent::QueuePairAccess(number) => (number, broken("an access to memory that it was not granted")),
            AsyncEvent::DeviceFatal => {
                return self.fail_all(going(device));
            }
            AsyncEvent::PortError(port) if port == self.port => {
                return self.fail_all(format!("{device} port {port} has lost its link"));
            }
            AsyncEvent::GidChange(port) if port == self.port && !self.has_address() => {
                return self.fail_all(format!("{device} port {port} has lost its address {}", self.gid.gid));
            }
            AsyncEvent::CompletionQueueError => {
                return self.fail_all(format!("a completion queue of {device} has failed"));
            }
            _ => return,
        };
        self.fail(|path| path.queue_pair == queue_pair, &error);
    }

    fn has_address(&self) -> bool {
        let mine = |entry: &GidEntry| entry.index == self.gid.index && entry.gid == self.gid.gid;
        self.context.gids(self.port).is_ok_and(|gids| gids.iter().any(mine))
    }
}

fn going(device: &str) -> String {
    format!("the device {device} has failed or is being removed")
}

fn lost(reason: String) -> PathError {
    PathError::Lost { kind: PathKind::Rdma, reason }
}
