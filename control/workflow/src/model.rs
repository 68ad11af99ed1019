//! The checked workflow, on which every crate below relies.
//!
//! A [`Workflow`] exists only after validation: names are resolved to indices, the graph is acyclic, every port has one
//! writer, durations and sizes are numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::expect::{Expect, ExpectInput};

/// A function of the workflow: its index in [`Workflow::functions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionId(pub u32);

/// A checked workflow. Functions are in a topological order: every producer comes before its consumers.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// The text of the file, from which another node can make the same workflow.
    pub text: Arc<str>,
    /// Its name in the file.
    pub name: String,
    /// Streams that the caller provides.
    pub inputs: Vec<WorkflowInput>,
    /// Parameters that the caller may set, with their defaults; `None` means that the caller must set it.
    pub params: BTreeMap<String, Option<String>>,
    /// Environment variables for every function.
    pub env: BTreeMap<String, Template>,
    /// The functions, producers before consumers.
    pub functions: Vec<Function>,
    /// The switches. Each decides which of its functions run.
    pub switches: Vec<Switch>,
    /// Streams that are published when the run commits.
    pub outputs: Vec<WorkflowOutput>,
}

/// A stream that the caller provides.
#[derive(Clone, Debug)]
pub struct WorkflowInput {
    /// Its name in the file.
    pub name: String,
    /// `true`: each file that the caller names is a separate part (a directory's files in the order of their names),
    /// so that a `foreach` can run over them. `false`: the files are concatenated into one stream.
    pub partitioned: bool,
    /// Its expected size.
    pub expect: ExpectInput,
}

/// A function: a program, its inputs and its outputs.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name in the file.
    pub name: String,
    /// The program or command.
    pub program: Program,
    /// `Some`: one instance for each part of this source; the part is the input named `part`, which is the first of
    /// [`Function::inputs`] and has [`Input::each`] set.
    pub foreach: Option<Source>,
    /// The number of instances: [`Streams::One`], or as many as `foreach` has parts.
    pub instances: Streams,
    /// Input ports, in the order of the file.
    pub inputs: Vec<Input>,
    /// Output ports, in the order of the file.
    pub outputs: Vec<Output>,
    /// Parameters handed to the function.
    pub params: BTreeMap<String, Template>,
    /// Environment variables; they override [`Workflow::env`].
    pub env: BTreeMap<String, Template>,
    /// The working directory, relative to the directory of the workflow file; `None`: that directory.
    pub dir: Option<Template>,
    /// How long one attempt may compute; time spent waiting for an input, or for room in an output, does not count.
    pub timeout: Option<Duration>,
    /// How long one attempt may take from its start, including all waiting.
    pub deadline: Option<Duration>,
    /// How long its program may take until it is ready to start.
    pub start_timeout: Duration,
    /// The time from SIGTERM until an attempt is killed; zero kills it at once.
    pub grace: Duration,
    /// The retries after a failed attempt.
    pub retries: Retries,
    /// A new attempt writes the same bytes as the previous one, so readers need not restart.
    pub deterministic: bool,
    /// For a command: the exit statuses that count as success.
    pub success: BTreeSet<u8>,
    /// The resources of one instance.
    pub resources: Resources,
    /// `Some`: runs only if this switch (an index in [`Workflow::switches`]) chooses it.
    pub conditional: Option<u32>,
    /// The expected run time and output of one instance, if the file states any.
    pub expect: Option<Box<Expect>>,
}

/// The program that a function runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A program that links the SDK: a name searched beside the workflow file, beside the `dflow` binary and in `PATH`,
    /// or a path (relative paths are relative to the working directory).
    Sdk(String),
    /// Any existing program with its arguments.
    Command(Vec<Vec<ArgPiece>>),
}

/// A piece of a command's argument; the pieces of an argument are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgPiece {
    /// Literal text.
    Text(String),
    /// `{in.NAME}`: the path of an input (index in [`Function::inputs`]). An input of many streams must be a separate
    /// argument and becomes one argument for each stream.
    Input(u32),
    /// `{out.NAME}`: the path of an output (index in [`Function::outputs`]).
    Output(u32),
    /// `{params.NAME}`: the value of one of the function's parameters.
    Param(String),
}

/// A text that may contain parameters of the workflow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(pub Vec<TemplatePiece>);

/// A piece of a [`Template`]; the pieces are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePiece {
    /// Literal text.
    Text(String),
    /// The value of the workflow parameter of this name.
    Param(String),
}

impl Template {
    /// The text with these values of the workflow's parameters.
    #[must_use]
    pub fn fill(&self, params: &BTreeMap<String, String>) -> String {
        let piece = |piece: &'_ TemplatePiece| match piece {
            TemplatePiece::Text(text) => text.clone(),
            TemplatePiece::Param(name) => params.get(name).cloned().unwrap_or_default(),
        };
        self.0.iter().map(piece).collect()
    }
}

/// One input port of a function.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its sources, at least one. Several sources, or a source with parts, make a fan-in: the function sees a list of
    /// streams, in the order of the sources and their parts.
    pub sources: Vec<Source>,
    /// `true`: this is the part of a `foreach`; each instance reads one stream of the (only) source.
    pub each: bool,
    /// `true`: the port is a list of streams (a fan-in), `false`: exactly one stream.
    pub many: bool,
    /// k-of-n: the gate opens for the first `need` streams that satisfy it and the others are closed. `None`: all.
    pub need: Option<u32>,
    /// When this input allows the instance to start.
    pub gate: Gate,
    /// The function needs everything so far as one slice, so no byte is dropped while it runs.
    pub keep: bool,
    /// For a command: this input is the standard input of the program.
    pub stdin: bool,
}

impl Input {
    /// Whether no byte of the input is dropped while its instance runs. A command then gets a regular file instead of a
    /// pipe.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.keep || self.gate.needs_whole_stream()
    }
}

/// The source of an input's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// An input of the workflow: index in [`Workflow::inputs`].
    WorkflowInput(u32),
    /// An output port of a function.
    Output {
        /// The producing function.
        function: FunctionId,
        /// Index in its [`Function::outputs`].
        output: u32,
    },
}

/// The number of streams of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// One stream.
    One,
    /// A collection of this many streams.
    Fixed(u32),
    /// One stream per file that the caller gives; known when the run starts.
    Files,
    /// A number that is known only during the run.
    Discovered,
}

/// When an input lets its instance start. For a fan-in, any of its streams (with `need: k`, k of them) opens `Stream`;
/// all of them (k of them) must be finished for `Whole`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Gate {
    /// The first bytes exist, or the stream has ended empty.
    #[default]
    Stream,
    /// The stream is finished.
    Whole,
    /// At once.
    Start,
}

impl Gate {
    /// Whether a stream lets its reader start only when it is finished.
    ///
    /// The reader comes after all bytes of the stream. So the stream is kept until then, an input that can be read only
    /// once is stored first, and the stream must still be valid at its end: a producer that ends badly after its last
    /// byte does not satisfy the gate.
    #[must_use]
    pub fn needs_whole_stream(self) -> bool {
        self == Self::Whole
    }
}

/// One output port of a function.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// The number of its streams.
    pub partition: Partition,
    /// For a command: this output is the standard output of the program.
    pub stdout: bool,
}

/// How many streams an output port of one instance consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    /// One stream.
    Single,
    /// A fixed number, known before the run.
    Fixed(u32),
    /// As many as the function opens at run time.
    Discovered,
}

/// The retries after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// The number of further attempts; 0 by default.
    pub count: u32,
    /// The pause before the first retry; it doubles with each further one.
    pub backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
}

impl Retries {
    /// The pause before retry number `retry` (1 is the first).
    #[must_use]
    pub fn pause(&self, retry: u32) -> Duration {
        let doublings = retry.saturating_sub(1).min(31);
        self.backoff.saturating_mul(1 << doublings).min(self.max_backoff)
    }
}

/// The resources of one instance of a function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resources {
    /// Slots that an instance holds while it computes; at least 1.
    pub slots: u32,
    /// Bytes of memory that the function itself may use; `None`: not limited.
    pub memory: Option<u64>,
}

/// Chooses which of its functions run.
#[derive(Clone, Debug)]
pub struct Switch {
    /// Its name in the file.
    pub name: String,
    /// The value that decides.
    pub on: SwitchOn,
    /// The functions that run for each value; a function belongs to at most one switch.
    pub cases: Vec<(String, Vec<FunctionId>)>,
    /// The functions that run if no case matches; empty without a default.
    pub default: Option<Vec<FunctionId>>,
}

/// The value that decides a [`Switch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchOn {
    /// The text of a small stream (at most [`MAX_SWITCH_VALUE`] bytes, surrounding white space removed).
    Value(Source),
    /// A workflow parameter.
    Param(String),
}

/// Maximum length of the value that decides a switch, in bytes.
pub const MAX_SWITCH_VALUE: usize = 256;

/// A stream that is published when the run commits.
#[derive(Clone, Debug)]
pub struct WorkflowOutput {
    /// Its name: the name of the file, or of the directory where there are many streams.
    pub name: String,
    /// Its sources. If there are several, those whose function was not chosen by its switch are left out.
    pub sources: Vec<Source>,
    /// `true`: a directory with one file for each stream.
    pub many: bool,
}
