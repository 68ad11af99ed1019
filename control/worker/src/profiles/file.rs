//! The file with the profiles of a workflow.

use super::LearnedFunctions;
use crate::logs::escape;
use dflow_scheduler::planner::Learned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The version of the file. A reader that knows only another one ignores it.
const VERSION: u32 = 1;
/// Maximum number of functions in a file. Of more, those that take longest are kept: they matter most to a plan.
const MAX_FUNCTIONS: usize = 10_000;
/// Maximum size of a file that is read, in bytes: more than [`MAX_FUNCTIONS`] with the longest names.
const MAX_BYTES: u64 = 8 << 20;
/// Maximum number of files. Of more, those that were written longest ago are removed.
const MAX_FILES: usize = 1000;
/// The beginning of the names of unfinished files, and the age at which one is taken for the rest of a process that was
/// killed.
const UNFINISHED: &str = ".unfinished-";
const ABANDONED: Duration = Duration::from_secs(3600);
/// The ending of the files.
const ENDING: &str = ".json";

/// Why learned profiles cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("the learned profiles in {path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a file with profiles of this workflow.
    #[error(
        "{path} does not hold profiles of the workflow '{workflow}': {reason}; remove it, or let the next run replace it"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The workflow's name.
        workflow: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another release wrote it.
    #[error(
        "the learned profiles in {path} have version {version}, and this release knows version {VERSION}; remove the file to start again"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// The first thing that is read of a file.
#[derive(Deserialize)]
struct Header {
    dflow_profiles: u32,
    workflow: String,
}

#[derive(Serialize, Deserialize)]
struct ProfileFile {
    dflow_profiles: u32,
    workflow: String,
    /// By the names of the functions.
    functions: BTreeMap<String, Entry>,
}

/// [`Learned`], with the units in the names.
#[derive(Serialize, Deserialize)]
struct Entry {
    runs: u32,
    time_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_output_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tail_ns: Option<u64>,
    input_bytes: u64,
    output_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parts: Option<u32>,
}

/// The name of the file for a workflow.
pub(super) fn name(workflow: &str) -> String {
    format!("{}{ENDING}", escape(workflow))
}

/// Reads a file; nothing if it does not exist.
pub(super) fn read(path: &Path, workflow: &str) -> Result<LearnedFunctions, ProfileError> {
    let unreadable = |source| ProfileError::Read { path: path.to_owned(), source };
    let foreign =
        |reason: String| ProfileError::Foreign { path: path.to_owned(), workflow: workflow.to_owned(), reason };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LearnedFunctions::new()),
        file => file.map_err(unreadable)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(foreign(format!("it is larger than {} MiB", MAX_BYTES >> 20)));
    }
    let header: Header = serde_json::from_slice(&bytes).map_err(|error| foreign(error.to_string()))?;
    if header.dflow_profiles != VERSION {
        return Err(ProfileError::Version { path: path.to_owned(), version: header.dflow_profiles });
    }
    if header.workflow != workflow {
        return Err(foreign(format!("it is of the workflow '{}'", header.workflow)));
    }
    let file: ProfileFile = serde_json::from_slice(&bytes).map_err(|error| foreign(error.to_string()))?;
    Ok(file.functions.into_iter().map(|(name, entry)| (name, entry.into())).collect())
}

/// Replaces a file in one step.
pub(super) fn write(folder: &Path, path: &Path, workflow: &str, mut learned: LearnedFunctions) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
    while learned.len() > MAX_FUNCTIONS {
        let mut times: Vec<Duration> = learned.values().map(|learned| learned.time).collect();
        times.sort_unstable();
        let excess = learned.len() - MAX_FUNCTIONS;
        let mut left = excess;
        // Exactly as many, also if several take as long.
        learned.retain(|_, learned| {
            let goes = left > 0 && learned.time <= times[excess - 1];
            left -= usize::from(goes);
            !goes
        });
    }
    let functions = learned.into_iter().map(|(name, learned)| (name, Entry::from(learned))).collect();
    let file = ProfileFile { dflow_profiles: VERSION, workflow: workflow.to_owned(), functions };
    let text = serde_json::to_string_pretty(&file)? + "\n";
    // Two runs may end at the same time: each has a file of its own until the rename.
    let new = folder.join(format!("{UNFINISHED}{}-{}", std::process::id(), thread_number()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    remove_old(folder, path);
    written
}

/// A number that differs between the threads of this process.
fn thread_number() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
}

/// Removes the oldest files beyond the limit, but not `own`, and unfinished ones.
fn remove_old(folder: &Path, own: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let Some(modified) = entry.metadata().ok().and_then(|metadata| metadata.modified().ok()) else { continue };
        if name.starts_with(UNFINISHED) {
            if modified.elapsed().is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(path);
            }
        } else if name.ends_with(ENDING) && path != own {
            files.push((modified, path));
        }
    }
    let excess = (files.len() + 1).saturating_sub(MAX_FILES);
    files.sort();
    for (_, path) in files.into_iter().take(excess) {
        let _ = fs::remove_file(path);
    }
}

impl From<Entry> for Learned {
    fn from(entry: Entry) -> Self {
        let time = Duration::from_nanos(entry.time_ns);
        Self {
            runs: entry.runs.max(1),
            time,
            // A file that was edited by hand may say anything.
            first_output: entry.first_output_ns.map(Duration::from_nanos).map(|first| first.min(time)),
            tail: entry.tail_ns.map(Duration::from_nanos).map(|tail| tail.min(time)),
            input: entry.input_bytes,
            output: entry.output_bytes,
            parts: entry.parts.filter(|parts| (1..=dflow_workflow::limits::MAX_PARTS).contains(parts)),
        }
    }
}

impl From<Learned> for Entry {
    fn from(learned: Learned) -> Self {
        Self {
            runs: learned.runs,
            time_ns: super::nanos(learned.time),
            first_output_ns: learned.first_output.map(super::nanos),
            tail_ns: learned.tail.map(super::nanos),
            input_bytes: learned.input,
            output_bytes: learned.output,
            parts: learned.parts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(millis: u64) -> Learned {
        Learned {
            runs: 2,
            time: Duration::from_millis(millis),
            first_output: Some(Duration::from_millis(1)),
            tail: None,
            input: 10,
            output: 20,
            parts: Some(3),
        }
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("profiles");
        let workflow = "w".repeat(255);
        let path = folder.join(name(&workflow));
        assert!(read(&path, &workflow).unwrap().is_empty(), "there is none");
        let all: LearnedFunctions = [("a".to_owned(), learned(5)), ("b".to_owned(), learned(6))].into();
        for _ in 0..2 {
            write(&folder, &path, &workflow, all.clone()).unwrap();
            assert_eq!(read(&path, &workflow).unwrap(), all);
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn broken_and_foreign_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.json");
        for (text, part) in [
            ("", "does not hold profiles of the workflow 'w'"),
            ("{\"dflow_profiles\": 1", "does not hold profiles"),
            ("[1, 2]", "does not hold profiles"),
            ("{\"dflow_profiles\": 2, \"workflow\": \"w\", \"functions\": 7}", "have version 2"),
            ("{\"dflow_profiles\": 1, \"workflow\": \"v\", \"functions\": {}}", "it is of the workflow 'v'"),
            ("{\"dflow_profiles\": 1, \"workflow\": \"w\", \"functions\": {\"a\": {\"runs\": -1}}}", "does not hold"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read(&path, "w").unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("w.json"), "{text}: {error}");
        }
        // Values that no run can have are limited.
        let entry = "{\"runs\": 0, \"time_ns\": 5, \"first_output_ns\": 9, \"tail_ns\": 7, \"input_bytes\": 0, \
                     \"output_bytes\": 0, \"parts\": 99999999}";
        fs::write(&path, format!("{{\"dflow_profiles\": 1, \"workflow\": \"w\", \"functions\": {{\"a\": {entry}}}}}"))
            .unwrap();
        let read = read(&path, "w").unwrap().remove("a").unwrap();
        let five = Some(Duration::from_nanos(5));
        assert_eq!((read.runs, read.first_output, read.tail, read.parts), (1, five, five, None));
    }

    #[test]
    fn the_longest_functions_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.json");
        let all: LearnedFunctions =
            (0..MAX_FUNCTIONS as u64 + 5).map(|index| (format!("f{index}"), learned(index / 3))).collect();
        write(folder.path(), &path, "w", all).unwrap();
        let kept = read(&path, "w").unwrap();
        assert_eq!(kept.len(), MAX_FUNCTIONS);
        assert!(kept.contains_key("f10004") && !kept.contains_key("f0"));
    }

    #[test]
    fn the_oldest_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..MAX_FILES {
            let file = File::create(folder.path().join(format!("old{index}.json"))).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(index as u64)).unwrap();
        }
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let abandoned = File::create(folder.path().join(".unfinished-1-1")).unwrap();
        abandoned.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let own = folder.path().join("w.json");
        write(folder.path(), &own, "w", [("a".to_owned(), learned(1))].into()).unwrap();
        assert!(own.exists() && folder.path().join("notes.txt").exists() && folder.path().join("old1.json").exists());
        assert!(!folder.path().join("old0.json").exists() && !folder.path().join(".unfinished-1-1").exists());
    }
}
