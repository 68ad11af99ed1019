//! The daemon's messages, in the order of the bell, sorted into a mailbox for each port.

use crate::error::{SessionError, to_usize};
use dflow_protocol::limits::{MAX_MESSAGE, MAX_PORTS};
use dflow_protocol::message::{Piece, SegmentUse, ToFunction, Window};
use dflow_protocol::{PortId, SegmentId};
use dflow_shm::{Access, Memory, PeerControl, Segment, channel};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Messages that have come, sorted.
#[derive(Default)]
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    /// How many messages have come; the daemon's bell counts the same.
    pub(crate) received: u64,
    pub(crate) started: bool,
    pub(crate) segments: HashMap<SegmentId, Held>,
    /// By the number of the port. Ports are numbered from 0 and looked up each time they are polled after the bell has rung.
    pub(crate) ports: Vec<VecDeque<Mail>>,
    /// Ports for which mail has come, if the session was asked to collect them.
    pub(crate) news: Option<Vec<PortId>>,
    /// Ports that the daemon uses for other streams when it is told that their words are reset.
    pub(crate) retired: Vec<PortId>,
    pub(crate) inputs: HashMap<u32, VecDeque<InputMail>>,
    pub(crate) parts: HashMap<u32, VecDeque<Result<PortId, String>>>,
}

/// A segment that the daemon has sent.
pub(crate) enum Held {
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

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; MAX_MESSAGE], ..Self::default() }
    }

    /// The next message. Unless it `waits`, there may be none: [`SessionError::Channel`] of [`Errno::AGAIN`].
    pub(crate) fn receive(
        &mut self,
        socket: &OwnedFd,
        waits: bool,
    ) -> Result<(ToFunction, Vec<OwnedFd>), SessionError> {
        let (length, fds) = channel::receive(socket.as_fd(), &mut self.buffer, waits)?;
        if length == 0 {
            return Err(SessionError::Gone);
        }
        self.received += 1;
        Ok((ToFunction::decode(&self.buffer[..length])?, fds))
    }

    /// Waits for the next message and puts it where it belongs.
    pub(crate) fn take_one(&mut self, socket: &OwnedFd) -> Result<(), SessionError> {
        let (message, mut fds) = self.receive(socket, true)?;
        match message {
            ToFunction::Setup(_) | ToFunction::SetupPart { .. } => return Err(protocol("it sent a second setup")),
            ToFunction::Start => self.started = true,
            ToFunction::Segment { segment, kind } => {
                let fd = fds.pop().ok_or_else(|| protocol("a segment came without its descriptor"))?;
                let held = match kind {
                    SegmentUse::OwnArena(length) => {
                        Held::Memory(Arc::new(Memory::map(fd.as_fd(), 0, to_usize(length)?, Access::Write)?))
                    }
                    SegmentUse::Arena(length) => {
                        Held::Memory(Arc::new(Segment::adopt(fd, to_usize(length)?)?.map(Access::Read)?))
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
                self.post(port, mail)?;
            }
            ToFunction::PieceEnd { port, end } => self.post(port, Mail::PieceEnd(end))?,
            ToFunction::StreamEnd { port, end } => self.post(port, Mail::StreamEnd(end))?,
            ToFunction::Window { port, window } => {
                let source = self.source(window.segment)?;
                self.post(port, Mail::Window(window, source))?;
            }
            ToFunction::Stay { port } => self.post(port, Mail::Stay)?,
            ToFunction::Stuck { port, answer } => self.post(port, Mail::Stuck(answer))?,
            ToFunction::AddReader { port, control, reader } => {
                let control = self.control(control)?;
                self.post(port, Mail::AddReader(control, reader))?;
            }
            ToFunction::DropReader { port, control, reader } => {
                let control = self.control(control)?;
                self.post(port, Mail::DropReader(control, reader))?;
            }
            ToFunction::Unread { port } => self.post(port, Mail::Unread)?,
            ToFunction::Retire { port } => {
                // Its mail is not for the next stream.
                if let Some(mail) = self.ports.get_mut(port.0 as usize) {
                    mail.clear();
                }
                self.retired.push(port);
            }
        }
        Ok(())
    }

    fn locate(&mut self, piece: Piece) -> Result<Mail, SessionError> {
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
                Source::Mapped(_) => return Err(protocol("it sent memory where a file should be")),
            },
        })
    }

    fn source(&mut self, segment: SegmentId) -> Result<Source, SessionError> {
        match self.segments.remove(&segment) {
            Some(Held::Once(fd)) => Ok(Source::Once(fd)),
            Some(Held::Memory(memory)) => {
                self.segments.insert(segment, Held::Memory(Arc::clone(&memory)));
                Ok(Source::Mapped(memory))
            }
            _ => Err(protocol(format!("it named segment {segment} before it sent it"))),
        }
    }

    fn control(&self, segment: SegmentId) -> Result<Arc<PeerControl>, SessionError> {
        match self.segments.get(&segment) {
            Some(Held::Control(control)) => Ok(Arc::clone(control)),
            _ => Err(protocol(format!("it named control page {segment} before it sent it"))),
        }
    }

    fn post(&mut self, port: PortId, mail: Mail) -> Result<(), SessionError> {
        let index = port.0 as usize;
        if index >= self.ports.len() {
            if port.0 >= MAX_PORTS {
                return Err(protocol(format!("it sent a message for port {port}")));
            }
            self.ports.resize_with(index + 1, VecDeque::new);
        }
        self.ports[index].push_back(mail);
        if let Some(news) = &mut self.news {
            news.push(port);
        }
        Ok(())
    }

    fn input(&mut self, input: u32, mail: InputMail) {
        self.inputs.entry(input).or_default().push_back(mail);
    }
}

pub(crate) fn protocol(what: impl Into<String>) -> SessionError {
    SessionError::Protocol(what.into())
}
