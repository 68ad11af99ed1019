//! Streams from and to other nodes: the node's side of the carrier.

use super::{Node, now};
use crate::setup::carrier_setup;
use dflow_carrier::{Command, Report};
use dflow_protocol::wire::StreamKey;
use dflow_protocol::{Epoch, InstanceId, RunId, StreamId};
use dflow_scheduler::Event;
use dflow_store::{ProcessId, RunStream, StoreError, Subscriber};

/// The carrier, as it reads a stream for the node at this place.
fn reader_at(place: u32) -> Subscriber {
    Subscriber { instance: InstanceId(u32::MAX - place), input: 0 }
}

impl Node {
    /// Lets streams of a run come from other nodes and go to them. To the store, the carrier is one more attempt of each run.
    pub(super) fn carry(&mut self, run: RunId) -> Result<(), String> {
        let process = self.new_process();
        let setup = carrier_setup(&run.to_string(), self.options.spin);
        let theirs = self.connect(run, process, None, 1, "carrier", true)?;
        self.store.begin_carrier(run, process, setup).map_err(|error| error.to_string())?;
        self.start_carrier()?.tell(Command::Begin(run, theirs));
        if let Some(guest) = self.guests.get_mut(&run) {
            guest.carrier = Some(process);
        }
        Ok(())
    }

    pub(super) fn tell_carrier(&self, command: Command) {
        if let Some(carrier) = &self.peers.carrier {
            carrier.tell(command);
        }
    }

    /// Requests the figures of a run's links.
    pub(super) fn sum(&mut self, run: RunId) {
        let Some(guest) = self.guests.get_mut(&run) else { return };
        match guest.carrier {
            Some(_) => self.tell_carrier(Command::Sum(run)),
            None => guest.summed = true,
        }
    }

    /// The carrier's part of a run is over. Returns its attempt, if there is one: the store may free the run's memory only
    /// when that has closed its channel, because until then other nodes may write into windows of the run.
    pub(super) fn stop_carrying(&mut self, run: RunId) -> Option<ProcessId> {
        let process = self.guests.get_mut(&run)?.carrier.take()?;
        self.tell_carrier(Command::End(run));
        Some(process)
    }

    pub(super) fn import(&mut self, run: RunId, stream: StreamId, epoch: Epoch, from: u32, keep: bool) {
        let Some(guest) = self.guests.get_mut(&run) else { return };
        guest.epochs.insert(stream, epoch);
        let (carrier, peer) = (guest.carrier, guest.places.get(&from).copied());
        self.store.reopen_stream(RunStream { run, stream }, keep);
        let (Some(carrier), Some(peer)) = (carrier, peer) else { return };
        match self.store.import(carrier, RunStream { run, stream }) {
            Ok(Some(port)) => {
                self.tell_carrier(Command::Import(peer, StreamKey::new(run, stream, epoch), port));
            }
            Ok(None) => {}
            Err(error) => self.note(run, Err(error)),
        }
    }

    pub(super) fn export(&mut self, run: RunId, stream: StreamId, epoch: Epoch, to: u32) -> Result<(), StoreError> {
        let of_run = RunStream { run, stream };
        // Streams that are kept for restarted readers are kept on those readers' node.
        let reader = reader_at(to);
        self.store.subscribe(now(), of_run, reader, false);
        let guest = self.guests.get(&run);
        let carrier = guest.and_then(|guest| Some((guest.carrier?, *guest.places.get(&to)?)));
        let Some((carrier, peer)) = carrier else { return Ok(()) };
        if let Some(port) = self.store.export(carrier, reader, of_run)? {
            self.tell_carrier(Command::Export(peer, StreamKey::new(run, stream, epoch), port));
        }
        Ok(())
    }

    /// A node of the run is lost.
    pub(super) fn forsake(&mut self, run: RunId, place: u32, exports: &[StreamId]) {
        for &stream in exports {
            self.store.forget_reader(RunStream { run, stream }, reader_at(place));
        }
        if let Some(&peer) = self.guests.get(&run).and_then(|guest| guest.places.get(&place)) {
            self.tell_carrier(Command::Leave(peer, run));
        }
    }

    pub(super) fn carrier_report(&mut self, report: Report) {
        match report {
            Report::ImportFailed(stream, reason) => {
                let run = stream.run();
                // For an epoch that is over, it does not matter.
                if self.guests.get(&run).and_then(|guest| guest.epochs.get(&stream.stream)) == Some(&stream.epoch) {
                    let reason = format!("the transfer of {stream} to this node failed: {reason}");
                    self.notify(run, Event::StoreFailed { reason });
                }
            }
            Report::ExportFailed(stream, reason) => {
                let reason = format!("{stream} cannot be sent to another node: {reason}");
                self.notify(stream.run(), Event::StoreFailed { reason });
            }
            Report::RunFailed(run, reason) => {
                let reason = format!("its streams from and to other nodes cannot go on: {reason}");
                self.notify(run, Event::StoreFailed { reason });
            }
            Report::Failed(reason) => {
                let reason = format!("no stream comes from other nodes or goes to them any more: {reason}");
                let runs = self.guests.iter().filter(|(_, guest)| guest.carrier.is_some()).map(|(run, _)| *run);
                for run in runs.collect::<Vec<_>>() {
                    self.notify(run, Event::StoreFailed { reason: reason.clone() });
                }
            }
            Report::Path(peer, number, event) => {
                tracing::debug!(peer = peer.0, number, ?event, "a path to another node is lost");
                self.path_lost(peer, number, &event);
            }
            Report::Stats(peer, stats) => self.set_link_stats(peer, stats),
            Report::RunStats(run, peer, traffic) => {
                if let Some(guest) = self.guests.get_mut(&run) {
                    guest.traffic.insert(peer, traffic);
                }
            }
            Report::Summed(run) => {
                if let Some(guest) = self.guests.get_mut(&run) {
                    guest.summed = true;
                    self.noticed.insert(run);
                }
            }
        }
    }
}
