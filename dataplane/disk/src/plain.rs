//! The plain implementation: `pwrite` and `pread`, one request at a time.

use std::io;
use std::os::fd::AsRawFd;

use rustix::io::Errno;

use crate::blocks::{Block, Blocks};
use crate::io::SpillIo;
use crate::{DiskError, SharedBytes, SpillFile};

/// The largest request in bytes: with one at a time, a large one keeps the device busier.
const LARGEST: usize = 4 << 20;

/// How often in a row a request may fail with EAGAIN before that is an error.
pub(crate) const TRY_AGAIN_LIMIT: u32 = 1000;

/// The largest file offset: offsets are signed.
pub(crate) const OFFSET_LIMIT: u64 = i64::MAX as u64;

/// Plain reads and writes, direct where the file allows it.
#[derive(Debug)]
pub(crate) struct Plain;

impl SpillIo for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn write(&mut self, file: &SpillFile, offset: u64, bytes: SharedBytes<'_>) -> Result<(), DiskError> {
        transfer(file, Direction::Write, offset, bytes.as_ptr() as usize, bytes.len(), |block| {
            let fd = file.descriptor(block.direct).as_raw_fd();
            let part = bytes.slice(block.at..block.at + block.len);
            // SAFETY: `part` lies in a mapping that outlives the call (`SharedBytes::new`). Only the kernel reads it,
            // so concurrent writes by other processes are not a data race of this program.
            unsafe { libc::pwrite(fd, part.as_ptr().cast(), part.len(), block.offset.cast_signed()) }
        })
    }

    fn read(&mut self, file: &SpillFile, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        transfer(file, Direction::Read, offset, into.as_ptr() as usize, into.len(), |block| {
            let fd = file.descriptor(block.direct).as_raw_fd();
            let part = &mut into[block.at..block.at + block.len];
            // SAFETY: `part` is exclusively borrowed and `part.len()` bytes long.
            unsafe { libc::pread(fd, part.as_mut_ptr().cast(), part.len(), block.offset.cast_signed()) }
        })
    }
}

/// The direction of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Write,
    Read,
}

impl Direction {
    /// The operation, for error messages.
    pub(crate) fn op(self) -> &'static str {
        match self {
            Direction::Write => "write to a spill file in",
            Direction::Read => "read from a spill file in",
        }
    }

    /// The error of a request that moved no bytes although it was not empty.
    pub(crate) fn moved_nothing(self) -> io::Error {
        match self {
            Direction::Write => io::Error::new(io::ErrorKind::WriteZero, "the device accepted no bytes"),
            Direction::Read => io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before the bytes asked for"),
        }
    }
}

/// Checks that a file can have this range. Returns its end.
pub(crate) fn check_range(file: &SpillFile, direction: Direction, offset: u64, len: usize) -> Result<u64, DiskError> {
    let end = offset.checked_add(len as u64).filter(|end| *end <= OFFSET_LIMIT);
    end.ok_or_else(|| DiskError::Io {
        op: direction.op(),
        path: file.dir().to_path_buf(),
        source: io::Error::new(io::ErrorKind::InvalidInput, format!("{len} bytes at offset {offset} are out of range")),
    })
}

/// Moves all blocks of a transfer by `request`, which returns what `pwrite` and `pread` do.
fn transfer(
    file: &SpillFile,
    direction: Direction,
    offset: u64,
    address: usize,
    len: usize,
    mut request: impl FnMut(Block) -> libc::ssize_t,
) -> Result<(), DiskError> {
    let end = check_range(file, direction, offset, len)?;
    let mut tries = 0;
    for whole in Blocks::new(offset, address, len, LARGEST, file.is_direct()) {
        let mut rest = Some(whole);
        while let Some(block) = rest {
            let moved = request(block);
            let failure = match usize::try_from(moved) {
                Ok(0) => direction.moved_nothing(),
                Ok(moved) => {
                    tries = 0;
                    rest = block.rest(moved);
                    continue;
                }
                Err(_) => io::Error::last_os_error(),
            };
            match Errno::from_io_error(&failure) {
                Some(Errno::INTR) => continue,
                Some(Errno::AGAIN) if tries < TRY_AGAIN_LIMIT => {
                    tries += 1;
                    std::thread::yield_now();
                    continue;
                }
                Some(Errno::INVAL) if block.direct => {
                    file.stop_direct();
                    rest = Some(Block { direct: false, ..block });
                    continue;
                }
                _ => {}
            }
            return Err(DiskError::transfer(direction.op(), file.dir(), (len - block.at) as u64, end, failure));
        }
    }
    Ok(())
}
