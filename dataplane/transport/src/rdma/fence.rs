//! Closing a path's queue pair. Nothing may land or be read after the path is closed; but a driver can take long to destroy a
//! queue pair, and the thread that drives the path must not wait for that.

use dflow_verbs::QueuePair;
use std::ops::Deref;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// The longest wait for the destruction of a queue pair that was reset. The driver may still be processing a packet that it
/// took before the reset, which takes far less.
const PATIENCE: Duration = Duration::from_millis(100);

/// A queue pair that is closed when it is dropped: afterwards nothing of its connection reaches memory.
#[derive(Debug)]
pub(super) struct Fenced {
    /// `None` only during the drop.
    pair: Option<QueuePair>,
}

impl Fenced {
    pub(super) fn new(pair: QueuePair) -> Self {
        Self { pair: Some(pair) }
    }
}

impl Deref for Fenced {
    type Target = QueuePair;

    fn deref(&self) -> &QueuePair {
        // Taken only by the drop.
        self.pair.as_ref().expect("it is there until the drop")
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        let Some(pair) = self.pair.take() else { return };
        let closed = pair.reset();
        let (alive, destroyed) = channel::<()>();
        let end = move || {
            drop(pair);
            drop(alive);
        };
        // If no thread can be started, the closure is dropped here, and the queue pair with it.
        let _ = std::thread::Builder::new().name("rdma-end".into()).spawn(end);
        match closed {
            Ok(()) => {
                if destroyed.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                    tracing::debug!("a queue pair is closed, but its driver takes long to destroy it");
                }
            }
            // The reset failed: only its destruction proves that it is closed.
            Err(error) => {
                tracing::debug!(%error, "a queue pair cannot be closed before it is destroyed");
                let _ = destroyed.recv();
            }
        }
    }
}
