//! iceoryx2: one publisher and many subscribers, which sleep until an event.

use iceoryx2::prelude::{Node, ipc};

use crate::failure::Failure;
use crate::fanout::{Fanout, Shape};
use crate::payload::Seen;
use crate::peers::iceoryx::{self, Receiver, Sender, node};
use crate::subject::{Card, End, Place, Role, Subject, Waiting};

/// The number of samples by which a subscriber may lag.
const BUFFER: usize = 4;

/// A fan-out over iceoryx2.
pub struct Iceoryx;

impl Subject for Iceoryx {
    fn card(&self) -> Card {
        Card {
            name: "iceoryx2-events",
            about: "iceoryx2 lossless publish-subscribe, subscribers sleep until an iceoryx2 event",
            role: Role::Peer,
            waiting: Waiting::Sleeping,
        }
    }
}

fn service(shape: Shape) -> iceoryx::Shape {
    iceoryx::Shape { size: shape.message, buffer: BUFFER, subscribers: shape.readers, waiting: Waiting::Sleeping }
}

impl Fanout for Iceoryx {
    fn writer(&self, place: &Place, shape: Shape) -> Result<Box<dyn End>, Failure> {
        let node = node()?;
        Ok(Box::new(Writer { sender: Sender::open(&node, place, "fanout", service(shape))?, _node: node }))
    }

    fn reader(&self, _: usize, place: &Place, shape: Shape) -> Result<Box<dyn End>, Failure> {
        let node = node()?;
        Ok(Box::new(Reader { receiver: Receiver::open(&node, place, "fanout", service(shape))?, _node: node }))
    }
}

struct Writer {
    sender: Sender,
    // Dropped last: the port lives in it.
    _node: Node<ipc::Service>,
}

impl End for Writer {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        self.sender.send(first)
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        Err(Failure::new("the writer of a fan-out cannot receive"))
    }
}

struct Reader {
    receiver: Receiver,
    // Dropped last: the port lives in it.
    _node: Node<ipc::Service>,
}

impl End for Reader {
    fn send(&mut self, _: u64) -> Result<(), Failure> {
        Err(Failure::new("a reader of a fan-out cannot send"))
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        self.receiver.receive()
    }
}
