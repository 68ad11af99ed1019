//! Processes that a program has left behind, and that hold its outputs open.

use rustix::fs::{fstat, stat};
use std::collections::HashSet;
use std::fmt::Write;
use std::fs::read_dir;
use std::os::fd::AsFd;

/// Processes are named up to this number.
const MAX_NAMED: usize = 3;

/// The pipes of a program's outputs.
pub(crate) struct OutputPipes(HashSet<u64>);

impl OutputPipes {
    /// `ends`: this process's ends of them.
    pub(crate) fn of<'a, Fd: AsFd + 'a>(ends: impl IntoIterator<Item = &'a Fd>) -> Self {
        Self(ends.into_iter().filter_map(|end| Some(fstat(end).ok()?.st_ino)).collect())
    }

    /// Other processes that have one of them open, as `process 17 (sleep)`; `None` if none can be seen.
    pub(crate) fn holders(&self) -> Option<String> {
        let own = std::process::id();
        let pids = read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let mut holders = pids.filter(|pid| *pid != own && self.is_open_in(*pid));
        let mut text = String::new();
        for pid in holders.by_ref().take(MAX_NAMED) {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let separator = if text.is_empty() { "process" } else { ", process" };
            write!(text, "{separator} {pid} ({})", name.trim()).ok()?;
        }
        if holders.next().is_some() {
            text.push_str(", …");
        }
        (!text.is_empty()).then_some(text)
    }

    /// Those of other users cannot be seen.
    fn is_open_in(&self, pid: u32) -> bool {
        let descriptors = read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        descriptors.filter_map(Result::ok).any(|entry| {
            // A file on another file system may have the same inode number as the pipe.
            let is_pipe = entry.path().read_link().is_ok_and(|target| target.to_string_lossy().starts_with("pipe:"));
            is_pipe && stat(entry.path()).is_ok_and(|status| self.0.contains(&status.st_ino))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn holders_of_a_pipe_are_found() {
        let (reader, writer) = std::io::pipe().unwrap();
        let pipes = OutputPipes::of([&reader]);
        assert_eq!(pipes.holders(), None, "this process does not count");
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).stdout(writer).spawn().unwrap();
        assert_eq!(pipes.holders(), Some(format!("process {} (sleep)", child.id())));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(pipes.holders(), None);
    }
}
