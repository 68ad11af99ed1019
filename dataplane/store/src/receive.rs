//! What attempts say, believed only as far as it can be true.

use crate::attempt::duplicate;
use crate::process::{ControlPage, Want};
use crate::store::StoreError;
use crate::stream::Stream;
use crate::{ProcessId, Store, StoreEvent};
use dflow_protocol::limits::PROTOCOL_VERSION;
use dflow_protocol::message::ToDaemon;
use dflow_protocol::words::{Progress, State, is_possible};
use dflow_protocol::{PortId, StreamId};
use dflow_shm::PeerControl;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

impl Store {
    /// Handles a message of an attempt.
    ///
    /// # Errors
    /// If the store itself cannot do what follows from it. What is wrong with the message is an event.
    pub fn receive(
        &mut self,
        now: Duration,
        id: ProcessId,
        message: ToDaemon,
        fds: Vec<OwnedFd>,
    ) -> Result<(), StoreError> {
        self.advance(now);
        if self.is_condemned(id) {
            return Ok(());
        }
        match self.check(id, &message) {
            Ok(None) => {}
            Ok(Some((port, progress))) => self.note_progress(id, port, progress),
            Err(what) => {
                self.condemn(id, what);
                return Ok(());
            }
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
                self.need_window(id, port, Want { at, least, since: self.now }, held)
            }
            ToDaemon::NextPiece { port, at, lends } => self.next_piece(id, port, at, lends),
            ToDaemon::Verify { port, at } => self.verify(id, port, at),
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
                    let was_read = self.streams.get(&stream).is_some_and(Stream::is_read);
                    self.finish(id, port, stream)?;
                    if was_read {
                        self.tell_about_the_rest(id);
                    }
                    self.serve_waiting_readers(stream)?;
                }
                Ok(())
            }
            ToDaemon::OpenPart { output } => {
                self.events.push(StoreEvent::PartWanted(id, output));
                Ok(())
            }
            ToDaemon::Done => {
                self.examine(id);
                if self.is_condemned(id) {
                    return Ok(());
                }
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

    /// What is wrong with a message. If it is about an output: the words of that, which are looked at once only, because
    /// who lies may change them between two looks.
    fn check(&self, id: ProcessId, message: &ToDaemon) -> Result<Option<(PortId, Progress)>, String> {
        let Some(process) = self.processes.get(&id) else { return Err("it is not known".into()) };
        if process.control.is_none() {
            return match message {
                ToDaemon::Hello { version: PROTOCOL_VERSION } => Ok(None),
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
            ToDaemon::ReaderStuck { .. } | ToDaemon::CloseOutput { .. } if process.carrier.is_none() => {
                Err("it said what only those do that carry streams between nodes".into())
            }
            ToDaemon::FirstBytes { port } | ToDaemon::Finished { port } | ToDaemon::NeedWindow { port, .. }
                if is_late(port) =>
            {
                Ok(None)
            }
            ToDaemon::FirstBytes { port } => Ok(self.check_words(id, *port, output(port)?)?.map(|word| (*port, word))),
            ToDaemon::Finished { port } => match self.check_words(id, *port, output(port)?)? {
                Some(word) if word.state != State::Finished => {
                    Err(format!("it said that output port {port} is finished, but its words do not say so"))
                }
                word => Ok(word.map(|word| (*port, word))),
            },
            ToDaemon::NeedWindow { port, at, least, .. } => {
                let word = self.check_words(id, *port, output(port)?)?;
                let wrong = |word| word != Progress::open(*at) && !self.may_ask_ahead(id, *port, *at, word);
                if word.is_some_and(wrong) || *least == 0 || process.starved.contains_key(port) {
                    return Err(format!("it asked for {least} bytes at {at}, which is not where it writes"));
                }
                let stream = self.streams.get(&output(port)?);
                if stream.is_some_and(|stream| stream.fingerprint.is_some() && *at != stream.room()) {
                    return Err(format!("it asked for {least} bytes at {at}, before its window was full"));
                }
                Ok(word.map(|word| (*port, word)))
            }
            ToDaemon::NextPiece { port, .. }
            | ToDaemon::Verify { port, .. }
            | ToDaemon::CloseInput { port }
            | ToDaemon::GivenUp { port }
                if !process.inputs.contains_key(port) =>
            {
                Err(format!("it named input port {port}, which it does not have"))
            }
            ToDaemon::NextPiece { port, at, .. } | ToDaemon::Verify { port, at } => {
                let word = process.control.as_ref().map(|control| control.words.port(*port).progress().offset);
                let stream = process.inputs.get(port).and_then(|(stream, _)| self.streams.get(stream));
                let granted = stream.map_or(0, |stream| stream.granted.max(stream.watermark));
                // A reader that lends bytes, or has views of them, is ahead of the position that it publishes.
                let may_be_ahead = match message {
                    ToDaemon::NextPiece { lends, .. } => *lends,
                    _ => true,
                };
                let is_ahead = word.is_some_and(|word| word <= *at) && (process.carrier.is_some() || *at <= granted);
                if word == Some(*at) || (may_be_ahead && is_ahead) {
                    Ok(None)
                } else {
                    Err(format!("it asked for bytes at {at}, where it does not read"))
                }
            }
            _ => Ok(None),
        }
    }

    /// What a producer's words say, if they can be true: a watermark never goes back and never passes the room that was
    /// granted, an end stays what it is, and that an attempt has given up is for the daemon to say. `None` if the stream
    /// is not, or no more, written through this port.
    fn check_words(&self, id: ProcessId, port: PortId, stream: StreamId) -> Result<Option<Progress>, String> {
        let stream = self.streams.get(&stream).filter(|stream| stream.producer == Some((id, port)));
        let (Some(stream), Some(word)) = (stream, self.progress_word(id, port)) else { return Ok(None) };
        match stream.ended {
            Some(ended) if ended == word => return Ok(Some(word)),
            Some(ended) => {
                return Err(format!(
                    "its output had ended at {}, and then its words said '{:?}' at {}",
                    ended.offset, word.state, word.offset
                ));
            }
            None if word.state == State::Aborted => {
                return Err("its words say that its output was given up, which no function says".into());
            }
            None => {}
        }
        let (written, room) = (stream.written(), stream.room());
        if !is_possible(written, word.offset, room) {
            return Err(format!(
                "its watermark jumped from {written} to {}, but it was granted room up to {room}",
                word.offset
            ));
        }
        Ok(Some(word))
    }

    /// Remembers what a producer's words have said, so that they cannot take it back.
    fn note_progress(&mut self, id: ProcessId, port: PortId, progress: Progress) {
        let Some(stream) = self.output(id, port).and_then(|stream| self.streams.get_mut(&stream)) else { return };
        if stream.replay.is_none() {
            stream.watermark = stream.watermark.max(progress.offset);
        }
        if progress.state == State::Finished {
            stream.ended = Some(progress);
        }
    }

    /// Looks at the words of an output. `None` if its attempt does not write it, or not any more, or has been condemned.
    pub(crate) fn sample_output(&mut self, id: ProcessId, port: PortId) -> Option<Progress> {
        let stream = self.output(id, port)?;
        match self.check_words(id, port, stream) {
            Ok(word) => {
                let word = word.filter(|_| !self.is_condemned(id))?;
                self.note_progress(id, port, word);
                Some(word)
            }
            Err(what) => {
                self.condemn(id, what);
                None
            }
        }
    }

    /// An attempt writes nothing any more: the words of its outputs are looked at for the last time, and what they say is
    /// what it has written. To be called before [`Store::end`], and before it is decided how the attempt ended.
    pub fn examine(&mut self, id: ProcessId) {
        let outputs: Vec<(PortId, StreamId)> =
            self.processes.get(&id).map(|process| process.outputs.clone()).into_iter().flatten().collect();
        for (port, stream) in outputs {
            if let Some(progress) = self.sample_output(id, port)
                && let Some(stream) = self.streams.get_mut(&stream)
            {
                stream.ended = Some(progress);
            }
        }
    }

    /// An attempt has done what cannot be. Nothing that it says is heard any more, and whatever it is said to end with,
    /// none of its outputs is complete.
    pub fn condemn(&mut self, id: ProcessId, what: String) {
        if let Some(process) = self.processes.get_mut(&id)
            && !std::mem::replace(&mut process.condemned, true)
        {
            self.events.push(StoreEvent::Misbehaved(id, what));
        }
    }

    pub(crate) fn is_condemned(&self, id: ProcessId) -> bool {
        self.processes.get(&id).is_some_and(|process| process.condemned)
    }

    fn hello(&mut self, id: ProcessId, mut fds: Vec<OwnedFd>) -> Result<(), StoreError> {
        let Some(page) = fds.pop() else {
            self.condemn(id, "it said hello without a control page".into());
            return Ok(());
        };
        let fd = duplicate(page.as_fd())?;
        let words = match PeerControl::adopt(page) {
            Ok(words) => words,
            Err(error) => {
                self.condemn(id, format!("its control page cannot be used: {error}"));
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

    /// The stream of an output is complete.
    pub(crate) fn finish(&mut self, id: ProcessId, port: PortId, stream_id: StreamId) -> Result<(), StoreError> {
        let Some(word) = self.watermark_word(Some((id, port))) else { return Ok(()) };
        let Some(stream) = self.streams.get_mut(&stream_id) else { return Ok(()) };
        if stream.finished.is_some() || stream.producer != Some((id, port)) {
            return Ok(());
        }
        let word = stream.ended.map_or(word, |ended| ended.offset);
        if let Some(process) = self.processes.get_mut(&id) {
            // A carrier asks before it knows whether more will come.
            process.starved.remove(&port);
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

    fn finish_all(&mut self, id: ProcessId) -> Result<(), StoreError> {
        let Some(process) = self.processes.get(&id) else { return Ok(()) };
        let outputs: Vec<(PortId, StreamId)> = process.outputs.iter().map(|(&port, &stream)| (port, stream)).collect();
        for (port, stream) in outputs {
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
            stream.close_reader(subscriber, (id, port));
        }
        self.tell_unread(stream_id);
        self.release(stream_id);
        self.feed_starved()
    }
}
