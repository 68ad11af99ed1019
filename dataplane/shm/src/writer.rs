//! The producer's end of a stream: it reserves room in the window, fills it in place and commits.

use crate::control::{Control, PeerControl, PortWords};
use crate::futex::Kernel;
use crate::landing::Landing;
use crate::memory::Memory;
use crate::wait::{Wait, now_nanos};
use crate::watchers::PeerWord;
use dflow_protocol::message::Window;
use dflow_protocol::words::{Platform, Progress, Sleeper, State, Watch, publish};
use dflow_protocol::{PortId, SegmentId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether the window has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// At least as much as was asked for.
    Enough,
    /// A reader still needs the bytes that would be overwritten.
    Held,
    /// The window will never have so much room: it is filled, too small, or there is none yet.
    Full,
}

/// The producer's end of a stream.
#[derive(Debug)]
pub struct Writer {
    control: Arc<Control>,
    port: PortId,
    /// The watermark, in bytes.
    watermark: u64,
    /// Bytes below this offset may be written; never more than is known to be safe.
    room_end: u64,
    window: Option<WriteWindow>,
    readers: Vec<Peer>,
    /// How much [`Wait::ready`] waits for.
    wanted: u64,
    /// The index of the reader that holds the room back, and its word.
    holder: Option<(usize, u64)>,
    announced: Option<u64>,
    sleeper: Sleeper,
}

#[derive(Debug)]
struct WriteWindow {
    memory: Arc<Memory>,
    /// Where in `memory` the window starts.
    start: usize,
    base: u64,
    size: u64,
    ring: bool,
}

impl WriteWindow {
    /// The index of the byte at a stream offset.
    fn index(&self, offset: u64) -> u64 {
        if self.ring { (offset - self.base) & (self.size - 1) } else { offset - self.base }
    }
}

#[derive(Debug)]
struct Peer {
    page: Arc<PeerControl>,
    port: PortId,
    position: u64,
    watch: Watch,
}

impl Writer {
    /// The end of a stream whose words are at `port` of `control`, without a window as yet.
    #[must_use]
    pub fn new(control: Arc<Control>, port: PortId) -> Self {
        Self {
            control,
            port,
            watermark: 0,
            room_end: 0,
            window: None,
            readers: Vec::new(),
            wanted: 1,
            holder: None,
            announced: None,
            sleeper: Sleeper::default(),
        }
    }

    /// Continues in this window. `memory` holds it from byte `start` on: `window.size` bytes, or twice as many, mapped
    /// back to back, for a ring.
    ///
    /// # Panics
    /// If the window is larger than the memory behind it or does not take the next byte: the caller has mapped it
    /// wrongly.
    pub fn set_window(&mut self, window: &Window, memory: Arc<Memory>, start: usize) {
        let bytes = if window.ring { 2 * window.size } else { window.size };
        assert!(start as u64 + bytes <= memory.length() as u64, "the window is larger than its mapping");
        assert!(!window.ring || window.size.is_power_of_two(), "a ring's size is a power of two");
        assert!(window.base <= self.watermark && (window.ring || self.watermark <= window.base + window.size));
        self.window = Some(WriteWindow { memory, start, base: window.base, size: window.size, ring: window.ring });
        self.refresh();
    }

    /// From now on this reader's position limits a ring, and it is woken when it sleeps.
    pub fn add_reader(&mut self, page: Arc<PeerControl>, port: PortId) {
        self.readers.push(Peer { page, port, position: 0, watch: Watch::default() });
        self.refresh();
    }

    /// This reader is gone.
    pub fn drop_reader(&mut self, page: &Arc<PeerControl>, port: PortId) {
        self.readers.retain(|reader| reader.port != port || !Arc::ptr_eq(&reader.page, page));
        self.refresh();
    }

    /// Whether `wanted` contiguous bytes can be written now.
    pub fn room(&mut self, wanted: u64) -> Room {
        if self.room_end - self.watermark >= wanted {
            return Room::Enough;
        }
        self.wanted = wanted;
        self.refresh();
        match &self.window {
            Some(_) if self.room_end - self.watermark >= wanted => Room::Enough,
            Some(window) if window.ring && wanted <= window.size => Room::Held,
            _ => Room::Full,
        }
    }

    /// The bytes that can be written now, from the watermark on. Their contents are arbitrary.
    pub fn spare(&mut self) -> &mut [u8] {
        let Some(window) = &self.window else {
            return &mut [];
        };
        let length = self.room_end - self.watermark;
        let index = window.index(self.watermark);
        // SAFETY: `set_window` has checked that the window lies in the memory; `index + length` stays within it (twice
        // the size for a ring, whose room never exceeds its size). These bytes are this producer's alone: consumers
        // read below the watermark only, and `refresh` keeps the room clear of everything a reader has not passed. The
        // borrow of `self` prevents a second slice.
        unsafe {
            let first = window.memory.start().add(window.start + index as usize);
            std::slice::from_raw_parts_mut(first.as_ptr(), length as usize)
        }
    }

    /// The same bytes as [`Writer::spare`], to read back what has been filled in so far.
    #[must_use]
    pub fn spare_bytes(&self) -> &[u8] {
        let Some(window) = &self.window else { return &[] };
        let length = self.room_end - self.watermark;
        let index = window.index(self.watermark);
        // SAFETY: as in `spare`, shared instead of exclusive.
        unsafe {
            let first = window.memory.start().add(window.start + index as usize);
            std::slice::from_raw_parts(first.as_ptr(), length as usize)
        }
    }

    /// The bytes that are left of an extent; 0 for a ring.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.window.as_ref().map_or(0, |window| {
            if window.ring { 0 } else { (window.base + window.size).saturating_sub(self.watermark) }
        })
    }

    /// Makes the first `length` bytes of [`Writer::spare`] readable and wakes readers that sleep.
    ///
    /// # Panics
    /// If there is less room than that.
    pub fn commit(&mut self, length: u64) {
        assert!(length <= self.room_end - self.watermark, "more bytes committed than there was room for");
        if self.watermark == 0 && length > 0 {
            self.words().first_byte.store(now_nanos(), Ordering::Relaxed);
        }
        self.watermark += length;
        self.publish(State::Open);
    }

    /// Ends the stream: everything has been written, or the producer gives up.
    pub fn end(&mut self, state: State) {
        self.publish(state);
        self.room_end = self.watermark;
        self.window = None;
    }

    fn publish(&mut self, state: State) {
        publish::<Kernel>(&self.control.port(self.port).progress, Progress { offset: self.watermark, state });
        self.wake_readers();
    }

    /// Wakes readers that sleep on an older watermark. [`Writer::commit`] has done so for the readers that it knew;
    /// call this after a new one was added.
    pub fn wake_readers(&mut self) {
        let words = self.control.port(self.port);
        let published = words.progress();
        let mut wake = false;
        for reader in &mut self.readers {
            wake |= reader.watch.must_wake::<Kernel>(&reader.page.port(reader.port).ticket, published);
        }
        if wake {
            Kernel::wake(&words.progress);
        }
    }

    /// Bytes below this offset may be written now.
    pub fn room_end(&mut self) -> u64 {
        self.refresh();
        self.room_end
    }

    /// The present window, to be filled by a network card or another thread instead of through [`Writer::spare`]. Bytes
    /// that have landed are committed as usual. The owner must open no more of it than up to [`Writer::room_end`].
    #[must_use]
    pub fn landing(&self) -> Option<Landing> {
        let WriteWindow { memory, start, base, size, ring } = self.window.as_ref()?;
        let window = Window { segment: SegmentId(0), segment_offset: 0, base: *base, size: *size, ring: *ring };
        Some(Landing::new(&window, Arc::clone(memory), *start))
    }

    /// The committed length, in bytes.
    #[must_use]
    pub fn watermark(&self) -> u64 {
        self.watermark
    }

    /// The size of the window, in bytes; 0 without one.
    #[must_use]
    pub fn window_size(&self) -> u64 {
        self.window.as_ref().map_or(0, |window| window.size)
    }

    /// Reads the positions of the readers. They are clamped: a position past the watermark counts as the watermark, and
    /// one that goes back is ignored. A reader that lies damages only what it reads itself.
    fn refresh(&mut self) {
        let Some(window) = &self.window else { return };
        self.holder = None;
        if !window.ring {
            self.room_end = window.base + window.size;
            return;
        }
        let mut held = self.watermark;
        for (index, reader) in self.readers.iter_mut().enumerate() {
            let word = reader.page.port(reader.port).progress.load(Ordering::Acquire);
            let progress = Progress::decode(word);
            if progress.state != State::Open {
                continue;
            }
            reader.position = progress.offset.clamp(reader.position.min(self.watermark), self.watermark);
            if reader.position.max(window.base) < held {
                held = reader.position.max(window.base);
                self.holder = Some((index, word));
            }
        }
        self.room_end = held + window.size;
    }

    fn words(&self) -> &PortWords {
        self.control.port(self.port)
    }
}

/// Finishes the stream at a port whose [`Writer`] is gone, or never was, unless it has ended already.
pub fn finish(control: &Control, port: PortId) {
    let word = &control.port(port).progress;
    let progress = Progress::decode(word.load(Ordering::Relaxed));
    if progress.state == State::Open {
        publish::<Kernel>(word, Progress { state: State::Finished, ..progress });
        // The readers are not known here. A wake-up without sleepers costs one system call.
        Kernel::wake(word);
    }
}

impl Wait for Writer {
    fn ready(&mut self) -> bool {
        self.refresh();
        self.room_end - self.watermark >= self.wanted
    }

    fn settle(&mut self) {}

    fn announce(&mut self) {
        if let Some((_, word)) = self.holder {
            self.sleeper.prepare::<Kernel>(&self.control.port(self.port).ticket, word);
        }
        self.announced = self.holder.map(|(_, word)| word);
    }

    fn word(&self) -> Option<(&AtomicU64, u64)> {
        let (reader, _) = self.holder?;
        let reader = &self.readers[reader];
        Some((&reader.page.port(reader.port).progress, self.announced?))
    }

    fn peer_word(&self) -> Option<(PeerWord, u64)> {
        let (reader, _) = self.holder?;
        let reader = &self.readers[reader];
        Some((PeerWord::of_port(Arc::clone(&reader.page), reader.port), self.announced?))
    }

    fn retract(&mut self) {
        self.sleeper.done::<Kernel>(&self.words().ticket);
    }
}
