//! Figures for callers: memory in use, bytes that have passed, attempts that wait.

use crate::pieces::Place;
use crate::{ProcessId, RunStream, Store};
use dflow_protocol::{PortId, RunId};
use dflow_shm::PortWords;
use std::sync::atomic::Ordering;

/// The memory and disk space in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory in use for streams.
    pub memory: u64,
    /// Bytes of idle windows, which are given back when memory is short.
    pub idle: u64,
    /// The largest number of bytes in use or idle at the same time.
    pub peak: u64,
    /// The budget in bytes.
    pub limit: u64,
    /// Bytes written to disk so far.
    pub spilled: u64,
}

/// The memory and disk space that one run uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunUsage {
    /// Bytes of memory in use for its streams.
    pub memory: u64,
    /// The most bytes of memory in use at any time so far.
    pub peak: u64,
    /// Bytes that no other run can take.
    pub minimum: u64,
    /// The most bytes that it gets.
    pub cap: u64,
    /// Bytes written to disk so far.
    pub spilled: u64,
}

/// The bytes that have passed through an attempt's ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// When the first byte was read, in nanoseconds of the monotonic clock.
    pub first_read: Option<u64>,
    /// When the first byte was written.
    pub first_written: Option<u64>,
}

impl Traffic {
    /// Adds what a reading port has passed.
    pub(crate) fn add_input(&mut self, words: &PortWords) {
        self.read = self.read.saturating_add(words.progress().offset);
        earliest(&mut self.first_read, words);
    }

    /// Adds what a writing port has passed.
    pub(crate) fn add_output(&mut self, words: &PortWords) {
        self.written = self.written.saturating_add(words.progress().offset);
        earliest(&mut self.first_written, words);
    }
}

fn earliest(at: &mut Option<u64>, words: &PortWords) {
    let nanos = words.first_byte.load(Ordering::Relaxed);
    if nanos != 0 {
        *at = Some(at.map_or(nanos, |earlier| earlier.min(nanos)));
    }
}

/// What an attempt waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Bytes of this input.
    Input(u32),
    /// Room in an output.
    Room,
}

impl Store {
    /// Whether an attempt waits: it sleeps on a control word, or for an answer of the store.
    #[must_use]
    pub fn is_waiting(&self, id: ProcessId) -> bool {
        self.waiting_for(id).is_some()
    }

    /// What an attempt waits for. Of several things, room in an output: the attempt has something to write.
    #[must_use]
    pub fn waiting_for(&self, id: ProcessId) -> Option<Waiting> {
        let process = self.processes.get(id).filter(|process| process.control.is_some())?;
        let run = self.runs.get(process.run)?;
        let asleep = |port: &PortId| process.sleeps_at(*port);
        // A window that is being backed comes soon enough for the attempt to keep its slot.
        let waits = |port: PortId| !process.outputs.get(&port).is_some_and(|stream| self.jobs.is_backing(*stream));
        if run.waiting_outputs_of(id).any(waits) || process.outputs.keys().any(asleep) {
            return Some(Waiting::Room);
        }
        let mut inputs = process.inputs.iter();
        let waits = inputs.find(|(port, input)| asleep(port) || self.has_asked((id, **port), input));
        waits.map(|(_, (_, subscriber))| Waiting::Input(subscriber.input))
    }

    /// Bytes read and written so far, and when the first of each passed, in nanoseconds of the monotonic clock.
    #[must_use]
    pub fn traffic(&self, id: ProcessId) -> Traffic {
        self.processes.traffic(id)
    }

    /// The memory and disk space in use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            memory: self.memory.busy(),
            idle: self.memory.idle(),
            peak: self.memory.peak(),
            limit: self.memory.limit(),
            spilled: self.spilled,
        }
    }

    /// The memory and disk space that a run uses; `None` if it is not admitted.
    #[must_use]
    pub fn run_usage(&self, run: RunId) -> Option<RunUsage> {
        let account = self.memory.account(run)?;
        let spilled = self.runs.get(run)?.spilled;
        Some(RunUsage { memory: account.used, peak: account.peak, minimum: account.minimum, cap: account.cap, spilled })
    }

    /// The first bytes of a finished stream, at most `most`; `None` if the stream has not finished, or they were freed.
    #[must_use]
    pub fn read_small(&self, id: RunStream, most: usize) -> Option<Vec<u8>> {
        let epoch = &self.runs.stream(id)?.epoch;
        let length = usize::try_from(epoch.finished()?).ok()?.min(most);
        let mut bytes = vec![0; length];
        if length == 0 {
            return Some(bytes);
        }
        let piece = epoch.pieces.get(epoch.pieces.position(0)?).filter(|piece| piece.base == 0)?;
        let read = match &piece.place {
            Place::Arena { arena, offset, .. } => rustix::io::pread(&arena.segment, &mut bytes[..], *offset),
            Place::Window { memory, .. } => rustix::io::pread(&memory.segment, &mut bytes[..], 0),
            Place::Spill(file) => rustix::io::pread(file.reader().ok()?, &mut bytes[..], 0),
            Place::Input(files) => rustix::io::pread(files.reader_at(0).ok()??.0, &mut bytes[..], 0),
        };
        bytes.truncate(read.ok()?);
        Some(bytes)
    }
}
