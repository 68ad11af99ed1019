//! Texts with parameters in them: `${params.NAME}` stands for the value of a parameter of the workflow.

use super::scope::Scope;
use crate::diagnostics::Diagnostic;
use crate::file::Text;
use crate::model::{Template, TemplatePiece};
use crate::report::{Report, quoted};

const OPENING: &str = "${params.";

/// Splits a text into pieces and reports parameters that do not exist. Any other `${…}` is literal text.
pub(super) fn template(scope: &Scope, text: &Text, report: &mut Report) -> Option<Template> {
    refuse_short_form(scope, text, report)?;
    let mut pieces = Vec::new();
    let mut rest = text.text.as_str();
    while let Some(start) = rest.find(OPENING) {
        let (before, reference) = rest.split_at(start);
        let Some(end) = reference.find('}') else {
            let span = report.within(text.span, reference);
            report.push(
                Diagnostic::at(span, format!("{} has no closing brace", quoted(reference)))
                    .with_help("write `${params.NAME}`"),
            );
            return None;
        };
        let (reference, after) = reference.split_at(end + 1);
        let name = &reference[OPENING.len()..end];
        let span = report.within(text.span, reference);
        if !scope.has_param(name, span, report) {
            return None;
        }
        if !before.is_empty() {
            pieces.push(TemplatePiece::Text(before.into()));
        }
        pieces.push(TemplatePiece::Param(name.into()));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(TemplatePiece::Text(rest.into()));
    }
    Some(Template(pieces))
}

/// `{params.NAME}` is allowed only in commands, where braces also stand for ports. Elsewhere the function would receive
/// it unchanged.
fn refuse_short_form(scope: &Scope, text: &Text, report: &mut Report) -> Option<()> {
    let short = text.text.match_indices("{params.").find_map(|(at, _)| {
        let reference = &text.text[at..=at + text.text[at..].find('}')?];
        let name = &reference["{params.".len()..reference.len() - 1];
        let is_long = text.text[..at].ends_with('$');
        (!is_long && (scope.params.contains_key(name) || reference.len() == text.text.len())).then_some(reference)
    });
    let Some(short) = short else { return Some(()) };
    let span = report.within(text.span, short);
    report.push(
        Diagnostic::at(span, format!("{} is only for a `command`", quoted(short)))
            .with_help(format!("write `${short}`, which stands for the value of a parameter everywhere")),
    );
    None
}
