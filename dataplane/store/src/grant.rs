//! Which window a producer gets next.

use crate::attempt::duplicate;
use crate::back::Offer;
use crate::credit::STUCK_AFTER;
use crate::error::{RunFailure, StoreError};
use crate::memory::WindowMemory;
use crate::pieces::{Piece, Place};
use crate::process::{Endpoint, Want};
use crate::subscription::Subscription;
use crate::window_size::Sizing;
use crate::{ProcessId, RunStream, Store, StoreEvent};
use dflow_protocol::limits::{ARENA_SLOT, MAX_WINDOW, MIN_WINDOW};
use dflow_protocol::message::{SegmentUse, ToFunction, Window};
use dflow_protocol::words::State;
use dflow_protocol::{PortId, RunId};
use dflow_shm::HUGE_PAGE;
use std::os::fd::AsFd;
use std::sync::Arc;

/// The outcome of an attempt to serve a waiting producer.
enum GrantOutcome {
    /// It has one, or does not want one any more.
    Granted,
    /// It waits for something other than memory.
    Waits,
    /// There is no memory for it.
    NoMemory,
}

impl Store {
    /// A producer's window is full, or held by a reader.
    pub(crate) fn need_window(
        &mut self,
        process: ProcessId,
        port: PortId,
        want: Want,
        held: bool,
    ) -> Result<(), StoreError> {
        let Some(stream) = self.processes.output(process, port) else { return Ok(()) };
        if !self.is_written_by(stream, (process, port)) {
            // Its epoch was aborted, and the attempt is about to be killed.
            return Ok(());
        }
        let word = self.processes.progress((process, port));
        if word.is_some_and(|word| word.state != State::Open) {
            // It asked for room before it knew that its input, and so this stream, ends here.
            return Ok(());
        }
        if word.is_some_and(|word| word.offset < want.at) {
            return self.grant_ahead(process, port, want);
        }
        self.outbox.tell(StoreEvent::Parked(process));
        let most = MAX_WINDOW.min(self.run_limit(stream.run));
        if want.least > most {
            self.condemn(
                process,
                format!(
                    "it reserves {} bytes at once, more than the {most} that the memory of its run allows; raise --memory",
                    want.least
                ),
            );
            return Ok(());
        }
        if held && !self.reader_is_stuck(stream, want) {
            self.send(process, ToFunction::Stay { port }, None);
            if let Some(process) = self.processes.get_mut(process) {
                process.stays = true;
            }
            return Ok(());
        }
        if held && self.processes.is_carrier(process) && !self.has_advancing_reader(stream) {
            // The stream comes from another node, which can keep the bytes as well as this one, without sending them.
            self.send(process, ToFunction::Stuck { port, answer: true }, None);
            return Ok(());
        }
        self.close_replay(stream, want.at);
        if !held && self.should_wait_elsewhere(process, stream, want) {
            self.send(process, ToFunction::Stuck { port, answer: false }, None);
        }
        let may = held || !self.is_held_back(process, stream, want);
        let granted = may && self.grant(process, port, stream, want, held)?;
        if !granted && let Some(run) = self.runs.get_mut(stream.run) {
            run.wait_for_window((process, port), want);
            run.refused |= may && !self.jobs.is_backing(stream);
        }
        Ok(())
    }

    /// Serves producers that wait for memory or for credit. With `run`, only this run can have got credit, so others
    /// are looked at only if memory has been freed.
    ///
    /// The run that uses least goes first, so that freed memory goes to the runs that lack it.
    pub(crate) fn serve_waiting_outputs(&mut self, run: Option<RunId>) {
        let changed = self.memory.take_freed();
        let mut runs: Vec<(u64, RunId)> = self
            .runs
            .iter()
            .filter(|(id, state)| {
                state.waiting_outputs().next().is_some() && (changed || run.is_none_or(|run| run == *id))
            })
            .map(|(id, _)| (self.memory.account(id).map_or(0, |account| account.used), id))
            .collect();
        runs.sort_unstable();
        for (_, id) in runs {
            self.serve_outputs_of(id);
        }
    }

    fn serve_outputs_of(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(id) else { return };
        run.refused = false;
        let waiting: Vec<(Endpoint, Want)> = run.waiting_outputs().collect();
        for ((process, port), want) in waiting {
            match self.serve_output(process, port, want) {
                Ok(GrantOutcome::Granted) => {
                    self.stop_waiting(id, (process, port));
                }
                Ok(GrantOutcome::Waits) => {}
                Ok(GrantOutcome::NoMemory) => {
                    if let Some(run) = self.runs.get_mut(id) {
                        run.refused = true;
                    }
                    return;
                }
                Err(error) => return self.fail_run(id, RunFailure::Store(error)),
            }
        }
    }

    fn serve_output(&mut self, process: ProcessId, port: PortId, want: Want) -> Result<GrantOutcome, StoreError> {
        let Some(stream) = self.processes.output(process, port) else { return Ok(GrantOutcome::Granted) };
        if self.is_held_back(process, stream, want) || self.waits_for_comparison(stream, want) {
            return Ok(GrantOutcome::Waits);
        }
        if self.grant(process, port, stream, want, false)? {
            return Ok(GrantOutcome::Granted);
        }
        // A window that is being backed has its memory reserved, so others need not wait behind it.
        Ok(if self.jobs.is_backing(stream) { GrantOutcome::Waits } else { GrantOutcome::NoMemory })
    }

    /// Whether this port of an attempt writes the present epoch of a stream.
    pub(crate) fn is_written_by(&self, id: RunStream, producer: Endpoint) -> bool {
        self.runs.stream(id).is_some_and(|stream| stream.epoch.is_written_by(producer))
    }

    /// Grants the producer its next window; `false` if there is no memory for it now.
    fn grant(
        &mut self,
        process: ProcessId,
        port: PortId,
        id: RunStream,
        want: Want,
        held: bool,
    ) -> Result<bool, StoreError> {
        if self.runs.stream(id).is_some_and(|stream| stream.epoch.replay.is_some()) {
            return self.grant_replay(process, port, id, want);
        }
        let ring = !held && self.ring_will_do(id, false);
        let Some(memory) = self.window_memory(process, id, want, ring)? else { return Ok(false) };
        self.close_live(id);
        if ring {
            // The producer must know every reader before it overwrites the ring's first byte.
            self.register_readers(id)?;
        }
        let end = want.at + memory.size;
        self.send_window(process, port, &memory, want.at, memory.size, ring)?;
        let Some(stream) = self.runs.stream_mut(id) else { return Ok(true) };
        stream.epoch.add_piece(Piece::window(want.at, memory, ring));
        self.serve_waiting_readers(id)?;
        self.release(id);
        if !ring {
            self.back_behind(process, id, end);
        }
        Ok(true)
    }

    /// Backs the window that a stream will want at `at`, the end of its last one.
    pub(crate) fn back_behind(&mut self, process: ProcessId, id: RunStream, at: u64) {
        let next = Want { at, least: MIN_WINDOW, since: self.now };
        let (size, huge) = self.window_size(id, next, false);
        self.back_ahead(process, id, size, huge);
    }

    /// Tells a producer to write on in the first `size` bytes of a window.
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
        let window = Window { segment: self.outbox.next_segment(), segment_offset: 0, base, size, ring };
        self.send(process, ToFunction::Segment { segment: window.segment, kind: SegmentUse::Once }, Some(fd));
        self.send(process, ToFunction::Window { port, window }, None);
        Ok(())
    }

    /// Whether the next window can be a ring: all readers run and keep up, and none will read a byte twice. A ring's
    /// bytes are overwritten soon, so a stream that is hashed has none.
    pub(crate) fn ring_will_do(&mut self, id: RunStream, ahead: bool) -> bool {
        self.sample_readers(id);
        let Some(stream) = self.runs.stream(id) else { return false };
        let pieces = &stream.epoch.pieces;
        // With a window ahead, the live one has only begun: a reader of the one before keeps up.
        let last = if ahead { pieces.before_last() } else { pieces.live() };
        let caught_up_from = last.map_or(0, |piece| piece.base);
        let keeps_up = |subscription: &Subscription| {
            let runs = |(reader, _)| self.processes.get(reader).is_some_and(|process| process.runs());
            subscription.reader().is_some_and(runs) && subscription.position() >= caught_up_from
        };
        !stream.is_kept()
            && !stream.epoch.is_remembered()
            && stream.subscribers.values().all(|subscription| subscription.is_done() || keeps_up(subscription))
    }

    /// Memory for a window, of the size that suits the stream or smaller where memory is short. `None` if there is none
    /// now, or if a job backs it.
    pub(crate) fn window_memory(
        &mut self,
        process: ProcessId,
        id: RunStream,
        want: Want,
        ring: bool,
    ) -> Result<Option<Arc<WindowMemory>>, StoreError> {
        let least = want.window();
        let (mut size, huge) = self.window_size(id, want, ring);
        self.spill_cold(id.run, size);
        while !self.should_yield(id.run, size) {
            match self.backed_window(process, id, size, huge)? {
                Offer::Now(memory) => return Ok(Some(memory)),
                Offer::Later => return Ok(None),
                Offer::No if size / 2 < least => break,
                Offer::No => size = 1u64 << (size / 2).ilog2(),
            }
        }
        // While windows are being spilled or hashed, memory will be freed. Otherwise progress depends on this window,
        // so it may exceed the budget: at once if it is of the smallest size, and after a while if the function writes
        // more at once.
        let disk_is_full = self.runs.get(id.run).is_none_or(|run| run.disk.is_full());
        let is_stalled = !self.jobs.will_free_memory() && !disk_is_full;
        let must = least == MIN_WINDOW || self.since(want.since) >= STUCK_AFTER;
        if is_stalled && must { self.window_beyond(process, id.run, least) } else { Ok(None) }
    }

    /// Whether a run has to leave memory to others: `size` more bytes would exceed its share while a run below its
    /// share was refused memory.
    fn should_yield(&self, run: RunId, size: u64) -> bool {
        let mut lacking = self.runs.iter().filter(|(id, state)| *id != run && state.lacks_memory()).peekable();
        if lacking.peek().is_none() {
            return false;
        }
        let has = |run, more: u64, share: u64| {
            self.memory.account(run).is_some_and(|account| account.used + more > share.max(account.minimum))
        };
        has(run, size, self.allotment(run)) && lacking.any(|(id, _)| !has(id, MIN_WINDOW, self.allotment(id)))
    }

    /// The size of a stream's next window if memory allows it, and whether it may have huge pages.
    pub(crate) fn window_size(&self, id: RunStream, want: Want, ring: bool) -> (u64, bool) {
        let sizing = Sizing {
            allotment: self.allotment(id.run),
            producing: self.runs.get(id.run).map_or(0, |run| run.producing()),
            ring: self.config.window,
        };
        let size = if ring { sizing.ring(want) } else { sizing.extent(want) };
        // A reader that wants one slice over the whole stream maps windows side by side, and huge pages must be
        // aligned.
        let sliced = self.runs.stream(id).is_some_and(|stream| stream.subscribers.values().any(Subscription::keeps));
        (size, !sliced || want.at.is_multiple_of(HUGE_PAGE))
    }

    /// The share of the budget that a run may use now, in bytes.
    pub(crate) fn allotment(&self, run: RunId) -> u64 {
        self.memory.share(run, self.memory.limit())
    }

    /// The most memory that a run can ever be granted, in bytes.
    fn run_limit(&self, run: RunId) -> u64 {
        self.memory.account(run).map_or(0, |account| account.cap.min(self.memory.limit()))
    }

    /// Ends the live window at the producer's watermark: the producer has left it, or is gone.
    pub(crate) fn close_live(&mut self, id: RunStream) {
        self.enter_ahead(id);
        self.drop_ahead(id);
        let Some(stream) = self.runs.stream(id) else { return };
        let word = stream.epoch.producer().and_then(|producer| self.processes.progress(producer));
        let watermark = word.map_or(0, |word| word.offset);
        let end = watermark.min(stream.epoch.room()).max(stream.epoch.watermark());
        self.end_live(id, end);
    }

    /// Ends the live window at `end`.
    pub(crate) fn end_live(&mut self, id: RunStream, end: u64) {
        let Some(run) = self.runs.get_mut(id.run) else { return };
        let Some(stream) = run.streams.get_mut(&id.stream) else { return };
        let epoch = &mut stream.epoch;
        if epoch.pieces.live().is_none() {
            return;
        }
        epoch.reach(end);
        let Some(piece) = epoch.pieces.live_mut() else { return };
        let natural = piece.base + piece.capacity();
        piece.end = Some(end.max(piece.base));
        let told: Vec<Endpoint> =
            if piece.is_ring() || end < natural { piece.users.iter().copied().collect() } else { Vec::new() };
        match &mut piece.place {
            Place::Arena { charged, .. } => {
                let bytes = (end - piece.base).min(ARENA_SLOT).next_multiple_of(4096);
                self.memory.charge(id.run, bytes.saturating_sub(*charged));
                *charged = bytes.max(*charged);
            }
            Place::Window { ring: false, .. } => {
                run.spillable.insert(id.stream);
            }
            Place::Window { .. } | Place::Spill(_) | Place::Input(_) => {}
        }
        for (reader, port) in told {
            self.send(reader, ToFunction::PieceEnd { port, end }, None);
        }
        self.record(id);
        self.check_promise(id, end);
        self.limit_overrun();
    }

    /// Fails the run that is most above its share, if memory in use exceeds the budget and the overrun.
    fn limit_overrun(&mut self) {
        if self.memory.busy() > self.memory.most() {
            self.fail_most_above(None);
        }
    }

    /// Fails the run that is most above its share, counting the bytes that `wants` asks for.
    fn fail_most_above(&mut self, wants: Option<(RunId, u64)>) {
        if self.is_failing() {
            return;
        }
        if let Some(&(run, _)) = self.memory.excesses(self.memory.limit(), wants).first() {
            let used = self.memory.account(run).map_or(0, |account| account.used);
            self.fail_run(run, RunFailure::Overrun { used, most: self.memory.most() });
        }
    }

    /// A window of `size` bytes beyond the budget, because progress depends on it. `None` if even the overrun is used
    /// up; then a run fails, which frees memory.
    fn window_beyond(
        &mut self,
        writer: ProcessId,
        run: RunId,
        size: u64,
    ) -> Result<Option<Arc<WindowMemory>>, StoreError> {
        if !self.memory.allows_beyond(run, size) {
            self.fail_most_above(Some((run, size)));
            return Ok(None);
        }
        let segment = self.jobs.allocate(size, false)?;
        let Some(owner) = self.memory.owner(run) else { return Ok(None) };
        self.memory.charge(run, size);
        Ok(Some(Arc::new(WindowMemory { segment, size, owner, writer })))
    }
}
