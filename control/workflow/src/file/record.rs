//! Maps with a fixed set of keys.

use crate::diagnostics::{Diagnostic, Span};
use crate::nearest::nearest;
use crate::report::{Report, quoted};
use crate::seen::Seen;
use crate::yaml::{Key, Node, Value};

/// Read from the YAML tree.
pub(crate) trait FromNode: Sized {
    /// Parses a value and reports its errors. `None` if nothing usable is left.
    fn read(node: &Node, report: &mut Report) -> Option<Self>;
}

impl<T: FromNode> FromNode for Box<T> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        T::read(node, report).map(Box::new)
    }
}

/// The value of an optional key.
#[derive(Debug, Default)]
pub(crate) enum Field<T> {
    /// The key is not there.
    #[default]
    Absent,
    /// The key exists, but its value is wrong, which has been reported.
    Broken,
    /// The value.
    Given(T),
}

impl<T> Field<T> {
    pub(crate) fn get(&self) -> Option<&T> {
        match self {
            Field::Given(value) => Some(value),
            Field::Absent | Field::Broken => None,
        }
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Field::Absent)
    }

    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, Field::Broken)
    }
}

impl<T> Field<Box<T>> {
    /// The value of a key that most entries do not have. It is boxed, so that the others are smaller.
    pub(crate) fn rare(&self) -> Option<&T> {
        self.get().map(Box::as_ref)
    }
}

impl<T: FromNode> Field<T> {
    pub(crate) fn read(node: &Node, report: &mut Report) -> Self {
        T::read(node, report).map_or(Field::Broken, Field::Given)
    }
}

/// The pairs of a map, each key once. Reports anything that is not a map. `noun` is what the map describes.
pub(crate) fn pairs<'n>(
    node: &'n Node<'n>,
    noun: &str,
    report: &mut Report,
) -> Option<Vec<(&'n Key<'n>, &'n Node<'n>)>> {
    let Value::Map(all) = &node.value else {
        report.push(
            Diagnostic::at(node.span, format!("expected {noun}, found {}", node.describe()))
                .with_label("expected a map of `key: value`"),
        );
        return None;
    };
    let mut seen = Seen::new(all.len());
    let mut unique: Vec<(&Key, &Node)> = Vec::with_capacity(all.len());
    for (key, value) in all {
        match seen.add(&key.text, |index| &unique[index].0.text) {
            None => unique.push((key, &**value)),
            Some(first) => report.push(duplicate_key(key, unique[first].0.span, noun)),
        }
    }
    Some(unique)
}

fn duplicate_key(key: &Key, first: Span, noun: &str) -> Diagnostic {
    Diagnostic::at(key.span, format!("duplicate key {} in {noun}", quoted(&key.text)))
        .with_label("given a second time")
        .with_related(first, "given here first")
        .with_help("remove one of the two")
}

/// Keys that belong one level further down: what they were given to, their name, and where they belong.
const ELSEWHERE: [(&str, &str, &str); 5] = [
    ("a function", "keep", "`keep` is a key of an input: `inputs: { NAME: { from: SOURCE, keep: true } }`"),
    ("a function", "need", "`need` is a key of an input: `inputs: { NAME: { from: [a.out, b.out], need: 1 } }`"),
    ("a function", "stdin", "`stdin` is a key of an input: `inputs: { NAME: { from: SOURCE, stdin: true } }`"),
    ("a function", "stdout", "`stdout` is a key of an output: `outputs: { NAME: { stdout: true } }`"),
    ("a function", "partition", "`partition` is a key of an output: `outputs: { NAME: { partition: 8 } }`"),
];

/// Reports a key that a record does not have. Returns the key that was probably meant.
pub(crate) fn unknown_key(key: &Key, noun: &str, known: &[&'static str], report: &mut Report) -> Option<&'static str> {
    let mut diagnostic = Diagnostic::at(key.span, format!("unknown key {}", quoted(&key.text)))
        .with_label(format!("not a key of {noun}"));
    if let Some((_, _, help)) = ELSEWHERE.iter().find(|(of, name, _)| *of == noun && *name == key.text) {
        diagnostic = diagnostic.with_help(*help);
    }
    if key.text == "<<" {
        report.push(
            diagnostic.with_help(
                "merge keys are not part of YAML 1.2: write the keys out, or use an alias for a whole value",
            ),
        );
    } else {
        report.push_unknown(diagnostic, &key.text, &format!("keys of {noun}"), known.iter().copied());
    }
    nearest(&key.text, known.iter().copied())
}

/// Reports a missing key.
pub(crate) fn missing_key(node: &Node, noun: &str, key: &str, report: &mut Report) {
    report.push(
        Diagnostic::at(node.span, format!("the key `{key}` is missing"))
            .with_label(format!("{noun} requires it"))
            .with_help(format!("add `{key}: …`")),
    );
}

/// Defines a map with a fixed set of keys: the struct, how it is read, and its JSON Schema, all from one list.
///
/// The text after the name is its noun in errors. `[required]` after a key means that the key must be present.
macro_rules! record {
    (
        $(#[doc = $about:literal])+
        $record:ident: $noun:literal {
            $( $(#[doc = $doc:literal])+ $key:ident $([$required:ident])? : $type:ty, )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Default)]
        pub(crate) struct $record {
            $( $(#[doc = $doc])+ pub(crate) $key: $crate::file::Field<$type>, )+
            /// The keys that unknown keys were probably meant to be; these are not reported as missing, too.
            pub(crate) misspelled: Vec<&'static str>,
        }

        impl $crate::file::FromNode for $record {
            fn read(node: &$crate::yaml::Node, report: &mut $crate::report::Report) -> Option<Self> {
                const KEYS: &[&str] = &[$(stringify!($key)),+];
                let mut record = Self::default();
                for (key, value) in $crate::file::record::pairs(node, $noun, report)? {
                    match &*key.text {
                        $( stringify!($key) => record.$key = $crate::file::Field::read(value, report), )+
                        _ => record.misspelled.extend($crate::file::record::unknown_key(key, $noun, KEYS, report)),
                    }
                }
                $( $(
                    if record.$key.is_absent() && !record.misspelled.contains(&record!(@ $required $key)) {
                        $crate::file::record::missing_key(node, $noun, record!(@ $required $key), report);
                    }
                )? )+
                Some(record)
            }
        }

        impl schemars::JsonSchema for $record {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($record).trim_end_matches("File").into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let mut properties = serde_json::Map::new();
                let required: &[&str] = &[$( $( record!(@ $required $key), )? )+];
                $(
                    let mut schema = generator.subschema_for::<$type>();
                    schema.insert("description".into(), concat!($($doc, "\n"),+).trim().replace("\n ", " ").into());
                    properties.insert(stringify!($key).into(), schema.into());
                )+
                let mut schema = schemars::json_schema!({
                    "type": "object",
                    "description": concat!($($about, "\n"),+).trim().replace("\n ", " "),
                    "properties": properties,
                    "additionalProperties": false,
                });
                if !required.is_empty() {
                    schema.insert("required".into(), required.into());
                }
                schema
            }
        }
    };
    (@ required $key:ident) => {
        stringify!($key)
    };
}
pub(crate) use record;
