//! The reading ends of a fan-in: a list of streams, which may still grow.

use crate::error::{ReadError, SessionError};
use crate::inbox::InputMail;
use crate::input::{Available, InPort, Next};
use crate::session::{Port, Session, Waited};
use dflow_shm::Wait;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// The streams of a fan-in, each as a `T` made from its [`InPort`].
///
/// They are taken in order with [`FanIn::try_next`], or as they have bytes with [`FanIn::try_ready`].
pub struct FanIn<T = InPort> {
    session: Arc<Session>,
    name: Arc<str>,
    /// Its place among the inputs of the setup.
    index: u32,
    keep: bool,
    seen: u64,
    complete: bool,
    /// Streams that have come and have not been taken by [`FanIn::try_next`], with their number in the fan-in.
    open: VecDeque<(u32, T)>,
    known: u32,
    /// Where [`FanIn::try_ready`] looks first, so that no stream starves.
    turn: usize,
}

impl<T: From<InPort> + AsMut<InPort>> FanIn<T> {
    /// The input with this place among those of the setup. `keep` says that its streams keep all their bytes.
    #[must_use]
    pub fn new(session: Arc<Session>, name: Arc<str>, index: u32, keep: bool) -> Self {
        let open = VecDeque::new();
        Self { session, name, index, keep, seen: 0, complete: false, open, known: 0, turn: 0 }
    }

    /// The input's name in the workflow file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next stream in order.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn try_next(&mut self) -> Result<Next<T>, SessionError> {
        self.take_mail()?;
        Ok(match self.open.pop_front() {
            Some((_, input)) => Next::Ready(input),
            None if self.complete => Next::End,
            None => Next::WouldBlock,
        })
    }

    /// A stream that has bytes, with its number in the fan-in. Streams that have ended are dropped.
    ///
    /// # Errors
    /// [`ReadError`] if a stream is given up by its producer or cannot be read.
    pub fn try_ready(&mut self) -> Result<Next<(u32, &mut T)>, ReadError> {
        Ok(match self.poll()? {
            Next::Ready(place) => Next::Ready(self.stream(place)),
            Next::WouldBlock => Next::WouldBlock,
            Next::End => Next::End,
        })
    }

    /// The place of a stream that has bytes, for [`FanIn::stream`]. Streams that have ended are dropped.
    ///
    /// # Errors
    /// As [`FanIn::try_ready`].
    pub fn poll(&mut self) -> Result<Next<usize>, ReadError> {
        self.take_mail()?;
        if self.open.iter_mut().any(|(_, input)| self.session.has_news(input.as_mut().seen())) {
            self.session.catch_up(self.open.iter_mut().map(|(_, input)| input.as_mut()))?;
        }
        let mut steps = 0;
        while steps < self.open.len() {
            let at = (self.turn + steps) % self.open.len();
            match self.open[at].1.as_mut().poll()? {
                Available::Bytes(_) => {
                    self.turn = at + 1;
                    return Ok(Next::Ready(at));
                }
                Available::End => {
                    self.open.remove(at);
                    // Those behind it have moved up, so that the same number of steps leads to the next one.
                    self.turn -= usize::from(at < self.turn);
                }
                Available::Nothing => steps += 1,
            }
        }
        Ok(if self.complete && self.open.is_empty() { Next::End } else { Next::WouldBlock })
    }

    /// The stream at a place that [`FanIn::poll`] has just found, with its number in the fan-in.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn stream(&mut self, place: usize) -> (u32, &mut T) {
        let (number, stream) = &mut self.open[place];
        (*number, stream)
    }

    /// How many streams there are, once that is known.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn count(&mut self) -> Result<Option<u32>, SessionError> {
        self.take_mail()?;
        Ok(self.complete.then_some(self.known))
    }

    /// Waits until the daemon may have named another stream, for at most `limit`: what [`FanIn::try_next`] and
    /// [`FanIn::count`] wait for.
    pub fn wait_for_streams(&mut self, limit: Option<Duration>) -> Waited {
        self.session.wait_on(&mut [], self.seen, limit, true)
    }

    /// Waits until one of the streams that have come may have bytes, or another has come, for at most `limit`.
    pub fn wait_for_bytes(&mut self, limit: Option<Duration>) -> Waited {
        let session = Arc::clone(&self.session);
        let (seen, mut ports) = self.ports();
        let mut waits: Vec<&mut dyn Wait> = ports.iter_mut().map(|port| &mut **port as &mut dyn Wait).collect();
        session.wait_on(&mut waits, seen, limit, true)
    }

    /// How many messages it and its streams have all seen, and the streams.
    pub(crate) fn ports(&mut self) -> (u64, Vec<&mut dyn Port>) {
        let mut seen = self.seen;
        let mut ports: Vec<&mut dyn Port> = Vec::with_capacity(self.open.len());
        for (_, input) in &mut self.open {
            let port = input.as_mut();
            seen = seen.min(port.seen());
            ports.push(port);
        }
        (seen, ports)
    }

    fn take_mail(&mut self) -> Result<(), SessionError> {
        if !self.session.has_news(self.seen) {
            return Ok(());
        }
        for mail in self.session.input_mail(self.index, &mut self.seen)? {
            match mail {
                InputMail::Stream(port) => {
                    let input = InPort::new(Arc::clone(&self.session), Arc::clone(&self.name), port, self.keep);
                    self.open.push_back((self.known, input.into()));
                    self.known += 1;
                }
                InputMail::Complete => self.complete = true,
            }
        }
        Ok(())
    }
}

impl AsMut<InPort> for InPort {
    fn as_mut(&mut self) -> &mut InPort {
        self
    }
}
