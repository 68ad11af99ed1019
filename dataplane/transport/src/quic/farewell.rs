//! Tells the peers of a node that shuts down.
//!
//! A connection that is closed drains for three probe timeouts, about a tenth of a second, in which quinn repeats the close if
//! the peer goes on sending. A process that ends after a run of milliseconds does not wait for that: it waits only until every
//! close has been sent once. Where it is lost, the peer finds out by its silence limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Turns of the other tasks in which a close is sent. One would do; the endpoint may have one between.
const TURNS: u32 = 3;

/// The connections of a node whose peers have not been told of their end yet.
#[derive(Debug, Default)]
pub(super) struct Farewell {
    open: AtomicUsize,
    changed: Notify,
}

impl Farewell {
    /// Counts a connection from now on, until its end has been said by either side. To be called in the runtime that serves it.
    pub(super) fn watch(self: &Arc<Self>, connection: quinn::Connection) {
        self.open.fetch_add(1, Ordering::Relaxed);
        let farewell = Arc::clone(self);
        tokio::spawn(async move {
            connection.closed().await;
            // The close has woken the task that sends for the connection. It is on this thread, and has its turn before a task
            // that yields.
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            farewell.open.fetch_sub(1, Ordering::Relaxed);
            farewell.changed.notify_waiters();
        });
    }

    /// Waits until the end of every connection has been said.
    pub(super) async fn all_said(&self) {
        loop {
            let changed = self.changed.notified();
            if self.open.load(Ordering::Relaxed) == 0 {
                return;
            }
            changed.await;
        }
    }
}
