//! The way to one other node: its connection, and the path on it that is in use.

use super::message::Managed;
use super::rdma::RdmaEnd;
use crate::host::Host;
use crate::nodes::Place;
use crate::options::NodeOptions;
use dflow_carrier::{Command, NodeId};
use dflow_transport::quic::{Connection, QuicPath};
use dflow_transport::{Choice, LinkEvent, Path, Say, Step};
use std::time::{Duration, Instant};

/// One that has been there for so long is not counted among those that come and go at once.
const SETTLED: Duration = Duration::from_millis(200);

/// The way to one other node.
pub(super) struct Way {
    place: Place,
    pub(super) connection: Connection,
    choice: Choice,
    begun: Instant,
    rdma: RdmaEnd,
    /// A path by RDMA that the other end has not confirmed yet.
    connected: Option<Box<dyn Path>>,
    failovers: Failovers,
}

impl Way {
    /// Uses a QUIC path of this number at once. `leads`: this end offers RDMA, not the other.
    ///
    /// # Errors
    /// If the connection, which is given back, is closed already.
    pub(super) fn begin(
        connection: Connection,
        place: Place,
        leads: bool,
        options: &NodeOptions,
        number: u64,
        host: &Host,
    ) -> Result<Self, (Connection, String)> {
        let rdma = RdmaEnd::new(options.rdma.clone(), options.rdma_idle);
        let choice = Choice::new(leads, rdma.allowed(), number);
        let failovers = Failovers::default();
        let way = Self { place, choice, begun: Instant::now(), rdma, connected: None, connection, failovers };
        match way.use_quic(host, number) {
            Ok(()) => Ok(way),
            Err(reason) => Err((way.connection, reason)),
        }
    }

    /// The number of the present path.
    pub(super) fn number(&self) -> u64 {
        self.choice.path()
    }

    /// Whether it has been there for a while.
    pub(super) fn has_settled(&self) -> bool {
        self.begun.elapsed() >= SETTLED
    }

    /// How many paths were lost, so that the next one was by QUIC.
    pub(super) fn failovers(&self) -> u64 {
        self.failovers.count
    }

    /// Why the path is not by RDMA; `None` if it is, or if that is not known.
    pub(super) fn why_not_rdma(&self) -> Option<String> {
        self.choice.is_rdma().err().filter(|reason| !reason.is_empty()).map(str::to_owned)
    }

    /// The other end has said something about the path.
    pub(super) fn heard(&mut self, host: &Host, say: Say) {
        let steps = self.choice.heard(self.begun.elapsed(), say);
        self.perform(host, steps);
    }

    /// The path of this number is lost. A peer that breaks the protocol loses its connection, too: whoever finds that closed
    /// asks why ([`Connection::violation`]) before it dials again.
    pub(super) fn lost(&mut self, host: &Host, number: u64, event: &LinkEvent) {
        match event {
            LinkEvent::Violated(what) => self.connection.violated(what),
            LinkEvent::PathLost(error) if self.connection.closed().is_none() => {
                tracing::info!(node = self.connection.peer(), number, %error, "a path is lost");
                let steps = self.choice.lost(self.begun.elapsed(), number, error.to_string());
                self.perform(host, steps);
            }
            LinkEvent::PathLost(_) => {}
        }
    }

    /// To be called now and then: offers RDMA when it is time to.
    pub(super) fn tick(&mut self, host: &Host) {
        self.failovers.heard(host.heard_on(self.place));
        let steps = self.choice.tick(self.begun.elapsed());
        self.perform(host, steps);
    }

    fn perform(&mut self, host: &Host, steps: Vec<Step>) {
        self.take(host, steps);
        if self.choice.is_without_rdma() {
            self.rdma.let_go();
        }
    }

    fn take(&mut self, host: &Host, steps: Vec<Step>) {
        for step in steps {
            let follow = match step {
                Step::Say(say) => {
                    if let Err(reason) = Managed::Path(say).send(&self.connection) {
                        self.connection.close(&reason);
                    }
                    Vec::new()
                }
                Step::Quic(number) => {
                    tracing::info!(node = self.connection.peer(), "streams go by QUIC from now on");
                    self.connected = None;
                    self.failovers.fell(number);
                    if let Err(reason) = self.use_quic(host, number) {
                        self.connection.close(&reason);
                    }
                    Vec::new()
                }
                Step::Prepare(number) => {
                    let endpoint = self.prepare(host);
                    if let Err(reason) = &endpoint
                        && self.choice.is_rdma() != Err(reason)
                    {
                        tracing::info!(node = self.connection.peer(), reason, "no RDMA");
                    }
                    self.choice.prepared(self.begun.elapsed(), number, endpoint)
                }
                Step::Answer(number, endpoint) => match self.prepare(host) {
                    Ok(own) => {
                        let connected = self.rdma.connect(&endpoint).map(|path| self.connected = Some(path));
                        self.choice.answered(number, connected.map(|()| own))
                    }
                    Err(reason) => self.choice.unable(self.begun.elapsed(), number, reason),
                },
                Step::Look => {
                    // It is let go of again: an offer makes another.
                    let result = self.prepare(host).map(drop);
                    self.choice.looked(self.begun.elapsed(), result)
                }
                Step::Use(number) => {
                    if let Some(path) = self.connected.take() {
                        self.use_rdma(host, path, number);
                    }
                    Vec::new()
                }
                Step::Complete(number, endpoint) => {
                    let result = self.rdma.connect(&endpoint).map(|path| self.use_rdma(host, path, number));
                    self.choice.completed(self.begun.elapsed(), number, result)
                }
            };
            self.take(host, follow);
        }
    }

    fn use_quic(&self, host: &Host, number: u64) -> Result<(), String> {
        let Some(carrier) = host.carrier() else { return Ok(()) };
        let path = QuicPath::new(&self.connection, number, carrier.waker()).map_err(|error| error.to_string())?;
        self.use_path(host, Box::new(path), number);
        Ok(())
    }

    fn use_path(&self, host: &Host, path: Box<dyn Path>, number: u64) {
        if let Some(carrier) = host.carrier() {
            carrier.tell(Command::Connect(NodeId(self.place), path, number));
        }
    }

    /// Makes an RDMA endpoint: what the other end needs to connect with it.
    fn prepare(&mut self, host: &Host) -> Result<Vec<u8>, String> {
        let carrier = host.carrier().ok_or("there is no carrier")?;
        self.rdma.prepare(self.connection.address().ip(), carrier.waker())
    }

    fn use_rdma(&self, host: &Host, path: Box<dyn Path>, number: u64) {
        tracing::info!(node = self.connection.peer(), "streams go by RDMA from now on");
        self.use_path(host, path, number);
    }
}

/// Paths that were lost, so that streams went on by QUIC. One that was lost because the other end is gone, or is done with
/// the run, is none: nothing is heard on the path that would have been the next.
#[derive(Debug, Default)]
struct Failovers {
    count: u64,
    /// The number of a QUIC path that has taken the place of a lost one, until the other end is heard on it or a later one.
    next: Option<u64>,
}

impl Failovers {
    fn fell(&mut self, next: u64) {
        self.next.get_or_insert(next);
    }

    /// The other end was heard on the path of this number last.
    fn heard(&mut self, on: u64) {
        if self.next.is_some_and(|next| on >= next) {
            self.next = None;
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_path_is_a_failover_once_streams_go_on() {
        let mut failovers = Failovers::default();
        failovers.heard(1);
        failovers.fell(2);
        failovers.heard(1);
        assert_eq!(failovers.count, 0, "nothing has come by QUIC yet");
        failovers.heard(2);
        failovers.heard(3);
        assert_eq!(failovers.count, 1);
        // RDMA was back as 3, and is lost; so is the next path before anything comes on it.
        failovers.fell(4);
        failovers.fell(5);
        assert_eq!(failovers.count, 1);
        failovers.heard(5);
        assert_eq!(failovers.count, 2);
    }
}
