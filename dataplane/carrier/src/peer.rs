//! One other node, as the carrier sees it: the link, and the streams on it.

use crate::runs::RunNumber;
use crate::streams::{Failure, Streams};
use crate::{NodeId, Report};
use dflow_protocol::RunId;
use dflow_shm::Watchers;
use dflow_transport::{Link, LinkStats, Path};
use std::time::{Duration, Instant};

/// A path is lost after this long without a sign of life, unless the node says otherwise.
const SILENCE: Duration = Duration::from_secs(10);

pub(super) struct Peer {
    id: NodeId,
    pub(super) link: Link,
    pub(super) streams: Streams,
    pub(super) silence: Duration,
    /// The figures that were reported last.
    reported: LinkStats,
}

impl Peer {
    pub(super) fn new(id: NodeId, life: u64) -> Self {
        let (link, streams) = (Link::new(life), Streams::default());
        Self { id, link, streams, silence: SILENCE, reported: LinkStats::default() }
    }

    /// Uses a new path. Events and figures of the one before are reported first, under that one's number.
    pub(super) fn connect(&mut self, path: Box<dyn Path>, number: u64, report: &dyn Fn(Report)) {
        self.report_events(report);
        self.report_stats(report);
        self.link.connect(path, number);
    }

    /// Does what can be done without waiting. Returns whether there was anything.
    pub(super) fn step(&mut self, now: Instant, report: &dyn Fn(Report)) -> bool {
        let looked = self.streams.look(&mut self.link, now);
        let stepped = self.link.step(&mut self.streams);
        let aborted = self.streams.abort_unreadable(&mut self.link);
        self.report_events(report);
        looked || stepped || aborted
    }

    pub(super) fn tick(&mut self, now: Instant, report: &dyn Fn(Report)) {
        self.link.tick(now, self.silence);
        self.report_events(report);
        self.report_changes(report);
    }

    /// The run is over here, for this reason.
    pub(super) fn end_run(&mut self, run: RunId, number: RunNumber, reason: &str, report: &dyn Fn(Report)) {
        self.streams.end_run(&mut self.link, number, reason);
        self.report_traffic(run, report);
        self.link.release_traffic(run);
    }

    /// Closes the link for good. Returns what has failed on this node in doing so.
    pub(super) fn close(mut self, watchers: &mut Watchers, report: &dyn Fn(Report)) -> Vec<Failure> {
        self.report_events(report);
        self.report_changes(report);
        self.link.disconnect();
        self.streams.end_all(&mut self.link);
        // Without a path nothing is in flight, so every import is given up at once.
        let _ = self.link.settle(&mut self.streams);
        self.streams.forget_unwatched(watchers);
        self.streams.take_failures()
    }

    fn report_events(&mut self, report: &dyn Fn(Report)) {
        for event in self.link.take_events() {
            report(Report::Path(self.id, self.link.incarnation(), event));
        }
    }

    /// Reports the figures that have changed.
    pub(super) fn report_changes(&mut self, report: &dyn Fn(Report)) {
        if self.reported != self.link.stats() {
            self.report_stats(report);
        }
        for (run, traffic) in self.link.take_changed_traffic() {
            report(Report::RunStats(run, self.id, traffic));
        }
    }

    pub(super) fn report_stats(&mut self, report: &dyn Fn(Report)) {
        self.reported = self.link.stats();
        report(Report::Stats(self.id, self.reported));
    }

    pub(super) fn report_traffic(&self, run: RunId, report: &dyn Fn(Report)) {
        if let Some(traffic) = self.link.traffic(run) {
            report(Report::RunStats(run, self.id, traffic));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_transport::LinkEvent;
    use dflow_transport::sim::{SimConfig, SimNet};
    use std::cell::RefCell;

    #[test]
    fn a_loss_that_was_not_told_yet_is_not_that_of_the_next_path() {
        let net = SimNet::new(1, SimConfig::default());
        let lost = RefCell::new(Vec::new());
        let report = |report| {
            if let Report::Path(_, number, LinkEvent::PathLost(_)) = report {
                lost.borrow_mut().push(number);
            }
        };
        let limit = Duration::from_secs(1);
        let mut peer = Peer::new(NodeId(1), 7);
        let [(first, _other), (second, _another)] = [net.connect(), net.connect()].map(|[own, other]| (own, other));
        peer.connect(Box::new(first), 1, &report);
        let start = Instant::now();
        for quarter in 1..100 {
            peer.link.tick(start + limit / 4 * quarter, limit);
        }
        assert!(peer.link.path_kind().is_none() && lost.borrow().is_empty());
        peer.connect(Box::new(second), 2, &report);
        peer.report_events(&report);
        assert_eq!(*lost.borrow(), [1]);
    }
}
