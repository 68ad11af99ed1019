//! The figures of a link.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use crate::path::PathKind;
use rkyv::{Archive, Deserialize, Serialize};

/// Stream bytes that crossed in each direction, including those that were sent again after a lost path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LinkBytes {
    /// To the peer.
    pub sent: u64,
    /// From the peer.
    pub received: u64,
}

/// The figures of the link between two nodes, as one of them counts. They are the same type from the link to reports,
/// metrics and messages between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LinkStats {
    /// The kind of the present path; `None` if there is no path.
    pub path: Option<PathKind>,
    /// The kind of the last path, present or lost.
    pub last_path: Option<PathKind>,
    /// The number of paths so far.
    pub paths: u64,
    /// The number of the last path over which something arrived ([`crate::Link::connect`]); 0 before the first.
    pub heard_on: u64,
    /// Bytes by the kind of path that carried them, in the order of [`PathKind::ALL`].
    pub bytes: [LinkBytes; PathKind::ALL.len()],
    /// Messages that were sent.
    pub messages_sent: u64,
    /// Messages that arrived.
    pub messages_received: u64,
    /// How often the peer broke the protocol.
    pub violations: u64,
    /// Streams that come from the peer at present.
    pub streams_in: u64,
    /// Streams that the peer reads at present.
    pub streams_out: u64,
}

impl LinkBytes {
    /// Adds other counters to these.
    pub fn add(&mut self, other: Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.received = self.received.saturating_add(other.received);
    }
}

impl LinkStats {
    /// The bytes over all kinds of paths.
    #[must_use]
    pub fn total(&self) -> LinkBytes {
        let mut total = LinkBytes::default();
        self.bytes.into_iter().for_each(|bytes| total.add(bytes));
        total
    }

    /// The bytes over paths of one kind.
    #[must_use]
    pub fn over(&self, kind: PathKind) -> LinkBytes {
        self.bytes[kind as usize]
    }

    /// The counters of the present path, or of the last one: what arrives late belongs to it.
    pub(crate) fn present(&mut self) -> Option<&mut LinkBytes> {
        self.last_path.map(|kind| &mut self.bytes[kind as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_counters() {
        for (index, kind) in PathKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
        let mut stats = LinkStats { last_path: Some(PathKind::Quic), ..LinkStats::default() };
        stats.present().expect("a path").sent += 5;
        stats.last_path = Some(PathKind::Rdma);
        stats.present().expect("a path").add(LinkBytes { sent: 1, received: 2 });
        assert_eq!(stats.over(PathKind::Quic), LinkBytes { sent: 5, received: 0 });
        assert_eq!(stats.total(), LinkBytes { sent: 6, received: 2 });
    }
}
