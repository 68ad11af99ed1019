//! dflow: a link over a QUIC path, from a window in one process to a window in another.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;

use dflow_transport::quic::{Connection, Incoming, QuicNode, QuicSettings};
use hdrhistogram::Histogram;

use crate::clock::Ticks;
use crate::failure::{Failure, Trying};
use crate::payload::{Seen, fill};
use crate::quic::linked::Linked;
use crate::quic::rendezvous::{Rendezvous, name};
use crate::quic::transfer::{Ends, MESSAGE, PART, Party, Times, Transfer, Work, first_word};
use crate::subject::{Card, End, Role, Side, Subject, Waiting};

/// Bytes received directly into the granted window, like all but the first bytes of a stream.
pub static WINDOW: Ours = Ours {
    name: "dflow",
    about: "dflow's Link over a QuicPath, from window to window; two threads per side",
    inside: Inside::Windows,
};

/// Bytes inside messages, like the first 64 KiB of a stream.
pub static MESSAGES: Ours = Ours {
    name: "dflow-messages",
    about: "the same with the bytes inside messages, like the first bytes of each stream",
    inside: Inside::Messages,
};

/// dflow over QUIC.
pub struct Ours {
    name: &'static str,
    about: &'static str,
    inside: Inside,
}

/// How bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// Into windows.
    Windows,
    /// Inside messages.
    Messages,
}

impl Subject for Ours {
    fn card(&self) -> Card {
        Card { name: self.name, about: self.about, role: Role::Ours, waiting: Waiting::Sleeping }
    }
}

impl Transfer for Ours {
    fn does(&self, work: Work) -> bool {
        self.inside == Inside::Windows || work == Work::RoundTrip
    }

    fn join(&self, work: Work, side: Side, rendezvous: &Rendezvous) -> Result<Box<dyn Party>, Failure> {
        let identity = rendezvous.identity(side)?;
        let (node, mut incoming) =
            QuicNode::bind(rendezvous.own_address(side), &identity, QuicSettings::default()).trying("set up a node")?;
        let peer = if side == Side::First {
            rendezvous.receive()?
        } else {
            rendezvous.send(node.local_address())?;
            node.local_address()
        };
        if work == Work::Connection {
            let ticks = Ticks::calibrated();
            return Ok(Box::new(Connections { node, incoming, peer, side, kept: VecDeque::new(), ticks }));
        }
        let connection = match side {
            Side::First => node.connect(peer, name(Side::Second)).wait().trying("connect")?,
            Side::Second => incoming.wait().ok_or_else(|| Failure::new("the node has ended"))?,
        };
        let linked = Linked::new(node, connection, side)?;
        match work {
            Work::Open => Ok(Box::new(Streams { linked, side, ticks: Ticks::calibrated() })),
            _ => {
                let message = if work == Work::Stream { MESSAGE } else { PART };
                Ok(Box::new(Ends::new(Pipe::new(linked, work, side, self.inside, message)?, work, side, message)))
            }
        }
    }
}

/// Opens connections one after another, each until both sides have verified the other's protocol, version and cluster.
struct Connections {
    node: QuicNode,
    incoming: Incoming,
    peer: SocketAddr,
    side: Side,
    /// The most recent connections, kept until the other side has certainly finished with them.
    kept: VecDeque<Connection>,
    ticks: Ticks,
}

impl Party for Connections {
    fn round(&mut self, numbers: Range<u64>) -> Result<Option<Histogram<u64>>, Failure> {
        const KEPT: usize = 8;
        let mut times = Times::new(self.ticks);
        for _ in numbers {
            if self.side == Side::First {
                let began = times.begin();
                let connection = self.node.connect(self.peer, name(Side::Second)).wait().trying("connect")?;
                times.end(began);
                // The drop closes the connection.
                drop(connection);
            } else {
                self.kept.extend(self.incoming.wait());
                if self.kept.len() > KEPT {
                    self.kept.pop_front();
                }
            }
        }
        Ok((self.side == Side::First).then(|| times.into_histogram()))
    }
}

/// Opens streams one after another: the first side subscribes and waits for the bytes.
struct Streams {
    linked: Linked,
    side: Side,
    ticks: Ticks,
}

impl Party for Streams {
    fn round(&mut self, numbers: Range<u64>) -> Result<Option<Histogram<u64>>, Failure> {
        let mut times = Times::new(self.ticks);
        for number in numbers {
            // Every stream has the same bytes, at the start of the window.
            if self.side == Side::First {
                let room = self.linked.new_slot()?;
                let began = times.begin();
                self.linked.subscribe(number, room)?;
                self.linked.wait_for_bytes(PART as u64)?;
                times.end(began);
                Seen::reading(self.linked.arrived(PART)).check(PART)?;
                self.linked.wait_for_end()?;
            } else {
                self.linked.wait_for_reader()?;
                fill(self.linked.room(PART)?, first_word(number, PART));
                self.linked.commit(PART);
                self.linked.finish()?;
            }
        }
        self.linked.settle()?;
        Ok((self.side == Side::First).then(|| times.into_histogram()))
    }
}

/// A stream in one direction or both.
struct Pipe {
    linked: Linked,
    inside: Inside,
    message: usize,
    writes: bool,
    reads: bool,
}

impl Pipe {
    fn new(linked: Linked, work: Work, side: Side, inside: Inside, message: usize) -> Result<Pipe, Failure> {
        let both = work != Work::Stream;
        let (writes, reads) = (both || side == Side::First, both || side == Side::Second);
        let mut pipe = Pipe { linked, inside, message, writes, reads };
        pipe.open(0)?;
        Ok(pipe)
    }

    /// Subscribes to the stream that it reads, and waits for the reader of the stream that it writes.
    fn open(&mut self, number: u64) -> Result<(), Failure> {
        if self.reads {
            let place = match self.inside {
                Inside::Windows => self.linked.new_ring()?,
                Inside::Messages => self.linked.new_slot()?,
            };
            self.linked.subscribe(number, place)?;
        }
        if self.writes {
            self.linked.wait_for_reader()?;
        }
        Ok(())
    }
}

impl End for Pipe {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        fill(self.linked.room(self.message)?, first);
        self.linked.commit(self.message);
        self.linked.step()
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        self.linked.wait_for_bytes(self.message as u64)?;
        let seen = Seen::reading(self.linked.arrived(self.message));
        self.linked.consume(self.message);
        Ok(seen)
    }

    /// Begins the next streams when the current ones have no credit left for bytes inside messages.
    fn between(&mut self) -> Result<(), Failure> {
        if self.inside == Inside::Messages && self.linked.is_slot_used_up() {
            self.linked.finish()?;
            self.linked.wait_for_end()?;
            self.open(self.linked.number() + 1)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if self.writes && !self.reads {
            self.linked.wait_until_released()?;
        }
        self.linked.settle()
    }
}
