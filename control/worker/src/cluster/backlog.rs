//! What a node has to say to another that has not taken in what was said before.

use super::message::Managed;
use dflow_transport::quic::Connection;
use std::collections::VecDeque;

/// Messages that wait until a connection has room for them. They are never more than a run has streams and instances to
/// speak of; a node that takes nothing in any more is lost for other reasons.
#[derive(Debug, Default)]
pub(super) struct Backlog(VecDeque<Vec<u8>>);

impl Backlog {
    /// Says this, behind what waits. A connection over which it cannot be said is closed, for that reason.
    pub(super) fn send(&mut self, message: &Managed, connection: &Connection) {
        match message.encode() {
            Ok(message) => self.0.push_back(message),
            Err(reason) => connection.close(&reason),
        }
        self.flush(connection);
    }

    /// Sends what waits, as far as there is room. The connection's waker is called when there is more.
    pub(super) fn flush(&mut self, connection: &Connection) {
        while !self.0.is_empty() && connection.has_room() {
            if let Some(Err(error)) = self.0.pop_front().map(|message| connection.send(message)) {
                return connection.close(&error.to_string());
            }
        }
    }
}
