//! The directory for spill files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::{DiskError, SpillFile};

/// The most names that are tried on a filesystem without unnamed files.
const NAME_ATTEMPTS: usize = 1024;

/// A directory for spill files. It stays empty, because the files have no names.
#[derive(Debug)]
pub struct SpillDir {
    dir: OwnedFd,
    path: Arc<Path>,
}

impl SpillDir {
    /// Opens an existing directory and checks that a file can be made in it.
    ///
    /// # Errors
    /// [`DiskError::Io`] if `path` is not a directory, is not writable for this user, or has no room for an empty file.
    pub fn open(path: &Path) -> Result<SpillDir, DiskError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| DiskError::Io {
            op: "open the spill directory",
            path: path.to_path_buf(),
            source: errno.into(),
        })?;
        let spill = SpillDir { dir, path: Arc::from(path) };
        spill.create()?;
        Ok(spill)
    }

    /// Creates an empty spill file.
    ///
    /// # Errors
    /// [`DiskError::Io`], also when the limit of open descriptors is reached.
    pub fn create(&self) -> Result<SpillFile, DiskError> {
        let made = match unnamed(self.dir.as_fd()) {
            // Filesystems without unnamed files answer with one of these.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => unlinked(self.dir.as_fd()),
            made => made,
        };
        match made {
            Ok(file) => Ok(SpillFile::new(file, Arc::clone(&self.path))),
            Err(errno) => {
                Err(DiskError::Io { op: "make a spill file in", path: self.path.to_path_buf(), source: errno.into() })
            }
        }
    }

    /// The directory's path, as it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates a file without a name. With `O_EXCL`, it can never be given one.
fn unnamed(dir: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(dir, ".", flags, Mode::RUSR | Mode::WUSR)
}

/// Creates a file and unlinks it at once. A process that is killed between the two leaves an empty file.
fn unlinked(dir: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    for _ in 0..NAME_ATTEMPTS {
        let name = format!(".dflow-spill-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        match rustix::fs::openat(dir, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => {
                rustix::fs::unlinkat(dir, &name, AtFlags::empty())?;
                return Ok(file);
            }
            // Left behind by, or in use by, a process with the same id in another PID namespace.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EXIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filesystem_without_unnamed_files_is_served_by_unlinking() {
        let place = tempfile::tempdir().unwrap();
        let dir = SpillDir::open(place.path()).unwrap();
        let file = SpillFile::new(unlinked(dir.dir.as_fd()).unwrap(), Arc::clone(&dir.path));
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        rustix::io::pwrite(file.descriptor(false), b"still there", 0).unwrap();
        let mut back = [0; 11];
        rustix::io::pread(file.reader().unwrap(), &mut back, 0).unwrap();
        assert_eq!(&back, b"still there");
    }
}
