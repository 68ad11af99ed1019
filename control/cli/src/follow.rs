//! The terminal during a run: the live panel, and with `--follow` every line that functions print.
//!
//! A separate thread draws, so that a stopped terminal (Ctrl-S) or a pager does not stop the run. If its queue is full,
//! output is not shown but counted; the logs have it nevertheless.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use dflow_worker::report::Progress;
use dflow_worker::{Output, Update};

use crate::error;
use crate::progress::Live;
use crate::terminal::{Look, Style, clean};

/// Maximum number of updates that wait to be drawn.
const MAX_QUEUED: usize = 256;

/// Maximum length of a line; a longer one is shown in pieces.
const MAX_LINE: usize = 4 << 10;

/// Shows the progress of a run. Dropping it erases the live panel.
pub struct Screen {
    updates: Option<SyncSender<Shown>>,
    drawing: Option<JoinHandle<()>>,
    follow: bool,
    /// Bytes of output that did not fit into the queue.
    left_out: u64,
}

enum Shown {
    Progress(Progress),
    Output(Output),
    Ended(String, u32),
    Note(String),
    LeftOut(u64),
}

impl Screen {
    /// Shows a run on standard error: its progress with `live`, what its functions print with `follow`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start<W: Write + Send + 'static>(live: Option<Live<W>>, follow: bool) -> io::Result<Self> {
        let (updates, received) = sync_channel(MAX_QUEUED);
        let drawing = std::thread::Builder::new().name("dflow-screen".into()).spawn(move || draw(live, &received))?;
        Ok(Self { updates: Some(updates), drawing: Some(drawing), follow, left_out: 0 })
    }

    /// Queues an update; never blocks.
    pub fn update(&mut self, update: Update<'_>) {
        let shown = match update {
            Update::Progress(progress) => Shown::Progress(progress.clone()),
            Update::Output(output) if self.follow => Shown::Output(output.clone()),
            Update::Ended { instance, attempt } if self.follow => Shown::Ended(instance.to_owned(), attempt),
            Update::Note(note) => Shown::Note(note.to_owned()),
            Update::Output(_) | Update::Ended { .. } => return,
        };
        let Some(updates) = &self.updates else { return };
        if self.left_out > 0 && updates.try_send(Shown::LeftOut(self.left_out)).is_ok() {
            self.left_out = 0;
        }
        if let Err(TrySendError::Full(Shown::Output(output))) = updates.try_send(shown) {
            self.left_out += output.bytes.len() as u64;
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.updates = None;
        if let Some(drawing) = self.drawing.take() {
            let _ = drawing.join();
        }
    }
}

fn draw<W: Write>(mut live: Option<Live<W>>, updates: &Receiver<Shown>) {
    let look = Look::of(&io::stderr());
    let mut lines = Lines::default();
    let print = |live: &mut Option<Live<W>>, text: &str| match live {
        Some(live) => live.print_above(text),
        None => crate::terminal::print_error(text),
    };
    for update in updates {
        match update {
            Shown::Progress(progress) => {
                if let Some(live) = &mut live {
                    live.update(&progress);
                }
            }
            Shown::Output(output) => print(&mut live, &lines.add(&output, &look)),
            Shown::Ended(instance, attempt) => print(&mut live, &lines.end(&instance, attempt, &look)),
            Shown::Note(note) => print(&mut live, &error::render_note(&look, &note)),
            Shown::LeftOut(bytes) => print(&mut live, &format!("… {bytes} bytes are not shown …\n")),
        }
    }
}

/// Joins the output of functions to lines, each prefixed with its instance.
#[derive(Default)]
pub struct Lines {
    /// The beginnings of incomplete lines.
    partial: HashMap<(String, u32), Vec<u8>>,
}

impl Lines {
    /// Adds output, and returns the lines that are now complete, each with a line feed.
    pub fn add(&mut self, output: &Output, look: &Look) -> String {
        let mut text = String::new();
        if output.lost > 0 {
            text += &line(&output.instance, format!("… {} bytes were lost …", output.lost).as_bytes(), look);
        }
        let partial = self.partial.entry((output.instance.clone(), output.attempt)).or_default();
        for piece in output.bytes.split_inclusive(|byte| *byte == b'\n') {
            partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") || partial.len() >= MAX_LINE {
                text += &line(&output.instance, partial, look);
                partial.clear();
            }
        }
        text
    }

    /// Returns the last line of an attempt that has ended, if it has no line feed.
    pub fn end(&mut self, instance: &str, attempt: u32, look: &Look) -> String {
        match self.partial.remove(&(instance.to_owned(), attempt)) {
            Some(partial) if !partial.is_empty() => line(instance, &partial, look),
            _ => String::new(),
        }
    }
}

fn line(instance: &str, bytes: &[u8], look: &Look) -> String {
    let text = String::from_utf8_lossy(bytes);
    format!("{} {}\n", look.paint(Style::Cyan, &format!("{instance} |")), clean(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Look = Look { width: 80, color: false, unicode: true };

    fn output(instance: &str, bytes: &[u8]) -> Output {
        Output { instance: instance.into(), attempt: 1, bytes: bytes.into(), lost: 0 }
    }

    #[test]
    fn lines_are_whole_and_carry_their_instance() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(&output("qc[1]", b"one\ntw"), &LOOK), "qc[1] | one\n");
        assert_eq!(lines.add(&output("qc[2]", b"\x1b[31mred\xff\n"), &LOOK), "qc[2] | [31mred\u{fffd}\n");
        assert_eq!(lines.add(&output("qc[1]", b"o\n\nend"), &LOOK), "qc[1] | two\nqc[1] | \n");
        assert_eq!(lines.end("qc[1]", 1, &LOOK), "qc[1] | end\n");
        assert_eq!(lines.end("qc[2]", 1, &LOOK), "");
    }

    #[test]
    fn a_line_without_end_is_shown_in_pieces() {
        let mut lines = Lines::default();
        let text = lines.add(&output("a", &[b'x'; 10_000]), &LOOK);
        assert!(text.len() > MAX_LINE, "{}", text.len());
        let lost = Output { lost: 5, ..output("a", b"") };
        assert_eq!(lines.add(&lost, &LOOK), "a | … 5 bytes were lost …\n");
    }
}
