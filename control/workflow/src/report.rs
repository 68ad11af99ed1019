//! Collects errors while a file is parsed and checked, so that one pass finds all of them.

use crate::diagnostics::{Diagnostic, Diagnostics, Span};
use crate::limits::MAX_DIAGNOSTICS;
use crate::nearest::Search;

/// How many known names a hint lists.
const MAX_LISTED: usize = 12;

/// How many characters of a text are quoted in a message.
const MAX_QUOTED: usize = 60;

/// Collects errors, up to [`MAX_DIAGNOSTICS`] of them.
pub(crate) struct Report<'s> {
    source: &'s str,
    list: Vec<Diagnostic>,
    omitted: usize,
    search: Search,
}

impl<'s> Report<'s> {
    pub(crate) fn new(source: &'s str) -> Self {
        Self { source, list: Vec::new(), omitted: 0, search: Search::default() }
    }

    /// Adds an error. An identical error at the same place, which repeated use of an alias causes, counts once.
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        if self.list.contains(&diagnostic) {
            return;
        }
        if self.is_open() {
            self.list.push(diagnostic);
        } else {
            self.omitted += 1;
        }
    }

    /// Adds an error about an unknown name, with the nearest known one and a list of them. `nouns` says what they are
    /// ("outputs of `split`").
    pub(crate) fn push_unknown<'k>(
        &mut self,
        mut diagnostic: Diagnostic,
        given: &str,
        nouns: &str,
        known: impl Iterator<Item = &'k str> + Clone,
    ) {
        // The search for the nearest name is the only expensive step, so it is skipped for errors that will not be
        // shown.
        if self.is_open() {
            if let Some(nearest) = self.search.nearest(given, known.clone()) {
                diagnostic = diagnostic.with_help(format!("did you mean `{nearest}`?"));
            }
            diagnostic = diagnostic.with_help(match listed(known) {
                Some(list) => format!("{nouns}: {list}"),
                None => format!("there are no {nouns}"),
            });
        }
        self.push(diagnostic);
    }

    /// The known name that was probably meant, if the error about it would be shown.
    pub(crate) fn nearest<'k>(&mut self, given: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
        if self.is_open() { self.search.nearest(given, known) } else { None }
    }

    /// One more error would be shown, and not only counted.
    fn is_open(&self) -> bool {
        self.list.len() < MAX_DIAGNOSTICS
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The text of a place.
    pub(crate) fn text_at(&self, span: Span) -> &'s str {
        self.source.get(span.range()).unwrap_or("")
    }

    /// The place of `part` inside of `span`; the whole span if the source writes it in another way (with escapes).
    pub(crate) fn within(&self, span: Span, part: &str) -> Span {
        match self.text_at(span).find(part) {
            Some(at) => Span { start: span.start + at, end: span.start + at + part.len() },
            None => span,
        }
    }

    pub(crate) fn finish(self, name: &str) -> Diagnostics {
        Diagnostics::new(name, self.source, self.list, self.omitted)
    }
}

/// `a, b, c`; nothing if there are none.
pub(crate) fn listed<'k>(known: impl Iterator<Item = &'k str> + Clone) -> Option<String> {
    let mut list = known.clone().take(MAX_LISTED).collect::<Vec<_>>().join(", ");
    if list.is_empty() {
        return None;
    }
    let more = known.skip(MAX_LISTED).count();
    if more > 0 {
        list.push_str(&format!(" and {more} more"));
    }
    Some(list)
}

/// A text of the file as it is shown in a message: in backquotes, on one line, not too long.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_QUOTED).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_short() {
        let names: Vec<String> = (0..40).map(|n| format!("f{n}")).collect();
        let list = listed(names.iter().map(String::as_str)).unwrap();
        assert!(list.ends_with("f11 and 28 more"), "{list}");
        assert_eq!(listed(std::iter::empty()), None);
    }

    #[test]
    fn the_number_of_errors_is_limited() {
        let mut report = Report::new("");
        for n in 0..MAX_DIAGNOSTICS + 7 {
            report.push(Diagnostic::at(Span::default(), format!("error {n}")));
            report.push(Diagnostic::at(Span::default(), format!("error {n}")));
        }
        let diagnostics = report.finish("x.yaml");
        assert_eq!(diagnostics.iter().count(), MAX_DIAGNOSTICS);
        assert_eq!(diagnostics.omitted(), 14);
        assert!(diagnostics.to_string().contains("64 errors, of which the first 50 are shown"));
    }
}
