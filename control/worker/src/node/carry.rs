//! Streams from and to other nodes: the node's side of the carrier.

use super::{Node, now};
use crate::attempt::carrier_setup;
use crate::order::Notice;
use dflow_carrier::{Carrier, Command, NodeId, Report};
use dflow_protocol::wire::StreamKey;
use dflow_protocol::{Epoch, InstanceId, RunId, StreamId};
use dflow_store::{RunStream, StoreError, Subscriber};
use std::time::Duration;

impl Node {
    /// Starts the run's carrier.
    pub(super) fn carry(&mut self, run: RunId, life: u64, silence: Duration) -> Result<(), String> {
        let process = self.new_process();
        let setup = carrier_setup(&run.to_string(), self.options.spin);
        let theirs = self.connect(run, process, None, 1, "carrier", true)?;
        self.store.begin_carrier(run, process, setup).map_err(|error| error.to_string())?;
        let reports = self.carried.clone();
        let report = move |report| {
            let _ = reports.send((run, report));
        };
        let carrier =
            Carrier::start(theirs, life, silence, report).map_err(|error| format!("cannot start a thread: {error}"))?;
        if let Some(guest) = self.guests.get_mut(&run) {
            guest.carrier = Some((process, carrier));
        }
        Ok(())
    }

    pub(super) fn tell_carrier(&self, run: RunId, command: Command) {
        if let Some((_, carrier)) = self.guests.get(&run).and_then(|guest| guest.carrier.as_ref()) {
            carrier.tell(command);
        }
    }

    pub(super) fn stop_carrying(&mut self, run: RunId) {
        if let Some((_, carrier)) = self.guests.get_mut(&run).and_then(|guest| guest.carrier.take()) {
            carrier.finish();
        }
        while let Ok((run, report)) = self.carrying.try_recv() {
            self.carrier_report(run, report);
        }
    }

    pub(super) fn sum(&mut self, run: RunId) {
        let Some(guest) = self.guests.get_mut(&run) else { return };
        match &guest.carrier {
            Some((_, carrier)) => carrier.tell(Command::Sum),
            None => guest.summed = true,
        }
    }

    pub(super) fn import(&mut self, run: RunId, stream: StreamId, epoch: Epoch, from: u32, keep: bool) {
        let Some(guest) = self.guests.get_mut(&run) else { return };
        guest.epochs.insert(stream, epoch);
        let carrier = guest.carrier.as_ref().map(|(process, _)| *process);
        self.store.reopen_stream(RunStream { run, stream }, keep);
        let Some(carrier) = carrier else { return };
        match self.store.import(carrier, RunStream { run, stream }) {
            Ok(Some(port)) => {
                self.tell_carrier(run, Command::Import(NodeId(from), StreamKey::new(run, stream, epoch), port));
            }
            Ok(None) => {}
            Err(error) => self.note(run, Err(error)),
        }
    }

    pub(super) fn export(&mut self, run: RunId, stream: StreamId, epoch: Epoch, to: u32) -> Result<(), StoreError> {
        let of_run = RunStream { run, stream };
        // Streams that are kept for restarted readers are kept on those readers' node.
        let reader = Subscriber { instance: InstanceId(u32::MAX - to), input: 0 };
        self.store.subscribe(now(), of_run, reader, false);
        let carrier = self.guests.get(&run).and_then(|guest| guest.carrier.as_ref()).map(|(process, _)| *process);
        let Some(carrier) = carrier else { return Ok(()) };
        if let Some(port) = self.store.export(carrier, reader, of_run)? {
            self.tell_carrier(run, Command::Export(NodeId(to), StreamKey::new(run, stream, epoch), port));
        }
        Ok(())
    }

    pub(super) fn carrier_report(&mut self, run: RunId, report: Report) {
        match report {
            Report::ImportFailed(stream, reason) => {
                // Of an epoch that is over it is of no interest.
                if self.guests.get(&run).and_then(|guest| guest.epochs.get(&stream.stream)) == Some(&stream.epoch) {
                    let reason = format!("the transfer of {stream} to this node failed: {reason}");
                    self.notify(run, Notice::Failed { reason });
                }
            }
            Report::ExportFailed(stream, reason) => {
                let reason = format!("{stream} cannot be sent to another node: {reason}");
                self.notify(run, Notice::Failed { reason });
            }
            Report::Failed(reason) => self.notify(run, Notice::Failed { reason }),
            Report::Path(node, number, event) => {
                tracing::debug!(node = node.0, number, ?event, "a path to another node is lost");
                self.noticed.insert(run);
                if let Some(guest) = self.guests.get_mut(&run) {
                    guest.lost_paths.push((node.0, number, event));
                }
            }
            Report::Stats(node, stats) => {
                self.noticed.insert(run);
                if let Some(guest) = self.guests.get_mut(&run) {
                    guest.links.insert(node.0, stats);
                }
            }
            Report::Summed => {
                self.noticed.insert(run);
                if let Some(guest) = self.guests.get_mut(&run) {
                    guest.summed = true;
                }
            }
        }
    }
}
