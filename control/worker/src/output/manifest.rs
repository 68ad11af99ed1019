//! The description of a result directory, in the hidden file [`MANIFEST`].

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The file with the manifest of a result directory.
pub(super) const MANIFEST: &str = ".dflow-result";
/// The marker of result directories in releases without manifests.
pub(super) const OLD_MARKER: &str = ".dflow-output";
/// The prefix of the names of staging directories; the run's id follows.
pub(super) const STAGING_PREFIX: &str = ".dflow-staging-";
/// The version that this release writes, and the only one that it accepts.
const FORMAT: u32 = 1;
/// Maximum size of a manifest that is read, in bytes: some hundred thousand files.
const MAX_BYTES: u64 = 64 << 20;

/// Whether this name is reserved for dflow's own files, which are never data and never outputs.
pub(crate) fn is_own_name(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".dflow-")
}

/// The call that produced a result: two results of the same call can replace each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) workflow: String,
    pub(crate) params: BTreeMap<String, String>,
    /// The absolute paths of each input, `-` for standard input.
    pub(crate) inputs: BTreeMap<String, Vec<String>>,
}

impl Call {
    /// `inputs`: the paths of each input of the workflow; relative ones start in the current directory.
    pub(crate) fn new(workflow: &str, params: &BTreeMap<String, String>, inputs: &[(String, Vec<PathBuf>)]) -> Self {
        let shown = |path: &PathBuf| {
            let path = if path.as_os_str() == "-" {
                path.clone()
            } else {
                std::path::absolute(path).unwrap_or_else(|_| path.clone())
            };
            // Different names that are not UTF-8 must not become the same text.
            path.to_str().map_or_else(|| path.as_os_str().as_bytes().escape_ascii().to_string(), str::to_owned)
        };
        let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, paths) in inputs {
            named.entry(name.clone()).or_default().extend(paths.iter().map(shown));
        }
        Self { workflow: workflow.to_owned(), params: params.clone(), inputs: named }
    }

    /// The difference, in words, between `self`, an earlier call, and `now`; `None` if there is none.
    pub(super) fn difference(&self, now: &Self) -> Option<String> {
        if self.workflow != now.workflow {
            return Some(format!("it ran the workflow '{}', this one is '{}'", self.workflow, now.workflow));
        }
        let missing = || "not given".to_owned();
        let names: std::collections::BTreeSet<&String> = self.params.keys().chain(now.params.keys()).collect();
        for name in names {
            let [then, now] =
                [self, now].map(|call| call.params.get(name).map_or_else(missing, |value| format!("'{value}'")));
            if then != now {
                return Some(format!("the parameter '{name}' was {then}, and is now {now}"));
            }
        }
        let names: std::collections::BTreeSet<&String> = self.inputs.keys().chain(now.inputs.keys()).collect();
        for name in names {
            let [then, now] = [self, now].map(|call| call.inputs.get(name));
            if then != now {
                let [then, now] = [then, now].map(|paths| paths.map_or_else(missing, |paths| in_short(paths)));
                return Some(format!("the input '{name}' was {then}, and is now {now}"));
            }
        }
        None
    }
}

fn in_short(paths: &[String]) -> String {
    match paths {
        [] => "nothing".into(),
        [path] => path.clone(),
        [first, ..] => format!("{first} and {} more", paths.len() - 1),
    }
}

/// The identity of a file when it was last examined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    /// Relative to the result directory.
    pub(super) path: String,
    pub(super) bytes: u64,
    /// When its content was last modified, in nanoseconds since 1970.
    pub(super) modified_ns: i64,
}

impl FileRecord {
    pub(super) fn matches(&self, metadata: &std::fs::Metadata) -> bool {
        metadata.is_file() && metadata.len() == self.bytes && modified_ns(metadata) == self.modified_ns
    }
}

/// When a file's content was last modified, in nanoseconds since 1970.
pub(crate) fn modified_ns(metadata: &std::fs::Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

/// The description of a result directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    /// The id of the run.
    pub(super) run: String,
    #[serde(flatten)]
    pub(super) call: Call,
    /// When the run had finished, in seconds since 1970.
    finished_unix_s: u64,
    /// All files of the result except this one.
    pub(super) files: Vec<FileRecord>,
    /// The directories of parts.
    pub(super) folders: Vec<String>,
}

impl Manifest {
    /// Lists a directory that holds only a finished result.
    pub(super) fn list(result: &Path, run: &str, call: &Call) -> io::Result<Self> {
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        let text = |path: &Path| {
            path.to_str().map(str::to_owned).ok_or_else(|| io::Error::other("the name of an output is not UTF-8"))
        };
        let mut todo = vec![PathBuf::new()];
        while let Some(folder) = todo.pop() {
            for entry in std::fs::read_dir(result.join(&folder))? {
                let entry = entry?;
                let path = folder.join(entry.file_name());
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    folders.push(text(&path)?);
                    todo.push(path);
                } else if path != Path::new(MANIFEST) {
                    files.push(FileRecord {
                        path: text(&path)?,
                        bytes: metadata.len(),
                        modified_ns: modified_ns(&metadata),
                    });
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        folders.sort();
        let finished_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        Ok(Self { format: FORMAT, run: run.to_owned(), call: call.clone(), finished_unix_s, files, folders })
    }

    /// The manifest of a result directory; `None` if there is no trustworthy one.
    pub(super) fn read(result: &Path) -> Option<Self> {
        let manifest: Self = read_json(&result.join(MANIFEST))?;
        // Its paths are files that may be removed. dflow never writes one that leads out of the directory.
        let inside = |path: &str| {
            let mut parts = Path::new(path).components().peekable();
            parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        let sound = manifest.format == FORMAT
            && manifest.files.iter().all(|file| inside(&file.path))
            && manifest.folders.iter().all(|folder| inside(folder));
        sound.then_some(manifest)
    }
}

/// One of dflow's own JSON files; `None` if it does not exist or is not valid.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    // Links are not followed, and opening a pipe must not block.
    if !path.symlink_metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
