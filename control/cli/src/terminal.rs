//! What standard output and standard error can show, and printing on them.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use crate::units;

/// The width where there is no terminal to ask.
const DEFAULT_WIDTH: usize = 100;

/// The widest that anything is drawn; bars longer than this say nothing more.
const MAX_WIDTH: usize = 200;

/// How text for a person may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Columns.
    pub width: usize,
    /// Colours are welcome.
    pub color: bool,
    /// Characters beyond ASCII are welcome.
    pub unicode: bool,
}

impl Look {
    /// How text on this stream may look.
    pub fn of(stream: &(impl AsFd + IsTerminal)) -> Self {
        Self { width: width(stream), color: color(stream), unicode: unicode() }
    }

    /// Stands for what is left out.
    pub fn more(&self) -> &'static str {
        if self.unicode { "…" } else { "..." }
    }

    /// A duration as [`units::duration`] writes it, in ASCII if it has to be.
    pub fn duration(&self, nanos: u64) -> String {
        let text = units::duration(nanos);
        if self.unicode { text } else { text.replace('µ', "u") }
    }

    /// The text with a colour or a style, if colours are welcome.
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

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Bold.
    Bold,
    /// Less visible than the rest.
    Dim,
    /// Something is wrong.
    Red,
    /// Something is good.
    Green,
    /// Something deserves a look.
    Yellow,
    /// An accent.
    Cyan,
}

/// The width: what `COLUMNS` says, else the terminal, else 100.
pub fn width(stream: &impl AsFd) -> usize {
    let stated = env::var("COLUMNS").ok().and_then(|text| text.parse::<usize>().ok());
    let terminal = || rustix::termios::tcgetwinsize(stream).ok().map(|size| usize::from(size.ws_col));
    stated
        .filter(|&width| width > 0)
        .or_else(|| terminal().filter(|&width| width > 0))
        .unwrap_or(DEFAULT_WIDTH)
        .min(MAX_WIDTH)
}

/// Whether a line on this stream can be drawn over.
pub fn is_live(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

fn color(stream: &impl IsTerminal) -> bool {
    is_live(stream) && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A locale that is not set says nothing; one that is set and is not UTF-8 means ASCII.
fn unicode() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(env::var_os).find(|value| !value.is_empty());
    locale.is_none_or(|locale| speaks_utf8(&locale))
}

fn speaks_utf8(locale: &OsStr) -> bool {
    let locale = locale.to_string_lossy().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Prints on standard output. That nobody reads it any more, as after `| head`, is no error.
///
/// # Errors
/// Anything else that keeps the text from being written.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Prints on standard error. There is no place left to report it if that fails.
pub fn print_error(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Text that came from elsewhere, without what could move the cursor or colour the terminal.
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
    fn paint_only_where_colours_are_welcome() {
        let look = Look { width: 80, color: true, unicode: true };
        assert_eq!(look.paint(Style::Dim, "x"), "\x1b[2mx\x1b[0m");
        assert_eq!(Look { color: false, ..look }.paint(Style::Dim, "x"), "x");
    }

    #[test]
    fn clean_text_cannot_control_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\tc\r\u{9b}d"), "a[2Jb\tcd");
    }
}
