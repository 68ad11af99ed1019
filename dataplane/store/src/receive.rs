//! What attempts say, believed only as far as it can be true.

use crate::process::{ControlPage, Want};
use crate::store::{StoreError, duplicate};
use crate::{ProcessId, Store, StoreEvent};
use dflow_protocol::limits::PROTOCOL_VERSION;
use dflow_protocol::message::ToDaemon;
use dflow_protocol::words::{State, is_possible};
use dflow_protocol::{PortId, StreamId};
use dflow_shm::PeerControl;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

impl Store {
    /// Handles a message of an attempt.
    ///
    /// # Errors
    /// If the store itself cannot do what follows from it. What is wrong with the message is an event.
    pub fn receive(&mut self, id: ProcessId, message: ToDaemon, fds: Vec<OwnedFd>) -> Result<(), StoreError> {
        if let Err(what) = self.check(id, &message) {
            self.events.push(StoreEvent::Misbehaved(id, what));
            return Ok(());
        }
        match message {
            ToDaemon::Hello { .. } => self.hello(id, fds),
            ToDaemon::FirstBytes { port } => {
                if let Some(stream) = self.output(id, port) {
                    self.note_first_bytes(stream);
                }
                Ok(())
            }
            ToDaemon::NeedWindow { port, at, least, held } => {
                self.need_window(id, port, Want { at, least, since: Instant::now() }, held)
            }
            ToDaemon::NextPiece { port, at } => self.next_piece(id, port, at),
            ToDaemon::CloseInput { port } => self.close_input(id, port),
            ToDaemon::ReaderStuck { port, stuck } => {
                if let Some(carrier) = self.processes.get_mut(&id).and_then(|process| process.carrier.as_mut()) {
                    if stuck {
                        carrier.stuck.insert(port)
                    } else {
                        carrier.stuck.remove(&port)
                    };
                }
                Ok(())
            }
            ToDaemon::GivenUp { port } => self.given_up(id, port),
            ToDaemon::CloseOutput { port } => self.close_output(id, port),
            ToDaemon::Parked => {
                self.events.push(StoreEvent::Parked(id));
                Ok(())
            }
            ToDaemon::Finished { port } => {
                if let Some(stream) = self.output(id, port) {
                    self.sample_output(id, port);
                    self.finish(id, port, stream)?;
                    self.serve_waiting_readers(stream)?;
                }
                Ok(())
            }
            ToDaemon::OpenPart { output } => {
                self.events.push(StoreEvent::PartWanted(id, output));
                Ok(())
            }
            ToDaemon::Done => {
                self.finish_all(id)?;
                self.events.push(StoreEvent::Ended(id, Ok(())));
                Ok(())
            }
            ToDaemon::Failed { reason, unread } => {
                self.events.push(StoreEvent::Ended(id, Err((reason, unread))));
                Ok(())
            }
        }
    }

    /// What is wrong with a message.
    fn check(&self, id: ProcessId, message: &ToDaemon) -> Result<(), String> {
        let Some(process) = self.processes.get(&id) else { return Err("it is not known".into()) };
        if process.control.is_none() {
            return match message {
                ToDaemon::Hello { version: PROTOCOL_VERSION } => Ok(()),
                ToDaemon::Hello { version } => Err(format!(
                    "it speaks dflow protocol {version}, this daemon {PROTOCOL_VERSION}; build both from the same release"
                )),
                _ => Err("it did not say hello first".into()),
            };
        }
        // What crosses the end of one of its streams is late, not wrong.
        let is_late = |port: &PortId| process.carrier.is_some() && !process.outputs.contains_key(port);
        let output = |port: &PortId| {
            process
                .outputs
                .get(port)
                .copied()
                .ok_or_else(|| format!("it named output port {port}, which it does not have"))
        };
        match message {
            ToDaemon::Hello { .. } => Err("it said hello twice".into()),
            ToDaemon::ReaderStuck { .. } | ToDaemon::GivenUp { .. } | ToDaemon::CloseOutput { .. }
                if process.carrier.is_none() =>
            {
                Err("it said what only those do that carry streams between nodes".into())
            }
            ToDaemon::FirstBytes { port } | ToDaemon::Finished { port } | ToDaemon::NeedWindow { port, .. }
                if is_late(port) =>
            {
                Ok(())
            }
            ToDaemon::FirstBytes { port } | ToDaemon::Finished { port } => {
                self.check_watermark(id, *port, output(port)?)
            }
            ToDaemon::NeedWindow { port, at, least, .. } => {
                self.check_watermark(id, *port, output(port)?)?;
                let word = self.watermark_word(Some((id, *port)));
                if word != Some(*at) || *least == 0 || process.starved.contains_key(port) {
                    return Err(format!("it asked for {least} bytes at {at}, which is not where it writes"));
                }
                let stream = self.streams.get(&output(port)?);
                if stream.is_some_and(|stream| stream.fingerprint.is_some() && *at != stream.room()) {
                    return Err(format!("it asked for {least} bytes at {at}, before its window was full"));
                }
                Ok(())
            }
            ToDaemon::NextPiece { port, .. } | ToDaemon::CloseInput { port } if !process.inputs.contains_key(port) => {
                Err(format!("it named input port {port}, which it does not have"))
            }
            ToDaemon::NextPiece { port, at } => {
                let word = process.control.as_ref().map(|control| control.words.port(*port).progress().offset);
                // Who lends what it has read is ahead of what it has given up.
                if word == Some(*at) || (process.carrier.is_some() && word.is_some_and(|word| word <= *at)) {
                    Ok(())
                } else {
                    Err(format!("it asked for bytes at {at}, where it does not read"))
                }
            }
            _ => Ok(()),
        }
    }

    /// A watermark never goes back and never passes the room that was granted.
    fn check_watermark(&self, id: ProcessId, port: PortId, stream: StreamId) -> Result<(), String> {
        let (Some(stream), Some(word)) = (self.streams.get(&stream), self.watermark_word(Some((id, port)))) else {
            return Ok(());
        };
        if stream.producer != Some((id, port)) || stream.finished.is_some() {
            return Ok(());
        }
        let (written, room) = (stream.written(), stream.room());
        if !is_possible(written, word, room) {
            return Err(format!("its watermark jumped from {written} to {word}, but it was granted room up to {room}"));
        }
        Ok(())
    }

    fn hello(&mut self, id: ProcessId, mut fds: Vec<OwnedFd>) -> Result<(), StoreError> {
        let Some(page) = fds.pop() else {
            self.events.push(StoreEvent::Misbehaved(id, "it said hello without a control page".into()));
            return Ok(());
        };
        let fd = duplicate(page.as_fd())?;
        let words = match PeerControl::adopt(page) {
            Ok(words) => words,
            Err(error) => {
                self.events.push(StoreEvent::Misbehaved(id, format!("its control page cannot be used: {error}")));
                return Ok(());
            }
        };
        let page = self.budget.next_id();
        if let Some(process) = self.processes.get_mut(&id) {
            process.control = Some(ControlPage { id: page, fd, words });
            self.events.push(StoreEvent::Ready(id));
            let outputs: Vec<StreamId> = process.outputs.values().copied().collect();
            for stream in outputs {
                self.serve_waiting_readers(stream)?;
            }
        }
        Ok(())
    }

    fn output(&self, id: ProcessId, port: PortId) -> Option<StreamId> {
        self.processes.get(&id)?.outputs.get(&port).copied()
    }

    fn note_first_bytes(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.first_bytes
        {
            stream.first_bytes = true;
            self.events.push(StoreEvent::FirstBytes(id));
        }
    }

    /// Checks a watermark for the last time; a wrong one harms only whoever published it.
    pub(crate) fn sample_output(&mut self, id: ProcessId, port: PortId) {
        if let Some(stream) = self.output(id, port)
            && let Err(what) = self.check_watermark(id, port, stream)
        {
            self.events.push(StoreEvent::Misbehaved(id, what));
        }
    }

    /// The stream of an output is complete.
    pub(crate) fn finish(&mut self, id: ProcessId, port: PortId, stream_id: StreamId) -> Result<(), StoreError> {
        let Some(word) = self.watermark_word(Some((id, port))) else { return Ok(()) };
        let Some(stream) = self.streams.get_mut(&stream_id) else { return Ok(()) };
        if stream.finished.is_some() || stream.producer != Some((id, port)) {
            return Ok(());
        }
        if stream.replay.is_some() {
            return self.finish_replay(stream_id, word);
        }
        // Never more than the memory that was granted holds, whatever the word says.
        let length = word.min(stream.room()).max(stream.watermark);
        stream.watermark = length;
        stream.finished = Some(length);
        if length > 0 {
            self.note_first_bytes(stream_id);
        }
        self.close_live(stream_id);
        self.events.push(StoreEvent::Finished(stream_id, length));
        self.release(stream_id);
        Ok(())
    }

    /// Whether an attempt that may be continued has published the end of an output. Readers see that without the
    /// daemon, even if the attempt is gone before it says so.
    pub(crate) fn has_promised(&self, id: ProcessId, port: PortId, stream: StreamId) -> bool {
        let control = self.processes.get(&id).and_then(|process| process.control.as_ref());
        self.streams.get(&stream).is_some_and(|stream| stream.fingerprint.is_some() && stream.replay.is_none())
            && control.is_some_and(|control| control.words.port(port).progress().state == State::Finished)
    }

    fn finish_all(&mut self, id: ProcessId) -> Result<(), StoreError> {
        let Some(process) = self.processes.get(&id) else { return Ok(()) };
        let outputs: Vec<(PortId, StreamId)> = process.outputs.iter().map(|(&port, &stream)| (port, stream)).collect();
        for (port, stream) in outputs {
            self.sample_output(id, port);
            self.finish(id, port, stream)?;
            self.serve_waiting_readers(stream)?;
        }
        Ok(())
    }

    fn close_input(&mut self, id: ProcessId, port: PortId) -> Result<(), StoreError> {
        let Some(&(stream_id, subscriber)) = self.processes.get(&id).and_then(|process| process.inputs.get(&port))
        else {
            return Ok(());
        };
        self.sample_readers(stream_id);
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            for piece in &mut stream.pieces {
                piece.leave((id, port));
            }
            if let Some(state) = stream.subscribers.get_mut(&subscriber)
                && state.reader == Some((id, port))
            {
                state.asked = None;
                state.closed = true;
            }
        }
        self.tell_unread(stream_id);
        self.release(stream_id);
        self.feed_starved()
    }
}
