//! Fresh memory for a segment, in pages that the kernel collapses to huge ones where it can.
//!
//! This needs no reserved pages and no setting of the machine: `MADV_COLLAPSE` (Linux 6.1) works whatever
//! `transparent_hugepage/shmem_enabled` says. Allocating, counting and mapping a page of 4 KiB costs more than filling
//! it, so huge pages make fresh memory three times as fast, and mapping it again almost free.

use crate::memory::{Access, Placed};
use crate::segment::HUGE_PAGE;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::mm::MapFlags;
use std::os::fd::BorrowedFd;

/// Backs all `length` bytes of a new segment of ordinary pages with memory.
pub(crate) fn back(fd: BorrowedFd<'_>, length: u64) -> Result<(), Errno> {
    if length > 0 && length.is_multiple_of(HUGE_PAGE) && back_joined(fd, length).is_ok() {
        return Ok(());
    }
    // Allocates the pages that are missing: all of them on an old kernel, or where no huge page was free.
    fallocate(fd, FallocateFlags::empty(), 0, length)
}

fn back_joined(fd: BorrowedFd<'_>, length: u64) -> Result<(), Errno> {
    let size = usize::try_from(length).map_err(|_| Errno::INVAL)?;
    // MADV_COLLAPSE fills the holes around an existing page, but fails on a range without any.
    for start in (0..length).step_by(HUGE_PAGE as usize) {
        fallocate(fd, FallocateFlags::empty(), start, 1)?;
    }
    let mut place = Placed::reserve(size, 1)?;
    place.fill(fd, 0, Access::Write, MapFlags::empty())?;
    // SAFETY: exactly the mapping made here, of which there is no slice; the advice changes no byte of it.
    let done = unsafe { libc::madvise(place.start().as_ptr().cast(), size, libc::MADV_COLLAPSE) };
    // Success means that the whole range consists of huge pages.
    if done == 0 { Ok(()) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)) }
}
