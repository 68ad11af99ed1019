//! Kept inputs: regular files in which the program can seek.

use crate::feed::Streams;
use dflow_function::Error;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsRawFd, OwnedFd};

/// Copies the streams, one after the other, to an unnamed file and returns it, read-only and at its start. Waits until
/// the streams have ended.
///
/// The file is on disk rather than in memory: its size is not known in advance, and the kernel can evict its page
/// cache.
pub(crate) fn file_of(streams: &mut Streams, name: &str) -> Result<OwnedFd, Error> {
    let failed = |error: io::Error| {
        Error::new(format!(
            "cannot copy the input '{name}' to a temporary file in {}: {error}; it is kept ('keep: true' or 'gate: whole'), \
             so the program gets it as a file: set TMPDIR in 'env' of this function to a directory with room for it, or do \
             not keep it",
            std::env::temp_dir().display()
        ))
    };
    let mut file = tempfile::tempfile().map_err(failed)?;
    while let Some(mut input) = streams.next()? {
        loop {
            let chunk = input.fill_buf()?;
            if chunk.is_empty() {
                break;
            }
            file.write_all(chunk).map_err(failed)?;
            let length = chunk.len();
            input.consume(length);
        }
    }
    // Opened again, so that the program cannot write it and starts at offset 0.
    Ok(File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(failed)?.into())
}
