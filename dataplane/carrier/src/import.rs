//! A stream that comes from a peer.

use crate::watch::Watch;
use dflow_ports::{Incoming, RoomFor, WriteError};
use dflow_protocol::limits::ARENA_SLOT;
use dflow_protocol::wire::{FlowId, StreamKey};
use dflow_shm::Landing;
use dflow_transport::Link;
use std::sync::Arc;
use std::time::Instant;

/// A stream that comes from the peer.
pub(super) struct Import {
    pub(super) stream: Incoming,
    pub(super) watch: Watch,
    pub(super) key: StreamKey,
    /// Bytes below this offset may be sent by the peer.
    credit: u64,
    stuck: bool,
    /// It is unsubscribed; bytes may still be in flight.
    pub(super) closing: bool,
}

impl Import {
    pub(super) fn new(stream: Incoming, watch: Watch, key: StreamKey, credit: u64) -> Self {
        Self { stream, watch, key, credit, stuck: false, closing: false }
    }

    /// The credit with which a new stream begins: the arena slot is there from the beginning. It gets no grant, because its
    /// bytes travel inside messages.
    pub(super) fn first_credit(stream: &mut Incoming) -> u64 {
        let is_first = |landing: &Arc<Landing>| landing.base() == 0 && landing.size() <= ARENA_SLOT;
        match stream.room(Instant::now()) {
            Ok(RoomFor::Until(until, _)) if stream.landing().is_some_and(is_first) => until,
            _ => 0,
        }
    }

    /// Whether it waits for anything on this node.
    pub(super) fn waits(&self) -> bool {
        self.waits_for_readers() || (!self.closing && self.stream.look_again_at().is_some())
    }

    /// Whether it waits for its readers. While there is credit left, it waits for the peer.
    pub(super) fn waits_for_readers(&self) -> bool {
        !self.closing && self.stream.written() >= self.credit
    }

    pub(super) fn look(&mut self, link: &mut Link, flow: FlowId, now: Instant) -> Result<bool, WriteError> {
        if self.closing {
            return Ok(false);
        }
        match self.stream.room(now)? {
            RoomFor::Until(until, window) => {
                self.set_stuck(link, flow, false);
                match window {
                    Some(landing) => link.window(flow, &landing, until),
                    None if until > self.credit => link.credit(flow, until),
                    None => return Ok(false),
                }
                self.credit = until;
                Ok(true)
            }
            RoomFor::Nothing => Ok(false),
            RoomFor::Stuck => {
                self.set_stuck(link, flow, true);
                Ok(false)
            }
            RoomFor::Unread => {
                self.close(link, flow);
                Ok(true)
            }
        }
    }

    fn set_stuck(&mut self, link: &mut Link, flow: FlowId, stuck: bool) {
        if std::mem::replace(&mut self.stuck, stuck) != stuck {
            link.stuck(flow, stuck);
        }
    }

    /// Unsubscribes. The stream is given up when nothing of it is in flight any more.
    pub(super) fn close(&mut self, link: &mut Link, flow: FlowId) {
        if !std::mem::replace(&mut self.closing, true) {
            link.unsubscribe(flow);
        }
    }
}
