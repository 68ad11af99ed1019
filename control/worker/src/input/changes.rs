//! Detects files that were changed while a run read them.

use crate::output::modified_ns;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file as it was when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenFile {
    path: PathBuf,
    inode: u64,
    bytes: u64,
    modified_ns: i64,
}

impl SeenFile {
    pub(crate) fn new(path: &Path, metadata: &Metadata) -> Self {
        Self { path: path.to_owned(), inode: metadata.ino(), bytes: metadata.len(), modified_ns: modified_ns(metadata) }
    }

    /// The change, in words. `None` if the file is unchanged, or was replaced by another file: the open one is still
    /// read to its end.
    fn change(&self) -> Option<String> {
        let metadata = self.path.metadata().ok().filter(|metadata| metadata.ino() == self.inode)?;
        let (path, before, now) = (self.path.display(), self.bytes, metadata.len());
        if now > before {
            return Some(format!("{path} grew from {before} to {now} bytes; the first {before} were read"));
        }
        if now < before {
            return Some(format!(
                "{path} was truncated from {before} to {now} bytes; the result may contain bytes that it had before"
            ));
        }
        (modified_ns(&metadata) != self.modified_ns)
            .then(|| format!("{path} was overwritten; the result may mix old and new bytes"))
    }

    /// Notes for the user about changed files.
    pub(crate) fn changes(files: &[Self]) -> Vec<String> {
        /// Maximum number of files that are named.
        const MAX_NAMED: usize = 5;
        let mut changed = files.iter().filter_map(Self::change);
        let mut notes: Vec<String> = changed
            .by_ref()
            .take(MAX_NAMED)
            .map(|change| format!("an input changed during the run: {change}"))
            .collect();
        match changed.count() {
            0 => {}
            more => notes.push(format!("{more} more inputs changed during the run")),
        }
        notes
    }
}
