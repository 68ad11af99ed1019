//! The hidden directory in which a run writes its outputs.
//!
//! ```text
//! .dflow-staging-RUN/     beside the output directory, or in it where a rename from beside it does not work
//!     marker.json         which run, for which output directory, and where; locked while the run lives
//!     new/                the outputs
//!     publish.json        the journal, once all outputs are finished (`publish`)
//!     old/                files that outputs have replaced, until all outputs are in place
//! ```

use super::disk::{Disk, DiskError};
use super::machine::Machine;
use super::manifest::{STAGING_PREFIX, read_json};
use super::{OutputError, Target};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(super) const MARKER: &str = "marker.json";
pub(super) const NEW: &str = "new";
pub(super) const OLD: &str = "old";
pub(super) const JOURNAL: &str = "publish.json";

/// The number of digits of a run's id in the name of its staging directory.
const RUN_DIGITS: usize = 12;

/// Which run a staging directory belongs to. A copy of the directory, or one that was moved, says something else about
/// itself than what is true of it, and is left alone.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    pub(super) run: String,
    /// Paths as the system has them, which need not be UTF-8.
    pub(super) target: OsString,
    staging: OsString,
    inode: u64,
    #[serde(default)]
    pub(super) machine: Machine,
}

impl Marker {
    /// The marker of a staging directory that is where it was made; `None` for everything else.
    pub(super) fn of(staging: &Path) -> Option<Self> {
        let marker: Self = read_json(&staging.join(MARKER))?;
        let metadata = staging.symlink_metadata().ok()?;
        (metadata.is_dir() && Path::new(&marker.staging) == staging && marker.inode == metadata.ino()).then_some(marker)
    }

    /// Whether the run is or was on another machine, where this one cannot tell whether it lives.
    pub(super) fn is_elsewhere(&self) -> bool {
        !self.machine.shares_locks_with(&Machine::this())
    }

    /// The lock of a staging directory whose run is dead; `None` if the run lives or may live.
    pub(super) fn claim(&self, staging: &Path) -> Option<File> {
        if self.is_elsewhere() {
            return None;
        }
        let file = File::open(staging.join(MARKER)).ok()?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(file)
    }
}

/// The directory of a run's outputs until it has succeeded. Dropping it before [`Staging::publish`] removes it.
#[derive(Debug)]
pub(crate) struct Staging {
    pub(super) target: Target,
    pub(super) run: String,
    pub(super) folder: PathBuf,
    /// Whether it is beside the output directory.
    pub(super) beside: bool,
    pub(super) disk: Disk,
    /// Whether its outputs are finished: from then on it is never removed unpublished.
    pub(super) finished: bool,
    /// Held until the run has ended; the kernel releases the lock when the process ends, however it does.
    _lock: File,
}

impl Staging {
    /// Makes the staging directory where what publishing takes has been tried: to create, and to rename from there into
    /// the output directory.
    ///
    /// # Errors
    /// It works neither beside the output directory nor in it.
    pub(crate) fn create(target: Target, run: &str) -> Result<Self, OutputError> {
        let parent = target.path.parent().map(Path::to_owned);
        if !target.path.exists() {
            let parent = parent.unwrap_or_else(|| PathBuf::from("/"));
            std::fs::create_dir_all(&parent)
                .map_err(OutputError::system(&target.shown, format!("create the directory {}", parent.display())))?;
            return Self::begin(target.clone(), run, &parent, true).map_err(|error| target.unusable(error));
        }
        // A directory that cannot be replaced, such as a mount point, can still be filled from a staging directory
        // within it.
        if let Some(parent) = parent
            && let Ok(staging) = Self::begin(target.clone(), run, &parent, true)
            && staging.try_rename().is_ok()
        {
            return Ok(staging);
        }
        let folder = target.path.clone();
        let staging = Self::begin(target.clone(), run, &folder, false).map_err(|error| target.unusable(error))?;
        staging.try_rename().map_err(|error| target.unusable(error))?;
        Ok(staging)
    }

    fn begin(target: Target, run: &str, parent: &Path, beside: bool) -> Result<Self, DiskError> {
        let disk = Disk::default();
        let digits = &run[..RUN_DIGITS.min(run.len())];
        let folder = parent.join(format!("{STAGING_PREFIX}{digits}"));
        disk.create_folder(&folder)?;
        let lock = mark(&folder, &target.path, run).inspect_err(|_| {
            let _ = disk.remove_all(&folder);
        });
        let lock = lock.map_err(|source| DiskError::new("write", &folder.join(MARKER), source))?;
        let staging = Self { target, run: run.to_owned(), folder, beside, disk, finished: false, _lock: lock };
        staging.disk.create_folder(&staging.folder.join(NEW))?;
        Ok(staging)
    }

    /// Moves an empty directory to where outputs will be moved, and back.
    fn try_rename(&self) -> Result<(), DiskError> {
        let here = self.folder.join("probe");
        let there = self.target.path.join(format!("{STAGING_PREFIX}probe-{}", self.run));
        self.disk.create_folder(&here)?;
        self.disk.rename_new(&here, &there)?;
        self.disk.remove_empty(&there)
    }

    /// The path at which an output is written: a file, or a file in a directory of parts.
    pub(crate) fn path(&self, name: &str, part: Option<u32>) -> PathBuf {
        place(&self.folder.join(NEW), name, part)
    }

    /// The path at which that output will be published.
    pub(crate) fn final_path(&self, name: &str, part: Option<u32>) -> PathBuf {
        place(&self.target.path, name, part)
    }
}

fn place(root: &Path, name: &str, part: Option<u32>) -> PathBuf {
    match part {
        Some(part) => root.join(name).join(format!("{part:05}")),
        None => root.join(name),
    }
}

/// Writes the marker and locks it. It gets its name when it is locked, so that no other run takes it for that of a dead
/// one.
fn mark(staging: &Path, target: &Path, run: &str) -> io::Result<File> {
    let inode = staging.symlink_metadata()?.ino();
    let marker =
        Marker { run: run.to_owned(), target: target.into(), staging: staging.into(), inode, machine: Machine::this() };
    let draft = staging.join("marker.draft");
    std::fs::write(&draft, serde_json::to_vec(&marker)?)?;
    let file = File::open(&draft)?;
    // A filesystem without locks has none for a run that would remove this directory either, which then does not.
    let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    std::fs::rename(&draft, staging.join(MARKER))?;
    Ok(file)
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.disk.remove_all(&self.folder);
        }
    }
}
