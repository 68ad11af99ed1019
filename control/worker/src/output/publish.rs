//! Moves outputs from the staging directory to the output directory.
//!
//! If the output directory does not exist, or holds only an earlier result, the new one replaces it in one step.
//! Otherwise (a mount point, the current directory of a process, foreign files that are kept) the outputs are moved in
//! one by one, and the manifest last. The *journal* is written before the first move and lists all of them. So a run
//! that is killed at any point is completed by the next one with the same output directory: the staging directory then
//! still holds the manifest of the run that the journal names. As long as it does, all replaced files are still in
//! `old` and can be moved back.

use super::disk::{Disk, DiskError};
use super::manifest::{MANIFEST, Manifest, STAGING_PREFIX, modified_ns, read_json};
use super::staging::{JOURNAL, MARKER, NEW, OLD, Staging};
use super::survey::Survey;
use super::{OutputError, Target};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Follows the name of the output directory in that of a finished result that cannot be published.
pub(super) const UNPUBLISHED: &str = ".unpublished-";

/// Outputs that are finished and cannot be published.
#[derive(Debug, thiserror::Error)]
#[error("the outputs are finished, but cannot be published in {}: {cause}; they are in {}", target.display(), kept.display())]
pub(crate) struct PublishError {
    target: PathBuf,
    /// The directory in which they are kept.
    pub(crate) kept: PathBuf,
    #[source]
    cause: Cause,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
enum Cause {
    /// The output directory now has files that would be lost.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A file operation failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An output was written, and is gone.
    #[error("the output '{output}' was removed while the run went on: {source}")]
    Gone {
        /// The output.
        output: String,
        /// What became of its file.
        source: io::Error,
    },
    /// The outputs cannot be listed.
    #[error("cannot list them: {0}")]
    List(#[from] io::Error),
}

/// The steps of publishing, written before the first one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Journal {
    /// The manifest of the new result.
    manifest: Manifest,
    /// Files to be replaced, by their paths in the output directory.
    replaced: BTreeMap<String, Seen>,
    /// Directories of the earlier result, which are removed if they are empty.
    folders: Vec<String>,
}

/// A file as it was when the journal was written. A file that is newer or was changed after that is not touched.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    inode: u64,
    bytes: u64,
    modified_ns: i64,
}

impl Seen {
    fn at(path: &Path) -> Option<Self> {
        let metadata = path.symlink_metadata().ok()?;
        Some(Self { inode: metadata.ino(), bytes: metadata.len(), modified_ns: modified_ns(&metadata) })
    }
}

impl Journal {
    pub(super) fn read(staging: &Path) -> Option<Self> {
        read_json(&staging.join(JOURNAL))
    }

    fn new(target: &Target, survey: &Survey, manifest: Manifest) -> Self {
        let mut giving_way: BTreeSet<&str> = survey.intact.iter().map(|file| file.path.as_str()).collect();
        // Of foreign and changed files, only those at the path of an output.
        let new: BTreeSet<&str> =
            manifest.files.iter().map(|file| &file.path).chain(&manifest.folders).map(String::as_str).collect();
        let others = survey.foreign.iter().chain(&survey.changed).filter(|path| !survey.folders.contains(*path));
        giving_way.extend(others.filter_map(|path| path.to_str()).filter(|path| new.contains(path)));
        let seen = |path: &str| Some((path.to_owned(), Seen::at(&target.path.join(path))?));
        Self {
            replaced: giving_way.into_iter().filter_map(seen).collect(),
            folders: survey.manifest.iter().flat_map(|manifest| manifest.folders.clone()).collect(),
            manifest,
        }
    }

    /// Whether the staging directory still holds the outputs.
    pub(super) fn is_pending(&self, staging: &Path) -> bool {
        Manifest::read(&staging.join(NEW)).is_some_and(|manifest| manifest.run == self.manifest.run)
    }
}

impl Staging {
    /// Makes the outputs visible, in one step if possible.
    ///
    /// # Errors
    /// Names the directory in which the outputs are kept. The output directory is unchanged.
    pub(crate) fn publish(mut self) -> Result<(), PublishError> {
        self.finished = true;
        self.try_publish().map_err(|cause| self.set_aside(cause))
    }

    /// Keeps finished outputs that cannot be published, because the file of `output` is gone.
    pub(crate) fn keep_incomplete(mut self, output: String, source: io::Error) -> PublishError {
        self.finished = true;
        self.set_aside(Cause::Gone { output, source })
    }

    fn set_aside(&self, cause: Cause) -> PublishError {
        let kept = keep(&self.disk, &self.folder, &self.target.path);
        PublishError { target: self.target.shown.clone(), kept, cause }
    }

    fn try_publish(&self) -> Result<(), Cause> {
        // An output in parts is a directory even if no part was written.
        let in_parts = self.target.planned.iter().filter(|output| output.many);
        in_parts.map(|output| self.path(&output.name, None)).try_for_each(|path| self.disk.create_folder(&path))?;
        let manifest = Manifest::list(&self.folder.join(NEW), &self.run, &self.target.call)?;
        let text = serde_json::to_vec_pretty(&manifest).map_err(io::Error::from)?;
        self.disk.write(&self.folder.join(NEW).join(MANIFEST), &text)?;
        let _turn = lock(&self.target.path);
        // Checked again, because files may have been added during the run.
        let survey = self.target.survey()?;
        self.target.judge(&survey)?;
        let journal = Journal::new(&self.target, &survey, manifest);
        let text = serde_json::to_vec(&journal).map_err(io::Error::from)?;
        self.disk.write(&self.folder.join(JOURNAL), &text)?;
        let replaceable = self.beside
            && survey.is_ours()
            && !survey.staging
            && survey.manifest.is_some()
            && !is_current_folder(&self.target.path);
        // If the filesystem cannot exchange these directories, the files can still be moved.
        let exchanged = replaceable
            && adopt(&self.target.path, &self.folder.join(NEW)).is_ok()
            && self.disk.exchange(&self.folder.join(NEW), &self.target.path).is_ok();
        if !exchanged {
            forward(&self.disk, &self.folder, &self.target.path, &journal)?;
        }
        // The outputs are published. The next run removes what is left of the staging directory.
        if let Err(error) = clean(&self.disk, &self.folder, &self.target.path) {
            tracing::warn!(%error, "a staging directory cannot be removed");
        }
        Ok(())
    }
}

/// Completes a journal from the point of interruption, or undoes its steps.
pub(super) fn forward(disk: &Disk, staging: &Path, target: &Path, journal: &Journal) -> Result<(), DiskError> {
    move_in(disk, staging, target, journal).inspect_err(|_| move_back(disk, staging, target, journal))
}

fn move_in(disk: &Disk, staging: &Path, target: &Path, journal: &Journal) -> Result<(), DiskError> {
    let (new, old) = (staging.join(NEW), staging.join(OLD));
    if !is_there(target) {
        return disk.rename_new(&new, target);
    }
    let set_aside = |path: &str| match journal.replaced.get(path) {
        Some(seen) if Seen::at(&target.join(path)).as_ref() == Some(seen) => {
            disk.create_folder(&old)?;
            disk.create_parents(&old, &old.join(path))?;
            disk.rename(&target.join(path), &old.join(path))
        }
        _ => Ok(()),
    };
    let files: BTreeSet<&str> = journal.manifest.files.iter().map(|file| file.path.as_str()).collect();
    let gone = journal.replaced.keys().map(String::as_str).filter(|path| !files.contains(path));
    gone.clone().try_for_each(set_aside)?;
    for folder in journal.folders.iter().rev().filter(|folder| !journal.manifest.folders.contains(folder)) {
        // It stays if it has other files.
        let _ = disk.remove_empty(&target.join(folder));
    }
    for folder in &journal.manifest.folders {
        disk.create_folder(&target.join(folder))?;
    }
    for path in files {
        // A missing file was moved by an earlier run that was killed.
        if is_there(&new.join(path)) {
            set_aside(path)?;
            disk.rename_new(&new.join(path), &target.join(path))?;
        }
    }
    disk.rename(&new.join(MANIFEST), &target.join(MANIFEST))
}

/// Undoes [`move_in`]; files that cannot be moved back stay where they are.
fn move_back(disk: &Disk, staging: &Path, target: &Path, journal: &Journal) {
    let (new, old) = (staging.join(NEW), staging.join(OLD));
    for file in &journal.manifest.files {
        let place = target.join(&file.path);
        let is_it = place.symlink_metadata().is_ok_and(|metadata| file.matches(&metadata));
        if is_it && !is_there(&new.join(&file.path)) {
            let _ = disk.rename_new(&place, &new.join(&file.path));
        }
    }
    for folder in journal.manifest.folders.iter().rev().filter(|folder| !journal.folders.contains(folder)) {
        let _ = disk.remove_empty(&target.join(folder));
    }
    for path in journal.replaced.keys() {
        if is_there(&old.join(path)) {
            let _ = disk.create_parents(target, &target.join(path));
            let _ = disk.rename_new(&old.join(path), &target.join(path));
        }
    }
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Removes a staging directory whose outputs have been published.
pub(super) fn clean(disk: &Disk, staging: &Path, target: &Path) -> Result<(), DiskError> {
    let new = staging.join(NEW);
    // Of an earlier result that was exchanged with this one, only its own files.
    if let Ok(Survey { exists: true, manifest: Some(manifest), intact, changed, foreign, .. }) = Survey::of(&new) {
        for path in foreign.iter().chain(&changed) {
            // A file that was added at the last moment.
            let back = disk.create_parents(target, &target.join(path));
            if back.and_then(|()| disk.rename_new(&new.join(path), &target.join(path))).is_err() {
                let kept = keep(disk, staging, target);
                tracing::warn!(path = %kept.display(), "files that were added to the earlier result are kept");
                return Ok(());
            }
        }
        intact.iter().try_for_each(|file| disk.remove_file(&new.join(&file.path)))?;
        manifest.folders.iter().rev().try_for_each(|folder| disk.remove_empty(&new.join(folder)))?;
        disk.remove_file(&new.join(MANIFEST))?;
        disk.remove_empty(&new)?;
    }
    disk.remove_all(staging)
}

/// Gives finished outputs a visible name, and returns their path.
pub(super) fn keep(disk: &Disk, staging: &Path, target: &Path) -> PathBuf {
    /// Maximum length of the name including its suffix.
    const MAX_NAME: usize = 200;
    let name = target.file_name().map_or_else(|| "outputs".into(), |name| name.to_string_lossy().into_owned());
    let mut room = MAX_NAME;
    let fits = |c: &char| room.checked_sub(c.len_utf8()).map(|left| room = left).is_some();
    let name: String = name.chars().take_while(fits).collect();
    let run = staging.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let run = run.trim_start_matches(STAGING_PREFIX);
    let visible = staging.with_file_name(format!("{name}{UNPUBLISHED}{run}"));
    if disk.rename_new(&staging.join(NEW), &visible).is_err() {
        // Without its journal and its marker, no run completes or removes it.
        let _ = disk.remove_file(&staging.join(JOURNAL));
        let _ = disk.remove_file(&staging.join(MARKER));
        return staging.join(NEW);
    }
    // A file that could not be moved back exists only here.
    if disk.remove_empty(&staging.join(OLD)).is_ok() {
        let _ = disk.remove_all(staging);
    } else {
        let _ = disk.remove_file(&staging.join(MARKER));
    }
    visible
}

/// Gives the new directory the owner and the permissions of the directory that it replaces.
fn adopt(target: &Path, new: &Path) -> io::Result<()> {
    let (old, own) = (target.metadata()?, new.metadata()?);
    if (old.uid(), old.gid()) != (own.uid(), own.gid()) {
        std::os::unix::fs::chown(new, Some(old.uid()), Some(old.gid()))?;
    }
    std::fs::set_permissions(new, std::fs::Permissions::from_mode(old.permissions().mode()))
}

/// Whether it, or a directory in it, is the current directory of a process: that process would remain in the replaced
/// directory.
fn is_current_folder(target: &Path) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| {
        let is_number = process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        // The current directory of other users' processes cannot be read.
        is_number && std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(target))
    })
}

/// Locks a directory, so that only one run at a time publishes in it; `None` if it does not exist, or its filesystem
/// has no locks.
fn lock(folder: &Path) -> Option<File> {
    loop {
        let file = File::open(folder).ok()?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).ok()?;
        // Another run may have replaced it while this one waited.
        if folder.symlink_metadata().ok()?.ino() == file.metadata().ok()?.ino() {
            return Some(file);
        }
    }
}
