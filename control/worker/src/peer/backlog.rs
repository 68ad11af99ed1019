//! Messages to a node that has not yet accepted earlier ones.

use super::message::ManagementMessage;
use dflow_transport::Connection;
use std::collections::VecDeque;

/// Messages that wait until a connection has room for them. Their number is bounded by the run's streams and instances;
/// a node that stops reading is declared lost by other means.
#[derive(Debug, Default)]
pub(crate) struct Backlog(VecDeque<Vec<u8>>);

impl Backlog {
    /// Sends a message after those that wait. If it cannot be encoded, the connection is closed with that reason.
    pub(crate) fn send(&mut self, message: &ManagementMessage, connection: &Connection) {
        match message.encode() {
            Ok(message) => self.0.push_back(message),
            Err(reason) => connection.close(&reason),
        }
        self.flush(connection);
    }

    /// Whether nothing waits, and a message would go at once.
    pub(crate) fn has_room(&self, connection: &Connection) -> bool {
        self.0.is_empty() && connection.has_room()
    }

    /// Sends waiting messages as far as there is room. The connection's waker is called when there is room again.
    pub(crate) fn flush(&mut self, connection: &Connection) {
        while !self.0.is_empty() && connection.has_room() {
            if let Some(Err(error)) = self.0.pop_front().map(|message| connection.send(message)) {
                return connection.close(&error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::RunMessage;
    use super::*;
    use dflow_transport::identity::ClusterCa;
    use dflow_transport::{Node, NodeSettings};
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    #[test]
    fn more_than_the_connection_takes_arrives_in_order_when_it_is_read() {
        const MESSAGES: usize = 100_000;
        let ca = ClusterCa::create("test").unwrap();
        let [(a, _), (b, mut incoming)] = ["a", "b"].map(|name| {
            let identity = ca.issue(name, Duration::from_secs(3600)).unwrap();
            Node::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &identity, NodeSettings::default()).unwrap()
        });
        let near = a.connect(b.local_address(), "b").wait().unwrap();
        let far = incoming.wait().unwrap();
        let say = |number: usize| ManagementMessage::Run {
            run: 7,
            message: RunMessage::Refused { reason: format!("{number:>500}") },
        };
        let mut backlog = Backlog::default();
        (0..MESSAGES).for_each(|number| backlog.send(&say(number), &near));
        // Unread messages fill every queue and window between the two ends.
        assert!(!backlog.0.is_empty() && near.closed().is_none(), "{:?}", near.closed());
        for number in 0..MESSAGES {
            let message = loop {
                backlog.flush(&near);
                match ManagementMessage::receive(&far).unwrap() {
                    Some(message) => break message,
                    None => assert!(near.closed().is_none(), "{:?}", near.closed()),
                }
                std::thread::yield_now();
            };
            assert!(message == say(number));
        }
        assert!(backlog.0.is_empty());
    }
}
