//! Messages and control words of attempts. Nothing is used before it has been checked.

use crate::attempt::duplicate;
use crate::error::StoreError;
use crate::process::{ControlPage, Want};
use crate::stream::Stream;
use crate::{ProcessId, RunStream, Store, StoreEvent};
use dflow_protocol::PortId;
use dflow_protocol::limits::PROTOCOL_VERSION;
use dflow_protocol::message::ToDaemon;
use dflow_protocol::words::{Progress, State};
use dflow_shm::PeerControl;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

impl Store {
    /// Handles a message of an attempt. A violation of the protocol, or a failure to serve the run, is reported as an
    /// event.
    pub fn receive(&mut self, now: Duration, id: ProcessId, message: ToDaemon, fds: Vec<OwnedFd>) {
        self.advance(now);
        // An attempt may outlive its run and still send messages.
        let Some(run) = self.processes.run(id) else { return };
        if self.processes.is_condemned(id) {
            return;
        }
        match self.check(id, &message) {
            Ok(None) => {}
            Ok(Some((port, progress))) => self.note_progress(id, port, progress),
            Err(what) => return self.condemn(id, what),
        }
        let result = self.act_on(id, message, fds);
        self.attribute(run, result);
    }

    fn act_on(&mut self, id: ProcessId, message: ToDaemon, fds: Vec<OwnedFd>) -> Result<(), StoreError> {
        match message {
            ToDaemon::Hello { .. } => self.hello(id, fds),
            ToDaemon::FirstBytes { port } => {
                if let Some(stream) = self.processes.output(id, port) {
                    self.note_first_bytes(stream);
                }
                Ok(())
            }
            ToDaemon::NeedWindow { port, at, least, held } => {
                self.need_window(id, port, Want { at, least, since: self.now }, held)
            }
            ToDaemon::NextPiece { port, at, lends } => self.next_piece(id, port, at, lends),
            ToDaemon::Verify { port, at } => self.verify(id, port, at),
            ToDaemon::CloseInput { port } => {
                self.close_input(id, port);
                Ok(())
            }
            ToDaemon::ReaderStuck { port, stuck } => {
                if let Some(carrier) = self.processes.carrier_mut(id) {
                    if stuck {
                        carrier.stuck.insert(port)
                    } else {
                        carrier.stuck.remove(&port)
                    };
                }
                Ok(())
            }
            ToDaemon::GivenUp { port, from, to } => {
                self.given_up(id, port, from..to);
                Ok(())
            }
            ToDaemon::CloseOutput { port } => {
                self.close_output(id, port);
                Ok(())
            }
            ToDaemon::Retired { port } => {
                if let Some(carrier) = self.processes.carrier_mut(id) {
                    carrier.ports.retired(port);
                }
                Ok(())
            }
            ToDaemon::Parked => {
                self.outbox.tell(StoreEvent::Parked(id));
                Ok(())
            }
            ToDaemon::Program(state) => {
                self.outbox.tell(StoreEvent::Program(id, state));
                Ok(())
            }
            ToDaemon::Finished { port } => {
                if let Some(stream) = self.processes.output(id, port) {
                    let was_read = self.runs.stream(stream).is_some_and(Stream::is_read);
                    self.finish(id, port, stream)?;
                    if was_read {
                        self.tell_about_the_rest(id);
                    }
                    self.serve_waiting_readers(stream)?;
                    if self.processes.is_carrier(id) {
                        self.leave_output(id, port, stream);
                    }
                } else if self.processes.is_carrier(id) {
                    // Its epoch was aborted meanwhile. All of its bytes have arrived, so nothing writes any more.
                    self.close_output(id, port);
                }
                Ok(())
            }
            ToDaemon::OpenPart { output } => {
                self.outbox.tell(StoreEvent::PartWanted(id, output));
                Ok(())
            }
            ToDaemon::Done => {
                self.examine(id);
                if self.processes.is_condemned(id) {
                    return Ok(());
                }
                self.finish_all(id)?;
                self.outbox.tell(StoreEvent::Ended(id, Ok(())));
                Ok(())
            }
            ToDaemon::Failed { reason, unread } => {
                self.outbox.tell(StoreEvent::Ended(id, Err((reason, unread))));
                Ok(())
            }
        }
    }

    /// Checks a message. For one about an output, returns the words of that output: they are read only once, because a
    /// hostile process could change them between the check and their use.
    fn check(&self, id: ProcessId, message: &ToDaemon) -> Result<Option<(PortId, Progress)>, String> {
        let Some(process) = self.processes.get(id) else { return Err("it is not known".into()) };
        if process.control.is_none() {
            return match message {
                ToDaemon::Hello { version: PROTOCOL_VERSION } => Ok(None),
                ToDaemon::Hello { version } => Err(format!(
                    "it speaks dflow protocol {version}, this daemon {PROTOCOL_VERSION}; build both from the same release"
                )),
                _ => Err("it did not say hello first".into()),
            };
        }
        // A carrier's message may cross the abort of its stream: it is late, not wrong.
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
            ToDaemon::ReaderStuck { .. } | ToDaemon::CloseOutput { .. } | ToDaemon::Retired { .. }
                if process.carrier.is_none() =>
            {
                Err("it sent a message that only the carrier may send".into())
            }
            ToDaemon::Retired { port } => {
                let is_retiring = process.carrier.as_ref().is_some_and(|carrier| carrier.ports.is_retiring(*port));
                if is_retiring && process.progress(*port) == Some(Progress::open(0)) {
                    Ok(None)
                } else {
                    Err(format!("it said that port {port} is retired, which it is not"))
                }
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
                // A carrier's stream may turn out to end where it has asked for room, before the message is here.
                let is_end =
                    |word| process.carrier.is_some() && word == Progress { offset: *at, state: State::Finished };
                let wrong =
                    |word| word != Progress::open(*at) && !is_end(word) && !self.may_ask_ahead(id, *port, *at, word);
                if word.is_some_and(wrong) || *least == 0 || self.waits_for_window(id, *port) {
                    return Err(format!("it asked for {least} bytes at {at}, which is not where it writes"));
                }
                let stream = self.runs.stream(output(port)?);
                if stream.is_some_and(|stream| stream.epoch.is_remembered() && *at != stream.epoch.room()) {
                    return Err(format!("it asked for {least} bytes at {at}, before its window was full"));
                }
                Ok(word.map(|word| (*port, word)))
            }
            ToDaemon::NextPiece { port, .. }
            | ToDaemon::Verify { port, .. }
            | ToDaemon::CloseInput { port }
            | ToDaemon::GivenUp { port, .. }
                if !process.inputs.contains_key(port) =>
            {
                Err(format!("it named input port {port}, which it does not have"))
            }
            ToDaemon::NextPiece { port, at, .. } | ToDaemon::Verify { port, at } => {
                let word = process.control.as_ref().map(|control| control.words.port(*port).progress().offset);
                let stream = process.inputs.get(port).and_then(|(stream, _)| self.runs.stream(*stream));
                let granted = stream.map_or(0, |stream| stream.epoch.granted());
                // A reader with views of earlier bytes, as the carrier has, publishes an older position than it reads
                // at.
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

    /// Reads and checks a producer's words, by [`crate::epoch::Epoch::check`]. `None` if the stream is not, or no
    /// longer, written through this port.
    fn check_words(&self, id: ProcessId, port: PortId, stream: RunStream) -> Result<Option<Progress>, String> {
        let stream = self.runs.stream(stream).filter(|stream| stream.epoch.is_written_by((id, port)));
        let (Some(stream), Some(word)) = (stream, self.processes.progress((id, port))) else { return Ok(None) };
        stream.epoch.check(word)?;
        Ok(Some(word))
    }

    fn waits_for_window(&self, id: ProcessId, port: PortId) -> bool {
        let run = self.processes.run(id).and_then(|run| self.runs.get(run));
        run.is_some_and(|run| run.is_waiting_output((id, port)))
    }

    fn note_progress(&mut self, id: ProcessId, port: PortId, progress: Progress) {
        if let Some(stream) = self.processes.output(id, port).and_then(|stream| self.runs.stream_mut(stream)) {
            stream.epoch.note(progress);
        }
    }

    /// Reads the words of an output and records them. `None` if the attempt does not, or no longer, write it, or has
    /// been condemned.
    pub(crate) fn sample_output(&mut self, id: ProcessId, port: PortId) -> Option<Progress> {
        let stream = self.processes.output(id, port)?;
        match self.check_words(id, port, stream) {
            Ok(word) => {
                let word = word.filter(|_| !self.processes.is_condemned(id))?;
                self.note_progress(id, port, word);
                Some(word)
            }
            Err(what) => {
                self.condemn(id, what);
                None
            }
        }
    }

    /// Reads the words of an attempt's outputs for the last time: nothing of it runs any more, so they are final. Call
    /// this before [`Store::end`], and before deciding how the attempt ended.
    pub fn examine(&mut self, id: ProcessId) {
        for (port, stream) in self.processes.outputs(id) {
            if let Some(progress) = self.sample_output(id, port)
                && let Some(stream) = self.runs.stream_mut(stream)
            {
                stream.epoch.note_last(progress);
            }
        }
    }

    /// Condemns an attempt that has violated the protocol: its messages are ignored from now on, and none of its
    /// outputs counts as complete, however it ends.
    pub fn condemn(&mut self, id: ProcessId, what: String) {
        if let Some(process) = self.processes.get_mut(id)
            && !std::mem::replace(&mut process.condemned, true)
        {
            self.outbox.tell(StoreEvent::Misbehaved(id, what));
        }
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
        let page = self.outbox.next_segment();
        if let Some(process) = self.processes.get_mut(id) {
            process.control = Some(ControlPage { id: page, fd, words });
            self.outbox.tell(StoreEvent::Ready(id));
            let outputs: Vec<RunStream> = process.outputs.values().copied().collect();
            for stream in outputs {
                self.serve_waiting_readers(stream)?;
            }
        }
        Ok(())
    }

    fn note_first_bytes(&mut self, id: RunStream) {
        if let Some(stream) = self.runs.stream_mut(id)
            && stream.epoch.announce_first_bytes()
        {
            self.outbox.tell(StoreEvent::FirstBytes(id));
        }
    }

    /// Finishes the stream of an output.
    pub(crate) fn finish(&mut self, id: ProcessId, port: PortId, stream_id: RunStream) -> Result<(), StoreError> {
        let Some(word) = self.processes.progress((id, port)) else { return Ok(()) };
        let Some(stream) = self.runs.stream_mut(stream_id) else { return Ok(()) };
        if stream.epoch.finished().is_some() || !stream.epoch.is_written_by((id, port)) {
            return Ok(());
        }
        let replayed = stream.epoch.replay.is_some();
        let ended = stream.epoch.ended_at(word.offset);
        let length = stream.epoch.length(word.offset);
        // A carrier asks for room before it knows whether more bytes will come.
        self.stop_waiting(stream_id.run, (id, port));
        if replayed {
            return self.finish_replay(stream_id, ended);
        }
        let Some(stream) = self.runs.stream_mut(stream_id) else { return Ok(()) };
        stream.epoch.finish(length);
        if length > 0 {
            self.note_first_bytes(stream_id);
        }
        self.close_live(stream_id);
        self.outbox.tell(StoreEvent::Finished(stream_id, length));
        self.release(stream_id);
        Ok(())
    }

    fn finish_all(&mut self, id: ProcessId) -> Result<(), StoreError> {
        for (port, stream) in self.processes.outputs(id) {
            self.finish(id, port, stream)?;
            self.serve_waiting_readers(stream)?;
        }
        Ok(())
    }

    fn close_input(&mut self, id: ProcessId, port: PortId) {
        let Some((stream_id, subscriber)) = self.processes.input(id, port) else { return };
        self.sample_readers(stream_id);
        if let Some(stream) = self.runs.stream_mut(stream_id) {
            stream.close_reader(subscriber, (id, port));
        }
        if self.processes.is_carrier(id) {
            self.retire_input(id, port, stream_id, subscriber);
        }
        self.tell_unread(stream_id);
        self.release(stream_id);
        self.serve_waiting_outputs(Some(stream_id.run));
    }
}
