//! What has passed between two nodes for each run.

use crate::ids::RunId;
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::HashMap;

/// What of one run passes between two nodes, as one of them counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]
pub struct RunTraffic {
    /// Stream bytes that were sent, including those that were sent again after a lost path.
    pub sent: u64,
    /// Stream bytes that have arrived, including those that were sent again after a lost path.
    pub received: u64,
    /// Streams that come from the peer at present.
    pub streams_in: u64,
    /// Streams that the peer reads at present.
    pub streams_out: u64,
}

/// The traffic of all runs on a link.
///
/// The peer may subscribe to streams of any run. So the figures of a run stay only while they are kept ([`Traffic::keep`])
/// or the run has streams on the link, of which there can be only so many.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    runs: HashMap<RunId, Figures>,
    changed: Vec<RunId>,
}

#[derive(Debug, Default)]
struct Figures {
    traffic: RunTraffic,
    is_kept: bool,
    /// It is in the list of those that have changed.
    has_changed: bool,
}

impl Figures {
    fn is_over(&self) -> bool {
        !self.is_kept && self.traffic.streams_in == 0 && self.traffic.streams_out == 0
    }
}

impl Traffic {
    /// Keeps the figures of a run until [`Traffic::release`].
    pub(super) fn keep(&mut self, run: RunId) {
        self.runs.entry(run).or_default().is_kept = true;
    }

    /// The figures of a run are not needed any more.
    pub(super) fn release(&mut self, run: RunId) {
        if let Some(figures) = self.runs.get_mut(&run) {
            figures.is_kept = false;
            if figures.is_over() {
                self.runs.remove(&run);
            }
        }
    }

    pub(super) fn get(&self, run: RunId) -> Option<RunTraffic> {
        Some(self.runs.get(&run)?.traffic)
    }

    /// Changes the figures of a run.
    pub(super) fn note(&mut self, run: RunId, change: impl FnOnce(&mut RunTraffic)) {
        let figures = self.runs.entry(run).or_default();
        change(&mut figures.traffic);
        if figures.is_over() {
            self.runs.remove(&run);
        } else if figures.is_kept && !std::mem::replace(&mut figures.has_changed, true) {
            self.changed.push(run);
        }
    }

    /// The kept figures that have changed since the last call.
    pub(super) fn take_changed(&mut self) -> Vec<(RunId, RunTraffic)> {
        let changed = std::mem::take(&mut self.changed);
        let current = changed.into_iter().filter_map(|run| {
            let figures = self.runs.get_mut(&run)?;
            figures.has_changed = false;
            figures.is_kept.then_some((run, figures.traffic))
        });
        current.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_a_run_stay_as_long_as_they_are_kept_or_it_has_streams() {
        let (mut traffic, known, unknown) = (Traffic::default(), RunId(1), RunId(2));
        traffic.note(unknown, |run| run.streams_out += 1);
        traffic.note(unknown, |run| run.streams_out -= 1);
        assert!(traffic.runs.is_empty(), "a stream of a run that is not known here");
        traffic.keep(known);
        traffic.note(known, |run| run.streams_in += 1);
        traffic.note(known, |run| run.received += 5);
        let figures = RunTraffic { received: 5, streams_in: 1, ..RunTraffic::default() };
        assert_eq!(traffic.take_changed(), [(known, figures)]);
        assert!(traffic.take_changed().is_empty());
        traffic.note(known, |run| run.streams_in -= 1);
        assert_eq!(traffic.get(known).map(|run| run.received), Some(5), "between two streams");
        traffic.note(known, |run| run.streams_in += 1);
        traffic.release(known);
        assert!(traffic.take_changed().is_empty(), "they are of no interest any more");
        traffic.note(known, |run| run.received += 1);
        traffic.note(known, |run| run.streams_in -= 1);
        assert!(traffic.runs.is_empty() && traffic.changed.is_empty());
        traffic.keep(known);
        traffic.release(known);
        assert!(traffic.runs.is_empty());
    }
}
