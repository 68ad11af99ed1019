//! Bytes of files in memory that a network card can send from.

use crate::memory::{Access, Memory};
use crate::segment::{Segment, SegmentError, SegmentKind};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Buffers that are filled from files, and used again when all other references are gone.
#[derive(Debug)]
pub struct Staging {
    size: usize,
    buffers: Vec<Arc<Memory>>,
}

/// Why bytes of a file cannot be staged.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// There is no memory for a buffer.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The file cannot be read.
    #[error("cannot read a file: {0}")]
    Read(Errno),
    /// The file is shorter than it was.
    #[error("a file ends at {0} bytes, before the bytes that it had: was it changed during the run?")]
    Short(u64),
}

impl Staging {
    /// A staging area without buffers as yet. `size`: the bytes of each buffer, a multiple of the page size.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self { size, buffers: Vec::new() }
    }

    /// Whether this is one of its buffers.
    #[must_use]
    pub fn owns(&self, memory: &Arc<Memory>) -> bool {
        self.buffers.iter().any(|buffer| Arc::ptr_eq(buffer, memory))
    }

    /// Reads up to `length` bytes at `offset`, at least one byte and at most one buffer. Returns the buffer and the
    /// number of bytes in it. A buffer is filled again only when all other clones of it are gone.
    ///
    /// # Errors
    /// [`StagingError`].
    pub fn read(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> Result<(Arc<Memory>, usize), StagingError> {
        let at = match self.buffers.iter_mut().position(|buffer| Arc::get_mut(buffer).is_some()) {
            Some(at) => at,
            None => {
                let segment = Segment::create("dflow-staging", self.size, SegmentKind::CreatorWritten)?;
                segment.fault_in(0, self.size as u64)?;
                self.buffers.push(Arc::new(segment.map(Access::Write)?));
                self.buffers.len() - 1
            }
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(self.size);
        let buffer = &mut self.buffers[at];
        let target = match Arc::get_mut(buffer) {
            // SAFETY: the mapping has `size` writable bytes, of a segment that no other process was given, and no other
            // clone of the buffer exists while it is borrowed exclusively.
            Some(memory) => unsafe { std::slice::from_raw_parts_mut(memory.start().as_ptr(), length) },
            None => return Err(StagingError::Read(Errno::BUSY)),
        };
        loop {
            match rustix::io::pread(file, &mut *target, offset) {
                Ok(0) => return Err(StagingError::Short(offset)),
                Ok(count) => return Ok((Arc::clone(buffer), count)),
                Err(Errno::INTR) => {}
                Err(error) => return Err(StagingError::Read(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn a_buffer_is_filled_again_only_when_nobody_has_it() {
        let mut file = tempfile();
        file.write_all(b"abcdef").expect("a file in memory");
        let mut staging = Staging::new(4096);
        let bytes = |memory: &Memory, length| {
            let mut bytes = vec![0; length];
            memory.shared(0..length).copy_to(&mut bytes);
            bytes
        };
        let (first, length) = staging.read(file.as_fd(), 0, 3).expect("there are bytes");
        assert_eq!(bytes(&first, length), b"abc");
        let (second, length) = staging.read(file.as_fd(), 3, 100).expect("there are bytes");
        assert_eq!((bytes(&first, 3), bytes(&second, length)), (b"abc".to_vec(), b"def".to_vec()));
        drop(first);
        let (third, _) = staging.read(file.as_fd(), 5, 1).expect("there are bytes");
        assert_eq!((bytes(&second, 3), bytes(&third, 1)), (b"def".to_vec(), b"f".to_vec()));
        assert_eq!(staging.buffers.len(), 2, "the first buffer was used again");
        assert!(matches!(staging.read(file.as_fd(), 6, 1), Err(StagingError::Short(6))));
    }

    fn tempfile() -> std::fs::File {
        rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd").into()
    }
}
