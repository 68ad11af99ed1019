//! Outputs without readers: their producer is told, and may end early. An attempt all of whose outputs are unread
//! counts as a success when it ends.

use crate::process::Process;
use crate::stream::Stream;
use crate::{ProcessId, RunStream, Store};
use dflow_protocol::PortId;
use dflow_protocol::message::ToFunction;

impl Store {
    /// Whether an attempt has been told that none of its unfinished outputs has a reader left.
    #[must_use]
    pub fn was_told_unread(&self, id: ProcessId) -> bool {
        self.processes.get(id).is_some_and(|process| self.is_all_unread(process))
    }

    fn is_all_unread(&self, process: &Process) -> bool {
        let mut streams = process.outputs.values().filter_map(|&id| self.runs.stream(id));
        self.first_read_output(process).is_none()
            && streams.any(|stream| stream.is_subscribed() && stream.epoch.was_told_unread())
    }

    /// An unfinished output that has readers. The search starts where the last one was found, because an attempt may
    /// finish thousands of outputs in turn.
    fn first_read_output(&self, process: &Process) -> Option<PortId> {
        let is_read = |id: &RunStream| self.runs.stream(*id).is_some_and(Stream::is_read);
        let (before, from) =
            (process.outputs.range(..process.read_output), process.outputs.range(process.read_output..));
        from.chain(before).find(|(_, id)| is_read(id)).map(|(&port, _)| port)
    }

    /// Tells a producer if its output has no readers left.
    pub(crate) fn tell_unread(&mut self, id: RunStream) {
        let Some(stream) = self.runs.stream_mut(id) else { return };
        if stream.is_unread()
            && let Some((process, port)) = stream.epoch.tell_unread()
        {
            if let Some(process) = self.processes.get_mut(process) {
                process.unread_told = true;
            }
            self.send(process, ToFunction::Unread { port }, None);
            self.tell_about_the_rest(process);
        }
    }

    /// Tells a producer without readers about its outputs without subscriptions, too: they do not keep it running.
    pub(crate) fn tell_about_the_rest(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get(id).filter(|process| process.unread_told) else { return };
        if let Some(port) = self.first_read_output(process) {
            if let Some(process) = self.processes.get_mut(id) {
                process.read_output = port;
            }
            return;
        }
        if !self.is_all_unread(process) {
            return;
        }
        let never_read = |stream: RunStream| self.runs.stream(stream).is_some_and(|stream| !stream.is_subscribed());
        let rest: Vec<PortId> =
            process.outputs.iter().filter(|(_, stream)| never_read(**stream)).map(|(&port, _)| port).collect();
        for port in rest {
            self.send(id, ToFunction::Unread { port }, None);
        }
    }
}
