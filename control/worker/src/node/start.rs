//! Starts attempts: a channel, streams, and a process or a thread.

use super::attempt::Attempt;
use super::connection::Connection;
use super::{Node, now};
use super::{sink, surroundings};
use crate::node::program::Wanted;
use crate::order::Preparation;
use crate::setup::thread_setup;
use dflow_launcher::SpawnRequest;
use dflow_ports::{Session, Setup};
use dflow_protocol::{InstanceId, RunId, StreamId};
use dflow_shm::channel;
use dflow_store::ProcessId;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The descriptor number of an attempt's channel.
const CHANNEL: i32 = 3;

impl Node {
    pub(super) fn new_process(&mut self) -> ProcessId {
        self.next_process += 1;
        ProcessId(self.next_process)
    }

    /// Starts a thread that is a function of the run: the sink of an instance, or the source of a workflow input.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub(super) fn begin_thread(
        &mut self,
        run: RunId,
        instance: Option<InstanceId>,
        attempt: u32,
        name: &str,
        outputs: &[Vec<StreamId>],
        work: impl FnOnce(&Arc<Session>) -> Result<(), sink::SinkError> + Send + 'static,
    ) -> Result<(), String> {
        let process = self.new_process();
        let setup = thread_setup(&run.to_string(), name, attempt, instance.is_some());
        let theirs = self.connect(run, process, instance, attempt, name, true)?;
        self.store.begin(run, process, setup, outputs).map_err(|error| error.to_string())?;
        let ends = self.thread_ends.clone();
        let ended = move |result| {
            // The receiver is gone once the run is over; that is fine.
            let _ = ends.send((process, result));
        };
        sink::start(name, theirs, work, ended).map_err(|error| format!("cannot start a thread: {error}"))
    }

    /// Creates a channel and registers the attempt; returns the attempt's end.
    pub(super) fn connect(
        &mut self,
        run: RunId,
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
        self.attempts.insert(process, Attempt::new(run, instance, attempt, name.to_owned(), is_thread));
        if let Some(guest) = self.guests.get_mut(&run) {
            guest.attempts.insert(process);
            if let Some(instance) = instance {
                guest.processes.insert((instance, attempt), process);
            }
        }
        Ok(theirs)
    }

    /// Prepares the program of an attempt: its channel, streams and process.
    pub(super) fn prepare(&mut self, run: RunId, preparation: Preparation) -> Result<(), String> {
        let Preparation {
            instance,
            attempt,
            mut setup,
            outputs,
            program,
            is_command,
            success,
            env,
            memory_limit,
            slots,
            limits,
            sources,
        } = preparation;
        let grace = Duration::from_nanos(limits.grace);
        // A spinning command adapter would only take the core from its program.
        setup.spin_nanos = if is_command { 0 } else { crate::time::nanos(self.options.spin) };
        let (process, now) = (self.new_process(), now());
        let part = part_variables(&setup);
        let theirs = self.connect(run, process, Some(instance), attempt, &setup.instance.clone(), false)?;
        if let Some(attempt) = self.attempts.get_mut(&process) {
            attempt.slots = slots;
            attempt.is_command = is_command;
            if is_command {
                let pipes = setup.inputs.iter().filter(|input| !input.keep);
                attempt.pipes = pipes.map(|input| input.name.clone()).collect();
            }
            attempt.limit(now, limits, sources);
        }
        let result =
            self.store.begin(run, process, setup, &outputs).map_err(|error| error.to_string()).and_then(|()| {
                let file = self.find_program(run, &program)?;
                let mut request = if is_command {
                    let itself =
                        std::env::current_exe().map_err(|error| format!("cannot find dflow itself: {error}"))?;
                    let mut request = SpawnRequest::new(itself);
                    request.args = dflow_command::arguments(file.as_os_str(), &success, grace);
                    request
                } else {
                    SpawnRequest::new(file)
                };
                let environment = &self.guests.get(&run).ok_or("its run is over")?.environment;
                request.env = surroundings::of_attempt(environment, &env, program.dir()).into_iter().collect();
                request.cwd = Some(program.dir().to_owned());
                request.env.extend(part);
                request.env.push(("DFLOW_SOCKET".into(), CHANNEL.to_string().into()));
                request.memory_limit = memory_limit;
                request.oom_score_adj = crate::options::oom_score_of_functions();
                request.fds = vec![(theirs, CHANNEL)];
                self.launcher.launcher.spawn(process.0, request).map_err(|error| error.to_string())
            });
        if result.is_err() {
            self.attempts.remove(&process);
            self.forget(process);
            if let Some(guest) = self.guests.get_mut(&run) {
                guest.attempts.remove(&process);
                guest.processes.remove(&(instance, attempt));
            }
            self.store.end(now, process, false);
        }
        result
    }

    /// The file of a program on this node.
    pub(super) fn find_program(&mut self, run: RunId, wanted: &Wanted) -> Result<PathBuf, String> {
        let guest = self.guests.get_mut(&run).ok_or("its run is over")?;
        if let Some(file) = guest.programs.get(wanted) {
            return Ok(file.clone());
        }
        let file = wanted.find().map_err(|error| error.to_string())?;
        guest.programs.insert(wanted.clone(), file.clone());
        Ok(file)
    }
}

/// The variables by which any program learns which part of a `foreach` it works on.
fn part_variables(setup: &Setup) -> Vec<(OsString, OsString)> {
    let number = setup.part.map(|part| ("DFLOW_PART".into(), part.to_string().into()));
    let file = setup.part_file.as_ref().map(|file| ("DFLOW_PART_FILE".into(), OsString::from_vec(file.clone())));
    number.into_iter().chain(file).collect()
}
