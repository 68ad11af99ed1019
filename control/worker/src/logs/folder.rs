//! A new record: its folder and its lock.

use super::logs_of;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Says that a folder is a record, and what ran. While the run goes on, its process holds a lock on this file.
pub(super) const RUN_FILE: &str = "run.json";
/// Says how the run ended.
pub(super) const REPORT_FILE: &str = "report.json";
/// The files while they are written.
pub(super) const UNFINISHED: [&str; 2] = ["run.json.new", "report.json.new"];

/// The version of [`RunFile`]: a folder without a known one is not a record.
const VERSION: u32 = 1;

/// What `run.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunFile {
    dflow_record: u32,
    /// The run's id.
    pub(super) run: String,
    /// The workflow's name.
    pub(super) workflow: String,
    /// When it began, as RFC 3339 has it.
    pub(super) started: String,
}

impl RunFile {
    /// Reads it from a folder; `None` if the folder is not a record.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join(RUN_FILE)).ok()?;
        serde_json::from_str::<Self>(&text).ok().filter(|file| file.dflow_record == VERSION)
    }
}

/// The record of a run that goes on.
#[derive(Debug)]
pub(super) struct RecordFolder {
    pub(super) path: PathBuf,
    /// Held until the run is over; the lock goes with the process, however it ends.
    _lock: File,
}

impl RecordFolder {
    /// Makes the record of a run among the others.
    ///
    /// # Errors
    /// If the folder or a file in it cannot be made.
    pub(super) fn create(records: &Path, run: &str, workflow: &str, now: OffsetDateTime) -> io::Result<Self> {
        let private = |recursive| {
            let mut builder = DirBuilder::new();
            // What programs print may be confidential.
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
        // Locked before it has its name: another run would take the record for one whose run is over.
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        lock.write_all(text.as_bytes())?;
        fs::rename(new, run_file)?;
        Ok(Self { path, _lock: lock })
    }

    /// Writes how the run ended.
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

/// Names in their order are runs in the order of their beginnings.
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

/// Whether the run of a record is over. Others may ask the same at this moment, and are not disturbed.
pub(super) fn has_ended(folder: &Path) -> bool {
    File::open(folder.join(RUN_FILE))
        .is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok())
}

/// Takes the lock of a record whose run is over; `None` while it goes on.
pub(super) fn lock_of_ended(folder: &Path) -> Option<File> {
    let file = File::open(folder.join(RUN_FILE)).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}
