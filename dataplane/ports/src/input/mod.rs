//! The reading end of one stream: in place where it is in memory, through a buffer where it is in a file.

mod file;
mod lending;
mod mail;

use self::file::FilePiece;
use crate::error::{ReadError, SessionError};
use crate::session::{Port, Session};
use dflow_protocol::PortId;
use dflow_protocol::message::ToDaemon;
use dflow_shm::{Ledger, Memory, PeerWord, Reader, Seen, Span, View, Wait};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// How many bytes of mapped memory the live views of one input may cover; further views are private copies. Memory under
/// a view cannot be reused for other streams, so without a limit one function could use up the node's budget.
pub const MAX_VIEWED: u64 = 64 * 1024 * 1024;

/// The reading end of one stream.
///
/// Bytes are read in place: borrowed ([`InPort::try_next_chunk`]) or as owned views ([`InPort::try_next_view`]). No call
/// waits for a producer; [`Session::wait`] does. Dropping the port tells the producer that nothing more will be read.
pub struct InPort {
    session: Arc<Session>,
    name: Arc<str>,
    port: PortId,
    reader: Reader,
    /// Where the mail has been taken up to.
    seen: u64,
    file: Option<FilePiece>,
    /// The next piece, or the daemon's judgement on the producer's words, has been asked for and has not come.
    asked: bool,
    /// The length of the stream, once its end is known to be here.
    end: Option<u64>,
    /// Bytes borrowed by the last call, which the next one gives back.
    lent: u64,
    /// With `keep`: all bytes in one range of addresses.
    span: Option<Span>,
    /// For the carrier: bytes of files are not buffered here, and memory is mapped as network cards want it.
    carries: bool,
    /// Pieces that were used up while some of their bytes were still lent or viewed.
    left: VecDeque<Range<u64>>,
    /// The live views, from the first one on.
    views: Option<Arc<Ledger>>,
}

/// Bytes of a stream, in the memory that holds them.
#[derive(Clone, Debug)]
pub struct Lent {
    /// The memory.
    pub memory: Arc<Memory>,
    /// Where in it they are, in bytes.
    pub range: Range<usize>,
}

/// What is at an input's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Available {
    /// This many bytes, at least one.
    Bytes(u64),
    /// Nothing yet.
    Nothing,
    /// The end of the stream.
    End,
}

/// The next bytes of an input, borrowed or owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// There are some.
    Ready(T),
    /// Not yet: wait, or try again later.
    WouldBlock,
    /// The stream has ended.
    End,
}

impl InPort {
    /// The reading end at `port`, whose stream the daemon delivers to this session. `keep` says that it keeps all its
    /// bytes, so that a slice can cover the whole of it.
    #[must_use]
    pub fn new(session: Arc<Session>, name: Arc<str>, port: PortId, keep: bool) -> Self {
        let reader = Reader::new(Arc::clone(&session.control), port);
        let span = keep.then(Span::default);
        Self {
            session,
            name,
            port,
            reader,
            seen: 0,
            file: None,
            asked: false,
            end: None,
            lent: 0,
            span,
            carries: false,
            left: VecDeque::new(),
            views: None,
        }
    }

    pub(crate) fn id(&self) -> PortId {
        self.port
    }

    /// Of the daemon's first `received` messages, all for this port have been taken.
    pub(crate) fn catch_up(&mut self, received: u64) {
        self.seen = received;
    }

    /// The session that the port belongs to.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The input's name in the workflow file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The offset in the stream of the next byte, in bytes.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.reader.position() + self.lent
    }

    /// All bytes that are there now, in place. The next call gives them back, so that the producer may overwrite them.
    ///
    /// # Errors
    /// [`ReadError`] if the stream is given up by its producer or cannot be read.
    pub fn try_next_chunk(&mut self) -> Result<Next<&[u8]>, ReadError> {
        Ok(match self.poll()? {
            Available::Bytes(length) => {
                self.lent = length;
                Next::Ready(self.bytes(length))
            }
            Available::Nothing => Next::WouldBlock,
            Available::End => Next::End,
        })
    }

    /// The next bytes, at most `most`, as an owned view, and moves past them.
    ///
    /// They stay in place for as long as the view lives, whatever happens to the port and the session. The producer counts
    /// this reader as standing at its lowest live view, as it would one that has not read on. Once views cover
    /// [`MAX_VIEWED`] bytes of memory, further ones are copies.
    ///
    /// # Errors
    /// As [`InPort::try_next_chunk`].
    pub fn try_next_view(&mut self, most: usize) -> Result<Next<View>, ReadError> {
        let length = match self.poll()? {
            Available::Bytes(length) => length.min(most as u64),
            Available::Nothing => return Ok(Next::WouldBlock),
            Available::End => return Ok(Next::End),
        };
        let position = self.reader.position();
        if let Some(file) = &mut self.file {
            let view = file.view(position, length);
            self.advance(length);
            return Ok(Next::Ready(view));
        }
        let ledger = Arc::clone(self.ledger());
        if ledger.bytes() + length > MAX_VIEWED {
            let bytes = Arc::new(self.bytes(length).to_vec());
            self.advance(length);
            return Ok(Next::Ready(View::copied(Arc::clone(&bytes), 0..bytes.len(), position)));
        }
        // `poll` has found these bytes in the piece that the reader has, so there is always a view of them.
        Ok(self.reader.view(length, &ledger).map_or(Next::WouldBlock, Next::Ready))
    }

    /// The most bytes that a view should have that is still held while the next one is waited for, as a loop in a language
    /// with garbage does: a longer one could leave the producer without room for the bytes that are waited for.
    #[must_use]
    pub fn view_limit(&self) -> u64 {
        self.reader.piece().filter(|piece| piece.ring).map_or(u64::MAX, |piece| piece.size / 4)
    }

    /// How many bytes are there now. Gives back what was borrowed.
    ///
    /// # Errors
    /// As [`InPort::try_next_chunk`].
    pub fn poll(&mut self) -> Result<Available, ReadError> {
        self.release()?;
        loop {
            let found = self.look()?;
            // The words first, then the bell: see `dflow_protocol::words`.
            if self.session.has_news(self.seen) {
                self.take_mail()?;
                continue;
            }
            match found {
                Look::Ready(available) => return Ok(available),
                Look::NeedPiece => {
                    if self.end.is_none() && !self.asked {
                        self.ask()?;
                        continue;
                    }
                    return Ok(if self.end.is_some() { Available::End } else { Available::Nothing });
                }
                Look::Doubt => {
                    self.verify()?;
                    continue;
                }
            }
        }
    }

    /// The next `length` bytes in place, at most as many as [`InPort::poll`] has found since the port last moved.
    #[must_use]
    pub fn bytes(&self, length: u64) -> &[u8] {
        match &self.file {
            Some(file) => file.bytes(self.reader.position(), length),
            None => self.reader.bytes(length),
        }
    }

    /// Borrows the next `length` bytes until the next call on this port, and moves past them.
    #[must_use]
    pub fn take(&mut self, length: u64) -> &[u8] {
        self.lent = length;
        self.bytes(length)
    }

    /// Moves past `length` bytes; with `keep` they stay readable through [`InPort::so_far`].
    pub fn advance(&mut self, length: u64) {
        self.reader.consume(length);
    }

    /// Tells the producer the position. A port does so by itself after an eighth of a window and when it waits; one that
    /// looks without ever waiting has to, because its producer may wait for room.
    pub fn publish(&mut self) {
        self.reader.publish();
    }

    /// Moves past all bytes that are there now, and gives one slice over the stream from its first byte to the position.
    ///
    /// # Errors
    /// [`ReadError::NotKept`] if the stream does not keep its bytes; [`ReadError`] if it cannot be read, or the address
    /// space has no room for it.
    pub fn so_far(&mut self) -> Result<&[u8], ReadError> {
        self.gather()?;
        Ok(self.span.as_ref().map_or(&[], |span| span.slice(self.reader.position())))
    }

    /// [`InPort::so_far`] as an owned view.
    ///
    /// # Errors
    /// As [`InPort::so_far`].
    pub fn view_so_far(&mut self) -> Result<View, ReadError> {
        self.gather()?;
        let ledger = Arc::clone(self.ledger());
        let position = self.reader.position();
        let view = self.span.as_ref().and_then(|span| span.view(position, &ledger));
        Ok(view.unwrap_or_else(|| View::copied(Arc::default(), 0..0, 0)))
    }

    fn gather(&mut self) -> Result<(), ReadError> {
        if self.span.is_none() {
            return Err(ReadError::NotKept { input: self.name.to_string() });
        }
        while let Available::Bytes(length) = self.poll()? {
            self.advance(length);
        }
        Ok(())
    }

    /// Whether the end has been reached.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.end.is_some()
    }

    fn look(&mut self) -> Result<Look, ReadError> {
        let position = self.reader.position();
        if let Some(file) = &mut self.file {
            if position >= file.end {
                return Ok(Look::NeedPiece);
            }
            let length = if self.carries {
                file.end - position
            } else {
                let fresh = !file.holds(position);
                let length = file.fill(position, &self.name)?;
                if let (true, Some(span)) = (fresh && file.copied, &mut self.span) {
                    span.copy(position, file.bytes(position, length))?;
                }
                length
            };
            self.reader.note_first_byte();
            return Ok(Look::Ready(Available::Bytes(length)));
        }
        if self.asked {
            // Until the daemon has answered, the producer's words do not count.
            return Ok(Look::Ready(Available::Nothing));
        }
        Ok(match self.reader.look() {
            Seen::Bytes(length) => Look::Ready(Available::Bytes(length)),
            Seen::Nothing => Look::Ready(Available::Nothing),
            Seen::NeedPiece => Look::NeedPiece,
            Seen::End | Seen::Aborted | Seen::Violation if self.end.is_some() => Look::Ready(Available::End),
            Seen::End | Seen::Aborted | Seen::Violation => Look::Doubt,
        })
    }

    /// Asks the daemon about the producer's words. Any function can write an end, or nonsense, into its own words; a reader
    /// that believed them could succeed on half of a stream, or fail through another's fault.
    fn verify(&mut self) -> Result<(), SessionError> {
        self.publish();
        self.asked = true;
        self.session.send(&ToDaemon::Verify { port: self.port, at: self.reader.position() })
    }

    fn ask(&mut self) -> Result<(), SessionError> {
        let at = self.reader.position();
        // Bytes of files are lent and viewed in buffers, which have nothing to do with the piece.
        let piece = self.reader.piece().map_or(at, |piece| piece.base)..at;
        self.reader.publish();
        self.reader.drop_piece();
        self.file = None;
        self.asked = true;
        let is_lent = if self.carries {
            self.reader.given_up() < at
        } else {
            self.views.as_ref().is_some_and(|views| views.is_used_in(piece.clone()))
        };
        if is_lent {
            self.left.push_back(piece.clone());
        }
        let lends = !self.left.is_empty();
        self.session.send(&ToDaemon::NextPiece { port: self.port, at, lends })?;
        // What is lent or viewed is in earlier pieces.
        if lends && !is_lent { self.leave(piece) } else { Ok(()) }
    }

    fn leave(&self, piece: Range<u64>) -> Result<(), SessionError> {
        self.session.send(&ToDaemon::GivenUp { port: self.port, from: piece.start, to: piece.end })
    }

    /// Pieces without views are needed no more, and neither are bytes below the lowest view.
    fn give_back_views(&mut self, views: &Ledger) -> Result<(), SessionError> {
        let lowest = views.lowest();
        self.reader.hold(lowest);
        if lowest >= self.reader.position() {
            // A producer that waits for this reader should not have to wait for the next eighth of a window.
            self.publish();
        }
        for piece in std::mem::take(&mut self.left) {
            if views.is_used_in(piece.clone()) {
                self.left.push_back(piece);
            } else {
                self.leave(piece)?;
            }
        }
        Ok(())
    }

    /// Gives back what was borrowed, and the bytes of dropped views.
    fn release(&mut self) -> Result<(), SessionError> {
        let lent = std::mem::take(&mut self.lent);
        if lent > 0 {
            self.advance(lent);
        }
        match &self.views {
            Some(views) if views.take_changed() => {
                let views = Arc::clone(views);
                self.give_back_views(&views)
            }
            _ => Ok(()),
        }
    }

    fn ledger(&mut self) -> &Arc<Ledger> {
        let session = &self.session;
        self.views.get_or_insert_with(|| {
            // A view may be dropped on any thread. The port's own thread publishes the position, so it has to wake up.
            session.calls.use_them();
            let calls = Arc::clone(&session.calls);
            Ledger::new(move || calls.ring())
        })
    }
}

enum Look {
    Ready(Available),
    NeedPiece,
    /// The producer's words say that this is the end, or nonsense.
    Doubt,
}

impl Port for InPort {
    fn seen(&self) -> u64 {
        self.seen
    }
}

impl Wait for InPort {
    fn ready(&mut self) -> bool {
        self.lent > 0
            || self.end.is_some()
            || self.file.is_some()
            || self.views.as_ref().is_some_and(|views| views.has_changed())
            || (!self.asked && self.reader.ready())
    }

    fn settle(&mut self) {
        self.reader.settle();
    }

    fn announce(&mut self) {
        if !self.asked {
            self.reader.announce();
        }
    }

    fn word(&self) -> Option<(&AtomicU64, u64)> {
        if self.asked { None } else { self.reader.word() }
    }

    fn peer_word(&self) -> Option<(PeerWord, u64)> {
        if self.asked { None } else { self.reader.peer_word() }
    }

    fn retract(&mut self) {
        self.reader.retract();
    }
}

impl Drop for InPort {
    fn drop(&mut self) {
        let lent = std::mem::take(&mut self.lent);
        // Views outlive the port, and the reader has to live as long as they do. What is left in its place does nothing.
        let idle = Reader::new(Arc::clone(&self.session.control), self.port);
        let mut reader = std::mem::replace(&mut self.reader, idle);
        reader.consume(lent);
        let (session, port) = (Arc::clone(&self.session), self.port);
        let close = move || {
            // If the daemon is gone nobody has to know.
            let _ = session.send(&ToDaemon::CloseInput { port });
        };
        match &self.views {
            Some(views) => reader.close_after_views(views, close),
            None => {
                reader.close();
                close();
            }
        }
    }
}
