//! The writing end of one stream: room in its window, filled in place and committed.

mod landing;

use crate::error::{SessionError, WriteError, to_usize};
use crate::inbox::{Mail, Source};
use crate::session::{Port, Session};
use dflow_protocol::PortId;
use dflow_protocol::limits::{ARENA_SLOT, MAX_WINDOW};
use dflow_protocol::message::{ToDaemon, Window};
use dflow_protocol::words::State;
use dflow_shm::{Access, Memory, PeerWord, Room, Wait, Writer};
use landing::Ahead;
pub(crate) use landing::RoomNow;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// The pauses between two questions for a window where there is none: they double from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(64);

/// The writing end of one stream.
///
/// Bytes become readable when they are committed. No call waits for readers or for memory; [`Session::wait`] does.
/// Dropping the port leaves the stream open: [`OutPort::finish`] ends it, or [`Session::finish_outputs`] does.
pub struct OutPort {
    session: Arc<Session>,
    name: Arc<str>,
    port: PortId,
    writer: Writer,
    /// Where the mail has been taken up to.
    seen: u64,
    /// A question for a window is on its way.
    asked: bool,
    unread: bool,
    /// The daemon says that waiting for the readers does not help.
    stuck: bool,
    /// When the daemon may be asked again, and the pause after that.
    retry: Option<(Instant, Duration)>,
    /// For [`crate::Attachment`]: the window behind the present one.
    ahead: Ahead,
    /// Reserved room that does not fit into the rest of the window. The stream must not skip that rest, so the bytes are
    /// filled in here and copied.
    bounce: Vec<u8>,
    /// The committed part of `bounce` that is not in the stream yet.
    pending: Range<usize>,
}

/// Whether an output has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// As much as was asked for, in place.
    Ready,
    /// Less than was asked for in this window, which has to be filled all the same: the bytes are copied in two parts.
    Split,
    /// Readers still need the bytes that would be overwritten, or there is no memory at present.
    WouldBlock,
}

/// The answer to [`OutPort::try_reserve`].
pub enum Reserve<'a> {
    /// Room to be filled and committed.
    Ready(Reservation<'a>),
    /// No room at present: wait, or try again later.
    WouldBlock,
}

impl OutPort {
    /// The writing end at `port`, which the daemon has granted to this session.
    #[must_use]
    pub fn new(session: Arc<Session>, name: Arc<str>, port: PortId) -> Self {
        let mut writer = Writer::new(Arc::clone(&session.control), port);
        let arena = session.arena();
        let start = u64::from(port.0) * ARENA_SLOT;
        // An arena has slots for the first ports only. The others ask for a window when they are written to.
        if start + ARENA_SLOT <= arena.length() as u64 {
            let segment = session.setup().arena;
            let window = Window { segment, segment_offset: start, base: 0, size: ARENA_SLOT, ring: false };
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
            retry: None,
            ahead: Ahead::from(ARENA_SLOT / 2),
            bounce: Vec::new(),
            pending: 0..0,
        }
    }

    /// The session that the port belongs to.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The output's name in the workflow file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port's number in the session.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.port
    }

    /// How many bytes have been committed.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.writer.watermark() + self.pending.len() as u64
    }

    /// Room for at least `length` bytes, at most [`MAX_WINDOW`], to be filled in place. What is in it is meaningless before
    /// that.
    ///
    /// # Errors
    /// [`WriteError::Unread`] if nobody reads this output any more, [`WriteError::TooLarge`], or another [`WriteError`].
    pub fn try_reserve(&mut self, length: usize) -> Result<Reserve<'_>, WriteError> {
        Ok(match self.poll_room(length as u64)? {
            Space::WouldBlock => Reserve::WouldBlock,
            space => Reserve::Ready(self.reservation(length, space)),
        })
    }

    /// The room that [`OutPort::poll_room`] has found for these `length` bytes.
    #[must_use]
    pub fn reservation(&mut self, length: usize, space: Space) -> Reservation<'_> {
        let bounced = space != Space::Ready;
        if bounced {
            self.bounce.clear();
            self.bounce.resize(length, 0);
        }
        Reservation { port: self, bounced }
    }

    /// Continues a reservation after [`Reservation::suspend`]. If this port was used in between, the room is another one.
    #[must_use]
    pub fn resume(&mut self, suspended: Suspended) -> Reservation<'_> {
        Reservation { port: self, bounced: suspended.bounced }
    }

    /// Whether `length` contiguous bytes can be written now, as [`OutPort::try_reserve`] says it.
    ///
    /// # Errors
    /// As [`OutPort::try_reserve`].
    pub fn poll_room(&mut self, length: u64) -> Result<Space, WriteError> {
        if length > MAX_WINDOW {
            return Err(WriteError::TooLarge { output: self.name.to_string(), length });
        }
        if !self.try_flush()? {
            return Ok(Space::WouldBlock);
        }
        self.room(length, true)
    }

    /// Copies as many of `bytes` into the stream as there is room for, commits them, and says how many; 0 if there is no
    /// room at present.
    ///
    /// # Errors
    /// As [`OutPort::try_reserve`].
    pub fn try_write(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        if !self.try_flush()? {
            return Ok(0);
        }
        self.copy(bytes)
    }

    /// Moves bytes into the stream that were committed where the window was too short for them; whether all are there. The
    /// other calls do so first.
    ///
    /// # Errors
    /// As [`OutPort::try_reserve`].
    pub fn try_flush(&mut self) -> Result<bool, WriteError> {
        while !self.pending.is_empty() {
            let bounce = std::mem::take(&mut self.bounce);
            let copied = self.copy(&bounce[self.pending.clone()]);
            self.bounce = bounce;
            match copied? {
                0 => return Ok(false),
                length => self.pending.start += length,
            }
        }
        Ok(true)
    }

    fn copy(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        let mut written = 0;
        while written < bytes.len() && self.room(1, false)? == Space::Ready {
            let spare = self.writer.spare();
            let length = spare.len().min(bytes.len() - written);
            spare[..length].copy_from_slice(&bytes[written..written + length]);
            self.commit(length as u64)?;
            written += length;
        }
        Ok(written)
    }

    /// Says that the stream is complete. What [`OutPort::try_flush`] has not moved yet is lost.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn finish(mut self) -> Result<(), WriteError> {
        // Readers that came since the last commit have to be woken, too.
        let readers = self.take_mail();
        self.writer.end(State::Finished);
        readers?;
        Ok(self.session.send(&ToDaemon::Finished { port: self.port })?)
    }

    fn commit(&mut self, length: u64) -> Result<(), WriteError> {
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

    /// Whether `length` bytes can be written in place. With `whole`, a window that has less left than that is
    /// [`Space::Split`]; otherwise the rest of it will do.
    fn room(&mut self, length: u64, whole: bool) -> Result<Space, WriteError> {
        if self.session.has_news(self.seen) {
            self.take_mail()?;
        }
        if self.unread {
            // If the function gives up because of this, it has not failed.
            self.session.note_unread();
            return Err(WriteError::Unread { output: self.name.to_string() });
        }
        let room = self.writer.room(length);
        if !self.asked {
            if room == Room::Enough {
                self.retry = None;
                return Ok(Space::Ready);
            }
            if room == Room::Full && whole && self.writer.remaining() > 0 {
                return Ok(Space::Split);
            }
        }
        self.ask_when_due(length, room, Instant::now())?;
        Ok(Space::WouldBlock)
    }

    /// Asks for a window, at once where this one is full. Readers that move make room by themselves: the daemon is asked
    /// about those that have not done so within a pause, which grows.
    fn ask_when_due(&mut self, least: u64, room: Room, now: Instant) -> Result<(), SessionError> {
        if self.asked || self.ahead.is_asked() {
            return Ok(());
        }
        let held = room == Room::Held;
        match self.retry {
            None if held => self.retry = Some((now + FIRST_PAUSE, FIRST_PAUSE)),
            Some((at, _)) if now < at => {}
            _ => {
                let pause = self.retry.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LAST_PAUSE));
                self.retry = Some((now + pause, pause));
                self.asked = true;
                let at = self.writer.watermark();
                self.session.send(&ToDaemon::NeedWindow { port: self.port, at, least, held })?;
            }
        }
        Ok(())
    }

    fn take_mail(&mut self) -> Result<(), WriteError> {
        for mail in self.session.mail(self.port, &mut self.seen)? {
            match mail {
                Mail::Window(window, source) => {
                    let (memory, start) = match source {
                        Source::Mapped(memory) => (memory, to_usize(window.segment_offset)?),
                        Source::Once(fd) => {
                            let size = to_usize(window.size)?;
                            let memory = if window.ring {
                                Memory::ring(fd.as_fd(), window.segment_offset, size, Access::Write)?
                            } else {
                                Memory::window(fd.as_fd(), window.segment_offset, size, Access::Write)?
                            };
                            (Arc::new(memory), 0)
                        }
                    };
                    if self.ahead.is_asked() {
                        self.ahead = Ahead::Granted { window, memory, start };
                        self.enter_ahead();
                    } else {
                        self.writer.set_window(&window, memory, start);
                        self.ahead = Ahead::from(self.writer.watermark());
                        self.asked = false;
                    }
                }
                Mail::Stay if self.ahead.is_asked() => {
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
                _ => return Err(SessionError::Protocol("it sent an input's message to an output".into()).into()),
            }
        }
        Ok(())
    }
}

impl Port for OutPort {
    fn seen(&self) -> u64 {
        self.seen
    }

    fn try_again_at(&self) -> Option<Instant> {
        if self.asked { None } else { self.retry.map(|(at, _)| at) }
    }
}

impl Wait for OutPort {
    fn ready(&mut self) -> bool {
        // The daemon decides about a question for the stream as it is: until then nothing is written.
        !self.asked && self.writer.ready()
    }

    fn settle(&mut self) {
        self.writer.settle();
    }

    fn announce(&mut self) {
        if !self.asked {
            self.writer.announce();
        }
    }

    fn word(&self) -> Option<(&AtomicU64, u64)> {
        if self.asked { None } else { self.writer.word() }
    }

    fn peer_word(&self) -> Option<(PeerWord, u64)> {
        if self.asked { None } else { self.writer.peer_word() }
    }

    fn retract(&mut self) {
        self.writer.retract();
    }
}

/// Room in an output: [`OutPort::try_reserve`]. Nothing is readable before [`Reservation::commit`]; dropping it leaves the
/// stream as it was.
pub struct Reservation<'a> {
    port: &'a mut OutPort,
    bounced: bool,
}

/// A reservation that does not borrow its port, for callers in other languages: [`Reservation::suspend`].
#[derive(Debug)]
pub struct Suspended {
    bounced: bool,
}

impl<'a> Reservation<'a> {
    /// Ends the borrow of the port; [`OutPort::resume`] continues it. The room stays where it is until the port is used or
    /// dropped.
    #[must_use]
    pub fn suspend(self) -> Suspended {
        Suspended { bounced: self.bounced }
    }

    /// Makes the first `length` bytes readable, and gives the port back. If the window was too short for the reservation,
    /// some of them become readable with the next [`OutPort::try_flush`].
    ///
    /// # Errors
    /// [`WriteError::Overcommitted`] if there is less room than `length`; [`WriteError`] if the daemon is gone.
    pub fn commit(self, length: usize) -> Result<&'a mut OutPort, WriteError> {
        if length > self.len() {
            return Err(WriteError::Overcommitted {
                output: self.port.name.to_string(),
                length: length as u64,
                room: self.len() as u64,
            });
        }
        if self.bounced {
            self.port.pending = 0..length;
            self.port.try_flush()?;
        } else {
            self.port.commit(length as u64)?;
        }
        Ok(self.port)
    }
}

impl Deref for Reservation<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.bounced { &self.port.bounce } else { self.port.writer.spare_bytes() }
    }
}

impl DerefMut for Reservation<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        if self.bounced { &mut self.port.bounce } else { self.port.writer.spare() }
    }
}
