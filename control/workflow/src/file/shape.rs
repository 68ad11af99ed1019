//! The keys of a workflow file. The documentation of each key is what editors show for it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::entries::Declared;
use super::expect::{ExpectFile, ExpectInputFile};
use super::record::record;
use super::shell;
use super::values::{Count, Files, Size, Switched, Text, Time, Words, inline_schema};
use super::{Entries, Field, FromNode, Name, OneOrMany, Ports, Reference, Spanned, Wired, Wires};
use crate::diagnostics::{Diagnostic, Span};
use crate::limits::{
    MAX_ARGUMENTS, MAX_CASES, MAX_FUNCTIONS, MAX_PARAMS, MAX_PARTS, MAX_PORTS, MAX_RETRIES, MAX_SLOTS, MAX_STATUSES,
};
use crate::model::{Gate, MAX_SWITCH_VALUE};
use crate::report::{Report, quoted};
use crate::yaml::{Key, Node, ScalarKind, Value};

record! {
    /// A dflow workflow: functions and the streams between them.
    WorkflowFile: "a workflow" {
        /// The name of the workflow: letters, digits, `_`, `-` and `.`.
        workflow [required]: Name,
        /// A description for people.
        description: Words,
        /// The streams that the caller provides: a list of names, or a map from names to options.
        /// A function reads one as `inputs.NAME`.
        inputs: Ports<WorkflowInputFile>,
        /// The parameters that the caller may set, with their default values; `null` means that the caller must set it.
        /// `${params.NAME}` stands for the value in commands, in `params`, `env` and `dir` of a function, and in
        /// `switch`.
        params: Entries<ParamDefault>,
        /// The working directory of every function, relative to the directory of the workflow file, which is the
        /// default.
        dir: Words,
        /// Environment variables for every function. A function has the environment of `dflow run`, except for the
        /// variables that describe a node, then these, then its own.
        env: Entries<EnvText>,
        /// The default `grace` of functions: the time to clean up from SIGTERM until a function is killed; 3s if not
        /// given. `0s` kills at once.
        grace: Spanned<Time>,
        /// The functions and switches by name.
        functions [required]: Entries<StepFile>,
        /// The streams that form the result: a map from names to sources (or to a list of sources, such as the branches
        /// of a switch), or a list of sources that pass on their own names.
        outputs: Wires<OneOrMany<Reference>>,
    }
}

record! {
    /// A stream that the caller provides.
    WorkflowInputFile: "a workflow input" {
        /// `files`: every file that the caller names is a separate part, so that a `foreach` can run over them.
        /// Without it, the files are one stream, one after the other.
        parts: Files,
        /// The expected size of the input. Plans without its files use it.
        expect: ExpectInputFile,
    }
}

record! {
    /// A function: a program, its inputs and its outputs.
    FunctionFile: "a function" {
        /// A program that links the dflow SDK: a name, searched beside the workflow file, beside `dflow` and in `PATH`,
        /// or a path, relative to the working directory. It is searched on the node that runs the function.
        program: Words,
        /// Any existing program and its arguments. `{in.NAME}` and `{out.NAME}` stand for the paths of inputs and
        /// outputs, `${params.NAME}` or `{params.NAME}` for the value of a parameter. The input that no argument names
        /// is the standard input, the output that no argument names is the standard output.
        command: CommandFile,
        /// Run one instance for each part of this source: a partitioned output, an output of another `foreach`, or a
        /// workflow input with `parts: files`. The part is the input named `part`. The environment variable
        /// `DFLOW_PART` is its number, and `DFLOW_PART_FILE` its file, as the command line names it.
        foreach: Box<Reference>,
        /// The inputs: a map from names to sources or options, or a list of sources that pass on their own names.
        inputs: Wires<InputFile>,
        /// The outputs: a list of names, or a map from names to options. A command without this key has one, `out`.
        outputs: Ports<OutputFile>,
        /// The default `gate` of the inputs: when an input lets an instance start.
        gate: Gate,
        /// Parameters for the function. In their texts, `${params.NAME}` stands for a parameter of the workflow.
        params: Box<Entries<ParamText>>,
        /// Environment variables for the function; they override those of the file and of the caller.
        env: Box<Entries<EnvText>>,
        /// The working directory, relative to the directory of the workflow file. It must exist on every node that runs
        /// the function.
        dir: Box<Words>,
        /// How long one attempt may compute, such as `30s` or `5m`. Time spent waiting for bytes of an input, or for
        /// room in an output, does not count.
        timeout: Box<Spanned<Time>>,
        /// How long one attempt may take from its start, including all waiting.
        deadline: Box<Spanned<Time>>,
        /// How long a program may take until it is ready to start; 60s if not given.
        start_timeout: Box<Spanned<Time>>,
        /// The time to clean up from SIGTERM until an attempt is killed: when the run is cancelled or fails, when its
        /// time is up, or when it must restart. `0s` kills at once.
        grace: Box<Spanned<Time>>,
        /// How often a failed attempt is retried: a number, or a number with pauses.
        retries: Box<RetriesFile>,
        /// A new attempt writes the same bytes as the previous one, so functions that read them need not restart. Do
        /// not set this for a function that reads several inputs, or the streams of a fan-in, in the order in which
        /// bytes arrive, or that depends on the time, on random numbers or on the order of threads. If the bytes
        /// differ, which is detected, the readers restart after all.
        deterministic: Switched,
        /// For a command: the exit statuses that count as success, such as `[0, 1]` for `grep`, which exits with 1 if
        /// no line matches. Only 0 if not given.
        success: Box<Spanned<StatusesFile>>,
        /// The resources of one instance.
        resources: Box<ResourcesFile>,
        /// The expected run time and output of an instance. Plans use it; a run does not enforce it.
        expect: ExpectFile,
    }
}

record! {
    /// An input of a function.
    InputDetails: "an input" {
        /// The source of the bytes: `FUNCTION.OUTPUT` or `inputs.NAME`. A list of several makes a fan-in.
        from: OneOrMany<Reference>,
        /// When this input lets an instance start.
        gate: Gate,
        /// Keep every byte while the function runs, so that it can see the whole stream as one slice.
        keep: Switched,
        /// For a fan-in: start with the first `need` streams and close the others.
        need: Spanned<Count<1, { u32::MAX }>>,
        /// For a command: this input is its standard input.
        stdin: Spanned<Switched>,
    }
}

record! {
    /// An output of a function.
    OutputFile: "an output" {
        /// The number of streams of the output: a number, or `discovered` if the function opens them while it runs.
        partition: Spanned<PartitionFile>,
        /// For a command: this output is its standard output.
        stdout: Spanned<Switched>,
    }
}

record! {
    /// How often a failed attempt is retried, and the pauses before.
    RetriesDetails: "retries" {
        /// The number of further attempts.
        count [required]: Count<0, MAX_RETRIES>,
        /// The pause before the first retry (100ms if not given); it doubles with each further one.
        backoff: Time,
        /// The longest pause (10s if not given).
        max_backoff: Spanned<Time>,
    }
}

record! {
    /// The resources of one instance of a function.
    ResourcesFile: "resources" {
        /// The number of slots that an instance holds while it computes.
        cpu: Count<1, MAX_SLOTS>,
        /// The memory that the function itself may use, such as `512MiB`.
        memory: Spanned<Size>,
    }
}

record! {
    /// Chooses which functions run.
    SwitchFile: "a switch" {
        /// The value that decides: the text of a small stream (`FUNCTION.OUTPUT`) or a parameter (`${params.NAME}` or
        /// `params.NAME`).
        switch [required]: Reference,
        /// For each value, the function or the list of functions that runs.
        cases [required]: Entries<CaseTargets>,
        /// The function or the list of functions that runs if no case has the value.
        default: CaseTargets,
    }
}

/// An entry of `functions`.
#[derive(Debug)]
pub(crate) enum StepFile {
    Function(Box<FunctionFile>),
    Switch(Box<SwitchFile>),
}

impl FromNode for StepFile {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let has =
            |wanted: &str| matches!(&node.value, Value::Map(pairs) if pairs.iter().any(|(key, _)| key.text == wanted));
        if has("switch") || (has("cases") && !has("program") && !has("command")) {
            FromNode::read(node, report).map(StepFile::Switch)
        } else {
            FromNode::read(node, report).map(StepFile::Function)
        }
    }
}

inline_schema!(StepFile, |generator| json_schema!({
    "anyOf": [
        {
            "allOf": [generator.subschema_for::<FunctionFile>()],
            "oneOf": [{ "required": ["program"] }, { "required": ["command"] }],
        },
        generator.subschema_for::<SwitchFile>(),
    ]
}));

/// An input of a function, in all ways of writing it.
#[derive(Debug)]
pub(crate) struct InputFile(pub(crate) InputDetails);

impl From<OneOrMany<Reference>> for InputFile {
    fn from(sources: OneOrMany<Reference>) -> Self {
        Self(InputDetails { from: Field::Given(sources), ..InputDetails::default() })
    }
}

impl From<Reference> for InputFile {
    fn from(source: Reference) -> Self {
        OneOrMany::from(source).into()
    }
}

impl FromNode for InputFile {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Map(_) => InputDetails::read(node, report).map(Self),
            _ => OneOrMany::read(node, report).map(Self::from),
        }
    }
}

inline_schema!(InputFile, |generator| json_schema!({
    "anyOf": [generator.subschema_for::<OneOrMany<Reference>>(), generator.subschema_for::<InputDetails>()]
}));

/// A program and its arguments.
#[derive(Debug)]
pub(crate) struct CommandFile {
    pub(crate) arguments: Vec<Text>,
    pub(crate) span: Span,
}

impl FromNode for CommandFile {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let Value::List(items) = &node.value else {
            let diagnostic = Diagnostic::at(
                node.span,
                format!("expected a list of a program and its arguments, found {}", node.describe()),
            );
            report.push(match &node.value {
                Value::Scalar(scalar) if scalar.kind() == ScalarKind::Text => {
                    diagnostic.with_help(format!("write `command: {}`", shell::as_list(&scalar.text)))
                }
                _ => diagnostic.with_help("for example `command: [\"sort\", \"-k1,1\"]`"),
            });
            return None;
        };
        if items.is_empty() || items.len() > MAX_ARGUMENTS {
            let message = if items.is_empty() {
                "the command is empty".into()
            } else {
                format!("more than {MAX_ARGUMENTS} arguments")
            };
            report.push(Diagnostic::at(node.span, message).with_help("the list holds the program, then its arguments"));
            return None;
        }
        let mut arguments = Vec::with_capacity(items.len());
        arguments.extend(items.iter().filter_map(|item| Text::read(item, report)));
        (arguments.len() == items.len()).then_some(Self { arguments, span: node.span })
    }
}

inline_schema!(CommandFile, |generator| json_schema!({
    "type": "array", "items": generator.subschema_for::<Text>(), "minItems": 1, "maxItems": MAX_ARGUMENTS,
    "examples": [["sort", "-k1,1"]],
}));

/// The exit statuses that count as success.
#[derive(Debug)]
pub(crate) struct StatusesFile(pub(crate) BTreeSet<u8>);

/// An exit status, as the kernel keeps it.
type Status = Count<0, { u8::MAX as u32 }>;

impl FromNode for StatusesFile {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        const HELP: &str = "for example `success: [0, 1]`";
        let Value::List(items) = &node.value else {
            let message = format!("expected a list of exit statuses, found {}", node.describe());
            report.push(Diagnostic::at(node.span, message).with_help(HELP));
            return None;
        };
        if items.is_empty() || items.len() > MAX_STATUSES {
            let message = if items.is_empty() {
                "without an exit status that counts as success, every attempt fails".into()
            } else {
                format!("more than {MAX_STATUSES} exit statuses")
            };
            report.push(Diagnostic::at(node.span, message).with_help(HELP));
            return None;
        }
        let statuses: Vec<Status> = items.iter().filter_map(|item| Status::read(item, report)).collect();
        let complete = statuses.len() == items.len();
        complete.then(|| Self(statuses.iter().filter_map(|status| u8::try_from(status.0).ok()).collect()))
    }
}

inline_schema!(StatusesFile, |generator| json_schema!({
    "type": "array", "items": generator.subschema_for::<Status>(), "minItems": 1, "maxItems": MAX_STATUSES,
    "examples": [[0, 1]],
}));

/// How many streams an output consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PartitionFile {
    Fixed(u32),
    Discovered,
}

impl FromNode for PartitionFile {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Scalar(scalar) if scalar.kind() == ScalarKind::Number => {
                Count::<1, MAX_PARTS>::read(node, report).map(|count| PartitionFile::Fixed(count.0))
            }
            Value::Scalar(scalar) if scalar.text == "discovered" => Some(PartitionFile::Discovered),
            _ => {
                report.push(
                    Diagnostic::at(
                        node.span,
                        format!("expected a number of parts or `discovered`, found {}", node.describe()),
                    )
                    .with_help(format!("a number is from 1 to {MAX_PARTS}, without quotes")),
                );
                None
            }
        }
    }
}

inline_schema!(PartitionFile, |generator| json_schema!({
    "anyOf": [
        generator.subschema_for::<Count<1, MAX_PARTS>>(),
        { "const": "discovered", "description": "The function opens the parts while it runs." },
    ]
}));

/// `retries`, in both ways of writing it.
#[derive(Debug)]
pub(crate) struct RetriesFile(pub(crate) RetriesDetails);

impl FromNode for RetriesFile {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        Some(Self(match &node.value {
            Value::Map(_) => RetriesDetails::read(node, report)?,
            _ => RetriesDetails { count: Field::Given(Count::read(node, report)?), ..RetriesDetails::default() },
        }))
    }
}

inline_schema!(RetriesFile, |generator| json_schema!({
    "anyOf": [generator.subschema_for::<Count<0, MAX_RETRIES>>(), generator.subschema_for::<RetriesDetails>()]
}));

/// The default of a workflow parameter; `None` if the caller must set it.
#[derive(Debug)]
pub(crate) struct ParamDefault(pub(crate) Option<Text>);

impl FromNode for ParamDefault {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        if node.is_null() { Some(Self(None)) } else { Text::read(node, report).map(|text| Self(Some(text))) }
    }
}

inline_schema!(ParamDefault, |_generator| json_schema!({ "type": ["string", "number", "boolean", "null"] }));

/// The value of a function's parameter.
#[derive(Debug)]
pub(crate) struct ParamText(pub(crate) Text);

impl FromNode for ParamText {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        Text::read(node, report).map(Self)
    }
}

inline_schema!(ParamText, |generator| generator.subschema_for::<Text>());

/// The value of an environment variable.
#[derive(Debug)]
pub(crate) struct EnvText(pub(crate) Text);

impl FromNode for EnvText {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        Text::read(node, report).map(Self)
    }
}

inline_schema!(EnvText, |generator| generator.subschema_for::<Text>());

/// The functions that a case of a switch lists.
#[derive(Debug)]
pub(crate) struct CaseTargets(pub(crate) Vec<Name>);

impl FromNode for CaseTargets {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        OneOrMany::read(node, report).map(|names| Self(names.values))
    }
}

inline_schema!(CaseTargets, |generator| generator.subschema_for::<OneOrMany<Name>>());

impl Declared for WorkflowInputFile {
    const TOO_MANY: &'static str = "one input with `parts: files` takes many files";
    const NOUN: &'static str = "workflow input";
    const TWICE: &'static str = "give each workflow input a different name";
    const LIMIT: usize = MAX_PORTS;
}

impl Declared for ParamDefault {
    const NOUN: &'static str = "parameter";
    const KEY: &'static str = "params: ";
    const TWICE: &'static str = "remove one of the two";
    const LIMIT: usize = MAX_PARAMS;
}

impl Declared for StepFile {
    const TOO_MANY: &'static str = "one function with `foreach` runs once for each part of its source";
    const NOUN: &'static str = "function";
    const TWICE: &'static str = "two functions cannot have the same name: rename one of them";
    const LIMIT: usize = MAX_FUNCTIONS;
}

impl Wired for OneOrMany<Reference> {
    fn reference(&self) -> Option<&Reference> {
        match &self.values[..] {
            [one] => Some(one),
            _ => None,
        }
    }
}

impl Declared for OneOrMany<Reference> {
    const TOO_MANY: &'static str = "list many sources under one name: they become the files of one directory";
    const NOUN: &'static str = "workflow output";
    const KEY: &'static str = "outputs: ";
    const TWICE: &'static str = "an output cannot have two writers: give them names of their own, as in \
                                 `outputs: { first: a.x, second: b.x }`, or list both under one name";
    const LIMIT: usize = MAX_PORTS;
}

impl Wired for InputFile {
    fn reference(&self) -> Option<&Reference> {
        self.0.from.get().and_then(Wired::reference)
    }
}

impl Declared for InputFile {
    const TOO_MANY: &'static str = "list many sources under one name: `{ from: [a.x, b.x] }`";
    const NOUN: &'static str = "input";
    const KEY: &'static str = "inputs: ";
    const TWICE: &'static str =
        "give each input a different name, or list both sources under one name: `{ from: [a.x, b.x] }`";
    const LIMIT: usize = MAX_PORTS;
}

impl Declared for OutputFile {
    const TOO_MANY: &'static str = "one output with `partition: 8` has many streams";
    const NOUN: &'static str = "output";
    const TWICE: &'static str = "an output cannot have two writers: rename one of the two";
    const LIMIT: usize = MAX_PORTS;
}

impl Declared for ParamText {
    const NOUN: &'static str = "parameter";
    const KEY: &'static str = "params: ";
    const TWICE: &'static str = "remove one of the two";
    const LIMIT: usize = MAX_PARAMS;
}

impl Declared for EnvText {
    const NOUN: &'static str = "environment variable";
    const KEY: &'static str = "env: ";
    const TWICE: &'static str = "remove one of the two";
    const LIMIT: usize = MAX_PARAMS;
    const KEY_PATTERN: &'static str = "^(?!DFLOW_)[A-Za-z_][A-Za-z0-9_]*$";

    fn key(key: &Key, report: &mut Report) -> Name {
        let text = &*key.text;
        if text.starts_with("DFLOW_") {
            let message = format!("{} is reserved", quoted(text));
            report.push(
                Diagnostic::at(key.span, message)
                    .with_help("variables that start with `DFLOW_` are set by dflow itself"),
            );
        } else if !text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            || !text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            let message = format!("{} is not the name of an environment variable", quoted(text));
            report
                .push(Diagnostic::at(key.span, message).with_help("letters, digits and `_`; the first is not a digit"));
        }
        Name { text: text.into(), span: key.span }
    }
}

impl Declared for CaseTargets {
    const NOUN: &'static str = "case";
    const TWICE: &'static str = "the second one can never be reached: put the functions of both into one list";
    const LIMIT: usize = MAX_CASES;
    const KEY_PATTERN: &'static str = "";

    fn key(key: &Key, report: &mut Report) -> Name {
        let text = &*key.text;
        let unreachable = format!("the case {} can never be reached", quoted(text));
        if text.trim() != text {
            report.push(
                Diagnostic::at(key.span, unreachable)
                    .with_help("white space around a value is removed before it is compared: remove it here, too"),
            );
        } else if text.len() > MAX_SWITCH_VALUE {
            report.push(
                Diagnostic::at(key.span, unreachable)
                    .with_help(format!("a value has at most {MAX_SWITCH_VALUE} bytes")),
            );
        }
        Name { text: text.into(), span: key.span }
    }
}
