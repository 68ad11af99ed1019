//! Reading a fan-in: a list of streams, which may still grow.

use crate::error::Error;
use crate::input::{Input, Poll};
use crate::session::{InputMail, Session};
use dflow_protocol::message::ToDaemon;
use dflow_shm::Wait;
use std::collections::VecDeque;
use std::sync::Arc;

/// The streams of a fan-in.
///
/// Take them one by one with [`Inputs::next`], or read whichever has bytes with [`Inputs::ready`].
pub struct Inputs {
    session: Arc<Session>,
    name: Arc<str>,
    index: u32,
    keep: bool,
    seen: u64,
    complete: bool,
    /// Streams that have come and have not been handed out by [`Inputs::next`], with their number in the fan-in.
    open: VecDeque<(u32, Input)>,
    known: u32,
    /// Where [`Inputs::ready`] looks first, so that no stream starves.
    turn: usize,
}

impl Inputs {
    pub(crate) fn new(session: Arc<Session>, name: Arc<str>, index: u32, keep: bool) -> Self {
        let open = VecDeque::new();
        Self { session, name, index, keep, seen: 0, complete: false, open, known: 0, turn: 0 }
    }

    /// The next stream in order; waits for it if more may come. `None` when all have been handed out.
    ///
    /// # Errors
    /// If the daemon is gone.
    #[expect(clippy::should_implement_trait, reason = "it waits and can fail")]
    pub fn next(&mut self) -> Result<Option<Input>, Error> {
        loop {
            self.take_mail()?;
            if let Some((_, input)) = self.open.pop_front() {
                return Ok(Some(input));
            }
            if self.complete {
                return Ok(None);
            }
            self.session.wait(&mut [], self.seen, &ToDaemon::Parked);
        }
    }

    /// A stream that has bytes, with its number in the fan-in; waits for one. Streams that have ended are dropped.
    /// `None` when all have ended. Which one it is depends on time: a function that uses this is not deterministic.
    ///
    /// # Errors
    /// If a stream is given up by its producer or cannot be read.
    pub fn ready(&mut self) -> Result<Option<(u32, &mut Input)>, Error> {
        loop {
            self.take_mail()?;
            let count = self.open.len();
            let mut ended = None;
            for step in 0..count {
                let at = (self.turn + step) % count;
                match self.open[at].1.poll()? {
                    Poll::Bytes(_) => {
                        self.turn = at + 1;
                        let (number, input) = &mut self.open[at];
                        return Ok(Some((*number, input)));
                    }
                    Poll::End => {
                        ended = Some(at);
                        break;
                    }
                    Poll::Nothing => {}
                }
            }
            if let Some(at) = ended {
                self.open.remove(at);
                continue;
            }
            if self.complete && self.open.is_empty() {
                return Ok(None);
            }
            let mut ports: Vec<&mut dyn Wait> = self.open.iter_mut().map(|(_, input)| input as &mut dyn Wait).collect();
            self.session.wait(&mut ports, self.seen, &ToDaemon::Parked);
        }
    }

    /// How many streams there are, once that is known; waits until it is.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn count(&mut self) -> Result<u32, Error> {
        loop {
            self.take_mail()?;
            if self.complete {
                return Ok(self.known);
            }
            self.session.wait(&mut [], self.seen, &ToDaemon::Parked);
        }
    }

    fn take_mail(&mut self) -> Result<(), Error> {
        if !self.session.has_news(self.seen) {
            return Ok(());
        }
        for mail in self.session.input_mail(self.index, &mut self.seen)? {
            match mail {
                InputMail::Stream(port) => {
                    let input = Input::new(Arc::clone(&self.session), Arc::clone(&self.name), port, self.keep);
                    self.open.push_back((self.known, input));
                    self.known += 1;
                }
                InputMail::Complete => self.complete = true,
            }
        }
        Ok(())
    }
}
