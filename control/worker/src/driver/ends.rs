//! The ends of a run on the node that drives it: the streams of its inputs, and the sinks of its outputs.

use super::Driver;
use crate::input::{InputStream, LiveFile};
use crate::node::sink;
use crate::order::Order;
use dflow_ports::Session;
use dflow_protocol::{Epoch, InstanceId, StreamId};
use dflow_scheduler::{Event, InstanceKind};
use std::sync::Arc;

impl Driver<'_> {
    pub(super) fn open_input(&mut self, stream: StreamId, epoch: Epoch, input: u32, part: u32, keep: bool) {
        let streams = self.checked.inputs.get_mut(input as usize);
        let source = streams.and_then(|streams| streams.get_mut(part as usize)).map(std::mem::take);
        match source.unwrap_or_default() {
            InputStream::Files(files) => self.part.guest.open_files(stream, files),
            InputStream::Live(files) => self.open_live(stream, epoch, (input, part), keep, files),
        }
    }

    fn open_live(
        &mut self,
        stream: StreamId,
        epoch: Epoch,
        (input, part): (u32, u32),
        keep: bool,
        files: Vec<LiveFile>,
    ) {
        // No instance writes it, so no further part of it is ever requested.
        let producer = (InstanceId(u32::MAX), input);
        let open = Order::OpenStream { stream, epoch, producer, keep, continues: false, remember: false };
        self.part.guest.obey(open);
        let spec = &self.workflow.inputs[input as usize];
        let name = if spec.partitioned { format!("{}[{part}]", spec.name) } else { spec.name.clone() };
        let (notes, work_name) = (self.notes_from.clone(), name.clone());
        let note = move |note| {
            // When the run is over nobody listens, and nobody has to.
            let _ = notes.send(note);
        };
        let work = move |session: &Arc<Session>| sink::read_live(session, files, &work_name, note);
        if let Err(reason) = self.part.guest.begin_thread(None, 1, &format!("input:{name}"), &[vec![stream]], work) {
            self.part.push(Event::StoreFailed { reason });
        }
    }

    /// Begins the thread that writes a stream to its file.
    pub(super) fn begin_sink(&mut self, instance: InstanceId, attempt: u32) {
        if let Err(reason) = self.try_begin_sink(instance, attempt) {
            self.part.sink_failed(instance, attempt, reason);
        }
    }

    fn try_begin_sink(&mut self, instance: InstanceId, attempt: u32) -> Result<(), String> {
        let gone = || "the run is over".to_owned();
        let view = self.part.machine.view(instance).ok_or_else(gone)?;
        let InstanceKind::Sink { output, .. } = view.kind else { return Err(gone()) };
        let (name, part) = (view.name.clone(), view.part.cloned());
        let target = &self.workflow.outputs[output as usize];
        let part = part.as_ref().and_then(|part| part.as_slice().last().copied()).filter(|_| target.many);
        let destination = self.destination.as_ref().ok_or_else(gone)?;
        let opened = destination.sink(&target.name, part);
        let file = opened.map_err(|error| format!("its file cannot be opened: {error}"))?;
        let work = move |session: &Arc<Session>| sink::write_file(session, file);
        self.part.guest.begin_thread(Some(instance), attempt, &name, &[], work)
    }
}
