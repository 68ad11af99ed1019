//! The thread that writes a run's record.

use super::attempt_log::{AttemptLog, Limits};
use super::budget::RunBudget;
use super::folder::RecordFolder;
use super::tails::{Chunk, Tails};
use super::{RecordOptions, log_path, retention};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;
use time::OffsetDateTime;

/// Maximum number of bytes that wait for the disk. Beyond it, only the last bytes of output are kept.
const MAX_QUEUED_BYTES: usize = 8 << 20;
/// How long the end of a run waits for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a run leaves a record.
pub(crate) enum Recording {
    /// It does.
    On(Recorder),
    /// The user wants none.
    Off,
    /// It cannot be written: a note for the user.
    Impossible(String),
}

/// Writes the record of a run in a separate thread.
pub(crate) struct Recorder {
    path: PathBuf,
    jobs: Sender<Job>,
    queued: Arc<AtomicUsize>,
    /// Output that did not fit into the queue, by instance and attempt.
    waiting: Tails<(String, u32)>,
    done: Receiver<Option<String>>,
}

enum Job {
    Append {
        instance: String,
        attempt: u32,
        bytes: Vec<u8>,
        lost: u64,
    },
    /// The attempt has ended.
    Close {
        instance: String,
        attempt: u32,
    },
    /// The run has ended with this report.
    Finish {
        report: Vec<u8>,
    },
}

impl Recorder {
    /// Creates the record of a run, and removes old ones.
    pub(crate) fn start(options: &RecordOptions, run: &str, workflow: &str) -> Recording {
        let Some(records) = &options.folder else { return Recording::Off };
        Self::create(options, records, run, workflow).map_or_else(
            |error| {
                let records = records.display();
                Recording::Impossible(format!(
                    "this run leaves no record and no logs: {records} cannot be used: {error}; name another directory with \
                     --logs, or say --logs none"
                ))
            },
            Recording::On,
        )
    }

    fn create(options: &RecordOptions, records: &Path, run: &str, workflow: &str) -> io::Result<Self> {
        let records = std::path::absolute(records)?;
        let folder = RecordFolder::create(&records, run, workflow, OffsetDateTime::now_utc())?;
        let (path, options) = (folder.path.clone(), options.clone());
        let (jobs, received) = channel();
        let (finished, done) = channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            logs: HashMap::new(),
            limits: Limits::of(options.attempt_bytes.max(super::MIN_ATTEMPT_BYTES)),
            budget: RunBudget::new(options.run_bytes),
            queued: Arc::clone(&queued),
            failure: None,
            folder,
        };
        thread::Builder::new().name("dflow-logs".into()).spawn(move || {
            retention::remove_old(&records, &writer.folder.path, &options);
            // The receiver is gone if the end of the run could not wait any longer.
            let _ = finished.send(writer.run(&received));
        })?;
        Ok(Self { path, jobs, queued, waiting: Tails::new(), done })
    }

    /// The directory of the record.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Records output of an attempt; `lost` bytes before it were dropped.
    pub(crate) fn append(&mut self, instance: &str, attempt: u32, bytes: Vec<u8>, lost: u64) {
        let key = (instance.to_owned(), attempt);
        if self.waiting.is_empty() && self.has_room() {
            return self.send(Chunk { key, bytes, lost });
        }
        self.waiting.push(key, &bytes, lost);
        while self.has_room()
            && let Some(chunk) = self.waiting.next()
        {
            self.send(chunk);
        }
    }

    /// The attempt has ended: its remaining output, which is bounded, is queued now.
    pub(crate) fn close(&mut self, instance: &str, attempt: u32) {
        let key = (instance.to_owned(), attempt);
        while let Some(chunk) = self.waiting.take(&key) {
            self.send(chunk);
        }
        let _ = self.jobs.send(Job::Close { instance: key.0, attempt });
    }

    fn has_room(&self) -> bool {
        self.queued.load(Ordering::Relaxed) < MAX_QUEUED_BYTES
    }

    fn send(&self, chunk: Chunk<(String, u32)>) {
        let Chunk { key: (instance, attempt), bytes, lost } = chunk;
        self.queued.fetch_add(bytes.len(), Ordering::Relaxed);
        let _ = self.jobs.send(Job::Append { instance, attempt, bytes, lost });
    }

    /// Writes the report and waits until everything is written. Returns a note for the user if the record is
    /// incomplete.
    pub(crate) fn finish(mut self, report: Vec<u8>) -> Option<String> {
        while let Some(chunk) = self.waiting.next() {
            self.send(chunk);
        }
        let _ = self.jobs.send(Job::Finish { report });
        self.done.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let path = self.path.display();
            Some(format!("the record in {path} is incomplete: the disk did not accept it within {PATIENCE:?}"))
        })
    }
}

/// The state of the thread.
struct Writer {
    folder: RecordFolder,
    logs: HashMap<(String, u32), AttemptLog>,
    limits: Limits,
    budget: RunBudget,
    queued: Arc<AtomicUsize>,
    /// The first error. After it, nothing is written to logs, so that a full disk is not tried again and again.
    failure: Option<io::Error>,
}

impl Writer {
    /// Writes until the run has ended. Returns a note for the user if the record is incomplete.
    fn run(mut self, jobs: &Receiver<Job>) -> Option<String> {
        for job in jobs {
            match job {
                Job::Append { instance, attempt, bytes, lost } => {
                    self.queued.fetch_sub(bytes.len(), Ordering::Relaxed);
                    self.append(instance, attempt, &bytes, lost);
                }
                Job::Close { instance, attempt } => self.close(&(instance, attempt)),
                Job::Finish { report } => {
                    for key in self.logs.keys().cloned().collect::<Vec<_>>() {
                        self.close(&key);
                    }
                    let written = self.folder.write_report(&report);
                    self.note(written);
                    break;
                }
            }
        }
        let path = self.folder.path.display();
        self.failure.map(|error| format!("the record in {path} is incomplete: {error}"))
    }

    fn append(&mut self, instance: String, attempt: u32, bytes: &[u8], lost: u64) {
        if self.failure.is_some() {
            return;
        }
        let path = log_path(&self.folder.path, &instance, attempt);
        let log = self.logs.entry((instance, attempt)).or_insert_with(|| AttemptLog::new(path, self.limits));
        let result = log.append(bytes, lost, &mut self.budget);
        self.note(result);
    }

    fn close(&mut self, key: &(String, u32)) {
        if let Some(log) = self.logs.remove(key)
            && self.failure.is_none()
        {
            let result = log.close(&mut self.budget);
            self.note(result);
        }
    }

    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::warn!(record = %self.folder.path.display(), %error, "the record of the run cannot be written");
            self.failure.get_or_insert(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalog::list;
    use super::*;

    fn started(folder: &Path) -> Recorder {
        match Recorder::start(&RecordOptions::new(Some(folder.join("runs"))), "0123456789", "w") {
            Recording::On(recorder) => recorder,
            Recording::Off => panic!("off"),
            Recording::Impossible(reason) => panic!("{reason}"),
        }
    }

    #[test]
    fn a_record_has_a_report_and_the_logs_of_attempts_with_output() {
        let folder = tempfile::tempdir().unwrap();
        let mut recorder = started(folder.path());
        recorder.append("qc[1]", 1, b"hello ".to_vec(), 0);
        recorder.append("qc[1]", 1, b"world\n".to_vec(), 0);
        recorder.close("qc[1]", 1);
        recorder.close("qc[2]", 1);
        recorder.append("qc[1]", 2, b"again\n".to_vec(), 3);
        assert_eq!(recorder.finish(b"{}".to_vec()), None);
        let [record] = &list(&folder.path().join("runs")).unwrap()[..] else { panic!("one record") };
        assert_eq!(record.report().as_deref(), Some("{}"));
        let logs = record.logs().unwrap();
        let texts: Vec<_> = logs.iter().map(|log| std::fs::read_to_string(&log.path).unwrap()).collect();
        assert_eq!(texts, ["hello world\n", "\n… 3 bytes were lost on the way to this log …\nagain\n"]);
    }

    #[test]
    fn the_last_output_is_kept_if_the_disk_is_slow() {
        let folder = tempfile::tempdir().unwrap();
        let mut recorder = started(folder.path());
        recorder.append("a", 1, b"begun\n".to_vec(), 0);
        // As if this much were waiting for the disk.
        recorder.queued.fetch_add(MAX_QUEUED_BYTES, Ordering::Relaxed);
        (0..10).for_each(|_| recorder.append("a", 1, vec![b'x'; 20_000], 0));
        recorder.append("a", 1, b"\ndone\n".to_vec(), 0);
        recorder.close("a", 1);
        let path = recorder.path().join("logs/a.1.log");
        assert_eq!(recorder.finish(b"{}".to_vec()), None);
        let log = std::fs::read_to_string(path).unwrap();
        assert!(log.starts_with("begun\n\n… ") && log.ends_with("xx\ndone\n"), "{}", &log[..100]);
        assert!(log.contains("bytes were lost on the way to this log"), "{}", &log[..100]);
    }

    #[test]
    fn two_concurrent_runs_have_separate_records() {
        let folder = tempfile::tempdir().unwrap();
        let options = RecordOptions { keep_runs: 2, ..RecordOptions::new(Some(folder.path().to_owned())) };
        let start = |run| match Recorder::start(&options, run, "w") {
            Recording::On(recorder) => recorder,
            Recording::Off | Recording::Impossible(_) => panic!("no record"),
        };
        let (mut first, mut second) = (start("00000001"), start("00000002"));
        first.append("a", 1, b"1".to_vec(), 0);
        second.append("a", 1, b"2".to_vec(), 0);
        let paths = [first.path().to_owned(), second.path().to_owned()];
        assert_eq!((first.finish(b"1".to_vec()), second.finish(b"2".to_vec())), (None, None));
        for (path, text) in paths.iter().zip(["1", "2"]) {
            assert_eq!(std::fs::read_to_string(path.join("logs/a.1.log")).unwrap(), text);
            assert_eq!(std::fs::read_to_string(path.join("report.json")).unwrap(), text);
        }
    }

    #[test]
    fn an_unusable_directory_is_a_note() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let recording = Recorder::start(&RecordOptions::new(Some(file.join("runs"))), "0123456789", "w");
        assert!(matches!(recording, Recording::Impossible(reason) if reason.contains("--logs none")));
        assert!(matches!(Recorder::start(&RecordOptions::new(None), "0123456789", "w"), Recording::Off));
    }

    #[test]
    fn a_record_that_is_removed_during_the_run_is_a_note() {
        let folder = tempfile::tempdir().unwrap();
        let mut recorder = started(folder.path());
        std::fs::remove_dir_all(recorder.path()).unwrap();
        recorder.append("a", 1, b"x".to_vec(), 0);
        let note = recorder.finish(b"{}".to_vec()).unwrap();
        assert!(note.contains("is incomplete"), "{note}");
    }
}
