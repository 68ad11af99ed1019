//! Switches: the values that decide them, and the functions that each value chooses.

use std::collections::HashSet;

use super::order::Edge;
use super::scope::{Scope, Step};
use crate::diagnostics::{Diagnostic, Span};
use crate::file::{Field, Name, Reference, Referent, SwitchFile};
use crate::model::{Function, FunctionId, Source, Streams, Switch, SwitchOn};
use crate::report::Report;

/// Checks all switches, and marks the functions that they choose.
pub(super) fn check(
    scope: &Scope,
    functions: &mut [Function],
    edges: &mut Vec<Edge>,
    report: &mut Report,
) -> Vec<Switch> {
    let mut chooser: Vec<Option<(usize, Span)>> = vec![None; functions.len()];
    let mut switches = Vec::with_capacity(scope.switches.len());
    for (index, (name, file)) in scope.switches.iter().enumerate() {
        let on = file.switch.get().and_then(|reference| decider(scope, reference, report));
        let mut chosen = Vec::new();
        let (cases, default) = targets(scope, file, &mut chosen, report);
        for (id, span) in chosen {
            match chooser[id.0 as usize] {
                Some((other, first)) if other != index => {
                    report.push(
                        Diagnostic::at(span, format!("`{}` belongs to two switches", scope.function(id).name.text))
                            .with_label(format!("chosen by `{}`", name.text))
                            .with_related(first, format!("chosen by `{}`", scope.switches[other].0.text))
                            .with_help("a function belongs to one switch; functions that read from it are chosen along with it"),
                    );
                    continue;
                }
                Some(_) => {}
                None => chooser[id.0 as usize] = Some((index, span)),
            }
            functions[id.0 as usize].conditional = u32::try_from(index).ok();
            if let Some(SwitchOn::Value(Source::Output { function, .. })) = on {
                edges.push(Edge { from: function, to: id, span, switch: Some(index) });
            }
        }
        // Without a decider an error has been reported, and this list is not used.
        let on = on.unwrap_or(SwitchOn::Param(String::new()));
        switches.push(Switch { name: name.text.clone(), on, cases, default });
    }
    switches
}

fn decider(scope: &Scope, reference: &Reference, report: &mut Report) -> Option<SwitchOn> {
    if let Referent::Param(name) = reference.referent() {
        let Some(name) = name else {
            report.push(
                Diagnostic::at(reference.span, "`params` alone decides nothing")
                    .with_help("write `params.NAME` or `${params.NAME}`"),
            );
            return None;
        };
        return scope.has_param(name, reference.span, report).then(|| SwitchOn::Param(name.into()));
    }
    let source = scope.source(reference, report)?;
    if scope.streams(source) != Streams::One {
        report.push(
            Diagnostic::at(
                reference.span,
                format!("`{}` has many streams, so it is not one value", scope.describe(source)),
            )
            .with_label("a switch needs one stream")
            .with_help("add a function that reads these streams and writes the value that decides"),
        );
        return None;
    }
    Some(SwitchOn::Value(source))
}

type Targets = (Vec<(String, Vec<FunctionId>)>, Option<Vec<FunctionId>>);

/// The functions of each case and of the default. Adds all of them, with their places, to `chosen`.
fn targets(scope: &Scope, file: &SwitchFile, chosen: &mut Vec<(FunctionId, Span)>, report: &mut Report) -> Targets {
    let mut resolve = |names: &[Name], report: &mut Report| {
        let mut ids: Vec<FunctionId> = Vec::with_capacity(names.len());
        let mut seen = HashSet::with_capacity(names.len());
        for name in names {
            match scope.step(&name.text, name.span, report) {
                Some(Step::Function(id)) if !seen.insert(id) => {
                    report.push(
                        Diagnostic::at(name.span, format!("`{}` is listed twice in this case", name.text))
                            .with_help("remove one of the two"),
                    );
                }
                Some(Step::Function(id)) => {
                    ids.push(id);
                    chosen.push((id, name.span));
                }
                Some(Step::Switch) => {
                    report.push(
                        Diagnostic::at(name.span, format!("`{}` is a switch; a case lists functions", name.text))
                            .with_help(
                                "list a function whose output decides the other switch, or the functions themselves",
                            ),
                    );
                }
                Some(Step::Broken) | None => {}
            }
        }
        ids
    };
    let cases = file.cases.get().map_or(&[][..], |cases| &cases.0);
    if cases.is_empty() && matches!(file.cases, Field::Given(_)) {
        let span = file.switch.get().map_or_else(Span::default, |reference| reference.span);
        report.push(Diagnostic::at(span, "this switch has no cases").with_help("add `cases: { VALUE: FUNCTION }`"));
    }
    let cases = cases
        .iter()
        .map(|entry| (entry.name.text.clone(), resolve(entry.value.as_ref().map_or(&[][..], |it| &it.0), report)))
        .collect();
    let default = file.default.get().map(|targets| resolve(&targets.0, report));
    (cases, default)
}
