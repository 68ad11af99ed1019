//! Reading for another node: bytes are lent where they lie, and come back when they have arrived there.

use super::{Available, InPort, Lent};
use crate::error::{ReadError, SessionError, to_usize};
use crate::session::Session;
use dflow_protocol::PortId;
use dflow_protocol::message::ToDaemon;
use dflow_shm::{Memory, Staging};
use std::os::fd::AsFd;
use std::sync::Arc;

impl InPort {
    /// An input whose bytes are lent.
    pub(crate) fn lending(session: Arc<Session>, name: Arc<str>, port: PortId) -> Self {
        let mut input = Self::new(session, name, port, false);
        input.carries = true;
        input.reader.hold(0);
        input
    }

    /// The next bytes, at most `most`, where they lie. They stay there until [`InPort::take_back`].
    pub(crate) fn lend(&mut self, most: u64, staging: &mut Staging) -> Result<Option<Lent>, ReadError> {
        let Available::Bytes(length) = self.poll()? else { return Ok(None) };
        let (memory, range) = match &self.file {
            Some(file) => {
                let offset = file.file_offset + (self.reader.position() - file.base);
                let (memory, length) = staging.read(file.file.as_fd(), offset, length.min(most))?;
                (memory, 0..length)
            }
            None => {
                let Some((memory, start)) = self.reader.place() else { return Ok(None) };
                (Arc::clone(memory), start..start + to_usize(length.min(most))?)
            }
        };
        self.advance(range.len() as u64);
        Ok(Some(Lent { memory, range }))
    }

    /// Bytes below `offset` are lent no more.
    pub(crate) fn take_back(&mut self, offset: u64) -> Result<(), SessionError> {
        self.reader.hold(offset);
        let before = self.left.len();
        while self.left.front().is_some_and(|piece| piece.end <= offset) {
            self.left.pop_front();
        }
        let done = self.left.len() < before;
        if done || offset >= self.reader.position() {
            // A producer that waits for this reader should not have to wait for the next eighth of a window.
            self.reader.publish();
        }
        if done { self.session.send(&ToDaemon::GivenUp { port: self.port, from: 0, to: offset }) } else { Ok(()) }
    }

    /// The readers on another node do not move, or move again.
    pub(crate) fn report_stuck(&self, stuck: bool) -> Result<(), SessionError> {
        self.session.send(&ToDaemon::ReaderStuck { port: self.port, stuck })
    }

    /// The memory that holds the next bytes and those behind them, unless it holds other streams, too.
    pub(crate) fn memory(&self) -> Option<&Arc<Memory>> {
        self.reader.memory()
    }
}
