//! The times of an attempt.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use crate::limits::MAX_RECORDS;
use crate::options::Place;
use rkyv::{Archive, Deserialize, Serialize};
use std::time::Duration;

/// The times of one attempt since the start of the run.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Its number, counted from 1.
    pub attempt: u32,
    /// Where it ran.
    pub place: Place,
    /// When the preparation of its program began (for a sink: when it was started).
    pub prepared: Duration,
    /// When its program was ready.
    pub ready: Option<Duration>,
    /// When it was started, that is, its gate was open and it had a slot.
    pub started: Option<Duration>,
    /// When the first bytes of any of its outputs were reported.
    pub first_output: Option<Duration>,
    /// When all of its processes had ended.
    pub ended: Option<Duration>,
    /// How it ended; may be set before it is dead.
    pub end: Option<AttemptEnd>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum AttemptEnd {
    /// It succeeded.
    Succeeded,
    /// It ended because its outputs have no reader.
    Unread,
    /// It failed.
    Failed {
        /// Why.
        reason: String,
    },
    /// It was ended, or its result was discarded, through no fault of its own.
    Superseded {
        /// Why.
        reason: String,
    },
}

impl AttemptRecord {
    pub(crate) fn new(attempt: u32, place: Place, prepared: Duration) -> Self {
        Self { attempt, place, prepared, ready: None, started: None, first_output: None, ended: None, end: None }
    }

    /// Appends a record and drops the oldest when there are too many.
    pub(crate) fn push(records: &mut Vec<Self>, record: Self) {
        if records.len() >= MAX_RECORDS {
            records.remove(0);
        }
        records.push(record);
    }
}
