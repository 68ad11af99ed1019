//! A stream of this node that a peer may read.

use crate::watch::Watch;
use dflow_ports::{Outgoing, ReadError, SessionError};
use dflow_protocol::wire::FlowId;
use dflow_shm::{Memory, Staging};
use dflow_transport::{Chunk, Link};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// A stream of this node that the peer may read.
pub(super) struct Export {
    pub(super) stream: Outgoing,
    pub(super) watch: Watch,
    /// `None` until the peer has subscribed.
    pub(super) flow: Option<FlowId>,
    /// The memory that was announced to the link.
    ready: Weak<Memory>,
    /// Lent bytes that are not acknowledged, each chunk with its stream offset.
    lent: VecDeque<(u64, Chunk)>,
    /// The watermark that the link knows.
    announced: u64,
    /// It is complete, or cannot be read any further.
    pub(super) finished: bool,
}

impl Export {
    pub(super) fn new(stream: Outgoing, watch: Watch, flow: Option<FlowId>) -> Self {
        Self { stream, watch, flow, ready: Weak::new(), lent: VecDeque::new(), announced: 0, finished: false }
    }

    /// Whether it waits for its producer. While there are bytes that were not lent, it waits for the peer.
    pub(super) fn waits(&self) -> bool {
        self.flow.is_some() && !self.finished && self.stream.position() >= self.announced
    }

    pub(super) fn look(&mut self, link: &mut Link) -> Result<bool, ReadError> {
        let (Some(flow), false) = (self.flow, self.finished) else { return Ok(false) };
        match self.stream.look() {
            Ok((length, finished)) => {
                if let Some(memory) = self.stream.memory().filter(|memory| Arc::as_ptr(memory) != self.ready.as_ptr()) {
                    self.ready = Arc::downgrade(memory);
                    link.ready(memory);
                }
                let busy = length > self.announced || finished;
                if length > self.announced {
                    self.announced = length;
                    link.available(flow, length);
                }
                if finished {
                    self.finished = true;
                    link.finish(flow, length);
                }
                Ok(busy)
            }
            Err(error) => {
                self.finished = true;
                link.abort(flow, &error.to_string());
                Err(error)
            }
        }
    }

    pub(super) fn chunk(&mut self, at: u64, most: u64, staging: &mut Staging) -> Result<Option<Chunk>, ReadError> {
        let cut = |offset: u64, chunk: &Chunk| {
            let skip = usize::try_from(at - offset).ok()?;
            let length = chunk.len().checked_sub(skip)?.min(usize::try_from(most).ok()?);
            Some(chunk.part(skip..skip + length))
        };
        // Behind the last lent byte, except after a lost path: then bytes that were lent before are sent again.
        if at < self.stream.position() {
            let index = self.lent.partition_point(|(offset, _)| *offset <= at).checked_sub(1);
            return Ok(index.and_then(|index| self.lent.get(index)).and_then(|(offset, chunk)| cut(*offset, chunk)));
        }
        let offset = self.stream.position();
        let Some(lent) = self.stream.lend(most, staging)? else { return Ok(None) };
        let staged = staging.owns(&lent.memory);
        let chunk = Chunk::new(lent.memory, lent.range);
        let chunk = if staged { chunk.passing() } else { chunk };
        match self.lent.back_mut() {
            Some((_, last)) if last.precedes(&chunk) => *last = last.joined(&chunk),
            _ => self.lent.push_back((offset, chunk.clone())),
        }
        Ok(Some(chunk))
    }

    /// The peer has all bytes below this offset.
    pub(super) fn release(&mut self, upto: u64) -> Result<(), SessionError> {
        while self.lent.front().is_some_and(|(offset, chunk)| offset + chunk.len() as u64 <= upto) {
            self.lent.pop_front();
        }
        self.stream.take_back(upto)
    }
}
