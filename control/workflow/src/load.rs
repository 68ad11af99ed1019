//! Loads a workflow from a file or a text.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::check::check;
use crate::diagnostics::{Diagnostic, Diagnostics, Span};
use crate::file::{FromNode, WorkflowFile};
use crate::limits::MAX_FILE_BYTES;
use crate::model::Workflow;
use crate::report::Report;
use crate::yaml;

impl Workflow {
    /// Reads and checks a workflow file.
    ///
    /// # Errors
    /// If the file cannot be read or has errors; all errors are listed.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| unreadable(&name, &error))?;
        Self::read(&name, file)
    }

    /// Reads and checks the text of a workflow file; errors call it `name`.
    ///
    /// # Errors
    /// If it cannot be read or has errors; all errors are listed.
    pub fn read(name: &str, from: impl Read) -> Result<Self, Diagnostics> {
        // Reads one byte more than allowed, to detect a file that is too long even if its reported size is wrong.
        let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        let mut bytes = Vec::new();
        from.take(limit).read_to_end(&mut bytes).map_err(|error| unreadable(name, &error))?;
        Self::from_bytes(name, &bytes)
    }

    /// Checks the text of a workflow file; errors call it `name`.
    ///
    /// # Errors
    /// If it has errors; all errors are listed.
    pub fn parse(name: &str, text: &str) -> Result<Self, Diagnostics> {
        if text.len() > MAX_FILE_BYTES {
            return Err(Diagnostics::of_file(
                name,
                Diagnostic::of_file(format!("the workflow file {name} is larger than {} MiB", MAX_FILE_BYTES >> 20))
                    .with_help("pass data as inputs instead of writing it into the workflow"),
            ));
        }
        let mut report = Report::new(text);
        let workflow = read(text, &mut report);
        match workflow {
            Some(workflow) if report.is_empty() => Ok(Workflow { text: text.into(), ..workflow }),
            _ => Err(report.finish(name)),
        }
    }

    /// Checks the bytes of a workflow file; errors call it `name`.
    ///
    /// # Errors
    /// If the bytes are not UTF-8 or the text has errors; all errors are listed.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, Diagnostics> {
        let error = match std::str::from_utf8(bytes) {
            Ok(text) => return Self::parse(name, text),
            Err(error) => error,
        };
        if bytes.len() > MAX_FILE_BYTES {
            // Truncation at the limit may itself have split a character.
            return Self::parse(name, &" ".repeat(MAX_FILE_BYTES + 1));
        }
        let at = error.valid_up_to();
        let text = String::from_utf8_lossy(bytes);
        let span = Span { start: at, end: at + char::REPLACEMENT_CHARACTER.len_utf8() };
        let mut report = Report::new(&text);
        report.push(
            Diagnostic::at(span, "the file is not text in UTF-8")
                .with_label(format!("invalid byte 0x{:02x}", bytes.get(at).copied().unwrap_or(0)))
                .with_help("save the file as UTF-8"),
        );
        Err(report.finish(name))
    }
}

fn unreadable(name: &str, error: &std::io::Error) -> Diagnostics {
    let diagnostic = Diagnostic::of_file(format!("cannot read the workflow file {name}: {error}"))
        .with_help("give the path of a readable YAML file");
    Diagnostics::of_file(name, diagnostic)
}

/// Parses as much of a text as possible. Whatever is missing from the result has been reported.
fn read(text: &str, report: &mut Report) -> Option<Workflow> {
    let root = yaml::parse(text, report);
    let Some(root) = root.filter(|root| !root.is_null()) else {
        if report.is_empty() {
            report.push(
                Diagnostic::at(Span::default(), "the file is empty")
                    .with_help("a workflow has at least `workflow: NAME` and `functions: …`"),
            );
        }
        return None;
    };
    let file = WorkflowFile::read(&root, report)?;
    // The tree takes as much memory as what has been read from it, and what is checked can have it.
    drop(root);
    check(&file, report)
}
