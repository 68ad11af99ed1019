//! Carries out orders about streams, subscriptions and attempts.

use super::{Host, now};
use crate::order::{End, Notice, Order, Record};
use dflow_carrier::{Carrier, Command, NodeId, Report};
use dflow_protocol::wire::StreamKey;
use dflow_protocol::{Epoch, InstanceId, StreamId};
use dflow_scheduler::Stopwatch;
use dflow_store::{InputFile, ProcessId, StoreError, Subscriber};
use dflow_transport::{LinkEvent, LinkStats};
use dflow_workflow::MAX_SWITCH_VALUE;
use std::time::Duration;

/// The attempt that carries streams from and to other nodes.
const CARRIER: ProcessId = ProcessId(1);

impl Host {
    pub(crate) fn obey(&mut self, order: Order) {
        match order {
            Order::OpenStream { stream, epoch, producer, keep, continues, remember } => {
                self.epochs.insert(stream, epoch);
                if continues {
                    self.store.continue_stream(now(), self.of_run(stream), keep);
                } else {
                    self.store.reopen_stream(self.of_run(stream), keep);
                    if remember {
                        self.store.remember(self.of_run(stream));
                    }
                }
                if let Some(process) = self.wanted_parts.get_mut(&producer).and_then(|wanted| wanted.pop_front()) {
                    self.store.open_part(process, producer.1, Ok(self.of_run(stream)));
                }
            }
            Order::Import { stream, epoch, from, keep } => self.import(stream, epoch, from, keep),
            Order::Export { stream, epoch, to } => {
                let result = self.export(stream, epoch, to);
                self.note(result);
            }
            Order::Subscribe { stream, instance, input, keep } => {
                self.store.subscribe(now(), self.of_run(stream), Subscriber { instance, input }, keep);
            }
            Order::Unsubscribe { stream, instance, input } => {
                self.store.unsubscribe(self.of_run(stream), Subscriber { instance, input });
            }
            Order::Hold { stream } => self.store.hold(self.of_run(stream)),
            Order::Unhold { stream } => self.store.unhold(self.of_run(stream)),
            Order::Prepare(preparation) => {
                let (instance, attempt) = (preparation.instance, preparation.attempt);
                if let Err(reason) = self.prepare(*preparation) {
                    let (end, record) = (End::Failed(reason), Record::default());
                    self.notices.push_back(Notice::Ended { instance, attempt, end, record });
                }
            }
            Order::AddInput { instance, attempt, input, stream } => {
                if let Some(&process) = self.processes.get(&(instance, attempt)) {
                    let result = self.store.add_input(process, Subscriber { instance, input }, self.of_run(stream));
                    self.note(result);
                }
            }
            Order::InputsComplete { instance, attempt, input } => {
                if let Some(&process) = self.processes.get(&(instance, attempt)) {
                    self.store.inputs_complete(process, input);
                }
            }
            Order::Start { instance, attempt } => {
                if let Some(&process) = self.processes.get(&(instance, attempt)) {
                    if let Some(attempt) = self.attempts.get_mut(&process) {
                        attempt.started = true;
                    }
                    self.watch(process, Stopwatch::start);
                    self.store.start(process);
                    // Sent at once, because the orders that follow prepare other programs, which takes longer than a
                    // start.
                    self.send_outgoing();
                }
            }
            Order::Kill { instance, attempt, reason } => {
                if let Some(&process) = self.processes.get(&(instance, attempt)) {
                    self.stop(process, reason);
                }
            }
            Order::Abort { stream, epoch } => {
                self.store.abort(self.of_run(stream));
                if let Some(carrier) = &self.carrier {
                    carrier.tell(Command::Drop(self.key(stream, epoch)));
                }
            }
            Order::ReadValue { stream, epoch } => {
                let text = self.value(stream);
                self.notices.push_back(Notice::Value { stream, epoch, text });
            }
        }
    }

    /// Opens a finished stream that consists of these files.
    pub(crate) fn open_files(&mut self, stream: StreamId, files: Vec<(InputFile, u64)>) {
        self.store.open_files(self.of_run(stream), files);
    }

    /// Whether an attempt has a process or a thread.
    pub(crate) fn has_attempt(&self, instance: InstanceId, attempt: u32) -> bool {
        self.processes.contains_key(&(instance, attempt))
    }

    /// Starts the carrier, which exchanges streams with other nodes. `silence`: a path is lost after this long without
    /// a sign of life.
    pub(crate) fn carry(&mut self, life: u64, silence: Duration) -> Result<&Carrier, String> {
        let setup = crate::attempt::carrier_setup(&self.id.to_string(), self.spin);
        let theirs = self.connect(CARRIER, None, 1, "carrier", true)?;
        self.store.begin_carrier(self.id, CARRIER, setup).map_err(|error| error.to_string())?;
        let reports = self.carried.clone();
        let report = move |report| {
            let _ = reports.send(report);
        };
        let carrier =
            Carrier::start(theirs, life, silence, report).map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(self.carrier.insert(carrier))
    }

    pub(crate) fn carrier(&self) -> Option<&Carrier> {
        self.carrier.as_ref()
    }

    /// Stops the carrier at the end of the run and takes its final counters.
    pub(crate) fn stop_carrying(&mut self) {
        if let Some(carrier) = self.carrier.take() {
            carrier.finish();
        }
        while let Ok(report) = self.carrying.try_recv() {
            if let Report::Stats(..) = report {
                self.carrier_report(report);
            }
        }
    }

    /// Asks the carrier for its counters; [`Host::has_summed`] tells when they are up to date.
    pub(crate) fn sum(&mut self) {
        match &self.carrier {
            Some(carrier) => carrier.tell(Command::Sum),
            None => self.summed = true,
        }
    }

    /// Whether the counters requested by [`Host::sum`] have arrived.
    pub(crate) fn has_summed(&mut self) -> bool {
        std::mem::take(&mut self.summed)
    }

    /// The paths that were lost since the last call: the node, the number of the path, and how it was lost.
    pub(crate) fn take_lost_paths(&mut self) -> Vec<(u32, u64, LinkEvent)> {
        std::mem::take(&mut self.lost_paths)
    }

    /// The links to other nodes.
    pub(crate) fn links(&self) -> impl Iterator<Item = (u32, &LinkStats)> {
        self.links.iter().map(|(&place, link)| (place, link))
    }

    /// The number of the last path over which anything arrived from this node; 0 before the first.
    pub(crate) fn heard_on(&self, node: u32) -> u64 {
        self.links.get(&node).map_or(0, |link| link.heard_on)
    }

    fn key(&self, stream: StreamId, epoch: Epoch) -> StreamKey {
        StreamKey::new(self.id, stream, epoch)
    }

    fn import(&mut self, stream: StreamId, epoch: Epoch, from: u32, keep: bool) {
        self.epochs.insert(stream, epoch);
        self.store.reopen_stream(self.of_run(stream), keep);
        match self.store.import(CARRIER, self.of_run(stream)) {
            Ok(Some(port)) => {
                if let Some(carrier) = &self.carrier {
                    carrier.tell(Command::Import(NodeId(from), self.key(stream, epoch), port));
                }
            }
            Ok(None) => {}
            Err(error) => self.note(Err(error)),
        }
    }

    fn export(&mut self, stream: StreamId, epoch: Epoch, to: u32) -> Result<(), StoreError> {
        // Bytes for readers that may restart are kept on their own node.
        let reader = Subscriber { instance: InstanceId(u32::MAX - to), input: 0 };
        self.store.subscribe(now(), self.of_run(stream), reader, false);
        if let (Some(port), Some(carrier)) = (self.store.export(CARRIER, reader, self.of_run(stream))?, &self.carrier) {
            carrier.tell(Command::Export(NodeId(to), self.key(stream, epoch), port));
        }
        Ok(())
    }

    pub(super) fn carrier_report(&mut self, report: Report) {
        match report {
            Report::ImportFailed(stream, reason) => {
                // The failure of a past epoch does not matter.
                if self.epochs.get(&stream.stream) == Some(&stream.epoch) {
                    let reason = format!("the transfer of {stream} to this node failed: {reason}");
                    self.notices.push_back(Notice::Failed { reason });
                }
            }
            Report::ExportFailed(stream, reason) => {
                let reason = format!("{stream} cannot be sent to another node: {reason}");
                self.notices.push_back(Notice::Failed { reason });
            }
            Report::Path(node, number, event) => {
                tracing::debug!(node = node.0, number, ?event, "a path to another node is lost");
                self.lost_paths.push((node.0, number, event));
            }
            Report::Stats(node, stats) => _ = self.links.insert(node.0, stats),
            Report::Summed => self.summed = true,
            Report::Failed(reason) => self.notices.push_back(Notice::Failed { reason }),
        }
    }

    fn value(&self, stream: StreamId) -> Result<String, String> {
        match self.store.read_small(self.of_run(stream), MAX_SWITCH_VALUE + 1) {
            Some(bytes) if bytes.len() > MAX_SWITCH_VALUE => {
                Err(format!("the value of a switch is longer than {MAX_SWITCH_VALUE} bytes"))
            }
            Some(bytes) => String::from_utf8(bytes)
                .map(|text| text.trim().to_owned())
                .map_err(|_| "the value of a switch is not UTF-8 text".to_owned()),
            None => Err("the value of a switch cannot be read".into()),
        }
    }
}
