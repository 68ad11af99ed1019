//! The sizes of an input, for plans.

use super::{InputError, InputStream, Opener};
use std::path::PathBuf;

/// The bytes of each stream of an input: one, or one for each part. `None` if a stream is read to its end. Files are
/// looked at as a run would, and not read.
///
/// # Errors
/// If the input could not be read by a run.
pub fn input_sizes(name: &str, partitioned: bool, paths: &[PathBuf]) -> Result<Vec<Option<u64>>, InputError> {
    let paths: Vec<&PathBuf> = paths.iter().collect();
    let (streams, _) = Opener::looking().open(name, partitioned, &paths)?;
    Ok(streams.iter().map(size).collect())
}

/// The bytes of a stream, if they are known.
pub(crate) fn size(stream: &InputStream) -> Option<u64> {
    match stream {
        InputStream::Files(files) => Some(files.iter().map(|(_, length)| *length).fold(0, u64::saturating_add)),
        InputStream::Live(_) => None,
    }
}
