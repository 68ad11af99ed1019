//! The outputs of the workflow.

use super::branches::{Branches, exclude};
use super::scope::Scope;
use crate::diagnostics::Diagnostic;
use crate::file::WorkflowFile;
use crate::limits::MAX_SOURCES;
use crate::model::{Source, WorkflowOutput};
use crate::report::Report;
use crate::streams::Streams;

/// Resolves the outputs. Without `branches` (there is a cycle) only references are checked.
pub(super) fn check(
    scope: &Scope,
    file: &WorkflowFile,
    branches: Option<&[Branches]>,
    report: &mut Report,
) -> Vec<WorkflowOutput> {
    let mut outputs = Vec::new();
    for entry in file.outputs.get().map_or(&[][..], |outputs| &outputs.0) {
        let Some(references) = &entry.value else { continue };
        if references.values.is_empty() || references.values.len() > MAX_SOURCES {
            report.push(
                Diagnostic::at(
                    references.span,
                    format!("the output `{}` has {} sources", entry.name.text, references.values.len()),
                )
                .with_help(format!("list from 1 to {MAX_SOURCES} sources, such as `FUNCTION.OUTPUT`")),
            );
            continue;
        }
        let mut sources: Vec<Source> = Vec::with_capacity(references.values.len());
        for reference in &references.values {
            match scope.source(reference, report) {
                Some(Source::WorkflowInput(_)) => report.push(
                    Diagnostic::at(reference.span, format!("`{}` is an input of the workflow", reference.text()))
                        .with_label("an output is written by a function")
                        .with_help(
                            "the caller has these bytes already; to copy them all the same, use `command: [\"cat\"]`",
                        ),
                ),
                Some(source) if sources.contains(&source) => report.push(
                    Diagnostic::at(reference.span, format!("`{}` is listed twice", reference.text()))
                        .with_help("remove one of the two"),
                ),
                Some(source) => sources.push(source),
                None => {}
            }
        }
        let many = sources.iter().any(|&source| scope.streams(source) != Streams::One)
            || branches.is_some_and(|branches| any_two_together(&sources, branches));
        outputs.push(WorkflowOutput { name: entry.name.text.clone(), sources, many });
    }
    outputs
}

/// Whether two of the sources can be written in one run; branches of a switch exclude each other.
fn any_two_together(sources: &[Source], branches: &[Branches]) -> bool {
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
