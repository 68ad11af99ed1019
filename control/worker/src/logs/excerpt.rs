//! What an error shows of an attempt's output: its last lines, the message of a crash, and what they give away.

use super::crash::Crashes;

/// The most lines that an error shows.
const MAX_LINES: usize = 20;

/// What is known of everything that an attempt prints.
#[derive(Debug, Default)]
pub(crate) struct Printed {
    /// How many lines have ended.
    ended: u64,
    crashes: Crashes,
}

impl Printed {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.ended += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.crashes.push(bytes);
    }
}

/// The last lines that an attempt has printed, and the message of its crash if a stack trace has pushed that out of them.
/// Lines that are left out are counted. `tail` is the end of its output, which has `bytes` bytes. A function of the SDK
/// prints the reason of its failure last: that is left out.
pub(crate) fn excerpt(tail: &[u8], bytes: u64, printed: &Printed, reason: &str) -> String {
    let whole = String::from_utf8_lossy(tail);
    let mut text = whole.trim_end();
    text = text.strip_suffix(reason).map_or(text, str::trim_end);
    let cut_off = whole[text.len()..].matches('\n').count() as u64;
    let total = printed.ended.saturating_sub(cut_off) + u64::from(!text.is_empty());
    // The first line of a tail is the end of one.
    if bytes > tail.len() as u64 {
        text = text.split_once('\n').map_or(text, |(_, rest)| rest);
    }
    let last: Vec<&str> = text.lines().collect();
    let begin = |lines: usize| total.saturating_sub(lines as u64);
    let (mut room, mut taken) = (last.len().min(MAX_LINES), 0);
    let mut messages = printed.crashes.messages();
    // Lines of a message take the place of others. From the last message to the first, because that may hide one more.
    messages.reverse();
    messages.retain(|message| {
        let hidden = message.at < begin(room);
        if hidden {
            taken += message.lines.len();
            room = room.min(MAX_LINES.saturating_sub(taken));
        }
        hidden
    });
    let mut shown = Shown::default();
    for message in messages.iter().rev() {
        shown.add(message.at, message.lines.iter().map(String::as_str));
    }
    shown.add(begin(room), last[last.len() - room..].iter().copied());
    shown.lines.join("\n")
}

/// Lines of an output, and how many are left out between them.
#[derive(Default)]
struct Shown {
    lines: Vec<String>,
    /// The number of the next line of the output.
    next: u64,
}

impl Shown {
    /// Adds lines, of which the first has the number `at`.
    fn add<'a>(&mut self, at: u64, lines: impl ExactSizeIterator<Item = &'a str>) {
        let words = if self.lines.is_empty() { "before" } else { "between" };
        match at.saturating_sub(self.next) {
            0 => {}
            1 => self.lines.push(format!("… 1 line {words}")),
            left_out => self.lines.push(format!("… {left_out} lines {words}")),
        }
        let repeated = self.next.saturating_sub(at) as usize;
        self.next = self.next.max(at + lines.len() as u64);
        self.lines.extend(lines.skip(repeated).map(str::to_owned));
    }
}

/// Advice for a command that seeks in a pipe, as far as its output gives that away. `pipes`: its inputs that are pipes.
pub(crate) fn seek_advice(tail: &[u8], pipes: &[String]) -> Option<String> {
    /// What programs, or the C library, print when `lseek` or `mmap` of a pipe fails, or when they find no index at its end.
    const SEEKS: [&str; 7] = [
        "illegal seek",
        "cannot seek",
        "not seekable",
        "non seekable",
        "non-seekable",
        "end-of-central-directory signature not found",
        "moov atom not found",
    ];
    let text = String::from_utf8_lossy(tail).to_lowercase();
    let line = text.lines().find(|line| SEEKS.iter().any(|pattern| line.contains(pattern)))?;
    if line.contains("output") {
        return Some(
            "it seeks in its output, which is a pipe: let it write to a file of its own, and `cat` that at the end"
                .into(),
        );
    }
    let which = match pipes {
        [] => return None,
        [one] => format!("the input `{one}`, which is a pipe"),
        _ => "an input, which is a pipe".into(),
    };
    Some(format!("it seeks in {which}: `keep: true` for the input makes it a file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, limit: usize, reason: &str) -> String {
        let mut printed = Printed::default();
        text.as_bytes().chunks(3).for_each(|chunk| printed.push(chunk));
        excerpt(&text.as_bytes()[text.len().saturating_sub(limit)..], text.len() as u64, &printed, reason)
    }

    #[test]
    fn few_lines_are_all_shown() {
        assert_eq!(of("", 100, "it failed"), "");
        assert_eq!(of("one\ntwo", 100, "it failed"), "one\ntwo");
        assert_eq!(of("one\ntwo\nit failed\n", 100, "it failed"), "one\ntwo");
        assert_eq!(of("it failed\n", 100, "it failed"), "");
    }

    #[test]
    fn many_lines_are_counted() {
        let text: String = (1..=100).map(|number| format!("line {number}\n")).collect();
        let shown = of(&text, 4096, "it failed");
        assert!(shown.starts_with("… 80 lines before\nline 81\n") && shown.ends_with("\nline 100"), "{shown}");
        // With a tail of 30 bytes only whole lines are shown.
        assert_eq!(of(&text, 30, "it failed"), "… 97 lines before\nline 98\nline 99\nline 100");
        let failed = text + "it\nfailed\n";
        assert!(of(&failed, 4096, "it\nfailed").starts_with("… 80 lines before\n"));
    }

    #[test]
    fn empty_lines_at_the_end_are_not_counted() {
        assert_eq!(of("one\n\n\n", 100, "it failed"), "one");
        assert_eq!(of("\n\n", 100, "it failed"), "");
    }

    #[test]
    fn the_message_before_a_long_stack_trace_is_shown() {
        let trace: String = (0..50).map(|frame| format!("  {frame:4}: core::ops::function\n")).collect();
        let panic = "thread 'main' panicked at src/main.rs:3:5:\nno rows\n";
        let text = format!("reading\n\n{panic}stack backtrace:\n{trace}");
        // The message is shown even where it is not in the tail that was kept.
        for limit in [100_000, 800] {
            let shown = of(&text, limit, "it failed");
            let expected = format!("… 2 lines before\n{panic}… 33 lines between\n    32: core::ops::function\n");
            assert!(shown.starts_with(&expected) && shown.ends_with("    49: core::ops::function"), "{shown}");
            assert_eq!(shown.lines().filter(|line| !line.starts_with('…')).count(), MAX_LINES);
        }
        // It is not shown twice.
        assert_eq!(
            of(&format!("{panic}stack backtrace:\n   0: main\n"), 4096, "it failed").matches("panicked").count(),
            1
        );
        let short = format!("{panic}\n{}", "after\n".repeat(18));
        let shown = of(&short, 4096, "it failed");
        assert_eq!(shown, format!("{panic}… 1 line between\n{}after", "after\n".repeat(17)));
        // Where there are two, the first and the last.
        let two = of(&format!("{panic}{trace}{panic}{trace}"), 8192, "it failed");
        assert_eq!((two.matches("no rows").count(), two.matches(" lines between").count()), (2, 2), "{two}");
    }

    #[test]
    fn a_seek_in_a_pipe_is_recognised() {
        let pipes = ["zip".to_owned()];
        for text in ["tool: Illegal seek\n", "io.UnsupportedOperation: File or stream is not seekable.\n"] {
            let advice = seek_advice(text.as_bytes(), &pipes).unwrap();
            assert!(advice.contains("`zip`") && advice.contains("`keep: true`"), "{advice}");
        }
        assert!(seek_advice(b"muxer does not support non seekable output", &pipes).unwrap().contains("its output"));
        assert_eq!(seek_advice(b"tool: Illegal seek", &[]), None, "no input is a pipe");
        assert_eq!(seek_advice(b"no such file", &pipes), None);
    }
}
