//! Turns the decisions of a node's scheduler into orders for the node.

use super::{Effect, Part, Step};
use crate::order::{Limits, Order, Preparation};
use crate::setup::setup;
use crate::time::nanos;
use dflow_protocol::{Epoch, InstanceId, StreamId};
use dflow_scheduler::{Action, Event, InstanceKind, Producer, StreamCopy};
use dflow_workflow::{Function, Input, Partition, Program, Source};

/// Of the sources of a fan-in an error names so many.
const MAX_SOURCES_NAMED: usize = 3;

impl Part {
    /// Carries out an action, as far as it concerns this node.
    pub(super) fn perform(&mut self, action: Action) -> Option<Effect> {
        self.trace(&action);
        let here = self.plan.place;
        match action {
            Action::OpenStream { stream, epoch, producer, keep, continues, .. } => match producer {
                // Workflow inputs are read on the node that drives the run.
                Producer::WorkflowInput { input, part } => {
                    let crossing = self.crossings.open(stream, 0, epoch, keep, false);
                    if here > 0 {
                        self.order_all(crossing);
                        return None;
                    }
                    // It has to be open before it goes anywhere.
                    crossing.into_iter().rev().for_each(|order| self.steps.push_front(Step::Order(order)));
                    return Some(Effect::OpenInput { stream, epoch, input, part, keep });
                }
                Producer::Instance { instance, output, part } => {
                    let place = self.place_of(instance);
                    if place == here {
                        let streams = self.outputs.entry((instance, output)).or_default();
                        let part = part as usize;
                        if streams.len() <= part {
                            streams.resize(part + 1, stream);
                        }
                        streams[part] = stream;
                        let remember = self.may_be_continued(instance);
                        let producer = (instance, output);
                        self.order(Order::OpenStream { stream, epoch, producer, keep, continues, remember });
                    }
                    let crossing = self.crossings.open(stream, place, epoch, keep, continues);
                    self.order_all(crossing);
                }
            },
            Action::Subscribe { stream, consumer, input, restartable } => {
                let place = self.place_of(consumer);
                let is_planned = self.machine.is_planned(consumer);
                let crossing = self.crossings.read(stream, place, is_planned);
                self.order_all(crossing);
                if place == here {
                    let keep = restartable || self.input_keeps(consumer, input);
                    self.order(Order::Subscribe { stream, instance: consumer, input, keep });
                }
            }
            Action::Unsubscribe { stream, consumer, input } => {
                if self.place_of(consumer) == here {
                    self.order(Order::Unsubscribe { stream, instance: consumer, input });
                }
            }
            Action::Hold { stream } => {
                let order = self.crossings.hold(stream, true);
                self.order_all(order.into_iter().collect());
            }
            Action::Unhold { stream } => {
                let order = self.crossings.hold(stream, false);
                self.order_all(order.into_iter().collect());
            }
            Action::Prepare { instance, attempt } => match self.preparation(instance, attempt) {
                Some(preparation) => self.order(Order::Prepare(Box::new(preparation))),
                None => self.failed(instance, attempt, "the instance is gone".to_owned()),
            },
            Action::AddInput { instance, attempt, input, stream, .. } => {
                let order = Order::AddInput { instance, attempt, input, stream };
                return self.order_attempt(instance, attempt, &action, order);
            }
            Action::InputsComplete { instance, attempt, input } => {
                let order = Order::InputsComplete { instance, attempt, input };
                return self.order_attempt(instance, attempt, &action, order);
            }
            Action::Start { instance, attempt } => {
                return self.order_attempt(instance, attempt, &action, Order::Start { instance, attempt });
            }
            Action::Kill { instance, attempt, reason } => self.order(Order::Kill { instance, attempt, reason }),
            Action::Abort { stream, .. } => {
                let order = self.crossings.abort(stream);
                self.order_all(order.into_iter().collect());
            }
            Action::ReadValue { stream, epoch } => self.order(Order::ReadValue { stream, epoch }),
            // Nothing to do: the stream has stopped with its writer, and the next attempt continues or replaces it.
            Action::Suspend { .. } => {}
            Action::Forsake { places } => {
                // Before its readers there are forgotten, so that no producer is told that it has none.
                self.take_stock();
                for &place in &places {
                    let orders = self.crossings.forsake(place);
                    self.order_all(orders);
                }
                return Some(Effect::Forsake { places });
            }
            Action::Survey => self.report_stock(),
            Action::EndSurvey => {
                self.stock.clear();
                for stream in std::mem::take(&mut self.kept) {
                    self.order(Order::Unhold { stream });
                }
            }
            Action::Tell { to, fact } => return Some(Effect::Tell { to, fact }),
            Action::WakeAt(at) => self.wake_at = Some(at),
            Action::Committed | Action::RunFailed { .. } => return Some(Effect::Over),
        }
        None
    }

    /// Takes note of what the store has, and has it keep that until the end of the survey.
    fn take_stock(&mut self) {
        for stream in self.crossings.present().collect::<Vec<_>>() {
            let is_kept = !self.kept.insert(stream);
            if let Some(copy) = self.guest.copy_of(stream, u32::from(is_kept)) {
                self.stock.insert(stream, copy);
            }
            if !is_kept {
                self.order(Order::Hold { stream });
            }
        }
    }

    fn report_stock(&mut self) {
        let copy = |(&stream, copy): (&StreamId, &dflow_store::StreamCopy)| StreamCopy {
            stream,
            // The machine knows it.
            epoch: Epoch::default(),
            is_whole: copy.is_whole,
            is_complete: copy.is_complete,
            is_broken: !copy.is_complete && self.crossings.is_cut(stream),
        };
        let copies = self.stock.iter().map(copy).collect();
        self.push(Event::Surveyed { copies });
    }

    /// Gives an order to an attempt. A sink is begun when it gets the first one.
    fn order_attempt(&mut self, instance: InstanceId, attempt: u32, action: &Action, order: Order) -> Option<Effect> {
        let is_sink = matches!(self.machine.kind(instance)?, InstanceKind::Sink { .. });
        if is_sink && self.failed_sinks.contains(&(instance, attempt)) {
            return None;
        }
        if is_sink && !self.guest.has_attempt(instance, attempt) {
            self.steps.push_front(Step::Action(action.clone()));
            return Some(Effect::BeginSink { instance, attempt });
        }
        self.order(order);
        None
    }

    /// Logs an action. Without a subscriber for its level each event costs one load of a static; actions are some per stream
    /// and attempt, and none per chunk of data.
    fn trace(&self, action: &Action) {
        let place = |instance| self.name_of(self.place_of(instance));
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

    fn function(&self, instance: InstanceId) -> Option<&Function> {
        match self.machine.kind(instance)? {
            InstanceKind::Function(function) => Some(self.plan.workflow.function(function)),
            InstanceKind::Sink { .. } => None,
        }
    }

    fn input_keeps(&self, consumer: InstanceId, input: u32) -> bool {
        let function = self.function(consumer);
        function.and_then(|function| function.inputs.get(input as usize)).is_some_and(Input::is_kept)
    }

    /// Whether another attempt may continue where one has failed.
    fn may_be_continued(&self, instance: InstanceId) -> bool {
        self.function(instance).is_some_and(|function| function.deterministic && function.retries.count > 0)
    }

    /// The outputs that an input reads, as the workflow file names them.
    fn sources(&self, input: &Input) -> String {
        let workflow = &self.plan.workflow;
        let name = |source: &Source| match *source {
            Source::WorkflowInput(input) => {
                workflow.inputs.get(input as usize).map(|input| format!("inputs.{}", input.name))
            }
            Source::Output { function, output } => {
                let function = workflow.function(function);
                function.outputs.get(output as usize).map(|output| format!("{}.{}", function.name, output.name))
            }
        };
        let names: Vec<String> = input.sources.iter().take(MAX_SOURCES_NAMED).filter_map(name).collect();
        let more = if input.sources.len() > names.len() { ", …" } else { "" };
        names.join(", ") + more
    }

    /// Everything that the node needs to prepare the program of an instance; `None` if there is no such function.
    fn preparation(&self, instance: InstanceId, attempt: u32) -> Option<Preparation> {
        let view = self.machine.view(instance)?;
        let InstanceKind::Function(id) = view.kind else { return None };
        let path = view.part.map(|part| part.as_slice()).unwrap_or_default();
        let function = self.plan.workflow.function(id);
        let part = (path.last().copied(), self.plan.part_names.file(&self.plan.workflow, id, path));
        let setup = setup(&self.plan.id, &self.plan.params, function, &view.name, part, attempt);
        let outputs: Vec<Vec<StreamId>> = (0u32..)
            .zip(&function.outputs)
            .map(|(output, spec)| {
                let streams = self.outputs.get(&(instance, output)).cloned().unwrap_or_default();
                if spec.partition == Partition::Discovered { Vec::new() } else { streams }
            })
            .collect();
        let program = self.plan.wanted.get(id.0 as usize)?.clone();
        Some(Preparation {
            instance,
            attempt,
            setup,
            outputs,
            program,
            is_command: matches!(function.program, Program::Command(_)),
            success: function.success.iter().copied().collect(),
            env: function.env.iter().map(|(name, value)| (name.clone(), value.fill(&self.plan.params))).collect(),
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
