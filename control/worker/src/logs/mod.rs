//! The output of functions, and the records of runs.
//!
//! Each run leaves a directory, its *record*: `run.json` describes the run and when it began, `report.json` how it
//! ended, and `logs/INSTANCE.ATTEMPT.log` is the standard error of an attempt (a silent attempt has no file).
//!
//! The launcher reports the bytes as the program writes them; output on another node arrives in notices of bounded size
//! (`relay`). One thread writes the logs (`recorder`), so that a slow disk delays neither the run nor its functions: if
//! its queue is full, the last bytes are kept, and the others are counted in the log. Each log keeps its beginning and
//! its end (`attempt_log`). Old records are removed when a run begins (`retention`). No failure here can fail a run.
//!
//! | file | holds |
//! | --- | --- |
//! | `attempt_log` | one attempt's file: its first and its last bytes |
//! | `budget` | the size limit of all logs of a run together |
//! | `catalog` | lists the records, and determines how their runs ended |
//! | `crash` | the messages by which language runtimes report a crash |
//! | `excerpt` | the part of an attempt's output that an error shows |
//! | `folder` | a new record: its directory, its lock |
//! | `names` | file names of instances |
//! | `recorder` | the thread that writes |
//! | `relay` | sends output to the node that drives the run |
//! | `retention` | removes old records |
//! | `tails` | bounded queues of output |

mod attempt_log;
mod budget;
mod catalog;
mod crash;
pub(crate) mod excerpt;
mod folder;
mod names;
mod recorder;
pub(crate) mod relay;
mod retention;
mod tails;

pub use catalog::{LogFile, RecordState, RunRecord, list};
pub(crate) use names::escape;
pub(crate) use recorder::{Recorder, Recording};

use std::env;
use std::path::{Path, PathBuf};

/// The limits of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordOptions {
    /// The directory of all records; `None` if runs leave no record.
    pub folder: Option<PathBuf>,
    /// Maximum number of bytes of one attempt's output: a quarter from its beginning, the rest from its end. At least
    /// [`MIN_ATTEMPT_BYTES`].
    pub attempt_bytes: u64,
    /// Maximum number of bytes of all logs of one run. Each log counts as at least [`MIN_ATTEMPT_BYTES`].
    pub run_bytes: u64,
    /// Maximum number of records, including that of this run.
    pub keep_runs: usize,
    /// Maximum number of bytes of all records when this run begins.
    pub keep_bytes: u64,
}

/// Minimum space of a log: about a block of a file system.
pub const MIN_ATTEMPT_BYTES: u64 = 4 << 10;
/// The default of [`RecordOptions::attempt_bytes`].
pub const DEFAULT_ATTEMPT_BYTES: u64 = 256 << 10;
/// The default of [`RecordOptions::run_bytes`].
pub const DEFAULT_RUN_BYTES: u64 = 64 << 20;
/// The default of [`RecordOptions::keep_runs`].
pub const DEFAULT_KEEP_RUNS: usize = 50;
/// The default of [`RecordOptions::keep_bytes`].
pub const DEFAULT_KEEP_BYTES: u64 = 512 << 20;

impl RecordOptions {
    /// Records in this directory, within the default limits.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            attempt_bytes: DEFAULT_ATTEMPT_BYTES,
            run_bytes: DEFAULT_RUN_BYTES,
            keep_runs: DEFAULT_KEEP_RUNS,
            keep_bytes: DEFAULT_KEEP_BYTES,
        }
    }

    /// The default directory of records: `$XDG_STATE_HOME/dflow/runs`, or `~/.local/state/dflow/runs`. `None` if
    /// neither variable names a directory.
    #[must_use]
    pub fn default_folder() -> Option<PathBuf> {
        // The XDG specification requires relative paths to be ignored.
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
        Some(state.join("dflow/runs"))
    }
}

/// The path of an attempt's log in a record. The file exists if the attempt printed anything.
#[must_use]
pub fn log_path(record: &Path, instance: &str, attempt: u32) -> PathBuf {
    logs_of(record).join(names::log_file(instance, attempt))
}

/// The directory of logs in a record.
fn logs_of(record: &Path) -> PathBuf {
    record.join("logs")
}
