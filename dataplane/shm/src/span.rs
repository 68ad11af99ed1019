//! One contiguous range of addresses for a whole stream.

use crate::reader::MemoryPiece;
use crate::segment::{HUGE_PAGE, SegmentError};
use crate::view::{Ledger, View};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The address space tried for a span, in bytes, largest first. It costs no memory.
const RESERVATIONS: [usize; 3] = [1 << 40, 1 << 36, 1 << 32];
/// With this many spans in the process, the next one starts with the size behind. A process has 128 TiB of addresses:
/// these numbers leave room for 8000 spans of the smallest size, where spans of the largest alone would end at 127.
const CROWDS: [usize; 2] = [32, 1024];
/// How many spans this process has.
static SPANS: AtomicUsize = AtomicUsize::new(0);
const PAGE: u64 = 4096;

/// Gathers the pieces of a stream that keeps all its bytes, so that one slice covers them.
///
/// Memory pieces are mapped a second time at their place: what their producer commits later appears by itself. Bytes
/// that come from files are copied to private memory at theirs.
#[derive(Debug, Default)]
pub struct Span {
    reservation: Option<Arc<Reservation>>,
    /// Up to which offset bytes can be read once they are committed.
    covered: u64,
    /// Up to where private pages have been made, if the last piece was a copy.
    private_end: u64,
}

/// Addresses for a whole stream, with the pieces that were placed there.
#[derive(Debug)]
pub(crate) struct Reservation {
    mapped: NonNull<u8>,
    /// The first multiple of [`HUGE_PAGE`] in it.
    start: NonNull<u8>,
    /// From there.
    length: usize,
}

// SAFETY: the reservation is owned, and changed through `&mut Span` only.
unsafe impl Send for Reservation {}
// SAFETY: as above.
unsafe impl Sync for Reservation {}

impl Span {
    /// Maps a piece at its place.
    ///
    /// # Errors
    /// If the stream is longer than the address space that could be reserved, or the piece is a ring or does not follow
    /// the pieces before it at a whole page, so that its bytes have no place.
    pub fn place(&mut self, piece: &MemoryPiece) -> Result<(), SegmentError> {
        let unfit = |problem: &str| SegmentError::Unfit { expected: piece.size as usize, problem: problem.into() };
        if piece.ring || !piece.base.is_multiple_of(PAGE) || piece.base > self.covered {
            return Err(unfit("its bytes cannot be joined to those before it"));
        }
        let to = self.address(piece.base, piece.size)?;
        let flags = MremapFlags::MAYMOVE;
        // SAFETY: an old length of 0 duplicates a shared mapping instead of moving it (mremap(2)); source and length
        // lie within the piece's memory, which was checked when the reader took it. The target is inside this span's
        // own reservation, above everything that a slice was made of (`covered`) or over the same bytes again.
        let placed = unsafe {
            let from = piece.memory.start().as_ptr().add(piece.start);
            rustix::mm::mremap_fixed(from.cast(), 0, piece.size as usize, flags, to.cast())
        };
        placed.map_err(|source| SegmentError::Os { action: "map", length: piece.size as usize, source })?;
        self.covered = self.covered.max(piece.base + piece.size);
        self.private_end = 0;
        Ok(())
    }

    /// Maps a window that is filled once at its place: `size` bytes of a segment from `segment_offset` on.
    ///
    /// # Errors
    /// As [`Span::place`].
    pub fn place_segment(
        &mut self,
        segment: BorrowedFd<'_>,
        segment_offset: u64,
        base: u64,
        size: u64,
    ) -> Result<(), SegmentError> {
        if self.place_file(segment, segment_offset, base, size)? {
            return Ok(());
        }
        let problem = "its bytes cannot be joined to those before it".into();
        Err(SegmentError::Unfit { expected: size as usize, problem })
    }

    /// Maps a part of a file at its place: `length` bytes from `file_offset` on. `false` if they do not lie on whole
    /// pages, so that they have to be copied ([`Span::copy`]).
    ///
    /// # Errors
    /// If the stream is longer than the address space that could be reserved.
    pub fn place_file(
        &mut self,
        file: BorrowedFd<'_>,
        file_offset: u64,
        base: u64,
        length: u64,
    ) -> Result<bool, SegmentError> {
        if !base.is_multiple_of(PAGE) || !file_offset.is_multiple_of(PAGE) || base > self.covered || length == 0 {
            return Ok(false);
        }
        let to = self.address(base, length.next_multiple_of(PAGE))?;
        // SAFETY: the target is inside this span's own reservation and above everything that a slice was made of. If
        // another process truncates the file, this process ends with SIGBUS: what is in the slice would be gone anyway.
        unsafe {
            rustix::mm::mmap(
                to.cast(),
                length as usize,
                ProtFlags::READ,
                MapFlags::SHARED | MapFlags::FIXED,
                file,
                file_offset,
            )
        }
        .map_err(|source| SegmentError::Os { action: "map", length: length as usize, source })?;
        self.covered = self.covered.max(base + length);
        self.private_end = 0;
        Ok(true)
    }

    /// Copies bytes to their place.
    ///
    /// # Errors
    /// If there is no room, or the bytes do not follow those before them.
    pub fn copy(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SegmentError> {
        let end = offset + bytes.len() as u64;
        if offset > self.covered {
            let problem = "its bytes cannot be joined to those before them".into();
            return Err(SegmentError::Unfit { expected: bytes.len(), problem });
        }
        if !offset.is_multiple_of(PAGE) && self.private_end < offset {
            self.make_private(offset)?;
        }
        let first = if self.private_end >= offset { self.private_end } else { offset };
        if end > first {
            let length = (end - first).next_multiple_of(PAGE);
            let to = self.address(first, length)?;
            let flags = MapFlags::PRIVATE | MapFlags::FIXED;
            // SAFETY: fresh private pages inside this span's own reservation, where no slice has been made yet.
            unsafe {
                rustix::mm::mmap_anonymous(to.cast(), length as usize, ProtFlags::READ | ProtFlags::WRITE, flags)
            }
            .map_err(|source| SegmentError::Os { action: "map", length: length as usize, source })?;
            self.private_end = first + length;
        }
        let to = self.address(offset, bytes.len() as u64)?;
        // SAFETY: the target lies in private pages of this span (just made, or by an earlier copy). Nobody has a slice
        // of these bytes: slices and views end at `covered`, and what they cover is not copied again.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        self.covered = self.covered.max(end);
        Ok(())
    }

    /// Puts a private copy in the place of the file's page that `offset` lies in, so that bytes can follow there.
    ///
    /// The copy is filled elsewhere and moved into place by one call: a view may be reading the page meanwhile.
    fn make_private(&mut self, offset: u64) -> Result<(), SegmentError> {
        let page = offset / PAGE * PAGE;
        let length = PAGE as usize;
        let os = |source| SegmentError::Os { action: "map", length, source };
        let head = self.slice(offset)[page as usize..].to_vec();
        let to = self.address(page, PAGE)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new page at an address of the kernel's choice touches nothing that exists, and `head` is shorter.
        let from = unsafe {
            let from = rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE);
            let from = from.map_err(os)?;
            std::ptr::copy_nonoverlapping(head.as_ptr(), from.cast(), head.len());
            from
        };
        // SAFETY: the target is a page of this span's own reservation; the bytes of it that a slice can have been made
        // of are the same in the page that takes its place.
        unsafe { rustix::mm::mremap_fixed(from, length, length, MremapFlags::MAYMOVE, to.cast()) }.map_err(os)?;
        self.private_end = page + PAGE;
        Ok(())
    }

    /// The first `length` bytes of the stream. They must have been committed; the slice is shorter if they are not
    /// here.
    #[must_use]
    pub fn slice(&self, length: u64) -> &[u8] {
        let Some(reservation) = &self.reservation else { return &[] };
        // SAFETY: everything below `covered` is mapped readable in this reservation, which lives as long as the borrow.
        // Committed bytes of a kept stream never change.
        unsafe { std::slice::from_raw_parts(reservation.start.as_ptr(), length.min(self.covered) as usize) }
    }

    /// An owned view of the first `length` bytes, with the rules of [`Span::slice`]. What is placed later leaves it as
    /// it is. The reader of the stream is closed by [`crate::Reader::close_after_views`] with this ledger.
    #[must_use]
    pub fn view(&self, length: u64, ledger: &Arc<Ledger>) -> Option<View> {
        let reservation = self.reservation.as_ref()?;
        Some(View::whole(reservation, self.slice(length), ledger))
    }

    fn address(&mut self, offset: u64, length: u64) -> Result<*mut u8, SegmentError> {
        let reservation = match &mut self.reservation {
            Some(reservation) => reservation,
            none => none.insert(Arc::new(Reservation::make()?)),
        };
        if offset + length > reservation.length as u64 {
            return Err(SegmentError::Os { action: "map", length: (offset + length) as usize, source: Errno::NOMEM });
        }
        // SAFETY: the offset is within the reservation.
        Ok(unsafe { reservation.start.as_ptr().add(offset as usize) })
    }
}

impl Reservation {
    fn make() -> Result<Self, SegmentError> {
        let mut failure = Errno::NOMEM;
        // Huge pages can only be placed where both the stream's offset and the address are multiples of theirs.
        let huge = HUGE_PAGE as usize;
        let spans = SPANS.load(Ordering::Relaxed);
        let first = CROWDS.iter().filter(|&&crowd| spans >= crowd).count();
        for &length in &RESERVATIONS[first..] {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            // SAFETY: a new reservation at an address of the kernel's choice touches nothing that exists.
            match unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, ProtFlags::empty(), flags) } {
                Ok(mapped) => {
                    if let Some(mapped) = NonNull::new(mapped.cast::<u8>()) {
                        let before = mapped.as_ptr().align_offset(huge);
                        // SAFETY: `before` is below `huge`, far less than the length.
                        let start = unsafe { mapped.add(before) };
                        SPANS.fetch_add(1, Ordering::Relaxed);
                        return Ok(Self { mapped, start, length: length - before });
                    }
                }
                Err(errno) => failure = errno,
            }
        }
        Err(SegmentError::Os { action: "reserve addresses for", length: RESERVATIONS[2], source: failure })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `make` reserved, with whatever was placed in it; slices borrowed the span.
        let _ = unsafe {
            let before = self.start.as_ptr().offset_from_unsigned(self.mapped.as_ptr());
            rustix::mm::munmap(self.mapped.as_ptr().cast(), before + self.length)
        };
        SPANS.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_of_spans_find_addresses() {
        let spans: Vec<Reservation> = (0..3000).map(|_| Reservation::make().expect("there are addresses")).collect();
        assert!(spans.iter().all(|span| span.length > 1 << 31));
    }
}
