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

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_transport::quic::{ClusterCa, QuicNode, QuicSettings};
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    #[test]
    fn more_than_the_connection_takes_arrives_in_order_when_it_is_read() {
        const MESSAGES: usize = 100_000;
        let ca = ClusterCa::create("test").unwrap();
        let [(a, _), (b, mut incoming)] = ["a", "b"].map(|name| {
            let identity = ca.issue(name, Duration::from_secs(3600)).unwrap();
            QuicNode::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &identity, QuicSettings::default()).unwrap()
        });
        let near = a.connect(b.local_address(), "b").wait().unwrap();
        let far = incoming.wait().unwrap();
        let say = |number: usize| Managed::Refused { reason: format!("{number:>500}") };
        let mut backlog = Backlog::default();
        (0..MESSAGES).for_each(|number| backlog.send(&say(number), &near));
        // What nobody reads fills all queues and windows on the way.
        assert!(!backlog.0.is_empty() && near.closed().is_none(), "{:?}", near.closed());
        for number in 0..MESSAGES {
            let message = loop {
                backlog.flush(&near);
                match Managed::receive(&far).unwrap() {
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
