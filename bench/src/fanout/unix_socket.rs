//! A Unix stream socket for each reader: the writer copies every message once per reader.

use crate::failure::{Failure, Trying};
use crate::fanout::{Fanout, Shape};
use crate::payload::{Seen, bytes, fill, private};
use crate::peers::unix_socket::{SocketEnd, connect, listen};
use crate::subject::{Card, End, Place, Role, Subject, Waiting};
use std::io::Write;
use std::os::unix::net::UnixStream;

/// Unix sockets.
pub struct UnixSocket;

impl Subject for UnixSocket {
    fn card(&self) -> Card {
        Card {
            name: "unix-socket",
            about: "a Unix stream socket for each reader, written in turn",
            role: Role::Peer,
            waiting: Waiting::Sleeping,
        }
    }
}

impl Fanout for UnixSocket {
    fn writer(&self, place: &Place, shape: Shape) -> Result<Box<dyn End>, Failure> {
        let listener = listen(place)?;
        let accepted =
            (0..shape.readers).map(|_| listener.accept().trying("accept a reader").map(|(socket, _)| socket));
        Ok(Box::new(Writer { sockets: accepted.collect::<Result<_, _>>()?, words: private(shape.message) }))
    }

    fn reader(&self, _: usize, place: &Place, shape: Shape) -> Result<Box<dyn End>, Failure> {
        Ok(Box::new(SocketEnd::new(connect(place)?, shape.message)))
    }
}

struct Writer {
    sockets: Vec<UnixStream>,
    words: Vec<u64>,
}

impl End for Writer {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        fill(&mut self.words, first);
        for socket in &mut self.sockets {
            socket.write_all(bytes(&self.words)).trying("write to a reader")?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        Err(Failure::new("the writer of a fan-out cannot receive"))
    }
}
