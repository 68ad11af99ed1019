//! The file operations that publishing consists of.

use rustix::fs::{CWD, RenameFlags};
use std::io;
use std::path::{Path, PathBuf};

/// A file operation that did not work.
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

/// Changes folders. A test makes one that stops after some operations, as a killed process does: nothing that it is told
/// after that has any effect.
#[derive(Debug, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) left: Option<std::cell::Cell<u32>>,
}

impl Disk {
    /// Replaces whatever file is there.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.step("move a file to", to, || std::fs::rename(from, to))
    }

    /// Fails if something is there.
    pub(super) fn rename_new(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.step("move a file to", to, || {
            match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
                // Some network filesystems cannot refuse by themselves.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP)
                    if to.symlink_metadata().is_err() =>
                {
                    std::fs::rename(from, to)
                }
                result => result.map_err(io::Error::from),
            }
        })
    }

    /// Each of two folders takes the other's place, in one step.
    pub(super) fn exchange(&self, one: &Path, other: &Path) -> Result<(), DiskError> {
        self.step("replace", other, || {
            rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).map_err(io::Error::from)
        })
    }

    /// A folder that is there already is right, too.
    pub(super) fn create_folder(&self, path: &Path) -> Result<(), DiskError> {
        if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(());
        }
        self.step("create the folder", path, || std::fs::create_dir(path))
    }

    /// The folder in which a file of a result is, which may be below another one.
    pub(super) fn create_parents(&self, root: &Path, file: &Path) -> Result<(), DiskError> {
        let Ok(relative) = file.strip_prefix(root) else { return Ok(()) };
        let mut above: Vec<&Path> = relative.ancestors().skip(1).collect();
        above.reverse();
        above.iter().try_for_each(|folder| self.create_folder(&root.join(folder)))
    }

    /// The file appears complete or not at all.
    pub(super) fn write(&self, path: &Path, text: &[u8]) -> Result<(), DiskError> {
        let draft = path.with_extension("draft");
        self.step("write", path, || std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, path)))
    }

    pub(super) fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        self.step("remove", path, || gone(std::fs::remove_file(path)))
    }

    /// Fails if something is in it.
    pub(super) fn remove_empty(&self, path: &Path) -> Result<(), DiskError> {
        self.step("remove", path, || gone(std::fs::remove_dir(path)))
    }

    /// With all that is in it: for folders that are dflow's alone.
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

/// What is not there need not be removed.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
