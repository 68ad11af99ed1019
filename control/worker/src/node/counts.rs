//! What a node counts: its attempts, and what passes between it and other processes.

use dflow_scheduler::Outcome;
use dflow_transport::{LinkBytes, PathKind};

/// Attempts of functions on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AttemptCounts {
    pub(crate) prepared: u64,
    pub(crate) running: u64,
    /// Started, and waiting for data or credit.
    pub(crate) waiting: u64,
    /// The slots held by those that run.
    pub(crate) slots: u64,
    pub(crate) ended: Ended,
}

/// Attempts that are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) succeeded: u64,
    pub(crate) unread: u64,
    pub(crate) failed: u64,
    /// Ended by their run's driver: it was cancelled, has failed, or starts them again.
    pub(crate) stopped: u64,
}

impl Ended {
    /// `is_stopped`: the run's driver has told it to end.
    pub(crate) fn count(&mut self, outcome: &Outcome, is_stopped: bool) {
        match outcome {
            Outcome::Succeeded => self.succeeded += 1,
            Outcome::Unread => self.unread += 1,
            Outcome::Failed { .. } if is_stopped => self.stopped += 1,
            Outcome::Failed { .. } => self.failed += 1,
        }
    }
}

/// The state of the link to another node.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerSample {
    pub(crate) path: Option<PathKind>,
    pub(crate) why_not_rdma: Option<String>,
    pub(crate) streams_in: u64,
    pub(crate) streams_out: u64,
    pub(crate) counts: PeerCounts,
}

/// The counters of a peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerCounts {
    /// By the kind of path, in the order of [`PathKind::ALL`].
    pub(crate) bytes: [LinkBytes; PathKind::ALL.len()],
    /// Paths that were lost and replaced by QUIC.
    pub(crate) failovers: u64,
    /// The number of its protocol violations.
    pub(crate) violations: u64,
}

impl PeerCounts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.bytes.iter_mut().zip(other.bytes).for_each(|(sum, bytes)| sum.add(bytes));
        self.failovers += other.failovers;
        self.violations += other.violations;
    }
}
