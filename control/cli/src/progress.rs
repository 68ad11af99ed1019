//! The live progress of a run: a few lines at the bottom of the terminal, overwritten in place.

use std::collections::VecDeque;
use std::io::Write;

use dflow_worker::report::{Progress, Stopping};

use crate::terminal::{Look, Style};
use crate::units::{count, size};

/// The interval between redraws, in nanoseconds: short enough to look live, long enough to cost nothing.
const REDRAW_NS: u64 = 80_000_000;

/// The period over which the rate is averaged, in nanoseconds.
const RATE_NS: u64 = 2_000_000_000;

/// Draws the progress of a run, and erases it when dropped.
pub struct Live<W: Write> {
    out: W,
    workflow: String,
    look: Box<dyn Fn() -> Look + Send>,
    rate: Rate,
    drawn_at: u64,
    /// The number of lines on the terminal. The cursor is at the end of the last one.
    lines: usize,
}

impl<W: Write> Live<W> {
    /// Draws on `out`, which must be a terminal. `look` is called for each redraw, because the window may be resized.
    pub fn new(out: W, workflow: &str, look: impl Fn() -> Look + Send + 'static) -> Self {
        Self { out, workflow: workflow.into(), look: Box::new(look), rate: Rate::default(), drawn_at: 0, lines: 0 }
    }

    /// Redraws, at most once per interval. A run that ends within the first interval is never drawn.
    pub fn update(&mut self, progress: &Progress) {
        if progress.elapsed_ns < self.drawn_at.saturating_add(REDRAW_NS) {
            return;
        }
        self.drawn_at = progress.elapsed_ns;
        self.rate.add(progress.elapsed_ns, progress.bytes);
        let panel = panel(&self.workflow, progress, self.rate.per_second(), &(self.look)());
        // A single write, so that a half-drawn panel is never visible. A closed terminal does not end the run.
        let text = self.home() + &panel.join("\x1b[K\n") + "\x1b[J";
        self.lines = panel.len();
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    /// Prints permanent lines above the panel.
    pub fn print_above(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let wiped = if self.lines > 0 { self.home() + "\x1b[J" } else { String::new() };
        self.lines = 0;
        // The next update redraws the panel at once.
        self.drawn_at = 0;
        let _ = self.out.write_all((wiped + text).as_bytes()).and_then(|()| self.out.flush());
    }

    /// The sequence that moves the cursor to the start of the panel.
    fn home(&self) -> String {
        match self.lines {
            0 | 1 => "\r".into(),
            lines => format!("\r\x1b[{}A", lines - 1),
        }
    }
}

impl<W: Write> Drop for Live<W> {
    fn drop(&mut self) {
        if self.lines > 0 {
            let text = self.home() + "\x1b[J";
            let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        }
    }
}

/// The state of instances that could compute if their node were not busy with other runs.
const FOR_SLOTS: &str = "waiting for other runs' slots";

/// The lines of the panel.
fn panel(workflow: &str, progress: &Progress, bytes_per_second: u64, look: &Look) -> Vec<String> {
    let (dot, more) = (if look.unicode { "·" } else { "-" }, look.more());
    // The last column stays empty: a full line would wrap, and the cursor would move up too few lines.
    let width = look.width.saturating_sub(1);
    let states = [
        (progress.running, "computing"),
        (progress.queued, FOR_SLOTS),
        (progress.parked, "waiting"),
        (progress.waiting, "not started"),
        (progress.ended, "ended"),
    ];
    // Usually there is none, and the line is short.
    let states = states.into_iter().filter(|(number, state)| *number > 0 || *state != FOR_SLOTS);
    let states: Vec<String> = states.map(|(number, state)| format!("{number} {state}")).collect();
    let head = format!("{workflow}  {}", look.duration(progress.elapsed_ns));
    let head = fit(&head, width, more);
    let rest = fit(&states.join(&format!(" {dot} ")), width.saturating_sub(head.chars().count() + 2), more);
    let data = [
        format!("{} written, {}/s", size(progress.bytes), size(bytes_per_second)),
        format!("memory {} of {}", size(progress.memory.used_bytes), size(progress.memory.budget_bytes)),
        format!("spilled {}", size(progress.memory.spilled_bytes)),
    ];
    let rest = match &progress.stopping {
        Some(stopping) => {
            let text = stopping_text(stopping, look);
            fit(&text, width.saturating_sub(head.chars().count() + 2), more)
        }
        None => rest,
    };
    let mut lines = vec![
        format!("{}  {rest}", look.paint(Style::Bold, &head)).trim_end().to_owned(),
        fit(&data.join(&format!(" {dot} ")), width, more),
    ];
    if !progress.active.is_empty() {
        lines.push(look.paint(Style::Dim, &fit(&progress.active.join(", "), width, more)));
    }
    lines
}

/// Describes what a run that is being ended waits for.
fn stopping_text(stopping: &Stopping, look: &Look) -> String {
    let functions = count(stopping.functions, "function");
    match stopping.functions {
        0 => "stopping".into(),
        1 => format!("stopping: {functions} has {} to clean up", look.duration(stopping.left_ns)),
        _ => format!("stopping: {functions} have {} to clean up", look.duration(stopping.left_ns)),
    }
}

/// The text, truncated to a width.
fn fit(text: &str, width: usize, more: &str) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    let kept = width.saturating_sub(more.chars().count());
    text.chars().take(kept).chain(more.chars()).take(width).collect()
}

/// Bytes per second over the last [`RATE_NS`].
#[derive(Default)]
struct Rate(VecDeque<(u64, u64)>);

impl Rate {
    fn add(&mut self, nanos: u64, bytes: u64) {
        self.0.push_back((nanos, bytes));
        // Keeps one sample from before the period, so that the samples always cover it.
        while self.0.get(1).is_some_and(|&(second, _)| second.saturating_add(RATE_NS) <= nanos) {
            self.0.pop_front();
        }
    }

    fn per_second(&self) -> u64 {
        let (from, to) = match (self.0.front(), self.0.back()) {
            // The first sample is compared with the start of the run.
            (Some(_), Some(&only)) if self.0.len() == 1 => ((0, 0), only),
            (Some(&from), Some(&to)) => (from, to),
            _ => return 0,
        };
        let nanos = u128::from(to.0.saturating_sub(from.0).max(1));
        let bytes = u128::from(to.1.saturating_sub(from.1));
        u64::try_from(bytes * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use dflow_worker::report::MemoryReport;

    use super::*;

    const LOOK: Look = Look { width: 80, color: false, unicode: true };

    fn progress(elapsed_ns: u64, bytes: u64) -> Progress {
        Progress {
            elapsed_ns,
            waiting: 4,
            running: 3,
            queued: 0,
            parked: 2,
            ended: 7,
            bytes,
            memory: MemoryReport { budget_bytes: 256 << 20, used_bytes: 41 << 20, ..MemoryReport::default() },
            active: ["split", "count[0]", "count[1]"].map(Into::into).to_vec(),
            stopping: None,
        }
    }

    #[test]
    fn three_lines_that_fit() {
        assert_eq!(
            panel("wordcount", &progress(12_300_000_000, 1 << 30), 800 << 20, &LOOK),
            [
                "wordcount  12.3 s  3 computing · 2 waiting · 4 not started · 7 ended",
                "1.00 GiB written, 800 MiB/s · memory 41.0 MiB of 256 MiB · spilled 0 B",
                "split, count[0], count[1]",
            ]
        );
        for width in 0..100 {
            let look = Look { width, unicode: false, ..LOOK };
            for line in panel("wordcount", &progress(12_300, 1 << 30), 800 << 20, &look) {
                assert!(line.trim_end().chars().count() < width.max(1), "{width}: {line:?}");
                assert!(line.is_ascii(), "{line}");
            }
        }
    }

    #[test]
    fn instances_that_wait_for_other_runs_are_told_apart() {
        let progress = Progress { queued: 5, ..progress(1_000_000_000, 0) };
        let line = panel("w", &progress, 0, &Look { width: 120, ..LOOK }).swap_remove(0);
        let expected = "w  1.00 s  3 computing · 5 waiting for other runs' slots · 2 waiting · 4 not started · 7 ended";
        assert_eq!(line, expected);
    }

    #[test]
    fn a_run_that_is_being_ended_shows_what_it_waits_for() {
        let at = |functions, left_ns| {
            let stopping = Some(Stopping { functions, left_ns });
            panel("w", &Progress { stopping, ..progress(1_000_000_000, 0) }, 0, &LOOK).swap_remove(0)
        };
        assert_eq!(at(2, 3_000_000_000), "w  1.00 s  stopping: 2 functions have 3.00 s to clean up");
        assert_eq!(at(1, 900_000_000), "w  1.00 s  stopping: 1 function has 900 ms to clean up");
        assert_eq!(at(0, 0), "w  1.00 s  stopping");
    }

    #[test]
    fn draws_in_place_and_wipes() {
        let mut terminal = Vec::new();
        let mut live = Live::new(&mut terminal, "w", || LOOK);
        live.update(&progress(50_000_000, 1));
        live.update(&progress(100_000_000, 1));
        live.update(&progress(150_000_000, 1));
        live.update(&progress(200_000_000, 1));
        drop(live);
        let text = String::from_utf8(terminal).unwrap();
        assert!(text.starts_with("\rw  100 ms"), "{text:?}");
        assert_eq!(text.matches("computing").count(), 2, "{text:?}");
        assert_eq!(text.matches("\r\x1b[2A").count(), 2, "{text:?}");
        assert!(text.ends_with("\x1b[2A\x1b[J"), "{text:?}");
    }

    #[test]
    fn lines_that_stay_are_above() {
        let mut terminal = Vec::new();
        let mut live = Live::new(&mut terminal, "w", || LOOK);
        live.update(&progress(100_000_000, 1));
        live.print_above("qc[1] | hello\n");
        live.update(&progress(200_000_000, 1));
        drop(live);
        let text = String::from_utf8(terminal).unwrap();
        assert!(text.contains("\r\x1b[2A\x1b[Jqc[1] | hello\n\rw  200 ms"), "{text:?}");
    }

    #[test]
    fn a_run_that_ends_at_once_is_never_drawn() {
        let mut terminal = Vec::new();
        Live::new(&mut terminal, "w", || LOOK).update(&progress(50_000_000, 1));
        assert!(terminal.is_empty());
    }

    #[test]
    fn the_rate_is_of_the_last_moments() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(), 0);
        rate.add(500_000_000, 1000);
        assert_eq!(rate.per_second(), 2000);
        for tenth in 6..=100 {
            rate.add(tenth * 100_000_000, 1000);
        }
        assert_eq!(rate.per_second(), 0);
        rate.add(10_100_000_000, 5000);
        assert_eq!(rate.per_second(), 2000);
        assert!(rate.0.len() <= 22);
    }
}
