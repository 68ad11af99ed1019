//! Bytes that another process may be writing while they are read.

use std::marker::PhantomData;
use std::ops::Range;

/// A view of mapped memory that another process may change at any time.
///
/// It is a pointer and a length, never a `&[u8]`: the bytes behind a Rust slice must not change, but a function that
/// still has the pages mapped may write them. The kernel copies from it; Rust code does not read it directly.
#[derive(Clone, Copy, Debug)]
pub struct SharedBytes<'a> {
    pointer: *const u8,
    len: usize,
    mapping: PhantomData<&'a ()>,
}

impl<'a> SharedBytes<'a> {
    /// A view of `len` bytes at `pointer`.
    ///
    /// # Safety
    /// For all of `'a`, `pointer..pointer + len` lies in one mapping of this process that is readable and is neither
    /// unmapped nor remapped. Its contents may change; its pages may even be gone (a transfer then fails with an
    /// error).
    #[must_use]
    pub unsafe fn new(pointer: *const u8, len: usize) -> SharedBytes<'a> {
        SharedBytes { pointer, len, mapping: PhantomData }
    }

    /// How many bytes the view covers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the view covers nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the view begins.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.pointer
    }

    /// Copies all of it to `target`.
    ///
    /// Bytes that another process writes meanwhile may be torn. Only bytes that no longer change, such as those below a
    /// watermark, are sure to be copied correctly.
    ///
    /// # Panics
    /// If `target` has another length.
    pub fn copy_to(&self, target: &mut [u8]) {
        assert_eq!(self.len, target.len(), "a copy has the length of its source");
        // SAFETY: `new` promises `len` readable bytes, and `target` is a slice of this process's own, which no mapping
        // that hands out addresses overlaps while it is borrowed. No reference to the source is made.
        unsafe { std::ptr::copy_nonoverlapping(self.pointer, target.as_mut_ptr(), self.len) };
    }

    /// The view of a part, by offsets in bytes from the beginning.
    ///
    /// # Panics
    /// If `range` is not within the view.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> SharedBytes<'a> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} is not within {} bytes", self.len);
        // SAFETY: start <= len, so the result is within, or one past the end of, the mapping that `new` was promised.
        let pointer = unsafe { self.pointer.add(range.start) };
        SharedBytes { pointer, len: range.end - range.start, mapping: PhantomData }
    }
}

impl<'a> From<&'a [u8]> for SharedBytes<'a> {
    fn from(bytes: &'a [u8]) -> SharedBytes<'a> {
        SharedBytes { pointer: bytes.as_ptr(), len: bytes.len(), mapping: PhantomData }
    }
}

// SAFETY: only the kernel reads through the pointer, and `new` promises the mapping for `'a` on every thread.
unsafe impl Send for SharedBytes<'_> {}
// SAFETY: as for `Send`; a shared view allows nothing more than a copied one.
unsafe impl Sync for SharedBytes<'_> {}
