//! The metrics of a worker, for Prometheus.
//!
//! Each run that a node serves reports its counters to the [`Ledger`] at intervals. The final counters of a run stay in
//! the ledger, so that counters only increase. A scrape adds up the ledger, the live runs and the counters of the
//! node's sockets.

mod http;
mod text;

pub(crate) use http::Scrapes;

use crate::node::counts::{AttemptCounts, Ended, PeerCounts, PeerSample};
use crate::report::MemoryReport;
use dflow_transport::{Cause, LinkBytes, NodeCounters, PathKind};
use std::collections::BTreeMap;
use std::time::SystemTime;
use text::Text;

/// Maximum number of peers with separate labels; further peers are counted together as [`OTHERS`].
const MAX_PEERS: usize = 1024;
const OTHERS: &str = "(others)";
/// Maximum length of a reason in a label, in characters.
const MAX_REASON: usize = 200;
/// The kinds of paths between nodes.
const KINDS: [(PathKind, &str); 2] = [(PathKind::Rdma, "rdma"), (PathKind::Quic, "quic")];

/// The counters of a run on this node.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunSample {
    pub(crate) attempts: AttemptCounts,
    /// Bytes that functions have written.
    pub(crate) written: u64,
}

/// The counters of a node since its start.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    runs_begun: u64,
    runs: BTreeMap<u128, RunSample>,
    over: Counts,
}

/// The counters of some runs.
#[derive(Clone, Debug, Default)]
struct Counts {
    ended: Ended,
    written: u64,
    peers: BTreeMap<String, PeerCounts>,
}

/// The node's state that a scrape shows in addition to the ledger.
pub(crate) struct Node<'a> {
    pub(crate) name: &'a str,
    pub(crate) slots: u32,
    /// The memory for streams.
    pub(crate) memory: MemoryReport,
    pub(crate) counters: NodeCounters,
    /// When its certificate expires.
    pub(crate) certificate_until: SystemTime,
    /// The links to other processes, by the name of their node.
    pub(crate) peers: Vec<(String, PeerSample)>,
}

impl Ledger {
    pub(crate) fn begun(&mut self) {
        self.runs_begun += 1;
    }

    /// Updates the counters of a run.
    pub(crate) fn update(&mut self, run: u128, sample: RunSample) {
        self.runs.insert(run, sample);
    }

    /// Records the final counters of a run.
    pub(crate) fn over(&mut self, run: u128, sample: &RunSample) {
        self.runs.remove(&run);
        self.over.add(sample);
    }

    /// Records the final counters of the link to a process that is gone.
    pub(crate) fn peer_gone(&mut self, name: &str, counts: &PeerCounts) {
        self.over.add_peer(name, counts);
    }

    /// The text of a scrape.
    pub(crate) fn render(&self, node: &Node<'_>) -> String {
        let mut counts = self.over.clone();
        self.runs.values().for_each(|run| counts.add(run));
        node.peers.iter().for_each(|(name, peer)| counts.add_peer(name, &peer.counts));
        let mut text = Text::default();
        text.gauge("dflow_build_info", "The release of dflow, and the node's name.")
            .sample(&[("node", node.name), ("version", env!("CARGO_PKG_VERSION"))], 1);
        self.render_runs(&mut text, node, &counts);
        text.gauge("dflow_certificate_expiry_timestamp_seconds", "When the node's certificate expires.")
            .sample(&[], node.certificate_until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs());
        render_connections(&mut text, &node.counters);
        render_peers(&mut text, node, &counts);
        text.into_string()
    }

    fn sum(&self, of: impl Fn(&RunSample) -> u64) -> u64 {
        self.runs.values().map(of).fold(0, u64::saturating_add)
    }

    fn render_runs(&self, text: &mut Text, node: &Node<'_>, counts: &Counts) {
        text.gauge("dflow_runs", "Runs that the node currently takes part in.").sample(&[], self.runs.len());
        text.counter("dflow_runs_total", "Runs that the node has taken part in.").sample(&[], self.runs_begun);
        text.gauge("dflow_slots", "Slots of the node.").sample(&[], node.slots);
        let used = self.sum(|run| run.attempts.slots);
        text.gauge("dflow_slots_used", "Slots held by computing instances, over all runs.").sample(&[], used);
        text.gauge("dflow_instances", "Instances of functions on the node, by state.")
            .sample(&[("state", "prepared")], self.sum(|run| run.attempts.prepared))
            .sample(&[("state", "running")], self.sum(|run| run.attempts.running))
            .sample(&[("state", "waiting")], self.sum(|run| run.attempts.waiting));
        text.counter("dflow_attempts_ended_total", "Ended attempts of instances, by outcome.")
            .sample(&[("outcome", "succeeded")], counts.ended.succeeded)
            .sample(&[("outcome", "unread")], counts.ended.unread)
            .sample(&[("outcome", "failed")], counts.ended.failed)
            .sample(&[("outcome", "stopped")], counts.ended.stopped);
        text.counter("dflow_written_bytes_total", "Bytes that functions have written to streams.")
            .sample(&[], counts.written);
        text.gauge("dflow_memory_budget_bytes", "Memory budget of streams, for all runs together.")
            .sample(&[], node.memory.budget_bytes);
        text.gauge("dflow_memory_used_bytes", "Memory used by streams.").sample(&[], node.memory.used_bytes);
        text.counter("dflow_spilled_bytes_total", "Bytes written to disk because memory was short.")
            .sample(&[], node.memory.spilled_bytes);
    }
}

fn render_peers(text: &mut Text, node: &Node<'_>, counts: &Counts) {
    let mut ways: BTreeMap<&str, Vec<&PeerSample>> = BTreeMap::new();
    for (name, peer) in &node.peers {
        ways.entry(if counts.peers.contains_key(name) { name } else { OTHERS }).or_default().push(peer);
    }
    let mut family = text.gauge("dflow_peer_paths", "Links to processes of a node that are in use, by kind of path.");
    for (name, peers) in &ways {
        for (kind, word) in KINDS {
            let count = peers.iter().filter(|peer| peer.path == Some(kind)).count();
            family.sample(&[("peer", name), ("path", word)], count);
        }
    }
    let mut family = text.gauge("dflow_peer_without_rdma_info", "Why a link to a node does not use RDMA.");
    for (name, peers) in &ways {
        let reason = peers.iter().find_map(|peer| peer.why_not_rdma.as_deref());
        if let Some(reason) = reason {
            let reason: String = reason.chars().take(MAX_REASON).collect();
            family.sample(&[("peer", name), ("reason", &reason)], 1);
        }
    }
    let mut family = text.gauge("dflow_peer_streams", "Streams in transfer between the node and a peer.");
    for (name, peers) in &ways {
        let sum = |of: fn(&PeerSample) -> u64| peers.iter().map(|peer| of(peer)).fold(0, u64::saturating_add);
        family.sample(&[("peer", name), ("direction", "in")], sum(|peer| peer.streams_in));
        family.sample(&[("peer", name), ("direction", "out")], sum(|peer| peer.streams_out));
    }
    let each = |family: &mut text::Family<'_>, of: fn(&LinkBytes) -> u64| {
        for (name, peer) in &counts.peers {
            for (kind, word) in KINDS {
                family.sample(&[("peer", name), ("path", word)], of(&peer.bytes[kind as usize]));
            }
        }
    };
    let help = "Stream bytes sent to a node, by path, including retransmissions after a fail-over.";
    each(&mut text.counter("dflow_peer_sent_bytes_total", help), |bytes| bytes.sent);
    let help = "Stream bytes received from a node, by path.";
    each(&mut text.counter("dflow_peer_received_bytes_total", help), |bytes| bytes.received);
    let help = "Paths to a node that were lost and replaced by QUIC.";
    let mut family = text.counter("dflow_peer_failovers_total", help);
    for (name, peer) in &counts.peers {
        family.sample(&[("peer", name)], peer.failovers);
    }
    let help = "Paths to a node that were closed because it violated the protocol.";
    let mut family = text.counter("dflow_peer_violations_total", help);
    for (name, peer) in &counts.peers {
        family.sample(&[("peer", name)], peer.violations);
    }
}

fn render_connections(text: &mut Text, counters: &NodeCounters) {
    text.counter("dflow_connections_total", "Connections with other nodes, by direction.")
        .sample(&[("direction", "in")], counters.accepted)
        .sample(&[("direction", "out")], counters.dialed);
    let mut family = text.counter("dflow_connections_refused_total", "Refused connections, by cause.");
    for (cause, count) in Cause::ALL.into_iter().zip(counters.causes) {
        family.sample(&[("cause", cause.word())], count);
    }
    let help = "Connections that were closed because the peer violated the protocol.";
    text.counter("dflow_connections_violated_total", help).sample(&[], counters.violations);
}

impl Counts {
    fn add(&mut self, run: &RunSample) {
        let Ended { succeeded, unread, failed, stopped } = run.attempts.ended;
        self.ended.succeeded += succeeded;
        self.ended.unread += unread;
        self.ended.failed += failed;
        self.ended.stopped += stopped;
        self.written = self.written.saturating_add(run.written);
    }

    fn add_peer(&mut self, name: &str, counts: &PeerCounts) {
        let is_told_apart = self.peers.contains_key(name) || self.peers.len() < MAX_PEERS;
        let name = if is_told_apart { name } else { OTHERS };
        self.peers.entry(name.to_owned()).or_default().add(counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sample() -> RunSample {
        let attempts = AttemptCounts { running: 1, slots: 2, ..AttemptCounts::default() };
        RunSample { attempts, written: 1000 }
    }

    fn peer(sent: u64, path: PathKind) -> PeerSample {
        let mut bytes = [LinkBytes::default(); PathKind::ALL.len()];
        bytes[PathKind::Rdma as usize] = LinkBytes { sent, received: 1 };
        let counts = PeerCounts { bytes, failovers: 1, violations: 0 };
        PeerSample { path: Some(path), why_not_rdma: None, streams_in: 2, streams_out: 3, counts }
    }

    fn value(ledger: &Ledger, peers: &[PeerSample], series: &str) -> Option<u64> {
        let certificate_until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let text = ledger.render(&Node {
            name: "a",
            slots: 4,
            memory: MemoryReport { budget_bytes: 100, used_bytes: 10, peak_bytes: 20, spilled_bytes: 5 },
            counters: NodeCounters::default(),
            certificate_until,
            peers: peers.iter().map(|peer| ("b".to_owned(), peer.clone())).collect(),
        });
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    #[test]
    fn counters_stay_when_a_run_or_a_peer_is_gone_and_gauges_do_not() {
        let mut ledger = Ledger::default();
        ledger.begun();
        ledger.begun();
        ledger.update(1, sample());
        ledger.update(2, sample());
        let peers = [peer(70, PathKind::Rdma), peer(1, PathKind::Quic)];
        let sent = "dflow_peer_sent_bytes_total{peer=\"b\",path=\"rdma\"}";
        assert_eq!(value(&ledger, &peers, sent), Some(71), "two processes of the same node");
        assert_eq!(value(&ledger, &peers, "dflow_runs"), Some(2));
        assert_eq!(value(&ledger, &peers, "dflow_certificate_expiry_timestamp_seconds"), Some(1_800_000_000));
        assert_eq!(value(&ledger, &peers, "dflow_slots_used"), Some(4));
        assert_eq!(value(&ledger, &peers, "dflow_peer_paths{peer=\"b\",path=\"rdma\"}"), Some(1));
        assert_eq!(value(&ledger, &peers, "dflow_peer_streams{peer=\"b\",direction=\"out\"}"), Some(6));
        ledger.over(1, &sample());
        ledger.peer_gone("b", &peers[0].counts);
        assert_eq!(value(&ledger, &peers[1..], sent), Some(71));
        assert_eq!((value(&ledger, &[], "dflow_runs"), value(&ledger, &[], "dflow_runs_total")), (Some(1), Some(2)));
        ledger.over(2, &sample());
        ledger.peer_gone("b", &peers[1].counts);
        assert_eq!(value(&ledger, &[], sent), Some(71));
        assert_eq!(value(&ledger, &[], "dflow_peer_failovers_total{peer=\"b\"}"), Some(2));
        assert_eq!(value(&ledger, &[], "dflow_peer_paths{peer=\"b\",path=\"rdma\"}"), None);
        assert_eq!(value(&ledger, &[], "dflow_written_bytes_total"), Some(2000));
        assert_eq!(value(&ledger, &[], "dflow_memory_used_bytes"), Some(10));
    }

    #[test]
    fn the_number_of_peer_names_is_limited() {
        let mut ledger = Ledger::default();
        (0..MAX_PEERS + 10).for_each(|number| ledger.peer_gone(&format!("n{number}"), &peer(1, PathKind::Rdma).counts));
        assert_eq!(ledger.over.peers.len(), MAX_PEERS + 1);
        assert_eq!(value(&ledger, &[], "dflow_peer_sent_bytes_total{peer=\"(others)\",path=\"rdma\"}"), Some(10));
    }
}
