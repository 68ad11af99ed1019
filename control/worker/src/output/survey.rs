//! What is in an output folder.

use super::manifest::{FileRecord, MANIFEST, Manifest, OLD_MARKER, STAGING_PREFIX};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

/// What is in an output folder; all paths are relative to it.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) exists: bool,
    /// Of the result that is in it.
    pub(super) manifest: Option<Manifest>,
    /// Files of that result, as they were published.
    pub(super) intact: Vec<FileRecord>,
    /// Files of that result that were changed since.
    pub(super) changed: Vec<PathBuf>,
    /// Everything that is neither: files, folders, links.
    pub(super) foreign: Vec<PathBuf>,
    /// Of what was changed, and of what is foreign, the folders.
    pub(super) folders: BTreeSet<PathBuf>,
    /// Whether there are staging folders of other runs in it.
    pub(super) staging: bool,
    /// Whether an earlier release has marked it as its own.
    pub(super) old_release: bool,
}

impl Survey {
    /// Goes through the folder; folders that are not part of a result are not entered, because what they hold changes
    /// nothing.
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let manifest = Manifest::read(folder);
        let mut survey = Self { exists: true, ..Self::default() };
        let known: HashMap<&Path, &FileRecord> =
            manifest.iter().flat_map(|manifest| &manifest.files).map(|file| (Path::new(&file.path), file)).collect();
        let folders: BTreeSet<&Path> = manifest.iter().flat_map(|manifest| &manifest.folders).map(Path::new).collect();
        let mut todo = vec![(PathBuf::new(), entries)];
        while let Some((above, entries)) = todo.pop() {
            for entry in entries {
                let entry = entry?;
                let path = above.join(entry.file_name());
                // Not following links: one that a user has put into the place of an output is the user's.
                let metadata = entry.metadata()?;
                if metadata.is_dir() && folders.contains(path.as_path()) {
                    let below = std::fs::read_dir(folder.join(&path))?;
                    todo.push((path, below));
                } else if let Some(record) = known.get(path.as_path()) {
                    if record.matches(&metadata) {
                        survey.intact.push((*record).clone());
                    } else {
                        survey.note_folder(&path, &metadata);
                        survey.changed.push(path);
                    }
                } else if manifest.is_some() && path == Path::new(MANIFEST) {
                    // It is replaced with the result that it describes.
                } else if metadata.is_dir() && path.as_os_str().to_string_lossy().starts_with(STAGING_PREFIX) {
                    survey.staging = true;
                } else {
                    survey.old_release |= path == Path::new(OLD_MARKER);
                    survey.note_folder(&path, &metadata);
                    survey.foreign.push(path);
                }
            }
        }
        survey.intact.sort_by(|a, b| a.path.cmp(&b.path));
        survey.changed.sort();
        survey.foreign.sort();
        survey.manifest = manifest;
        Ok(survey)
    }

    fn note_folder(&mut self, path: &Path, metadata: &std::fs::Metadata) {
        if metadata.is_dir() {
            self.folders.insert(path.to_owned());
        }
    }

    /// Whether there is nothing in it but a result, or nothing at all.
    pub(super) fn is_ours(&self) -> bool {
        self.changed.is_empty() && self.foreign.is_empty()
    }
}
