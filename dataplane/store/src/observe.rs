//! Looking at the store from outside: who waits, how much has passed, how much is in use.

use crate::stream::Place;
use crate::{ProcessId, Store};
use dflow_protocol::{PortId, StreamId};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

/// How much the store uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory in use for streams.
    pub memory: u64,
    /// The most there have been.
    pub peak: u64,
    /// The budget.
    pub limit: u64,
    /// Bytes written to disk so far.
    pub spilled: u64,
}

/// What has passed through an attempt's ports.
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

impl Store {
    /// Whether an attempt waits: it sleeps on something, or for an answer of the store.
    #[must_use]
    pub fn is_waiting(&self, id: ProcessId) -> bool {
        let Some(process) = self.processes.get(&id) else { return false };
        let Some(control) = &process.control else { return false };
        let asleep = |port: &PortId| control.words.port(*port).is_waiting();
        // A window that is being backed is there at once.
        let starved = |port: &PortId| !process.outputs.get(port).is_some_and(|stream| self.is_being_backed(*stream));
        process.starved.keys().any(starved)
            || process.inputs.keys().any(asleep)
            || process.outputs.keys().any(asleep)
            || process.inputs.iter().any(|(port, input)| self.has_asked(id, *port, input))
    }

    /// Bytes read and written so far, and when the first of each passed, in nanoseconds of the monotonic clock.
    #[must_use]
    pub fn traffic(&self, id: ProcessId) -> Traffic {
        let mut traffic = Traffic::default();
        let Some((process, control)) = self.processes.get(&id).and_then(|p| Some((p, p.control.as_ref()?))) else {
            return traffic;
        };
        let earliest = |at: &mut Option<u64>, nanos: u64| {
            if nanos != 0 {
                *at = Some(at.map_or(nanos, |earlier| earlier.min(nanos)));
            }
        };
        for &port in process.inputs.keys() {
            let words = control.words.port(port);
            traffic.read = traffic.read.saturating_add(words.progress().offset);
            earliest(&mut traffic.first_read, words.first_byte.load(Ordering::Relaxed));
        }
        for &port in process.outputs.keys() {
            let words = control.words.port(port);
            traffic.written = traffic.written.saturating_add(words.progress().offset);
            earliest(&mut traffic.first_written, words.first_byte.load(Ordering::Relaxed));
        }
        traffic
    }

    /// How much is in use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            memory: self.budget.busy(),
            peak: self.budget.peak(),
            limit: self.budget.limit(),
            spilled: self.spilled,
        }
    }

    /// The first bytes of a finished stream, at most `most`; `None` if they are not there.
    #[must_use]
    pub fn read_small(&self, id: StreamId, most: usize) -> Option<Vec<u8>> {
        let stream = self.streams.get(&id)?;
        let length = usize::try_from(stream.finished?).ok()?.min(most);
        let mut bytes = vec![0; length];
        if length == 0 {
            return Some(bytes);
        }
        let piece = stream.pieces.get(stream.piece_at(0)?).filter(|piece| piece.base == 0)?;
        let read = match &piece.place {
            Place::Arena { arena, offset, .. } => rustix::io::pread(&arena.segment, &mut bytes[..], *offset),
            Place::Window { memory, .. } => rustix::io::pread(&memory.segment, &mut bytes[..], 0),
            Place::Spill(file) => rustix::io::pread(file.reader().ok()?, &mut bytes[..], 0),
            Place::Input(file) => rustix::io::pread(file.as_fd(), &mut bytes[..], 0),
        };
        bytes.truncate(read.ok()?);
        Some(bytes)
    }
}
