//! A piece of a stream that is in a file: read through a buffer.

use crate::error::ReadError;
use dflow_shm::View;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How much of a file is read at once, in bytes: little enough to stay in the core's own cache.
const FILE_BUFFER: usize = 256 * 1024;

/// The piece, and what of it is in the buffer.
pub(super) struct FilePiece {
    pub(super) file: OwnedFd,
    pub(super) file_offset: u64,
    pub(super) base: u64,
    pub(super) end: u64,
    /// Bytes of the stream from `start` on.
    buffer: Buffer,
    start: u64,
    /// For a slice over everything, its bytes have to be copied.
    pub(super) copied: bool,
}

/// A buffer becomes shared with the first view of it, so that reading without views counts no references.
enum Buffer {
    Own(Vec<u8>),
    Viewed(Arc<Vec<u8>>),
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Viewed(bytes) => bytes,
        }
    }
}

impl FilePiece {
    /// Bytes `range` of a stream, which are in `file` from `file_offset` on; nothing is read yet.
    pub(super) fn new(file: OwnedFd, file_offset: u64, range: Range<u64>, copied: bool) -> Self {
        let (base, end, buffer) = (range.start, range.end, Buffer::Own(Vec::new()));
        Self { file, file_offset, base, end, buffer, start: base, copied }
    }

    pub(super) fn holds(&self, position: u64) -> bool {
        position >= self.start && position < self.start + self.buffer.bytes().len() as u64
    }

    /// Reads on at `position`, unless it is in the buffer; how many bytes are there from it on.
    pub(super) fn fill(&mut self, position: u64, name: &str) -> Result<u64, ReadError> {
        if self.holds(position) {
            return Ok(self.start + self.buffer.bytes().len() as u64 - position);
        }
        let mut bytes = match std::mem::replace(&mut self.buffer, Buffer::Own(Vec::new())) {
            Buffer::Own(bytes) => bytes,
            // Views may still have it.
            Buffer::Viewed(_) => Vec::new(),
        };
        bytes.resize((self.end - position).min(FILE_BUFFER as u64) as usize, 0);
        self.start = position;
        let at = self.file_offset + (position - self.base);
        let filled = loop {
            match rustix::io::pread(&self.file, &mut bytes[..], at) {
                Ok(0) => {
                    let length = self.file_offset + (self.end - self.base);
                    return Err(ReadError::Truncated { input: name.to_owned(), at, length });
                }
                Ok(count) => break count,
                Err(rustix::io::Errno::INTR) => {}
                Err(source) => return Err(ReadError::File { input: name.to_owned(), source }),
            }
        };
        bytes.truncate(filled);
        self.buffer = Buffer::Own(bytes);
        Ok(filled as u64)
    }

    pub(super) fn bytes(&self, position: u64, length: u64) -> &[u8] {
        let start = (position - self.start) as usize;
        &self.buffer.bytes()[start..start + length as usize]
    }

    /// An owned view of `length` bytes in the buffer.
    pub(super) fn view(&mut self, position: u64, length: u64) -> View {
        let shared = match std::mem::replace(&mut self.buffer, Buffer::Own(Vec::new())) {
            Buffer::Own(bytes) => Arc::new(bytes),
            Buffer::Viewed(bytes) => bytes,
        };
        self.buffer = Buffer::Viewed(Arc::clone(&shared));
        let start = (position - self.start) as usize;
        View::copied(shared, start..start + length as usize, position)
    }
}
