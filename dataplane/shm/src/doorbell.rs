//! Waking a thread that sleeps on control words from within its own process.

use crate::futex::Kernel;
use crate::wait::Wait;
use dflow_protocol::words::Platform;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::task::{Wake, Waker};

/// A word by which other threads of this process wake one that waits for control words ([`crate::wait`]).
#[derive(Debug, Default)]
pub struct Doorbell {
    rings: AtomicU64,
    /// How many listeners sleep, or are about to.
    asleep: AtomicU32,
}

impl Doorbell {
    /// Wakes the listeners that sleep and keeps the others from falling asleep. Makes a system call only if one sleeps.
    pub fn ring(&self) {
        self.rings.fetch_add(1, Ordering::Release);
        // Either a listener sees the new count when it looks again, or this thread sees that it sleeps.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) > 0 {
            Kernel::wake(&self.rings);
        }
    }

    /// A [`Waker`] that rings it.
    #[must_use]
    pub fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }
}

impl Wake for Doorbell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// The side that waits for a [`Doorbell`]. Any number of threads may have one each.
#[derive(Debug)]
pub struct Listener {
    bell: Arc<Doorbell>,
    heard: u64,
    announced: Option<u64>,
}

impl Listener {
    /// Listens to this doorbell.
    #[must_use]
    pub fn new(bell: Arc<Doorbell>) -> Self {
        Self { bell, heard: 0, announced: None }
    }

    /// Marks all rings so far as heard. Call it before you look for the cause of a ring.
    pub fn hear(&mut self) {
        self.heard = self.bell.rings.load(Ordering::Acquire);
    }
}

impl Wait for Listener {
    fn ready(&mut self) -> bool {
        self.bell.rings.load(Ordering::Acquire) != self.heard
    }

    fn settle(&mut self) {}

    fn announce(&mut self) {
        // A wait announces again after each sleep, but must count once.
        if self.announced.replace(self.heard).is_none() {
            self.bell.asleep.fetch_add(1, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    fn word(&self) -> Option<(&AtomicU64, u64)> {
        Some((&self.bell.rings, self.announced?))
    }

    fn retract(&mut self) {
        if self.announced.take().is_some() {
            self.bell.asleep.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::{Idle, wait};

    #[test]
    fn no_ring_is_missed() {
        let bell = Arc::new(Doorbell::default());
        let counter = Arc::new(AtomicU64::new(0));
        const RINGS: u64 = 20_000;
        std::thread::scope(|scope| {
            let (waker, counted) = (bell.waker(), Arc::clone(&counter));
            scope.spawn(move || {
                for number in 1..=RINGS {
                    counted.store(number, Ordering::Release);
                    waker.wake_by_ref();
                    if number % 7 == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            let mut listener = Listener::new(bell);
            loop {
                listener.hear();
                if counter.load(Ordering::Acquire) == RINGS {
                    break;
                }
                wait(&mut [&mut listener], None, Idle::SLEEP, None);
            }
        });
    }
}
