//! Mapped memory: plain, or a ring mapped twice back to back.

use crate::segment::{HUGE_PAGE, SegmentError};
use crate::shared::SharedBytes;
use memmap2::{MmapOptions, MmapRaw};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// Whether a mapping can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads only; a store would end the process.
    Read,
    /// Loads and stores.
    Write,
}

/// A piece of shared memory in this process's address space, for as long as the value lives.
///
/// It hands out addresses only. Other processes may write the same bytes, so the protocol decides when a slice of them
/// may be made: see [`crate::Writer`] and [`crate::Reader`].
#[derive(Debug)]
pub struct Memory {
    mapping: Mapping,
    access: Access,
}

#[derive(Debug)]
enum Mapping {
    Plain(MmapRaw),
    Placed(Placed),
}

impl Memory {
    /// Maps `length` bytes at `offset` (a multiple of the page size).
    ///
    /// # Errors
    /// If the kernel refuses the mapping.
    pub fn map(fd: BorrowedFd<'_>, offset: u64, length: usize, access: Access) -> Result<Self, SegmentError> {
        Self::plain(&mut MmapOptions::new(), fd, offset, length, access)
    }

    /// Maps a window as [`Memory::map`] does, and enters its pages into the page table at once: a fault for each of
    /// them later would cost several times as much. A window of whole [`HUGE_PAGE`]s is aligned to them, so that pages
    /// which the kernel has collapsed take one entry each.
    ///
    /// # Errors
    /// If the kernel refuses the mapping.
    pub fn window(fd: BorrowedFd<'_>, offset: u64, length: usize, access: Access) -> Result<Self, SegmentError> {
        if length > 0 && length.is_multiple_of(HUGE_PAGE as usize) {
            return Self::placed(fd, offset, length, 1, access);
        }
        let mut options = MmapOptions::new();
        options.populate();
        Self::plain(&mut options, fd, offset, length, access)
    }

    fn plain(
        options: &mut MmapOptions,
        fd: BorrowedFd<'_>,
        offset: u64,
        length: usize,
        access: Access,
    ) -> Result<Self, SegmentError> {
        options.offset(offset).len(length);
        let raw = fd.as_raw_fd();
        match access {
            Access::Read => options.map_raw_read_only(raw),
            Access::Write => options.map_raw(raw),
        }
        .map(|map| Self { mapping: Mapping::Plain(map), access })
        .map_err(|error| SegmentError::Os {
            action: "map",
            length,
            source: error.raw_os_error().map_or(Errno::INVAL, Errno::from_raw_os_error),
        })
    }

    /// Maps `length` bytes at `offset` twice, back to back, so that any `length` bytes from any place in the first half
    /// are contiguous; both numbers are multiples of the page size. The pages are entered into the page table at once.
    ///
    /// # Errors
    /// If the kernel refuses the mapping.
    pub fn ring(fd: BorrowedFd<'_>, offset: u64, length: usize, access: Access) -> Result<Self, SegmentError> {
        Self::placed(fd, offset, length, 2, access)
    }

    fn placed(
        fd: BorrowedFd<'_>,
        offset: u64,
        length: usize,
        times: usize,
        access: Access,
    ) -> Result<Self, SegmentError> {
        let os = |source| SegmentError::Os { action: "map", length, source };
        let mut placed = Placed::reserve(length, times).map_err(os)?;
        placed.fill(fd, offset, access, MapFlags::POPULATE).map_err(os)?;
        Ok(Self { mapping: Mapping::Placed(placed), access })
    }

    /// The first byte.
    #[must_use]
    pub fn start(&self) -> NonNull<u8> {
        match &self.mapping {
            // mmap never returns address 0 here; the fallback avoids a panic.
            Mapping::Plain(map) => NonNull::new(map.as_mut_ptr()).unwrap_or(NonNull::dangling()),
            Mapping::Placed(placed) => placed.start(),
        }
    }

    /// A view of `range`, in bytes from the start, for the kernel to read: another process may be writing there.
    ///
    /// # Panics
    /// If the range is not within the mapping.
    #[must_use]
    pub fn shared(&self, range: Range<usize>) -> SharedBytes<'_> {
        // SAFETY: the whole mapping is readable and stays mapped while it is borrowed; `slice` checks the range.
        unsafe { SharedBytes::new(self.start().as_ptr(), self.length()) }.slice(range)
    }

    /// Overwrites all of it with zeros, if it can be written.
    pub(crate) fn zero(&mut self) {
        if self.access == Access::Write {
            // SAFETY: the whole mapping is writable and stays mapped while it is borrowed. The borrow is exclusive, so
            // no slice of it exists in this process.
            unsafe { self.start().as_ptr().write_bytes(0, self.length()) };
        }
    }

    /// Whether it can be written.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// The number of bytes that may be addressed; twice the window for a ring.
    #[must_use]
    pub fn length(&self) -> usize {
        match &self.mapping {
            Mapping::Plain(map) => map.len(),
            Mapping::Placed(placed) => placed.total(),
        }
    }
}

/// Memory mapped at reserved addresses: once, or several times back to back.
#[derive(Debug)]
pub(crate) struct Placed {
    start: NonNull<u8>,
    length: usize,
    times: usize,
}

// SAFETY: the value owns its mapping and hands out addresses only; mapping and unmapping are not bound to a thread.
unsafe impl Send for Placed {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for Placed {}

impl Placed {
    /// Reserves addresses for `length` bytes `times` times, aligned to [`HUGE_PAGE`] if the length is a multiple of it:
    /// huge pages, reserved or collapsed, can be mapped nowhere else.
    pub(crate) fn reserve(length: usize, times: usize) -> Result<Self, Errno> {
        let total = length.checked_mul(times).filter(|&total| total > 0).ok_or(Errno::INVAL)?;
        let huge = HUGE_PAGE as usize;
        let slack = if length.is_multiple_of(huge) { huge } else { 0 };
        let reserved = total.checked_add(slack).ok_or(Errno::INVAL)?;
        // SAFETY: a new reservation at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                reserved,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(Errno::NOMEM)?;
        let before = if slack > 0 { start.as_ptr().align_offset(huge) } else { 0 };
        // SAFETY: `before` is below `huge`, and so within the slack of the reservation.
        let start = unsafe { start.add(before) };
        for (offset, length) in [(-(before as isize), before), (total as isize, slack - before)] {
            if length > 0 {
                // SAFETY: the parts of the reservation before and behind these addresses, which no other code has seen.
                unsafe { rustix::mm::munmap(start.as_ptr().offset(offset).cast(), length)? };
            }
        }
        Ok(Self { start, length, times })
    }

    /// Maps the bytes at `offset` there.
    pub(crate) fn fill(
        &mut self,
        fd: BorrowedFd<'_>,
        offset: u64,
        access: Access,
        flags: MapFlags,
    ) -> Result<(), Errno> {
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        let flags = MapFlags::SHARED | MapFlags::FIXED | flags;
        for time in 0..self.times {
            // SAFETY: the place is inside this reservation, and no slice of it can exist: the value is exclusively
            // borrowed. Its drop unmaps the whole reservation, filled or not.
            unsafe {
                let place = self.start.as_ptr().add(time * self.length).cast::<c_void>();
                rustix::mm::mmap(place, self.length, protection, flags, fd, offset)?;
            }
        }
        Ok(())
    }

    /// The first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn total(&self) -> usize {
        self.length * self.times
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        // SAFETY: exactly the pages that `reserve` reserved; every slice of them borrows this value, so none is left.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.total()) };
    }
}
