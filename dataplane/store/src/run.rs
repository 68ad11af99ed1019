//! One run's state, and the table of all runs.

use crate::epoch::Epoch;
use crate::process::{Endpoint, Want};
use crate::stream::Stream;
use crate::{ProcessId, RunStream};
use dflow_protocol::limits::MAX_PORTS;
use dflow_protocol::{PortId, RunId, StreamId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One run: a guest of the node.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    /// How many streams have a producer.
    producing: u64,
    /// Outputs that wait for a window.
    starved: BTreeMap<Endpoint, Want>,
    /// Streams of which a reader may wait for an answer.
    pub(crate) asked: BTreeSet<StreamId>,
    /// Streams that may have cold windows in memory.
    pub(crate) spillable: BTreeSet<StreamId>,
    /// Bytes on their way to disk.
    pub(crate) spilling: u64,
    /// Bytes that were written to disk.
    pub(crate) spilled: u64,
    pub(crate) disk: Disk,
    /// One of its outputs was refused memory.
    pub(crate) refused: bool,
    /// Its failure was reported. The caller is to end it.
    pub(crate) failed: bool,
}

/// Whether a run's bytes can go to disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// Why the last window could not be written, and when.
    full: Option<(String, Duration)>,
    /// The bytes read and written when nothing moved any more, and since when.
    stalled: Option<(u64, Duration)>,
}

/// A run that waits for disk space fails if none of its bytes moves for this long.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause before a disk that was full is tried again: without it, each message would cause another failure.
const RETRY: Duration = Duration::from_millis(100);

impl Disk {
    /// A window could not be written because the disk is full. That is not fatal yet: streams that move free space.
    pub(crate) fn fill(&mut self, reason: String, now: Duration) {
        self.full = Some((reason, now));
    }

    /// A window was written.
    pub(crate) fn works(&mut self) {
        self.full = None;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.is_some()
    }

    /// Another run frees memory, so this one may wait as long again.
    pub(crate) fn reset_patience(&mut self) {
        self.stalled = None;
    }

    /// Whether to try to write now.
    pub(crate) fn may_be_tried(&self, now: Duration) -> bool {
        self.full.as_ref().is_none_or(|(_, since)| now.saturating_sub(*since) >= RETRY)
    }

    /// The reason why a run that waits for memory will never continue, if there is one: the disk is full, and the bytes
    /// that its attempts have read and written (`moved`) have not changed for [`PATIENCE`].
    pub(crate) fn why_stalled(&mut self, is_waiting: bool, moved: impl FnOnce() -> u64, now: Duration) -> Option<&str> {
        let (Some((reason, _)), true) = (&self.full, is_waiting) else {
            self.stalled = None;
            return None;
        };
        let moved = moved();
        match self.stalled {
            Some((before, since)) if before == moved => {
                (now.saturating_sub(since) >= PATIENCE).then_some(reason.as_str())
            }
            _ => {
                self.stalled = Some((moved, now));
                None
            }
        }
    }
}

impl Run {
    /// An output waits for a window.
    pub(crate) fn wait_for_window(&mut self, output: Endpoint, want: Want) {
        self.starved.insert(output, want);
    }

    /// An output no longer waits. Returns whether it did.
    pub(crate) fn stop_waiting(&mut self, output: Endpoint) -> bool {
        self.starved.remove(&output).is_some()
    }

    /// None of an attempt's outputs waits any longer.
    pub(crate) fn stop_all_waiting(&mut self, process: ProcessId) {
        self.starved.retain(|(id, _), _| *id != process);
    }

    /// The outputs that wait, each with the window that it wants.
    pub(crate) fn waiting_outputs(&self) -> impl Iterator<Item = (Endpoint, Want)> {
        self.starved.iter().map(|(&output, &want)| (output, want))
    }

    pub(crate) fn is_waiting_output(&self, output: Endpoint) -> bool {
        self.starved.contains_key(&output)
    }

    /// The outputs of an attempt that wait for a window.
    pub(crate) fn waiting_outputs_of(&self, process: ProcessId) -> impl Iterator<Item = PortId> {
        self.starved.range((process, PortId(0))..=(process, PortId(MAX_PORTS))).map(|((_, port), _)| *port)
    }

    /// Whether an output waits because memory was refused. The one that was refused may have ended since.
    pub(crate) fn lacks_memory(&self) -> bool {
        self.refused && !self.starved.is_empty()
    }

    /// How many streams have a producer.
    pub(crate) fn producing(&self) -> u64 {
        self.producing
    }
}

/// The runs.
#[derive(Debug, Default)]
pub(crate) struct Runs(BTreeMap<RunId, Run>);

impl Runs {
    pub(crate) fn get(&self, run: RunId) -> Option<&Run> {
        self.0.get(&run)
    }

    pub(crate) fn get_mut(&mut self, run: RunId) -> Option<&mut Run> {
        self.0.get_mut(&run)
    }

    pub(crate) fn insert(&mut self, run: RunId) {
        self.0.insert(run, Run::default());
    }

    pub(crate) fn remove(&mut self, run: RunId) -> Option<Run> {
        self.0.remove(&run)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (RunId, &Run)> {
        self.0.iter().map(|(&id, run)| (id, run))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (RunId, &mut Run)> {
        self.0.iter_mut().map(|(&id, run)| (id, run))
    }

    pub(crate) fn stream(&self, id: RunStream) -> Option<&Stream> {
        self.0.get(&id.run)?.streams.get(&id.stream)
    }

    pub(crate) fn stream_mut(&mut self, id: RunStream) -> Option<&mut Stream> {
        self.0.get_mut(&id.run)?.streams.get_mut(&id.stream)
    }

    /// Sets the producer of a stream. Returns the one before; `None` if there is no such stream.
    pub(crate) fn set_producer(&mut self, id: RunStream, producer: Option<Endpoint>) -> Option<Option<Endpoint>> {
        let run = self.0.get_mut(&id.run)?;
        let stream = run.streams.get_mut(&id.stream)?;
        let before = stream.epoch.replace_producer(producer);
        run.producing = run.producing + u64::from(producer.is_some()) - u64::from(before.is_some());
        Some(before)
    }

    /// Forgets a stream none of whose readers waits for an answer.
    pub(crate) fn forget_answered(&mut self, id: RunStream) {
        let waits = |stream: &Stream| stream.subscribers.values().any(|subscription| subscription.question().is_some());
        if let Some(run) = self.0.get_mut(&id.run)
            && !run.streams.get(&id.stream).is_some_and(waits)
        {
            run.asked.remove(&id.stream);
        }
    }

    /// Begins a new epoch of a stream. Returns the one that is void now, and its producer.
    pub(crate) fn begin_epoch(&mut self, id: RunStream) -> Option<(Epoch, Option<Endpoint>)> {
        let producer = self.set_producer(id, None)?;
        Some((self.stream_mut(id)?.begin_epoch(), producer))
    }

    /// A reader of the stream waits for an answer.
    pub(crate) fn note_question(&mut self, id: RunStream) {
        if let Some(run) = self.0.get_mut(&id.run) {
            run.asked.insert(id.stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_lacks_memory_only_while_an_output_waits() {
        let (process, want) = (ProcessId(1), Want { at: 0, least: 1, since: Duration::ZERO });
        let mut run = Run { refused: true, ..Run::default() };
        assert!(!run.lacks_memory());
        run.wait_for_window((process, PortId(3)), want);
        run.wait_for_window((ProcessId(2), PortId(0)), want);
        assert!(run.lacks_memory() && run.waiting_outputs_of(process).eq([PortId(3)]));
        run.stop_all_waiting(process);
        assert!(run.lacks_memory() && run.waiting_outputs_of(process).next().is_none());
        assert!(run.stop_waiting((ProcessId(2), PortId(0))) && !run.lacks_memory());
    }

    #[test]
    fn a_run_is_stalled_when_its_disk_is_full_and_nothing_moves() {
        let mut disk = Disk::default();
        let at = Duration::from_millis;
        assert_eq!(disk.why_stalled(true, || 5, at(0)), None);
        disk.fill("it is full".into(), at(0));
        assert!(!disk.may_be_tried(at(99)) && disk.may_be_tried(at(100)));
        assert_eq!(disk.why_stalled(true, || 5, at(0)), None);
        assert_eq!(disk.why_stalled(true, || 5, at(2999)), None);
        assert_eq!(disk.why_stalled(true, || 5, at(3000)), Some("it is full"));
        assert_eq!(disk.why_stalled(true, || 6, at(3001)), None, "a byte has moved");
        assert_eq!(disk.why_stalled(false, || 6, at(9000)), None, "nothing waits");
        disk.works();
        assert_eq!((disk.is_full(), disk.why_stalled(true, || 6, at(20_000))), (false, None));
    }
}
