//! The file as written: its keys and their types, before names are resolved.
//!
//! Each type here is read from the YAML tree ([`FromNode`]) and describes itself as a JSON Schema
//! (`schemars::JsonSchema`); the documentation of a key is the text that an editor shows for it. Parsing continues
//! after an error, so that one pass reports all of them: a value that could not be parsed is [`Field::Broken`], which
//! later checks ignore.

mod entries;
mod expect;
mod record;
mod shape;
mod shell;
mod values;

pub(crate) use entries::{Entries, OneOrMany, Ports, Wired, Wires, given_twice};
pub(crate) use expect::{ExpectFile, ExpectInputFile, ExpectedOutput, value};
pub(crate) use record::{Field, FromNode};
pub(crate) use shape::{
    CommandFile, EnvText, FunctionFile, InputDetails, InputFile, ParamText, PartitionFile, StepFile, SwitchFile,
    WorkflowFile, WorkflowInputFile,
};
pub(crate) use values::{Name, Reference, Referent, Spanned, Text, Time, Words};

/// The word before the dot in a reference to an input of the workflow.
pub(crate) const INPUTS: &str = "inputs";

/// The word before the dot in a reference to a parameter of the workflow.
pub(crate) const PARAMS: &str = "params";

/// The name of the input that a `foreach` gives.
pub(crate) const PART: &str = "part";

/// The output of a command that declares none: its standard output.
pub(crate) const DEFAULT_OUTPUT: &str = "out";
