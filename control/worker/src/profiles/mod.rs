//! Learned profiles: run times and sizes of functions from finished runs, for the planner.
//!
//! There is one file for each workflow, by its name, in the directory `profiles` beside the records of runs. A run that
//! has succeeded adds its figures (`observe`) to the file (`file`). No failure here can fail a run: a file that
//! cannot be read counts as empty, and one that cannot be written is a warning in the log.

mod file;
mod observe;

use crate::report::{RunEnd, RunReport};
use dflow_scheduler::planner::Learned;
use dflow_workflow::Workflow;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use file::ProfileError;

/// A new run counts as at least this share of the average: one fifth. So profiles follow a program that changes.
const MAX_WEIGHT: u32 = 5;

/// The learned profiles of a workflow, by the names of its functions.
pub type LearnedFunctions = BTreeMap<String, Learned>;

/// The directory of profiles beside these records.
#[must_use]
pub fn folder(records: &Path) -> PathBuf {
    records.join("profiles")
}

/// The file with the profiles of a workflow.
#[must_use]
pub fn path(records: &Path, workflow: &str) -> PathBuf {
    folder(records).join(file::name(workflow))
}

/// Reads the learned profiles of a workflow; empty if no run of it has succeeded yet.
///
/// # Errors
/// If the file cannot be read, or is not one that this release understands.
pub fn load(records: &Path, workflow: &str) -> Result<LearnedFunctions, ProfileError> {
    file::read(&path(records, workflow), workflow)
}

/// Adds a run to the profiles of its workflow.
pub(crate) fn learn(records: &Path, workflow: &Workflow, report: &RunReport) {
    if report.state != RunEnd::Succeeded {
        return;
    }
    let observed = observe::functions(workflow, report);
    if observed.is_empty() {
        return;
    }
    let path = path(records, &workflow.name);
    let mut learned = match file::read(&path, &workflow.name) {
        Ok(learned) => learned,
        // It belongs to a newer release, which may still be in use.
        Err(error @ ProfileError::Version { .. }) => {
            tracing::warn!(%error, "nothing is learned from the run");
            return;
        }
        Err(error) => {
            tracing::warn!(%error, "the profiles of the workflow start again from nothing");
            BTreeMap::new()
        }
    };
    // Functions that the workflow no longer has are forgotten.
    let present: HashSet<&str> = workflow.functions.iter().map(|function| function.name.as_str()).collect();
    learned.retain(|name, _| present.contains(name.as_str()));
    for (name, new) in observed {
        let all = match learned.remove(&name) {
            Some(old) => merged(&old, &new),
            None => new,
        };
        learned.insert(name, all);
    }
    if let Err(error) = file::write(&folder(records), &path, &workflow.name, learned) {
        tracing::warn!(path = %path.display(), %error, "the profiles of the workflow cannot be written");
    }
}

/// The averages with one more run.
fn merged(old: &Learned, new: &Learned) -> Learned {
    let runs = old.runs.saturating_add(1);
    let weight = runs.min(MAX_WEIGHT);
    let mix = |old: u64, new: u64| {
        let (old, new) = (u128::from(old), u128::from(new));
        u64::try_from((old * u128::from(weight - 1) + new) / u128::from(weight)).unwrap_or(u64::MAX)
    };
    let time = |old: Duration, new: Duration| Duration::from_nanos(mix(nanos(old), nanos(new)));
    let part = |old: Option<Duration>, new: Option<Duration>| match (old, new) {
        (Some(old), Some(new)) => Some(time(old, new)),
        (old, new) => new.or(old),
    };
    Learned {
        runs,
        time: time(old.time, new.time),
        first_output: part(old.first_output, new.first_output),
        tail: part(old.tail, new.tail),
        input: mix(old.input, new.input),
        output: mix(old.output, new.output),
        // A number of parts is not an average of others: the last one is the best guess.
        parts: new.parts.or(old.parts),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(runs: u32, millis: u64) -> Learned {
        Learned {
            runs,
            time: Duration::from_millis(millis),
            first_output: None,
            tail: Some(Duration::ZERO),
            input: 100,
            output: 10,
            parts: None,
        }
    }

    #[test]
    fn later_runs_count_more() {
        let second = merged(&learned(1, 100), &learned(1, 300));
        assert_eq!((second.runs, second.time, second.input), (2, Duration::from_millis(200), 100));
        let late = merged(&learned(90, 100), &learned(1, 200));
        assert_eq!((late.runs, late.time), (91, Duration::from_millis(120)));
        let parts = Learned { parts: Some(7), first_output: Some(Duration::from_secs(1)), ..learned(1, 100) };
        let with_parts = merged(&late, &parts);
        assert_eq!((with_parts.parts, with_parts.first_output), (Some(7), Some(Duration::from_secs(1))));
        assert_eq!(merged(&with_parts, &learned(1, 1)).parts, Some(7));
        assert_eq!(merged(&learned(u32::MAX, 1), &learned(1, 1)).runs, u32::MAX);
    }
}
