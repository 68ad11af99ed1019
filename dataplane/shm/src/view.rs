//! Owned views: bytes of a stream that outlive the call that found them.
//!
//! A [`View`] keeps two things: the mapping it points into, and the reader's published position, which never passes the
//! first byte of a live view. So the producer cannot overwrite those bytes, and a view that is kept for ever costs the
//! producer what a slow reader costs it. Views may be cloned, sent to other threads and dropped there.

use crate::memory::Memory;
use crate::reader::Reader;
use crate::span::Reservation;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a stream that stay where they are and as they are, for as long as this value or a clone of it lives.
///
/// It dereferences to `[u8]`. For other languages it is a pointer ([`View::as_ptr`]), a length and a reference count.
pub struct View {
    pointer: NonNull<u8>,
    length: usize,
    offset: u64,
    lease: Lease,
}

/// What keeps the bytes of a view alive.
#[derive(Clone)]
#[expect(dead_code, reason = "held for what dropping it does")]
enum Lease {
    /// Memory that the producer may still be writing elsewhere; the ledger keeps it from overwriting the view.
    Mapped(Arc<Memory>, Tally),
    /// The pieces of a kept stream, side by side.
    Whole(Arc<Reservation>, Tally),
    /// A private copy.
    Copied(Arc<Vec<u8>>),
}

// SAFETY: the bytes are mapped for as long as the lease lives and do not change while it does; a view only reads them.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// A view of bytes that this process owns; `offset` is their place in the stream.
    ///
    /// # Panics
    /// If `range` is not within the bytes.
    #[must_use]
    pub fn copied(bytes: Arc<Vec<u8>>, range: Range<usize>, offset: u64) -> Self {
        let slice = &bytes[range];
        let (pointer, length) = (NonNull::from(slice).cast(), slice.len());
        Self { pointer, length, offset, lease: Lease::Copied(bytes) }
    }

    /// A view of `bytes`, which lie in `memory` and in a piece that `ledger`'s reader holds.
    pub(crate) fn mapped(memory: &Arc<Memory>, bytes: &[u8], offset: u64, ledger: &Arc<Ledger>) -> Self {
        let tally = Tally::new(ledger, offset, bytes.len() as u64);
        Self {
            pointer: NonNull::from(bytes).cast(),
            length: bytes.len(),
            offset,
            lease: Lease::Mapped(Arc::clone(memory), tally),
        }
    }

    /// A view of `bytes`, which begin a kept stream and lie in `reservation`.
    pub(crate) fn whole(reservation: &Arc<Reservation>, bytes: &[u8], ledger: &Arc<Ledger>) -> Self {
        // Bytes of a kept stream are never overwritten, so the position need not stay behind: only the close has to
        // wait.
        let tally = Tally::new(ledger, u64::MAX, 0);
        Self {
            pointer: NonNull::from(bytes).cast(),
            length: bytes.len(),
            offset: 0,
            lease: Lease::Whole(Arc::clone(reservation), tally),
        }
    }

    /// Where the bytes begin. They stay there for as long as the view or a clone of it lives.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.pointer.as_ptr()
    }

    /// The offset in the stream of the first byte.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// A view of a part, by offsets in bytes from the beginning of this one. It keeps all of this one's memory.
    ///
    /// # Panics
    /// If `range` is not within the view.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let part = &self[range.clone()];
        Self {
            pointer: NonNull::from(part).cast(),
            length: part.len(),
            offset: self.offset + range.start as u64,
            lease: self.lease.clone(),
        }
    }

    /// Whether the bytes were copied to private memory instead of being read in place.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        matches!(self.lease, Lease::Copied(_))
    }
}

impl Deref for View {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the pointer and the length are those of a slice that was valid when the view was made. The lease
        // keeps its memory mapped. Nobody writes it: private bytes have no writer, those of a kept stream never change,
        // and the position that the producer knows stays at or below this view while its tally is in the ledger.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.length) }
    }
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Clone for View {
    fn clone(&self) -> Self {
        Self { pointer: self.pointer, length: self.length, offset: self.offset, lease: self.lease.clone() }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({} bytes at {})", self.length, self.offset)
    }
}

/// The live views of one reader.
pub struct Ledger {
    state: Mutex<State>,
    /// Views were dropped since the reader looked last.
    changed: AtomicBool,
    /// Called when the last view at an offset has gone, on the thread that dropped it.
    notify: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    /// How many views begin at each offset, and how many bytes of the stream they cover together.
    live: BTreeMap<u64, (usize, u64)>,
    /// A reader that was closed while views were live, and what to do once the last is gone.
    closing: Option<(Reader, Box<dyn FnOnce() + Send>)>,
}

impl Ledger {
    /// Without views. `notify` is called after drops that may let the reader's position move on or a piece be left: it
    /// should make the reader's owner call [`Ledger::take_changed`].
    #[must_use]
    pub fn new(notify: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let notify = Box::new(notify);
        Arc::new(Self { state: Mutex::default(), changed: AtomicBool::new(false), notify })
    }

    /// Whether views were dropped since this was last asked.
    pub fn take_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed) && self.changed.swap(false, Ordering::AcqRel)
    }

    /// Whether views were dropped since [`Ledger::take_changed`].
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }

    /// The offset of the first byte that a live view covers; `u64::MAX` without one.
    #[must_use]
    pub fn lowest(&self) -> u64 {
        self.lock().lowest()
    }

    /// Whether a live view begins in this range of the stream.
    #[must_use]
    pub fn is_used_in(&self, range: Range<u64>) -> bool {
        self.lock().live.range(range).next().is_some()
    }

    /// How many bytes of mapped memory the live views cover. A view and its parts count once.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lock().live.values().map(|(_, bytes)| bytes).sum()
    }

    /// Closes the reader and calls `then`: now, or when the last view is dropped, on the thread that drops it.
    pub(crate) fn close(&self, mut reader: Reader, then: Box<dyn FnOnce() + Send>) {
        let mut state = self.lock();
        if state.live.is_empty() {
            drop(state);
            reader.close();
            then();
        } else {
            // Alone with the reader from now on, views may publish its position as they go.
            reader.hold(state.lowest());
            reader.publish();
            state.closing = Some((reader, then));
        }
    }

    fn add(&self, offset: u64, bytes: u64) {
        let mut state = self.lock();
        let (count, covered) = state.live.entry(offset).or_default();
        *count += 1;
        *covered = (*covered).max(bytes);
    }

    fn remove(&self, offset: u64) {
        let mut state = self.lock();
        let mut gone = false;
        if let Some((count, _)) = state.live.get_mut(&offset) {
            *count -= 1;
            gone = *count == 0;
            if gone {
                state.live.remove(&offset);
            }
        }
        let lowest = state.lowest();
        if state.live.is_empty() && state.closing.is_some() {
            let closing = state.closing.take();
            // Unlocked: `then` sends a message, and may drop the last reference to whatever holds this ledger.
            drop(state);
            if let Some((mut reader, then)) = closing {
                reader.hold(u64::MAX);
                reader.close();
                then();
            }
        } else if let Some((reader, _)) = &mut state.closing {
            reader.hold(lowest);
        } else if gone {
            drop(state);
            self.changed.store(true, Ordering::Release);
            (self.notify)();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock in an inconsistent state, so a poisoned ledger can be used.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lowest(&self) -> u64 {
        self.live.first_key_value().map_or(u64::MAX, |(&offset, _)| offset)
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("lowest", &self.lowest()).finish_non_exhaustive()
    }
}

/// One view's entry in a ledger.
struct Tally {
    ledger: Arc<Ledger>,
    offset: u64,
}

impl Tally {
    fn new(ledger: &Arc<Ledger>, offset: u64, bytes: u64) -> Self {
        ledger.add(offset, bytes);
        Self { ledger: Arc::clone(ledger), offset }
    }
}

impl Clone for Tally {
    fn clone(&self) -> Self {
        Self::new(&self.ledger, self.offset, 0)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.ledger.remove(self.offset);
    }
}
