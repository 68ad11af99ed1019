//! A window that is filled by a network card, or by a thread that copies packets.

use crate::memory::{Access, Memory};
use dflow_protocol::message::Window;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The room in which bytes of a stream arrive, in any order, before its [`crate::Writer`] commits them.
///
/// The owner of the writer opens the range that may arrive at present ([`Landing::open`]); no other bytes can be
/// overwritten. Several threads may use it at the same time.
#[derive(Debug)]
pub struct Landing {
    memory: Arc<Memory>,
    /// Where in `memory` the window starts.
    start: usize,
    base: u64,
    size: u64,
    ring: bool,
    /// Offsets in the stream between which bytes may arrive.
    floor: AtomicU64,
    ceiling: AtomicU64,
}

/// Bytes outside of the range that may arrive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes {}..{} of a stream, where only {}..{} may arrive", bytes.start, bytes.end, room.start, room.end)]
pub struct OutOfRoom {
    /// Where they would have been in the stream.
    pub bytes: Range<u64>,
    /// The room that there is.
    pub room: Range<u64>,
}

impl Landing {
    /// The window that `memory` holds from byte `start` on: `window.size` bytes, or twice as many, mapped back to back,
    /// for a ring. Nothing may arrive before [`Landing::open`].
    ///
    /// # Panics
    /// If the window is larger than the memory behind it or the memory cannot be written: the caller has mapped it
    /// wrongly.
    #[must_use]
    pub fn new(window: &Window, memory: Arc<Memory>, start: usize) -> Self {
        let bytes = if window.ring { 2 * window.size } else { window.size };
        assert!(start as u64 + bytes <= memory.length() as u64, "the window is larger than its mapping");
        assert!(!window.ring || window.size.is_power_of_two(), "a ring's size is a power of two");
        assert_eq!(memory.access(), Access::Write, "bytes cannot land in memory that is mapped to be read");
        Self {
            memory,
            start,
            base: window.base,
            size: window.size,
            ring: window.ring,
            floor: AtomicU64::new(window.base),
            ceiling: AtomicU64::new(window.base),
        }
    }

    /// From now on the bytes at these offsets of the stream may arrive, and no others. Cut to what the window can hold.
    /// Neither end ever goes back.
    pub fn open(&self, room: Range<u64>) {
        let start = room.start.max(self.base);
        let most = if self.ring { start + self.size } else { self.base + self.size };
        // The floor is stored first and loaded last, so that a thread which sees the new ceiling sees the new floor.
        self.floor.fetch_max(start, Ordering::Release);
        self.ceiling.fetch_max(room.end.min(most), Ordering::Release);
    }

    /// The offsets at which bytes may arrive.
    #[must_use]
    pub fn room(&self) -> Range<u64> {
        let ceiling = self.ceiling.load(Ordering::Acquire);
        let floor = self.floor.load(Ordering::Acquire);
        floor..ceiling.max(floor)
    }

    /// Copies bytes to their place in the window.
    ///
    /// # Errors
    /// If one of them would be outside of the room.
    pub fn place(&self, at: u64, bytes: &[u8]) -> Result<(), OutOfRoom> {
        let room = self.room();
        let end = at.saturating_add(bytes.len() as u64);
        if at < room.start || end > room.end {
            return Err(OutOfRoom { bytes: at..end, room });
        }
        // SAFETY: `new` has checked that the window lies in writable memory, and `open` keeps the room within it (for a
        // ring, from any start on at most one window, which the second mapping makes contiguous). Bytes above the floor
        // are not committed, so no slice of them exists. Two threads place the same bytes only if a peer sends them
        // twice, and then only that peer's own stream is damaged.
        unsafe {
            let target = self.memory.start().add(self.index(at)).as_ptr();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
        }
        Ok(())
    }

    /// Where in [`Landing::memory`] the byte at a stream offset belongs.
    #[must_use]
    pub fn index(&self, offset: u64) -> usize {
        let relative = offset.saturating_sub(self.base);
        let index = if self.ring { relative & (self.size - 1) } else { relative };
        self.start + usize::try_from(index).unwrap_or(usize::MAX)
    }

    /// The memory that holds the window.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Whether both are the same place of the same stream, each with a room of its own.
    #[must_use]
    pub fn is_same_window(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory) && self.start == other.start && self.base == other.base
    }

    /// The stream offset of the window's first byte.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The window's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the window is a ring; its memory then has twice the size, from the window's start on.
    #[must_use]
    pub fn is_ring(&self) -> bool {
        self.ring
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Segment, SegmentKind};
    use dflow_protocol::SegmentId;
    use std::os::fd::AsFd;

    fn landing(base: u64, ring: bool) -> Landing {
        let size = 4096;
        let segment = Segment::create("test", size, SegmentKind::FunctionWritten).expect("a segment");
        let memory =
            if ring { Memory::ring(segment.as_fd(), 0, size, Access::Write) } else { segment.map(Access::Write) };
        let window = Window { segment: SegmentId(1), segment_offset: 0, base, size: size as u64, ring };
        Landing::new(&window, Arc::new(memory.expect("a mapping")), 0)
    }

    fn bytes(landing: &Landing, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let index = landing.index(at);
        landing.memory().shared(index..index + length).copy_to(&mut bytes);
        bytes
    }

    #[test]
    fn bytes_arrive_in_any_order_and_nowhere_else() {
        let landing = landing(1000, false);
        assert!(landing.place(1000, b"x").is_err(), "nothing may arrive before it is opened");
        landing.open(1000..3000);
        landing.place(1003, b"def").expect("there is room");
        landing.place(1000, b"abc").expect("there is room");
        assert_eq!(bytes(&landing, 1000, 6), b"abcdef");
        assert!(landing.place(2999, b"xy").is_err());
        assert!(landing.place(999, b"x").is_err());
        assert!(landing.place(u64::MAX, b"x").is_err());
        landing.open(1500..1_000_000);
        assert_eq!(landing.room(), 1500..1000 + 4096, "a window that is filled once ends with its memory");
        assert!(landing.place(1499, b"x").is_err());
    }

    #[test]
    fn a_ring_goes_on_at_its_beginning() {
        let landing = landing(0, true);
        landing.open(4000..1_000_000);
        assert_eq!(landing.room(), 4000..4000 + 4096);
        let sent: Vec<u8> = (0..200u8).collect();
        landing.place(4000, &sent).expect("there is room");
        assert_eq!(bytes(&landing, 4000, 200), sent);
        assert_eq!(bytes(&landing, 4096, 100), sent[96..196], "the second half begins at the window's first byte");
    }
}
