//! Lists the records, and determines how their runs ended.

use super::folder::{REPORT_FILE, RunFile, has_ended};
use super::{logs_of, names};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The record of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// The name of its directory, by which `dflow logs` finds it. The order of the names is the order in which the runs
    /// began.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// The run's id, 32 hexadecimal digits.
    pub run: String,
    /// The workflow's name.
    pub workflow: String,
    /// When it began, in UTC, in the format of RFC 3339.
    pub started: String,
}

/// The state of a recorded run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// It is running.
    Running,
    /// It has ended: see [`RunRecord::report`].
    Ended,
    /// Its process was killed, or could not write the report.
    Interrupted,
}

/// The log of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// The instance, such as `count[3]`; a very long name is truncated.
    pub instance: String,
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

/// All records in this directory, the oldest first; none if the directory does not exist.
///
/// # Errors
/// If the directory cannot be read.
pub fn list(records: &Path) -> io::Result<Vec<RunRecord>> {
    let entries = match fs::read_dir(records) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found: Vec<RunRecord> = entries.flatten().filter_map(|entry| RunRecord::read(entry.path())).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

impl RunRecord {
    fn read(path: PathBuf) -> Option<Self> {
        let RunFile { run, workflow, started, .. } = RunFile::read(&path)?;
        let name = path.file_name()?.to_str()?.to_owned();
        Some(Self { name, path, run, workflow, started })
    }

    /// The state of the run.
    #[must_use]
    pub fn state(&self) -> RecordState {
        // The report is written before the lock is released, so the lock is checked first.
        let ended = has_ended(&self.path);
        match (ended, self.path.join(REPORT_FILE).exists()) {
            (false, _) => RecordState::Running,
            (true, true) => RecordState::Ended,
            (true, false) => RecordState::Interrupted,
        }
    }

    /// The text of the report, a JSON document; `None` if there is none.
    #[must_use]
    pub fn report(&self) -> Option<String> {
        fs::read_to_string(self.path.join(REPORT_FILE)).ok()
    }

    /// The logs, by instance and attempt.
    ///
    /// # Errors
    /// If the directory of the logs cannot be read.
    pub fn logs(&self) -> io::Result<Vec<LogFile>> {
        let mut logs = Vec::new();
        for entry in fs::read_dir(logs_of(&self.path))?.flatten() {
            let (file, Ok(metadata)) = (entry.file_name(), entry.metadata()) else { continue };
            let Some((name, attempt)) = file.to_str().and_then(names::parse_log_file) else { continue };
            let (instance, path, bytes) = (names::unescape(name), entry.path(), metadata.len());
            logs.push(LogFile { instance, attempt, path, bytes });
        }
        logs.sort_by_key(|log| (natural(&log.instance), log.attempt));
        Ok(logs)
    }
}

/// A sort key by which `qc[2]` comes before `qc[10]`: each number is prefixed with its number of digits.
fn natural(name: &str) -> String {
    let mut key = String::with_capacity(name.len() + 4);
    let mut rest = name;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (text, tail) = rest.split_at(start);
        let length = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(length);
        let number = number.trim_start_matches('0');
        key.push_str(text);
        key.push(char::from_digit(number.len().min(35) as u32, 36).unwrap_or('z'));
        key.push_str(number);
        rest = tail;
    }
    key.push_str(rest);
    key
}

#[cfg(test)]
mod tests {
    use super::super::folder::RecordFolder;
    use super::*;
    use time::OffsetDateTime;

    #[test]
    fn a_record_is_running_until_its_lock_is_released() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("runs");
        assert_eq!(list(&records).unwrap(), []);
        let record = RecordFolder::create(&records, "0123456789", "w", OffsetDateTime::UNIX_EPOCH).unwrap();
        fs::create_dir(records.join("foreign")).unwrap();
        let [found] = &list(&records).unwrap()[..] else { panic!("one record") };
        assert_eq!((found.name.as_str(), found.workflow.as_str()), ("19700101-000000.000-01234567", "w"));
        assert_eq!(found.state(), RecordState::Running);
        record.write_report(b"{}").unwrap();
        assert_eq!(found.state(), RecordState::Running);
        drop(record);
        assert_eq!(found.state(), RecordState::Ended);
        fs::remove_file(found.path.join(REPORT_FILE)).unwrap();
        assert_eq!(found.state(), RecordState::Interrupted);
    }

    #[test]
    fn logs_are_sorted_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let record = RecordFolder::create(folder.path(), "0123456789", "w", OffsetDateTime::UNIX_EPOCH).unwrap();
        let [found] = &list(folder.path()).unwrap()[..] else { panic!("one record") };
        for (name, attempt) in [("qc[10]", 1), ("qc[2]", 2), ("qc[2]", 1), ("a", 1)] {
            fs::write(super::super::log_path(&found.path, name, attempt), "x").unwrap();
        }
        fs::write(record.path.join("logs/notes.txt"), "not ours").unwrap();
        let logs = found.logs().unwrap();
        let names: Vec<_> = logs.iter().map(|log| (log.instance.as_str(), log.attempt)).collect();
        assert_eq!(names, [("a", 1), ("qc[2]", 1), ("qc[2]", 2), ("qc[10]", 1)]);
    }
}
