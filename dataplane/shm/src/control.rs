//! Control pages: an attempt's own words, written by it alone, and its view of the pages of others.

use crate::memory::{Access, Memory};
use crate::segment::{Segment, SegmentError, SegmentKind};
use dflow_protocol::PortId;
use dflow_protocol::limits::{CONTROL_BYTES, MAX_PORTS, PORT_BYTES};
use dflow_protocol::words::Progress;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// The words of one port. Only the attempt whose page it is stores to them.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct PortWords {
    /// Watermark or position, and state: [`Progress`].
    pub progress: AtomicU64,
    hot: [u64; 15],
    /// Zero, or what the owner sleeps on: [`dflow_protocol::words::Sleeper`].
    pub ticket: AtomicU64,
    /// When the first byte passed, in nanoseconds of the monotonic clock; 0 before that.
    pub first_byte: AtomicU64,
    cold: [u64; 14],
}

const _: () = assert!(size_of::<PortWords>() == PORT_BYTES);

impl PortWords {
    /// The progress that the port's owner has published.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress::decode(self.progress.load(Ordering::Acquire))
    }

    /// Whether the port's owner sleeps on something, or is about to.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.ticket.load(Ordering::Relaxed) != 0
    }
}

/// This attempt's own control page.
#[derive(Debug)]
pub struct Control {
    memory: Memory,
    segment: Segment,
}

impl Control {
    /// A new page that is writable through this mapping only: the segment is sealed before another process gets it.
    ///
    /// # Errors
    /// If there is no memory or no descriptor for it.
    pub fn create() -> Result<Self, SegmentError> {
        let segment = Segment::create("dflow-control", CONTROL_BYTES, SegmentKind::CreatorWritten)?;
        let memory = segment.map(Access::Write)?;
        segment.seal_writes()?;
        Ok(Self { memory, segment })
    }

    /// The segment, to be handed to the daemon.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Sets the words of a port to what they were at first. Nothing may use the port.
    ///
    /// # Panics
    /// As [`Control::port`].
    pub fn reset(&self, port: PortId) {
        let words = self.port(port);
        for word in [&words.ticket, &words.first_byte, &words.progress] {
            word.store(0, Ordering::Release);
        }
    }

    /// The words of one of this attempt's ports.
    ///
    /// # Panics
    /// If the port is not below [`MAX_PORTS`]; the daemon grants no such port.
    #[must_use]
    pub fn port(&self, port: PortId) -> &PortWords {
        words(&self.memory, port)
    }
}

/// The control page of another process, mapped read-only.
#[derive(Debug)]
pub struct PeerControl {
    memory: Memory,
}

impl PeerControl {
    /// Maps a control page that came from another process, after checking that it is one.
    ///
    /// # Errors
    /// If the descriptor is not a sealed segment of the right size, or cannot be mapped.
    pub fn adopt(fd: OwnedFd) -> Result<Self, SegmentError> {
        let memory = Segment::adopt(fd, CONTROL_BYTES)?.map(Access::Read)?;
        Ok(Self { memory })
    }

    /// The words of one of its ports.
    ///
    /// # Panics
    /// If the port is not below [`MAX_PORTS`].
    #[must_use]
    pub fn port(&self, port: PortId) -> &PortWords {
        words(&self.memory, port)
    }
}

fn words(memory: &Memory, port: PortId) -> &PortWords {
    assert!(port.0 < MAX_PORTS, "port {port} is beyond the {MAX_PORTS} ports of a control page");
    // SAFETY: the mapping has CONTROL_BYTES = MAX_PORTS * PORT_BYTES bytes, is aligned to a page, cannot shrink
    // (sealed, and checked when adopted) and lives as long as the borrow. `PortWords` is atomics and unused padding,
    // and every bit pattern of it is valid.
    unsafe { memory.start().cast::<PortWords>().add(port.0 as usize).as_ref() }
}
