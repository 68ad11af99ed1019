//! Whether a program computes.

use std::fs;
use std::time::{Duration, Instant};

/// A program that uses less of a processor waits, whatever it does in between.
const BUSY: f64 = 0.05;

/// The processor time used by the descendants of this process.
pub(crate) struct Activity {
    ticks: u64,
    at: Instant,
}

impl Activity {
    pub(crate) fn begin() -> Self {
        Self { ticks: ticks_of_descendants(), at: Instant::now() }
    }

    /// Whether they have computed since the last call.
    pub(crate) fn take(&mut self) -> bool {
        let now = Self::begin();
        let used = now.ticks.saturating_sub(self.ticks);
        let passed = now.at.duration_since(self.at);
        *self = now;
        // The time of a process disappears when it ends, so a single remaining tick counts.
        used > 0 && tick().mul_f64(used as f64) >= passed.mul_f64(BUSY)
    }
}

/// The unit of processor time in /proc.
fn tick() -> Duration {
    Duration::from_secs(1) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100).max(1)
}

/// Processor time of all processes below this one, and of the children that they have waited for.
fn ticks_of_descendants() -> u64 {
    let mut pids = vec!["self".to_owned()];
    let mut ticks = 0;
    while let Some(pid) = pids.pop() {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok) {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_ascii_whitespace() {
                ticks += ticks_of(child);
                pids.push(child.to_owned());
            }
        }
    }
    ticks
}

fn ticks_of(pid: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may contain anything: utime, stime, cutime and cstime are the fields 14 to 17.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    fields.skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_program_that_computes_and_one_that_waits() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).stdout(Stdio::null()).spawn().unwrap();
        let mut activity = Activity::begin();
        // However busy the machine is, it gets a tick at some time.
        while ticks_of(&child.id().to_string()) < 20 {
            std::thread::yield_now();
        }
        let passed = activity.at.elapsed();
        assert_eq!(activity.take(), passed.mul_f64(BUSY) < tick() * 20);
        child.kill().unwrap();
        child.wait().unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut activity = Activity::begin();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!activity.take());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
