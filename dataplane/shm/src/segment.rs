//! Segments: the memfds that hold stream bytes and control words.

use crate::memory::{Access, Memory};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What a segment is for, which decides how it is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// Functions write it, one after the other: sealed against shrinking, growing and further seals.
    FunctionWritten,
    /// Only its creator writes it, through a mapping that it makes before it calls [`Segment::seal_writes`].
    CreatorWritten,
}

/// The size in bytes of the huge pages that segments may have.
pub const HUGE_PAGE: u64 = 2 << 20;

/// A memfd that is sealed against shrinking and growing, so that an access to a mapping of it never raises SIGBUS.
#[derive(Debug)]
pub struct Segment {
    fd: OwnedFd,
    length: usize,
    huge: bool,
}

/// Why a segment cannot be created or used.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The kernel refused.
    #[error("cannot {action} a memory segment of {length} bytes: {source}{}", advice(*source))]
    Os {
        /// The operation that failed.
        action: &'static str,
        /// The segment's length.
        length: usize,
        /// The kernel's error.
        source: Errno,
    },
    /// A descriptor from another process is not the segment that it should be.
    #[error("a descriptor that should be a sealed memory segment of {expected} bytes is not: {problem}")]
    Unfit {
        /// The length that it should have.
        expected: usize,
        /// The difference.
        problem: String,
    },
}

fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::MFILE => " (this process may open no more descriptors: raise the limit with 'ulimit -n')",
        Errno::NFILE => " (the machine has no descriptors left: see /proc/sys/fs/file-nr)",
        Errno::NOMEM => " (no memory: lower --memory, or raise the cgroup's limit or vm.max_map_count)",
        Errno::FBIG => " (files may not grow that large, and memory for streams counts as files: see 'ulimit -f')",
        _ => "",
    }
}

impl Segment {
    /// A new segment of `length` bytes (rounded up to whole pages by the kernel), all zero and not yet backed by
    /// memory.
    ///
    /// # Errors
    /// If the kernel has no memfd, no descriptor or no memory for it.
    pub fn create(name: &str, length: usize, kind: SegmentKind) -> Result<Self, SegmentError> {
        Self::create_with(name, length, kind, false)
    }

    /// A new segment that is backed by memory already, so that its users pay no page faults: by huge pages, if `huge`
    /// allows them, the length is a multiple of [`HUGE_PAGE`] and enough reserved ones (`vm.nr_hugepages`) are free;
    /// otherwise by ordinary pages, which the kernel collapses to huge ones if it can. Backing, mapping and touching 4
    /// MiB takes a tenth of the time with reserved huge pages, and little more with collapsed ones.
    ///
    /// # Errors
    /// As [`Segment::create`] and [`Segment::fault_in`].
    pub fn create_backed(name: &str, length: usize, kind: SegmentKind, huge: bool) -> Result<Self, SegmentError> {
        let backed = |huge| {
            let segment = Self::create_with(name, length, kind, huge)?;
            if huge {
                segment.fault_in(0, length as u64)?;
            } else {
                let os = |source| SegmentError::Os { action: "reserve memory for", length, source };
                crate::backing::back(segment.fd.as_fd(), length as u64).map_err(os)?;
            }
            Ok(segment)
        };
        // Any failure with huge pages, most likely that none is free, falls back to ordinary ones.
        match huge && length > 0 && (length as u64).is_multiple_of(HUGE_PAGE) {
            true => backed(true).or_else(|_: SegmentError| backed(false)),
            false => backed(false),
        }
    }

    fn create_with(name: &str, length: usize, kind: SegmentKind, huge: bool) -> Result<Self, SegmentError> {
        let os = |action| move |source| SegmentError::Os { action, length, source };
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        if huge {
            flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        }
        // MFD_NOEXEC_SEAL is newer than some kernels (6.3); without it the segment is only executable in theory.
        let fd = rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|_| rustix::fs::memfd_create(name, flags))
            .map_err(os("create"))?;
        rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(os("restrict"))?;
        rustix::fs::ftruncate(&fd, length as u64).map_err(os("size"))?;
        let mut seals = SealFlags::SHRINK | SealFlags::GROW;
        if kind == SegmentKind::FunctionWritten {
            seals |= SealFlags::SEAL;
        }
        rustix::fs::fcntl_add_seals(&fd, seals).map_err(os("seal"))?;
        Ok(Self { fd, length, huge })
    }

    /// Whether it consists of huge pages. They can be mapped only at multiples of [`HUGE_PAGE`], in memory and in the
    /// segment.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// Seals the segment for good against writes, except through mappings that exist already.
    ///
    /// # Errors
    /// If the kernel refuses, as it does after [`SegmentKind::FunctionWritten`] has forbidden further seals.
    pub fn seal_writes(&self) -> Result<(), SegmentError> {
        rustix::fs::fcntl_add_seals(&self.fd, SealFlags::FUTURE_WRITE | SealFlags::SEAL)
            .map_err(|source| SegmentError::Os { action: "seal", length: self.length, source })
    }

    /// Adopts a descriptor from another process, after checking that it can do no harm: it must be a memfd of exactly
    /// this length, sealed against shrinking (a read past its end would kill the reader). Only for segments of ordinary
    /// pages: arenas, control pages and bells.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn adopt(fd: OwnedFd, length: usize) -> Result<Self, SegmentError> {
        let unfit = |problem: String| SegmentError::Unfit { expected: length, problem };
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|error| unfit(format!("no memfd ({error})")))?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(unfit("it is not sealed against shrinking".into()));
        }
        let stat = rustix::fs::fstat(&fd).map_err(|error| unfit(error.to_string()))?;
        if u64::try_from(stat.st_size) != Ok(length as u64) {
            return Err(unfit(format!("it has {} bytes", stat.st_size)));
        }
        Ok(Self { fd, length, huge: false })
    }

    /// A second descriptor of the same memory through which nothing can be written.
    ///
    /// # Errors
    /// If `/proc` is missing or no descriptor is left.
    pub fn read_only(&self) -> Result<OwnedFd, SegmentError> {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|source| SegmentError::Os {
            action: "reopen read-only",
            length: self.length,
            source,
        })
    }

    /// Backs a range with memory now, so that later accesses cause no page faults: a fresh page costs ten times as much
    /// as copying into it.
    ///
    /// # Errors
    /// If there is not that much memory.
    pub fn fault_in(&self, offset: u64, length: u64) -> Result<(), SegmentError> {
        rustix::fs::fallocate(&self.fd, rustix::fs::FallocateFlags::empty(), offset, length)
            .map_err(|source| SegmentError::Os { action: "reserve memory for", length: self.length, source })
    }

    /// Gives the memory of a range back to the system, which then reads as zeros. Best effort: if the kernel refuses,
    /// the memory stays.
    pub fn give_back(&self, offset: u64, length: u64) {
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        let _ = rustix::fs::fallocate(&self.fd, flags, offset, length);
    }

    /// Overwrites all of it with zeros. No other process may be using it: it would see old and new bytes mixed.
    ///
    /// # Errors
    /// If it cannot be mapped.
    pub fn zero(&self) -> Result<(), SegmentError> {
        // Through a mapping, because memfds of huge pages do not support pwrite. Punching a hole would zero it, too,
        // but would give up the warm pages that it is for.
        Memory::window(self.fd.as_fd(), 0, self.length, Access::Write)?.zero();
        Ok(())
    }

    /// Maps all of it.
    ///
    /// # Errors
    /// If the address space or the number of mappings is exhausted.
    pub fn map(&self, access: Access) -> Result<Memory, SegmentError> {
        Memory::map(self.fd.as_fd(), 0, self.length, access)
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
