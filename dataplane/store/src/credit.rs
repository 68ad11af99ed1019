//! Credit: how far a producer may be ahead of its readers, and which of them are stuck.

use crate::pieces::Piece;
use crate::process::{Endpoint, Process, Want};
use crate::subscription::{Observation, ReaderBounds, ReaderWords, Subscription};
use crate::{ProcessId, RunStream, Store};
use dflow_protocol::words::sleeps_on;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A reader that has not moved for this long on a stream counts as stuck there. Long against a scheduler's time slice,
/// so that a busy machine does not make readers look stuck; short against what a user notices.
pub(crate) const STUCK_AFTER: Duration = Duration::from_millis(100);

impl Store {
    /// Whether one of the readers that hold the window of a stream is stuck. Credit stops a producer only while the
    /// reader that it waits for makes progress on this stream.
    pub(crate) fn reader_is_stuck(&mut self, id: RunStream, want: Want) -> bool {
        self.sample_readers(id);
        let Some(stream) = self.runs.stream(id) else { return false };
        let size = stream.epoch.pieces.live().map_or(0, Piece::capacity);
        stream.subscribers.values().any(|subscription| {
            let holds = subscription.is_before((want.at + want.least).saturating_sub(size));
            holds && self.is_stuck(subscription)
        })
    }

    /// Whether a producer has to wait, although there may be memory for it.
    pub(crate) fn is_held_back(&mut self, process: ProcessId, stream: RunStream, want: Want) -> bool {
        self.has_no_credit(stream, want) || self.should_wait_elsewhere(process, stream, want)
    }

    /// Whether the bytes of a stream from another node should stay there for now: a reader here is stuck, and no other
    /// makes progress. A stream of which this node keeps every byte is never stopped for that.
    pub(crate) fn should_wait_elsewhere(&mut self, process: ProcessId, id: RunStream, want: Want) -> bool {
        if !self.processes.is_carrier(process) {
            return false;
        }
        self.sample_readers(id);
        let Some(stream) = self.runs.stream(id) else { return false };
        let lags = |subscription: &Subscription| subscription.is_before(want.at.saturating_sub(self.config.window) + 1);
        !stream.is_kept()
            && stream.subscribers.values().any(|subscription| lags(subscription) && self.is_stuck(subscription))
            && !self.has_advancing_reader(id)
    }

    /// Whether a reader of the stream makes progress on it, or has read everything so far. A stuck reader must not stop
    /// it: the stuck one may be waiting for what comes of its work.
    pub(crate) fn has_advancing_reader(&self, id: RunStream) -> bool {
        let Some(stream) = self.runs.stream(id) else { return false };
        let watermark = self.producer_watermark(id);
        let advances = |subscription: &Subscription| {
            subscription.is_open() && !(subscription.is_before(watermark) && self.is_stuck(subscription))
        };
        stream.subscribers.values().any(advances)
    }

    /// Whether a producer is too far ahead of a reader that makes progress, or of its hash jobs. Extents are subject to
    /// credit as rings are; otherwise a producer that has left its ring would run ahead until memory is used up.
    fn has_no_credit(&mut self, id: RunStream, want: Want) -> bool {
        self.sample_readers(id);
        let Some(stream) = self.runs.stream(id) else { return false };
        if stream.epoch.is_remembered() && self.hash_is_behind() {
            return true;
        }
        if stream.keep || stream.holds > 0 || stream.epoch.replay.is_some() {
            return false;
        }
        let share = self.allotment(id.run) / 8;
        let credit = (4 * self.config.window).min(share).max(4 * want.least);
        // Far more than for a reader that runs: producers of many small streams are not to stop for each reader in the
        // queue, or all of these would be started before the first of them can end.
        let credit_of_queued = share.max(credit);
        stream.subscribers.values().any(|subscription| {
            let lags = |credit| !subscription.keeps() && subscription.is_before(want.at.saturating_sub(credit));
            // Slots are held by instances that compute, so a reader in the queue gets one as soon as they wait or end:
            // at the latest when its producer waits here. An endless producer would otherwise keep it out for ever, and
            // fill the disk.
            if self.waits_for_slot(subscription) {
                return lags(credit_of_queued);
            }
            lags(credit) && !self.is_stuck(subscription)
        })
    }

    /// Whether a reader is started as soon as it gets a slot.
    fn waits_for_slot(&self, subscription: &Subscription) -> bool {
        let process = subscription.reader().and_then(|(id, _)| self.processes.get(id));
        process.is_some_and(Process::waits_for_slot)
    }

    /// Whether a reader will not move by itself: it does not run, waits for another stream, or has not moved for a
    /// while. One that waits for room in an output of its own is not stuck here. It moves as soon as the readers of
    /// that output do, and if they are stuck, the output gets another window.
    fn is_stuck(&self, subscription: &Subscription) -> bool {
        let Some((id, port)) = subscription.reader() else { return true };
        let Some(process) = self.processes.get(id).filter(|process| process.runs()) else { return true };
        let is_long_ago = |since: Duration| self.since(since) >= STUCK_AFTER;
        if let Some(carrier) = &process.carrier {
            // It serves every stream independently of the others.
            return carrier.stuck.contains(&port) || is_long_ago(subscription.rests_since());
        }
        let waits = |port| {
            process.sleeps_at(port) || process.inputs.get(&port).is_some_and(|input| self.has_asked((id, port), input))
        };
        if subscription.question().is_some_and(|question| question.at > subscription.position()) {
            // It has read on and holds views of earlier bytes: its position moves when they are dropped, which may be
            // never.
            return is_long_ago(subscription.rests_since());
        }
        if waits(port) {
            // It waits for bytes of this stream. If they are there already, it was woken and does not run.
            return subscription.oversleeps_since().is_some_and(is_long_ago);
        }
        if process.inputs.keys().any(|other| *other != port && waits(*other)) {
            return true;
        }
        let waits_for_room = self.has_waiting_output(id) || process.outputs.keys().any(|port| process.sleeps_at(*port));
        let since = if waits_for_room { subscription.oversleeps_since() } else { Some(subscription.rests_since()) };
        since.is_some_and(is_long_ago)
    }

    /// Whether an output of an attempt waits for a window.
    fn has_waiting_output(&self, id: ProcessId) -> bool {
        let run = self.processes.run(id).and_then(|run| self.runs.get(run));
        run.is_some_and(|run| run.waiting_outputs_of(id).next().is_some())
    }

    /// Whether a process sleeps for room in its outputs although no reader holds it back any more: it was woken and
    /// does not run.
    fn oversleeps_room(&self, id: ProcessId, process: &Process) -> bool {
        let Some(control) = process.control.as_ref().filter(|_| process.carrier.is_none()) else { return false };
        if self.has_waiting_output(id) {
            return false;
        }
        let tickets = process.outputs.iter().map(|(port, stream)| {
            let ticket = control.words.port(*port).ticket.load(Ordering::Relaxed);
            (ticket, *stream)
        });
        let mut asleep = tickets.filter(|(ticket, _)| *ticket != 0).peekable();
        asleep.peek().is_some() && !asleep.any(|(ticket, stream)| self.is_held_by_reader(stream, ticket))
    }

    /// Whether a reader of the stream is still where it was when its producer fell asleep with this ticket.
    fn is_held_by_reader(&self, id: RunStream, ticket: u64) -> bool {
        let Some(stream) = self.runs.stream(id) else { return false };
        let word = |(reader, port): Endpoint| {
            let control = self.processes.get(reader)?.control.as_ref()?;
            Some(control.words.port(port).progress.load(Ordering::Acquire))
        };
        stream.subscribers.values().filter_map(|state| word(state.reader()?)).any(|word| sleeps_on(ticket, word))
    }

    /// The watermark of a stream: that of its producer's words, or a larger one that was observed before.
    pub(crate) fn producer_watermark(&self, id: RunStream) -> u64 {
        let Some(stream) = self.runs.stream(id) else { return 0 };
        let word = stream.epoch.producer().and_then(|producer| self.processes.progress(producer));
        word.map_or(0, |word| word.offset).max(stream.epoch.watermark())
    }

    /// Reads the positions of a stream's readers from their control pages.
    pub(crate) fn sample_readers(&mut self, id: RunStream) {
        let Some(stream) = self.runs.stream(id) else { return };
        let words = |subscription: &Subscription| {
            let (reader, port) = subscription.reader()?;
            let process = self.processes.get(reader)?;
            let words = process.control.as_ref()?.words.port(port);
            let (position, asleep) = (words.progress().offset, words.is_waiting());
            // It may have thousands of outputs, so they are looked at only if it has not moved for a while.
            let rests =
                !asleep && position == subscription.position() && self.since(subscription.rests_since()) >= STUCK_AFTER;
            Some((reader, ReaderWords { position, asleep, has_room: rests && self.oversleeps_room(reader, process) }))
        };
        let words: Vec<_> = stream.subscribers.values().map(words).collect();
        // Read after the positions: a watermark read before them could be behind them.
        let watermark = self.producer_watermark(id);
        let now = self.now;
        let Some(stream) = self.runs.stream_mut(id) else { return };
        let epoch = &mut stream.epoch;
        let is_replayed = epoch.replay.is_some();
        let bounds = ReaderBounds {
            watermark,
            granted: epoch.granted(),
            is_left: epoch.is_remembered() && (epoch.producer().is_none() || is_replayed),
            is_replayed,
        };
        let mut liars = Vec::new();
        for (subscription, words) in stream.subscribers.values_mut().zip(words) {
            let Some((reader, words)) = words else { continue };
            match subscription.observe(words, bounds, now) {
                Observation::Plausible => {}
                Observation::Overread => epoch.note_overread(),
                Observation::Lie(what) => liars.push((reader, what)),
            }
        }
        for (reader, what) in liars {
            self.condemn(reader, what);
        }
    }
}
