//! The expectations for functions and inputs.

use std::time::Duration;

use super::scope::{Declaration, Scope};
use crate::diagnostics::Diagnostic;
use crate::expect::{Amount, Expect, ExpectInput};
use crate::file::{ExpectFile, ExpectInputFile, ExpectedOutput, Field, Name, Spanned, Time, WorkflowInputFile, value};
use crate::model::{FunctionId, Partition};
use crate::report::{Report, quoted};

/// The expectation of a function.
pub(super) fn function(scope: &Scope, id: FunctionId, report: &mut Report) -> Option<Box<Expect>> {
    let declaration = scope.function(id);
    let file = declaration.file.expect.get()?;
    let time = file.time.get().map(|time| time.value.0);
    let parts = file.parts.get().filter(|parts| {
        let discovers = declaration.outputs.iter().any(|output| output.partition == Partition::Discovered);
        if !discovers && declaration.outputs_known {
            report.push(
                Diagnostic::at(
                    parts.span,
                    format!("`{}` has no output with parts that it discovers", declaration.name.text),
                )
                .with_help("remove `parts`, or declare an output with `partition: discovered`"),
            );
        }
        discovers
    });
    Some(Box::new(Expect {
        time,
        first_output: share_of_time(&file.first_output, "first_output", file, report),
        tail: share_of_time(&file.tail, "tail", file, report),
        outputs: outputs(scope, declaration, file, report),
        parts: parts.map(|parts| parts.value.0),
    }))
}

/// A duration that is a part of `time`.
fn share_of_time(field: &Field<Spanned<Time>>, key: &str, file: &ExpectFile, report: &mut Report) -> Option<Duration> {
    let share = field.get()?;
    match &file.time {
        Field::Absent => report.push(
            Diagnostic::at(share.span, format!("`{key}` is a part of `time`, which is missing"))
                .with_help("add `time: …`, the time that an instance computes"),
        ),
        Field::Given(time) if share.value.0 > time.value.0 => report.push(
            Diagnostic::at(share.span, format!("`{key}` is longer than `time`"))
                .with_related(time.span, "the time that an instance computes")
                .with_help(format!("`{key}` is a part of `time`: write at most as much")),
        ),
        Field::Given(_) | Field::Broken => {}
    }
    Some(share.value.0)
}

fn outputs(scope: &Scope, declaration: &Declaration, file: &ExpectFile, report: &mut Report) -> Vec<Option<Amount>> {
    let Declaration { name: function, outputs, outputs_known, .. } = declaration;
    match file.output.get() {
        None => Vec::new(),
        Some(ExpectedOutput::Only(amount)) => {
            if outputs.len() != 1 && *outputs_known {
                let message = format!("`{}` has {} outputs", function.text, outputs.len());
                let help = match outputs.first() {
                    Some(first) => format!("give the size of each by name: `output: {{ {}: 12MB }}`", first.name),
                    None => "remove `output`".into(),
                };
                report.push(Diagnostic::at(amount.span, message).with_help(help));
            }
            vec![Some(amount.value.0)]
        }
        Some(ExpectedOutput::Named(entries)) => {
            let mut amounts = vec![None; outputs.len()];
            for entry in &entries.0 {
                match scope.output_of(declaration.id, &entry.name.text) {
                    Some(port) => amounts[port as usize] = entry.value.as_ref().map(|amount| amount.value.0),
                    None if *outputs_known => {
                        let name = quoted(&entry.name.text);
                        let diagnostic = Diagnostic::at(
                            entry.name.span,
                            format!("the function `{}` has no output {name}", function.text),
                        );
                        report.push_unknown(
                            diagnostic,
                            &entry.name.text,
                            &format!("outputs of `{}`", function.text),
                            outputs.iter().map(|output| output.name.as_str()),
                        );
                    }
                    None => {}
                }
            }
            amounts
        }
    }
}

/// The expectation of an input of the workflow.
pub(super) fn input(name: &Name, file: Option<&WorkflowInputFile>, report: &mut Report) -> ExpectInput {
    let Some(file) = file else { return ExpectInput::default() };
    let Some(ExpectInputFile { size, parts, .. }) = file.expect.get() else { return ExpectInput::default() };
    if let Some(parts) = parts.get().filter(|_| file.parts.is_absent()) {
        report.push(
            Diagnostic::at(parts.span, format!("the input `{}` has no parts", name.text))
                .with_help("remove it, or add `parts: files`, which makes each file a part of its own"),
        );
    }
    ExpectInput { size: size.get().map(|size| size.0), parts: value(parts).map(|parts| parts.0) }
}
