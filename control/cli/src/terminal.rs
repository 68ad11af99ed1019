//! The capabilities of standard output and standard error, and printing to them.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use crate::units;

/// The width without a terminal.
const DEFAULT_WIDTH: usize = 100;

/// Maximum width. Longer bars would show nothing more.
const MAX_WIDTH: usize = 200;

/// How text may be formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The width in columns.
    pub width: usize,
    /// Whether to use colours.
    pub color: bool,
    /// Whether to use characters outside ASCII.
    pub unicode: bool,
}

impl Look {
    /// How text on this stream may be formatted.
    pub fn of(stream: &(impl AsFd + IsTerminal)) -> Self {
        Self { width: width(stream), color: color(stream), unicode: unicode() }
    }

    /// The ellipsis.
    pub fn more(&self) -> &'static str {
        if self.unicode { "…" } else { "..." }
    }

    /// A duration as formatted by [`units::duration`], in ASCII if necessary.
    pub fn duration(&self, nanos: u64) -> String {
        let text = units::duration(nanos);
        if self.unicode { text } else { text.replace('µ', "u") }
    }

    /// The text with a colour or a style, if colours are in use.
    pub fn paint(&self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Red => "1;31",
            Style::Green => "1;32",
            Style::Yellow => "1;33",
            Style::Cyan => "36",
        };
        if self.color && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }
}

/// The style of a piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Bold.
    Bold,
    /// Less prominent.
    Dim,
    /// For errors.
    Red,
    /// For success.
    Green,
    /// For notes.
    Yellow,
    /// An accent.
    Cyan,
}

/// The width: `COLUMNS`, or else the width of the terminal, or else 100.
pub fn width(stream: &impl AsFd) -> usize {
    let stated = env::var("COLUMNS").ok().and_then(|text| text.parse::<usize>().ok());
    let terminal = || rustix::termios::tcgetwinsize(stream).ok().map(|size| usize::from(size.ws_col));
    stated
        .filter(|&width| width > 0)
        .or_else(|| terminal().filter(|&width| width > 0))
        .unwrap_or(DEFAULT_WIDTH)
        .min(MAX_WIDTH)
}

/// Whether lines on this stream can be overwritten.
pub fn is_live(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

fn color(stream: &impl IsTerminal) -> bool {
    is_live(stream) && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether the locale allows UTF-8. An unset locale does; a locale other than UTF-8 means ASCII.
fn unicode() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(env::var_os).find(|value| !value.is_empty());
    locale.is_none_or(|locale| speaks_utf8(&locale))
}

fn speaks_utf8(locale: &OsStr) -> bool {
    let locale = locale.to_string_lossy().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Prints to standard output. A closed pipe, as after `| head`, is not an error.
///
/// # Errors
/// Any other error of the write.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Prints to standard error. A failure is ignored, because there is nowhere left to report it.
pub fn print_error(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Text from an untrusted source, without control characters that could move the cursor or colour the terminal.
pub fn clean(text: &str) -> String {
    text.chars().filter(|&c| !c.is_control() || c == '\t').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locales() {
        assert!(speaks_utf8("en_US.UTF-8".as_ref()) && speaks_utf8("C.utf8".as_ref()));
        assert!(!speaks_utf8("C".as_ref()) && !speaks_utf8("de_DE@euro".as_ref()));
    }

    #[test]
    fn paint_only_if_colours_are_enabled() {
        let look = Look { width: 80, color: true, unicode: true };
        assert_eq!(look.paint(Style::Dim, "x"), "\x1b[2mx\x1b[0m");
        assert_eq!(Look { color: false, ..look }.paint(Style::Dim, "x"), "x");
    }

    #[test]
    fn clean_text_cannot_control_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\tc\r\u{9b}d"), "a[2Jb\tcd");
    }
}
