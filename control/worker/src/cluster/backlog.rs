//! What a node has to say to another that has not taken in what was said before.

use super::message::Managed;
use dflow_transport::quic::Connection;
use std::collections::VecDeque;

/// Messages that wait until a connection has room for them. They are never more than a run has streams and instances to
/// speak of; a node that takes nothing in any more is lost for other reasons.
#[derive(Debug, Default)]
pub(super) struct Backlog(VecDeque<Vec<u8>>);

impl Backlog {
    /// Says this, behind what waits.
    ///
    /// # Errors
    /// Why it cannot be sent.
    pub(super) fn send(&mut self, message: &Managed, connection: &Connection) -> Result<(), String> {
        self.0.push_back(message.encode()?);
        self.flush(connection)
    }

    /// Sends what waits, as far as there is room. The connection's waker is called when there is more.
    ///
    /// # Errors
    /// Why it cannot be sent.
    pub(super) fn flush(&mut self, connection: &Connection) -> Result<(), String> {
        while !self.0.is_empty() && connection.has_room() {
            let Some(message) = self.0.pop_front() else { break };
            connection.send(message).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
