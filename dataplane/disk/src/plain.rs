//! The plain sibling: `pwrite` and `pread`, one request at a time.

use std::io;
use std::os::fd::AsRawFd;

use rustix::io::Errno;

use crate::blocks::{Block, Blocks};
use crate::io::SpillIo;
use crate::{DiskError, SharedBytes, SpillFile};

/// The largest request in bytes: with one at a time, a large one keeps the device busier.
const LARGEST: usize = 4 << 20;

/// How often one request may answer "try again" in a row before that is an error.
pub(crate) const TRY_AGAIN_LIMIT: u32 = 1000;

/// The file offset, as a signed number, past which no request may reach.
pub(crate) const OFFSET_LIMIT: u64 = i64::MAX as u64;

/// Plain reads and writes, direct where the file allows it.
#[derive(Debug)]
pub(crate) struct Plain;

impl SpillIo for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn write(&mut self, file: &SpillFile, offset: u64, bytes: SharedBytes<'_>) -> Result<(), DiskError> {
        transfer(file, Way::Write, offset, bytes.as_ptr() as usize, bytes.len(), |block| {
            let fd = file.descriptor(block.direct).as_raw_fd();
            let part = bytes.slice(block.at..block.at + block.len);
            // SAFETY: `part` lies in a mapping that outlives the call (`SharedBytes::new`). Only the kernel reads it,
            // so that other processes write to it at the same time is no data race of this program.
            unsafe { libc::pwrite(fd, part.as_ptr().cast(), part.len(), block.offset.cast_signed()) }
        })
    }

    fn read(&mut self, file: &SpillFile, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        transfer(file, Way::Read, offset, into.as_ptr() as usize, into.len(), |block| {
            let fd = file.descriptor(block.direct).as_raw_fd();
            let part = &mut into[block.at..block.at + block.len];
            // SAFETY: `part` is exclusively borrowed and `part.len()` bytes long.
            unsafe { libc::pread(fd, part.as_mut_ptr().cast(), part.len(), block.offset.cast_signed()) }
        })
    }
}

/// The direction of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Write,
    Read,
}

impl Way {
    /// What an error message says was tried.
    pub(crate) fn op(self) -> &'static str {
        match self {
            Way::Write => "write to a spill file in",
            Way::Read => "read from a spill file in",
        }
    }

    /// Why a request that was not empty moved nothing.
    pub(crate) fn moved_nothing(self) -> io::Error {
        match self {
            Way::Write => io::Error::new(io::ErrorKind::WriteZero, "the device accepted no bytes"),
            Way::Read => io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before the bytes asked for"),
        }
    }
}

/// Refuses a range that no file can have.
pub(crate) fn check_range(file: &SpillFile, way: Way, offset: u64, len: usize) -> Result<u64, DiskError> {
    let end = offset.checked_add(len as u64).filter(|end| *end <= OFFSET_LIMIT);
    end.ok_or_else(|| DiskError::Io {
        op: way.op(),
        path: file.dir().to_path_buf(),
        source: io::Error::new(io::ErrorKind::InvalidInput, format!("{len} bytes at offset {offset} are out of range")),
    })
}

/// Moves all blocks of a transfer by `request`, which answers as `pwrite` and `pread` do.
fn transfer(
    file: &SpillFile,
    way: Way,
    offset: u64,
    address: usize,
    len: usize,
    mut request: impl FnMut(Block) -> libc::ssize_t,
) -> Result<(), DiskError> {
    let end = check_range(file, way, offset, len)?;
    let mut tries = 0;
    for whole in Blocks::new(offset, address, len, LARGEST, file.is_direct()) {
        let mut rest = Some(whole);
        while let Some(block) = rest {
            let moved = request(block);
            let failure = match usize::try_from(moved) {
                Ok(0) => way.moved_nothing(),
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
            return Err(DiskError::transfer(way.op(), file.dir(), (len - block.at) as u64, end, failure));
        }
    }
    Ok(())
}
