//! What the store knows of one stream.

use crate::ProcessId;
use crate::memory::WindowMemory;
use crate::process::Arena;
use dflow_disk::SpillFile;
use dflow_protocol::{InstanceId, PortId};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A reader of a stream: an input of an instance, whichever attempt of it is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subscriber {
    /// The instance.
    pub instance: InstanceId,
    /// Index of the input.
    pub input: u32,
}

/// One stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// All bytes stay until every subscription is given up.
    pub(crate) keep: bool,
    /// Subscriptions that are not known yet; while there are any, all bytes stay.
    pub(crate) holds: u32,
    /// The process that writes it, and its port.
    pub(crate) producer: Option<(ProcessId, PortId)>,
    /// In the order of their offsets, without gaps. The last one may be the live window.
    pub(crate) pieces: Vec<PieceState>,
    /// Its length, once it is finished.
    pub(crate) finished: Option<u64>,
    /// The largest watermark that has been seen.
    pub(crate) watermark: u64,
    pub(crate) first_bytes: bool,
    pub(crate) subscribers: BTreeMap<Subscriber, SubscriberState>,
    /// The producer has been told that nobody reads.
    pub(crate) unread_told: bool,
    pub(crate) spill: Option<Arc<SpillFile>>,
    /// Bytes that were written to disk.
    pub(crate) spilled: u64,
}

/// A part of a stream.
#[derive(Debug)]
pub(crate) struct PieceState {
    pub(crate) base: u64,
    /// `None`: the producer writes here.
    pub(crate) end: Option<u64>,
    pub(crate) place: Place,
    /// Readers that may have it mapped.
    pub(crate) users: BTreeSet<(ProcessId, PortId)>,
    /// On its way to disk.
    pub(crate) spilling: bool,
}

/// Where a piece's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A slot of the producer's arena, at this offset in bytes, of which so many bytes are charged to the budget.
    Arena { arena: Rc<Arena>, offset: u64, charged: u64 },
    /// A window of its own.
    Window { memory: Arc<WindowMemory>, ring: bool },
    /// The spill file, at the same offsets as in the stream.
    Spill(Arc<SpillFile>),
    /// A file of the caller's, from its start.
    Input(Rc<OwnedFd>),
}

/// A subscription.
#[derive(Debug)]
pub(crate) struct SubscriberState {
    /// The consumer may be restarted, or wants a slice over everything: all bytes stay for it.
    pub(crate) keep: bool,
    /// The attempt that reads, and its port.
    pub(crate) reader: Option<(ProcessId, PortId)>,
    /// The reader wants the piece at this offset.
    pub(crate) asked: Option<u64>,
    /// The producer knows of the reader.
    pub(crate) registered: bool,
    /// Nothing more will be read.
    pub(crate) closed: bool,
    /// The position last seen, and since when it has been this.
    pub(crate) position: u64,
    pub(crate) since: Instant,
}

impl Stream {
    /// The window that the producer writes.
    pub(crate) fn live(&self) -> Option<&PieceState> {
        self.pieces.last().filter(|piece| piece.end.is_none())
    }

    pub(crate) fn live_mut(&mut self) -> Option<&mut PieceState> {
        self.pieces.last_mut().filter(|piece| piece.end.is_none())
    }

    /// The lowest offset that somebody may still need.
    pub(crate) fn needed_from(&self) -> u64 {
        if self.holds > 0 {
            return 0;
        }
        let needs = self.subscribers.values().map(|subscriber| {
            if subscriber.keep {
                0
            } else if subscriber.closed {
                u64::MAX
            } else {
                subscriber.position
            }
        });
        needs.min().unwrap_or(u64::MAX)
    }

    /// Whether nobody reads it and nobody will, though somebody was meant to.
    pub(crate) fn is_unread(&self) -> bool {
        let gone = |subscriber: &SubscriberState| subscriber.closed && !subscriber.keep;
        self.holds == 0 && !self.subscribers.is_empty() && self.subscribers.values().all(gone)
    }

    /// Whether somebody reads it, will, or was meant to.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.holds > 0 || !self.subscribers.is_empty()
    }

    /// The piece in which the byte at `offset` is or will be.
    pub(crate) fn piece_at(&self, offset: u64) -> Option<usize> {
        self.pieces.iter().position(|piece| piece.base <= offset && piece.end.is_none_or(|end| offset < end))
    }
}

impl PieceState {
    /// Bytes that the place has.
    pub(crate) fn capacity(&self) -> u64 {
        match &self.place {
            Place::Arena { .. } => dflow_protocol::limits::ARENA_SLOT,
            Place::Window { memory, .. } => memory.size,
            Place::Spill(_) | Place::Input(_) => self.end.unwrap_or(self.base) - self.base,
        }
    }

    pub(crate) fn is_ring(&self) -> bool {
        matches!(self.place, Place::Window { ring: true, .. })
    }
}
