//! A manual page in roff, made of generated sections and of text in a small markup.
//!
//! `# HEADING` begins a section, blank lines separate paragraphs, lines that begin with two spaces are literal, a
//! line `= TERM` gives the paragraph below it a term in front, and `` `text` `` is bold.

use std::io;

use clap_mangen::roff::{Inline, Roff, bold, roman};
use serde_json::{Map, Value};

/// A page that is being written.
pub struct Page {
    out: Vec<u8>,
    /// Text that is not in `out` yet: roff writes a preamble before everything that it renders.
    pending: Roff,
}

impl Page {
    /// An empty page.
    pub fn new(name: &str, section: &str) -> Self {
        let mut page = Self { out: Vec::new(), pending: Roff::new() };
        page.pending.control("TH", [name, section, "", concat!("dflow ", env!("CARGO_PKG_VERSION")), "dflow"]);
        page
    }

    /// Adds what clap makes of the definition of a command.
    pub fn generated(&mut self, render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) {
        self.flush();
        // Writing to a vector does not fail.
        let _ = render(&mut self.out);
    }

    /// Begins a section.
    pub fn section(&mut self, heading: &str) {
        self.pending.control("SH", [heading]);
    }

    /// Adds text in the markup of this module.
    pub fn text(&mut self, text: &str) {
        for block in text.split("\n\n").map(|block| block.trim_matches('\n')).filter(|block| !block.is_empty()) {
            let mut lines: Vec<&str> = block.lines().collect();
            if let Some(heading) = lines[0].strip_prefix("# ") {
                self.section(heading);
                lines.remove(0);
            }
            paragraph(&mut self.pending, &lines);
        }
    }

    /// Adds the paragraphs below a command's help: `Examples:`, `Exit status:` and `Environment:` as sections, unless
    /// `prose` has one on that, and before them everything else as notes.
    pub fn help(&mut self, help: &str, prose: &str) {
        const TITLES: [(&str, &str); 3] =
            [("Examples:", "EXAMPLES"), ("Exit status:", "EXIT STATUS"), ("Environment:", "ENVIRONMENT")];
        let titled = |block: &str| TITLES.iter().find(|(title, _)| block.starts_with(title)).copied();
        let blocks: Vec<&str> = help.split("\n\n").flat_map(split_facts).filter(|block| !block.is_empty()).collect();
        let notes: Vec<&str> = blocks.iter().copied().filter(|block| titled(block).is_none()).collect();
        if !notes.is_empty() {
            self.section("NOTES");
            self.text(&notes.join("\n\n"));
        }
        for block in blocks {
            if let Some((title, heading)) = titled(block)
                && !prose.contains(&format!("# {heading}\n"))
            {
                let body = &block[title.len()..];
                self.section(heading);
                self.text(body.strip_prefix(' ').unwrap_or(body));
            }
        }
    }

    /// Adds the keys of an object of the workflow file, with their descriptions in the schema.
    pub fn keys(&mut self, properties: &Map<String, Value>) {
        for (key, value) in properties {
            self.pending.control("TP", []).text([bold(key)]);
            self.pending.text(inlines(value["description"].as_str().unwrap_or_default()));
        }
    }

    /// The page as roff.
    pub fn finish(mut self) -> String {
        self.flush();
        String::from_utf8_lossy(&self.out).into_owned()
    }

    fn flush(&mut self) {
        let _ = std::mem::take(&mut self.pending).to_writer(&mut self.out);
    }
}

/// Splits a paragraph with several facts, one line each: `Exit status: …` above `Environment: …`.
fn split_facts(block: &str) -> Vec<&str> {
    match block.find("\nEnvironment: ") {
        Some(at) => vec![&block[..at], &block[at + 1..]],
        None => vec![block],
    }
}

fn paragraph(roff: &mut Roff, lines: &[&str]) {
    let Some(first) = lines.first() else { return };
    if first.starts_with("  ") {
        roff.control("PP", []).control("nf", []).control("RS", ["4"]);
        for line in lines {
            roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        }
        roff.control("RE", []).control("fi", []);
    } else if let Some(term) = first.strip_prefix("= ") {
        roff.control("TP", []).text(inlines(term)).text(inlines(&lines[1..].join(" ")));
    } else {
        roff.control("PP", []).text(inlines(&lines.join(" ")));
    }
}

/// Text with `` `code` `` in bold.
fn inlines(text: &str) -> Vec<Inline> {
    let pieces = text.split('`').enumerate();
    pieces.map(|(at, piece)| if at % 2 == 1 { bold(piece) } else { roman(piece) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fill: impl FnOnce(&mut Page)) -> String {
        let mut page = Page { out: Vec::new(), pending: Roff::new() };
        fill(&mut page);
        page.finish()
    }

    #[test]
    fn markup() {
        let text = page(|page| page.text("One `bold`\nline.\n\n# FILES\n= a.txt\nA file.\n\n  .dots\n    stay\n"));
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("aq") && !line.starts_with(".el")).collect();
        assert_eq!(
            lines,
            [
                ".PP",
                "One \\fBbold\\fR line.",
                ".SH FILES",
                ".TP",
                "a.txt",
                "A file.",
                ".PP",
                ".nf",
                ".RS 4",
                "\\&.dots",
                "  stay",
                ".RE",
                ".fi",
            ]
        );
    }

    #[test]
    fn help_that_the_prose_has_already_is_left_out() {
        let help = "SIZE is a number.\n\nExamples:\n  dflow x\n\nExit status: 0.\nEnvironment: A.";
        let text = page(|page| page.help(help, "# ENVIRONMENT\n= A\nSays more.\n"));
        let headings: Vec<&str> = text.lines().filter(|line| line.starts_with(".SH")).collect();
        assert_eq!(headings, [".SH NOTES", ".SH EXAMPLES", ".SH \"EXIT STATUS\""]);
    }
}
