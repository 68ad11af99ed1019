//! Many streams served by one thread that never waits for one of them: how a node's daemon carries streams from and to
//! other nodes.
//!
//! The store treats an attachment as one more attempt, so epochs, credit and spilling need no second mechanism. The bytes
//! are not touched here: an [`Outgoing`] stream lends them where they lie, an [`Incoming`] one offers the room where they
//! land.

use crate::error::{ReadError, SessionError, WriteError};
use crate::input::{Available, InPort, Lent};
use crate::opening::Opening;
use crate::output::{OutPort, RoomNow};
use crate::session::{Port, Session};
use dflow_protocol::PortId;
use dflow_shm::{BellWait, Landing, Memory, Staging, Wait};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection to the node's store for a thread that carries streams.
pub struct Attachment {
    session: Arc<Session>,
    name: Arc<str>,
}

/// A connection that is being made. It does not wait for the store: another one may be slow to answer, or never do so.
pub struct Attaching(Opening);

impl Attaching {
    /// Meets the store at the other end of this channel.
    #[must_use]
    pub fn new(channel: impl Into<Arc<OwnedFd>>) -> Self {
        Self(Opening::new(channel.into()))
    }

    /// The attachment, if the store has sent everything that it takes. To be called again until then; not after that, nor
    /// after an error.
    ///
    /// # Errors
    /// If the store is gone or speaks another version.
    pub fn try_finish(&mut self) -> Result<Option<Attachment>, SessionError> {
        let attach = |session: Arc<Session>| {
            let name = Arc::from(session.setup().instance.as_str());
            Attachment { session, name }
        };
        Ok(self.0.advance(false)?.map(attach))
    }
}

impl Attachment {
    /// The stream that the store has given this reading port.
    #[must_use]
    pub fn outgoing(&self, port: PortId) -> Outgoing {
        Outgoing { input: InPort::lending(Arc::clone(&self.session), Arc::clone(&self.name), port), stuck: false }
    }

    /// The stream that the store has given this writing port.
    #[must_use]
    pub fn incoming(&self, port: PortId) -> Incoming {
        let output = OutPort::new(Arc::clone(&self.session), Arc::clone(&self.name), port);
        Incoming { output: Some(output), landing: None, next: None }
    }

    /// The bell by which the store announces messages, to be waited for among ports.
    #[must_use]
    pub fn bell(&self) -> BellWait {
        BellWait::new(self.session.bell.clone())
    }

    /// The ports to which the store has sent messages since the last call. The others need not be looked at for its sake.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn ports_with_mail(&self) -> Result<Vec<PortId>, SessionError> {
        self.session.ports_with_mail()
    }

    /// Waits until one of `ports` can go on or the time is up. Before it sleeps it spins as the store has said for this
    /// attachment. The ports of any number of attachments can be waited for, and their bells ([`Attachment::bell`]).
    pub fn wait(&self, ports: &mut [&mut dyn Wait], limit: Duration) {
        self.session.wait_on(ports, self.session.news(), Some(limit), false);
    }
}

/// A stream of this node's that another one reads.
pub struct Outgoing {
    input: InPort,
    stuck: bool,
}

impl Outgoing {
    /// How many bytes the stream is known to have, and whether that is all of it.
    ///
    /// # Errors
    /// If the stream was given up or cannot be read.
    pub fn look(&mut self) -> Result<(u64, bool), ReadError> {
        let found = self.input.poll()?;
        let position = self.input.position();
        Ok(match found {
            Available::Bytes(length) => (position + length, false),
            Available::Nothing => (position, false),
            Available::End => (position, true),
        })
    }

    /// The next bytes, at most so many, in the memory that holds them; those of files are read into `staging`. They do
    /// not change before [`Outgoing::take_back`]. `None` if there are none at present.
    ///
    /// # Errors
    /// If the stream was given up or cannot be read.
    pub fn lend(&mut self, most: u64, staging: &mut Staging) -> Result<Option<Lent>, ReadError> {
        self.input.lend(most, staging)
    }

    /// The memory in which the next bytes that are lent lie or are going to lie, where that is known and it holds nothing
    /// else.
    #[must_use]
    pub fn memory(&self) -> Option<&Arc<Memory>> {
        self.input.memory()
    }

    /// The offset of the next byte that is lent.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.input.position()
    }

    /// Bytes below `offset` are needed no more.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn take_back(&mut self, offset: u64) -> Result<(), SessionError> {
        self.input.take_back(offset)
    }

    /// The readers on the other node do not move, or do again: the producer need not wait for them.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn set_stuck(&mut self, stuck: bool) -> Result<(), SessionError> {
        if std::mem::replace(&mut self.stuck, stuck) == stuck {
            return Ok(());
        }
        self.input.report_stuck(stuck)
    }

    /// What it waits for.
    pub fn as_wait(&mut self) -> &mut dyn Wait {
        &mut self.input
    }
}

/// A stream of another node's that is read on this one.
pub struct Incoming {
    output: Option<OutPort>,
    /// The window that is filled at present.
    landing: Option<Arc<Landing>>,
    /// The one behind it, once there is one.
    next: Option<Arc<Landing>>,
}

/// Where an incoming stream's bytes may land: [`Incoming::room`].
#[derive(Clone, Debug)]
pub enum RoomFor {
    /// Bytes below this offset, in a window that is new if there is one here.
    Until(u64, Option<Arc<Landing>>),
    /// None at present.
    Nothing,
    /// None, and the readers on this node do not move.
    Stuck,
    /// Nobody on this node reads the stream any more.
    Unread,
}

impl Incoming {
    /// Where bytes may land now. Never waits; where there is no room it asks the store in growing intervals, and for the
    /// window behind the present one before that is full. To be called again as long as it names a new window.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn room(&mut self, now: Instant) -> Result<RoomFor, WriteError> {
        let Some(output) = &mut self.output else { return Ok(RoomFor::Nothing) };
        let until = match output.poll_landing(now)? {
            RoomNow::Until(until) => until,
            RoomNow::None => return Ok(RoomFor::Nothing),
            RoomNow::Stuck => return Ok(RoomFor::Stuck),
            RoomNow::Unread => return Ok(RoomFor::Unread),
        };
        if let Some(fresh) = self.enter().map(Arc::new) {
            fresh.open(fresh.base()..until);
            self.landing = Some(Arc::clone(&fresh));
            return Ok(RoomFor::Until(until, Some(fresh)));
        }
        let Some(output) = &self.output else { return Ok(RoomFor::Nothing) };
        if let Some(landing) = &self.landing {
            landing.open(output.written()..until);
        }
        if let Some(next) = &self.next {
            return Ok(RoomFor::Until(next.room().end, None));
        }
        let Some(next) = output.landing_ahead().map(Arc::new) else { return Ok(RoomFor::Until(until, None)) };
        next.open(next.base()..next.base() + next.size());
        self.next = Some(Arc::clone(&next));
        Ok(RoomFor::Until(next.room().end, Some(next)))
    }

    /// Follows the output into its present window. If nobody has been told of that one yet, it stays where it is, and the
    /// window is returned.
    fn enter(&mut self) -> Option<Landing> {
        let landing = self.output.as_ref()?.landing()?;
        if self.landing.as_ref().is_some_and(|present| present.is_same_window(&landing)) {
            return None;
        }
        match self.next.take_if(|next| next.is_same_window(&landing)) {
            Some(next) => self.landing = Some(next),
            None => return Some(landing),
        }
        None
    }

    /// The window that is filled at present.
    #[must_use]
    pub fn landing(&self) -> Option<&Arc<Landing>> {
        self.landing.as_ref()
    }

    /// The window behind the present one, if [`Incoming::room`] has named it.
    #[must_use]
    pub fn next_landing(&self) -> Option<&Arc<Landing>> {
        self.next.as_ref()
    }

    /// How many bytes have been committed.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.output.as_ref().map_or(0, OutPort::written)
    }

    /// All bytes below `upto` have landed: they are readable from now on.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn commit(&mut self, upto: u64) -> Result<(), WriteError> {
        let Some(output) = &mut self.output else { return Ok(()) };
        // First of all: what is readable is not written any more.
        for landing in self.landing.iter().chain(&self.next) {
            landing.open(upto..landing.room().end);
        }
        output.commit_landed(upto)?;
        self.enter();
        Ok(())
    }

    /// The stream is complete.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn finish(&mut self) -> Result<(), WriteError> {
        (self.landing, self.next) = (None, None);
        self.output.take().map_or(Ok(()), OutPort::finish)
    }

    /// Nothing of it lands any more, by nobody, and the store may use its windows for something else.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn give_up(&mut self) -> Result<(), WriteError> {
        (self.landing, self.next) = (None, None);
        self.output.take().map_or(Ok(()), |output| Ok(output.give_up()?))
    }

    /// When [`Incoming::room`] should be asked again although nothing has happened.
    #[must_use]
    pub fn look_again_at(&self) -> Option<Instant> {
        self.output.as_ref().and_then(Port::try_again_at)
    }

    /// What it waits for: its readers.
    pub fn as_wait(&mut self) -> Option<&mut dyn Wait> {
        self.output.as_mut().map(|output| output as &mut dyn Wait)
    }
}
