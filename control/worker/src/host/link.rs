//! What is known of the way to another node.

use dflow_carrier::Crossing;
use dflow_transport::{PathKind, Traffic};
use std::collections::BTreeMap;

/// The way to another node, as its carrier reports it.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkState {
    pub(crate) traffic: Traffic,
    pub(crate) path: Option<PathKind>,
    pub(crate) crossing: Crossing,
    /// What has passed over each kind of path.
    pub(crate) passed: BTreeMap<PathKind, Passed>,
    /// The kind that was there last.
    pub(crate) last: Option<PathKind>,
}

/// Bytes of streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl LinkState {
    pub(super) fn update(&mut self, traffic: Traffic, path: Option<PathKind>, crossing: Crossing) {
        // There is a report before each new path: what is new belongs to the one that is there, or was.
        if let Some(kind) = path.or(self.last) {
            let passed = self.passed.entry(kind).or_default();
            passed.sent += traffic.sent.saturating_sub(self.traffic.sent);
            passed.received += traffic.received.saturating_sub(self.traffic.received);
            self.last = Some(kind);
        }
        (self.traffic, self.path, self.crossing) = (traffic, path, crossing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_belong_to_the_path_that_they_went_over() {
        let mut link = LinkState::default();
        let mut report = |sent, received, path| {
            link.update(Traffic { sent, received, ..Traffic::default() }, path, Crossing::default());
        };
        report(0, 0, None);
        report(10, 1, Some(PathKind::Quic));
        report(110, 1, Some(PathKind::Rdma));
        // It was lost, and what had gone before is told late.
        report(150, 2, None);
        report(150, 2, Some(PathKind::Quic));
        report(151, 7, Some(PathKind::Quic));
        assert_eq!(link.passed[&PathKind::Rdma], Passed { sent: 140, received: 1 });
        assert_eq!(link.passed[&PathKind::Quic], Passed { sent: 11, received: 6 });
    }
}
