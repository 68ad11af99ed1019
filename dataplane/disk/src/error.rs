//! Errors of spill files, with what to do about them.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why a spill directory, a spill file or a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The filesystem, or the user's quota on it, is full.
    #[error(
        "no space left to spill {needed} bytes in {}: free some space, or choose another place with --spill-dir",
        dir.display()
    )]
    NoSpace {
        /// The bytes of the transfer that did not fit.
        needed: u64,
        /// The spill directory.
        dir: PathBuf,
    },
    /// The process's file size limit, or the filesystem's own, ends before the transfer does.
    #[error(
        "a spill file in {} may not grow to {end} bytes: raise the file size limit (ulimit -f), or choose a filesystem \
         that allows larger files with --spill-dir",
        dir.display()
    )]
    FileTooLarge {
        /// The length in bytes that the file would have had.
        end: u64,
        /// The spill directory.
        dir: PathBuf,
    },
    /// An operation on the directory or on a file in it failed.
    #[error(
        "cannot {op} {}: {source}; check the directory and its device, or choose another place with --spill-dir",
        path.display()
    )]
    Io {
        /// The operation, as a phrase that the path completes.
        op: &'static str,
        /// The spill directory (its files have no names).
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The machine lacks, or forbids, a kind of I/O that was asked for.
    #[error("{what} cannot be used here: {reason}; {remedy}")]
    Unsupported {
        /// The kind of I/O.
        what: &'static str,
        /// Why it is not available.
        reason: String,
        /// What to do instead.
        remedy: &'static str,
    },
}

impl DiskError {
    /// The error of a transfer of which `missing` bytes, ending at `end`, did not move.
    pub(crate) fn transfer(op: &'static str, dir: &Path, missing: u64, end: u64, source: io::Error) -> DiskError {
        let dir = dir.to_path_buf();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => DiskError::NoSpace { needed: missing, dir },
            Some(Errno::FBIG) => DiskError::FileTooLarge { end, dir },
            _ => DiskError::Io { op, path: dir, source },
        }
    }
}
