//! Memory that a device may access at any time.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// Memory with a stable address.
///
/// # Safety
/// The `length` bytes at `address` must stay mapped and unmoved as long as the value is alive, and both must stay the
/// same. If the memory is `writable`, a device, and through it other machines, may change any byte at any time. No safe
/// code may then hold a reference to the bytes while the memory is registered for more than
/// [`crate::RegionAccess::Source`].
pub unsafe trait StableMemory: Send + Sync {
    /// The address of the first byte.
    fn address(&self) -> NonNull<u8>;
    /// The length in bytes.
    fn length(&self) -> usize;
    /// Whether a device may write to it.
    fn writable(&self) -> bool;
}

// SAFETY: a mapping is fixed until it is dropped. It exposes addresses and views that allow for concurrent writers;
// code that creates slices is responsible for them, as it is with respect to other processes. The kernel does not let a
// device write to a read-only mapping.
unsafe impl StableMemory for dflow_shm::Memory {
    fn address(&self) -> NonNull<u8> {
        self.start()
    }

    fn length(&self) -> usize {
        dflow_shm::Memory::length(self)
    }

    fn writable(&self) -> bool {
        true
    }
}

/// Whole pages of this process, for messages: bytes are copied in and out.
pub struct Buffer {
    start: NonNull<u8>,
    length: usize,
    /// Serialises copies by several threads. A device that writes at the same time only makes the bytes arbitrary.
    copying: Mutex<()>,
}

// SAFETY: the value owns its memory, and every access takes the lock.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

// SAFETY: the allocation is fixed until the drop, and no reference to its bytes is ever exposed.
unsafe impl StableMemory for Buffer {
    fn address(&self) -> NonNull<u8> {
        self.start
    }

    fn length(&self) -> usize {
        self.length
    }

    fn writable(&self) -> bool {
        true
    }
}

impl Buffer {
    /// The page size on every machine on which dflow runs. Whole pages, so that a registered page holds nothing else.
    const PAGE: usize = 4096;

    /// Allocates at least `length` zeroed bytes, in whole pages.
    ///
    /// # Panics
    /// If `length` is 0 or exceeds the address space.
    #[must_use]
    pub fn zeroed(length: usize) -> Self {
        let layout = Self::layout(length);
        // SAFETY: the size of the layout is not 0, as `layout` has checked.
        let Some(start) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        Self { start, length: layout.size(), copying: Mutex::new(()) }
    }

    fn layout(length: usize) -> Layout {
        assert!(length > 0, "a buffer has at least one byte");
        Layout::from_size_align(length, Self::PAGE)
            .map(|layout| layout.pad_to_align())
            .unwrap_or_else(|_| panic!("a buffer of {length} bytes is more than the address space has"))
    }

    /// Copies `bytes` into the buffer at `offset`.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        let _alone = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: within the allocation, as checked; the lock excludes other threads, and no reference to it exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(offset), bytes.len()) };
    }

    /// Fills `bytes` from the buffer at `offset`.
    ///
    /// # Panics
    /// If the buffer does not have that many bytes there.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        let _alone = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(self.start.as_ptr().add(offset), bytes.as_mut_ptr(), bytes.len()) };
    }

    fn check(&self, offset: usize, count: usize) {
        let fits = offset.checked_add(count).is_some_and(|end| end <= self.length);
        assert!(fits, "{count} bytes at {offset} are not within a buffer of {}", self.length);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with the same layout, because the length already is a multiple of the page size.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.length)) };
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_gives_back_what_was_written() {
        let buffer = Buffer::zeroed(5000);
        assert_eq!(buffer.length(), 8192);
        assert_eq!(buffer.address().as_ptr() as usize % Buffer::PAGE, 0);
        buffer.write(4090, b"over the edge");
        let mut bytes = [9; 14];
        buffer.read(4090, &mut bytes);
        assert_eq!(&bytes, b"over the edge\0");
    }

    #[test]
    #[should_panic(expected = "not within a buffer")]
    fn a_buffer_ends() {
        Buffer::zeroed(1).write(4095, b"12");
    }
}
