//! Lists what is in an output directory.

use super::manifest::{FileRecord, MANIFEST, Manifest, OLD_MARKER, STAGING_PREFIX};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

/// The contents of an output directory; all paths are relative to it.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) exists: bool,
    /// The manifest of the result in it.
    pub(super) manifest: Option<Manifest>,
    /// Unchanged files of that result.
    pub(super) intact: Vec<FileRecord>,
    /// Files of that result that were changed afterwards.
    pub(super) changed: Vec<PathBuf>,
    /// Everything else: files, directories, links.
    pub(super) foreign: Vec<PathBuf>,
    /// The directories among the changed and foreign entries.
    pub(super) folders: BTreeSet<PathBuf>,
    /// Whether it has staging directories of other runs.
    pub(super) staging: bool,
    /// Whether it has the marker of an earlier release.
    pub(super) old_release: bool,
}

impl Survey {
    /// Lists the directory. Does not enter directories that are not part of a result, because their contents make no
    /// difference.
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
                // Links are not followed: a link in the place of an output was put there by the user.
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
                    // The manifest is replaced with the result that it describes.
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

    /// Whether it is empty or holds only a result.
    pub(super) fn is_ours(&self) -> bool {
        self.changed.is_empty() && self.foreign.is_empty()
    }
}
