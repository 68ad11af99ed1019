//! What a node notices of a run.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use dflow_protocol::InstanceId;
use dflow_scheduler::Event;
use rkyv::{Archive, Deserialize, Serialize};

/// Something that has happened to a run on a node.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The scheduler has to know.
    Event(Event),
    /// The user may want to know.
    Remark(Remark),
}

/// What the driver of a run is told for its user.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) enum Remark {
    /// An attempt waits for its slots, which other runs hold.
    Queued { instance: InstanceId, attempt: u32 },
    /// An attempt that had to wait for its slots has started.
    Started { instance: InstanceId, attempt: u32 },
    /// An attempt waits for data or credit.
    Parked { instance: InstanceId, attempt: u32 },
    /// It goes on.
    Resumed { instance: InstanceId, attempt: u32 },
    /// An attempt has ended.
    Ended { instance: InstanceId, attempt: u32, record: Record },
    /// The program of an attempt has ended, and these processes hold its outputs open.
    HeldOpen { instance: InstanceId, attempt: u32, by: String },
    /// An attempt has printed this; `lost` bytes before it were dropped on the way.
    Printed { instance: InstanceId, attempt: u32, bytes: Vec<u8>, lost: u64 },
}

/// The measurements of an ended attempt. Times are in nanoseconds since the run's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) first_read: Option<u64>,
    pub(crate) first_written: Option<u64>,
    pub(crate) user: u64,
    pub(crate) system: u64,
    pub(crate) max_rss: u64,
    /// It failed, and another attempt may do better.
    pub(crate) transient: bool,
    /// How it ended when it was told to.
    pub(crate) stopped: Option<Stopped>,
}

/// How an attempt ended that was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) enum Stopped {
    /// By itself, at its SIGTERM.
    ByItself,
    /// It was killed when its grace was over, or at once.
    Killed,
}

impl From<Event> for Notice {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

impl From<Remark> for Notice {
    fn from(remark: Remark) -> Self {
        Self::Remark(remark)
    }
}

impl Remark {
    /// The instance that it is about.
    pub(crate) fn instance(&self) -> InstanceId {
        match self {
            Self::Queued { instance, .. }
            | Self::Started { instance, .. }
            | Self::Parked { instance, .. }
            | Self::Resumed { instance, .. }
            | Self::Ended { instance, .. }
            | Self::HeldOpen { instance, .. }
            | Self::Printed { instance, .. } => *instance,
        }
    }
}
