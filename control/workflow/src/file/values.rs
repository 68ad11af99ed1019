//! Single values: names, references, texts, numbers, keywords.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{FromNode, INPUTS, PARAMS};
use crate::diagnostics::{Diagnostic, Span};
use crate::limits::{MAX_NAME_BYTES, MAX_TEXT_BYTES};
use crate::model::Gate;
use crate::report::{Report, quoted};
use crate::units::{parse_duration, parse_size};
use crate::yaml::{Node, Scalar, ScalarKind, Value};

/// The pattern of a name in JSON Schema.
pub(super) const NAME_PATTERN: &str = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$";

/// Implements [`JsonSchema`] for a type whose schema is inlined where it is used.
macro_rules! inline_schema {
    ($type:ty, |$generator:ident| $schema:expr $(, $generic:ident: $bound:ident)?) => {
        impl$(<$generic: $bound>)? JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}
pub(super) use inline_schema;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

impl<T: FromNode> FromNode for Spanned<T> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        T::read(node, report).map(|value| Self { value, span: node.span })
    }
}

inline_schema!(Spanned<T>, |generator| generator.subschema_for::<T>(), T: JsonSchema);

/// The name of a function, a port or a parameter.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) span: Span,
}

impl Name {
    /// Checks the syntax of a name and accepts it in any case, so that references to it are not reported as well.
    pub(super) fn new(text: &str, span: Span, report: &mut Report) -> Self {
        if !is_name(text) {
            let diagnostic = Diagnostic::at(span, format!("{} is not a name", quoted(text)));
            report.push(if text.len() > MAX_NAME_BYTES {
                diagnostic.with_help(format!("a name has at most {MAX_NAME_BYTES} characters"))
            } else {
                let diagnostic = diagnostic
                    .with_help("a name starts with a letter, a digit or `_`; letters, digits, `_`, `-` and `.` follow");
                match name_like(text) {
                    Some(name) => diagnostic.with_help(format!("for example `{name}`")),
                    None => diagnostic,
                }
            });
        }
        Self { text: text.into(), span }
    }
}

/// Whether a text is a name. Names become the names of files and directories, so a name cannot be `.` or `..`, cannot
/// contain a `/`, is not hidden, and is not taken for an option by a program that gets it as an argument.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && has_characters_of_a_name(text)
}

fn has_characters_of_a_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// Whether a text may be two names with a dot between them, or one name.
fn is_reference(text: &str) -> bool {
    text.len() <= 2 * MAX_NAME_BYTES + 1 && has_characters_of_a_name(text)
}

/// The name closest to a text that is none: `Word Count` becomes `Word-Count`.
fn name_like(text: &str) -> Option<String> {
    let name: String = text
        .trim()
        .trim_start_matches(['.', '-'])
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.') { c } else { '-' })
        .collect();
    (text.is_ascii() && is_name(&name)).then_some(name)
}

impl FromNode for Name {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let text = string(node, "a name", report)?;
        Some(Self::new(text, node.span, report))
    }
}

inline_schema!(Name, |_generator| json_schema!({ "type": "string", "pattern": NAME_PATTERN }));

/// Where bytes come from: `FUNCTION.OUTPUT`, `FUNCTION` (if it has one output), `inputs.NAME`, or, for a switch,
/// `params.NAME`.
///
/// Names may contain dots, so only the declarations of the file tell where a function's name ends: a reference is kept
/// as it is written until those are known.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    text: String,
    pub(crate) span: Span,
}

/// The kind of a [`Reference`], as far as its first word determines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Referent<'r> {
    /// `inputs.NAME`, or `inputs` alone.
    Input(Option<&'r str>),
    /// `params.NAME`, or `params` alone.
    Param(Option<&'r str>),
    /// A function, and perhaps one of its outputs.
    Function(&'r str),
}

impl Reference {
    /// The reference as it is written, `${params.NAME}` as `params.NAME`.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn referent(&self) -> Referent<'_> {
        let (first, rest) = match self.text.split_once('.') {
            Some((first, rest)) => (first, Some(rest)),
            None => (self.text.as_str(), None),
        };
        match first {
            INPUTS => Referent::Input(rest),
            PARAMS => Referent::Param(rest),
            _ => Referent::Function(&self.text),
        }
    }
}

impl FromNode for Reference {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        const HELP: &str = "a source is `FUNCTION.OUTPUT` or `inputs.NAME`";
        let Value::Scalar(scalar) = &node.value else {
            report.push(
                Diagnostic::at(node.span, format!("expected a source, found {}", node.describe())).with_help(HELP),
            );
            return None;
        };
        if scalar.kind() == ScalarKind::Null {
            report.push(Diagnostic::at(node.span, "a source is missing here").with_help(HELP));
            return None;
        }
        let parameter = scalar.text.strip_prefix("${").or_else(|| scalar.text.strip_prefix('{'));
        let parameter = parameter.and_then(|text| text.strip_suffix('}')).filter(|text| text.starts_with("params."));
        let text = parameter.unwrap_or(&scalar.text);
        if !is_reference(text) {
            let mut diagnostic =
                Diagnostic::at(node.span, format!("{} is not a source", quoted(&scalar.text))).with_help(HELP);
            if scalar.text.starts_with('$') {
                diagnostic = diagnostic.with_help("a parameter of the workflow is `${params.NAME}`");
            }
            report.push(diagnostic);
            return None;
        }
        Some(Self { text: text.into(), span: node.span })
    }
}

inline_schema!(Reference, |_generator| json_schema!({
    "type": "string",
    "pattern": "^([A-Za-z0-9_][A-Za-z0-9_.-]{0,510}|\\$?\\{params\\.[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}\\})$",
    "examples": ["inputs.text", "split.parts"],
}));

/// A text; numbers and truth values are taken as they are written.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) span: Span,
}

impl FromNode for Text {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let scalar = scalar(node, "text", report)?;
        // Arguments, variables and parameters end at the first NUL byte when they are passed to a program.
        if scalar.text.contains('\0') {
            report.push(Diagnostic::at(node.span, "a text cannot contain a NUL byte").with_help("remove the `\\0`"));
            return None;
        }
        if scalar.text.len() > MAX_TEXT_BYTES {
            let message = format!("this text has {} bytes, at most {MAX_TEXT_BYTES} are allowed", scalar.text.len());
            report.push(Diagnostic::at(node.span, message).with_help("put it into a file and make that an input"));
            return None;
        }
        Some(Self { text: scalar.text.clone().into_owned(), span: node.span })
    }
}

inline_schema!(Text, |_generator| json_schema!({ "type": ["string", "number", "boolean"] }));

/// A text that is neither a number nor a truth value.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    pub(crate) text: String,
    pub(crate) span: Span,
}

impl FromNode for Words {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        string(node, "text", report)?;
        Text::read(node, report).map(|Text { text, span }| Self { text, span })
    }
}

inline_schema!(Words, |_generator| json_schema!({ "type": "string" }));

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count<const MIN: u32, const MAX: u32>(pub(crate) u32);

impl<const MIN: u32, const MAX: u32> FromNode for Count<MIN, MAX> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let help = format!("write a whole number from {MIN} to {MAX}");
        let number = match &node.value {
            Value::Scalar(scalar) if scalar.kind() == ScalarKind::Number => scalar.text.parse::<u32>().ok(),
            _ => {
                report.push(
                    Diagnostic::at(node.span, format!("expected a whole number, found {}", node.describe()))
                        .with_help(help),
                );
                return None;
            }
        };
        match number {
            Some(number) if (MIN..=MAX).contains(&number) => Some(Self(number)),
            _ => {
                report.push(
                    Diagnostic::at(node.span, format!("{} is not possible here", node.describe())).with_help(help),
                );
                None
            }
        }
    }
}

impl<const MIN: u32, const MAX: u32> JsonSchema for Count<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// `true` or `false`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Switched(pub(crate) bool);

impl FromNode for Switched {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        if let Value::Scalar(scalar) = &node.value
            && let ScalarKind::Bool(value) = scalar.kind()
        {
            return Some(Self(value));
        }
        let message = format!("expected `true` or `false`, found {}", node.describe());
        report.push(Diagnostic::at(node.span, message).with_help("write `true` or `false`, without quotes"));
        None
    }
}

inline_schema!(Switched, |_generator| json_schema!({ "type": "boolean" }));

/// A time, such as `30s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) Duration);

impl FromNode for Time {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let scalar = scalar(node, "a duration such as `30s`", report)?;
        match parse_duration(&scalar.text) {
            Ok(duration) => Some(Self(duration)),
            Err(error) => {
                let mut diagnostic = Diagnostic::at(node.span, error.to_string());
                if scalar.kind() == ScalarKind::Number {
                    diagnostic = diagnostic.with_help(format!("did you mean `{}s`?", scalar.text));
                }
                report.push(diagnostic);
                None
            }
        }
    }
}

inline_schema!(Time, |_generator| json_schema!({
    "type": "string",
    "pattern": "^\\s*([0-9]+(\\.[0-9]+)?\\s*(us|ms|s|m|h|d)\\s*)+$",
    "examples": ["250ms", "30s", "1h30m"],
}));

/// A number of bytes, such as `1GiB`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub(crate) u64);

impl FromNode for Size {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let scalar = scalar(node, "a size such as `512MiB`", report)?;
        match parse_size(&scalar.text) {
            Ok(size) => Some(Self(size)),
            Err(error) => {
                report.push(Diagnostic::at(node.span, error.to_string()));
                None
            }
        }
    }
}

inline_schema!(Size, |_generator| json_schema!({
    "type": ["string", "number"],
    "pattern": "^\\s*[0-9]+(\\.[0-9]+)?\\s*(B|[KkMGT]|[KMGT]iB|[kKMGT]B)?\\s*$",
    "minimum": 0,
    "examples": ["512MiB", "2GB"],
}));

/// One of a short list of words.
pub(super) trait Keyword: Copy + 'static {
    /// The noun for the words, in the plural.
    const NOUNS: &'static str;
    /// Each word with its value and its meaning.
    const WORDS: &'static [(&'static str, Self, &'static str)];

    fn read_word(node: &Node, report: &mut Report) -> Option<Self> {
        let words = Self::WORDS.iter().map(|(word, ..)| *word);
        let given = match &node.value {
            Value::Scalar(scalar) if scalar.kind() != ScalarKind::Null => &*scalar.text,
            _ => "",
        };
        if let Some((_, value, _)) = Self::WORDS.iter().find(|(word, ..)| *word == given) {
            return Some(*value);
        }
        let expected = words.clone().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
        let diagnostic = Diagnostic::at(node.span, format!("expected {expected}, found {}", node.describe()));
        report.push_unknown(diagnostic, given, Self::NOUNS, words);
        None
    }

    fn schema() -> Schema {
        let words: Vec<_> =
            Self::WORDS.iter().map(|(word, _, doc)| serde_json::json!({ "const": word, "description": doc })).collect();
        json_schema!({ "oneOf": words })
    }
}

impl Keyword for Gate {
    const NOUNS: &'static str = "gates";
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("stream", Gate::Stream, "Start with the first bytes, while the producer is still writing (the default)."),
        ("whole", Gate::Whole, "Start when the stream is finished."),
        ("start", Gate::Start, "Start at once, whether there are bytes or not."),
    ];
}

impl FromNode for Gate {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        Self::read_word(node, report)
    }
}

inline_schema!(Gate, |_generator| <Gate as Keyword>::schema());

/// How the files of a workflow input become streams: each is a separate part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files;

impl Keyword for Files {
    const NOUNS: &'static str = "kinds of parts";
    const WORDS: &'static [(&'static str, Self, &'static str)] =
        &[("files", Files, "Every file that the caller names, or that is in a directory, is a separate part.")];
}

impl FromNode for Files {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        Self::read_word(node, report)
    }
}

inline_schema!(Files, |_generator| <Files as Keyword>::schema());

/// A scalar that is not null.
pub(super) fn scalar<'n>(node: &'n Node<'n>, expected: &str, report: &mut Report) -> Option<&'n Scalar<'n>> {
    match &node.value {
        Value::Scalar(scalar) if scalar.kind() != ScalarKind::Null => Some(scalar),
        other => {
            let mut diagnostic = Diagnostic::at(node.span, format!("expected {expected}, found {}", node.describe()));
            match other {
                // `{in.x}` without quotes is YAML for a map with the key `in.x`.
                Value::Map(pairs) if pairs.len() == 1 && pairs[0].1.is_null() => {
                    diagnostic = diagnostic.with_help(format!("put it in quotes: \"{}\"", report.text_at(node.span)));
                }
                Value::Scalar(_) => {
                    diagnostic = diagnostic.with_help("give it a value, or leave the key out; an empty text is `\"\"`")
                }
                _ => {}
            }
            report.push(diagnostic);
            None
        }
    }
}

/// A scalar that is text and neither a number nor a truth value.
pub(super) fn string<'n>(node: &'n Node<'n>, expected: &str, report: &mut Report) -> Option<&'n str> {
    let scalar = scalar(node, expected, report)?;
    if scalar.kind() == ScalarKind::Text {
        return Some(&scalar.text);
    }
    let diagnostic = Diagnostic::at(node.span, format!("expected {expected}, found {}", node.describe()));
    report.push(diagnostic.with_help(format!("put it in quotes if it is meant as text: \"{}\"", scalar.text)));
    None
}
