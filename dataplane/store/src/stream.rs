//! What the store knows of one stream.

use crate::ProcessId;
use crate::fingerprint::Fingerprint;
use crate::memory::WindowMemory;
use crate::process::Arena;
use crate::replay::Replay;
use dflow_disk::SpillFile;
use dflow_protocol::limits::ARENA_SLOT;
use dflow_protocol::words::Progress;
use dflow_protocol::{InstanceId, PortId};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    /// The window behind the live one, where what comes from another node may land already.
    pub(crate) ahead: Option<PieceState>,
    /// Its length, once it is finished.
    pub(crate) finished: Option<u64>,
    /// What its present producer's words said when they said that this is the end.
    pub(crate) ended: Option<Progress>,
    /// The largest watermark that has been seen.
    pub(crate) watermark: u64,
    /// Up to where its producers may ever have written; everything once there was a ring.
    pub(crate) granted: u64,
    pub(crate) first_bytes: bool,
    pub(crate) subscribers: BTreeMap<Subscriber, SubscriberState>,
    /// The producer has been told that nobody reads.
    pub(crate) unread_told: bool,
    pub(crate) spill: Option<Arc<SpillFile>>,
    /// Bytes that were written to disk.
    pub(crate) spilled: u64,
    /// What later attempts are compared with, if they are to continue the stream.
    pub(crate) fingerprint: Option<Arc<Mutex<Fingerprint>>>,
    /// Up to where the fingerprint reaches, or will when the hash thread is done.
    pub(crate) hashed: u64,
    /// An attempt writes again what is there already.
    pub(crate) replay: Option<Replay>,
    /// An earlier attempt has finished the stream with this length, and readers may know it.
    pub(crate) promised: Option<u64>,
    /// What readers have read is not what a dead attempt has left, so no other attempt can continue it.
    pub(crate) overread: bool,
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
    /// Lent to the spill thread or to the hash thread, which gives the memory back when nobody else needs it.
    pub(crate) lent: bool,
    /// Somebody waits until it is on disk, so that it goes there although others have it mapped.
    pub(crate) wanted_on_disk: bool,
    pub(crate) held: Option<Held>,
}

/// The memory that a piece had before it was on disk.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) memory: Arc<WindowMemory>,
    /// Who still has it mapped.
    pub(crate) users: BTreeSet<(ProcessId, PortId)>,
}

/// Where a piece's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A slot of the producer's arena, at this offset in bytes, of which so many bytes are charged to the budget.
    Arena { arena: Arc<Arena>, offset: u64, charged: u64 },
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
    /// It has that piece, unless the stream ends here: it wants to know whether its producer's words are true.
    pub(crate) verifies: bool,
    /// The producer knows of the reader.
    pub(crate) registered: bool,
    /// Nothing more of this epoch will be read.
    pub(crate) closed: bool,
    /// Nor of any other.
    pub(crate) gone: bool,
    /// The position last seen, and since when it has been this.
    pub(crate) position: u64,
    pub(crate) since: Duration,
    /// Since when it was seen to sleep at this position although there is more to read, or room in its outputs: it was
    /// woken and does not run.
    pub(crate) overslept: Option<(u64, Duration)>,
}

impl Stream {
    /// The window that the producer writes and readers read.
    pub(crate) fn live(&self) -> Option<&PieceState> {
        self.pieces.last().filter(|piece| piece.end.is_none())
    }

    pub(crate) fn live_mut(&mut self) -> Option<&mut PieceState> {
        self.pieces.last_mut().filter(|piece| piece.end.is_none())
    }

    /// The largest watermark that the producer was seen to have reached.
    pub(crate) fn written(&self) -> u64 {
        self.replay.as_ref().map_or(self.watermark, |replay| replay.written)
    }

    /// The largest watermark that the granted memory allows. How far a ring goes is a matter between its users.
    pub(crate) fn room(&self) -> u64 {
        match (&self.replay, self.live()) {
            (Some(replay), _) => replay.room(),
            (None, Some(piece)) => match self.ahead.as_ref().unwrap_or(piece) {
                piece if piece.is_ring() => u64::MAX,
                piece => piece.base + piece.capacity(),
            },
            (None, None) => self.watermark,
        }
    }

    /// The lowest offset that somebody may still need.
    pub(crate) fn needed_from(&self) -> u64 {
        if self.holds > 0 || (self.keep && self.subscribers.values().any(|it| !it.closed || it.keep)) {
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

    /// A reader reads nothing more of this epoch; its subscription, if it is still its reader.
    pub(crate) fn close_reader(
        &mut self,
        subscriber: Subscriber,
        reader: (ProcessId, PortId),
    ) -> Option<&mut SubscriberState> {
        for piece in &mut self.pieces {
            piece.leave(reader);
        }
        let state = self.subscribers.get_mut(&subscriber).filter(|state| state.reader == Some(reader))?;
        state.asked = None;
        state.closed = true;
        Some(state)
    }

    /// A reader is done with the pieces that end before its position.
    pub(crate) fn leave_pieces(&mut self, reader: (ProcessId, PortId)) {
        let subscriber = self.subscribers.values().find(|subscriber| subscriber.reader == Some(reader));
        let position = subscriber.map_or(u64::MAX, |subscriber| subscriber.position);
        for piece in self.pieces.iter_mut().filter(|piece| piece.end.is_some_and(|end| end <= position)) {
            piece.leave(reader);
        }
    }

    /// Whether nobody reads it and nobody will, though somebody was meant to. Who has read all of a stream that an earlier
    /// attempt had finished has not left it.
    pub(crate) fn is_unread(&self) -> bool {
        let gone = |subscriber: &SubscriberState| subscriber.closed && !subscriber.keep;
        self.holds == 0
            && self.promised.is_none()
            && !self.subscribers.is_empty()
            && self.subscribers.values().all(gone)
    }

    /// Whether it is still written, and somebody reads it or will.
    pub(crate) fn is_read(&self) -> bool {
        self.is_subscribed() && self.finished.is_none() && !self.unread_told
    }

    /// Whether somebody reads it, will, or was meant to.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.holds > 0 || !self.subscribers.is_empty()
    }

    /// The piece in which the byte at `offset` is or will be; `None` if that is not there yet.
    pub(crate) fn piece_at(&self, offset: u64) -> Option<usize> {
        let reaches = |piece: &PieceState| {
            let full = piece.base + piece.capacity();
            piece.end.map_or(piece.is_ring() || offset < full, |end| offset < end)
        };
        self.pieces.iter().position(|piece| piece.base <= offset && reaches(piece))
    }
}

impl PieceState {
    /// A slot of the arena in which the stream begins.
    pub(crate) fn slot(arena: Arc<Arena>, port: PortId) -> Self {
        let place = Place::Arena { arena, offset: u64::from(port.0) * ARENA_SLOT, charged: 0 };
        Self::new(0, None, place)
    }

    /// A window of its own.
    pub(crate) fn window(base: u64, memory: Arc<WindowMemory>, ring: bool) -> Self {
        Self::new(base, None, Place::Window { memory, ring })
    }

    /// A piece that begins at `base`; `end` is `None` for a window that the producer is about to write.
    pub(crate) fn new(base: u64, end: Option<u64>, place: Place) -> Self {
        Self { base, end, place, users: BTreeSet::new(), lent: false, wanted_on_disk: false, held: None }
    }

    /// A reader does not look at it any more.
    pub(crate) fn leave(&mut self, user: (ProcessId, PortId)) {
        self.users.remove(&user);
        if let Some(held) = &mut self.held {
            held.users.remove(&user);
        }
    }

    /// The memory that it had before it was on disk, once nobody has that mapped.
    pub(crate) fn take_unheld(&mut self) -> Option<Arc<WindowMemory>> {
        self.held.take_if(|held| held.users.is_empty()).map(|held| held.memory)
    }

    /// Bytes that the place has.
    pub(crate) fn capacity(&self) -> u64 {
        match &self.place {
            Place::Arena { .. } => ARENA_SLOT,
            Place::Window { memory, .. } => memory.size,
            Place::Spill(_) | Place::Input(_) => self.end.unwrap_or(self.base) - self.base,
        }
    }

    pub(crate) fn is_ring(&self) -> bool {
        matches!(self.place, Place::Window { ring: true, .. })
    }
}
