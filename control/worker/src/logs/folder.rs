//! A new record: its directory and its lock.

use super::logs_of;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Identifies a directory as a record, and describes the run. During the run, its process holds a lock on this file.
pub(super) const RUN_FILE: &str = "run.json";
/// The report of the run.
pub(super) const REPORT_FILE: &str = "report.json";
/// The names of these files while they are being written.
pub(super) const UNFINISHED: [&str; 2] = ["run.json.new", "report.json.new"];

/// The version of [`RunFile`]: a directory with an unknown version is not a record.
const VERSION: u32 = 1;

/// The contents of `run.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunFile {
    dflow_record: u32,
    /// The run's id.
    pub(super) run: String,
    /// The workflow's name.
    pub(super) workflow: String,
    /// When it began, in the format of RFC 3339.
    pub(super) started: String,
}

impl RunFile {
    /// Reads it from a directory; `None` if the directory is not a record.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join(RUN_FILE)).ok()?;
        serde_json::from_str::<Self>(&text).ok().filter(|file| file.dflow_record == VERSION)
    }
}

/// The record of a running run.
#[derive(Debug)]
pub(super) struct RecordFolder {
    pub(super) path: PathBuf,
    /// Held until the run has ended; the kernel releases the lock when the process ends, however it does.
    _lock: File,
}

impl RecordFolder {
    /// Creates the record of a run.
    ///
    /// # Errors
    /// If the directory or a file in it cannot be created.
    pub(super) fn create(records: &Path, run: &str, workflow: &str, now: OffsetDateTime) -> io::Result<Self> {
        let private = |recursive| {
            let mut builder = DirBuilder::new();
            // The output of programs may be confidential.
            builder.mode(0o700).recursive(recursive);
            builder
        };
        private(true).create(records)?;
        let path = records.join(name(run, now));
        private(false).create(&path)?;
        private(false).create(logs_of(&path))?;
        let started = now.format(&Rfc3339).map_err(io::Error::other)?;
        let file = RunFile { dflow_record: VERSION, run: run.to_owned(), workflow: workflow.to_owned(), started };
        let text = serde_json::to_string_pretty(&file)? + "\n";
        let (new, run_file) = (path.join(UNFINISHED[0]), path.join(RUN_FILE));
        let mut lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        // Locked before it gets its name: otherwise another run could conclude that this one has ended.
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        lock.write_all(text.as_bytes())?;
        fs::rename(new, run_file)?;
        Ok(Self { path, _lock: lock })
    }

    /// Writes the report of the run.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn write_report(&self, report: &[u8]) -> io::Result<()> {
        let new = self.path.join(UNFINISHED[1]);
        fs::write(&new, report).and_then(|()| fs::rename(&new, self.path.join(REPORT_FILE))).inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
    }
}

/// A name for a record. The order of the names is the order in which the runs began.
fn name(run: &str, now: OffsetDateTime) -> String {
    format!(
        "{:04}{:02}{:02}-{:02}{:02}{:02}.{:03}-{}",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
        now.millisecond(),
        &run[..run.len().min(8)]
    )
}

/// Whether the run of a record has ended. Does not interfere with other processes that ask the same.
pub(super) fn has_ended(folder: &Path) -> bool {
    File::open(folder.join(RUN_FILE))
        .is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok())
}

/// Takes the lock of a record whose run has ended; `None` if the run is still running.
pub(super) fn lock_of_ended(folder: &Path) -> Option<File> {
    let file = File::open(folder.join(RUN_FILE)).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}
