//! Reading one stream: in place where it is in memory, through a buffer where it is in a file.

mod file;
mod framing;

pub use self::framing::{Lines, Records};

use self::file::FilePiece;
use crate::error::Error;
use crate::session::{Mail, Session, Source};
use dflow_protocol::PortId;
use dflow_protocol::message::ToDaemon;
use dflow_shm::{Access, Memory, MemoryPiece, PeerWord, Reader, Seen, Span, Staging, Wait};
use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// One input stream of a function.
///
/// Dropping it, or [`Input::close`], says that nothing more will be read.
pub struct Input {
    session: Arc<Session>,
    name: Arc<str>,
    port: PortId,
    reader: Reader,
    /// Where the mail has been taken up to.
    seen: u64,
    file: Option<FilePiece>,
    /// The next piece, or the daemon's judgement on what the producer's words say, has been asked for and has not come.
    asked: bool,
    /// The length of the stream, once its end is known to be here.
    end: Option<u64>,
    /// Bytes lent out by the last call, which the next one lets go of.
    lent: u64,
    /// A record or line that does not lie in one piece.
    joined: Vec<u8>,
    /// With `keep`: all bytes at one range of addresses.
    span: Option<Span>,
    /// Its bytes are lent, not read: those of files are not buffered here. Where the pieces end that were used up and of
    /// which bytes are lent.
    lends: Option<VecDeque<u64>>,
}

/// Bytes of a stream, where they lie.
#[derive(Clone, Debug)]
pub struct Lent {
    /// The memory that holds them.
    pub memory: Arc<Memory>,
    /// Where in it they are.
    pub range: Range<usize>,
}

/// What there is at an input's position.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Poll {
    Bytes(u64),
    Nothing,
    End,
}

impl Input {
    pub(crate) fn new(session: Arc<Session>, name: Arc<str>, port: PortId, keep: bool) -> Self {
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
            joined: Vec::new(),
            span,
            lends: None,
        }
    }

    /// For [`crate::Attachment`]: an input whose bytes are lent.
    pub(crate) fn lending(session: Arc<Session>, name: Arc<str>, port: PortId) -> Self {
        let mut input = Self::new(session, name, port, false);
        input.lends = Some(VecDeque::new());
        input.reader.hold(0);
        input
    }

    /// Bytes below `offset` are lent no more.
    pub(crate) fn take_back(&mut self, offset: u64) -> Result<(), Error> {
        self.reader.hold(offset);
        let ends = self.lends.get_or_insert_default();
        let before = ends.len();
        while ends.front().is_some_and(|end| *end <= offset) {
            ends.pop_front();
        }
        let done = ends.len() < before;
        if done || offset >= self.reader.position() {
            // Whoever waits for this reader should not wait for the next eighth of a window.
            self.reader.publish();
        }
        if done { self.session.send(&ToDaemon::GivenUp { port: self.port }) } else { Ok(()) }
    }

    /// The readers on another node do not move, or do again.
    pub(crate) fn report_stuck(&self, stuck: bool) -> Result<(), Error> {
        self.session.send(&ToDaemon::ReaderStuck { port: self.port, stuck })
    }

    /// The memory that holds the next bytes and those behind them, unless it holds other streams, too.
    pub(crate) fn memory(&self) -> Option<&Arc<Memory>> {
        self.reader.memory()
    }

    /// The next bytes, at most so many, where they lie. They stay there until [`Input::take_back`].
    pub(crate) fn lend(&mut self, most: u64, staging: &mut Staging) -> Result<Option<Lent>, Error> {
        let Poll::Bytes(length) = self.poll()? else { return Ok(None) };
        let (memory, range) = match &self.file {
            Some(file) => {
                let offset = file.file_offset + (self.reader.position() - file.base);
                let (memory, length) = staging.read(file.file.as_fd(), offset, length.min(most))?;
                (memory, 0..length)
            }
            None => {
                let Some((memory, start)) = self.reader.place() else { return Ok(None) };
                (Arc::clone(memory), start..start + usize::try_from(length.min(most))?)
            }
        };
        self.advance(range.len() as u64);
        Ok(Some(Lent { memory, range }))
    }

    /// The input's name in the workflow file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The offset of the next byte in the stream.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.reader.position() + self.lent
    }

    /// All bytes that are there now, in place; waits for the first. `None` at the end of the stream. The bytes are let
    /// go of at the next call.
    ///
    /// # Errors
    /// If the stream is given up by its producer or cannot be read.
    pub fn chunk(&mut self) -> Result<Option<&[u8]>, Error> {
        let Some(length) = self.wait()? else { return Ok(None) };
        self.lent = length;
        Ok(Some(self.bytes(length)))
    }

    /// All bytes that are there now, without waiting and without letting go of them: they come again until
    /// [`Input::consume_bytes`]. Empty if there are none at present.
    ///
    /// # Errors
    /// If the stream is given up by its producer or cannot be read.
    pub fn peek(&mut self) -> Result<&[u8], Error> {
        match self.poll()? {
            Poll::Bytes(length) => Ok(self.bytes(length)),
            Poll::Nothing | Poll::End => {
                // Whoever only peeks never waits, and its producer may wait for room.
                self.reader.publish();
                Ok(&[])
            }
        }
    }

    /// Lets go of `length` bytes that [`Input::peek`] has shown.
    pub fn consume_bytes(&mut self, length: usize) {
        self.advance(length as u64);
    }

    /// Whether everything has been read and nothing more will come.
    ///
    /// # Errors
    /// If the stream is given up by its producer.
    pub fn is_finished(&mut self) -> Result<bool, Error> {
        let ended = self.poll()? == Poll::End;
        self.reader.publish();
        Ok(ended)
    }

    /// One slice over everything from the first byte to the watermark, in place. The position moves to its end:
    /// [`Input::chunk`] goes on behind it, and so does [`Input::wait_for`].
    ///
    /// # Errors
    /// If the workflow file does not say `keep: true` or `gate: whole` for this input, so that bytes may be gone; or if
    /// there is no room for it in the address space.
    pub fn so_far(&mut self) -> Result<&[u8], Error> {
        if self.span.is_none() {
            return Err(Error::new(format!(
                "a slice over the whole input '{}' needs all its bytes: say 'keep: true' (or 'gate: whole') for it in \
                 the workflow file",
                self.name
            )));
        }
        while let Poll::Bytes(length) = self.poll()? {
            self.advance(length);
        }
        Ok(self.span.as_ref().map_or(&[], |span| span.slice(self.reader.position())))
    }

    /// Waits until the stream has at least `length` bytes in all or is finished, and says how many it has.
    ///
    /// # Errors
    /// As [`Input::so_far`].
    pub fn wait_for(&mut self, length: u64) -> Result<u64, Error> {
        loop {
            let have = self.so_far()?.len() as u64;
            if have >= length || self.wait()?.is_none() {
                return Ok(have);
            }
        }
    }

    /// Reads length-delimited records: each is a little-endian `u32` and as many bytes.
    pub fn records(&mut self) -> Records<'_> {
        Records { input: self }
    }

    /// Reads lines as bytes, in place where they lie in one piece.
    pub fn lines_bytes(&mut self) -> Lines<'_> {
        Lines { input: self }
    }

    /// Says that nothing more will be read, so that the producer need not wait for this reader.
    pub fn close(self) {}

    /// Waits for bytes; their number, or `None` at the end.
    fn wait(&mut self) -> Result<Option<u64>, Error> {
        loop {
            match self.poll()? {
                Poll::Bytes(length) => return Ok(Some(length)),
                Poll::End => return Ok(None),
                Poll::Nothing => self.block(),
            }
        }
    }

    fn block(&mut self) {
        let session = Arc::clone(&self.session);
        let seen = self.seen;
        session.wait(&mut [self], seen, &ToDaemon::Parked);
    }

    /// Where the mail has been taken up to.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// Whether the end has been reached.
    pub(crate) fn ended(&self) -> bool {
        self.end.is_some()
    }

    /// Looks once, without waiting.
    pub(crate) fn poll(&mut self) -> Result<Poll, Error> {
        self.release();
        loop {
            let seen = self.look()?;
            // The words first, then the bell: see `dflow_protocol::words`.
            if self.session.has_news(self.seen) {
                self.take_mail()?;
                continue;
            }
            match seen {
                Look::Ready(poll) => return Ok(poll),
                Look::NeedPiece => {
                    if self.end.is_none() && !self.asked {
                        self.ask()?;
                        continue;
                    }
                    return Ok(if self.end.is_some() { Poll::End } else { Poll::Nothing });
                }
                Look::Doubt => {
                    self.verify()?;
                    continue;
                }
            }
        }
    }

    fn look(&mut self) -> Result<Look, Error> {
        if let Some(file) = &mut self.file {
            let position = self.reader.position();
            return if position < file.end && self.lends.is_some() {
                self.reader.note_first_byte();
                Ok(Look::Ready(Poll::Bytes(file.end - position)))
            } else if position < file.end {
                let fresh = !file.holds(position);
                let length = file.fill(position, &self.name)?;
                self.reader.note_first_byte();
                if let (true, Some(span)) = (fresh && file.copied, &mut self.span) {
                    span.copy(position, file.bytes(position, length))?;
                }
                Ok(Look::Ready(Poll::Bytes(length)))
            } else {
                Ok(Look::NeedPiece)
            };
        }
        if self.asked {
            // Until the daemon has answered, the producer's words do not count.
            return Ok(Look::Ready(Poll::Nothing));
        }
        Ok(match self.reader.look() {
            Seen::Bytes(length) => Look::Ready(Poll::Bytes(length)),
            Seen::Nothing => Look::Ready(Poll::Nothing),
            Seen::NeedPiece => Look::NeedPiece,
            Seen::End | Seen::Aborted | Seen::Violation if self.end.is_some() => Look::Ready(Poll::End),
            Seen::End | Seen::Aborted | Seen::Violation => Look::Doubt,
        })
    }

    /// Any function can write that its output ends here, or nonsense, into its words. If a reader took that for true, it
    /// could end well on what is no end, or fail for another's fault.
    fn verify(&mut self) -> Result<(), Error> {
        self.reader.publish();
        self.asked = true;
        self.session.send(&ToDaemon::Verify { port: self.port, at: self.reader.position() })
    }

    fn ask(&mut self) -> Result<(), Error> {
        self.reader.publish();
        self.reader.drop_piece();
        self.file = None;
        self.asked = true;
        if let Some(ends) = &mut self.lends
            && self.reader.position() > 0
        {
            ends.push_back(self.reader.position());
        }
        self.session.send(&ToDaemon::NextPiece { port: self.port, at: self.reader.position() })
    }

    fn take_mail(&mut self) -> Result<(), Error> {
        // Nothing is written through it, but a network card's driver refuses memory that could not be (before Linux 6.2).
        let access = if self.lends.is_some() { Access::Write } else { Access::Read };
        for mail in self.session.mail(self.port, &mut self.seen)? {
            match mail {
                Mail::Memory { window, source, producer, end } => {
                    if window.base > self.reader.position() {
                        return Err(Error::new(format!("the daemon skipped bytes of the input '{}'", self.name)));
                    }
                    let mut placed = self.span.is_none();
                    let (memory, start) = match source {
                        Source::Mapped(memory) => (memory, usize::try_from(window.segment_offset)?),
                        Source::Once(fd) => {
                            let size = usize::try_from(window.size)?;
                            if let Some(span) = self.span.as_mut().filter(|_| !window.ring) {
                                span.place_segment(fd.as_fd(), window.segment_offset, window.base, window.size)?;
                                placed = true;
                            }
                            let memory = if window.ring {
                                Memory::ring(fd.as_fd(), window.segment_offset, size, access)?
                            } else {
                                Memory::window(fd.as_fd(), window.segment_offset, size, access)?
                            };
                            (Arc::new(memory), 0)
                        }
                    };
                    let piece = MemoryPiece {
                        memory,
                        start,
                        base: window.base,
                        size: window.size,
                        ring: window.ring,
                        producer,
                        end,
                    };
                    if let Some(span) = self.span.as_mut().filter(|_| !placed) {
                        span.place(&piece)?;
                    }
                    self.reader.set_piece(piece);
                    self.asked = false;
                }
                Mail::File { file, file_offset, base, end } => {
                    self.reader.drop_piece();
                    let copied = match &mut self.span {
                        Some(span) => !span.place_file(file.as_fd(), file_offset, base, end - base)?,
                        None => false,
                    };
                    self.file = Some(FilePiece::new(file, file_offset, base..end, copied));
                    self.asked = false;
                }
                Mail::PieceEnd(end) => self.reader.set_end(end),
                Mail::Stay => self.asked = false,
                Mail::StreamEnd(Ok(length)) => {
                    self.end = Some(length);
                    self.asked = false;
                }
                Mail::StreamEnd(Err(reason)) => {
                    return Err(Error::new(format!("the input '{}' was given up: {reason}", self.name)));
                }
                _ => return Err(Error::new("the daemon sent an output's message to an input")),
            }
        }
        Ok(())
    }

    pub(crate) fn bytes(&self, length: u64) -> &[u8] {
        match &self.file {
            Some(file) => file.bytes(self.reader.position(), length),
            None => self.reader.bytes(length),
        }
    }

    /// Moves past bytes. With `keep`, the producer never overwrites them all the same: the daemon gives it new windows.
    fn advance(&mut self, length: u64) {
        self.reader.consume(length);
    }

    fn release(&mut self) {
        let lent = std::mem::take(&mut self.lent);
        if lent > 0 {
            self.advance(lent);
        }
    }
}

enum Look {
    Ready(Poll),
    NeedPiece,
    /// The producer's words say that this is the end, or nonsense.
    Doubt,
}

impl Wait for Input {
    fn ready(&mut self) -> bool {
        self.lent > 0 || self.end.is_some() || self.file.is_some() || (!self.asked && self.reader.ready())
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

impl Drop for Input {
    fn drop(&mut self) {
        self.release();
        self.reader.close();
        // If the daemon is gone nobody has to know.
        let _ = self.session.send(&ToDaemon::CloseInput { port: self.port });
    }
}

impl std::io::BufRead for Input {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        match self.wait().map_err(Error::into_io)? {
            Some(length) => Ok(self.bytes(length)),
            None => Ok(&[]),
        }
    }

    fn consume(&mut self, amount: usize) {
        self.advance(amount as u64);
    }
}

impl std::io::Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = std::io::BufRead::fill_buf(self)?;
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        self.advance(length as u64);
        Ok(length)
    }
}
