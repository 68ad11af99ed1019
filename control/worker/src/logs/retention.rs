//! Removes old records.

use super::folder::{REPORT_FILE, RUN_FILE, UNFINISHED, lock_of_ended};
use super::{RecordOptions, catalog, logs_of, names};
use std::path::Path;
use std::{fs, io};

/// Removes the oldest records beyond the limits; `own`, the record of the present run, counts but stays.
///
/// Only files that dflow has written are removed, and only of runs that have ended. A directory that also has other
/// files stays with these, and is no longer a record.
pub(super) fn remove_old(records: &Path, own: &Path, options: &RecordOptions) {
    let Ok(mut found) = catalog::list(records) else { return };
    found.retain(|record| record.path != own);
    let mut bytes = 0u64;
    // From the newest to the oldest: the first one beyond a limit and all older ones are removed.
    for (count, record) in found.iter().rev().enumerate() {
        bytes = bytes.saturating_add(size(&record.path));
        if count + 1 < options.keep_runs.max(1) && bytes <= options.keep_bytes {
            continue;
        }
        // The lock also keeps another run from removing the same record at the same time.
        if let Some(_lock) = lock_of_ended(&record.path) {
            match remove(&record.path) {
                Ok(()) => tracing::debug!(record = record.name, "an old record is removed"),
                Err(error) => tracing::warn!(record = record.name, %error, "an old record cannot be removed"),
            }
        }
    }
}

fn size(record: &Path) -> u64 {
    let files = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let sizes = entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file);
        sizes.map(|metadata| metadata.len()).fold(0, u64::saturating_add)
    };
    files(record).saturating_add(files(&logs_of(record)))
}

/// Fails if it is still a record then.
fn remove(record: &Path) -> io::Result<()> {
    let logs = logs_of(record);
    // A link was not created by dflow.
    if fs::symlink_metadata(&logs).is_ok_and(|metadata| metadata.is_dir()) {
        for entry in fs::read_dir(&logs).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| names::parse_log_file(name).is_some()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let _ = fs::remove_dir(&logs);
    }
    // Last the file that makes it a record: a removal that is interrupted is taken up by the next run.
    for file in UNFINISHED.into_iter().chain([REPORT_FILE]) {
        let _ = fs::remove_file(record.join(file));
    }
    fs::remove_file(record.join(RUN_FILE))?;
    // It stays if it holds files that dflow did not write.
    let _ = fs::remove_dir(record);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::folder::RecordFolder;
    use super::*;
    use std::time::Duration;
    use time::OffsetDateTime;

    fn record(records: &Path, second: u64) -> RecordFolder {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(second);
        let record = RecordFolder::create(records, "0123456789", "w", now).unwrap();
        fs::write(record.path.join("logs/a.1.log"), "x".repeat(1000)).unwrap();
        record.write_report(b"{}").unwrap();
        record
    }

    fn kept(records: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(records).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_the_oldest_records_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path();
        fs::create_dir(records.join("19700101-000000.000-foreign0")).unwrap();
        fs::write(records.join("notes.txt"), "mine").unwrap();
        let running = record(records, 1);
        for second in 2..6 {
            drop(record(records, second));
        }
        fs::write(records.join("19700101-000002.000-01234567/notes.txt"), "mine").unwrap();
        let own = record(records, 6);
        let options = RecordOptions { keep_runs: 3, ..RecordOptions::new(None) };
        remove_old(records, &own.path, &options);
        assert_eq!(
            kept(records),
            [
                "19700101-000000.000-foreign0",
                "19700101-000001.000-01234567",
                "19700101-000002.000-01234567",
                "19700101-000004.000-01234567",
                "19700101-000005.000-01234567",
                "19700101-000006.000-01234567",
                "notes.txt",
            ]
        );
        assert!(running.path.join("logs/a.1.log").exists(), "its run is still running");
        assert_eq!(
            kept(&records.join("19700101-000002.000-01234567")),
            ["notes.txt"],
            "a file that dflow did not write"
        );
    }

    #[test]
    fn records_beyond_the_size_limit_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for second in 1..5 {
            drop(record(folder.path(), second));
        }
        let own = record(folder.path(), 5);
        let options = RecordOptions { keep_bytes: 2500, ..RecordOptions::new(None) };
        remove_old(folder.path(), &own.path, &options);
        assert_eq!(kept(folder.path()).len(), 3, "two of about 1100 bytes, and this run's");
    }
}
