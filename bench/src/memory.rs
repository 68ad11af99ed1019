//! Memory that several processes have mapped: what the limits are measured on.

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

/// The bytes of a page, on which payloads begin.
pub const PAGE: usize = 4096;

/// Shared memory with all its pages there, and the path by which other processes of this program open it.
pub struct Segment {
    memory: OwnedFd,
}

impl Segment {
    /// Makes `len` bytes of shared memory.
    pub fn new(len: usize) -> Result<Segment, Failure> {
        let memory = rustix::fs::memfd_create("dflow-bench", MemfdFlags::CLOEXEC).trying("make shared memory")?;
        rustix::fs::ftruncate(&memory, len as u64).trying("size shared memory")?;
        if len > 0 {
            rustix::fs::fallocate(&memory, FallocateFlags::empty(), 0, len as u64)
                .trying(format_args!("get {len} bytes of shared memory"))?;
        }
        Ok(Segment { memory })
    }

    /// Where other processes of the same user find it while this value exists.
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

    /// The 64-bit control word at byte `offset`.
    pub fn counter(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: `at` checks the range; the mapping lives as long as `self`; control words are only used as atomics.
        unsafe { AtomicU64::from_ptr(self.at(offset, WORD).cast()) }
    }

    /// The 32-bit control word at byte `offset`.
    pub fn futex(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in `counter`.
        unsafe { AtomicU32::from_ptr(self.at(offset, WORD).cast()) }
    }

    /// The words of `len` bytes at byte `offset`.
    ///
    /// # Safety
    /// Nobody, in no process, writes them while the slice lives.
    pub unsafe fn words(&self, offset: usize, len: usize) -> &[u64] {
        // SAFETY: `at` checks range and alignment; the caller vouches that nobody writes.
        unsafe { std::slice::from_raw_parts(self.at(offset, len).cast(), len / WORD) }
    }

    /// The words of `len` bytes at byte `offset`, to write.
    ///
    /// # Safety
    /// Nobody else, in no process, reads or writes them while the slice lives.
    #[expect(clippy::mut_from_ref, reason = "the memory is shared between processes; the caller vouches")]
    pub unsafe fn words_mut(&self, offset: usize, len: usize) -> &mut [u64] {
        // SAFETY: `at` checks range and alignment; the caller vouches that nobody else touches them.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset, len).cast(), len / WORD) }
    }

    /// The address of `len` bytes at `offset`, which must lie within the mapping, on a word's boundary.
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len).expect("offsets are far below the end of the address space");
        assert!(end <= self.0.len() && offset.is_multiple_of(WORD), "{offset}..{end} of {} bytes", self.0.len());
        self.0.as_mut_ptr().wrapping_add(offset)
    }
}

/// Wakes up to `sleepers` of those that sleep on a word of shared memory.
pub fn wake(word: &AtomicU32, sleepers: u32) -> Result<(), Failure> {
    futex::wake(word, futex::Flags::empty(), sleepers).trying("wake a process").map(drop)
}

/// Sleeps until woken, unless the word is no longer `value`; may also return for no reason.
pub fn sleep_while(word: &AtomicU32, value: u32) -> Result<(), Failure> {
    sleep(word, value, None)
}

/// The same, and no longer than `limit`.
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
