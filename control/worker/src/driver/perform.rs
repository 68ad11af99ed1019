//! Turns the scheduler's actions into orders for the nodes that they concern.

use super::crossing::Orders;
use super::{Driver, function_of};
use crate::input::{InputStream, LiveFile};
use crate::node::sink;
use crate::order::{Limits, Order, Preparation};
use crate::setup::setup;
use crate::time::nanos;
use dflow_ports::Session;
use dflow_protocol::{Epoch, InstanceId, StreamId};
use dflow_scheduler::Place;
use dflow_scheduler::{Action, Event, InstanceKind, Outcome, Producer};
use dflow_workflow::{Input, Program, Source};
use std::sync::Arc;

/// Of the sources of a fan-in an error names so many.
const MAX_SOURCES_NAMED: usize = 3;

impl Driver<'_> {
    pub(crate) fn perform(&mut self, action: Action) {
        self.trace(&action);
        match action {
            Action::OpenStream { stream, epoch, producer, keep, continues, .. } => match producer {
                Producer::WorkflowInput { input, part } => self.open_input(stream, epoch, input, part, keep),
                Producer::Instance { instance, output, part } => {
                    let streams = self.outputs.entry((instance, output)).or_default();
                    let part = part as usize;
                    if streams.len() <= part {
                        streams.resize(part + 1, stream);
                    }
                    streams[part] = stream;
                    let remember = self.may_be_continued(instance);
                    let producer = (instance, output);
                    let place = self.place_of(instance);
                    self.order(place, Order::OpenStream { stream, epoch, producer, keep, continues, remember });
                    let crossing = self.nodes.open(stream, place, epoch, keep, continues);
                    self.order_all(crossing);
                }
            },
            Action::Subscribe { stream, consumer, input, restartable } => {
                let keep = restartable || self.input_keeps(consumer, input);
                let place = self.place_of(consumer);
                let crossing = self.nodes.read(stream, place);
                self.order_all(crossing);
                self.order(place, Order::Subscribe { stream, instance: consumer, input, keep });
            }
            Action::Unsubscribe { stream, consumer, input } => {
                let order = Order::Unsubscribe { stream, instance: consumer, input };
                self.order_at(consumer, order);
            }
            Action::Hold { stream } => {
                let orders = self.nodes.hold(stream, true);
                self.order_all(orders);
            }
            Action::Unhold { stream } => {
                let orders = self.nodes.hold(stream, false);
                self.order_all(orders);
            }
            Action::Prepare { instance, attempt } => match self.preparation(instance, attempt) {
                Ok(preparation) => {
                    self.order_at(instance, Order::Prepare(Box::new(preparation)));
                }
                Err(reason) => self.failed(instance, attempt, reason),
            },
            Action::AddInput { instance, attempt, input, stream, .. } => {
                if self.is_there(instance, attempt) {
                    let order = Order::AddInput { instance, attempt, input, stream };
                    self.order_at(instance, order);
                }
            }
            Action::InputsComplete { instance, attempt, input } => {
                if self.is_there(instance, attempt) {
                    let order = Order::InputsComplete { instance, attempt, input };
                    self.order_at(instance, order);
                }
            }
            Action::Start { instance, attempt } => {
                if self.is_there(instance, attempt) {
                    self.order_at(instance, Order::Start { instance, attempt });
                }
            }
            Action::Kill { instance, attempt, reason } => {
                self.order_at(instance, Order::Kill { instance, attempt, reason });
            }
            Action::Abort { stream, .. } => {
                let orders = self.nodes.abort(stream);
                self.order_all(orders);
            }
            Action::ReadValue { stream, epoch } => {
                self.order(self.nodes.writer(stream), Order::ReadValue { stream, epoch });
            }
            // Nothing to do: the stream has stopped with its writer, and the next attempt continues or replaces it.
            Action::Suspend { .. } => {}
            Action::WakeAt(at) => self.wake_at = Some(at),
            Action::Committed | Action::RunFailed { .. } => self.over = true,
        }
    }

    /// Logs an action. Without a subscriber for its level each event costs one load of a static; actions are some per stream
    /// and attempt, and none per chunk of data.
    fn trace(&self, action: &Action) {
        let place = |instance| self.nodes.name_of(self.place_of(instance));
        match action {
            &Action::Prepare { instance, attempt } if attempt > 1 => {
                let name = self.machine.view(instance).map(|view| view.name);
                tracing::info!(instance = name, attempt, node = place(instance), "the next attempt begins");
            }
            &Action::Start { instance, attempt } => tracing::debug!(
                instance = self.machine.view(instance).map(|view| view.name),
                attempt,
                node = place(instance),
                "the attempt starts"
            ),
            Action::Kill { instance, attempt, reason } => tracing::debug!(
                instance = self.machine.view(*instance).map(|view| view.name),
                attempt,
                reason,
                "the attempt is ended"
            ),
            Action::Abort { stream, epoch, reason } => {
                tracing::debug!(%stream, epoch = epoch.0, reason, "what a stream holds is void");
            }
            Action::Suspend { stream, epoch } => {
                tracing::debug!(%stream, epoch = epoch.0, "a stream waits for the next attempt");
            }
            Action::OpenStream { stream, epoch, producer, keep, continues, .. } => {
                tracing::trace!(%stream, epoch = epoch.0, ?producer, keep, continues, "a stream opens");
            }
            other => tracing::trace!(?other, "an action of the scheduler"),
        }
    }

    /// Gives an order to the node of an instance.
    fn order_at(&mut self, instance: InstanceId, order: Order) {
        let place = self.place_of(instance);
        self.order(place, order);
    }

    fn order_all(&mut self, orders: Orders) {
        for (place, order) in orders {
            self.order(place, order);
        }
    }

    fn order(&mut self, place: Place, order: Order) {
        match &mut self.members {
            Some(members) if place > 0 => members.order(place, order),
            _ => self.host.obey(order),
        }
    }

    /// The node of an instance. Sinks run on the node that drives the run, because the outputs are written there.
    fn place_of(&self, instance: InstanceId) -> Place {
        self.machine.view(instance).map_or(0, |view| view.place)
    }

    fn failed(&mut self, instance: InstanceId, attempt: u32, reason: String) {
        self.pending.push_back(Event::Ended { instance, attempt, outcome: Outcome::Failed { reason } });
    }

    fn input_keeps(&self, consumer: InstanceId, input: u32) -> bool {
        match function_of(&self.machine, consumer) {
            Some(InstanceKind::Function(function)) => {
                self.workflow.function(function).inputs.get(input as usize).is_some_and(Input::is_kept)
            }
            _ => false,
        }
    }

    /// Whether another attempt may continue where one has failed.
    fn may_be_continued(&self, instance: InstanceId) -> bool {
        match function_of(&self.machine, instance) {
            Some(InstanceKind::Function(function)) => {
                let function = self.workflow.function(function);
                function.deterministic && function.retries.count > 0
            }
            _ => false,
        }
    }

    /// Workflow inputs are read on the node that drives the run.
    fn open_input(&mut self, stream: StreamId, epoch: Epoch, input: u32, part: u32, keep: bool) {
        let crossing = self.nodes.open(stream, 0, epoch, keep, false);
        let streams = self.checked.inputs.get_mut(input as usize);
        let source = streams.and_then(|streams| streams.get_mut(part as usize)).map(std::mem::take);
        match source.unwrap_or_default() {
            InputStream::Files(files) => self.host.open_files(stream, files),
            InputStream::Live(files) => self.open_live(stream, epoch, (input, part), keep, files),
        }
        self.order_all(crossing);
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
        self.order(0, Order::OpenStream { stream, epoch, producer, keep, continues: false, remember: false });
        let spec = &self.workflow.inputs[input as usize];
        let name = if spec.partitioned { format!("{}[{part}]", spec.name) } else { spec.name.clone() };
        let (notes, work_name) = (self.notes_from.clone(), name.clone());
        let note = move |note| {
            // When the run is over nobody listens, and nobody has to.
            let _ = notes.send(note);
        };
        let work = move |session: &Arc<Session>| sink::read_live(session, files, &work_name, note);
        if let Err(reason) = self.host.begin_thread(None, 1, &format!("input:{name}"), &[vec![stream]], work) {
            self.pending.push_back(Event::StoreFailed { reason });
        }
    }

    /// Whether an attempt exists that can receive orders. A sink is created on first use, as a thread of the node that
    /// drives the run.
    fn is_there(&mut self, instance: InstanceId, attempt: u32) -> bool {
        let Some(view) = self.machine.view(instance) else { return false };
        let InstanceKind::Sink { output, .. } = view.kind else { return true };
        if self.host.has_attempt(instance, attempt) {
            return true;
        }
        let (name, part) = (view.name.clone(), view.part.cloned());
        let target = &self.workflow.outputs[output as usize];
        let part = part.as_ref().and_then(|part| part.as_slice().last().copied()).filter(|_| target.many);
        let Some(destination) = &self.destination else { return false };
        let file = match destination.sink(&target.name, part) {
            Ok(file) => file,
            Err(error) => {
                self.failed(instance, attempt, format!("its file cannot be opened: {error}"));
                return false;
            }
        };
        let work = move |session: &Arc<Session>| sink::write_file(session, file);
        match self.host.begin_thread(Some(instance), attempt, &name, &[], work) {
            Ok(()) => true,
            Err(reason) => {
                self.failed(instance, attempt, reason);
                false
            }
        }
    }

    /// The outputs that an input reads, as the workflow file names them.
    fn sources(&self, input: &Input) -> String {
        let name = |source: &Source| match *source {
            Source::WorkflowInput(input) => {
                self.workflow.inputs.get(input as usize).map(|input| format!("inputs.{}", input.name))
            }
            Source::Output { function, output } => {
                let function = self.workflow.function(function);
                function.outputs.get(output as usize).map(|output| format!("{}.{}", function.name, output.name))
            }
        };
        let names: Vec<String> = input.sources.iter().take(MAX_SOURCES_NAMED).filter_map(name).collect();
        let more = if input.sources.len() > names.len() { ", …" } else { "" };
        names.join(", ") + more
    }

    /// Everything that the node of an instance needs to prepare its program.
    fn preparation(&self, instance: InstanceId, attempt: u32) -> Result<Preparation, String> {
        let gone = || "the instance is gone".to_owned();
        let view = self.machine.view(instance).ok_or_else(gone)?;
        let InstanceKind::Function(id) = view.kind else { return Err(gone()) };
        let part = view.part.and_then(|part| part.as_slice().last().copied());
        let function = self.workflow.function(id);
        let setup = setup(&self.id.to_string(), &self.spec.params, function, &view.name, part, attempt);
        let outputs: Vec<Vec<StreamId>> = (0u32..)
            .zip(&function.outputs)
            .map(|(output, spec)| {
                let streams = self.outputs.get(&(instance, output)).cloned().unwrap_or_default();
                if spec.partition == dflow_workflow::Partition::Discovered { Vec::new() } else { streams }
            })
            .collect();
        let program = self.checked.wanted.get(id.0 as usize).ok_or_else(gone)?.clone();
        Ok(Preparation {
            instance,
            attempt,
            setup,
            outputs,
            program,
            is_command: matches!(function.program, Program::Command(_)),
            success: function.success.iter().copied().collect(),
            env: function.env.iter().map(|(name, value)| (name.clone(), value.fill(&self.spec.params))).collect(),
            memory_limit: function.resources.memory,
            slots: function.resources.slots,
            limits: Limits {
                start: nanos(function.start_timeout),
                computing: function.timeout.map(nanos),
                total: function.deadline.map(nanos),
                grace: nanos(function.grace),
            },
            sources: function.inputs.iter().map(|input| self.sources(input)).collect(),
        })
    }
}
