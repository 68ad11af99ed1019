//! The consumer's end of a stream: it reads committed bytes in place, and then releases them.

use crate::control::{Control, PeerControl, PortWords};
use crate::futex::Kernel;
use crate::memory::Memory;
use crate::view::{Ledger, View};
use crate::wait::{Wait, now_nanos};
use crate::watchers::PeerWord;
use dflow_protocol::PortId;
use dflow_protocol::words::{Platform, Progress, Sleeper, State, Watch, publish};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A part of a stream in memory that its producer writes.
#[derive(Clone, Debug)]
pub struct MemoryPiece {
    /// The memory.
    pub memory: Arc<Memory>,
    /// Where in `memory` the window starts.
    pub start: usize,
    /// The stream offset of the window's first byte.
    pub base: u64,
    /// The window's size in bytes.
    pub size: u64,
    /// Whether it is a ring; then `memory` has twice its size.
    pub ring: bool,
    /// The stream offset at which the piece ends, if that is known.
    pub end: Option<u64>,
    /// The producer's control page and its port there; `None` if everything up to `end` is committed.
    pub producer: Option<(Arc<PeerControl>, PortId)>,
}

impl MemoryPiece {
    fn producer(&self) -> Option<&PortWords> {
        self.producer.as_ref().map(|(page, port)| page.port(*port))
    }
}

/// What a reader finds at its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// This many bytes: [`Reader::bytes`].
    Bytes(u64),
    /// Nothing yet.
    Nothing,
    /// The reader has finished the piece, or has none: the next bytes are in another one.
    NeedPiece,
    /// The stream is finished here.
    End,
    /// The producer has given the stream up.
    Aborted,
    /// The producer violates the protocol: it claims more bytes than its window can hold.
    Violation,
}

/// The consumer's end of a stream.
///
/// The caller loads its bell *after* [`Reader::look`], and handles the daemon's messages before it uses the result (see
/// `dflow_protocol::words`).
#[derive(Debug)]
pub struct Reader {
    control: Arc<Control>,
    port: PortId,
    position: u64,
    /// The position that the producer knows.
    published: u64,
    /// Bytes from here on are needed although they have been read.
    held: u64,
    seen: u64,
    piece: Option<MemoryPiece>,
    watch: Watch,
    announced: Option<u64>,
    sleeper: Sleeper,
    has_first_byte: bool,
}

impl Reader {
    /// The end of a stream whose words are at `port` of `control`, at offset 0 and without a piece as yet.
    #[must_use]
    pub fn new(control: Arc<Control>, port: PortId) -> Self {
        Self {
            control,
            port,
            position: 0,
            published: 0,
            held: u64::MAX,
            seen: 0,
            piece: None,
            watch: Watch::default(),
            announced: None,
            sleeper: Sleeper::default(),
            has_first_byte: false,
        }
    }

    /// Reads on in this piece.
    ///
    /// # Panics
    /// If the piece is larger than the memory behind it or does not hold the byte at the reader's position.
    pub fn set_piece(&mut self, piece: MemoryPiece) {
        let bytes = if piece.ring { 2 * piece.size } else { piece.size };
        assert!(piece.start as u64 + bytes <= piece.memory.length() as u64, "the piece is larger than its mapping");
        assert!(piece.base <= self.position, "the piece starts behind the reader's position");
        assert!(!piece.ring || piece.size.is_power_of_two(), "a ring's size is a power of two");
        self.piece = Some(piece);
    }

    /// The present piece ends at this offset.
    pub fn set_end(&mut self, end: u64) {
        if let Some(piece) = &mut self.piece {
            piece.end = Some(end);
        }
    }

    /// Drops the present piece.
    pub fn drop_piece(&mut self) {
        self.piece = None;
    }

    /// Looks at the producer's words.
    pub fn look(&mut self) -> Seen {
        let Some(piece) = &self.piece else {
            return Seen::NeedPiece;
        };
        if piece.end.is_some_and(|end| self.position >= end) {
            return Seen::NeedPiece;
        }
        let Some(producer) = piece.producer() else {
            let length = piece.end.map_or(0, |end| end - self.position);
            self.note_first_byte();
            return if length == 0 { Seen::NeedPiece } else { Seen::Bytes(length) };
        };
        self.seen = producer.progress.load(Ordering::Acquire);
        let progress = Progress::decode(self.seen);
        let limit = piece.end.map_or(progress.offset, |end| progress.offset.min(end));
        if limit > self.position {
            let first = if piece.ring { self.position } else { piece.base };
            if limit - first > piece.size {
                return Seen::Violation;
            }
            let length = limit - self.position;
            self.note_first_byte();
            return Seen::Bytes(length);
        }
        match progress.state {
            State::Finished => Seen::End,
            State::Aborted => Seen::Aborted,
            State::Open => Seen::Nothing,
        }
    }

    /// `length` bytes from the reader's position on. `length` must be what [`Reader::look`] has found since the reader
    /// last moved, or less; the slice is shorter if it is not.
    #[must_use]
    pub fn bytes(&self, length: u64) -> &[u8] {
        let Some(piece) = &self.piece else { return &[] };
        let index = self.position - piece.base;
        let (index, most) =
            if piece.ring { (index & (piece.size - 1), piece.size) } else { (index, piece.size.saturating_sub(index)) };
        if length == 0 || most == 0 {
            return &[];
        }
        // SAFETY: `set_piece` has checked that the piece lies in the memory, and `index` plus at most `most` bytes stay
        // within it (within its second half for a ring). The memory cannot shrink. The bytes below the watermark do not
        // change while they are borrowed: a run is one trust domain, and its producer overwrites a ring only below the
        // published position, which [`Reader::consume`] moves and the borrow of `self` holds back.
        unsafe {
            let first = piece.memory.start().add(piece.start + index as usize);
            std::slice::from_raw_parts(first.as_ptr(), length.min(most) as usize)
        }
    }

    /// Moves past `length` bytes, which the producer may then overwrite. The position is published after each eighth of
    /// the window, and before this reader waits; a reader that does neither calls [`Reader::publish`].
    pub fn consume(&mut self, length: u64) {
        self.position += length;
        self.publish_step();
    }

    /// Bytes from `offset` on stay as they are although they have been read, until this is called with a higher offset:
    /// a network card may still be sending them, for example. Otherwise consumed bytes are given up.
    pub fn hold(&mut self, offset: u64) {
        self.held = offset;
        self.publish_step();
    }

    /// An owned view of `length` bytes from the reader's position on, with the rules of [`Reader::bytes`]; moves past
    /// them. The producer does not overwrite them while the view lives: from now on the published position is held at
    /// the lowest view of `ledger`, which is this reader's. `None` if there are no such bytes.
    ///
    /// When views are dropped ([`Ledger::take_changed`]) the reader's owner calls [`Reader::hold`] with
    /// [`Ledger::lowest`], and it closes the reader by [`Reader::close_after_views`]. The daemon must take the piece
    /// for used until then.
    pub fn view(&mut self, length: u64, ledger: &Arc<Ledger>) -> Option<View> {
        let bytes = self.bytes(length);
        if bytes.is_empty() {
            return None;
        }
        let view = View::mapped(&self.piece.as_ref()?.memory, bytes, self.position, ledger);
        self.held = self.held.min(self.position);
        self.position += view.len() as u64;
        Some(view)
    }

    /// Closes the reader and calls `then` as soon as no view of `ledger` is live, which may be now.
    pub fn close_after_views(self, ledger: &Arc<Ledger>, then: impl FnOnce() + Send + 'static) {
        ledger.close(self, Box::new(then));
    }

    fn publish_step(&mut self) {
        let step = self.piece.as_ref().map_or(0, |piece| piece.size / 8);
        if self.given_up().saturating_sub(self.published) >= step {
            self.publish();
        }
    }

    /// Bytes below this offset are not needed any more: they have been read and are not held.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.position.min(self.held)
    }

    /// The memory that holds the byte at the reader's position, and where it is in there.
    #[must_use]
    pub fn place(&self) -> Option<(&Arc<Memory>, usize)> {
        let piece = self.piece.as_ref()?;
        let index = self.position - piece.base;
        let index = if piece.ring { index & (piece.size - 1) } else { index };
        Some((&piece.memory, piece.start + index as usize))
    }

    /// The memory of the reader's piece, unless it holds other streams, too.
    #[must_use]
    pub fn memory(&self) -> Option<&Arc<Memory>> {
        let piece = self.piece.as_ref()?;
        let length = if piece.ring { 2 * piece.size } else { piece.size };
        (piece.memory.length() as u64 == length).then_some(&piece.memory)
    }

    /// Records the time of the first byte that the reader sees.
    #[inline]
    pub fn note_first_byte(&mut self) {
        if !self.has_first_byte {
            self.has_first_byte = true;
            self.words().first_byte.store(now_nanos(), Ordering::Relaxed);
        }
    }

    /// Closes the input: nothing more will be read.
    pub fn close(&mut self) {
        self.publish_state(State::Finished);
        self.piece = None;
    }

    /// Tells the producer the position, and wakes it if it sleeps because it has no room.
    pub fn publish(&mut self) {
        if self.given_up() > self.published {
            self.publish_state(State::Open);
        }
    }

    fn publish_state(&mut self, state: State) {
        let words = self.control.port(self.port);
        let progress = Progress { offset: self.given_up().max(self.published), state };
        publish::<Kernel>(&words.progress, progress);
        self.published = progress.offset;
        if let Some(producer) = self.piece.as_ref().and_then(MemoryPiece::producer)
            && self.watch.must_wake::<Kernel>(&producer.ticket, progress)
        {
            Kernel::wake(&words.progress);
        }
    }

    /// The offset of the next byte.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The present piece.
    #[must_use]
    pub fn piece(&self) -> Option<&MemoryPiece> {
        self.piece.as_ref()
    }

    fn words(&self) -> &PortWords {
        self.control.port(self.port)
    }
}

impl Wait for Reader {
    fn ready(&mut self) -> bool {
        self.look() != Seen::Nothing
    }

    fn settle(&mut self) {
        self.publish();
    }

    fn announce(&mut self) {
        self.publish();
        self.sleeper.prepare::<Kernel>(&self.control.port(self.port).ticket, self.seen);
        self.announced = Some(self.seen);
    }

    fn word(&self) -> Option<(&AtomicU64, u64)> {
        let producer = self.piece.as_ref()?.producer()?;
        Some((&producer.progress, self.announced?))
    }

    fn peer_word(&self) -> Option<(PeerWord, u64)> {
        let (page, port) = self.piece.as_ref()?.producer.as_ref()?;
        Some((PeerWord::of_port(Arc::clone(page), *port), self.announced?))
    }

    fn retract(&mut self) {
        self.sleeper.done::<Kernel>(&self.words().ticket);
    }
}
