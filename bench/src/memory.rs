//! Memory mapped by several processes, on which the limits are measured.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::Timespec;

use crate::failure::{Failure, Trying};
use crate::payload::WORD;

/// The page size in bytes, the alignment of payloads.
pub const PAGE: usize = 4096;

/// Shared memory with all its pages allocated, and the path with which other processes of this program open it.
pub struct Segment {
    memory: OwnedFd,
}

impl Segment {
    /// Allocates `len` bytes of shared memory.
    pub fn new(len: usize) -> Result<Segment, Failure> {
        let memory = rustix::fs::memfd_create("dflow-bench", MemfdFlags::CLOEXEC).trying("create shared memory")?;
        rustix::fs::ftruncate(&memory, len as u64).trying("set the size of shared memory")?;
        if len > 0 {
            rustix::fs::fallocate(&memory, FallocateFlags::empty(), 0, len as u64)
                .trying(format_args!("allocate {len} bytes of shared memory"))?;
        }
        Ok(Segment { memory })
    }

    /// The path with which other processes of the same user can open it while this value exists.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.memory.as_raw_fd()))
    }
}

/// A mapping of a [`Segment`], with its page tables filled.
pub struct Mapping(MmapRaw);

impl Mapping {
    /// Maps the whole segment at `path`.
    pub fn open(path: &Path) -> Result<Mapping, Failure> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.trying(format_args!("open shared memory {}", path.display()))?;
        Ok(Mapping(MmapOptions::new().populate().map_raw(&file).trying("map shared memory")?))
    }

    /// The 64-bit control word at byte offset `offset`.
    pub fn counter(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: `at` checks the range; the mapping lives as long as `self`; control words are only used as atomics.
        unsafe { AtomicU64::from_ptr(self.at(offset, WORD).cast()) }
    }

    /// The 32-bit control word at byte offset `offset`.
    pub fn futex(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in `counter`.
        unsafe { AtomicU32::from_ptr(self.at(offset, WORD).cast()) }
    }

    /// The words of `len` bytes at byte offset `offset`.
    ///
    /// # Safety
    /// No thread of any process may write them while the slice is alive.
    pub unsafe fn words(&self, offset: usize, len: usize) -> &[u64] {
        // SAFETY: `at` checks range and alignment; the caller guarantees that there is no concurrent writer.
        unsafe { std::slice::from_raw_parts(self.at(offset, len).cast(), len / WORD) }
    }

    /// The words of `len` bytes at byte offset `offset`, for writing.
    ///
    /// # Safety
    /// No other thread of any process may read or write them while the slice is alive.
    #[expect(clippy::mut_from_ref, reason = "the memory is shared between processes; the caller vouches")]
    pub unsafe fn words_mut(&self, offset: usize, len: usize) -> &mut [u64] {
        // SAFETY: `at` checks range and alignment; the caller guarantees exclusive access.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset, len).cast(), len / WORD) }
    }

    /// The address of `len` bytes at `offset`, which must be within the mapping and aligned to a word.
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len).expect("offsets are far below the end of the address space");
        assert!(end <= self.0.len() && offset.is_multiple_of(WORD), "{offset}..{end} of {} bytes", self.0.len());
        self.0.as_mut_ptr().wrapping_add(offset)
    }
}

/// Wakes up to `sleepers` sleepers on a word of shared memory.
pub fn wake(word: &AtomicU32, sleepers: u32) -> Result<(), Failure> {
    futex::wake(word, futex::Flags::empty(), sleepers).trying("wake a process").map(drop)
}

/// Sleeps until woken. Returns at once if the word is no longer `value`, and may wake spuriously.
pub fn sleep_while(word: &AtomicU32, value: u32) -> Result<(), Failure> {
    sleep(word, value, None)
}

/// The same, for at most `limit`.
pub fn sleep_while_at_most(word: &AtomicU32, value: u32, limit: Duration) -> Result<(), Failure> {
    let limit = Timespec::try_from(limit).trying(format_args!("sleep for {limit:?}"))?;
    sleep(word, value, Some(&limit))
}

fn sleep(word: &AtomicU32, value: u32, limit: Option<&Timespec>) -> Result<(), Failure> {
    match futex::wait(word, futex::Flags::empty(), value, limit) {
        Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => Ok(()),
        Err(errno) => Err(errno).trying("sleep on shared memory"),
    }
}
