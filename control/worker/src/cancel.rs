//! Ending a run, or a worker, from outside: by a signal, say, which is the caller's to watch for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Asks for the end of what has the [`Cancellation`]. May be used from any thread.
#[derive(Clone, Debug)]
pub struct Canceller {
    requests: UnboundedSender<Request>,
    listening: Arc<AtomicBool>,
}

/// What [`run`](crate::run()) and [`serve`](crate::serve) are ended by.
#[derive(Debug)]
pub struct Cancellation {
    requests: UnboundedReceiver<Request>,
    listening: Arc<AtomicBool>,
}

/// A request to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Why, for the report.
    pub(crate) reason: String,
    /// Functions have no time to clean up.
    pub(crate) at_once: bool,
}

/// Makes both ends.
#[must_use]
pub fn cancellation() -> (Canceller, Cancellation) {
    let (sender, requests) = unbounded_channel();
    let listening = Arc::new(AtomicBool::new(false));
    (Canceller { requests: sender, listening: Arc::clone(&listening) }, Cancellation { requests, listening })
}

impl Canceller {
    /// Asks for the end: every function gets SIGTERM, and the time to clean up that the workflow gives it. `reason` is for
    /// the report. False if nobody listens, because the run has not begun or is over.
    pub fn cancel(&self, reason: &str) -> bool {
        self.request(reason, false)
    }

    /// Asks for the end at once: what still runs is killed. Otherwise as [`Self::cancel`].
    pub fn kill(&self, reason: &str) -> bool {
        self.request(reason, true)
    }

    fn request(&self, reason: &str, at_once: bool) -> bool {
        let request = Request { reason: reason.to_owned(), at_once };
        self.listening.load(Ordering::Acquire) && self.requests.send(request).is_ok()
    }
}

impl Cancellation {
    /// One that never comes.
    #[must_use]
    pub fn never() -> Self {
        cancellation().1
    }

    /// From now on requests are heard.
    pub(crate) fn listen(&self) {
        self.listening.store(true, Ordering::Release);
    }

    /// Waits for the next request.
    pub(crate) async fn requested(&mut self) -> Request {
        match self.requests.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Cancellation {
    fn drop(&mut self) {
        self.listening.store(false, Ordering::Release);
    }
}
