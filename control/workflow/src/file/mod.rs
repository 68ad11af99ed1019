//! The file as it is written: its shape, key by key, before names are resolved.
//!
//! Each type here is read from the YAML tree ([`FromNode`]) and describes itself as a JSON Schema
//! (`schemars::JsonSchema`); the documentation of a key is the text that an editor shows for it. Reading goes on after
//! an error, so that one pass reports all of them: what could not be read is [`Field::Broken`] and is passed over in
//! silence by the checks that follow.

mod entries;
mod record;
mod shape;
mod values;

pub(crate) use entries::{Entries, OneOrMany, Ports, Wires};
pub(crate) use record::{Field, FromNode};
pub(crate) use shape::{
    CommandFile, FunctionFile, InputDetails, ParamText, PartitionFile, StepFile, SwitchFile, WorkflowFile,
};
pub(crate) use values::{Name, Reference, Spanned, Text};

/// The name of the input that a `foreach` gives.
pub(crate) const PART: &str = "part";

/// The output of a command that declares none: its standard output.
pub(crate) const DEFAULT_OUTPUT: &str = "out";
