//! A rate limit for log lines that strangers can cause: the first is written at once, and then at most one each second, with
//! the number of those that it stands for.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;

/// The pause after each line.
const PAUSE: Duration = Duration::from_secs(1);

/// The rate limit of one kind of warning.
#[derive(Clone, Debug, Default)]
pub struct LogLimit(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    pausing: bool,
    /// The number of suppressed lines, and the last of them.
    held: u64,
    last: Option<Line>,
}

type Line = (SocketAddr, String);

impl LogLimit {
    /// Logs a warning about the peer at this address, or counts it. `runtime`: writes the line about suppressed ones later.
    pub fn warn(&self, runtime: &Handle, from: SocketAddr, text: String) {
        let Some((from, text)) = self.with(|lines| lines.note((from, text))) else { return };
        tracing::warn!(peer = %from, "{text}");
        let limit = self.clone();
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(PAUSE).await;
                let Some((count, (from, text))) = limit.with(Lines::after_pause) else { return };
                tracing::warn!(peer = %from, "{text} (the last of {count} in {PAUSE:?})");
            }
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut Lines) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Lines {
    /// Returns the line if it is to be written at once; a pause then begins.
    fn note(&mut self, line: Line) -> Option<Line> {
        if !std::mem::replace(&mut self.pausing, true) {
            return Some(line);
        }
        self.held += 1;
        self.last = Some(line);
        None
    }

    /// The pause is over. Returns the number of suppressed lines and the last of them, and another pause begins; `None` if there
    /// were none.
    fn after_pause(&mut self) -> Option<(u64, Line)> {
        let last = self.last.take();
        self.pausing = last.is_some();
        Some((std::mem::take(&mut self.held), last?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_and_the_others_are_counted() {
        let line = |number: u16| (SocketAddr::from(([127, 0, 0, 1], number)), format!("line {number}"));
        let mut lines = Lines::default();
        assert_eq!(lines.note(line(1)), Some(line(1)));
        assert_eq!([lines.note(line(2)), lines.note(line(3))], [None, None]);
        assert_eq!(lines.after_pause(), Some((2, line(3))));
        assert_eq!(lines.note(line(4)), None, "the pause after that line");
        assert_eq!(lines.after_pause(), Some((1, line(4))));
        assert_eq!(lines.after_pause(), None);
        assert_eq!(lines.note(line(5)), Some(line(5)));
    }
}
