//! The outputs of the workflow.

use std::collections::HashSet;
use std::rc::Rc;

use super::branches::{Branches, exclude};
use super::scope::Scope;
use crate::diagnostics::Diagnostic;
use crate::file::WorkflowFile;
use crate::limits::MAX_SOURCES;
use crate::model::{Source, Streams, WorkflowOutput};
use crate::report::Report;

/// Resolves the outputs. Without `branches` (there is a cycle) only references are checked.
pub(super) fn check(
    scope: &Scope,
    file: &WorkflowFile,
    branches: Option<&[Rc<Branches>]>,
    report: &mut Report,
) -> Vec<WorkflowOutput> {
    let mut outputs = Vec::new();
    let wires = file.outputs.get();
    let (entries, names) = wires.map_or((&[][..], Vec::new()), |wires| (&wires.entries, scope.names(wires, report)));
    for (entry, name) in entries.iter().zip(names) {
        let Some((references, (name, _))) = entry.value.as_ref().zip(name) else { continue };
        if references.values.is_empty() || references.values.len() > MAX_SOURCES {
            report.push(
                Diagnostic::at(references.span, format!("the output `{name}` has {} sources", references.values.len()))
                    .with_help(format!("list from 1 to {MAX_SOURCES} sources, such as `FUNCTION.OUTPUT`")),
            );
            continue;
        }
        let mut sources: Vec<Source> = Vec::with_capacity(references.values.len());
        let mut seen = HashSet::with_capacity(references.values.len());
        for reference in &references.values {
            match scope.source(reference, report) {
                Some(Source::WorkflowInput(_)) => report.push(
                    Diagnostic::at(reference.span, format!("`{}` is an input of the workflow", reference.text()))
                        .with_label("an output is written by a function")
                        .with_help("the caller already has these bytes; to copy them anyway, use `command: [\"cat\"]`"),
                ),
                Some(source) if !seen.insert(source) => report.push(
                    Diagnostic::at(reference.span, format!("`{}` is listed twice", reference.text()))
                        .with_help("remove one of the two"),
                ),
                Some(source) => sources.push(source),
                None => {}
            }
        }
        let many = sources.iter().any(|&source| scope.streams(source) != Streams::One)
            || branches.is_some_and(|branches| any_two_together(&sources, branches));
        outputs.push(WorkflowOutput { name: name.into(), sources, many });
    }
    outputs
}

/// Whether two of the sources can be written in one run; branches of a switch exclude each other.
fn any_two_together(sources: &[Source], branches: &[Rc<Branches>]) -> bool {
    let of = |source: &Source| match source {
        Source::WorkflowInput(_) => None,
        Source::Output { function, .. } => branches.get(function.0 as usize),
    };
    sources.iter().enumerate().any(|(index, one)| {
        sources[index + 1..].iter().any(|other| match (of(one), of(other)) {
            (Some(one), Some(other)) => !exclude(one, other),
            _ => true,
        })
    })
}
