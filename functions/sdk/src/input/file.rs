//! A piece of a stream that is in a file: read through a buffer.

use crate::error::Error;
use std::ops::Range;
use std::os::fd::OwnedFd;

/// How much of a file is read at once, in bytes: little enough to stay in the core's own cache.
const FILE_BUFFER: usize = 256 * 1024;

/// The piece, and what of it is in the buffer.
pub(super) struct FilePiece {
    pub(super) file: OwnedFd,
    pub(super) file_offset: u64,
    pub(super) base: u64,
    pub(super) end: u64,
    /// Bytes of the stream from `start` on.
    buffer: Vec<u8>,
    start: u64,
    /// For a slice over everything, its bytes have to be copied.
    pub(super) copied: bool,
}

impl FilePiece {
    /// Bytes `range` of a stream, which are in `file` from `file_offset` on; nothing is read yet.
    pub(super) fn new(file: OwnedFd, file_offset: u64, range: Range<u64>, copied: bool) -> Self {
        Self { file, file_offset, base: range.start, end: range.end, buffer: Vec::new(), start: range.start, copied }
    }

    pub(super) fn holds(&self, position: u64) -> bool {
        position >= self.start && position < self.start + self.buffer.len() as u64
    }

    pub(super) fn fill(&mut self, position: u64, name: &str) -> Result<u64, Error> {
        if self.holds(position) {
            return Ok(self.start + self.buffer.len() as u64 - position);
        }
        let want = (self.end - position).min(FILE_BUFFER as u64) as usize;
        self.buffer.resize(want, 0);
        self.start = position;
        let mut filled = 0;
        while filled == 0 {
            let at = self.file_offset + (position - self.base);
            match rustix::io::pread(&self.file, &mut self.buffer[..], at) {
                Ok(0) => {
                    self.buffer.clear();
                    return Err(Error::new(format!(
                        "the file behind the input '{name}' ends at {at} bytes, before its {} bytes have been read: was \
                         it changed during the run?",
                        self.file_offset + (self.end - self.base)
                    )));
                }
                Ok(count) => filled = count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    self.buffer.clear();
                    return Err(Error::new(format!("cannot read the file behind the input '{name}': {error}")));
                }
            }
        }
        self.buffer.truncate(filled);
        Ok(filled as u64)
    }

    pub(super) fn bytes(&self, position: u64, length: u64) -> &[u8] {
        let start = (position - self.start) as usize;
        &self.buffer[start..start + length as usize]
    }
}
