//! The store itself: runs are admitted and ended, streams opened and aborted.

use crate::backend::{Backend, Completion, Outcome};
use crate::epoch::Epoch;
use crate::error::{Refusal, RunFailure, StoreError};
use crate::input::{InputFile, InputFiles};
use crate::jobs::Jobs;
use crate::memory::Memory;
use crate::outbox::{Outbox, Outgoing};
use crate::pieces::{Piece, Place};
use crate::process::Processes;
use crate::run::Runs;
use crate::stream::Stream;
use crate::subscription::{Subscriber, Subscription};
use crate::{ProcessId, RunStream, TenantId};
use dflow_protocol::limits::{ARENA_SLOT, MIN_WINDOW};
use dflow_protocol::message::{ProgramState, ToFunction};
use dflow_protocol::{PortId, RunId};
use dflow_shm::Bells;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The store's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The memory budget in bytes, at least [`Config::MIN_MEMORY`].
    pub memory: u64,
    /// The window of a stream whose readers keep up, in bytes; rounded up to a power of two.
    pub window: u64,
    /// Bytes by which all runs together may exceed the budget, in allocations that their progress depends on. When they
    /// are used up, the run that is most above its share fails.
    pub overrun: u64,
}

impl Config {
    /// The smallest budget, and the smallest minimum of a run, in bytes: one window, one arena slot, and as much again
    /// on its way to disk.
    pub const MIN_MEMORY: u64 = 4 * MIN_WINDOW;
    /// The usual window, in bytes: twice a core's own cache. With a smaller one, the lines that the producer writes
    /// next are still in the reader's cache, and taking them from another core is slower than from the shared cache.
    pub const WINDOW: u64 = 2 << 20;
    /// The smallest usual [`Config::overrun`]: enough for a thousand streams in the smallest budget.
    const LEAST_OVERRUN: u64 = 128 << 20;

    /// Checks the budget.
    ///
    /// # Errors
    /// If the budget is smaller than [`Config::MIN_MEMORY`].
    pub fn check(&self) -> Result<(), StoreError> {
        if self.memory < Self::MIN_MEMORY {
            return Err(StoreError::Limit(format!(
                "a memory budget of {} bytes is too small for streams: {} bytes (256 KiB) is the least, 64 MiB a sensible one",
                self.memory,
                Self::MIN_MEMORY
            )));
        }
        Ok(())
    }

    /// The usual settings for a budget.
    #[must_use]
    pub fn new(memory: u64) -> Self {
        Self { memory, window: Self::WINDOW, overrun: memory.max(Self::LEAST_OVERRUN) }
    }
}

/// DStore on one node, shared by all runs on it.
pub struct Store {
    pub(crate) config: Config,
    /// The latest time that a call has told.
    pub(crate) now: Duration,
    pub(crate) memory: Memory,
    pub(crate) runs: Runs,
    pub(crate) processes: Processes,
    pub(crate) outbox: Outbox,
    pub(crate) jobs: Jobs,
    /// Bytes written to disk so far, for all runs.
    pub(crate) spilled: u64,
    bells: Bells,
}

/// What a node has of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamCopy {
    /// Every byte from offset 0 up to what has come so far is there, and more will come if there is more.
    pub is_whole: bool,
    /// The stream has come to its end.
    pub is_complete: bool,
}

/// An event for the scheduler and the worker.
#[derive(Debug)]
pub enum StoreEvent {
    /// The program is ready for its gate.
    Ready(ProcessId),
    /// A stream has its first bytes.
    FirstBytes(RunStream),
    /// A stream is complete.
    Finished(RunStream, u64),
    /// The attempt that continues a stream writes other bytes than the one before; the text says which.
    Diverged(RunStream, String),
    /// The attempt asks for one more part of this output.
    PartWanted(ProcessId, u32),
    /// The attempt sleeps; [`Store::is_waiting`] tells when it no longer does.
    Parked(ProcessId),
    /// The adapter of a command says what its program does.
    Program(ProcessId, ProgramState),
    /// The function reports its end: success, or the reason of its failure; `true` if it ended because its outputs have
    /// no readers left.
    Ended(ProcessId, Result<(), (String, bool)>),
    /// The attempt has violated the protocol, as the text says. It is to be killed.
    Misbehaved(ProcessId, String),
    /// A run cannot continue and is to be ended with [`Store::end_run`]. Other runs are not affected.
    Failed(RunId, RunFailure),
}

impl Store {
    /// An empty store.
    ///
    /// # Errors
    /// If the budget is too small ([`Config::check`]), or there is no memory for the page of bells.
    pub fn new(config: Config, backend: Box<dyn Backend>) -> Result<Self, StoreError> {
        config.check()?;
        Ok(Self {
            memory: Memory::new(config.memory, config.overrun),
            config,
            now: Duration::ZERO,
            runs: Runs::default(),
            processes: Processes::new(),
            outbox: Outbox::default(),
            jobs: Jobs::new(backend),
            spilled: 0,
            bells: Bells::create()?,
        })
    }

    /// Admits a run to this node. It can always have `minimum` bytes of memory, whatever other runs do, and never gets
    /// more than `cap` bytes, except in allocations that its progress depends on. In between, memory is shared max-min
    /// fairly between tenants, and then between the runs of each.
    ///
    /// # Errors
    /// If the minimum is below [`Config::MIN_MEMORY`], above the cap, or more than other runs leave.
    pub fn admit(&mut self, run: RunId, tenant: TenantId, minimum: u64, cap: u64) -> Result<(), Refusal> {
        if self.runs.get(run).is_some() {
            return Err(Refusal::Known { run });
        }
        if minimum < Config::MIN_MEMORY {
            return Err(Refusal::TooLittle { minimum, least: Config::MIN_MEMORY });
        }
        if cap < minimum {
            return Err(Refusal::CapBelowMinimum { minimum, cap });
        }
        let left = self.memory.unpromised();
        if minimum > left {
            return Err(Refusal::NoRoom { minimum, left, budget: self.memory.limit() });
        }
        self.memory.open(run, tenant, minimum, cap);
        self.runs.insert(run);
        // Other runs may be using its minimum: their cold windows make room.
        self.spill_cold(run, minimum);
        Ok(())
    }

    /// Ends a run: frees its streams, memory, spill files, arenas and bells. Memory that jobs still use follows when
    /// they complete. Attempts whose end was not reported yet may still be alive, so their messages are ignored from
    /// now on, and windows that they may have mapped are not used again.
    pub fn end_run(&mut self, now: Duration, run: RunId) {
        self.advance(now);
        let Some(state) = self.runs.remove(run) else { return };
        for piece in state.streams.into_values().flat_map(|stream| stream.epoch.into_pieces()) {
            self.free_memory(piece);
        }
        let alive: Vec<ProcessId> = self.processes.of_run(run).collect();
        for &id in &alive {
            if let Some(process) = self.processes.remove(id) {
                for piece in process.carrier.into_iter().flat_map(|carrier| carrier.quarantine.into_values().flatten())
                {
                    self.free(piece);
                }
            }
            self.memory.abandon(id);
        }
        self.outbox.forget(&alive);
        self.jobs.forget(run);
        self.memory.close(run, alive.is_empty());
        self.clean_next();
        self.serve_waiting_outputs(None);
    }

    /// Handles the completion of a job.
    pub fn complete(&mut self, now: Duration, completion: Completion) {
        self.advance(now);
        match completion.0 {
            Outcome::Spill(done) => self.spilled(done),
            Outcome::Hash(done) => self.hashed(done),
            Outcome::Back(done) => self.backed(done),
            Outcome::Clean(done) => self.cleaned(done),
        }
    }

    /// Advances the time. It never goes back: callers may read the clock in another order than they call.
    pub(crate) fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// The time that has passed since `then`.
    pub(crate) fn since(&self, then: Duration) -> Duration {
        self.now.saturating_sub(then)
    }

    /// Charges an error to the run that it belongs to: that run fails, and no other.
    pub(crate) fn attribute(&mut self, run: RunId, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.fail_run(run, RunFailure::Store(error));
        }
    }

    /// Whether a run has failed and was not ended yet. Its memory will be free soon, so no other run needs to fail for
    /// want of memory.
    pub(crate) fn is_failing(&self) -> bool {
        self.runs.iter().any(|(_, run)| run.failed)
    }

    pub(crate) fn fail_run(&mut self, run: RunId, failure: RunFailure) {
        if let Some(state) = self.runs.get_mut(run)
            && !std::mem::replace(&mut state.failed, true)
        {
            self.outbox.tell(StoreEvent::Failed(run, failure));
        }
    }

    /// Takes the messages since the last call. They must be queued in this order.
    pub fn take_outgoing(&mut self) -> Vec<Outgoing> {
        self.outbox.take_messages()
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> Vec<StoreEvent> {
        self.outbox.take_events()
    }

    /// The daemon's page of bells.
    #[must_use]
    pub fn bells(&self) -> &Bells {
        &self.bells
    }

    /// Opens a stream, which a process will write. `keep`: all its bytes stay until every subscription is cancelled.
    pub fn open_stream(&mut self, id: RunStream, keep: bool) {
        self.insert_stream(id, Stream { keep, ..Stream::default() });
    }

    fn insert_stream(&mut self, id: RunStream, stream: Stream) {
        if let Some(run) = self.runs.get_mut(id.run) {
            run.streams.insert(id.stream, stream);
        }
    }

    /// Begins a new, empty epoch of a stream, or opens it. Its subscriptions stay.
    pub fn reopen_stream(&mut self, id: RunStream, keep: bool) {
        if self.runs.stream(id).is_none() {
            return self.open_stream(id, keep);
        }
        self.abort(id);
        if let Some(stream) = self.runs.stream_mut(id) {
            stream.keep = keep;
        }
    }

    /// Opens a finished stream that consists of these files, each with its length.
    pub fn open_files(&mut self, id: RunStream, files: Vec<(InputFile, u64)>) {
        let epoch = Epoch::of_files(InputFiles::new(files));
        self.insert_stream(id, Stream { epoch, ..Stream::default() });
    }

    /// Subscribes an input of an instance to a stream. `keep`: it may read the stream more than once, or as one slice.
    ///
    /// A stream that is not open yet, because its epoch is void when its first reader on this node appears, is opened: the next
    /// epoch finds its subscriptions.
    pub fn subscribe(&mut self, now: Duration, id: RunStream, subscriber: Subscriber, keep: bool) {
        self.advance(now);
        if self.runs.stream(id).is_none() {
            self.open_stream(id, false);
        }
        if let Some(stream) = self.runs.stream_mut(id) {
            stream.subscribers.insert(subscriber, Subscription::new(keep, self.now));
        }
    }

    /// Cancels a subscription: the input will not read this stream in any epoch.
    pub fn unsubscribe(&mut self, id: RunStream, subscriber: Subscriber) {
        if let Some(state) = self.runs.stream_mut(id).and_then(|stream| stream.subscribers.get_mut(&subscriber)) {
            state.cancel();
            self.tell_unread(id);
            self.release(id);
        }
    }

    /// Forgets a subscription, as if it had never been: the node of its reader is lost.
    pub fn forget_reader(&mut self, id: RunStream, subscriber: Subscriber) {
        self.unsubscribe(id, subscriber);
        if let Some(stream) = self.runs.stream_mut(id) {
            stream.subscribers.remove(&subscriber);
        }
    }

    /// Keeps all bytes of a stream until [`Store::unhold`], because not all of its subscriptions are known yet.
    pub fn hold(&mut self, id: RunStream) {
        if let Some(stream) = self.runs.stream_mut(id) {
            stream.holds += 1;
        }
    }

    /// What is here of a stream: whether every byte from offset 0 on is, up to what has come so far, and whether it has come to
    /// its end. `holds` of the [holds](Store::hold) do not count as readers to come. `None` if it is not open.
    #[must_use]
    pub fn copy_of(&self, id: RunStream, holds: u32) -> Option<StreamCopy> {
        let stream = self.runs.stream(id)?;
        let is_complete = stream.epoch.finished().is_some();
        // Of what nobody reads, bytes are dropped, and no more may come.
        let is_wanted = is_complete || stream.holds > holds || stream.subscribers.values().any(|it| !it.is_done());
        Some(StreamCopy { is_whole: is_wanted && stream.epoch.is_whole(), is_complete })
    }

    /// Ends a [`Store::hold`].
    pub fn unhold(&mut self, id: RunStream) {
        if let Some(stream) = self.runs.stream_mut(id) {
            stream.holds = stream.holds.saturating_sub(1);
            self.tell_unread(id);
            self.release(id);
        }
    }

    /// Aborts the epoch of a stream: its bytes are void. Its subscriptions stay.
    pub fn abort(&mut self, id: RunStream) {
        let Some((mut epoch, producer)) = self.runs.begin_epoch(id) else { return };
        if let Some(port) = epoch.take_port() {
            // The attempts that have read void bytes are being killed.
            self.retire(port);
        }
        let pieces = epoch.into_pieces();
        if let Some((process, port)) = producer {
            // A window that it waits for must not become one of the next epoch.
            self.stop_waiting(id.run, (process, port));
            if let Some(state) = self.processes.get_mut(process)
                && let Some(carrier) = &mut state.carrier
            {
                // Another node may still write into them, until the carrier closes the port.
                carrier.ahead.remove(&id);
                carrier.quarantine.insert(port, pieces);
                state.remove_output(port);
                return;
            }
        }
        for piece in pieces {
            self.free(piece);
        }
    }

    /// Retries requests that had no memory or disk, gives idle memory back, and fails runs that can never continue. To
    /// be called several times a second.
    pub fn tick(&mut self, now: Duration) {
        self.advance(now);
        self.memory.give_back_old(self.now);
        self.serve_put_off();
        self.serve_waiting_outputs(None);
        self.report_staying();
        self.fail_stalled();
    }

    /// Reports producers that still wait for a reader. They ask about it again and again and so do not say themselves
    /// that they wait, but that reader may in turn wait for one that needs their slot.
    fn report_staying(&mut self) {
        let staying = self.processes.iter().filter(|(_, process)| process.stays).map(|(id, _)| id);
        for id in staying.collect::<Vec<_>>() {
            if let Some(process) = self.processes.get_mut(id) {
                process.stays = false;
            }
            if self.is_waiting(id) {
                self.outbox.tell(StoreEvent::Parked(id));
            }
        }
    }

    /// Fails a run that waits for memory while the disk is full and none of its streams moves. Of several such runs,
    /// only the one that uses most fails: the memory that it frees may be enough for the others.
    fn fail_stalled(&mut self) {
        if self.is_failing() {
            return;
        }
        let mut stalled: Option<(u64, RunId, RunFailure)> = None;
        for (id, run) in self.runs.iter_mut() {
            let lacked = run.waiting_outputs().fold(0u64, |sum, (_, want)| sum.saturating_add(want.window()));
            let processes = &self.processes;
            let moved = || {
                let traffic = processes.of_run(id).map(|process| processes.traffic(process));
                traffic.fold(0u64, |sum, it| sum.wrapping_add(it.read).wrapping_add(it.written))
            };
            let Some(disk) = run.disk.why_stalled(lacked > 0, moved, self.now) else { continue };
            let used = self.memory.account(id).map_or(0, |account| account.used);
            if stalled.as_ref().is_none_or(|(most, ..)| *most < used) {
                stalled = Some((used, id, RunFailure::NoRoom { lacked, disk: disk.to_owned() }));
            }
        }
        if let Some((_, id, failure)) = stalled {
            self.fail_run(id, failure);
            self.runs.iter_mut().for_each(|(_, run)| run.disk.reset_patience());
        }
    }

    pub(crate) fn send(&mut self, process: ProcessId, message: ToFunction, fd: Option<OwnedFd>) {
        if let Some(state) = self.processes.get(process) {
            self.outbox.send(Outgoing { process, bell: state.bell, message, fd });
        }
    }

    /// An output no longer waits for a window. Returns whether it did.
    pub(crate) fn stop_waiting(&mut self, run: RunId, output: (ProcessId, PortId)) -> bool {
        self.runs.get_mut(run).is_some_and(|run| run.stop_waiting(output))
    }

    /// Frees the pieces that no reader needs.
    pub(crate) fn release(&mut self, id: RunStream) {
        let Some(stream) = self.runs.stream_mut(id) else { return };
        let needed = stream.needed_from();
        let (pieces, memory) = stream.epoch.pieces.release(needed);
        for window in memory {
            self.memory.free(window, self.now);
        }
        for piece in pieces {
            self.free(piece);
        }
        self.retire_output(id);
    }

    /// Frees the memory or disk space of a piece.
    pub(crate) fn free(&mut self, piece: Piece) {
        if let Place::Spill(file) = &piece.place {
            file.punch(piece.base..piece.end.unwrap_or(piece.base));
        }
        self.free_memory(piece);
    }

    /// Frees the memory of a piece. Its disk space is freed when the spill file is closed.
    fn free_memory(&mut self, piece: Piece) {
        if let Some(former) = piece.former {
            self.memory.free(former.memory, self.now);
        }
        match piece.place {
            Place::Arena { arena, offset, charged } => {
                if let Some(carrier) = arena.carrier {
                    arena.segment.give_back(offset, ARENA_SLOT);
                    // Another attempt may have the carrier's number by now.
                    let carrier = self.processes.get_mut(carrier).filter(|process| process.arena.id == arena.id);
                    if let Some(carrier) = carrier.and_then(|process| process.carrier.as_mut()) {
                        carrier.ports.free_slot(PortId((offset / ARENA_SLOT) as u32));
                    }
                }
                self.memory.discharge(arena.owner, charged);
            }
            // The completion of the job that uses it frees it.
            Place::Window { .. } if piece.lent => {}
            Place::Window { memory, .. } => self.memory.free(memory, self.now),
            Place::Spill(_) | Place::Input(_) => {}
        }
    }
}
