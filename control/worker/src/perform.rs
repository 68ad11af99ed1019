//! Carrying out what the scheduler wants: streams, subscriptions, attempts.

use crate::attempt::{Attempt, keeps_all, setup, thread_setup};
use crate::check::InputFiles;
use crate::connection::Connection;
use crate::run::{Driver, function_of};
use crate::sink;
use dflow_launcher::SpawnRequest;
use dflow_protocol::{InstanceId, StreamId};
use dflow_scheduler::{Action, Event, InstanceKind, Outcome, Producer};
use dflow_shm::channel;
use dflow_store::{ProcessId, Subscriber};
use dflow_workflow::{MAX_SWITCH_VALUE, Program};
use std::ffi::OsString;
use std::os::fd::OwnedFd;

/// The number under which an attempt finds its channel.
const CHANNEL: i32 = 3;

impl Driver<'_> {
    pub(crate) fn perform_on_streams(&mut self, action: Action) {
        match action {
            Action::OpenStream { stream, epoch, producer, keep, continues, .. } => {
                self.epochs.insert(stream, epoch);
                match producer {
                    Producer::WorkflowInput { input, part } => self.open_input(stream, input, part, keep),
                    Producer::Instance { instance, output, part } => {
                        if continues {
                            self.store.continue_stream(stream, keep);
                        } else {
                            self.store.reopen_stream(stream, keep);
                            if self.may_be_continued(instance) {
                                self.store.remember(stream);
                            }
                        }
                        let parts = self.outputs.entry((instance, output)).or_default();
                        let part = part as usize;
                        if parts.len() <= part {
                            parts.resize(part + 1, stream);
                        }
                        parts[part] = stream;
                        let waiting =
                            self.wanted_parts.get_mut(&(instance, output)).and_then(|wanted| wanted.pop_front());
                        if let Some(process) = waiting {
                            self.store.open_part(process, output, Ok(stream));
                        }
                    }
                }
            }
            Action::Subscribe { stream, consumer, input, restartable } => {
                let keep = restartable || self.input_keeps(consumer, input);
                self.store.subscribe(stream, Subscriber { instance: consumer, input }, keep);
            }
            Action::Unsubscribe { stream, consumer, input } => {
                self.store.unsubscribe(stream, Subscriber { instance: consumer, input });
            }
            Action::Hold { stream } => self.store.hold(stream),
            Action::Unhold { stream } => self.store.unhold(stream),
            Action::Prepare { instance, attempt } => {
                if let Err(reason) = self.prepare(instance, attempt) {
                    self.pending.push_back(Event::Ended { instance, attempt, outcome: Outcome::Failed { reason } });
                }
            }
            Action::AddInput { instance, attempt, input, stream, .. } => {
                if let Some(process) = self.process_for(instance, attempt) {
                    let result = self.store.add_input(process, Subscriber { instance, input }, stream);
                    self.note(result);
                }
            }
            Action::InputsComplete { instance, attempt, input } => {
                if let Some(process) = self.process_for(instance, attempt) {
                    self.store.inputs_complete(process, input);
                }
            }
            Action::Start { instance, attempt } => {
                if let Some(process) = self.process_for(instance, attempt) {
                    if let Some(attempt) = self.attempts.get_mut(&process) {
                        attempt.started = true;
                    }
                    self.store.start(process);
                    // At once: the actions that follow make other programs ready, which takes longer than a start.
                    self.send_outgoing();
                }
            }
            Action::Abort { stream, .. } => self.store.abort(stream),
            Action::ReadValue { stream, epoch } => {
                let text = match self.store.read_small(stream, MAX_SWITCH_VALUE + 1) {
                    Some(bytes) if bytes.len() > MAX_SWITCH_VALUE => {
                        Err(format!("the value of a switch is longer than {MAX_SWITCH_VALUE} bytes"))
                    }
                    Some(bytes) => String::from_utf8(bytes)
                        .map(|text| text.trim().to_owned())
                        .map_err(|_| "the value of a switch is no UTF-8 text".to_owned()),
                    None => Err("the value of a switch cannot be read".into()),
                };
                self.pending.push_back(Event::Value { stream, epoch, text });
            }
            // Where its writer has died the stream has stopped by itself; the next attempt decides how it goes on.
            Action::Suspend { .. }
            | Action::WakeAt(_)
            | Action::Kill { .. }
            | Action::Committed
            | Action::RunFailed { .. } => {}
        }
    }

    fn input_keeps(&self, consumer: InstanceId, input: u32) -> bool {
        match function_of(&self.machine, consumer) {
            Some(InstanceKind::Function(function)) => {
                self.workflow.function(function).inputs.get(input as usize).is_some_and(keeps_all)
            }
            _ => false,
        }
    }

    /// Whether another attempt may go on where one has failed.
    fn may_be_continued(&self, instance: InstanceId) -> bool {
        match function_of(&self.machine, instance) {
            Some(InstanceKind::Function(function)) => {
                let function = self.workflow.function(function);
                function.deterministic && function.retries.count > 0
            }
            _ => false,
        }
    }

    fn open_input(&mut self, stream: StreamId, input: u32, part: u32, keep: bool) {
        let files = match self.checked.inputs.get_mut(input as usize) {
            Some(InputFiles::Files(streams)) => streams.get_mut(part as usize).map(std::mem::take),
            Some(InputFiles::Live(_)) => None,
            None => Some(Vec::new()),
        };
        if let Some(files) = files {
            self.store.open_files(stream, files);
            return;
        }
        let taken = self
            .checked
            .inputs
            .get_mut(input as usize)
            .map(|slot| std::mem::replace(slot, InputFiles::Files(Vec::new())));
        let Some(InputFiles::Live(live)) = taken else { return };
        self.store.open_stream(stream, keep);
        let name = self.workflow.inputs[input as usize].name.clone();
        let process = self.new_process();
        let work_name = name.clone();
        let begun = self.begin_thread(process, None, 1, &format!("input:{name}"), &[vec![stream]], move |ctx| {
            sink::read_live(ctx, live, &work_name)
        });
        if let Err(reason) = begun {
            self.pending.push_back(Event::StoreFailed { reason });
        }
    }

    fn new_process(&mut self) -> ProcessId {
        self.next_process += 1;
        ProcessId(self.next_process)
    }

    /// The process of an attempt. A sink has none before it is needed, and then it is a thread.
    fn process_for(&mut self, instance: InstanceId, attempt: u32) -> Option<ProcessId> {
        if let Some(&process) = self.processes.get(&(instance, attempt)) {
            return Some(process);
        }
        let view = self.machine.view(instance)?;
        let InstanceKind::Sink { output, .. } = view.kind else { return None };
        let (name, part) = (view.name.clone(), view.part.cloned());
        let target = &self.workflow.outputs[output as usize];
        let part = part.as_ref().and_then(|part| part.as_slice().last().copied()).filter(|_| target.many);
        let path = self.staging.as_ref()?.path(&target.name, part);
        let process = self.new_process();
        let begun =
            self.begin_thread(process, Some(instance), attempt, &name, &[], move |ctx| sink::write_file(ctx, &path));
        match begun {
            Ok(()) => Some(process),
            Err(reason) => {
                self.pending.push_back(Event::Ended { instance, attempt, outcome: Outcome::Failed { reason } });
                None
            }
        }
    }

    fn begin_thread(
        &mut self,
        process: ProcessId,
        instance: Option<InstanceId>,
        attempt: u32,
        name: &str,
        outputs: &[Vec<StreamId>],
        work: impl FnOnce(&mut dflow_function::Context) -> Result<(), dflow_function::Error> + Send + 'static,
    ) -> Result<(), String> {
        let setup = thread_setup(&self.common(), name, attempt, instance.is_some());
        let theirs = self.connect(process, instance, attempt, name, true)?;
        self.store.begin(process, setup, outputs).map_err(|error| error.to_string())?;
        let ends = self.thread_ends.clone();
        let ended = move |result| {
            // When the run is over nobody listens, and nobody has to.
            let _ = ends.send((process, result));
        };
        sink::start(name, theirs, work, ended).map_err(|error| format!("cannot start a thread: {error}"))
    }

    /// Makes a channel and notes the attempt; gives the other end.
    fn connect(
        &mut self,
        process: ProcessId,
        instance: Option<InstanceId>,
        attempt: u32,
        name: &str,
        is_thread: bool,
    ) -> Result<OwnedFd, String> {
        let describe = |error: &dyn std::fmt::Display| {
            format!(
                "no channel to it can be made: {error}; if there are too many descriptors, raise the limit with 'ulimit -n'"
            )
        };
        let (ours, theirs) = channel::pair().map_err(|error| describe(&error))?;
        let connection = Connection::open(process, ours, self.arrivals.clone()).map_err(|error| describe(&error))?;
        self.connections.insert(process, connection);
        self.attempts.insert(process, Attempt::new(instance, attempt, name.to_owned(), is_thread));
        if let Some(instance) = instance {
            self.processes.insert((instance, attempt), process);
        }
        Ok(theirs)
    }

    /// Makes the program of an attempt ready: its channel, its streams, its process.
    fn prepare(&mut self, instance: InstanceId, attempt: u32) -> Result<(), String> {
        let gone = || "the instance is gone".to_owned();
        let view = self.machine.view(instance).ok_or_else(gone)?;
        let InstanceKind::Function(id) = view.kind else { return Err(gone()) };
        let name = view.name.clone();
        let part = view.part.and_then(|part| part.as_slice().last().copied());
        let workflow = std::sync::Arc::clone(&self.workflow);
        let function = workflow.function(id);
        let setup = setup(&self.common(), function, &name, part, attempt);
        let outputs: Vec<Vec<StreamId>> = (0u32..)
            .zip(&function.outputs)
            .map(|(output, spec)| {
                let streams = self.outputs.get(&(instance, output)).cloned().unwrap_or_default();
                if spec.partition == dflow_workflow::Partition::Discovered { Vec::new() } else { streams }
            })
            .collect();
        let program = self.checked.programs.get(id.0 as usize).cloned().ok_or_else(gone)?;
        let process = self.new_process();
        let theirs = self.connect(process, Some(instance), attempt, &name, false)?;
        let result = self.store.begin(process, setup, &outputs).map_err(|error| error.to_string()).and_then(|()| {
            let mut request = match &function.program {
                Program::Sdk(_) => SpawnRequest::new(program),
                Program::Command(_) => {
                    let mut request = SpawnRequest::new("/proc/self/exe");
                    request.program =
                        std::env::current_exe().map_err(|error| format!("cannot find dflow itself: {error}"))?;
                    request.args = vec![dflow_command::ARGUMENT.into(), program.into()];
                    request
                }
            };
            request.env = std::env::vars_os().filter(|(name, _)| !name.is_empty()).collect();
            for (key, value) in &function.env {
                request.env.retain(|(name, _)| name != &OsString::from(key));
                request.env.push((key.into(), value.into()));
            }
            request.env.retain(|(name, _)| name != "DFLOW_SOCKET");
            request.env.push(("DFLOW_SOCKET".into(), CHANNEL.to_string().into()));
            request.memory_limit = function.resources.memory;
            request.oom_score_adj = crate::options::oom_score_of_functions();
            request.fds = vec![(theirs, CHANNEL)];
            self.launcher.spawn(process.0, request).map_err(|error| error.to_string())
        });
        if result.is_err() {
            self.attempts.remove(&process);
            self.connections.remove(&process);
            self.processes.remove(&(instance, attempt));
            let ended = self.store.end(process, false);
            self.note(ended);
        }
        result
    }
}
