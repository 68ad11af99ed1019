//! The errors of a workflow file, and how they are shown to people and programs.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// Maximum distance from an error, in bytes, at which related places are shown with their source lines.
const MAX_EXCERPT: usize = 64 << 10;

/// How far from the column of an error, in bytes, other places are shown. The renderer shows everything between the columns
/// of two places, and a file that a program has written may have all of a function in one line.
const MAX_COLUMNS: usize = 200;

/// All errors of a workflow file, in the order of the file.
///
/// [`Display`](fmt::Display) shows each error with its place, the source line and a caret under it, without colours.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    name: String,
    source: String,
    list: Vec<Diagnostic>,
    omitted: usize,
}

impl Diagnostics {
    /// The file's name, as given by the caller.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.name
    }

    /// The errors, in the order of the file; never empty.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    /// The number of further errors beyond [`MAX_DIAGNOSTICS`](crate::limits::MAX_DIAGNOSTICS).
    #[must_use]
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// The report as text: every error with its source line, and a last line that counts them.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for diagnostic in &self.list {
            text.push_str(&renderer.render(&[diagnostic.group(&self.name, &self.source)]));
            text.push_str("\n\n");
        }
        let total = self.list.len() + self.omitted;
        let mut last = format!("{}: {total} {}", self.name, if total == 1 { "error" } else { "errors" });
        if self.omitted > 0 {
            last.push_str(&format!(", of which the first {} are shown", self.list.len()));
        }
        text.push_str(&renderer.render(&[Group::with_title(Level::ERROR.primary_title(last))]));
        text
    }

    /// An error that concerns the file as a whole, such as one that cannot be read.
    pub(crate) fn of_file(name: &str, diagnostic: Diagnostic) -> Self {
        Self { name: name.into(), source: String::new(), list: vec![diagnostic], omitted: 0 }
    }

    /// Sorts the errors and looks up their lines. The list must not be empty.
    pub(crate) fn new(name: &str, source: &str, mut list: Vec<Diagnostic>, omitted: usize) -> Self {
        debug_assert!(!list.is_empty(), "a file without errors has no diagnostics");
        let lines = Lines::new(source);
        for diagnostic in &mut list {
            diagnostic.location = diagnostic.span.map(|span| lines.locate(source, span));
        }
        list.sort_by_key(|diagnostic| diagnostic.span.map(|span| span.start));
        Self { name: name.into(), source: source.into(), list, omitted }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One error in a workflow file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    span: Option<Span>,
    location: Option<Location>,
    message: String,
    label: String,
    related: Vec<(Span, String)>,
    help: Vec<String>,
}

impl Diagnostic {
    /// Where it is; `None` if it concerns the file as a whole (it cannot be read).
    #[must_use]
    pub fn location(&self) -> Option<Location> {
        self.location
    }

    /// What is wrong, in one line.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The label at the place itself; may be empty.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Hints on how to fix it, one line each; may be empty.
    pub fn help(&self) -> impl Iterator<Item = &str> {
        self.help.iter().map(String::as_str)
    }

    /// An error at a place.
    pub(crate) fn at(span: Span, message: impl Into<String>) -> Self {
        Self { span: Some(span), ..Self::of_file(message) }
    }

    /// An error without a place.
    pub(crate) fn of_file(message: impl Into<String>) -> Self {
        Self {
            span: None,
            location: None,
            message: message.into(),
            label: String::new(),
            related: Vec::new(),
            help: Vec::new(),
        }
    }

    /// Sets the label beside the caret.
    pub(crate) fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds a second place that is related to the error.
    pub(crate) fn with_related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    /// Adds a hint on how to fix it.
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    fn group<'a>(&'a self, name: &'a str, source: &'a str) -> Group<'a> {
        let mut group = Group::with_title(Level::ERROR.primary_title(&self.message));
        if let Some(span) = self.span {
            // Only the lines from the first place to the last are handed over: rendering looks at every line that it gets,
            // and a report of fifty errors in a large file would take longer than all checks.
            let column = |at: usize| at - source[..at].rfind('\n').map_or(0, |before| before + 1);
            let own = column(span.start);
            let near = |other: &Span| {
                [other.start, other.end].iter().all(|at| at.abs_diff(span.start) <= MAX_EXCERPT)
                    && column(other.start).abs_diff(own) <= MAX_COLUMNS
            };
            let spans = || std::iter::once(span).chain(self.related.iter().map(|(span, _)| *span).filter(near));
            let ends = spans().flat_map(|span| [span.start, span.end]);
            let (first, last) = ends.fold((span.start, span.end), |(first, last), at| (first.min(at), last.max(at)));
            let start = source[..first].rfind('\n').map_or(0, |at| at + 1);
            let end = source[last..].find('\n').map_or(source.len(), |at| last + at);
            let moved = |span: Span| span.start - start..span.end.min(end) - start;
            let primary = AnnotationKind::Primary.span(moved(span));
            let primary = if self.label.is_empty() { primary } else { primary.label(&self.label) };
            let related = self.related.iter().filter(|(span, _)| near(span));
            let related = related.map(|(span, label)| AnnotationKind::Context.span(moved(*span)).label(label));
            let line = self.location.map_or(1, |location| {
                location.line - source[start..span.start].bytes().filter(|&byte| byte == b'\n').count()
            });
            let excerpt = Snippet::source(&source[start..end]).line_start(line).path(name);
            group = group.element(excerpt.annotation(primary).annotations(related));
            let distant = self.related.iter().filter(|(span, _)| !near(span));
            group = group.elements(distant.map(|(span, label)| {
                let Location { line, column } = Lines::new(source).locate(source, *span);
                let is_own = self.location.is_some_and(|location| location.line == line);
                let column = if is_own { format!(", column {column}") } else { String::new() };
                Level::NOTE.message(format!("{label}: line {line}{column}"))
            }));
        }
        // Unlike titles and labels, messages are not cleaned of control characters by the renderer.
        let clean = |help: &String| Level::HELP.message(annotate_snippets::normalize_untrusted_str(help));
        group.elements(self.help.iter().map(clean))
    }
}

/// A place in a file. Lines and columns count from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A range of bytes of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    pub(crate) fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

/// Where the lines of a source start.
struct Lines(Vec<usize>);

impl Lines {
    fn new(source: &str) -> Self {
        let after_breaks = source.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(after_breaks).collect())
    }

    fn locate(&self, source: &str, span: Span) -> Location {
        let line = self.0.partition_point(|&start| start <= span.start);
        let start = self.0.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = source.get(start..span.start).map_or(0, |before| before.chars().count()) + 1;
        Location { line, column }
    }
}
