//! The store: runs and streams come and go.

use crate::backend::{Backend, Completion, Outcome};
use crate::error::{Refusal, RunFailure, StoreError};
use crate::input::{InputFile, InputFiles};
use crate::memory::Memory;
use crate::outbox::{Outbox, Outgoing};
use crate::pieces::{Piece, Place};
use crate::process::{Process, Processes};
use crate::run::Runs;
use crate::stream::Stream;
use crate::subscription::{Subscriber, Subscription};
use crate::{ProcessId, RunStream, TenantId};
use dflow_protocol::limits::{ARENA_SLOT, MIN_WINDOW};
use dflow_protocol::message::ToFunction;
use dflow_protocol::{PortId, RunId};
use dflow_shm::Bells;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

/// How much the store may use, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// The memory budget in bytes, at least [`Config::MIN_MEMORY`].
    pub memory: u64,
    /// The window of a stream whose readers keep up, in bytes; rounded up to a power of two.
    pub window: u64,
    /// How many bytes all runs together may have beyond the budget, for what their streams must have to go on. When that is
    /// used up, the run that is most above its share fails.
    pub overrun: u64,
}

impl Config {
    /// The smallest budget, and the smallest minimum of a run: one window, one arena slot, and as much again on its way to
    /// disk.
    pub const MIN_MEMORY: u64 = 4 * MIN_WINDOW;
    /// The usual window. Twice a core's own cache is better than once: what the producer writes next has then left the
    /// reader's cache, and a shared cache hands it over faster than the other core takes it back.
    pub const WINDOW: u64 = 2 << 20;
    /// The least of the usual [`Config::overrun`]: a thousand streams in the smallest budget.
    const LEAST_OVERRUN: u64 = 128 << 20;

    /// Whether a store can work with this.
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

/// DStore on one node, for all runs on it.
pub struct Store {
    pub(crate) config: Config,
    pub(crate) backend: Box<dyn Backend>,
    /// The latest time that the store was told.
    pub(crate) now: Duration,
    pub(crate) memory: Memory,
    pub(crate) runs: Runs,
    pub(crate) processes: Processes,
    pub(crate) outbox: Outbox,
    /// Bytes that wait to be hashed.
    pub(crate) hashing: u64,
    /// Bytes on their way to disk.
    pub(crate) spilling: u64,
    /// Streams for which a window is being backed.
    pub(crate) backing: BTreeSet<RunStream>,
    /// A window is being zeroed.
    pub(crate) cleaning: bool,
    pub(crate) spilled: u64,
    bells: Bells,
}

/// What has happened, for the scheduler and the worker.
#[derive(Debug)]
pub enum StoreEvent {
    /// The program is ready for its gate.
    Ready(ProcessId),
    /// A stream has its first bytes.
    FirstBytes(RunStream),
    /// A stream is complete.
    Finished(RunStream, u64),
    /// The attempt that continues a stream does not write what the one before has written, as it says here.
    Diverged(RunStream, String),
    /// The attempt wants one more part of this output.
    PartWanted(ProcessId, u32),
    /// The attempt sleeps; [`Store::is_waiting`] tells when it no longer does.
    Parked(ProcessId),
    /// The function has ended: well, or with a reason; `true` if it ended because nobody reads its outputs.
    Ended(ProcessId, Result<(), (String, bool)>),
    /// The attempt has broken the protocol, as it says here, and is to be ended.
    Misbehaved(ProcessId, String),
    /// A run cannot go on. It is to be ended with [`Store::end_run`]; others are not concerned.
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
            backend,
            now: Duration::ZERO,
            runs: Runs::default(),
            processes: Processes::new(),
            outbox: Outbox::default(),
            hashing: 0,
            spilling: 0,
            backing: BTreeSet::new(),
            cleaning: false,
            spilled: 0,
            bells: Bells::create()?,
        })
    }

    /// A run becomes a guest of this node. `minimum`: bytes of memory that it can always have, whatever other runs do, at
    /// least [`Config::MIN_MEMORY`]. `cap`: bytes beyond which its streams get no more than they must have to go on. In
    /// between, memory is shared fairly between tenants, and then between the runs of each.
    ///
    /// # Errors
    /// Why the run cannot be a guest now, or at all.
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
        // Its minimum may be in use by others, whose cold bytes make room.
        self.spill_cold(run, minimum);
        Ok(())
    }

    /// A run is over, whether or not its attempts have been seen to end: its streams, memory, files, arenas and bells are
    /// given back. What jobs still read or write follows when they complete. Attempts that may still live are not heard any
    /// more, and what they have mapped is used for nobody else.
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
        self.backing.retain(|stream| stream.run != run);
        self.memory.close(run, alive.is_empty());
        self.clean_next();
        self.feed_starved(None);
    }

    /// A job that the backend was given is done, or has failed.
    pub fn complete(&mut self, now: Duration, completion: Completion) {
        self.advance(now);
        match completion.0 {
            Outcome::Spill(done) => self.spilled(done),
            Outcome::Hash(done) => self.hashed(done),
            Outcome::Back(done) => self.backed(done),
            Outcome::Clean(done) => self.cleaned(done),
        }
    }

    /// Takes note of the time. Calls may come from several places that looked at the clock in another order.
    pub(crate) fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// How long ago something was.
    pub(crate) fn since(&self, then: Duration) -> Duration {
        self.now.saturating_sub(then)
    }

    /// What a run asked for cannot be done: that run fails, and no other.
    pub(crate) fn attribute(&mut self, run: RunId, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.fail_run(run, RunFailure::Store(error));
        }
    }

    pub(crate) fn fail_run(&mut self, run: RunId, failure: RunFailure) {
        if let Some(state) = self.runs.get_mut(run)
            && !std::mem::replace(&mut state.failed, true)
        {
            self.outbox.tell(StoreEvent::Failed(run, failure));
        }
    }

    /// Messages to be queued, in this order, since the last call.
    pub fn take_outgoing(&mut self) -> Vec<Outgoing> {
        self.outbox.take_messages()
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<StoreEvent> {
        self.outbox.take_events()
    }

    /// The daemon's page of bells.
    #[must_use]
    pub fn bells(&self) -> &Bells {
        &self.bells
    }

    /// A new stream, which a process will write. `keep`: all its bytes stay until every subscription is cancelled.
    pub fn open_stream(&mut self, id: RunStream, keep: bool) {
        self.insert_stream(id, Stream { keep, ..Stream::default() });
    }

    fn insert_stream(&mut self, id: RunStream, stream: Stream) {
        if let Some(run) = self.runs.get_mut(id.run) {
            run.streams.insert(id.stream, stream);
        }
    }

    /// A stream begins again, empty: a new epoch. Its subscriptions stay.
    pub fn reopen_stream(&mut self, id: RunStream, keep: bool) {
        if self.runs.stream(id).is_none() {
            return self.open_stream(id, keep);
        }
        self.abort(id);
        if let Some(stream) = self.runs.stream_mut(id) {
            stream.keep = keep;
        }
    }

    /// Whether an attempt has been told that nobody reads any of its outputs any more; those that it has finished do not
    /// count.
    #[must_use]
    pub fn was_told_unread(&self, id: ProcessId) -> bool {
        self.processes.get(id).is_some_and(|process| self.is_all_unread(process))
    }

    fn is_all_unread(&self, process: &Process) -> bool {
        let mut streams = process.outputs.values().filter_map(|&id| self.runs.stream(id));
        self.first_read_output(process).is_none()
            && streams.any(|stream| stream.is_subscribed() && stream.epoch.unread_told)
    }

    /// An output that the attempt still writes and that somebody may read. It is sought first where it was found last: so
    /// one with thousands of outputs that are finished in turn is not gone through for each of them.
    fn first_read_output(&self, process: &Process) -> Option<PortId> {
        let is_read = |id: &RunStream| self.runs.stream(*id).is_some_and(Stream::is_read);
        let (before, from) =
            (process.outputs.range(..process.read_output), process.outputs.range(process.read_output..));
        from.chain(before).find(|(_, id)| is_read(id)).map(|(&port, _)| port)
    }

    /// A finished stream that consists of files of these lengths, one after the other.
    pub fn open_files(&mut self, id: RunStream, files: Vec<(InputFile, u64)>) {
        let mut stream = Stream::default();
        let epoch = &mut stream.epoch;
        let files = InputFiles::new(files);
        let length = files.length();
        if length > 0 {
            epoch.pieces.push(Piece::new(0, Some(length), Place::Input(Rc::new(files))));
        }
        epoch.first_bytes = true;
        epoch.finished = Some(length);
        epoch.watermark = length;
        self.insert_stream(id, stream);
    }

    /// An input of an instance will read this stream. `keep`: it may do so more than once, or wants all of it at once.
    pub fn subscribe(&mut self, now: Duration, id: RunStream, subscriber: Subscriber, keep: bool) {
        self.advance(now);
        if let Some(stream) = self.runs.stream_mut(id) {
            stream.subscribers.insert(subscriber, Subscription::new(keep, self.now));
        }
    }

    /// An input will not read this stream any more, nor again.
    pub fn unsubscribe(&mut self, id: RunStream, subscriber: Subscriber) {
        if let Some(state) = self.runs.stream_mut(id).and_then(|stream| stream.subscribers.get_mut(&subscriber)) {
            state.cancel();
            self.tell_unread(id);
            self.release(id);
        }
    }

    /// Not all subscriptions of this stream are known yet: all its bytes stay until [`Store::unhold`].
    pub fn hold(&mut self, id: RunStream) {
        if let Some(stream) = self.runs.stream_mut(id) {
            stream.holds += 1;
        }
    }

    /// The opposite of [`Store::hold`].
    pub fn unhold(&mut self, id: RunStream) {
        if let Some(stream) = self.runs.stream_mut(id) {
            stream.holds = stream.holds.saturating_sub(1);
            self.tell_unread(id);
            self.release(id);
        }
    }

    /// The bytes of a stream are void: its epoch is aborted. Its subscriptions stay.
    pub fn abort(&mut self, id: RunStream) {
        let Some(epoch) = self.runs.begin_epoch(id) else { return };
        let producer = epoch.producer;
        let pieces = epoch.into_pieces();
        if let Some((process, port)) = producer {
            // What it asked for would be a window of the next epoch.
            self.unstarve(id.run, (process, port));
            if let Some(state) = self.processes.get_mut(process)
                && let Some(carrier) = &mut state.carrier
            {
                // Another node may still write there: the carrier says when it does not.
                state.outputs.remove(&port);
                carrier.ahead.remove(&id);
                carrier.quarantine.insert(port, pieces);
                return;
            }
        }
        for piece in pieces {
            self.free(piece);
        }
    }

    /// To be called now and then (a few times a second): tries again what had no memory or no disk, gives idle memory
    /// back, and notices when nothing of a run will ever move again.
    pub fn tick(&mut self, now: Duration) {
        self.advance(now);
        self.memory.give_back_old(self.now);
        self.serve_put_off();
        self.feed_starved(None);
        self.fail_hopeless();
    }

    /// Fails a run that waits for memory while the disk is full and nothing of it moves. If there are several, the one that
    /// has most: what it gives back may be enough for the others, which get their time anew.
    fn fail_hopeless(&mut self) {
        let mut hopeless: Option<(u64, RunId, RunFailure)> = None;
        for (id, run) in self.runs.iter_mut().filter(|(_, run)| !run.failed) {
            let lacked = run.starved().fold(0u64, |sum, (_, want)| sum.saturating_add(want.window()));
            let processes = &self.processes;
            let moved = || {
                let traffic = processes.of_run(id).map(|process| processes.traffic(process));
                traffic.fold(0u64, |sum, it| sum.wrapping_add(it.read).wrapping_add(it.written))
            };
            let Some(disk) = run.disk.is_hopeless(lacked > 0, moved, self.now) else { continue };
            let used = self.memory.account(id).map_or(0, |account| account.used);
            if hopeless.as_ref().is_none_or(|(most, ..)| *most < used) {
                hopeless = Some((used, id, RunFailure::NoRoom { lacked, disk: disk.to_owned() }));
            }
        }
        if let Some((_, id, failure)) = hopeless {
            self.fail_run(id, failure);
            self.runs.iter_mut().for_each(|(_, run)| run.disk.hope());
        }
    }

    pub(crate) fn send(&mut self, process: ProcessId, message: ToFunction, fd: Option<OwnedFd>) {
        if let Some(state) = self.processes.get(process) {
            self.outbox.send(Outgoing { process, bell: state.bell, message, fd });
        }
    }

    /// An output does not wait for a window any more; whether it did.
    pub(crate) fn unstarve(&mut self, run: RunId, output: (ProcessId, PortId)) -> bool {
        self.runs.get_mut(run).is_some_and(|run| run.feed(output))
    }

    /// Gives up pieces that nobody needs.
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
    }

    /// Gives back what a piece has: memory, or disk space.
    pub(crate) fn free(&mut self, piece: Piece) {
        if let Place::Spill(file) = &piece.place {
            file.punch(piece.base..piece.end.unwrap_or(piece.base));
        }
        self.free_memory(piece);
    }

    /// As [`Store::free`], where the whole spill file goes.
    fn free_memory(&mut self, piece: Piece) {
        if let Some(former) = piece.former {
            self.memory.free(former.memory, self.now);
        }
        match piece.place {
            Place::Arena { arena, offset, charged } => {
                if arena.long_lived {
                    arena.segment.give_back(offset, ARENA_SLOT);
                }
                self.memory.discharge(arena.owner, charged);
            }
            // The job that it is lent to gives it back when it completes.
            Place::Window { .. } if piece.lent => {}
            Place::Window { memory, .. } => self.memory.free(memory, self.now),
            Place::Spill(_) | Place::Input(_) => {}
        }
    }

    /// Tells a producer that nobody reads its output any more.
    pub(crate) fn tell_unread(&mut self, id: RunStream) {
        let Some(stream) = self.runs.stream_mut(id) else { return };
        if stream.is_unread()
            && !stream.epoch.unread_told
            && stream.epoch.finished.is_none()
            && let Some((process, port)) = stream.epoch.producer
        {
            stream.epoch.unread_told = true;
            if let Some(process) = self.processes.get_mut(process) {
                process.unread_told = true;
            }
            self.send(process, ToFunction::Unread { port }, None);
            self.tell_about_the_rest(process);
        }
    }

    /// Outputs that nothing was ever meant to read do not keep a producer going when nobody reads the others any more.
    pub(crate) fn tell_about_the_rest(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get(id).filter(|process| process.unread_told) else { return };
        if let Some(port) = self.first_read_output(process) {
            if let Some(process) = self.processes.get_mut(id) {
                process.read_output = port;
            }
            return;
        }
        if !self.is_all_unread(process) {
            return;
        }
        let never_read = |stream: RunStream| self.runs.stream(stream).is_some_and(|stream| !stream.is_subscribed());
        let rest: Vec<PortId> =
            process.outputs.iter().filter(|(_, stream)| never_read(**stream)).map(|(&port, _)| port).collect();
        for port in rest {
            self.send(id, ToFunction::Unread { port }, None);
        }
    }
}
