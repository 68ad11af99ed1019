//! The attempt's side of its channel to the daemon: messages in the order of the bell, sorted into a mailbox for each
//! port.

use crate::error::Error;
use dflow_protocol::limits::{MAX_MESSAGE, PROTOCOL_VERSION};
use dflow_protocol::message::{Piece, SegmentUse, Setup, ToDaemon, ToFunction, Window};
use dflow_protocol::{PortId, SegmentId};
use dflow_shm::{Access, Bell, Control, Idle, Memory, PeerControl, Segment, Wait, channel, wait, wait_at_most};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// After so long a sleep the daemon is told, so that another instance can have the slot.
const PARK_AFTER: Duration = Duration::from_millis(1);

/// The attempt's connection to its daemon, shared by all its ports.
pub(crate) struct Session {
    socket: OwnedFd,
    bell: Bell,
    pub(crate) control: Arc<Control>,
    pub(crate) setup: Setup,
    idle: Idle,
    arena: Arc<Memory>,
    inbox: Mutex<Inbox>,
    hit_unread: AtomicBool,
}

/// Messages that have come, sorted.
#[derive(Default)]
struct Inbox {
    buffer: Vec<u8>,
    /// How many messages have come; the daemon's bell counts the same.
    received: u64,
    started: bool,
    segments: HashMap<SegmentId, Held>,
    ports: HashMap<PortId, VecDeque<Mail>>,
    /// Ports for which mail has come, if somebody asks for that.
    news: Option<Vec<PortId>>,
    inputs: HashMap<u32, VecDeque<InputMail>>,
    parts: HashMap<u32, VecDeque<Result<PortId, String>>>,
}

enum Held {
    Memory(Arc<Memory>),
    Control(Arc<PeerControl>),
    Once(OwnedFd),
}

/// Where a window's memory comes from.
pub(crate) enum Source {
    /// Mapped already; the window is a part of it.
    Mapped(Arc<Memory>),
    /// To be mapped for this window alone.
    Once(OwnedFd),
}

/// A message for one port, with everything that it names.
pub(crate) enum Mail {
    Memory {
        window: Window,
        source: Source,
        producer: Option<(Arc<PeerControl>, PortId)>,
        end: Option<u64>,
    },
    File {
        file: OwnedFd,
        file_offset: u64,
        base: u64,
        end: u64,
    },
    PieceEnd(u64),
    StreamEnd(Result<u64, String>),
    Window(Window, Source),
    Stay,
    /// Whether it is an answer.
    Stuck(bool),
    AddReader(Arc<PeerControl>, PortId),
    DropReader(Arc<PeerControl>, PortId),
    Unread,
}

/// A message for a fan-in.
pub(crate) enum InputMail {
    Stream(PortId),
    Complete,
}

impl Session {
    /// Meets the daemon: reads the setup, makes the control page, says hello.
    pub(crate) fn open(socket: OwnedFd) -> Result<Self, Error> {
        let mut inbox = Inbox { buffer: vec![0; MAX_MESSAGE], ..Inbox::default() };
        let (message, mut fds) = inbox.receive(&socket)?;
        let ToFunction::Setup(setup) = message else {
            return Err(Error::new("the daemon began with another message than the setup"));
        };
        if setup.version != PROTOCOL_VERSION {
            return Err(Error::new(format!(
                "this function speaks dflow protocol {PROTOCOL_VERSION}, the daemon {}; build both from the same release",
                setup.version
            )));
        }
        let page = fds.pop().ok_or_else(|| Error::new("the setup came without the daemon's page"))?;
        let bell = Bell::adopt(page, setup.bell)?;
        let (message, mut fds) = inbox.receive(&socket)?;
        let (ToFunction::Segment { segment, kind: SegmentUse::OwnArena(length) }, Some(arena)) = (message, fds.pop())
        else {
            return Err(Error::new("the setup came without the arena"));
        };
        let arena = Arc::new(Memory::map(arena.as_fd(), 0, usize::try_from(length)?, Access::Write)?);
        inbox.segments.insert(segment, Held::Memory(Arc::clone(&arena)));
        let control = Arc::new(Control::create()?);
        let session = Self {
            socket,
            bell,
            control,
            idle: Idle { spin: Duration::from_nanos(setup.spin_nanos) },
            setup,
            arena,
            inbox: Mutex::new(inbox),
            hit_unread: AtomicBool::new(false),
        };
        let hello = ToDaemon::Hello { version: PROTOCOL_VERSION }.encode()?;
        channel::send(session.socket.as_fd(), &hello, &[session.control.segment().as_fd()], true)?;
        Ok(session)
    }

    /// Waits until the gate opens.
    pub(crate) fn wait_for_start(&self) -> Result<(), Error> {
        let mut inbox = self.lock();
        while !inbox.started {
            inbox.take_one(&self.socket)?;
        }
        Ok(())
    }

    /// The memory in which outputs have their first windows.
    pub(crate) fn arena(&self) -> &Arc<Memory> {
        &self.arena
    }

    /// How many messages the daemon has ever queued.
    pub(crate) fn news(&self) -> u64 {
        self.bell.count()
    }

    /// Whether messages have come since `seen` was set.
    #[inline]
    pub(crate) fn has_news(&self, seen: u64) -> bool {
        self.bell.count() != seen
    }

    /// Takes the mail of one port, in order, and notes in `seen` up to where it has been taken.
    pub(crate) fn mail(&self, port: PortId, seen: &mut u64) -> Result<VecDeque<Mail>, Error> {
        let mut inbox = self.up_to_date(seen)?;
        Ok(inbox.ports.get_mut(&port).map(std::mem::take).unwrap_or_default())
    }

    /// Ports for which mail has come since the last call; the first call says nothing of what came before it. Whether it was
    /// taken since is another matter.
    pub(crate) fn ports_with_mail(&self) -> Result<Vec<PortId>, Error> {
        let mut inbox = self.up_to_date(&mut 0)?;
        Ok(inbox.news.replace(Vec::new()).unwrap_or_default())
    }

    /// Takes the mail of a fan-in.
    pub(crate) fn input_mail(&self, input: u32, seen: &mut u64) -> Result<VecDeque<InputMail>, Error> {
        let mut inbox = self.up_to_date(seen)?;
        Ok(inbox.inputs.get_mut(&input).map(std::mem::take).unwrap_or_default())
    }

    /// Takes an answer to [`ToDaemon::OpenPart`].
    pub(crate) fn part(&self, output: u32, seen: &mut u64) -> Result<Option<Result<PortId, String>>, Error> {
        let mut inbox = self.up_to_date(seen)?;
        Ok(inbox.parts.get_mut(&output).and_then(VecDeque::pop_front))
    }

    fn up_to_date(&self, seen: &mut u64) -> Result<MutexGuard<'_, Inbox>, Error> {
        let mut inbox = self.lock();
        while inbox.received < self.bell.count() {
            inbox.take_one(&self.socket)?;
        }
        *seen = inbox.received;
        Ok(inbox)
    }

    /// Sends a message.
    pub(crate) fn send(&self, message: &ToDaemon) -> Result<(), Error> {
        channel::send(self.socket.as_fd(), &message.encode()?, &[], true)
            .map_err(|error| Error::new(format!("the daemon is gone: {error}")))
    }

    /// Waits until a port is ready or messages have come since `seen`; `parked` is told of a long sleep.
    pub(crate) fn wait(&self, ports: &mut [&mut dyn Wait], seen: u64, parked: &ToDaemon) {
        let mut report = || {
            // If the daemon is gone its launcher ends this process; nothing else is to be done about it here.
            let _ = self.send(parked);
        };
        wait(ports, Some((&self.bell, seen)), self.idle, Some((PARK_AFTER, &mut report)));
    }

    /// Waits as [`Session::wait`] does, but no longer than `limit`; whether something has happened.
    pub(crate) fn wait_at_most(&self, ports: &mut [&mut dyn Wait], seen: u64, limit: Duration) -> bool {
        wait_at_most(ports, Some((&self.bell, seen)), self.idle, limit).is_some()
    }

    /// Notes that the function was told that nobody reads one of its outputs.
    pub(crate) fn note_unread(&self) {
        self.hit_unread.store(true, Ordering::Relaxed);
    }

    pub(crate) fn was_unread(&self) -> bool {
        self.hit_unread.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        // Nothing panics with the lock held half-way; a poisoned inbox is as good as any.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    fn receive(&mut self, socket: &OwnedFd) -> Result<(ToFunction, Vec<OwnedFd>), Error> {
        let (length, fds) = channel::receive(socket.as_fd(), &mut self.buffer, true)?;
        if length == 0 {
            return Err(Error::new("the daemon is gone"));
        }
        self.received += 1;
        Ok((ToFunction::decode(&self.buffer[..length])?, fds))
    }

    fn take_one(&mut self, socket: &OwnedFd) -> Result<(), Error> {
        let (message, mut fds) = self.receive(socket)?;
        match message {
            ToFunction::Setup(_) => return Err(Error::new("the daemon sent a second setup")),
            ToFunction::Start => self.started = true,
            ToFunction::Segment { segment, kind } => {
                let fd = fds.pop().ok_or_else(|| Error::new("a segment came without its descriptor"))?;
                let held = match kind {
                    SegmentUse::OwnArena(length) => {
                        Held::Memory(Arc::new(Memory::map(fd.as_fd(), 0, usize::try_from(length)?, Access::Write)?))
                    }
                    SegmentUse::Arena(length) => {
                        Held::Memory(Arc::new(Segment::adopt(fd, usize::try_from(length)?)?.map(Access::Read)?))
                    }
                    SegmentUse::Control => Held::Control(Arc::new(PeerControl::adopt(fd)?)),
                    SegmentUse::Once => Held::Once(fd),
                };
                self.segments.insert(segment, held);
            }
            ToFunction::AddStream { input, port } => self.input(input, InputMail::Stream(port)),
            ToFunction::StreamsComplete { input } => self.input(input, InputMail::Complete),
            ToFunction::PartOpened { output, port } => self.parts.entry(output).or_default().push_back(port),
            ToFunction::Piece { port, piece } => {
                let mail = self.locate(piece)?;
                self.post(port, mail);
            }
            ToFunction::PieceEnd { port, end } => self.post(port, Mail::PieceEnd(end)),
            ToFunction::StreamEnd { port, end } => self.post(port, Mail::StreamEnd(end)),
            ToFunction::Window { port, window } => {
                let source = self.source(window.segment)?;
                self.post(port, Mail::Window(window, source));
            }
            ToFunction::Stay { port } => self.post(port, Mail::Stay),
            ToFunction::Stuck { port, answer } => self.post(port, Mail::Stuck(answer)),
            ToFunction::AddReader { port, control, reader } => {
                let control = self.control(control)?;
                self.post(port, Mail::AddReader(control, reader));
            }
            ToFunction::DropReader { port, control, reader } => {
                let control = self.control(control)?;
                self.post(port, Mail::DropReader(control, reader));
            }
            ToFunction::Unread { port } => self.post(port, Mail::Unread),
        }
        Ok(())
    }

    fn locate(&mut self, piece: Piece) -> Result<Mail, Error> {
        Ok(match piece {
            Piece::Memory { window, producer, end } => {
                let producer = match producer {
                    Some((segment, port)) => Some((self.control(segment)?, port)),
                    None => None,
                };
                Mail::Memory { window, source: self.source(window.segment)?, producer, end }
            }
            Piece::File { file, file_offset, base, end } => match self.source(file)? {
                Source::Once(file) => Mail::File { file, file_offset, base, end },
                Source::Mapped(_) => return Err(Error::new("the daemon sent memory where a file should be")),
            },
        })
    }

    fn source(&mut self, segment: SegmentId) -> Result<Source, Error> {
        match self.segments.remove(&segment) {
            Some(Held::Once(fd)) => Ok(Source::Once(fd)),
            Some(Held::Memory(memory)) => {
                self.segments.insert(segment, Held::Memory(Arc::clone(&memory)));
                Ok(Source::Mapped(memory))
            }
            _ => Err(Error::new(format!("the daemon named segment {segment} before it sent it"))),
        }
    }

    fn control(&self, segment: SegmentId) -> Result<Arc<PeerControl>, Error> {
        match self.segments.get(&segment) {
            Some(Held::Control(control)) => Ok(Arc::clone(control)),
            _ => Err(Error::new(format!("the daemon named control page {segment} before it sent it"))),
        }
    }

    fn post(&mut self, port: PortId, mail: Mail) {
        self.ports.entry(port).or_default().push_back(mail);
        if let Some(news) = &mut self.news {
            news.push(port);
        }
    }

    fn input(&mut self, input: u32, mail: InputMail) {
        self.inputs.entry(input).or_default().push_back(mail);
    }
}
