//! Maps and lists of named things, in all the forms in which they may be written.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::record::pairs;
use super::values::{NAME_PATTERN, inline_schema, is_name};
use super::{FromNode, Name, Reference};
use crate::diagnostics::{Diagnostic, Span};
use crate::report::{Report, quoted};
use crate::seen::Seen;
use crate::yaml::{Key, Node, Value};

/// The longest text of a file that an example in an error repeats, in bytes.
const MAX_SHOWN: usize = 80;

/// A value whose name the author of the file chooses.
pub(crate) trait Declared: FromNode {
    /// The noun for it, in the singular.
    const NOUN: &'static str;
    /// The hint for a duplicate name.
    const TWICE: &'static str;
    /// Maximum number in one map or list.
    const LIMIT: usize;
    /// The hint for too many.
    const TOO_MANY: &'static str = "put them into a file, and make that file an input";
    /// The key of the file under which they stand, with a colon; empty if there are several or none.
    const KEY: &'static str = "";
    /// The pattern of its name in JSON Schema.
    const KEY_PATTERN: &'static str = NAME_PATTERN;

    /// Checks the name.
    fn key(key: &Key, report: &mut Report) -> Name {
        Name::new(&key.text, key.span, report)
    }
}

/// A name and its value.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) name: Name,
    /// `None` if it could not be read, which has been reported.
    pub(crate) value: Option<T>,
}

/// A map from names to values.
#[derive(Debug, Default)]
pub(crate) struct Entries<T>(pub(crate) Vec<Entry<T>>);

impl<T: Declared> FromNode for Entries<T> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        // Duplicate keys are reported here and not by `pairs`, because here the noun for them is known.
        let Value::Map(all) = &node.value else {
            let expected = format!("a map from the name of each {} to what it is", T::NOUN);
            match assignment(node) {
                Some((name, value)) => report.push(
                    Diagnostic::at(node.span, format!("expected {expected}, found {}", node.describe()))
                        .with_help(format!("write `{}{{ {name}: \"{value}\" }}`", T::KEY)),
                ),
                None => drop(pairs(node, &expected, report)),
            }
            return None;
        };
        let mut list = NameList::new(all.len(), node.span, report)?;
        for (key, value) in all {
            list.push(T::key(key, report), report, |report| T::read(value, report));
        }
        Some(Self(list.entries))
    }
}

impl<T: Declared + JsonSchema> Entries<T> {
    fn schema(value: Schema) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": T::KEY_PATTERN },
            "additionalProperties": value,
            "maxProperties": T::LIMIT,
        })
    }
}

inline_schema!(Entries<T>, |generator| Entries::<T>::schema(generator.subschema_for::<T>()), T: DeclaredSchema);

/// [`Declared`] things that have a schema.
pub(crate) trait DeclaredSchema: Declared + JsonSchema {}
impl<T: Declared + JsonSchema> DeclaredSchema for T {}

/// Names that mostly have no options: a list of names, or a map from names to options.
#[derive(Debug, Default)]
pub(crate) struct Ports<T>(pub(crate) Vec<Entry<T>>);

impl<T: Declared + Default> FromNode for Ports<T> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let list = match &node.value {
            Value::List(items) => {
                let mut list = NameList::new(items.len(), node.span, report)?;
                for item in items {
                    if let Some(name) = Name::read(item, report) {
                        list.push(name, report, |_| Some(T::default()));
                    }
                }
                list
            }
            Value::Map(all) => {
                let mut list = NameList::new(all.len(), node.span, report)?;
                for (key, value) in all {
                    let read =
                        |report: &mut Report| if value.is_null() { Some(T::default()) } else { T::read(value, report) };
                    list.push(T::key(key, report), report, read);
                }
                list
            }
            Value::Scalar(_) => {
                report.push(not_a_collection(
                    node,
                    &format!("a list of names, or a map from the name of each {} to its options", T::NOUN),
                ));
                return None;
            }
        };
        Some(Self(list.entries))
    }
}

inline_schema!(Ports<T>, |generator| {
    let options = generator.subschema_for::<T>();
    json_schema!({
        "anyOf": [
            { "type": "array", "items": generator.subschema_for::<Name>(), "uniqueItems": true, "maxItems": T::LIMIT },
            Entries::<T>::schema(json_schema!({ "anyOf": [options, { "type": "null" }] })),
        ]
    })
}, T: DeclaredSchema);

/// Names with sources: a map from names to sources, or a list of sources that pass on their own names.
#[derive(Debug)]
pub(crate) struct Wires<T> {
    pub(crate) entries: Vec<Entry<T>>,
    /// Whether they are a list. Which part of a reference is the name of a port depends on the functions of the file,
    /// so the name of each entry is still the whole reference.
    pub(crate) listed: bool,
}

/// The value of an entry that may also be written as a source in a list.
pub(crate) trait Wired: Declared + From<Reference> {
    /// The source, if there is exactly one.
    fn reference(&self) -> Option<&Reference>;
}

impl<T: Wired> FromNode for Wires<T> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::List(items) => {
                within_limit::<T>(items.len(), node.span, report)?;
                let sources = items.iter().filter_map(|item| match named_source(item) {
                    Some((name, source)) => {
                        let message = format!("expected a source, found {}", item.describe());
                        report.push(Diagnostic::at(item.span, message).with_help(format!(
                            "a list has no names: write all of them as a map, as in `{}{{ {name}: {source} }}`",
                            T::KEY
                        )));
                        None
                    }
                    None => Reference::read(item, report),
                });
                let listed = sources.map(|source| Entry {
                    name: Name { text: source.text().into(), span: source.span },
                    value: Some(T::from(source)),
                });
                // An iterator that may leave items out does not say how many come: a list of one would get room for
                // four.
                let mut entries = Vec::with_capacity(items.len());
                entries.extend(listed);
                Some(Self { entries, listed: true })
            }
            Value::Map(all) => {
                let mut list = NameList::new(all.len(), node.span, report)?;
                for (key, value) in all {
                    list.push(T::key(key, report), report, |report| T::read(value, report));
                }
                Some(Self { entries: list.entries, listed: false })
            }
            Value::Scalar(_) => {
                report.push(not_a_collection(
                    node,
                    &format!("a map from the name of each {} to its source, or a list of sources", T::NOUN),
                ));
                None
            }
        }
    }
}

inline_schema!(Wires<T>, |generator| json_schema!({
    "anyOf": [
        Entries::<T>::schema(generator.subschema_for::<T>()),
        { "type": "array", "items": generator.subschema_for::<Reference>(), "uniqueItems": true, "maxItems": T::LIMIT },
    ]
}), T: DeclaredSchema);

/// The name and the source of an item of a list that is written like an entry of a map: `table: count.out`.
fn named_source<'n>(item: &'n Node<'n>) -> Option<(&'n str, &'n str)> {
    let Value::Map(pairs) = &item.value else { return None };
    let [(name, source)] = &pairs[..] else { return None };
    let Value::Scalar(source) = &source.value else { return None };
    (!source.text.is_empty() && name.text.len() + source.text.len() <= MAX_SHOWN).then_some((&name.text, &source.text))
}

/// The name and the value of the first item of a list that is written as for a shell: `LC_ALL=C`.
fn assignment<'n>(node: &'n Node<'n>) -> Option<(&'n str, &'n str)> {
    let Value::List(items) = &node.value else { return None };
    let Value::Scalar(first) = &items.first()?.value else { return None };
    let (name, value) = first.text.split_once('=')?;
    let is_plain = !value.contains(['"', '\\', '\n']) && first.text.len() <= MAX_SHOWN;
    (is_plain && is_name(name)).then_some((name, value))
}

/// One value, or a list of values.
#[derive(Debug)]
pub(crate) struct OneOrMany<T> {
    pub(crate) values: Vec<T>,
    pub(crate) span: Span,
}

impl From<Reference> for OneOrMany<Reference> {
    fn from(one: Reference) -> Self {
        Self { span: one.span, values: vec![one] }
    }
}

impl<T: FromNode> FromNode for OneOrMany<T> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let values = match &node.value {
            Value::List(items) => {
                let mut values = Vec::with_capacity(items.len());
                values.extend(items.iter().filter_map(|item| T::read(item, report)));
                if values.len() < items.len() {
                    return None;
                }
                values
            }
            _ => vec![T::read(node, report)?],
        };
        Some(Self { values, span: node.span })
    }
}

inline_schema!(OneOrMany<T>, |generator| {
    let one = generator.subschema_for::<T>();
    json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
}, T: JsonSchema);

/// Collects entries with different names.
struct NameList<T> {
    entries: Vec<Entry<T>>,
    seen: Seen,
}

impl<T: Declared> NameList<T> {
    /// Reserves space for this many entries; reports too many once, with the limit, and returns `None`.
    fn new(count: usize, span: Span, report: &mut Report) -> Option<Self> {
        within_limit::<T>(count, span, report)?;
        Some(Self { entries: Vec::with_capacity(count), seen: Seen::new(count) })
    }

    fn push(&mut self, name: Name, report: &mut Report, read: impl FnOnce(&mut Report) -> Option<T>) {
        if let Some(first) = self.seen.add(&name.text, |index| &self.entries[index].name.text) {
            report.push(given_twice::<T>(&name, self.entries[first].name.span));
            return;
        }
        self.entries.push(Entry { name, value: read(report) });
    }
}

/// The error for a duplicate name.
pub(crate) fn given_twice<T: Declared>(name: &Name, first: Span) -> Diagnostic {
    Diagnostic::at(name.span, format!("the {} {} is given twice", T::NOUN, quoted(&name.text)))
        .with_label("given a second time")
        .with_related(first, "given here first")
        .with_help(T::TWICE)
}

/// Reports a map or list that has too many entries. None of them is read then: references to entries beyond the limit
/// would be reported as unknown names.
fn within_limit<T: Declared>(count: usize, span: Span, report: &mut Report) -> Option<()> {
    if count <= T::LIMIT {
        return Some(());
    }
    let message = format!("too many entries of the kind {}: {count}; at most {} are allowed", T::NOUN, T::LIMIT);
    report.push(Diagnostic::at(span, message).with_help(T::TOO_MANY));
    None
}

fn not_a_collection(node: &Node, expected: &str) -> Diagnostic {
    let diagnostic = Diagnostic::at(node.span, format!("expected {expected}, found {}", node.describe()));
    match &node.value {
        Value::Scalar(scalar) if !node.is_null() => diagnostic
            .with_help(format!("a list of one is written `[{}]`", scalar.text.chars().take(80).collect::<String>())),
        _ => diagnostic.with_help("leave the key out if there is nothing to say"),
    }
}
