//! One spill file.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, Mode, OFlags};

use crate::DiskError;
use crate::blocks::ALIGNMENT;

/// An unnamed file. It vanishes when its last descriptor is closed, however the processes that hold one end.
#[derive(Debug)]
pub struct SpillFile {
    cached: OwnedFd,
    direct: Option<OwnedFd>,
    /// Cleared when the filesystem refuses direct I/O after all, as some do only at the first transfer.
    direct_works: AtomicBool,
    dir: Arc<Path>,
}

impl SpillFile {
    /// Wraps a fresh, empty, unnamed file that is open for reading and writing.
    pub(crate) fn new(cached: OwnedFd, dir: Arc<Path>) -> SpillFile {
        let direct = reopen(cached.as_fd(), OFlags::RDWR | OFlags::DIRECT).ok();
        SpillFile { direct_works: AtomicBool::new(direct.is_some()), cached, direct, dir }
    }

    /// A read-only descriptor of the same file, to hand to functions.
    ///
    /// # Errors
    /// [`DiskError::Io`] if the descriptor limit is reached or `/proc` is not mounted.
    pub fn reader(&self) -> Result<OwnedFd, DiskError> {
        reopen(self.cached.as_fd(), OFlags::RDONLY).map_err(|errno| DiskError::Io {
            op: "open (through /proc/self/fd) for reading a spill file in",
            path: self.dir.to_path_buf(),
            source: errno.into(),
        })
    }

    /// Frees the disk space of `range`, which then reads as zeros. The length stays.
    ///
    /// Only whole blocks of 4 KiB inside of `range` are freed, so a caller that releases bytes piece by piece must
    /// begin each piece at a multiple of 4096 at or below the end of the last one. Best effort: where the filesystem
    /// does not support it, the space is freed together with the file. Returns whether the range is free now.
    pub fn punch(&self, range: Range<u64>) -> bool {
        let alignment = ALIGNMENT as u64;
        let Some(start) = range.start.checked_next_multiple_of(alignment) else {
            return false;
        };
        let end = range.end - range.end % alignment;
        if start >= end {
            return true;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match rustix::fs::fallocate(&self.cached, flags, start, end - start) {
                Ok(()) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    tracing::debug!(dir = %self.dir.display(), start, end, %errno, "a released range stays on disk");
                    return false;
                }
            }
        }
    }

    /// The length in bytes: the end of the furthest write so far.
    ///
    /// # Errors
    /// [`DiskError::Io`] if the file cannot be examined.
    pub fn len(&self) -> Result<u64, DiskError> {
        let stat = self.stat()?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Whether nothing has been written yet.
    ///
    /// # Errors
    /// As [`SpillFile::len`].
    pub fn is_empty(&self) -> Result<bool, DiskError> {
        self.len().map(|len| len == 0)
    }

    /// How many bytes the file occupies on disk; less than its length where ranges have been punched.
    ///
    /// # Errors
    /// As [`SpillFile::len`].
    pub fn allocated(&self) -> Result<u64, DiskError> {
        // The unit of st_blocks is 512 bytes whatever the filesystem's block size.
        let stat = self.stat()?;
        Ok(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
    }

    /// The directory in which the file was created.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether large aligned transfers bypass the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct_works.load(Ordering::Relaxed)
    }

    /// The descriptor for a transfer.
    pub(crate) fn descriptor(&self, direct: bool) -> BorrowedFd<'_> {
        match &self.direct {
            Some(descriptor) if direct && self.is_direct() => descriptor.as_fd(),
            _ => self.cached.as_fd(),
        }
    }

    /// Directs all later transfers through the page cache.
    pub(crate) fn stop_direct(&self) {
        if self.direct_works.swap(false, Ordering::Relaxed) {
            tracing::debug!(dir = %self.dir.display(), "direct I/O was refused; spilling through the page cache");
        }
    }

    fn stat(&self) -> Result<rustix::fs::Stat, DiskError> {
        rustix::fs::fstat(&self.cached).map_err(|errno| DiskError::Io {
            op: "examine a spill file in",
            path: self.dir.to_path_buf(),
            source: errno.into(),
        })
    }
}

/// Opens the file behind a descriptor again, which works for files without a name.
fn reopen(file: BorrowedFd<'_>, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}
