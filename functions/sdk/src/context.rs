//! The context of a function: its parameters and its ports.

use crate::error::Error;
use crate::input::Input;
use crate::inputs::Inputs;
use crate::output::Output;
use crate::params::{Asked, is_misspelling};
use dflow_ports::local::{Declarer, LocalOutput, LocalStreams};
use dflow_ports::{Available, FanIn, OutPort, OutputStreams, Parts, Port, PortId, Session, Setup};
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// So many inputs are polled as fast one by one.
const FEW_INPUTS: usize = 8;

/// How many ports or parameters an error lists.
const MAX_LISTED: usize = 20;

/// The environment variable in which a function finds the number of its socket to the daemon.
const SOCKET_VARIABLE: &str = "DFLOW_SOCKET";

/// The exit status of a function that has failed.
pub(crate) const FAILED: u8 = 1;
/// The exit status of a program that was called wrongly.
pub(crate) const WRONG_CALL: u8 = 2;

/// Runs `work` as a function: call this from `main`. Returns when the function has ended; outputs are finished if
/// `work` returned `Ok`.
///
/// Under dflow, the program talks to the daemon that has started it. Started by hand, it runs alone on the files that
/// its arguments name: `my-filter --in lines=x.txt --out table=-`. `my-filter --help` says how.
///
/// The exit status is 0 if `work` returned `Ok`, or if its output has no reader left; 1 if it failed, and 2 if the
/// arguments were wrong.
pub fn run(work: impl FnOnce(&mut Context) -> Result<(), Error>) -> ExitCode {
    ExitCode::from(serve_arguments(std::env::args_os(), work))
}

/// Like [`run`], with arguments from elsewhere, the first of which is the program's name. Returns the exit status.
#[doc(hidden)]
pub fn serve_arguments(
    arguments: impl IntoIterator<Item = OsString>,
    work: impl FnOnce(&mut Context) -> Result<(), Error>,
) -> u8 {
    if std::env::var_os(SOCKET_VARIABLE).is_none() {
        return crate::standalone::run(arguments, work);
    }
    serve_daemon(work)
}

/// Like [`run`], for a program that cannot run alone.
#[doc(hidden)]
pub fn run_under_daemon(work: impl FnOnce(&mut Context) -> Result<(), Error>) -> ExitCode {
    ExitCode::from(serve_daemon(work))
}

/// Serves the daemon that has started this process, and returns the exit status.
fn serve_daemon(work: impl FnOnce(&mut Context) -> Result<(), Error>) -> u8 {
    let socket = match inherited_socket() {
        Ok(socket) => socket,
        Err(message) => {
            eprintln!("{message}");
            return WRONG_CALL;
        }
    };
    match serve(socket, work) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            FAILED
        }
    }
}

/// Runs `work` as a function over a socket of the caller: like [`run`], for a thread instead of a process.
///
/// # Errors
/// The error of `work`, or the reason why it could not start; it has been reported to the daemon.
#[doc(hidden)]
pub fn serve(socket: OwnedFd, work: impl FnOnce(&mut Context) -> Result<(), Error>) -> Result<(), Error> {
    serve_from(socket, Origin::Workflow, work)
}

/// Runs `work` over a socket, with names from this origin.
pub(crate) fn serve_from(
    socket: OwnedFd,
    origin: Origin,
    work: impl FnOnce(&mut Context) -> Result<(), Error>,
) -> Result<(), Error> {
    let session = Session::open(socket)?;
    session.wait_for_start()?;
    let mut context = Context::new(Arc::clone(&session), origin);
    let result = work(&mut context);
    if result.is_ok() {
        context.note_unread_params();
        context.finish_outputs()?;
    }
    let unread = result.as_ref().is_err_and(Error::is_unread);
    session.end(result.as_ref().map(|_| ()).map_err(ToString::to_string), unread)?;
    result
}

/// Names, for an error.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    let more = names.len().saturating_sub(MAX_LISTED);
    names.truncate(MAX_LISTED);
    match (&names[..], more) {
        ([], _) => "none".to_owned(),
        (names, 0) => names.join(", "),
        (names, more) => format!("{} and {more} more", names.join(", ")),
    }
}

fn inherited_socket() -> Result<OwnedFd, String> {
    let number = std::env::var(SOCKET_VARIABLE).map_err(|_| {
        "this program is a function of a dflow workflow: name it as 'program' in a workflow file and call 'dflow run FILE'"
            .to_owned()
    })?;
    let number: i32 = number.parse().map_err(|_| format!("{SOCKET_VARIABLE}={number} is not a descriptor's number"))?;
    dflow_shm::channel::inherit(number)
        .map_err(|error| format!("the socket {number} to the dflow daemon does not exist: {error}"))
}

/// The parameters, inputs and outputs of a function, under the names of the workflow file.
///
/// Each input and output can be taken once. It then belongs to the function, and may be sent to another thread. An
/// input that is not taken blocks its producer like one that is not read; an output that is not taken is finished
/// together with the others, and is empty.
pub struct Context {
    session: Arc<Session>,
    origin: Origin,
    names: Names,
    /// Ports that have been handed out: whether it is an input, and its name.
    taken: HashSet<(bool, String)>,
    /// Outputs that the function has declared by taking them.
    declared: Vec<(String, u32, OutputStreams)>,
    /// The parameters that the function has asked for.
    asked: Asked,
    parts: Arc<Mutex<Vec<PortId>>>,
}

/// The places of ports among those of the setup, by their names: a function may have thousands.
struct Names {
    inputs: HashMap<String, usize>,
    outputs: HashMap<String, usize>,
}

impl Names {
    fn of(setup: &Setup) -> Self {
        Self {
            inputs: setup.inputs.iter().zip(0..).map(|(input, index)| (input.name.clone(), index)).collect(),
            outputs: setup.outputs.iter().zip(0..).map(|(output, index)| (output.name.clone(), index)).collect(),
        }
    }
}

/// The source of the names of a function's ports.
pub(crate) enum Origin {
    /// A workflow file.
    Workflow,
    /// Arguments: these outputs were given, each with its number of parts if that was given.
    Arguments(Declarer, Vec<(String, Option<u32>)>),
    /// A test: every output that the function takes exists. For these the number of parts was given.
    Test(Declarer, Vec<(String, u32)>),
}

impl Origin {
    fn declarer(&self) -> Option<&Declarer> {
        match self {
            Self::Workflow => None,
            Self::Arguments(declarer, _) | Self::Test(declarer, _) => Some(declarer),
        }
    }
}

impl Context {
    pub(crate) fn new(session: Arc<Session>, origin: Origin) -> Self {
        Self {
            names: Names::of(session.setup()),
            session,
            origin,
            taken: HashSet::new(),
            declared: Vec::new(),
            asked: Asked::default(),
            parts: Arc::default(),
        }
    }

    /// Moves the context out, for a binding whose handles own it. The caller puts it back before the function returns.
    #[doc(hidden)]
    #[must_use]
    pub fn lend(&mut self) -> Self {
        let placeholder = Self::new(Arc::clone(&self.session), Origin::Workflow);
        std::mem::replace(self, placeholder)
    }

    /// The connection to the daemon.
    #[doc(hidden)]
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The daemon's description of this attempt.
    #[doc(hidden)]
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

    /// In a `foreach` over files, the path of this instance's file, as the command line names it or as it was found in
    /// a directory there. It says what the part is, for a label or a name in the output. Read its bytes from the input
    /// `part`: on another node there may be no such file. Programs without the SDK find it in the environment variable
    /// `DFLOW_PART_FILE`.
    #[must_use]
    pub fn part_file(&self) -> Option<&Path> {
        self.session.setup().part_file.as_ref().map(|file| Path::new(OsStr::from_bytes(file)))
    }

    /// 1 for the first attempt of this instance.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.session.setup().attempt
    }

    /// The text of a parameter; `None` if the workflow file does not set it.
    ///
    /// # Errors
    /// If it is not set, but one is that the function has not asked for and whose name differs by one slip: one of the
    /// two is misspelt.
    pub fn param_text(&self, name: &str) -> Result<Option<&str>, Error> {
        self.asked.note(name);
        let params = &self.session.setup().params;
        if let Some((_, value)) = params.iter().find(|(key, _)| key == name) {
            return Ok(Some(value));
        }
        let unasked = self.asked.missing_from(params.iter().map(|(key, _)| key.as_str()));
        match unasked.into_iter().find(|set| is_misspelling(name, set)) {
            None => Ok(None),
            Some(meant) => Err(self.misspelt_param(name, meant)),
        }
    }

    /// The value of a parameter; `None` if the workflow file does not set it.
    ///
    /// # Errors
    /// If its text cannot be parsed as a `T`, or its name is misspelt here or in the workflow file
    /// ([`Context::param_text`]).
    pub fn param<T: FromStr>(&self, name: &str) -> Result<Option<T>, Error>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.param_text(name)? else { return Ok(None) };
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
    /// If there is no such input, it has already been taken, or it is a fan-in.
    pub fn input(&mut self, name: &str) -> Result<Input, Error> {
        let (mut inputs, many) = self.take_input(name)?;
        if many {
            return Err(Error::new(format!(
                "the input '{name}' is a list of streams: take it with ctx.inputs(\"{name}\")"
            )));
        }
        inputs.next()?.ok_or_else(|| Error::new(format!("the input '{name}' has no stream")))
    }

    /// The input of this name as a list of streams; a single stream is a list of one.
    ///
    /// # Errors
    /// If there is no such input, or it has already been taken.
    pub fn inputs(&mut self, name: &str) -> Result<Inputs, Error> {
        Ok(self.take_input(name)?.0)
    }

    /// The output of this name, which is one stream.
    ///
    /// # Errors
    /// If there is no such output, it has already been taken, or it has parts.
    pub fn output(&mut self, name: &str) -> Result<Output, Error> {
        match self.find_output(name, LocalStreams::Single)? {
            (_, OutputStreams::Single(port)) => {
                let name = self.take(false, name)?;
                Ok(self.open(&name, port))
            }
            (_, OutputStreams::Fixed(_, count)) => {
                Err(Error::new(format!("the output '{name}' has {count} parts: take it with ctx.outputs(\"{name}\")")))
            }
            (_, OutputStreams::Discovered) => Err(Error::new(format!(
                "the parts of the output '{name}' are discovered: take it with ctx.partition(\"{name}\")"
            ))),
        }
    }

    /// The streams of an output with a fixed number of parts; a single stream is a list of one.
    ///
    /// ```
    /// # use dflow_function::{Context, Error, testing::Test};
    /// /// Distributes lines over the parts by their length.
    /// fn deal(ctx: &mut Context) -> Result<(), Error> {
    ///     let mut text = ctx.input("text")?;
    ///     let mut parts = ctx.outputs("parts")?;
    ///     let mut lines = text.lines_bytes();
    ///     while let Some(line) = lines.next()? {
    ///         let part = line.len() % parts.len();
    ///         parts[part].write_all(&[line, b"\n"].concat())?;
    ///     }
    ///     Ok(())
    /// }
    /// let run = Test::new(deal).input("text", b"one\nfour\n").parts("parts", 2).run()?;
    /// assert_eq!(run.parts("parts"), [b"four\n", &b"one\n"[..]]);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// If there is no such output, it has already been taken, or its parts are discovered.
    pub fn outputs(&mut self, name: &str) -> Result<Vec<Output>, Error> {
        let wanted = match &self.origin {
            Origin::Workflow => LocalStreams::Single,
            Origin::Arguments(_, given) => {
                let parts = given.iter().find(|(known, _)| known == name).and_then(|(_, parts)| *parts);
                parts.map_or(LocalStreams::Single, LocalStreams::Fixed)
            }
            Origin::Test(_, parts) => {
                let parts = parts.iter().find(|(known, _)| known == name);
                parts.map_or(LocalStreams::Single, |(_, parts)| LocalStreams::Fixed(*parts))
            }
        };
        let (first, count) = match self.find_output(name, wanted)?.1 {
            OutputStreams::Single(port) => (port, 1),
            OutputStreams::Fixed(port, count) => (port, count),
            OutputStreams::Discovered => {
                return Err(Error::new(format!(
                    "the parts of the output '{name}' are discovered: take it with ctx.partition(\"{name}\")"
                )));
            }
        };
        let name = self.take(false, name)?;
        Ok((0..count).map(|part| self.open(&name, PortId(first.0 + part))).collect())
    }

    /// An output whose parts are opened while the function runs.
    ///
    /// ```
    /// # use dflow_function::{Context, Error, testing::Test};
    /// /// Opens one part for each paragraph.
    /// fn paragraphs(ctx: &mut Context) -> Result<(), Error> {
    ///     let mut text = ctx.input("text")?;
    ///     let mut parts = ctx.partition("paragraphs")?;
    ///     let mut part = parts.open()?;
    ///     let mut lines = text.lines_bytes();
    ///     while let Some(line) = lines.next()? {
    ///         if line.is_empty() {
    ///             part.finish()?;
    ///             part = parts.open()?;
    ///         } else {
    ///             part.write_all(&[line, b"\n"].concat())?;
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// let run = Test::new(paragraphs).input("text", b"a\nb\n\nc\n").run()?;
    /// assert_eq!(run.parts("paragraphs"), [b"a\nb\n", &b"c\n"[..]]);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// If there is no such output, it has already been taken, or its number of parts is fixed.
    pub fn partition(&mut self, name: &str) -> Result<Partition, Error> {
        match self.find_output(name, LocalStreams::Discovered)? {
            (index, OutputStreams::Discovered) => {
                let parts = Parts::new(Arc::clone(&self.session), self.take(false, name)?, index);
                Ok(Partition { parts, opened: Arc::clone(&self.parts) })
            }
            _ => Err(Error::new(format!(
                "the number of parts of the output '{name}' is fixed: take it with ctx.outputs(\"{name}\")"
            ))),
        }
    }

    /// Waits until one of `inputs` has bytes, and returns its index; the first one if several have. `None` when all
    /// have ended.
    ///
    /// # Errors
    /// If the producer of a stream fails, or the stream cannot be read.
    pub fn wait_any(&mut self, inputs: &mut [&mut Input]) -> Result<Option<usize>, Error> {
        loop {
            if inputs.len() > FEW_INPUTS {
                self.session.catch_up(inputs.iter_mut().map(|input| &mut input.port))?;
            }
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
        let Some(&index) = self.names.inputs.get(name) else {
            return Err(self.missing("input", name, setup.inputs.iter().map(|spec| &*spec.name)));
        };
        let spec = &setup.inputs[index];
        let (index, many, keep) = (u32::try_from(index)?, spec.many, spec.keep);
        let name = self.take(true, name)?;
        Ok((Inputs::new(FanIn::new(Arc::clone(&self.session), name, index, keep)), many))
    }

    /// The output's place and streams. One that can be declared by taking it is declared as `wanted`.
    fn find_output(&mut self, name: &str, wanted: LocalStreams) -> Result<(u32, OutputStreams), Error> {
        let outputs = &self.session.setup().outputs;
        if let Some(&index) = self.names.outputs.get(name) {
            return Ok((u32::try_from(index)?, outputs[index].streams));
        }
        if let Some((_, index, streams)) = self.declared.iter().find(|(known, ..)| known == name) {
            return Ok((*index, *streams));
        }
        let declarer = match &self.origin {
            Origin::Workflow => return Err(self.missing("output", name, outputs.iter().map(|spec| &*spec.name))),
            Origin::Arguments(_, given) if given.iter().all(|(known, _)| known != name) => {
                return Err(self.missing("output", name, given.iter().map(|(known, _)| &**known)));
            }
            Origin::Arguments(declarer, _) | Origin::Test(declarer, _) => declarer,
        };
        let (index, streams) = declarer.declare(LocalOutput { name: name.to_owned(), streams: wanted })?;
        self.declared.push((name.to_owned(), index, streams));
        Ok((index, streams))
    }

    /// The error for a port that does not exist: the existing ports, and how to add this one.
    fn missing<'a>(&self, what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Error {
        let list = listed(known);
        let instance = self.instance();
        Error::new(match &self.origin {
            Origin::Workflow => {
                format!("'{instance}' has no {what} '{name}'; its {what}s in the workflow file: {list}")
            }
            Origin::Arguments(..) => {
                let option = if what == "input" { "--in" } else { "--out" };
                format!("'{instance}' needs the {what} '{name}': add {option} {name}=FILE; given: {list}")
            }
            Origin::Test(..) => format!("the test gives no {what} '{name}' to its function; it gives: {list}"),
        })
    }

    /// The error for a parameter that is not set, while one with nearly the same name is.
    fn misspelt_param(&self, name: &str, meant: &str) -> Error {
        let instance = self.instance();
        let set = listed(self.session.setup().params.iter().map(|(key, _)| key.as_str()));
        Error::new(match &self.origin {
            Origin::Workflow => format!(
                "'{instance}' has no parameter '{name}'; did you mean '{meant}'? Its parameters in the workflow file: \
                 {set}"
            ),
            Origin::Arguments(..) => {
                format!(
                    "'{instance}' asks for the parameter '{name}'; did you mean --param {name}=… instead of {meant}=…? \
                     Given: {set}"
                )
            }
            Origin::Test(..) => {
                format!("the test sets no parameter '{name}' of its function; did you mean '{meant}'? It sets: {set}")
            }
        })
    }

    /// Says which parameters are set that the function has not asked for. They may be of use with other inputs, so this
    /// is no error. Of the instances of a `foreach`, the first says it for all.
    fn note_unread_params(&self) {
        let setup = self.session.setup();
        // The daemon has put the parameters of a command into its arguments.
        if setup.command.is_some() || setup.part.is_some_and(|part| part > 0) {
            return;
        }
        let unread = self.asked.missing_from(setup.params.iter().map(|(key, _)| key.as_str()));
        if !unread.is_empty() {
            let (instance, unread, asked) = (self.instance(), listed(unread.into_iter()), self.asked.list());
            let asked = if asked.is_empty() { "none".to_owned() } else { asked };
            eprintln!(
                "{instance}: note: it has not read its parameter {unread}; the parameters that it has read: {asked}"
            );
        }
    }

    fn take(&mut self, is_input: bool, name: &str) -> Result<Arc<str>, Error> {
        if self.taken.insert((is_input, name.to_owned())) {
            Ok(name.into())
        } else {
            Err(Error::new(format!("the port '{name}' of '{}' has already been taken", self.instance())))
        }
    }

    fn open(&self, name: &Arc<str>, port: PortId) -> Output {
        Output::new(OutPort::new(Arc::clone(&self.session), Arc::clone(name), port))
    }

    /// Finishes every output that is still open, taken or not.
    fn finish_outputs(&mut self) -> Result<(), Error> {
        if let Origin::Arguments(_, given) = &self.origin {
            for (name, _) in given.clone() {
                if !self.taken.contains(&(false, name.clone())) {
                    eprintln!("{}: note: it does not write the output '{name}' in this run", self.instance());
                    self.find_output(&name, LocalStreams::Single)?;
                }
            }
        }
        let mut opened = self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        opened.extend(self.origin.declarer().map(Declarer::ports).unwrap_or_default());
        self.session.finish_outputs(opened);
        Ok(())
    }
}

/// An output whose parts are opened while the function runs: [`Context::partition`].
pub struct Partition {
    parts: Parts,
    opened: Arc<Mutex<Vec<PortId>>>,
}

impl Partition {
    /// Opens one more part. Every `foreach` over this output gets one more instance, which starts reading at once.
    ///
    /// # Errors
    /// If there are too many parts.
    pub fn open(&mut self) -> Result<Output, Error> {
        loop {
            if let Some(output) = self.try_open()? {
                return Ok(output);
            }
            let session = Arc::clone(self.parts.session());
            session.wait(&mut self.parts, None);
        }
    }

    /// Like [`Partition::open`], but does not wait: `None` until the daemon has answered.
    ///
    /// # Errors
    /// As [`Partition::open`].
    pub fn try_open(&mut self) -> Result<Option<Output>, Error> {
        let Some(port) = self.parts.try_open()? else { return Ok(None) };
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).push(port.id());
        Ok(Some(Output::new(port)))
    }
}

/// For bindings to other languages, which wait in their own way.
impl AsMut<Parts> for Partition {
    fn as_mut(&mut self) -> &mut Parts {
        &mut self.parts
    }
}
