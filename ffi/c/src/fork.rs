//! Processes that a function forks: they share its streams and its connection, and must use neither.

use crate::status::{Failure, dflow_status};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process was forked from one that serves a function.
static FORKED: AtomicBool = AtomicBool::new(false);

/// From now on, forked processes know that they are.
pub(crate) fn watch() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: the handler only stores to an atomic, which is allowed in a forked process. If it cannot be registered,
        // for want of memory, the check is missing and nothing else.
        unsafe { libc::pthread_atfork(None, None, Some(note)) };
    });
}

extern "C" fn note() {
    FORKED.store(true, Ordering::Relaxed);
}

/// Whether this process was forked from one that serves a function.
pub(crate) fn is_forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// An error in a forked process.
pub(crate) fn check() -> Result<(), Failure> {
    if is_forked() {
        return Err(Failure::new(
            dflow_status::DFLOW_ERROR_STATE,
            "this process was forked from a function, and shares its streams: only the function itself may use them",
        ));
    }
    Ok(())
}
