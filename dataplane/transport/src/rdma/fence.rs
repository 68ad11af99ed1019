//! The end of a path's queue pair. Nothing may land or be read any more when the path is closed; but to destroy a queue
//! pair can take a driver long, and whoever drives the path has other things to do.

use dflow_verbs::QueuePair;
use std::ops::Deref;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// So long the end of a path waits until its queue pair, which was reset, is destroyed. A driver may still be busy with a
/// packet that it took before the reset; that is over far sooner.
const PATIENCE: Duration = Duration::from_millis(100);

/// A queue pair that is closed when it is dropped: nothing of its connection reaches memory from then on.
#[derive(Debug)]
pub(super) struct Fenced {
    /// Gone only in the drop.
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
        // Only the drop takes it.
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
        // If there can be no thread, the closure is dropped here, and the queue pair with it.
        let _ = std::thread::Builder::new().name("rdma-end".into()).spawn(end);
        match closed {
            Ok(()) => {
                if destroyed.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                    tracing::debug!("a queue pair is closed, but its driver takes long to destroy it");
                }
            }
            // Then nothing but its destruction says that it is closed.
            Err(error) => {
                tracing::debug!(%error, "a queue pair cannot be closed before it is destroyed");
                let _ = destroyed.recv();
            }
        }
    }
}
