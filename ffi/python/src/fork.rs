//! Processes that a function forks, with `os.fork` or multiprocessing: they share its streams and its connection, and must use
//! neither.

use crate::errors;
use pyo3::prelude::*;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process was forked from one that serves a function.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Called by Python in a forked process.
#[pyfunction]
#[pyo3(name = "_note_fork")]
pub(crate) fn note_fork() {
    FORKED.store(true, Ordering::Relaxed);
}

/// Whether this process was forked after the package was imported.
#[pyfunction]
#[pyo3(name = "_is_forked")]
pub(crate) fn is_forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// An error in a forked process.
pub(crate) fn check(py: Python<'_>) -> PyResult<()> {
    if is_forked() {
        let text =
            "this process was forked from a function and shares its streams: only the function itself may use them";
        return Err(errors::new(py, "Ended", text));
    }
    Ok(())
}

/// A value that is not dropped in a forked process: a port would close the stream of the function itself, and a poller would
/// wait for a thread that the process does not have.
pub(crate) struct Own<T>(ManuallyDrop<T>);

impl<T> Own<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }

    /// The value itself.
    pub(crate) fn into_inner(self) -> T {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so this is the only value taken out.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl<T> Deref for Own<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Own<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        if !is_forked() {
            // SAFETY: this is the end of the value's life, and the only place that drops it.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
    }
}
