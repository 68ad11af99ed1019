//! One stream: who reads it, and the epoch in which it is.

use crate::epoch::Epoch;
use crate::process::Endpoint;
use crate::subscription::{Subscriber, Subscription};
use std::collections::BTreeMap;

/// One stream. Its subscriptions outlive its epochs.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// All bytes stay until every subscription is cancelled.
    pub(crate) keep: bool,
    /// Subscriptions that are not known yet; while there are any, all bytes stay.
    pub(crate) holds: u32,
    pub(crate) subscribers: BTreeMap<Subscriber, Subscription>,
    pub(crate) epoch: Epoch,
}

impl Stream {
    /// Begins an epoch; the one that is void now.
    pub(crate) fn begin_epoch(&mut self) -> Epoch {
        for subscription in self.subscribers.values_mut() {
            subscription.begin_epoch();
        }
        std::mem::take(&mut self.epoch)
    }

    /// The lowest offset that somebody may still need.
    pub(crate) fn needed_from(&self) -> u64 {
        if self.holds > 0 || (self.keep && self.subscribers.values().any(|it| !it.is_done())) {
            return 0;
        }
        self.subscribers.values().map(Subscription::needed_from).min().unwrap_or(u64::MAX)
    }

    /// Whether every byte stays, so that it does not matter how far readers are.
    pub(crate) fn is_kept(&self) -> bool {
        self.keep || self.holds > 0 || self.subscribers.values().any(|subscription| subscription.keep)
    }

    /// A reader reads nothing more of this epoch; its subscription, if it is still its reader.
    pub(crate) fn close_reader(&mut self, subscriber: Subscriber, reader: Endpoint) -> Option<&mut Subscription> {
        self.epoch.pieces.leave(reader);
        let subscription = self.subscribers.get_mut(&subscriber).filter(|it| it.reader == Some(reader))?;
        subscription.close();
        Some(subscription)
    }

    /// Whether nobody reads it and nobody will, though somebody was meant to. A reader of all of a stream that an earlier
    /// attempt had finished has not left it.
    pub(crate) fn is_unread(&self) -> bool {
        self.holds == 0
            && self.epoch.promised.is_none()
            && !self.subscribers.is_empty()
            && self.subscribers.values().all(Subscription::is_done)
    }

    /// Whether it is still written, and somebody reads it or will.
    pub(crate) fn is_read(&self) -> bool {
        self.is_subscribed() && self.epoch.finished.is_none() && !self.epoch.unread_told
    }

    /// Whether somebody reads it, will, or was meant to.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.holds > 0 || !self.subscribers.is_empty()
    }
}
