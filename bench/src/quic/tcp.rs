//! TCP, without encryption.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;

use hdrhistogram::Histogram;

use crate::clock::Ticks;
use crate::failure::{Failure, Trying};
use crate::payload::{Seen, bytes, bytes_mut, fill, private};
use crate::quic::rendezvous::Rendezvous;
use crate::quic::transfer::{Ends, MESSAGE, PART, Party, Times, Transfer, Work};
use crate::subject::{Card, End, Role, Side, Subject, Waiting};

/// TCP without encryption.
pub struct Tcp;

impl Subject for Tcp {
    fn card(&self) -> Card {
        Card {
            name: "tcp",
            about: "TCP_NODELAY sockets, without encryption or authentication",
            role: Role::Peer,
            waiting: Waiting::Sleeping,
        }
    }
}

impl Transfer for Tcp {
    /// A TCP stream is a connection.
    fn does(&self, work: Work) -> bool {
        work != Work::Open
    }

    fn join(&self, work: Work, side: Side, rendezvous: &Rendezvous) -> Result<Box<dyn Party>, Failure> {
        let door = match side {
            Side::First => Door::Dials(rendezvous.receive()?),
            Side::Second => {
                let listener = TcpListener::bind(rendezvous.own_address(side)).trying("listen")?;
                rendezvous.send(listener.local_addr().trying("get the address of a socket")?)?;
                Door::Listens(listener)
            }
        };
        if work == Work::Connection {
            return Ok(Box::new(Connections { door, ticks: Ticks::calibrated() }));
        }
        let message = if work == Work::Stream { MESSAGE } else { PART };
        let end = TcpEnd { socket: door.pass()?, words: private(message), side, work };
        Ok(Box::new(Ends::new(end, work, side, message)))
    }
}

enum Door {
    Dials(SocketAddr),
    Listens(TcpListener),
}

impl Door {
    /// The next connection.
    fn pass(&self) -> Result<TcpStream, Failure> {
        let socket = match self {
            Door::Dials(peer) => TcpStream::connect(peer).trying("connect")?,
            Door::Listens(listener) => listener.accept().trying("accept a connection")?.0,
        };
        socket.set_nodelay(true).trying("set TCP_NODELAY")?;
        Ok(socket)
    }
}

/// Opens connections one after another. A connection is usable when a byte has been returned.
struct Connections {
    door: Door,
    ticks: Ticks,
}

impl Party for Connections {
    fn round(&mut self, numbers: Range<u64>) -> Result<Option<Histogram<u64>>, Failure> {
        let mut times = Times::new(self.ticks);
        for _ in numbers {
            let began = times.begin();
            let mut socket = self.door.pass()?;
            let mut byte = [1];
            if matches!(self.door, Door::Dials(_)) {
                socket.write_all(&byte).trying("greet")?;
                socket.read_exact(&mut byte).trying("be greeted")?;
                times.end(began);
            } else {
                socket.read_exact(&mut byte).trying("be greeted")?;
                socket.write_all(&byte).trying("greet")?;
            }
        }
        Ok(matches!(self.door, Door::Dials(_)).then(|| times.into_histogram()))
    }
}

struct TcpEnd {
    socket: TcpStream,
    words: Vec<u64>,
    side: Side,
    work: Work,
}

impl End for TcpEnd {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        fill(&mut self.words, first);
        self.socket.write_all(bytes(&self.words)).trying("write")
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        self.socket.read_exact(bytes_mut(&mut self.words)).trying("read")?;
        Ok(Seen::reading(&self.words))
    }

    /// The reader of a stream confirms that it has everything.
    fn flush(&mut self) -> Result<(), Failure> {
        match (self.work, self.side) {
            (Work::Stream, Side::First) => {
                self.socket.read_exact(&mut [0]).trying("receive the confirmation that everything has arrived")
            }
            (Work::Stream, Side::Second) => self.socket.write_all(&[1]).trying("confirm that everything has arrived"),
            _ => Ok(()),
        }
    }
}
