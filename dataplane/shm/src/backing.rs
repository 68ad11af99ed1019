//! Fresh memory for a segment, in pages that the kernel joins to huge ones where it can.
//!
//! Nothing has to be reserved for that, and no setting of the machine is needed: `MADV_COLLAPSE` (Linux 6.1) joins pages
//! whatever `transparent_hugepage/shmem_enabled` says. A page of 4 KiB costs more to get, to count and to enter into
//! page tables than to fill, so this is worth a factor of three for fresh memory, and for memory that is mapped again
//! nearly everything.

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
    // What is not there yet. An old kernel, or one that found no huge pages, is no reason to fail.
    fallocate(fd, FallocateFlags::empty(), 0, length)
}

fn back_joined(fd: BorrowedFd<'_>, length: u64) -> Result<(), Errno> {
    let size = usize::try_from(length).map_err(|_| Errno::INVAL)?;
    // The kernel joins a page with the holes around it, but makes none of holes alone.
    for start in (0..length).step_by(HUGE_PAGE as usize) {
        fallocate(fd, FallocateFlags::empty(), start, 1)?;
    }
    let mut place = Placed::reserve(size, 1)?;
    place.fill(fd, 0, Access::Write, MapFlags::empty())?;
    // SAFETY: exactly the mapping made here, of which there is no slice; the advice changes no byte of it.
    let done = unsafe { libc::madvise(place.start().as_ptr().cast(), size, libc::MADV_COLLAPSE) };
    // Success means that every huge page is there.
    if done == 0 { Ok(()) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)) }
}
