//! The output directory: filled aside, made visible in one step.

use crate::check::SetupError;
use rustix::fs::{AtFlags, CWD, FlockOperation, RenameFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A file that says: this directory was made by dflow and may be replaced by it. While a run fills the directory, the
/// run holds a lock on it.
const MARKER: &str = ".dflow-output";

/// A directory beside the output directory in which the outputs are written, and which takes its place when the run
/// commits. Dropped before that, it vanishes.
#[derive(Debug)]
pub(crate) struct Staging {
    target: PathBuf,
    staging: PathBuf,
    committed: bool,
    /// Held until the run is over; the lock goes with the process, however it ends.
    _lock: OwnedFd,
}

impl Staging {
    /// Checks that the directory can be made or replaced.
    pub(crate) fn check(target: &Path) -> Result<(), SetupError> {
        let refuse = |reason: String| Err(SetupError::Output { path: target.to_owned(), reason });
        match std::fs::read_dir(target) {
            Ok(mut entries) => {
                if !target.join(MARKER).exists() && entries.next().is_some() {
                    return refuse(
                        "it is not empty, and dflow did not make it; name another one with --output, or empty it"
                            .into(),
                    );
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return refuse(error.to_string()),
        }
        // The nearest directory that exists must let us make another one in it.
        let absolute = std::path::absolute(target).unwrap_or_else(|_| target.to_owned());
        let existing = absolute.ancestors().skip(1).find(|ancestor| ancestor.exists());
        let Some(parent) = existing else { return refuse("no directory above it exists".into()) };
        if !parent.is_dir() {
            return refuse(format!("{} is no directory", parent.display()));
        }
        if let Err(error) = rustix::fs::accessat(CWD, parent, rustix::fs::Access::WRITE_OK, AtFlags::empty()) {
            return refuse(format!("nothing can be created in {}: {error}", parent.display()));
        }
        Ok(())
    }

    /// Makes the staging directory, on the same filesystem as the target.
    pub(crate) fn create(target: &Path, run: &str) -> Result<Self, SetupError> {
        Self::check(target)?;
        let refuse = |error: io::Error| SetupError::Output { path: target.to_owned(), reason: error.to_string() };
        let target = std::path::absolute(target).map_err(refuse)?;
        let parent = target.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent).map_err(refuse)?;
        let name = target.file_name().map_or_else(|| "output".into(), |name| name.to_string_lossy().into_owned());
        let prefix = format!(".{name}.");
        remove_abandoned(parent, &prefix);
        let staging = parent.join(format!("{prefix}{}", &run[..12.min(run.len())]));
        // It gets a name that another run could take for an abandoned one only when it is locked.
        let fresh = parent.join(format!(".dflow-new-{run}"));
        std::fs::create_dir(&fresh).map_err(refuse)?;
        let lock =
            mark(&fresh, run).and_then(|lock| std::fs::rename(&fresh, &staging).map(|()| lock)).inspect_err(|_| {
                let _ = std::fs::remove_dir_all(&fresh);
            });
        Ok(Self { target, staging, committed: false, _lock: lock.map_err(refuse)? })
    }

    /// Where an output is written: a file, or in a directory of parts.
    pub(crate) fn path(&self, name: &str, part: Option<u32>) -> PathBuf {
        Self::place(&self.staging, name, part)
    }

    /// Where that output will be.
    pub(crate) fn final_path(&self, name: &str, part: Option<u32>) -> PathBuf {
        Self::place(&self.target, name, part)
    }

    fn place(root: &Path, name: &str, part: Option<u32>) -> PathBuf {
        match part {
            Some(part) => root.join(name).join(format!("{part:05}")),
            None => root.join(name),
        }
    }

    /// Makes a directory of parts, which then exists even if there are none.
    pub(crate) fn make_parts_directory(&self, name: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.staging.join(name))
    }

    /// Makes everything visible in one step.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        match std::fs::rename(&self.staging, &self.target) {
            Ok(()) => {}
            Err(error)
                if matches!(error.raw_os_error(), Some(code) if code == rustix::io::Errno::NOTEMPTY.raw_os_error()
                || code == rustix::io::Errno::EXIST.raw_os_error()) =>
            {
                rustix::fs::renameat_with(CWD, &self.staging, CWD, &self.target, RenameFlags::EXCHANGE)?;
                // The outputs of the run before are in the staging place now.
                std::fs::remove_dir_all(&self.staging)?;
            }
            Err(error) => return Err(error),
        }
        self.committed = true;
        Ok(())
    }
}

/// Writes the marker and locks it.
fn mark(staging: &Path, run: &str) -> io::Result<OwnedFd> {
    let path = staging.join(MARKER);
    std::fs::write(&path, format!("{run}\n"))?;
    let marker = OwnedFd::from(std::fs::File::open(&path)?);
    rustix::fs::flock(&marker, FlockOperation::NonBlockingLockExclusive)?;
    Ok(marker)
}

/// Removes what runs have left that were killed: directories like ours whose marker nobody has locked. A directory that
/// was made a moment ago and has no marker yet is left alone.
fn remove_abandoned(parent: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        let Ok(marker) = std::fs::File::open(entry.path().join(MARKER)) else { continue };
        if rustix::fs::flock(&marker, FlockOperation::NonBlockingLockExclusive).is_ok() {
            tracing::info!(path = %entry.path().display(), "removing what a killed run has left");
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed {
            let _ = std::fs::remove_dir_all(&self.staging);
        }
    }
}
