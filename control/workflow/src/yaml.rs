//! YAML text as a tree whose values carry their places.
//!
//! granit-parser handles the syntax. Texts are slices of the source wherever it writes them as they are. This file adds
//! aliases that share their target instead of copying it, a limit on the expanded size, and errors in our own form. Any
//! input gives a tree or an error.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError};

use crate::diagnostics::{Diagnostic, Span};
use crate::limits::{MAX_YAML_DEPTH, MAX_YAML_NODES};
use crate::report::Report;

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Node<'s> {
    pub(crate) value: Value<'s>,
    /// For a list or map of several lines, the part on its first line.
    pub(crate) span: Span,
    /// The number of values in it, including itself, with aliases counted in full.
    size: usize,
}

/// The kinds of values that YAML has.
#[derive(Debug)]
pub(crate) enum Value<'s> {
    Scalar(Scalar<'s>),
    List(Vec<Item<'s>>),
    /// Keys and values in the order of the file. A key may occur twice; the code that reads the map reports it.
    Map(Vec<(Key<'s>, Item<'s>)>),
}

/// A value inside of another.
#[derive(Debug)]
pub(crate) enum Item<'s> {
    /// Most values: a large file has millions of them, so they are not allocated one by one.
    Own(Node<'s>),
    /// A value with an anchor, which its aliases share.
    Shared(Rc<Node<'s>>),
}

impl<'s> Deref for Item<'s> {
    type Target = Node<'s>;

    fn deref(&self) -> &Node<'s> {
        match self {
            Self::Own(node) => node,
            Self::Shared(node) => node,
        }
    }
}

/// The text of a scalar, without quotes.
#[derive(Clone, Debug)]
pub(crate) struct Scalar<'s> {
    pub(crate) text: Cow<'s, str>,
    /// It is not quoted, so that `true`, `null` and numbers have their special meaning.
    plain: bool,
}

/// A key of a map.
#[derive(Clone, Debug)]
pub(crate) struct Key<'s> {
    pub(crate) text: Cow<'s, str>,
    pub(crate) span: Span,
}

/// The meaning of a scalar by the YAML 1.2 core schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScalarKind {
    Null,
    Bool(bool),
    Number,
    Text,
}

impl Scalar<'_> {
    pub(crate) fn kind(&self) -> ScalarKind {
        if !self.plain {
            return ScalarKind::Text;
        }
        match &*self.text {
            "" | "~" | "null" | "Null" | "NULL" => ScalarKind::Null,
            "true" | "True" | "TRUE" => ScalarKind::Bool(true),
            "false" | "False" | "FALSE" => ScalarKind::Bool(false),
            text if is_number(text) => ScalarKind::Number,
            _ => ScalarKind::Text,
        }
    }
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |text: &str, radix| !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
        (Some(hex), _) => digits(hex, 16),
        (_, Some(octal)) => digits(octal, 8),
        _ => {
            matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN")
                || (unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') && unsigned.parse::<f64>().is_ok())
        }
    }
}

impl Node<'_> {
    /// A description for "expected …, found …".
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
            Value::Scalar(scalar) => match scalar.kind() {
                ScalarKind::Null => "nothing".into(),
                ScalarKind::Bool(value) => format!("the truth value `{value}`"),
                ScalarKind::Number => format!("the number {}", crate::report::quoted(&scalar.text)),
                ScalarKind::Text => format!("the text {}", crate::report::quoted(&scalar.text)),
            },
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.kind() == ScalarKind::Null)
    }
}

/// Reads the only document of a text.
pub(crate) fn parse<'s>(source: &'s str, report: &mut Report) -> Option<Item<'s>> {
    let options = granit_parser::options! {
        flow_nesting_limit: MAX_YAML_DEPTH,
        block_nesting_limit: MAX_YAML_DEPTH,
    };
    let mut builder = Builder {
        source,
        open: Vec::new(),
        items: Vec::new(),
        pairs: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        documents: 0,
    };
    for event in Parser::new_from_str_with_options(source, options) {
        let step = match event {
            Ok((event, span)) => builder.take(event, &span),
            Err(error) => Err(Box::new(syntax_error(source, &error))),
        };
        if let Err(diagnostic) = step {
            report.push(*diagnostic);
            return None;
        }
    }
    builder.root
}

/// A list or map whose end has not been reached yet.
struct Open<'s> {
    kind: Kind,
    /// The entries of its kind that belong to those around it.
    before: usize,
    /// The key whose value comes next.
    key: Option<Key<'s>>,
    anchor: usize,
    start: usize,
    size: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    List,
    Map,
}

struct Builder<'s> {
    source: &'s str,
    open: Vec<Open<'s>>,
    /// The entries of all open lists, and of all open maps, those of the innermost last. They move into a list of their
    /// own when their number is known: that takes one allocation of the right size, and a large file has a million
    /// lists.
    items: Vec<Item<'s>>,
    pairs: Vec<(Key<'s>, Item<'s>)>,
    anchors: HashMap<usize, Rc<Node<'s>>>,
    root: Option<Item<'s>>,
    documents: usize,
}

impl<'s> Builder<'s> {
    fn take(&mut self, event: Event<'s>, span: &granit_parser::Span) -> Result<(), Box<Diagnostic>> {
        if event.tag().is_some() {
            let tag = span.tag_span().unwrap_or(*span);
            return Err(Box::new(
                Diagnostic::at(self.span(&tag), "a workflow file has no tags")
                    .with_help("remove the tag; put a value in quotes to make it text"),
            ));
        }
        let here = self.span(span);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Box::new(
                        Diagnostic::at(here, "a second YAML document starts here")
                            .with_help("a workflow file holds one document: put each workflow into a separate file"),
                    ));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, _) => {
                let scalar = Scalar { text, plain: style == ScalarStyle::Plain };
                self.anchored(Node { value: Value::Scalar(scalar), span: here, size: 1 }, anchor, here)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.start(Kind::List, self.items.len(), anchor, here);
                Ok(())
            }
            Event::MappingStart(_, anchor, _) => {
                self.start(Kind::Map, self.pairs.len(), anchor, here);
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    let value = match open.kind {
                        Kind::List => Value::List(self.items.split_off(open.before)),
                        Kind::Map => Value::Map(self.pairs.split_off(open.before)),
                    };
                    let span = first_line(self.source, Span { start: open.start, end: here.end });
                    let node = Node { value, span, size: open.size };
                    self.anchored(node, open.anchor, span)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => self.add(Item::Shared(Rc::clone(node)), here),
                None => Err(Box::new(
                    Diagnostic::at(here, "this alias is inside the value that it repeats")
                        .with_help("a value cannot contain itself: write out what is meant here"),
                )),
            },
            _ => Ok(()),
        }
    }

    fn start(&mut self, kind: Kind, before: usize, anchor: usize, here: Span) {
        self.open.push(Open { kind, before, key: None, anchor, start: here.start, size: 1 });
    }

    /// Adds a complete value, which has this anchor if it is not 0.
    fn anchored(&mut self, node: Node<'s>, anchor: usize, here: Span) -> Result<(), Box<Diagnostic>> {
        if anchor == 0 {
            return self.add(Item::Own(node), here);
        }
        let node = Rc::new(node);
        self.anchors.insert(anchor, Rc::clone(&node));
        self.add(Item::Shared(node), here)
    }

    /// Adds a complete value to its parent. `here` is where it is used, which for an alias differs from where it is
    /// defined.
    fn add(&mut self, node: Item<'s>, here: Span) -> Result<(), Box<Diagnostic>> {
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        parent.size += node.size;
        if parent.size > MAX_YAML_NODES {
            return Err(Box::new(
                Diagnostic::at(here, format!("the file has more than {MAX_YAML_NODES} values"))
                    .with_help("aliases count as often as they are used: a workflow needs far fewer values"),
            ));
        }
        match (parent.kind, parent.key.take()) {
            (Kind::List, _) => self.items.push(node),
            (Kind::Map, Some(key)) => self.pairs.push((key, node)),
            (Kind::Map, None) => match &node.value {
                Value::Scalar(scalar) => parent.key = Some(Key { text: scalar.text.clone(), span: here }),
                _ => {
                    return Err(Box::new(
                        Diagnostic::at(here, format!("a key must be text, found {}", node.describe()))
                            .with_help("quote the key if its text starts with a bracket or a brace"),
                    ));
                }
            },
        }
        Ok(())
    }

    fn span(&self, span: &granit_parser::Span) -> Span {
        // The parser promises byte offsets for text input; a place at the start is better than none.
        let range = span.byte_range().unwrap_or(0..0);
        valid(self.source, range.start, range.end)
    }
}

/// Clamps a range to the source and to character boundaries.
fn valid(source: &str, start: usize, end: usize) -> Span {
    let floor = |mut at: usize| {
        at = at.min(source.len());
        while !source.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(start);
    Span { start, end: floor(end).max(start) }
}

/// The part of a span on its first line, without trailing white space.
fn first_line(source: &str, span: Span) -> Span {
    let text = source.get(span.range()).unwrap_or("");
    let line = text.lines().next().unwrap_or("").trim_end();
    Span { start: span.start, end: span.start + line.len() }
}

fn syntax_error(source: &str, error: &ScanError) -> Diagnostic {
    let at = error.marker().byte_offset().unwrap_or(source.len());
    let here = valid(source, at, at);
    let end =
        source[here.start..].chars().next().filter(|&c| c != '\n').map_or(here.start, |c| here.start + c.len_utf8());
    let diagnostic =
        Diagnostic::at(Span { start: here.start, end }, format!("this is not valid YAML: {}", error.info()));
    match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart
        | ErrorKind::TabInPlainScalar => diagnostic.with_help("indent with spaces: YAML does not take tabs"),
        ErrorKind::MappingValueNotAllowed
        | ErrorKind::InvalidMappingValueWhitespace
        | ErrorKind::InvalidColonPlacement => {
            diagnostic.with_help("a text that contains `: ` must be quoted; otherwise check the indentation")
        }
        ErrorKind::InvalidIndentation
        | ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::BlockSequenceEntryNotAllowed
        | ErrorKind::SimpleKeyExpected
        | ErrorKind::InvalidSimpleKey => {
            diagnostic.with_help("check the indentation of this line and the previous one, and the `: ` after each key")
        }
        ErrorKind::UnknownAnchor => {
            diagnostic.with_help("define it earlier in the file with `&name`, or quote a text that starts with `*`")
        }
        ErrorKind::RecursionLimitExceeded => diagnostic
            .with_help(format!("lists and maps may be nested {MAX_YAML_DEPTH} deep; a workflow needs about five")),
        ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::UnexpectedEofImplicitFlowMapping
        | ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::ExpectedFlowMappingSeparator
        | ErrorKind::ExpectedFlowSequenceSeparator => {
            diagnostic.with_help("look for an unclosed bracket or brace, or a missing comma, before this place")
        }
        ErrorKind::PlainScalarStartsWithDashFlowIndicator => diagnostic.with_help("put the dash in quotes: `\"-\"`"),
        ErrorKind::UnclosedQuotedScalar => diagnostic.with_help("close the text with the same quote that opened it"),
        ErrorKind::InvalidTrailingSingleQuotedScalar | ErrorKind::InvalidTrailingDoubleQuotedScalar => {
            diagnostic.with_help("a comma is missing after the quoted text, or the quotes must be around all of it")
        }
        ErrorKind::UnknownQuotedScalarEscape
        | ErrorKind::InvalidQuotedScalarHexEscape
        | ErrorKind::InvalidUnicodeEscape => {
            diagnostic.with_help("put the text in single quotes, in which a backslash is an ordinary character")
        }
        ErrorKind::UnexpectedCharacter { .. } => diagnostic.with_help("put the text in quotes"),
        _ => diagnostic,
    }
}
