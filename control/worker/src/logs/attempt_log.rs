//! One attempt's log: the first and the last bytes that it printed.
//!
//! The file grows until it holds the beginning and twice the end. Then the end moves forward over the middle. This
//! happens in place, because ext4 flushes a file that replaces another by a rename. If dflow is killed in between, a
//! part of the end may appear twice.

use super::budget::RunBudget;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Maximum number of bytes that are skipped so that the end begins with a whole line.
const MAX_PARTIAL_LINE: usize = 4 << 10;

#[derive(Debug)]
pub(super) struct AttemptLog {
    path: PathBuf,
    limits: Limits,
    /// The size of the file.
    size: u64,
    /// The offset of the end: after the line about the omitted bytes.
    end_at: u64,
    /// The number of omitted bytes of the middle.
    left_out: u64,
    /// The run's budget is used up: no more bytes are kept.
    full: bool,
}

/// Maximum number of bytes of the beginning and of the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    beginning: u64,
    end: u64,
}

impl Limits {
    /// A quarter for the beginning.
    pub(super) fn of(attempt_bytes: u64) -> Self {
        let beginning = attempt_bytes / 4;
        Self { beginning, end: attempt_bytes - beginning }
    }
}

impl AttemptLog {
    /// A log that has no file until something is appended.
    pub(super) fn new(path: PathBuf, limits: Limits) -> Self {
        Self { path, limits, size: 0, end_at: limits.beginning, left_out: 0, full: false }
    }

    /// Appends output; `lost` bytes before it were dropped.
    ///
    /// # Errors
    /// If the file cannot be written; the log is then unchanged, or ends with a part of the bytes.
    pub(super) fn append(&mut self, bytes: &[u8], lost: u64, budget: &mut RunBudget) -> io::Result<()> {
        if lost > 0 {
            self.write(note(&format!("{lost} bytes were lost on the way to this log")).as_bytes(), budget)?;
        }
        self.write(bytes, budget)
    }

    fn write(&mut self, bytes: &[u8], budget: &mut RunBudget) -> io::Result<()> {
        if self.full || bytes.is_empty() {
            return Ok(());
        }
        let grown = self.size + bytes.len() as u64;
        if !budget.resize(self.size, grown) {
            self.full = true;
            let last = note(&format!("the rest is left out: the logs of this run take {} bytes", budget.limit()));
            return self.write_at_end(last.as_bytes());
        }
        self.write_at_end(bytes)?;
        if self.size > self.limits.beginning + 2 * self.limits.end {
            self.leave_out_middle(budget)?;
        }
        Ok(())
    }

    /// The attempt has ended: the file gets its final size.
    ///
    /// # Errors
    /// If the file cannot be rewritten.
    pub(super) fn close(mut self, budget: &mut RunBudget) -> io::Result<()> {
        if self.size > self.end_at + self.limits.end { self.leave_out_middle(budget) } else { Ok(()) }
    }

    fn write_at_end(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Opened for each write: ten thousand logs would need as many descriptors.
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn leave_out_middle(&mut self, budget: &mut RunBudget) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let mut beginning = vec![0; self.limits.beginning as usize];
        file.read_exact_at(&mut beginning, 0)?;
        let mut end = vec![0; self.limits.end as usize];
        file.read_exact_at(&mut end, self.size - self.limits.end)?;
        let partial = end.iter().take(MAX_PARTIAL_LINE).position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let end = &end[partial..];
        self.left_out += self.size - self.end_at - end.len() as u64;

        if beginning.last().is_some_and(|byte| *byte != b'\n') {
            beginning.push(b'\n');
        }
        beginning.extend(format!("… {} bytes left out …\n", self.left_out).bytes());
        let end_at = beginning.len() as u64;
        beginning.extend_from_slice(end);
        file.write_all_at(&beginning, 0)?;
        file.set_len(beginning.len() as u64)?;
        let size = beginning.len() as u64;
        budget.resize(self.size, size);
        (self.size, self.end_at) = (size, end_at);
        Ok(())
    }
}

/// A line by dflow among the lines of the program.
fn note(text: &str) -> String {
    format!("\n… {text} …\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Fixture {
        folder: tempfile::TempDir,
        log: AttemptLog,
        budget: RunBudget,
    }

    impl Fixture {
        fn new(attempt_bytes: u64, run_bytes: u64) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let log = AttemptLog::new(folder.path().join("a.1.log"), Limits::of(attempt_bytes));
            Self { folder, log, budget: RunBudget::new(run_bytes) }
        }

        fn append(&mut self, bytes: impl AsRef<[u8]>) {
            self.log.append(bytes.as_ref(), 0, &mut self.budget).unwrap();
        }

        fn text(&self) -> String {
            String::from_utf8(fs::read(self.folder.path().join("a.1.log")).unwrap()).unwrap()
        }

        fn close(mut self) -> String {
            self.log.close(&mut self.budget).unwrap();
            String::from_utf8(fs::read(self.folder.path().join("a.1.log")).unwrap()).unwrap()
        }
    }

    #[test]
    fn bytes_are_kept_as_they_are_and_are_there_at_once() {
        let mut log = Fixture::new(8192, 1 << 20);
        assert!(!log.folder.path().join("a.1.log").exists(), "a silent attempt has no file");
        log.append(b"no end of line, \x1b[31mred\x1b[0m, ");
        assert_eq!(log.text(), "no end of line, \x1b[31mred\x1b[0m, ");
        log.append(b"\xc3");
        log.append(b"\xa9");
        assert_eq!(log.close(), "no end of line, \x1b[31mred\x1b[0m, é");
    }

    #[test]
    fn the_middle_is_left_out_and_counted() {
        // The beginning ends within a line.
        let mut log = Fixture::new(4100, 1 << 20);
        let lines: Vec<String> = (0..20_000).map(|number| format!("line {number}\n")).collect();
        for line in &lines {
            log.append(line);
            assert!(log.text().len() <= 1025 + 2 * 3075 + 64, "it is bounded while it grows");
        }
        let text = log.close();
        assert!(text.starts_with("line 0\nline 1\n") && text.ends_with("line 19998\nline 19999\n"), "{text}");
        assert!(text.len() <= 4100 + 64, "{}", text.len());
        let (kept, left_out): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| !line.starts_with('…'));
        let [left_out] = left_out[..] else { panic!("{left_out:?}") };
        let total: usize = lines.iter().map(String::len).sum();
        // A line feed follows the line that the beginning cuts off.
        let kept: usize = kept.iter().map(|line| line.len() + 1).sum::<usize>() - 1;
        assert_eq!(left_out, format!("… {} bytes left out …", total - kept));
    }

    #[test]
    fn a_chunk_larger_than_the_limits_is_cut() {
        let mut log = Fixture::new(4096, 1 << 20);
        log.append("x".repeat(100_000));
        let text = log.close();
        assert!(text.len() <= 4096 + 64 && text.contains("bytes left out"), "{}", text.len());
    }

    #[test]
    fn a_run_that_prints_too_much_says_so_once() {
        let mut log = Fixture::new(1 << 20, 8192);
        for _ in 0..100 {
            log.append("0123456789".repeat(100));
        }
        let text = log.close();
        assert!(text.ends_with("\n… the rest is left out: the logs of this run take 8192 bytes …\n"), "{text}");
        assert_eq!((text.matches('…').count(), text.len() < 8300), (2, true));
    }

    #[test]
    fn lost_bytes_are_counted_where_they_are_missing() {
        let mut log = Fixture::new(4096, 1 << 20);
        log.append("a");
        log.log.append(b"b\n", 7, &mut log.budget).unwrap();
        assert_eq!(log.close(), "a\n… 7 bytes were lost on the way to this log …\nb\n");
    }
}
