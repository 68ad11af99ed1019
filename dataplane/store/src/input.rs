//! Files of which a stream consists that no attempt writes.

use crate::attempt::duplicate;
use crate::error::StoreError;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file of which a stream consists, or a part of it.
#[derive(Debug)]
pub enum InputFile {
    /// It is open.
    Open(OwnedFd),
    /// It is opened for each reader that comes to it, because there are more files than descriptors.
    Later {
        /// Where it is.
        path: PathBuf,
        /// The device that it was found on.
        device: u64,
        /// Its inode there.
        inode: u64,
    },
}

impl InputFile {
    /// A file that is opened when it is needed. `metadata`: its own, by which it is known again.
    #[must_use]
    pub fn later(path: &Path, metadata: &Metadata) -> Self {
        Self::Later { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() }
    }

    /// A descriptor for a reader.
    fn reader(&self) -> Result<OwnedFd, StoreError> {
        let (path, known) = match self {
            Self::Open(fd) => return duplicate(fd.as_fd()),
            Self::Later { path, device, inode } => (path, (*device, *inode)),
        };
        let failed = |source| StoreError::Input { path: path.clone(), source };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if (metadata.dev(), metadata.ino()) != known {
            return Err(failed(io::Error::other("another file has taken its place since the run began")));
        }
        Ok(file.into())
    }
}

/// The files of a stream, one after the other. There may be tens of thousands of them, each of which a reader asks for:
/// so they are one piece of the stream and not many.
#[derive(Debug, Default)]
pub(crate) struct InputFiles {
    files: Vec<InputFile>,
    /// Where each of them ends in the stream.
    ends: Vec<u64>,
}

impl InputFiles {
    /// Files of these lengths; empty ones are left out.
    pub(crate) fn new(files: Vec<(InputFile, u64)>) -> Self {
        let mut all = Self::default();
        for (file, length) in files.into_iter().filter(|(_, length)| *length > 0) {
            all.ends.push(all.length() + length);
            all.files.push(file);
        }
        all
    }

    /// The length of the stream.
    pub(crate) fn length(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// A descriptor of the file in which the byte at an offset is, and the range of the stream that it holds; `None`
    /// behind the last one.
    pub(crate) fn reader_at(&self, offset: u64) -> Result<Option<(OwnedFd, Range<u64>)>, StoreError> {
        let index = self.ends.partition_point(|&end| end <= offset);
        let Some((file, &end)) = self.files.get(index).zip(self.ends.get(index)) else { return Ok(None) };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Ok(Some((file.reader()?, start..end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path) -> InputFile {
        std::fs::write(path, "bytes").expect("a file");
        InputFile::later(path, &path.metadata().expect("it is there"))
    }

    #[test]
    fn each_offset_is_in_its_file_and_empty_files_are_in_none() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("a");
        let files = InputFiles::new([3, 0, 1, 5].map(|length| (file(&path), length)).into());
        assert_eq!(files.length(), 9);
        let found = |offset| files.reader_at(offset).expect("it can be opened").map(|(_, range)| range);
        let expected = [(0, 0..3), (2, 0..3), (3, 3..4), (4, 4..9), (8, 4..9)];
        assert!(expected.into_iter().all(|(offset, range)| found(offset) == Some(range)));
        assert_eq!(found(9), None);
        assert_eq!(InputFiles::new(Vec::new()).length(), 0);
    }

    #[test]
    fn a_file_that_has_taken_the_place_of_another_is_not_read() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("a");
        let known = file(&path);
        known.reader().expect("the same file");
        let _other = file(&folder.path().join("b"));
        std::fs::rename(folder.path().join("b"), &path).expect("renamed");
        assert!(known.reader().expect_err("another file").to_string().contains("has taken its place"));
        std::fs::remove_file(&path).expect("removed");
        assert!(known.reader().expect_err("no file").to_string().contains("cannot open the input"));
    }
}
