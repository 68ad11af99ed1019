//! The keys below `expect`: the run times and sizes of a function or of an input.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

use super::entries::Declared;
use super::record::record;
use super::values::{Count, Size, Time, inline_schema, scalar};
use super::{Entries, Field, FromNode, Spanned};
use crate::diagnostics::Diagnostic;
use crate::expect::Amount;
use crate::limits::{MAX_PARTS, MAX_PORTS};
use crate::report::{Report, quoted};
use crate::units::{parse_percent, parse_size};
use crate::yaml::{Node, Value};

record! {
    /// An expectation: the run time and the output of one instance of a function. Plans use it; a run does not enforce
    /// it.
    ExpectFile: "an expectation" {
        /// How long an instance computes, such as `1.2s`, without the time that it waits for data or for a slot.
        time: Spanned<Time>,
        /// How much of `time` passes before the first byte of output; nothing if not given.
        first_output: Spanned<Time>,
        /// How much of `time` remains after the last byte of input; nothing if not given. The same as `time` means that
        /// the function needs its whole input before it begins.
        tail: Spanned<Time>,
        /// The size of the output, such as `12MB`, or its share of the input, such as `50%`. For a function with
        /// several outputs, a map from their names. All parts of an output count together.
        output: ExpectedOutput,
        /// How many parts it opens on an output with `partition: discovered`.
        parts: Spanned<Count<1, MAX_PARTS>>,
    }
}

record! {
    /// An expectation of an input: its size and its parts. Plans without its files use it.
    ExpectInputFile: "an expectation" {
        /// The size of all files together, such as `2GB`.
        size: Size,
        /// The number of files, for an input with `parts: files`.
        parts: Spanned<Count<1, MAX_PARTS>>,
    }
}

/// The size of the only output, or of each output by name.
#[derive(Debug)]
pub(crate) enum ExpectedOutput {
    Only(Spanned<AmountFile>),
    Named(Entries<Spanned<AmountFile>>),
}

impl FromNode for ExpectedOutput {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        Some(match &node.value {
            Value::Map(_) => Self::Named(Entries::read(node, report)?),
            _ => Self::Only(FromNode::read(node, report)?),
        })
    }
}

inline_schema!(ExpectedOutput, |generator| json_schema!({
    "anyOf": [
        generator.subschema_for::<AmountFile>(),
        { "type": "object", "additionalProperties": generator.subschema_for::<AmountFile>() },
    ]
}));

/// A size, or a share of the input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AmountFile(pub(crate) Amount);

impl FromNode for AmountFile {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let scalar = scalar(node, "a size such as `12MB`, or a share of the input such as `50%`", report)?;
        if let Some(share) = parse_percent(&scalar.text) {
            return Some(Self(Amount::OfInput(share)));
        }
        match parse_size(&scalar.text) {
            Ok(bytes) => Some(Self(Amount::Bytes(bytes))),
            Err(_) => {
                let message = format!("{} is neither a size nor a share of the input", quoted(&scalar.text));
                report.push(
                    Diagnostic::at(node.span, message)
                        .with_help("write a size such as `12MB`, or a share such as `50%`"),
                );
                None
            }
        }
    }
}

inline_schema!(AmountFile, |_generator| json_schema!({
    "type": ["string", "number"],
    "pattern": "^\\s*[0-9]+(\\.[0-9]+)?\\s*(%|B|[KkMGT]|[KMGT]iB|[kKMGT]B)?\\s*$",
    "minimum": 0,
    "examples": ["12MB", "50%"],
}));

impl Declared for Spanned<AmountFile> {
    const NOUN: &'static str = "output";
    const TWICE: &'static str = "remove one of the two";
    const LIMIT: usize = MAX_PORTS;
    const KEY: &'static str = "output: ";
}

/// The value of a field that may be missing or broken.
pub(crate) fn value<T: Copy>(field: &Field<Spanned<T>>) -> Option<T> {
    field.get().map(|spanned| spanned.value)
}
