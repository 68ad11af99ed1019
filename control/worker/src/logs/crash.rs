//! Messages by which language runtimes report a crash.
//!
//! Most runtimes print a stack trace after the message, which is often longer than what an error quotes of an attempt's
//! output, and sometimes longer than the tail that the launcher keeps. So the messages are picked out of the output
//! while it passes.

/// How much of a line is kept, in bytes.
const MAX_LINE: usize = 400;
/// The most lines of one message.
const MAX_LINES: usize = 4;

/// The first and the last crash message of an attempt. The first is usually the cause; where a program prints several
/// (an interpreter that reports a worker's failure, then its own), the last is what ended it.
#[derive(Debug, Default)]
pub(crate) struct Crashes {
    /// How many lines have ended.
    ended: u64,
    /// The beginning of the present line.
    line: Vec<u8>,
    state: State,
    first: Option<Message>,
    last: Option<Message>,
}

/// A crash message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The number of its first line in the output, from 0.
    pub(crate) at: u64,
    pub(crate) lines: Vec<String>,
}

/// Where in a crash report the present line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Elsewhere,
    /// Within a message; the kind says which lines continue it.
    Message(Kind),
    /// Within a Python stack trace, which comes before its message.
    Traceback,
}

/// How a message continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OneLine,
    /// A message of any number of lines, then the stack trace or a note about it.
    Rust,
    /// `what():` in the second line.
    Cpp,
    /// The error in the line after its place.
    Fortran,
    /// The signal in the line after the reason.
    Go,
}

impl Crashes {
    /// The attempt has printed more.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
    }

    /// The first message and the last, which may be the same.
    pub(crate) fn messages(&self) -> Vec<&Message> {
        let last = self.last.as_ref().filter(|last| self.first.as_ref() != Some(last));
        self.first.iter().chain(last).collect()
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        let state = self.state;
        self.state = match state {
            State::Message(kind) if kind.continues(text) && self.add(text) => State::Message(kind),
            State::Traceback if text.is_empty() || text.starts_with(' ') => State::Traceback,
            State::Traceback => self.begin(text, Kind::OneLine),
            State::Message(_) | State::Elsewhere if text.starts_with("Traceback (most recent call last)") => {
                State::Traceback
            }
            State::Message(_) | State::Elsewhere => match Kind::of(text) {
                Some(kind) => self.begin(text, kind),
                None => State::Elsewhere,
            },
        };
        self.ended += 1;
        self.line = line;
        self.line.clear();
    }

    fn begin(&mut self, text: &str, kind: Kind) -> State {
        let message = Message { at: self.ended, lines: vec![text.to_owned()] };
        self.first.get_or_insert_with(|| message.clone());
        self.last = Some(message);
        State::Message(kind)
    }

    /// Adds a line to the present message; `false` if that is as long as it may be.
    fn add(&mut self, text: &str) -> bool {
        let at = self.last.as_ref().map(|last| last.at);
        let mut fits = false;
        for message in self.first.iter_mut().chain(&mut self.last).filter(|message| Some(message.at) == at) {
            fits = message.lines.len() < MAX_LINES;
            if fits {
                message.lines.push(text.to_owned());
            }
        }
        fits
    }
}

impl Kind {
    /// The kind of message that begins with this line.
    fn of(line: &str) -> Option<Self> {
        const STARTS: [(&str, Kind); 12] = [
            ("terminate called", Kind::Cpp),
            ("At line ", Kind::Fortran),
            ("Fortran runtime error", Kind::OneLine),
            ("forrtl: ", Kind::OneLine),
            ("panic: ", Kind::Go),
            ("fatal error: ", Kind::Go),
            ("Exception in thread ", Kind::OneLine),
            ("Caused by: ", Kind::OneLine),
            ("ERROR: ", Kind::OneLine),
            ("Error in ", Kind::OneLine),
            ("Uncaught ", Kind::OneLine),
            ("FATAL", Kind::OneLine),
        ];
        if line.starts_with("thread '") && line.contains("panicked at") {
            return Some(Self::Rust);
        }
        let starts = STARTS.iter().find(|(start, _)| line.starts_with(start)).map(|(_, kind)| *kind);
        starts.or_else(|| {
            // `TypeError: …`, `java.io.IOException: …`
            let name = line.split_once(": ").map_or("", |(name, _)| name);
            let exception = (name.ends_with("Error") || name.ends_with("Exception")) && !name.contains(' ');
            let sanitizer = line.starts_with("==") && line.contains("==ERROR: ");
            let assertion = line.contains(": Assertion `");
            let glibc = line.starts_with("*** ") && line.contains(" detected ***");
            (exception || sanitizer || assertion || glibc).then_some(Self::OneLine)
        })
    }

    /// Whether this line belongs to a message of this kind that has begun before it.
    fn continues(self, line: &str) -> bool {
        match self {
            Self::OneLine => false,
            Self::Rust => !line.is_empty() && line != "stack backtrace:" && !line.starts_with("note: "),
            Self::Cpp => line.trim_start().starts_with("what():"),
            Self::Fortran => line.starts_with("Fortran runtime error"),
            Self::Go => line.starts_with("[signal "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages in an output, with a stack trace around each; read in pieces of every small size.
    fn of(output: &str) -> Vec<(u64, String)> {
        let found = |size: usize| {
            let mut crashes = Crashes::default();
            output.as_bytes().chunks(size).for_each(|chunk| crashes.push(chunk));
            let messages = crashes.messages().into_iter().map(|message| (message.at, message.lines.join("\n")));
            messages.collect::<Vec<_>>()
        };
        let whole = found(output.len().max(1));
        for size in 1..20 {
            assert_eq!(found(size), whole, "in pieces of {size} bytes");
        }
        whole
    }

    #[track_caller]
    fn assert_message(output: &str, message: &str) {
        let trace: String =
            (0..50).map(|frame| format!("  {frame}: somewhere\n             at /src/main:{frame}\n")).collect();
        let found = of(&format!("starting\n{output}\n{trace}"));
        assert_eq!(found.last().map(|(_, text)| text.as_str()), Some(message));
    }

    #[test]
    fn the_message_of_each_runtime_is_found() {
        let rust = "\nthread 'main' (71) panicked at src/main.rs:3:5:\nfirst line\nsecond line\nstack backtrace:";
        assert_message(rust, "thread 'main' (71) panicked at src/main.rs:3:5:\nfirst line\nsecond line");
        let old = "thread 'main' panicked at 'boom', src/main.rs:3:5\nnote: run with `RUST_BACKTRACE=1`";
        assert_message(old, "thread 'main' panicked at 'boom', src/main.rs:3:5");
        let python =
            "Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\n    f()\nmine.Oops: no rows";
        assert_message(python, "mine.Oops: no rows");
        let cpp = "terminate called after throwing an instance of 'std::runtime_error'\n  what():  no rows\nAborted";
        assert_message(cpp, "terminate called after throwing an instance of 'std::runtime_error'\n  what():  no rows");
        let fortran =
            "At line 7 of file solve.f90\nFortran runtime error: End of file\n\nError termination. Backtrace:";
        assert_message(fortran, "At line 7 of file solve.f90\nFortran runtime error: End of file");
        assert_message("forrtl: severe (24): end-of-file during read", "forrtl: severe (24): end-of-file during read");
        let go = "panic: runtime error: nil map\n[signal SIGSEGV: segmentation violation]\n\ngoroutine 1 [running]:";
        assert_message(go, "panic: runtime error: nil map\n[signal SIGSEGV: segmentation violation]");
        let java = "Exception in thread \"main\" java.io.IOException: gone";
        assert_message(java, java);
        for line in [
            "TypeError: x is not a function",
            "==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x6",
            "prog: a.c:3: main: Assertion `n > 0' failed.",
            "*** stack smashing detected ***: terminated",
            "Error in solve.default(m) : singular matrix",
            "ERROR: LoadError: DomainError with -1.0:",
        ] {
            assert_message(line, line);
        }
    }

    #[test]
    fn other_lines_are_no_messages() {
        for line in ["reading", "2 errors: none fatal", "panicked at nothing", "Error rate: 0.1", "error: 3 files"] {
            assert_eq!(of(&format!("{line}\n{line}\n")), [], "{line}");
        }
    }

    #[test]
    fn the_first_and_the_last_of_many_are_kept() {
        let many: String = (0..9).map(|number| format!("\nthread 'w{number}' panicked at x:\nboom\n")).collect();
        let panic = |number: u64| (3 * number + 1, format!("thread 'w{number}' panicked at x:\nboom"));
        assert_eq!(of(&many), [panic(0), panic(8)]);
    }

    #[test]
    fn messages_are_bounded() {
        let long = format!("thread 'main' panicked at x:\n{}\n{}", "y".repeat(10_000), "line\n".repeat(100));
        let found = of(&long);
        let [(0, text)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((text.lines().count(), text.len()), (MAX_LINES, 28 + MAX_LINE + 2 * 4 + 3));
    }
}
