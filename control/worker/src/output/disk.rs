//! The file operations of publishing.

use rustix::fs::{CWD, RenameFlags};
use std::io;
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", path.display())]
pub(crate) struct DiskError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl DiskError {
    pub(super) fn new(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self { what, path: path.to_owned(), source }
    }
}

/// Performs file operations. In tests it can stop after a number of operations, like a killed process: later ones have
/// no effect.
#[derive(Debug, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) left: Option<std::cell::Cell<u32>>,
}

impl Disk {
    /// Renames a file, replacing an existing one.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.step("move a file to", to, || std::fs::rename(from, to))
    }

    /// Renames a file; fails if the target exists.
    pub(super) fn rename_new(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.step("move a file to", to, || {
            match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
                // Some network filesystems do not support RENAME_NOREPLACE.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP)
                    if to.symlink_metadata().is_err() =>
                {
                    std::fs::rename(from, to)
                }
                result => result.map_err(io::Error::from),
            }
        })
    }

    /// Exchanges two directories in one step.
    pub(super) fn exchange(&self, one: &Path, other: &Path) -> Result<(), DiskError> {
        self.step("replace", other, || {
            rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).map_err(io::Error::from)
        })
    }

    /// Creates a directory; also succeeds if it already exists.
    pub(super) fn create_folder(&self, path: &Path) -> Result<(), DiskError> {
        if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(());
        }
        self.step("create the directory", path, || std::fs::create_dir(path))
    }

    /// Creates the parent directory of a file of a result, with its ancestors.
    pub(super) fn create_parents(&self, root: &Path, file: &Path) -> Result<(), DiskError> {
        let Ok(relative) = file.strip_prefix(root) else { return Ok(()) };
        let mut above: Vec<&Path> = relative.ancestors().skip(1).collect();
        above.reverse();
        above.iter().try_for_each(|folder| self.create_folder(&root.join(folder)))
    }

    /// Writes a file, which appears complete or not at all.
    pub(super) fn write(&self, path: &Path, text: &[u8]) -> Result<(), DiskError> {
        let draft = path.with_extension("draft");
        self.step("write", path, || std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, path)))
    }

    pub(super) fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        self.step("remove", path, || gone(std::fs::remove_file(path)))
    }

    /// Removes a directory; fails if it is not empty.
    pub(super) fn remove_empty(&self, path: &Path) -> Result<(), DiskError> {
        self.step("remove", path, || gone(std::fs::remove_dir(path)))
    }

    /// Removes a directory with its contents; only for dflow's own directories.
    pub(super) fn remove_all(&self, path: &Path) -> Result<(), DiskError> {
        self.step("remove", path, || gone(std::fs::remove_dir_all(path)))
    }

    fn step(
        &self,
        what: &'static str,
        path: &Path,
        operation: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), DiskError> {
        let failed = |source| DiskError::new(what, path, source);
        #[cfg(test)]
        if let Some(left) = &self.left {
            match left.get() {
                0 => return Err(failed(io::Error::other("the process was killed"))),
                more => left.set(more - 1),
            }
        }
        operation().map_err(failed)
    }
}

/// Ignores the error that a file does not exist.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
