//! iceoryx2: every message is a sample of a lossless publish-subscribe service.

use iceoryx2::prelude::{Node, ipc};

use crate::failure::Failure;
use crate::payload::Seen;
use crate::peers::iceoryx::{Receiver, Sender, Shape, node};
use crate::stream::{Layout, Stream};
use crate::subject::{Card, End, Place, Role, Side, Subject, Waiting};

/// The number of samples by which the subscriber may lag, so that the two ends overlap.
const BUFFER: usize = 16;

/// A stream over iceoryx2.
pub struct Iceoryx;

impl Subject for Iceoryx {
    fn card(&self) -> Card {
        Card {
            name: "iceoryx2",
            about: "iceoryx2 lossless publish-subscribe, 16 samples of buffer, both ends spin",
            role: Role::Peer,
            waiting: Waiting::Spinning,
        }
    }
}

impl Stream for Iceoryx {
    fn join(&self, side: Side, place: &Place, layout: Layout) -> Result<Box<dyn End>, Failure> {
        let node = node()?;
        let shape = Shape { size: layout.message, buffer: BUFFER, subscribers: 1, waiting: Waiting::Spinning };
        let port = match side {
            Side::First => Port::Sender(Sender::open(&node, place, "stream", shape)?),
            Side::Second => Port::Receiver(Receiver::open(&node, place, "stream", shape)?),
        };
        Ok(Box::new(IceoryxEnd { port, _node: node }))
    }
}

enum Port {
    Sender(Sender),
    Receiver(Receiver),
}

struct IceoryxEnd {
    port: Port,
    // Dropped last: the port lives in it.
    _node: Node<ipc::Service>,
}

impl End for IceoryxEnd {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        match &mut self.port {
            Port::Sender(sender) => sender.send(first),
            Port::Receiver(_) => Err(Failure::new("the reading end of a stream cannot send")),
        }
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        match &mut self.port {
            Port::Receiver(receiver) => receiver.receive(),
            Port::Sender(_) => Err(Failure::new("the writing end of a stream cannot receive")),
        }
    }
}
