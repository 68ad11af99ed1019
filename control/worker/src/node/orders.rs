//! Carries out orders about streams, subscriptions and attempts.

use super::{Node, now};
use crate::order::Order;
use dflow_carrier::Command;
use dflow_protocol::wire::StreamKey;
use dflow_protocol::{Epoch, RunId, StreamId};
use dflow_scheduler::{Event, Outcome};
use dflow_store::{InputFile, RunStream, Subscriber};
use dflow_workflow::MAX_SWITCH_VALUE;

impl Node {
    /// Carries out an order of a run.
    pub(super) fn obey(&mut self, run: RunId, order: Order) {
        let of_run = |stream| RunStream { run, stream };
        match order {
            Order::OpenStream { stream, epoch, producer, keep, continues, remember } => {
                let Some(guest) = self.guests.get_mut(&run) else { return };
                guest.epochs.insert(stream, epoch);
                if continues {
                    self.store.continue_stream(now(), of_run(stream), keep);
                } else {
                    self.store.reopen_stream(of_run(stream), keep);
                    if remember {
                        self.store.remember(of_run(stream));
                    }
                }
                if let Some(process) = guest.wanted_parts.get_mut(&producer).and_then(|wanted| wanted.pop_front()) {
                    self.store.open_part(process, producer.1, Ok(of_run(stream)));
                }
            }
            Order::Import { stream, epoch, from, keep } => self.import(run, stream, epoch, from, keep),
            Order::Export { stream, epoch, to } => {
                let result = self.export(run, stream, epoch, to);
                self.note(run, result);
            }
            Order::Forsake { place, exports } => self.forsake(run, place, &exports),
            Order::Subscribe { stream, instance, input, keep } => {
                self.store.subscribe(now(), of_run(stream), Subscriber { instance, input }, keep);
            }
            Order::Unsubscribe { stream, instance, input } => {
                self.store.unsubscribe(of_run(stream), Subscriber { instance, input });
            }
            Order::Hold { stream } => self.store.hold(of_run(stream)),
            Order::Unhold { stream } => self.store.unhold(of_run(stream)),
            Order::Prepare(preparation) => {
                let (instance, attempt) = (preparation.instance, preparation.attempt);
                if let Err(reason) = self.prepare(run, *preparation) {
                    self.notify(run, Event::Ended { instance, attempt, outcome: Outcome::Failed { reason } });
                }
            }
            Order::AddInput { instance, attempt, input, stream } => {
                if let Some(process) = self.process_of(run, instance, attempt) {
                    let result = self.store.add_input(process, Subscriber { instance, input }, of_run(stream));
                    self.note(run, result);
                }
            }
            Order::InputsComplete { instance, attempt, input } => {
                if let Some(process) = self.process_of(run, instance, attempt) {
                    self.store.inputs_complete(process, input);
                }
            }
            Order::Start { instance, attempt } => {
                if let Some(process) = self.process_of(run, instance, attempt) {
                    self.start_in_turn(run, process);
                    // Sent at once, because the orders that follow prepare other programs, which takes longer than a
                    // start.
                    self.send_outgoing();
                }
            }
            Order::Kill { instance, attempt, reason } => {
                if let Some(process) = self.process_of(run, instance, attempt) {
                    self.stop_for_driver(process, reason);
                }
            }
            Order::Abort { stream, epoch } => {
                self.store.abort(of_run(stream));
                self.tell_carrier(Command::Drop(StreamKey::new(run, stream, epoch)));
            }
            Order::ReadValue { stream, epoch } => {
                let text = self.value(of_run(stream));
                self.notify(run, Event::Value { stream, epoch, text });
            }
        }
    }

    /// Opens a finished stream that consists of these files.
    pub(super) fn open_files(&mut self, run: RunId, stream: StreamId, files: Vec<(InputFile, u64)>) {
        self.store.open_files(RunStream { run, stream }, files);
    }

    pub(super) fn epoch(&self, run: RunId, stream: StreamId) -> Epoch {
        self.guests.get(&run).map_or(Epoch(1), |guest| guest.epoch(stream))
    }

    fn value(&self, stream: RunStream) -> Result<String, String> {
        match self.store.read_small(stream, MAX_SWITCH_VALUE + 1) {
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
