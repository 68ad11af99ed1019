//! Writing one stream: room in its window, filled in place and committed.

use crate::error::Error;
use crate::session::{Mail, Session, Source};
use dflow_protocol::PortId;
use dflow_protocol::limits::{ARENA_SLOT, MAX_RECORD, MAX_WINDOW};
use dflow_protocol::message::{ToDaemon, Window};
use dflow_protocol::words::State;
use dflow_shm::{Access, Landing, Memory, PeerWord, Room, Wait, Writer};
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// The pauses between two questions for a window where there is none: they double from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(64);

/// How an output stands: [`Output::poll_room`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoomNow {
    /// Bytes below this offset can be written.
    Until(u64),
    /// None at present.
    None,
    /// None, and it does not help to wait for the readers.
    Stuck,
    /// Nobody reads it any more.
    Unread,
}

/// The window behind the present one, which is granted before that is full, so that whoever fills both from another node
/// does not have to pause.
enum Ahead {
    /// None, and none is asked for before the stream has this length.
    None { from: u64 },
    /// It has been asked for.
    Asked,
    /// It is there.
    Granted { window: Window, memory: Arc<Memory>, start: usize },
}

impl Ahead {
    /// If the daemon does not grant one, it is asked again after this part of the present window.
    const PARTS: u64 = 4;

    fn from(length: u64) -> Self {
        Self::None { from: length }
    }
}

/// One output stream of a function.
///
/// Everything written is readable at once: each write commits. A function that writes in small bits fills a
/// [`Output::reserve`]d room, or wraps the output in a [`std::io::BufWriter`].
///
/// Outputs are finished when the function ends well; [`Output::finish`] does so earlier.
pub struct Output {
    session: Arc<Session>,
    name: Arc<str>,
    port: PortId,
    writer: Writer,
    seen: u64,
    /// A question for a window is under way.
    asked: bool,
    unread: bool,
    /// The daemon says that waiting for the readers does not help.
    stuck: bool,
    /// When the daemon may be asked again, and the pause after that.
    again: Option<(Instant, Duration)>,
    /// For [`crate::Attachment`]: the window behind the present one.
    ahead: Ahead,
    /// A room that does not fit into what is left of the window is filled here first.
    bounce: Vec<u8>,
}

impl Output {
    pub(crate) fn new(session: Arc<Session>, name: Arc<str>, port: PortId) -> Self {
        let mut writer = Writer::new(Arc::clone(&session.control), port);
        let arena = session.arena();
        let start = u64::from(port.0) * ARENA_SLOT;
        if start + ARENA_SLOT <= arena.length() as u64 {
            let window =
                Window { segment: session.setup.arena, segment_offset: start, base: 0, size: ARENA_SLOT, ring: false };
            writer.set_window(&window, Arc::clone(arena), start as usize);
        }
        Self {
            session,
            name,
            port,
            writer,
            seen: 0,
            asked: false,
            unread: false,
            stuck: false,
            again: None,
            ahead: Ahead::from(ARENA_SLOT / 2),
            bounce: Vec::new(),
        }
    }

    /// The output's name in the workflow file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes have been committed.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.writer.watermark()
    }

    /// Room for at least `length` bytes, to be filled in place; waits while readers need the bytes that it would
    /// overwrite. What is in the room is meaningless before it is filled. At most [`MAX_WINDOW`] bytes.
    ///
    /// # Errors
    /// If nobody reads this output any more ([`Error::is_unread`]), or the room is larger than can be had.
    pub fn reserve(&mut self, length: usize) -> Result<Reservation<'_>, Error> {
        if length as u64 > MAX_WINDOW {
            return Err(Error::new(format!(
                "{length} bytes at once are more than the {MAX_WINDOW} that a window can have; write '{}' in parts",
                self.name
            )));
        }
        if self.wait_for_room(length as u64, true)? {
            Ok(Reservation { output: self, bounced: false })
        } else {
            // The rest of a window that is filled once is too short: its bytes must not be skipped.
            self.bounce.clear();
            self.bounce.resize(length, 0);
            Ok(Reservation { output: self, bounced: true })
        }
    }

    /// Writes and commits all of `bytes`.
    ///
    /// # Errors
    /// As [`Output::reserve`].
    pub fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            self.wait_for_room(1, false)?;
            let spare = self.writer.spare();
            let length = spare.len().min(bytes.len());
            spare[..length].copy_from_slice(&bytes[..length]);
            self.commit(length as u64)?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// Writes one length-delimited record: a little-endian `u32` and the bytes.
    ///
    /// # Errors
    /// As [`Output::reserve`]; or if the record is longer than [`MAX_RECORD`].
    pub fn record(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let length = u32::try_from(bytes.len()).ok().filter(|&length| length <= MAX_RECORD).ok_or_else(|| {
            Error::new(format!("a record of {} bytes is longer than the {MAX_RECORD} that one may have", bytes.len()))
        })?;
        let mut room = self.reserve(bytes.len() + 4)?;
        room[..4].copy_from_slice(&length.to_le_bytes());
        room[4..bytes.len() + 4].copy_from_slice(bytes);
        room.commit(bytes.len() + 4)
    }

    /// Says that the stream is complete.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn finish(mut self) -> Result<(), Error> {
        self.end()
    }

    pub(crate) fn end(&mut self) -> Result<(), Error> {
        // Readers that came since the last commit have to be woken, too.
        let readers = self.take_mail();
        self.writer.end(State::Finished);
        readers?;
        self.session.send(&ToDaemon::Finished { port: self.port })
    }

    pub(crate) fn commit(&mut self, length: u64) -> Result<(), Error> {
        let first = self.writer.watermark() == 0 && length > 0;
        self.writer.commit(length);
        // The word first, then the bell: see `dflow_protocol::words`.
        if self.session.has_news(self.seen) {
            self.take_mail()?;
            self.writer.wake_readers();
        }
        if first {
            self.session.send(&ToDaemon::FirstBytes { port: self.port })?;
        }
        Ok(())
    }

    /// Waits until `length` contiguous bytes can be written. With `whole`, `false` says that the present window has less
    /// left than that and is not full either.
    pub(crate) fn wait_for_room(&mut self, length: u64, whole: bool) -> Result<bool, Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            if self.session.has_news(self.seen) {
                self.take_mail()?;
            }
            if self.unread {
                self.session.note_unread();
                return Err(Error::unread(&self.name));
            }
            let room = self.writer.room(length);
            match room {
                Room::Enough if !self.asked => return Ok(true),
                Room::Full if whole && !self.asked && self.writer.remaining() > 0 => return Ok(false),
                Room::Enough | Room::Full => {
                    if !self.asked {
                        self.ask(length, false)?;
                    }
                    self.wait_for_answer()?;
                    // "Stay", and nothing has changed: the daemon has no memory at present.
                    if self.writer.room(length) == Room::Full {
                        self.pause(&mut pause);
                    }
                }
                Room::Held => {
                    if !self.wait_for_readers(pause) {
                        self.ask(length, true)?;
                        self.wait_for_answer()?;
                        pause = (pause * 2).min(LAST_PAUSE);
                    }
                }
            }
        }
    }

    fn ask(&mut self, least: u64, held: bool) -> Result<(), Error> {
        self.asked = true;
        self.session.send(&ToDaemon::NeedWindow { port: self.port, at: self.writer.watermark(), least, held })
    }

    /// Waits for a window or for "stay".
    fn wait_for_answer(&mut self) -> Result<(), Error> {
        while self.asked {
            let session = Arc::clone(&self.session);
            session.wait(&mut [], self.seen, &ToDaemon::Parked);
            self.take_mail()?;
        }
        Ok(())
    }

    /// Waits for the readers to move, for at most `limit`; whether they have, or mail has come.
    fn wait_for_readers(&mut self, limit: Duration) -> bool {
        let session = Arc::clone(&self.session);
        let seen = self.seen;
        session.wait_at_most(&mut [&mut self.writer], seen, limit)
    }

    /// Waits for mail, for at most the pause, which grows.
    fn pause(&mut self, pause: &mut Duration) {
        let session = Arc::clone(&self.session);
        let start = Instant::now();
        session.wait_at_most(&mut [], self.seen, *pause);
        if start.elapsed() >= *pause {
            *pause = (*pause * 2).min(LAST_PAUSE);
        }
    }

    /// For [`crate::Attachment`]: how far there is room now, without waiting; asks for more where that is due.
    pub(crate) fn poll_room(&mut self, now: Instant) -> Result<RoomNow, Error> {
        if self.session.has_news(self.seen) {
            self.take_mail()?;
        }
        if self.unread {
            return Ok(RoomNow::Unread);
        }
        self.enter_ahead();
        let room = self.writer.room(1);
        // What the daemon was asked for it decides for the stream as it is: until then nothing is written.
        if room == Room::Enough && !self.asked {
            (self.stuck, self.again) = (false, None);
            self.ask_ahead()?;
            return Ok(RoomNow::Until(self.writer.room_end()));
        }
        if !self.asked && !matches!(self.ahead, Ahead::Asked) {
            let held = room == Room::Held;
            match self.again {
                // Readers that move make room by themselves; the daemon is asked only about those that do not.
                None if held => self.again = Some((now + FIRST_PAUSE, FIRST_PAUSE)),
                Some((at, _)) if now < at => {}
                _ => {
                    let pause = self.again.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LAST_PAUSE));
                    self.again = Some((now + pause, pause));
                    self.ask(1, held)?;
                }
            }
        }
        Ok(if self.stuck { RoomNow::Stuck } else { RoomNow::None })
    }

    /// Asks for the window behind the present one. That is a matter of streams whose bytes are kept: the room of a ring is
    /// granted as its readers move.
    fn ask_ahead(&mut self) -> Result<(), Error> {
        let (Ahead::None { from }, written) = (&self.ahead, self.writer.watermark()) else { return Ok(()) };
        if written < *from || self.writer.remaining() == 0 {
            return Ok(());
        }
        let at = written + self.writer.remaining();
        self.ahead = Ahead::Asked;
        self.session.send(&ToDaemon::NeedWindow { port: self.port, at, least: 1, held: false })
    }

    /// Goes on in the window behind the present one, if that is full.
    fn enter_ahead(&mut self) {
        let watermark = self.writer.watermark();
        if let Ahead::Granted { window, .. } = &self.ahead
            && window.base <= watermark
            && let Ahead::Granted { window, memory, start } = std::mem::replace(&mut self.ahead, Ahead::from(watermark))
        {
            self.writer.set_window(&window, memory, start);
        }
    }

    /// The window behind the present one, if there is one: nothing is written there, but it can be filled from outside.
    pub(crate) fn landing_ahead(&self) -> Option<Landing> {
        let Ahead::Granted { window, memory, start } = &self.ahead else { return None };
        Some(Landing::new(window, Arc::clone(memory), *start))
    }

    /// When [`Output::poll_room`] should be called again although nothing has happened.
    pub(crate) fn look_again_at(&self) -> Option<Instant> {
        if self.asked { None } else { self.again.map(|(at, _)| at) }
    }

    /// The present window, to be filled from outside.
    pub(crate) fn landing(&self) -> Option<Landing> {
        self.writer.landing()
    }

    /// For [`crate::Attachment`]: commits bytes that have landed in the present window and in those behind it.
    pub(crate) fn commit_landed(&mut self, upto: u64) -> Result<(), Error> {
        loop {
            let left = upto.saturating_sub(self.writer.watermark());
            let here = left.min(self.writer.room_end().saturating_sub(self.writer.watermark()));
            if here > 0 {
                self.commit(here)?;
            }
            self.enter_ahead();
            if here == left {
                return Ok(());
            }
            if here == 0 && self.writer.room_end() <= self.writer.watermark() {
                return Err(Error::new(format!(
                    "bytes of the output '{}' have landed where it has no window",
                    self.name
                )));
            }
        }
    }

    /// For [`crate::Attachment`]: nothing lands in any window of this output any more, and it is given up.
    pub(crate) fn give_up(&self) -> Result<(), Error> {
        self.session.send(&ToDaemon::CloseOutput { port: self.port })
    }

    fn take_mail(&mut self) -> Result<(), Error> {
        for mail in self.session.mail(self.port, &mut self.seen)? {
            match mail {
                Mail::Window(window, source) => {
                    let (memory, start) = match source {
                        Source::Mapped(memory) => (memory, usize::try_from(window.segment_offset)?),
                        Source::Once(fd) => {
                            let size = usize::try_from(window.size)?;
                            let memory = if window.ring {
                                Memory::ring(fd.as_fd(), window.segment_offset, size, Access::Write)?
                            } else {
                                Memory::window(fd.as_fd(), window.segment_offset, size, Access::Write)?
                            };
                            (Arc::new(memory), 0)
                        }
                    };
                    if matches!(self.ahead, Ahead::Asked) {
                        self.ahead = Ahead::Granted { window, memory, start };
                        self.enter_ahead();
                    } else {
                        self.writer.set_window(&window, memory, start);
                        self.ahead = Ahead::from(self.writer.watermark());
                        self.asked = false;
                    }
                }
                Mail::Stay if matches!(self.ahead, Ahead::Asked) => {
                    self.ahead = Ahead::from(self.writer.watermark() + self.writer.window_size() / Ahead::PARTS);
                }
                Mail::Stay => self.asked = false,
                Mail::Stuck(answer) => {
                    self.asked &= !answer;
                    self.stuck = true;
                }
                Mail::AddReader(page, port) => self.writer.add_reader(page, port),
                Mail::DropReader(page, port) => self.writer.drop_reader(&page, port),
                Mail::Unread => self.unread = true,
                _ => return Err(Error::new("the daemon sent an input's message to an output")),
            }
        }
        Ok(())
    }
}

impl std::io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.write_all(bytes).map_err(Error::into_io)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Wait for Output {
    fn ready(&mut self) -> bool {
        self.writer.ready()
    }

    fn settle(&mut self) {
        self.writer.settle();
    }

    fn announce(&mut self) {
        self.writer.announce();
    }

    fn word(&self) -> Option<(&AtomicU64, u64)> {
        self.writer.word()
    }

    fn peer_word(&self) -> Option<(PeerWord, u64)> {
        self.writer.peer_word()
    }

    fn retract(&mut self) {
        self.writer.retract();
    }
}

/// Room in an output: [`Output::reserve`]. Nothing is readable before [`Reservation::commit`]; dropping it leaves the
/// stream as it was.
pub struct Reservation<'a> {
    output: &'a mut Output,
    bounced: bool,
}

impl Reservation<'_> {
    /// Makes the first `length` bytes readable.
    ///
    /// # Errors
    /// If there is less room than `length`, or the daemon is gone.
    pub fn commit(self, length: usize) -> Result<(), Error> {
        if length > self.len() {
            return Err(Error::new(format!("{length} bytes committed of a room of {}", self.len())));
        }
        if self.bounced {
            let bytes = std::mem::take(&mut self.output.bounce);
            let result = self.output.write_all(&bytes[..length]);
            self.output.bounce = bytes;
            result
        } else {
            self.output.commit(length as u64)
        }
    }
}

impl Deref for Reservation<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.bounced { &self.output.bounce } else { self.output.writer.spare_bytes() }
    }
}

impl DerefMut for Reservation<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        if self.bounced { &mut self.output.bounce } else { self.output.writer.spare() }
    }
}
