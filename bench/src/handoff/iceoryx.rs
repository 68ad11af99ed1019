//! iceoryx2: zero-copy publish-subscribe between the two processes.

use iceoryx2::prelude::{Node, ipc};

use crate::failure::Failure;
use crate::handoff::Handoff;
use crate::payload::Seen;
use crate::peers::iceoryx::{Receiver, Sender, Shape, node};
use crate::subject::{Card, End, Place, Role, Side, Subject, Waiting};

/// The subscriber polls.
pub static SPINNING: Iceoryx = Iceoryx {
    name: "iceoryx2",
    about: "iceoryx2 publish-subscribe, written and read in place, the subscriber spins",
    waiting: Waiting::Spinning,
};

/// The subscriber sleeps until an event.
pub static EVENTS: Iceoryx = Iceoryx {
    name: "iceoryx2-events",
    about: "the same, the subscriber sleeps until an iceoryx2 event",
    waiting: Waiting::Sleeping,
};

/// A hand-off over iceoryx2.
pub struct Iceoryx {
    name: &'static str,
    about: &'static str,
    waiting: Waiting,
}

impl Subject for Iceoryx {
    fn card(&self) -> Card {
        Card { name: self.name, about: self.about, role: Role::Peer, waiting: self.waiting }
    }
}

impl Handoff for Iceoryx {
    fn join(&self, side: Side, place: &Place, size: usize) -> Result<Box<dyn End>, Failure> {
        let node = node()?;
        let shape = Shape { size, buffer: 1, subscribers: 1, waiting: self.waiting };
        let (mine, theirs) = match side {
            Side::First => ("there", "back"),
            Side::Second => ("back", "there"),
        };
        let sender = Sender::open(&node, place, mine, shape)?;
        let receiver = Receiver::open(&node, place, theirs, shape)?;
        Ok(Box::new(IceoryxEnd { sender, receiver, _node: node }))
    }
}

struct IceoryxEnd {
    sender: Sender,
    receiver: Receiver,
    // Dropped last: the ports live in it.
    _node: Node<ipc::Service>,
}

impl End for IceoryxEnd {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        self.sender.send(first)
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        self.receiver.receive()
    }
}
