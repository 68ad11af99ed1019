//! How a session begins: the daemon's first messages, and the hello that answers them.

use crate::error::{SessionError, to_usize};
use crate::inbox::{Held, Inbox, protocol};
use crate::session::Session;
use dflow_protocol::limits::{MAX_SETUP, PROTOCOL_VERSION};
use dflow_protocol::message::{SegmentUse, Setup, ToDaemon, ToFunction};
use dflow_shm::{Access, Bell, Control, Memory, channel};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// A session that is being opened. The daemon first sends the setup, in one message or in several, with its page of bells,
/// and then the arena.
pub(crate) struct Opening {
    socket: Arc<OwnedFd>,
    inbox: Inbox,
    /// The parts of the setup so far.
    encoded: Vec<u8>,
    /// The daemon's page of bells.
    page: Option<OwnedFd>,
    setup: Option<Setup>,
}

impl Opening {
    pub(crate) fn new(socket: Arc<OwnedFd>) -> Self {
        Self { socket, inbox: Inbox::new(), encoded: Vec::new(), page: None, setup: None }
    }

    /// Goes on as far as messages have come; with `waits`, waits for the next one. Returns the session when it is open. The
    /// opening is of no use after that, nor after an error.
    pub(crate) fn advance(&mut self, waits: bool) -> Result<Option<Arc<Session>>, SessionError> {
        loop {
            let (message, mut fds) = match self.inbox.receive(&self.socket, waits) {
                Err(SessionError::Channel(Errno::AGAIN)) => return Ok(None),
                other => other?,
            };
            let Some(setup) = self.setup.take() else {
                self.page = self.page.take().or(fds.pop());
                self.setup = self.take_setup(message)?;
                continue;
            };
            let (ToFunction::Segment { segment, kind: SegmentUse::OwnArena(length) }, Some(arena)) =
                (message, fds.pop())
            else {
                return Err(protocol("the setup came without the arena"));
            };
            let arena = Arc::new(Memory::map(arena.as_fd(), 0, to_usize(length)?, Access::Write)?);
            let mut inbox = std::mem::replace(&mut self.inbox, Inbox::new());
            inbox.segments.insert(segment, Held::Memory(Arc::clone(&arena)));
            return self.greet(setup, arena, inbox).map(Some);
        }
    }

    fn take_setup(&mut self, message: ToFunction) -> Result<Option<Setup>, SessionError> {
        let setup = match message {
            ToFunction::Setup(setup) if self.encoded.is_empty() => setup,
            ToFunction::SetupPart { bytes, last } if self.encoded.len() + bytes.len() <= MAX_SETUP => {
                self.encoded.extend(bytes);
                if !last {
                    return Ok(None);
                }
                Setup::decode(&std::mem::take(&mut self.encoded))?
            }
            _ => return Err(protocol("its first message is not the setup")),
        };
        if setup.version == PROTOCOL_VERSION { Ok(Some(setup)) } else { Err(SessionError::Version(setup.version)) }
    }

    fn greet(&mut self, setup: Setup, arena: Arc<Memory>, inbox: Inbox) -> Result<Arc<Session>, SessionError> {
        let page = self.page.take().ok_or_else(|| protocol("the setup came without the daemon's page"))?;
        let (bell, control) = (Bell::adopt(page, setup.bell)?, Control::create()?);
        let hello = ToDaemon::Hello { version: PROTOCOL_VERSION }.encode()?;
        channel::send(self.socket.as_fd(), &hello, &[control.segment().as_fd()], true)?;
        Ok(Arc::new(Session::new(Arc::clone(&self.socket), bell, control, setup, arena, inbox)))
    }
}
