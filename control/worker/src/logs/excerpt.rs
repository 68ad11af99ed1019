//! What an error shows of an attempt's output: its last lines, and what they give away.

/// The most lines that an error shows.
const MAX_LINES: usize = 20;

/// Counts the lines that an attempt prints.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lines {
    ended: u64,
    open: bool,
}

impl Lines {
    pub(crate) fn count(&mut self, bytes: &[u8]) {
        self.ended += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.open = bytes.last().map_or(self.open, |last| *last != b'\n');
    }

    fn total(self) -> u64 {
        self.ended + u64::from(self.open)
    }
}

/// The last lines that an attempt has printed, and before them how many there are more. `tail` is the end of its output, which
/// has `bytes` bytes. A function of the SDK prints the reason of its failure last: that is left out.
pub(crate) fn excerpt(tail: &[u8], bytes: u64, lines: Lines, reason: &str) -> String {
    let text = String::from_utf8_lossy(tail);
    let mut text = text.trim_end();
    let mut total = lines.total();
    if let Some(rest) = text.strip_suffix(reason) {
        total = total.saturating_sub(reason.lines().count() as u64);
        text = rest.trim_end();
    }
    // The first line of a tail is the end of one.
    if bytes > tail.len() as u64
        && let Some((_, rest)) = text.split_once('\n')
    {
        text = rest;
    }
    let shown: Vec<&str> = text.lines().collect();
    let shown = &shown[shown.len().saturating_sub(MAX_LINES)..];
    let before = total.saturating_sub(shown.len() as u64);
    match (before, shown) {
        (_, []) => String::new(),
        (0, shown) => shown.join("\n"),
        (1, shown) => format!("… 1 line before\n{}", shown.join("\n")),
        (before, shown) => format!("… {before} lines before\n{}", shown.join("\n")),
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
        let mut lines = Lines::default();
        text.as_bytes().chunks(3).for_each(|chunk| lines.count(chunk));
        excerpt(&text.as_bytes()[text.len().saturating_sub(limit)..], text.len() as u64, lines, reason)
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
