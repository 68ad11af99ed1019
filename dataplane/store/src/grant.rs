//! Which window a producer gets next.

use crate::attempt::duplicate;
use crate::back::Offer;
use crate::memory::WindowMemory;
use crate::process::{Process, Want};
use crate::store::StoreError;
use crate::stream::{PieceState, Place, SubscriberState};
use crate::{ProcessId, Store, StoreEvent};
use dflow_protocol::limits::{ARENA_SLOT, MAX_WINDOW, MIN_WINDOW};
use dflow_protocol::message::{SegmentUse, ToFunction, Window};
use dflow_protocol::words::{Progress, State, is_possible, sleeps_on};
use dflow_protocol::{PortId, StreamId};
use dflow_shm::HUGE_PAGE;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A reader that has not moved for so long on a stream counts as stuck there.
const STUCK_AFTER: Duration = Duration::from_millis(100);
/// The first and the largest extent of a stream that keeps its bytes. Each costs a question and a mapping in every process,
/// and so the more bytes it has the better; but it is also what goes to disk at once, and what the last one wastes.
const FIRST_EXTENT: u64 = 256 * 1024;
const LARGEST_EXTENT: u64 = 32 << 20;
/// An extent has at most this part of the budget, but may always have [`SMALL_EXTENT`] where an eighth allows that.
const EXTENT_PART: u64 = 32;
const SMALL_EXTENT: u64 = 4 << 20;

impl Store {
    /// A producer's window is full, or held by a reader.
    pub(crate) fn need_window(
        &mut self,
        process: ProcessId,
        port: PortId,
        want: Want,
        held: bool,
    ) -> Result<(), StoreError> {
        let Some(&stream) = self.processes.get(&process).and_then(|process| process.outputs.get(&port)) else {
            return Ok(());
        };
        if self.streams.get(&stream).is_none_or(|stream| stream.producer != Some((process, port))) {
            // Its epoch is over, and so is the attempt soon.
            return Ok(());
        }
        let word = self.progress_word(process, port);
        if word.is_some_and(|word| word.state != State::Open) {
            // It asked before it knew that its stream ends here.
            return Ok(());
        }
        if word.is_some_and(|word| word.offset < want.at) {
            return self.grant_ahead(process, port, want);
        }
        self.events.push(StoreEvent::Parked(process));
        if want.least > MAX_WINDOW.min(self.budget.limit()) {
            let most = self.budget.limit();
            self.condemn(
                process,
                format!(
                    "it reserves {} bytes at once, more than the memory budget of {most} bytes allows; raise --memory",
                    want.least
                ),
            );
            return Ok(());
        }
        if held && !self.reader_is_stuck(stream, want) {
            self.send(process, ToFunction::Stay { port }, None);
            return Ok(());
        }
        if held && self.is_carrier(process) && !self.somebody_goes_on(stream) {
            // It has the stream from another node, which had better keep it than this one.
            self.send(process, ToFunction::Stuck { port, answer: true }, None);
            return Ok(());
        }
        self.close_replay(stream, want.at);
        if !held && self.should_wait_elsewhere(process, stream, want) {
            self.send(process, ToFunction::Stuck { port, answer: false }, None);
        }
        let granted =
            (held || !self.is_held_back(process, stream, want)) && self.grant(process, port, stream, want, held)?;
        if !granted && let Some(process) = self.processes.get_mut(&process) {
            process.starved.insert(port, want);
        }
        Ok(())
    }

    /// Serves producers that wait for memory or for credit, as far as there is some.
    pub(crate) fn feed_starved(&mut self) -> Result<(), StoreError> {
        let starved: Vec<(ProcessId, PortId, Want)> = self
            .processes
            .iter()
            .flat_map(|(&id, process)| process.starved.iter().map(move |(&port, &want)| (id, port, want)))
            .collect();
        for (id, port, want) in starved {
            let Some(&stream) = self.processes.get(&id).and_then(|process| process.outputs.get(&port)) else {
                continue;
            };
            if self.is_held_back(id, stream, want) || self.waits_for_comparison(stream, want) {
                continue;
            }
            if !self.grant(id, port, stream, want, false)? {
                if self.is_being_backed(stream) {
                    // The memory is there; others need not wait for it.
                    continue;
                }
                break;
            }
            if let Some(process) = self.processes.get_mut(&id) {
                process.starved.remove(&port);
            }
        }
        Ok(())
    }

    /// Credit holds a producer only while the reader that holds it back moves on this stream.
    fn reader_is_stuck(&mut self, id: StreamId, want: Want) -> bool {
        self.sample_readers(id);
        let Some(stream) = self.streams.get(&id) else { return false };
        let size = stream.live().map_or(0, PieceState::capacity);
        stream.subscribers.values().any(|subscriber| {
            let holds = !subscriber.closed && subscriber.position + size < want.at + want.least;
            holds && self.is_stuck(subscriber)
        })
    }

    pub(crate) fn is_held_back(&mut self, process: ProcessId, stream: StreamId, want: Want) -> bool {
        self.has_no_credit(stream, want) || self.should_wait_elsewhere(process, stream, want)
    }

    /// Whether a stream comes from another node and nobody here reads it, as a reader is stuck: then its bytes are kept
    /// there. Streams of which every byte is kept here anyway come in any case.
    fn should_wait_elsewhere(&mut self, process: ProcessId, id: StreamId, want: Want) -> bool {
        if !self.is_carrier(process) {
            return false;
        }
        self.sample_readers(id);
        let Some(stream) = self.streams.get(&id) else { return false };
        let is_kept = stream.keep || stream.holds > 0 || stream.subscribers.values().any(|subscriber| subscriber.keep);
        let lags = |subscriber: &SubscriberState| {
            !subscriber.closed && subscriber.position + self.config.window <= want.at.max(self.config.window)
        };
        !is_kept
            && stream.subscribers.values().any(|subscriber| lags(subscriber) && self.is_stuck(subscriber))
            && !self.somebody_goes_on(id)
    }

    /// Whether a reader of the stream moves on it, or would if there were more. Another that is stuck must not hold it:
    /// what that one waits for may come of this one.
    fn somebody_goes_on(&self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get(&id) else { return false };
        let watermark = self.watermark_word(stream.producer).unwrap_or(0).max(stream.watermark);
        let goes_on = |subscriber: &SubscriberState| {
            !subscriber.closed && (subscriber.position >= watermark || !self.is_stuck(subscriber))
        };
        stream.subscribers.values().any(goes_on)
    }

    /// Whether a stream whose bytes may go once they are read is too far ahead of a reader that moves, or of the hash
    /// thread. A stream that has left its ring has credit, too; otherwise it would run ahead until the memory is gone.
    fn has_no_credit(&mut self, id: StreamId, want: Want) -> bool {
        self.sample_readers(id);
        let Some(stream) = self.streams.get(&id) else { return false };
        if stream.fingerprint.is_some() && self.hash_is_behind() {
            return true;
        }
        if stream.keep || stream.holds > 0 || stream.replay.is_some() {
            return false;
        }
        let credit = (4 * self.config.window).min(self.budget.limit() / 8).max(4 * want.least);
        stream.subscribers.values().any(|subscriber| {
            let lags = !subscriber.closed && !subscriber.keep && subscriber.position + credit < want.at;
            lags && !self.is_stuck(subscriber)
        })
    }

    /// Whether a reader will not move by itself: it does not run, waits for another stream, or has not moved for a while.
    /// One that waits for room in an output of its own is not stuck here; whoever reads that output decides, as long as
    /// there is no room.
    fn is_stuck(&self, subscriber: &SubscriberState) -> bool {
        let Some((id, port)) = subscriber.reader else { return true };
        let Some(process) = self.processes.get(&id).filter(|process| process.started) else { return true };
        let Some(control) = &process.control else { return true };
        if let Some(carrier) = &process.carrier {
            // It serves every stream for itself, whatever it waits for on others.
            return carrier.stuck.contains(&port) || self.since(subscriber.since) >= STUCK_AFTER;
        }
        let asleep = |port: &PortId| control.words.port(*port).is_waiting();
        let waits = |port: &PortId| {
            asleep(port) || process.inputs.get(port).is_some_and(|input| self.has_asked(id, *port, input))
        };
        if waits(&port) {
            // Its bytes are on their way to it, unless they are there and it does not run.
            return subscriber.overslept.is_some_and(|(_, since)| self.since(since) >= STUCK_AFTER);
        }
        if process.inputs.keys().any(|other| *other != port && waits(other)) {
            return true;
        }
        let waits_for_room = !process.starved.is_empty() || process.outputs.keys().any(asleep);
        let since = if waits_for_room { subscriber.overslept.map(|(_, since)| since) } else { Some(subscriber.since) };
        since.is_some_and(|since| self.since(since) >= STUCK_AFTER)
    }

    /// Whether a process sleeps for room in its outputs and no reader holds it any more: it was woken and does not run.
    fn oversleeps_room(&self, process: &Process) -> bool {
        let (Some(control), None, true) = (&process.control, &process.carrier, process.starved.is_empty()) else {
            return false;
        };
        let tickets = process.outputs.iter().map(|(port, stream)| {
            let ticket = control.words.port(*port).ticket.load(Ordering::Relaxed);
            (ticket, stream)
        });
        let mut asleep = tickets.filter(|(ticket, _)| *ticket != 0).peekable();
        asleep.peek().is_some() && !asleep.any(|(ticket, stream)| self.is_held_by_reader(*stream, ticket))
    }

    /// Whether a reader of the stream is still where it was when its producer fell asleep with this ticket.
    fn is_held_by_reader(&self, id: StreamId, ticket: u64) -> bool {
        let Some(stream) = self.streams.get(&id) else { return false };
        let word = |(reader, port): (ProcessId, PortId)| {
            let control = self.processes.get(&reader)?.control.as_ref()?;
            Some(control.words.port(port).progress.load(Ordering::Acquire))
        };
        stream.subscribers.values().filter_map(|state| word(state.reader?)).any(|word| sleeps_on(ticket, word))
    }

    pub(crate) fn is_carrier(&self, id: ProcessId) -> bool {
        self.processes.get(&id).is_some_and(|process| process.carrier.is_some())
    }

    /// Gives the producer its next window; `false` if there is no memory for it now.
    fn grant(
        &mut self,
        process: ProcessId,
        port: PortId,
        id: StreamId,
        want: Want,
        held: bool,
    ) -> Result<bool, StoreError> {
        if self.streams.get(&id).is_some_and(|stream| stream.replay.is_some()) {
            return self.grant_replay(process, port, id, want);
        }
        let ring = !held && self.ring_will_do(id, false);
        let Some(memory) = self.window_memory(process, id, want, ring)? else { return Ok(false) };
        self.close_live(id);
        if ring {
            // Before the first byte is overwritten every reader's position counts.
            self.register_readers(id)?;
        }
        let end = want.at + memory.size;
        self.send_window(process, port, &memory, want.at, memory.size, ring)?;
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(true) };
        stream.watermark = stream.watermark.max(want.at);
        stream.granted = stream.granted.max(if ring { u64::MAX } else { end });
        stream.pieces.push(PieceState::window(want.at, memory, ring));
        self.serve_waiting_readers(id)?;
        self.release(id);
        if !ring {
            self.back_behind(process, id, end);
        }
        Ok(true)
    }

    /// Has the window backed that a stream will want at `at`, the end of its last one.
    pub(crate) fn back_behind(&mut self, process: ProcessId, id: StreamId, at: u64) {
        let next = Want { at, least: MIN_WINDOW, since: self.now };
        let (size, huge) = self.window_size(id, next, false);
        self.back_ahead(process, id, size, huge);
    }

    /// Room for an output: the first `size` bytes of a window.
    pub(crate) fn send_window(
        &mut self,
        process: ProcessId,
        port: PortId,
        memory: &WindowMemory,
        base: u64,
        size: u64,
        ring: bool,
    ) -> Result<(), StoreError> {
        let fd = duplicate(memory.segment.as_fd())?;
        let window = Window { segment: self.budget.next_id(), segment_offset: 0, base, size, ring };
        self.send(process, ToFunction::Segment { segment: window.segment, kind: SegmentUse::Once }, Some(fd));
        self.send(process, ToFunction::Window { port, window }, None);
        Ok(())
    }

    /// A ring suits a stream all of whose readers run and keep up, and none of which will read a byte twice. Its bytes
    /// are gone at once, so what has to be hashed cannot be in one.
    pub(crate) fn ring_will_do(&mut self, id: StreamId, ahead: bool) -> bool {
        self.sample_readers(id);
        let Some(stream) = self.streams.get(&id) else { return false };
        // Where the live window has only begun, whoever reads the one before keeps up.
        let last = if ahead { stream.pieces.iter().rev().nth(1) } else { stream.live() };
        let caught_up_from = last.map_or(0, |piece| piece.base);
        !stream.keep
            && stream.holds == 0
            && stream.fingerprint.is_none()
            && stream.subscribers.values().filter(|subscriber| !subscriber.closed || subscriber.keep).all(
                |subscriber| {
                    let runs = |(reader, _)| {
                        self.processes.get(&reader).is_some_and(|process| process.started && process.control.is_some())
                    };
                    !subscriber.keep && subscriber.reader.is_some_and(runs) && subscriber.position >= caught_up_from
                },
            )
    }

    pub(crate) fn window_memory(
        &mut self,
        process: ProcessId,
        id: StreamId,
        want: Want,
        ring: bool,
    ) -> Result<Option<Arc<WindowMemory>>, StoreError> {
        let least = least_window(want);
        let (mut size, huge) = self.window_size(id, want, ring);
        self.spill_cold(size)?;
        loop {
            match self.backed_window(process, id, size, huge)? {
                Offer::Now(memory) => return Ok(Some(memory)),
                Offer::Later => return Ok(None),
                Offer::No if size / 2 < least => break,
                Offer::No => size = 1u64 << (size / 2).ilog2(),
            }
        }
        // Nothing is on its way to disk, or being hashed, that would make room: this stream gets the least that it needs all the same. More
        // than the least of all it gets only if it turns out that nobody gives back any.
        let hopeless = self.spilling == 0 && self.hashing == 0 && self.disk_full.is_none();
        let must = least == MIN_WINDOW || self.since(want.since) >= STUCK_AFTER;
        Ok(if hopeless && must { Some(self.window_beyond(process, least)?) } else { None })
    }

    /// The size of a stream's next window if memory allows it, and whether it may have huge pages.
    pub(crate) fn window_size(&self, id: StreamId, want: Want, ring: bool) -> (u64, bool) {
        let least = least_window(want);
        // What is fair where many streams share the budget.
        let producing = self.streams.values().filter(|stream| stream.producer.is_some()).count() as u64;
        let limit = self.budget.limit();
        let share = (limit / (2 * (producing + 1))).max(MIN_WINDOW);
        let share = 1u64 << share.ilog2();
        let wish = if ring {
            self.config.window.next_power_of_two()
        } else {
            extent(want.at).min((limit / EXTENT_PART).max(SMALL_EXTENT)).min(limit / 8)
        };
        let mut size = (1u64 << wish.max(1).ilog2()).min(share).max(least);
        if !ring {
            size = aligned_extent(want.at, size, least);
        }
        // A reader that wants a slice over everything maps windows side by side, and huge pages only at multiples.
        let sliced = self.streams.get(&id).is_some_and(|stream| stream.subscribers.values().any(|reader| reader.keep));
        (size, !sliced || want.at.is_multiple_of(HUGE_PAGE))
    }

    /// The producer has left its window, or is gone.
    pub(crate) fn close_live(&mut self, id: StreamId) {
        self.enter_ahead(id);
        self.drop_ahead(id);
        let Some(stream) = self.streams.get(&id) else { return };
        let watermark = self.watermark_word(stream.producer).unwrap_or(0);
        let end = watermark.min(stream.room()).max(stream.watermark);
        self.end_live(id, end);
    }

    /// The live window ends here.
    pub(crate) fn end_live(&mut self, id: StreamId, end: u64) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.live().is_some()) else { return };
        stream.watermark = stream.watermark.max(end);
        let Some(piece) = stream.live_mut() else { return };
        let natural = piece.base + piece.capacity();
        piece.end = Some(end.max(piece.base));
        let told: Vec<(ProcessId, PortId)> =
            if piece.is_ring() || end < natural { piece.users.iter().copied().collect() } else { Vec::new() };
        if let Place::Arena { charged, .. } = &mut piece.place {
            let bytes = (end - piece.base).min(ARENA_SLOT).next_multiple_of(4096);
            self.budget.charge(bytes.saturating_sub(*charged));
            *charged = bytes.max(*charged);
        }
        for (reader, port) in told {
            self.send(reader, ToFunction::PieceEnd { port, end }, None);
        }
        self.record(id);
        self.check_promise(id, end);
    }

    /// The watermark that a producer has published.
    pub(crate) fn watermark_word(&self, producer: Option<(ProcessId, PortId)>) -> Option<u64> {
        let (process, port) = producer?;
        Some(self.progress_word(process, port)?.offset)
    }

    /// What an attempt has published for one of its ports.
    pub(crate) fn progress_word(&self, process: ProcessId, port: PortId) -> Option<Progress> {
        Some(self.processes.get(&process)?.control.as_ref()?.words.port(port).progress())
    }

    /// Takes note of how far the readers of a stream are. A position that goes back, or is past the room that the
    /// producer was ever granted, is one that no reader of ours publishes.
    pub(crate) fn sample_readers(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        let words = |state: &SubscriberState| {
            let (reader, port) = state.reader?;
            let process = self.processes.get(&reader)?;
            let words = process.control.as_ref()?.words.port(port);
            let (position, asleep) = (words.progress().offset, words.is_waiting());
            // Its outputs may be many: they are of interest only where it has not moved for long.
            let rests = !asleep && position == state.position && self.since(state.since) >= STUCK_AFTER;
            Some((position, asleep, rests && self.oversleeps_room(process)))
        };
        let positions: Vec<_> = stream.subscribers.values().map(words).collect();
        // After the positions: a watermark read before them could be behind.
        let watermark = self.watermark_word(stream.producer).unwrap_or(0).max(stream.watermark);
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let dead = stream.fingerprint.is_some() && (stream.producer.is_none() || stream.replay.is_some());
        // Not the watermark: a producer that lies could take it back after this reader has believed it.
        let limit = stream.granted.max(stream.watermark);
        // The next attempt of a stream writes ahead of what its readers may have.
        let is_ahead = stream.replay.is_some();
        let mut liars = Vec::new();
        for (subscriber, position) in stream.subscribers.values_mut().zip(positions) {
            let (Some((reader, _)), Some((position, asleep, has_room))) = (subscriber.reader, position) else {
                continue;
            };
            let has_slept = subscriber.overslept.filter(|(at, _)| *at == position);
            let oversleeps = has_room || (asleep && position < watermark && !is_ahead);
            subscriber.overslept = oversleeps.then(|| has_slept.unwrap_or((position, now)));
            if dead && position > watermark {
                // Either it lies or the attempt that is dead did, which took back what it had published.
                stream.overread = true;
            } else if !is_possible(subscriber.position, position, limit) {
                let what = format!("its position in a stream jumped from {} to {position}", subscriber.position);
                liars.push((reader, what));
            } else if position > subscriber.position {
                subscriber.position = position;
                subscriber.since = now;
            }
        }
        for (reader, what) in liars {
            self.condemn(reader, what);
        }
    }
}

/// The least window that will do.
fn least_window(want: Want) -> u64 {
    want.least.next_power_of_two().max(MIN_WINDOW)
}

/// The next extent of a kept stream of this length: about as much as it has already.
fn extent(length: u64) -> u64 {
    length.next_power_of_two().clamp(FIRST_EXTENT, LARGEST_EXTENT)
}

/// The size nearest to `size` with which the extent at `at` ends at a multiple of `size`, so that those which follow begin
/// at multiples of their size, as huge pages in a slice over everything have to.
fn aligned_extent(at: u64, size: u64, least: u64) -> u64 {
    let aligned = size - at % size;
    if at.is_multiple_of(MIN_WINDOW) && aligned >= least { aligned } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_soon_begin_at_multiples_of_a_huge_page() {
        let mut at = ARENA_SLOT;
        let mut sizes = Vec::new();
        while at < 256 << 20 {
            let size = aligned_extent(at, extent(at), MIN_WINDOW);
            assert!(size.is_multiple_of(MIN_WINDOW) && size <= LARGEST_EXTENT);
            sizes.push(size >> 10);
            at += size;
        }
        assert_eq!(sizes[..7], [192, 256, 512, 1024, 2048, 4096, 8192]);
        // Where a budget has made them smaller, they find their way back.
        assert_eq!(aligned_extent((5 << 20) + MIN_WINDOW, 4 << 20, MIN_WINDOW), (3 << 20) - MIN_WINDOW);
        // What a function wants at once goes first, and so does what left a ring anywhere.
        assert_eq!(aligned_extent(3 << 20, 4 << 20, 2 << 20), 4 << 20);
        assert_eq!(aligned_extent(12_345, 1 << 20, MIN_WINDOW), 1 << 20);
    }
}
