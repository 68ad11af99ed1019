//! The route to one other process: its connection, and the path on it that is in use.

use super::message::ManagementMessage;
use dflow_carrier::{Carrier, Command, NodeId};
use dflow_transport::{BASE, Connection, Effect, LinkEvent, Negotiator, PathKind, PathSettings, Signal};
use std::time::Duration;

/// A connection that has lasted for this long is not one of those that break at once.
const SETTLED: Duration = Duration::from_millis(200);

/// The route to one other process.
pub(crate) struct Route {
    peer: NodeId,
    pub(crate) connection: Connection,
    negotiator: Negotiator,
    failovers: Failovers,
}

impl Route {
    /// Uses a path of the base kind with this number at once. `leads`: this end offers better ones, not the other.
    ///
    /// # Errors
    /// If the connection, which is returned, is closed already.
    pub(crate) fn begin(
        connection: Connection,
        peer: NodeId,
        leads: bool,
        settings: &PathSettings,
        number: u64,
        carrier: &Carrier,
    ) -> Result<Self, (Connection, String)> {
        match Negotiator::begin(&connection, leads, settings, number, carrier.waker()) {
            Ok((negotiator, path)) => {
                carrier.tell(Command::Connect(peer, path, number));
                Ok(Self { peer, connection, negotiator, failovers: Failovers::default() })
            }
            Err(error) => Err((connection, error.to_string())),
        }
    }

    /// The number of the present path.
    pub(crate) fn number(&self) -> u64 {
        self.negotiator.path()
    }

    /// Whether the connection has lasted for a while.
    pub(crate) fn has_settled(&self) -> bool {
        self.negotiator.started().elapsed() >= SETTLED
    }

    /// How many paths were lost and replaced by one of the base kind.
    pub(crate) fn failovers(&self) -> u64 {
        self.failovers.count
    }

    /// Why the path is not by RDMA; `None` if it is, or if that is not known.
    pub(crate) fn why_not_rdma(&self) -> Option<String> {
        self.negotiator.why_not(PathKind::Rdma).map(str::to_owned)
    }

    /// The other end has sent a signal about the path.
    pub(crate) fn heard(&mut self, carrier: &Carrier, signal: Signal) {
        let effects = self.negotiator.receive(&self.connection, &carrier.waker(), signal);
        self.perform(carrier, effects);
    }

    /// The path of this number is lost. A peer that breaks the protocol loses its connection as well; see
    /// [`Connection::violation`] before it is dialed again.
    pub(crate) fn lost(&mut self, carrier: &Carrier, number: u64, event: &LinkEvent) {
        match event {
            LinkEvent::Violated(what) => self.connection.violated(what),
            LinkEvent::PathLost(error) if self.connection.closed().is_none() => {
                tracing::info!(node = self.connection.peer(), number, %error, "a path is lost");
                let effects = self.negotiator.lost(&self.connection, &carrier.waker(), number, error);
                self.perform(carrier, effects);
            }
            LinkEvent::PathLost(_) => {}
        }
    }

    /// To be called now and then: makes the offers that are due. `heard_on`: the number of the last path on which the other end
    /// was heard.
    pub(crate) fn tick(&mut self, carrier: &Carrier, heard_on: u64) {
        self.failovers.heard(heard_on);
        let effects = self.negotiator.tick(&self.connection, &carrier.waker());
        self.perform(carrier, effects);
    }

    fn perform(&mut self, carrier: &Carrier, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(signal) => {
                    if let Err(reason) = ManagementMessage::Path(signal).send(&self.connection) {
                        self.connection.close(&reason);
                    }
                }
                Effect::Use(path, number) => {
                    if path.kind() == BASE {
                        self.failovers.fell(number);
                    }
                    carrier.tell(Command::Connect(self.peer, path, number));
                }
                Effect::Close(error) => self.connection.close(&error.to_string()),
            }
        }
    }
}

/// Counts paths that were lost and replaced by one of the base kind. A path that was lost because the other end is gone, or has
/// finished the run, does not count: nothing is heard on its replacement.
#[derive(Debug, Default)]
struct Failovers {
    count: u64,
    /// The number of a replacement on which the other end has not been heard yet.
    next: Option<u64>,
}

impl Failovers {
    fn fell(&mut self, next: u64) {
        self.next.get_or_insert(next);
    }

    /// The last path on which the other end was heard has this number.
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
