//! One stream: its subscriptions and its epoch.

use crate::epoch::Epoch;
use crate::process::Endpoint;
use crate::subscription::{Subscriber, Subscription};
use std::collections::BTreeMap;

/// One stream. Its subscriptions outlive its epochs.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// All bytes stay until every subscription is cancelled.
    pub(crate) keep: bool,
    /// The number of [holds](crate::Store::hold); while there are any, all bytes stay.
    pub(crate) holds: u32,
    pub(crate) subscribers: BTreeMap<Subscriber, Subscription>,
    pub(crate) epoch: Epoch,
}

impl Stream {
    /// Begins an epoch. Returns the one that is void now.
    pub(crate) fn begin_epoch(&mut self) -> Epoch {
        for subscription in self.subscribers.values_mut() {
            subscription.begin_epoch();
        }
        std::mem::take(&mut self.epoch)
    }

    /// The lowest offset that a reader may still need.
    pub(crate) fn needed_from(&self) -> u64 {
        if self.holds > 0 || (self.keep && self.subscribers.values().any(|it| !it.is_done())) {
            return 0;
        }
        self.subscribers.values().map(Subscription::needed_from).min().unwrap_or(u64::MAX)
    }

    /// Whether all bytes stay, however far readers are.
    pub(crate) fn is_kept(&self) -> bool {
        self.keep || self.holds > 0 || self.subscribers.values().any(Subscription::keeps)
    }

    /// A reader is gone. Returns its subscription, if it is still the reader of that.
    pub(crate) fn leave_reader(&mut self, subscriber: Subscriber, reader: Endpoint) -> Option<&mut Subscription> {
        self.epoch.pieces.leave(reader);
        self.subscribers.get_mut(&subscriber).filter(|it| it.is_read_by(reader))
    }

    /// A reader closes its input. Returns its subscription, if it is still the reader of that.
    pub(crate) fn close_reader(&mut self, subscriber: Subscriber, reader: Endpoint) -> Option<&mut Subscription> {
        let subscription = self.leave_reader(subscriber, reader)?;
        subscription.close();
        Some(subscription)
    }

    /// Whether all of its subscriptions are done, so that its producer may stop. A stream that an earlier attempt has
    /// finished is not unread: its readers have left because they have read all of it.
    pub(crate) fn is_unread(&self) -> bool {
        self.holds == 0
            && self.epoch.promised().is_none()
            && !self.subscribers.is_empty()
            && self.subscribers.values().all(Subscription::is_done)
    }

    /// Whether it is unfinished and has, or will have, a reader.
    pub(crate) fn is_read(&self) -> bool {
        self.is_subscribed() && self.epoch.finished().is_none() && !self.epoch.was_told_unread()
    }

    /// Whether it has subscriptions, or may get some.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.holds > 0 || !self.subscribers.is_empty()
    }
}
