//! The pieces of which a stream consists.

use crate::input::InputFiles;
use crate::memory::WindowMemory;
use crate::process::{Arena, Endpoint};
use dflow_disk::SpillFile;
use dflow_protocol::PortId;
use dflow_protocol::limits::ARENA_SLOT;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// A part of a stream, in one place.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) base: u64,
    /// `None`: the producer writes here.
    pub(crate) end: Option<u64>,
    pub(crate) place: Place,
    /// Readers that may have it mapped.
    pub(crate) users: BTreeSet<Endpoint>,
    /// Lent to a job. If the piece is freed meanwhile, the completion of the job frees its memory.
    pub(crate) lent: bool,
    /// A reader waits until it is on disk, so it goes there although others have it mapped.
    pub(crate) wanted_on_disk: bool,
    /// The memory that it had before it was on disk.
    pub(crate) former: Option<Former>,
}

/// The memory that a piece had before it was on disk.
#[derive(Debug)]
pub(crate) struct Former {
    pub(crate) memory: Arc<WindowMemory>,
    /// Readers that still have it mapped.
    pub(crate) users: BTreeSet<Endpoint>,
}

/// Where a piece's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A slot of the producer's arena at this offset. `charged`: its bytes that count in the budget.
    Arena { arena: Arc<Arena>, offset: u64, charged: u64 },
    /// A window of its own.
    Window { memory: Arc<WindowMemory>, ring: bool },
    /// The spill file, at the same offsets as in the stream.
    Spill(Arc<SpillFile>),
    /// The user's files, which are all of the stream.
    Input(Rc<InputFiles>),
}

impl Piece {
    /// The slot of the arena in which a stream begins.
    pub(crate) fn slot(arena: Arc<Arena>, port: PortId) -> Self {
        let place = Place::Arena { arena, offset: u64::from(port.0) * ARENA_SLOT, charged: 0 };
        Self::new(0, None, place)
    }

    /// A window of its own, which the producer is about to write.
    pub(crate) fn window(base: u64, memory: Arc<WindowMemory>, ring: bool) -> Self {
        Self::new(base, None, Place::Window { memory, ring })
    }

    pub(crate) fn new(base: u64, end: Option<u64>, place: Place) -> Self {
        Self { base, end, place, users: BTreeSet::new(), lent: false, wanted_on_disk: false, former: None }
    }

    /// A reader has finished with it.
    pub(crate) fn leave(&mut self, user: Endpoint) {
        self.users.remove(&user);
        if let Some(former) = &mut self.former {
            former.users.remove(&user);
        }
    }

    /// Bytes that the place has.
    pub(crate) fn capacity(&self) -> u64 {
        match &self.place {
            Place::Arena { .. } => ARENA_SLOT,
            Place::Window { memory, .. } => memory.size,
            Place::Spill(_) | Place::Input(_) => self.end.unwrap_or(self.base) - self.base,
        }
    }

    /// The offset behind the last byte that it can hold; that of a ring has no limit.
    pub(crate) fn room_end(&self) -> u64 {
        if self.is_ring() { u64::MAX } else { self.base + self.capacity() }
    }

    pub(crate) fn is_ring(&self) -> bool {
        matches!(self.place, Place::Window { ring: true, .. })
    }

    /// It was written to disk. Readers that mapped it meanwhile continue in memory.
    pub(crate) fn move_to(&mut self, file: Arc<SpillFile>, memory: Arc<WindowMemory>) {
        self.lent = false;
        self.place = Place::Spill(file);
        self.former = Some(Former { memory, users: std::mem::take(&mut self.users) });
    }

    /// Whether it should go to disk first: its producer has left it, and no reader has it mapped or a reader wants it
    /// on disk.
    fn is_cold(&self, needed_from: u64) -> bool {
        (self.users.is_empty() || self.wanted_on_disk)
            && !self.lent
            && self.end.is_some_and(|end| end > needed_from && end > self.base)
            && matches!(self.place, Place::Window { ring: false, .. })
    }

    /// Whether it can be freed. Files of the user's stay: they cost nothing.
    fn is_needless(&self, needed_from: u64) -> bool {
        self.end.is_some_and(|end| end <= needed_from)
            && self.users.is_empty()
            && self.former.is_none()
            && !matches!(self.place, Place::Input(_))
    }
}

/// The pieces of a stream in the order of their offsets, without gaps. The last one may be live: written by the
/// producer.
#[derive(Debug, Default)]
pub(crate) struct Pieces(Vec<Piece>);

impl Pieces {
    pub(crate) fn push(&mut self, piece: Piece) {
        self.0.push(piece);
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Piece> {
        self.0.get(index)
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Piece> {
        self.0.get_mut(index)
    }

    pub(crate) fn last_mut(&mut self) -> Option<&mut Piece> {
        self.0.last_mut()
    }

    /// The last piece but one.
    pub(crate) fn before_last(&self) -> Option<&Piece> {
        self.0.iter().rev().nth(1)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Piece> {
        self.0.iter_mut()
    }

    /// The piece that the producer writes.
    pub(crate) fn live(&self) -> Option<&Piece> {
        self.0.last().filter(|piece| piece.end.is_none())
    }

    /// See [`Pieces::live`].
    pub(crate) fn live_mut(&mut self) -> Option<&mut Piece> {
        self.0.last_mut().filter(|piece| piece.end.is_none())
    }

    /// The index of the piece in which the byte at `offset` is or will be; `None` if there is none yet.
    pub(crate) fn position(&self, offset: u64) -> Option<usize> {
        self.0.iter().position(|piece| piece.base <= offset && offset < piece.end.unwrap_or(piece.room_end()))
    }

    /// The end of the contiguous range in the spill file that begins with this piece.
    pub(crate) fn spilled_end(&self, index: usize) -> u64 {
        let mut end = self.0[index].end.unwrap_or(self.0[index].base);
        for piece in &self.0[index + 1..] {
            match (&piece.place, piece.end) {
                (Place::Spill(_), Some(next)) if piece.base == end => end = next,
                _ => break,
            }
        }
        end
    }

    /// A reader has finished with all pieces.
    pub(crate) fn leave(&mut self, reader: Endpoint) {
        for piece in &mut self.0 {
            piece.leave(reader);
        }
    }

    /// A reader has finished with the pieces in this range of the stream.
    pub(crate) fn leave_range(&mut self, reader: Endpoint, range: Range<u64>) {
        for piece in &mut self.0 {
            // An extent ends where it is full, whether or not its producer has left it.
            let end = piece.end.unwrap_or(piece.room_end());
            if piece.base >= range.start && end <= range.end {
                piece.leave(reader);
            }
        }
    }

    /// Removes what is not needed by readers of bytes from `needed_from` on: pieces, and memory of pieces that are on
    /// disk.
    pub(crate) fn release(&mut self, needed_from: u64) -> (Vec<Piece>, Vec<Arc<WindowMemory>>) {
        let former = self.0.iter_mut().filter_map(|piece| piece.former.take_if(|former| former.users.is_empty()));
        let memory = former.map(|former| former.memory).collect();
        let pieces = self.0.extract_if(.., |piece| piece.is_needless(needed_from)).collect();
        (pieces, memory)
    }

    /// Whether a reader may have one of them mapped.
    pub(crate) fn is_used(&self) -> bool {
        let has_former = |piece: &Piece| piece.former.as_ref().is_some_and(|former| !former.users.is_empty());
        self.0.iter().any(|piece| !piece.users.is_empty() || has_former(piece))
    }

    /// The last piece that can go to disk. The last one first, because a reader that comes begins with the first bytes,
    /// which are then in memory.
    pub(crate) fn coldest(&mut self, needed_from: u64) -> Option<&mut Piece> {
        self.0.iter_mut().rev().find(|piece| piece.is_cold(needed_from))
    }

    /// Whether a window that its producer has left is in memory: it is cold now, or will be.
    pub(crate) fn has_closed_window(&self) -> bool {
        self.0.iter().any(|piece| piece.end.is_some() && matches!(piece.place, Place::Window { ring: false, .. }))
    }

    /// The piece at `base` that has this memory.
    pub(crate) fn with_memory(&mut self, base: u64, memory: &Arc<WindowMemory>) -> Option<&mut Piece> {
        let has = |place: &Place| matches!(place, Place::Window { memory: it, .. } if Arc::ptr_eq(it, memory));
        self.0.iter_mut().find(|piece| piece.base == base && has(&piece.place))
    }

    /// Whether they have every byte below `written`. A ring that is still written loses its oldest bytes at any time.
    pub(crate) fn are_whole(&self, written: u64) -> bool {
        let mut next = 0;
        for piece in &self.0 {
            let Some(end) = piece.end else { return piece.base == next && !piece.is_ring() };
            if piece.base != next || (piece.is_ring() && end - piece.base > piece.capacity()) {
                return false;
            }
            next = end;
        }
        next >= written
    }

    /// All pieces, in order; none is left.
    pub(crate) fn take(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.0)
    }
}
