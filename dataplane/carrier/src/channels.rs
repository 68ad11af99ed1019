//! The channels on which the thread may wait for the store.

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The open channels of all runs. Each is owned by the run's attachment and closed with it.
#[derive(Debug, Default)]
pub(super) struct Channels(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_shut_down: bool,
    open: Vec<Weak<OwnedFd>>,
}

impl Channels {
    /// One more channel, on which the thread may wait from now on.
    pub(super) fn add(&self, channel: OwnedFd) -> Arc<OwnedFd> {
        let channel = Arc::new(channel);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.open.retain(|channel| channel.strong_count() > 0);
        state.open.push(Arc::downgrade(&channel));
        if state.is_shut_down {
            // The others could be shut down, so this one can.
            let _ = shutdown(&*channel, Shutdown::Both);
        }
        channel
    }

    /// Ends all waits for the store, present and future.
    pub(super) fn shut_down(&self) -> Result<(), Errno> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_shut_down = true;
        state.open.iter().filter_map(Weak::upgrade).try_for_each(|channel| shutdown(&*channel, Shutdown::Both))
    }
}
