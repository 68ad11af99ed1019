//! What functions print, and the records of runs.
//!
//! A run leaves a folder, its *record*: `run.json` says what ran and when, `report.json` how it ended, and
//! `logs/INSTANCE.ATTEMPT.log` holds what an attempt printed on standard error (a silent attempt has no file).
//!
//! The bytes come from the launcher as the program writes them; those of another node come as notices of bounded size
//! (`relay`). One thread writes them (`recorder`), so that a slow disk holds up neither the run nor its functions: of what
//! the thread cannot take, the last bytes are kept, and the others are counted in the log. Each log keeps its beginning and its end (`attempt_log`). Old
//! records are removed when a run begins (`retention`). None of this can fail a run.
//!
//! | file | holds |
//! | --- | --- |
//! | `attempt_log` | one attempt's file: its first and its last bytes |
//! | `budget` | how much the logs of a run may take together |
//! | `catalog` | which records there are, and how their runs ended |
//! | `crash` | the messages by which language runtimes report a crash |
//! | `excerpt` | what an error shows of an attempt's output |
//! | `folder` | a new record: its folder, its lock |
//! | `names` | file names of instances |
//! | `recorder` | the thread that writes |
//! | `relay` | output on its way to the node that drives the run |
//! | `retention` | which records are removed |
//! | `tails` | output that waits, bounded |

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
pub(crate) use recorder::{Recorder, Recording};

use std::env;
use std::path::{Path, PathBuf};

/// Which records are kept, and how much they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordOptions {
    /// The folder of all records; `None`: runs leave no record.
    pub folder: Option<PathBuf>,
    /// The most bytes of one attempt's output: a quarter from its beginning, the rest from its end. At least
    /// [`MIN_ATTEMPT_BYTES`].
    pub attempt_bytes: u64,
    /// The most bytes of all logs of one run. A log counts as [`MIN_ATTEMPT_BYTES`] at least.
    pub run_bytes: u64,
    /// How many records are kept, this run's included.
    pub keep_runs: usize,
    /// The most bytes of all records that are kept, before this run writes.
    pub keep_bytes: u64,
}

/// What a log takes at least: about a block of a file system.
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
    /// Records in this folder, within the default limits.
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

    /// Where records are unless something else is said: `$XDG_STATE_HOME/dflow/runs`, or `~/.local/state/dflow/runs`. `None`
    /// where neither variable names a folder.
    #[must_use]
    pub fn default_folder() -> Option<PathBuf> {
        // The XDG specification has relative paths ignored.
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
        Some(state.join("dflow/runs"))
    }
}

/// Where a record holds what an attempt printed, if it printed anything.
#[must_use]
pub fn log_path(record: &Path, instance: &str, attempt: u32) -> PathBuf {
    logs_of(record).join(names::log_file(instance, attempt))
}

/// The folder of logs in a record.
fn logs_of(record: &Path) -> PathBuf {
    record.join("logs")
}
