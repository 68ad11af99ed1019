//! Kept inputs: regular files in which the program can seek.

use crate::feed::Streams;
use dflow_function::Error;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsRawFd, OwnedFd};

/// A file without a name that holds all bytes of the streams, one after the other; read-only, at its start. Waits until
/// they have ended.
///
/// It lies on disk rather than in memory: how large it becomes is not known, and the cache of a file can be given up.
pub(crate) fn file_of(streams: &mut Streams, name: &str) -> Result<OwnedFd, Error> {
    let failed = |error: io::Error| {
        Error::new(format!(
            "cannot copy the input '{name}' to a temporary file in {}: {error}; it is kept ('keep: true' or 'gate: whole'), \
             so the program gets it as a file: set TMPDIR in 'env' of this function to a folder with room for it, or do \
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
    // Opened anew: the program can neither write it nor find a position other than its start.
    Ok(File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(failed)?.into())
}
