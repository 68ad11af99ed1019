//! Where a function begins: its parameters and its ports.

use crate::error::Error;
use crate::input::Input;
use crate::inputs::Inputs;
use crate::output::Output;
use dflow_ports::{Available, FanIn, OutPort, OutputStreams, Parts, Port, PortId, Session, Setup};
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// The environment variable in which a function finds the number of its socket to the daemon.
const SOCKET_VARIABLE: &str = "DFLOW_SOCKET";

/// Runs `work` as a function of a workflow: call this from `main`. Returns when the function has ended; outputs are
/// finished if `work` returned `Ok`.
pub fn run(work: impl FnOnce(&mut Context) -> Result<(), Error>) -> ExitCode {
    let socket = match inherited_socket() {
        Ok(socket) => socket,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    match serve(socket, work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `work` as a function over a socket that the caller has: [`run`] for a thread instead of a process.
///
/// # Errors
/// What `work` returned, or why it could not be begun; the daemon has been told.
pub fn serve(socket: OwnedFd, work: impl FnOnce(&mut Context) -> Result<(), Error>) -> Result<(), Error> {
    let session = Session::open(socket)?;
    session.wait_for_start()?;
    let mut context = Context::new(Arc::clone(&session));
    let result = work(&mut context);
    if result.is_ok() {
        context.finish_outputs();
    }
    let unread = result.as_ref().is_err_and(Error::is_unread);
    session.end(result.as_ref().map(|_| ()).map_err(ToString::to_string), unread)?;
    result
}

fn inherited_socket() -> Result<OwnedFd, String> {
    let number = std::env::var(SOCKET_VARIABLE).map_err(|_| {
        "this program is a function of a dflow workflow and runs inside of one: name it as 'program' in a workflow file \
         and call 'dflow run FILE'"
            .to_owned()
    })?;
    let number: i32 = number.parse().map_err(|_| format!("{SOCKET_VARIABLE}={number} is not a descriptor's number"))?;
    dflow_shm::channel::inherit(number)
        .map_err(|error| format!("the socket {number} to the dflow daemon is not there: {error}"))
}

/// What a function has: its parameters, its inputs and its outputs, under the names of the workflow file.
pub struct Context {
    session: Arc<Session>,
    /// Ports that have been handed out: whether it is an input, and its name.
    taken: HashSet<(bool, String)>,
    parts: Arc<Mutex<Vec<PortId>>>,
}

impl Context {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self { session, taken: HashSet::new(), parts: Arc::default() }
    }

    /// Everything that the daemon has said about this attempt.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        self.session.setup()
    }

    /// The name of this instance, as `count[3]`.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.session.setup().instance
    }

    /// In a `foreach`, the number of the part that this instance works on.
    #[must_use]
    pub fn part(&self) -> Option<u32> {
        self.session.setup().part
    }

    /// 1 for the first attempt of this instance.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.session.setup().attempt
    }

    /// The text of a parameter.
    #[must_use]
    pub fn param_text(&self, name: &str) -> Option<&str> {
        self.session.setup().params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter; `None` if the workflow file does not set it.
    ///
    /// # Errors
    /// If its text is no `T`.
    pub fn param<T: FromStr>(&self, name: &str) -> Result<Option<T>, Error>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.param_text(name) else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(Error::new(format!(
                "the parameter '{name}' of '{}' has the value '{text}': {error}",
                self.instance()
            ))),
        }
    }

    /// The input of this name, which is one stream.
    ///
    /// # Errors
    /// If there is no such input, it has been taken already, or it is a fan-in.
    pub fn input(&mut self, name: &str) -> Result<Input, Error> {
        let (mut inputs, many) = self.take_input(name)?;
        if many {
            return Err(Error::new(format!(
                "the input '{name}' is a list of streams: take it with inputs(\"{name}\")"
            )));
        }
        inputs.next()?.ok_or_else(|| Error::new(format!("the input '{name}' has no stream")))
    }

    /// The input of this name as a list of streams; a single stream is a list of one.
    ///
    /// # Errors
    /// If there is no such input, or it has been taken already.
    pub fn inputs(&mut self, name: &str) -> Result<Inputs, Error> {
        Ok(self.take_input(name)?.0)
    }

    /// The output of this name, which is one stream.
    ///
    /// # Errors
    /// If there is no such output, it has been taken already, or it is partitioned.
    pub fn output(&mut self, name: &str) -> Result<Output, Error> {
        match self.find_output(name)? {
            (_, OutputStreams::Single(port)) => {
                let name = self.take(false, name)?;
                Ok(self.open(&name, port))
            }
            _ => Err(Error::new(format!("the output '{name}' is partitioned: take it with outputs or partition"))),
        }
    }

    /// The streams of an output with a fixed number of parts; a single stream is a list of one.
    ///
    /// # Errors
    /// If there is no such output, it has been taken already, or its parts are discovered.
    pub fn outputs(&mut self, name: &str) -> Result<Vec<Output>, Error> {
        let (first, count) = match self.find_output(name)?.1 {
            OutputStreams::Single(port) => (port, 1),
            OutputStreams::Fixed(port, count) => (port, count),
            OutputStreams::Discovered => {
                return Err(Error::new(format!("the parts of '{name}' are discovered: take it with partition")));
            }
        };
        let name = self.take(false, name)?;
        Ok((0..count).map(|part| self.open(&name, PortId(first.0 + part))).collect())
    }

    /// An output whose parts are opened while the function runs.
    ///
    /// # Errors
    /// If there is no such output, it has been taken already, or its number of parts is fixed.
    pub fn partition(&mut self, name: &str) -> Result<Partition, Error> {
        match self.find_output(name)? {
            (index, OutputStreams::Discovered) => {
                let parts = Parts::new(Arc::clone(&self.session), self.take(false, name)?, index);
                Ok(Partition { parts, opened: Arc::clone(&self.parts) })
            }
            _ => Err(Error::new(format!("the parts of '{name}' are fixed: take it with outputs"))),
        }
    }

    /// Waits until one of `inputs` has bytes, and gives its index; the earlier wins. `None` when all have ended.
    ///
    /// # Errors
    /// If a stream is given up by its producer or cannot be read.
    pub fn wait_any(&mut self, inputs: &mut [&mut Input]) -> Result<Option<usize>, Error> {
        loop {
            let mut ended = 0;
            for (index, input) in inputs.iter_mut().enumerate() {
                match input.port.poll()? {
                    Available::Bytes(_) => return Ok(Some(index)),
                    Available::End => ended += 1,
                    Available::Nothing => {}
                }
            }
            if ended == inputs.len() {
                return Ok(None);
            }
            let open = inputs.iter_mut().map(|input| &mut input.port).filter(|port| !port.is_at_end());
            let mut ports: Vec<&mut dyn Port> = open.map(|port| port as &mut dyn Port).collect();
            self.session.wait_any(&mut ports, None);
        }
    }

    fn take_input(&mut self, name: &str) -> Result<(Inputs, bool), Error> {
        let setup = self.session.setup();
        let Some((index, spec)) = setup.inputs.iter().enumerate().find(|(_, spec)| spec.name == name) else {
            return Err(Error::new(format!("'{}' has no input '{name}'", self.instance())));
        };
        let (index, many, keep) = (u32::try_from(index)?, spec.many, spec.keep);
        let name = self.take(true, name)?;
        Ok((Inputs::new(FanIn::new(Arc::clone(&self.session), name, index, keep)), many))
    }

    fn find_output(&self, name: &str) -> Result<(u32, OutputStreams), Error> {
        let found = self.session.setup().outputs.iter().zip(0..).find(|(spec, _)| spec.name == name);
        match found {
            Some((spec, index)) => Ok((index, spec.streams)),
            None => Err(Error::new(format!("'{}' has no output '{name}'", self.instance()))),
        }
    }

    fn take(&mut self, is_input: bool, name: &str) -> Result<Arc<str>, Error> {
        if self.taken.insert((is_input, name.to_owned())) {
            Ok(name.into())
        } else {
            Err(Error::new(format!("the port '{name}' of '{}' has been taken already", self.instance())))
        }
    }

    fn open(&self, name: &Arc<str>, port: PortId) -> Output {
        Output::new(OutPort::new(Arc::clone(&self.session), Arc::clone(name), port))
    }

    /// Finishes every output that is still open, taken or not.
    pub(crate) fn finish_outputs(&self) {
        self.session.finish_outputs(self.parts.lock().unwrap_or_else(PoisonError::into_inner).iter().copied());
    }
}

/// An output whose parts are opened while the function runs: [`Context::partition`].
pub struct Partition {
    parts: Parts,
    opened: Arc<Mutex<Vec<PortId>>>,
}

impl Partition {
    /// Opens one more part. Every `foreach` over this output gets one more instance, which starts to read at once.
    ///
    /// # Errors
    /// If there are too many parts.
    pub fn open(&mut self) -> Result<Output, Error> {
        loop {
            if let Some(port) = self.parts.try_open()? {
                self.opened.lock().unwrap_or_else(PoisonError::into_inner).push(port.id());
                return Ok(Output::new(port));
            }
            let session = Arc::clone(self.parts.session());
            session.wait(&mut self.parts, None);
        }
    }
}
