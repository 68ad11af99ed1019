//! The inputs of a function: their sources, and rules on the number of their streams.

use std::collections::HashSet;

use super::order::Edge;
use super::scope::Scope;
use crate::diagnostics::{Diagnostic, Span};
use crate::file::{Field, FunctionFile, InputDetails, InputFile, PART, Reference};
use crate::limits::MAX_SOURCES;
use crate::model::{FunctionId, Gate, Input, Source, Streams};
use crate::report::Report;

/// An input, with details that only the checks need.
pub(super) struct Checked {
    pub(super) input: Input,
    /// The place of its name.
    pub(super) span: Span,
    /// Whether the file marks it as standard input, and where.
    pub(super) stdin: Option<(bool, Span)>,
    /// All its sources could be resolved.
    complete: bool,
}

/// Checks the inputs of the function `id`, the part of a `foreach` first.
pub(super) fn check(scope: &Scope, id: FunctionId, edges: &mut Vec<Edge>, report: &mut Report) -> Vec<Checked> {
    let declaration = scope.function(id);
    let wires = declaration.file.inputs.get();
    let (entries, names) = wires.map_or((&[][..], Vec::new()), |wires| (&wires.entries, scope.names(wires, report)));
    let mut inputs = Vec::with_capacity(entries.len() + usize::from(declaration.foreach.is_some()));
    inputs.extend(part(scope, id, edges, report));
    for (entry, name) in entries.iter().zip(&names) {
        let Some((InputFile(details), &(name, span))) = entry.value.as_ref().zip(name.as_ref()) else { continue };
        // The options of the part have been read with it.
        if name == PART && !declaration.file.foreach.is_absent() {
            if let Field::Given(from) = &details.from {
                report.push(
                    Diagnostic::at(from.span, "the input `part` has its source from `foreach`")
                        .with_label("a second source")
                        .with_help(
                            "rename this input, or leave `from` out to set `gate`, `keep` or `stdin` of the part",
                        ),
                );
            }
            continue;
        }
        let mut checked = Checked::new(declaration.file, name, span, details);
        match &details.from {
            Field::Given(from) => {
                let count = from.values.len();
                if count == 0 || count > MAX_SOURCES {
                    report.push(
                        Diagnostic::at(from.span, format!("the input `{name}` has {count} sources")).with_help(
                            format!("list from 1 to {MAX_SOURCES} sources, such as `FUNCTION.OUTPUT` or `inputs.NAME`"),
                        ),
                    );
                } else {
                    sources(scope, id, &from.values, &mut checked, edges, report);
                }
            }
            Field::Absent => report.push(
                Diagnostic::at(span, format!("the input `{name}` has no source"))
                    .with_label("where does it come from?")
                    .with_help("add `from: FUNCTION.OUTPUT` or `from: inputs.NAME`"),
            ),
            Field::Broken => {}
        }
        check_need(scope, details, &checked, report);
        inputs.push(checked);
    }
    inputs
}

/// The input `part` of a `foreach`.
fn part(scope: &Scope, id: FunctionId, edges: &mut Vec<Edge>, report: &mut Report) -> Option<Checked> {
    let declaration = scope.function(id);
    let file = declaration.file;
    let reference = file.foreach.get()?;
    let source = declaration.foreach?;
    if scope.streams(source) == Streams::One {
        let text = scope.describe(source);
        let diagnostic =
            Diagnostic::at(reference.span, format!("`{text}` is one stream, so it has no parts to run for"))
                .with_label("not partitioned");
        report.push(match source {
            Source::WorkflowInput(input) => {
                let name = &scope.inputs[input as usize].name;
                diagnostic.with_help(format!(
                    "to run once for each file: `inputs: {{ {name}: {{ parts: files }} }}` in the workflow"
                ))
            }
            Source::Output { function, output } => {
                let function = scope.function(function);
                let (owner, name) = (&function.name.text, &function.outputs[output as usize].name);
                diagnostic.with_help(format!(
                    "make `{owner}` write parts: `outputs: {{ {name}: {{ partition: 8 }} }}` or `partition: discovered`"
                ))
            }
        });
    }
    let default = InputDetails::default();
    let entries = file.inputs.get().filter(|wires| !wires.listed).map_or(&[][..], |wires| &wires.entries);
    let entry = entries.iter().find(|entry| entry.name.text == PART);
    let details = entry.and_then(|entry| entry.value.as_ref()).map_or(&default, |value| &value.0);
    let span = entry.map_or(reference.span, |entry| entry.name.span);
    let mut checked = Checked::new(file, PART, span, details);
    checked.input.each = true;
    checked.add(source, id, reference.span, edges);
    check_need(scope, details, &checked, report);
    Some(checked)
}

impl Checked {
    fn new(file: &FunctionFile, name: &str, span: Span, details: &InputDetails) -> Self {
        let gate = details.gate.get().or(file.gate.get()).copied().unwrap_or_else(Gate::default);
        let input = Input {
            name: name.into(),
            sources: Vec::new(),
            each: false,
            many: false,
            need: details.need.get().map(|need| need.value.0),
            gate,
            keep: details.keep.get().is_some_and(|keep| keep.0),
            stdin: false,
        };
        Self { input, span, stdin: details.stdin.get().map(|stdin| (stdin.value.0, stdin.span)), complete: true }
    }

    /// Adds a source, and records that the function `reader` depends on its producer.
    fn add(&mut self, source: Source, reader: FunctionId, span: Span, edges: &mut Vec<Edge>) {
        self.input.sources.push(source);
        if let Source::Output { function, .. } = source {
            edges.push(Edge { from: function, to: reader, span, switch: None });
        }
    }
}

fn sources(
    scope: &Scope,
    reader: FunctionId,
    references: &[Reference],
    checked: &mut Checked,
    edges: &mut Vec<Edge>,
    report: &mut Report,
) {
    checked.input.sources.reserve_exact(references.len());
    // Nearly all inputs have one source, which needs no table.
    let mut seen = (references.len() > 1).then(|| HashSet::with_capacity(references.len()));
    for reference in references {
        match scope.source(reference, report) {
            Some(source) if seen.as_mut().is_some_and(|seen| !seen.insert(source)) => report.push(
                Diagnostic::at(reference.span, format!("`{}` is listed twice", reference.text()))
                    .with_help("an input reads each stream once: remove one of the two"),
            ),
            Some(source) => {
                refuse_pairs(scope, reader, source, reference, report);
                checked.add(source, reader, reference.span, edges);
            }
            None => checked.complete = false,
        }
    }
    let collection = checked.input.sources.iter().any(|&source| scope.streams(source) != Streams::One);
    checked.input.many = collection || references.len() > 1;
}

/// Refuses a `foreach` that reads from another `foreach` over the same source. Its author expects each instance to get
/// the part that corresponds to its own, but it would get all of them.
fn refuse_pairs(scope: &Scope, reader: FunctionId, source: Source, reference: &Reference, report: &mut Report) {
    let Source::Output { function, .. } = source else { return };
    let (reader, producer) = (scope.function(reader), scope.function(function));
    let Some(origin) = reader.instances.origin.filter(|&origin| producer.instances.origin == Some(origin)) else {
        return;
    };
    let (reading, writing, parts) = (&reader.name.text, &producer.name.text, scope.describe(origin));
    report.push(
        Diagnostic::at(
            reference.span,
            format!("`{reading}` and `{writing}` both run for each part of `{parts}`, and parts cannot be paired"),
        )
        .with_label(format!("every instance of `{reading}` would get all streams of `{}`", reference.text()))
        .with_help(format!(
            "do both steps in one function, or make `{writing}` write everything that `{reading}` needs to the output \
             that it runs over"
        ))
        .with_help("if every instance should get all streams, join them first in a separate function: `[cat]`"),
    );
}

fn check_need(scope: &Scope, details: &InputDetails, checked: &Checked, report: &mut Report) {
    let Some(need) = details.need.get().filter(|_| checked.complete && !checked.input.sources.is_empty()) else {
        return;
    };
    if !checked.input.many {
        report.push(
            Diagnostic::at(
                need.span,
                format!("the input `{}` is one stream, so there is nothing to choose from", checked.input.name),
            )
            .with_label("`need` is for a fan-in")
            .with_help("remove `need`, or list several sources: `from: [a.x, b.x]`"),
        );
        return;
    }
    let known = checked.input.sources.iter().try_fold(0, |sum, &source| match scope.streams(source) {
        Streams::One => Some(sum + 1),
        Streams::Fixed(parts) => Some(sum + u64::from(parts)),
        Streams::Files | Streams::Discovered => None,
    });
    if let Some(known) = known.filter(|&known| known < u64::from(need.value.0)) {
        report.push(
            Diagnostic::at(
                need.span,
                format!("`need` is {}, but the input `{}` has {known} streams", need.value.0, checked.input.name),
            )
            .with_label("more than the input has")
            .with_help(format!("write a number from 1 to {known}")),
        );
    }
}
