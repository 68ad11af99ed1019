//! What all objects of an attempt share, and how they wait.

use crate::{errors, fork};
use dflow_function::Session;
use dflow_ports::{Interrupter, Port, Waited};
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::thread::ThreadId;

/// An attempt of a function.
pub(crate) struct Attempt {
    pub(crate) session: Arc<Session>,
    interrupter: Interrupter,
    ended: AtomicBool,
    /// The interpreter's main thread, on which signal handlers run, if that runs the function.
    main: Mutex<Option<ThreadId>>,
    /// The main thread waits, so that a signal has to end the wait.
    main_waits: AtomicBool,
    /// What ends with the attempt.
    open: Mutex<Vec<Weak<dyn Closes>>>,
}

/// What remains to be done for a port when the function has succeeded: bytes that were committed move to where they can be
/// read.
pub(crate) type Flush = Box<dyn FnOnce() -> Result<(), dflow_function::Error> + Send>;

/// Something that ends with its attempt.
pub(crate) trait Closes: Send + Sync {
    /// Ends it. It waits for calls of other threads, whose waits are interrupted.
    fn close(&self) -> Option<Flush>;
}

impl Attempt {
    pub(crate) fn new(session: Arc<Session>) -> Arc<Self> {
        let interrupter = session.interrupter();
        Arc::new(Self {
            session,
            interrupter,
            ended: AtomicBool::new(false),
            main: Mutex::new(None),
            main_waits: AtomicBool::new(false),
            open: Mutex::default(),
        })
    }

    /// An error if the attempt has ended, or if this process was forked from it.
    pub(crate) fn check(&self, py: Python<'_>) -> PyResult<()> {
        fork::check(py)?;
        if self.has_ended() {
            return Err(errors::ended(py, "the function to which this belongs has ended"));
        }
        Ok(())
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Ends this with the attempt.
    pub(crate) fn enlist<T: Closes + 'static>(&self, port: &Arc<T>) {
        let weak: Weak<T> = Arc::downgrade(port);
        let mut open = lock(&self.open);
        // Those that are gone are forgotten now and then.
        if open.len() == open.capacity() {
            open.retain(|port| port.strong_count() > 0);
        }
        open.push(weak);
    }

    /// Ends everything of the attempt. Called without the interpreter's lock, because other threads may be in calls.
    pub(crate) fn end(&self, well: bool) -> Result<(), dflow_function::Error> {
        self.ended.store(true, Ordering::Release);
        // Waits in other threads end, and give up their locks.
        self.interrupter.interrupt();
        let open: Vec<Arc<dyn Closes>> = lock(&self.open).drain(..).filter_map(|port| port.upgrade()).collect();
        let rest: Vec<Flush> = open.iter().filter_map(|port| port.close()).collect();
        // Nobody waits any more.
        self.interrupter.clear();
        if well { rest.into_iter().try_for_each(|flush| flush()) } else { Ok(()) }
    }

    /// From now on, this thread is the one on which signal handlers run.
    pub(crate) fn set_main(&self, main: bool) {
        *lock(&self.main) = main.then(|| std::thread::current().id());
    }

    /// A signal has come: ends the main thread's wait, so that its handler runs.
    pub(crate) fn signalled(&self) {
        if self.main_waits.load(Ordering::SeqCst) {
            self.interrupter.interrupt();
        }
    }

    /// Waits until `port` may be able to go on.
    pub(crate) fn wait<P: Port + Send>(&self, py: Python<'_>, port: &mut P) -> PyResult<()> {
        self.wait_with(py, || self.session.wait(port, None))
    }

    /// Waits without the interpreter's lock, and runs the handlers of signals that have come.
    pub(crate) fn wait_with(&self, py: Python<'_>, wait: impl FnOnce() -> Waited + Send) -> PyResult<()> {
        let main = *lock(&self.main) == Some(std::thread::current().id());
        if main {
            // First this, then the look: a signal that comes in between ends the wait, and an earlier one is found now.
            self.main_waits.store(true, Ordering::SeqCst);
        }
        let found = py.check_signals();
        let waited = if found.is_ok() { py.detach(wait) } else { Waited::Ready };
        if main {
            self.main_waits.store(false, Ordering::SeqCst);
            if !self.has_ended() {
                self.interrupter.clear();
            }
        } else if waited == Waited::Interrupted {
            // The main thread is about to clear it.
            py.detach(std::thread::yield_now);
        }
        found?;
        py.check_signals()?;
        self.check(py)
    }
}

/// Locks a value that is in order whatever panics.
pub(crate) fn lock<T: ?Sized>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a value for a call from Python, which must not wait for another thread.
pub(crate) fn try_lock<'a, T: ?Sized>(py: Python<'_>, value: &'a Mutex<T>, what: &str) -> PyResult<MutexGuard<'a, T>> {
    match value.try_lock() {
        Ok(guard) => Ok(guard),
        Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => Err(errors::busy(py, what)),
    }
}
