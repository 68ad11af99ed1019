//! A Unix stream socket for each stream.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::failure::{Failure, Trying};
use crate::fanout::many::{Ends, LENGTH, ManyEnd};
use crate::payload::{Seen, bytes, bytes_mut, fill, private};
use crate::peers::unix_socket::{connect, listen};
use crate::subject::{Card, Place, Role, Side, Subject, Waiting};

/// Unix sockets.
pub struct UnixSocket;

impl Subject for UnixSocket {
    fn card(&self) -> Card {
        Card {
            name: "unix-socket",
            about: "a Unix stream socket for each: connect, write; accept, read",
            role: Role::Peer,
            waiting: Waiting::Sleeping,
        }
    }
}

impl Ends for UnixSocket {
    fn join(&self, side: Side, place: &Place, _: usize) -> Result<Box<dyn ManyEnd>, Failure> {
        Ok(match side {
            Side::First => Box::new(Writer { place: place.clone(), open: Vec::new() }),
            Side::Second => Box::new(Reader { listener: listen(place)?, open: Vec::new() }),
        })
    }
}

struct Writer {
    place: Place,
    open: Vec<UnixStream>,
}

impl ManyEnd for Writer {
    fn move_all(&mut self, streams: usize) -> Result<(), Failure> {
        self.open.clear();
        let mut words = private(LENGTH);
        for stream in 0..streams {
            let mut socket = connect(&self.place)?;
            fill(&mut words, stream as u64);
            socket.write_all(bytes(&words)).trying("write to a stream")?;
            self.open.push(socket);
        }
        Ok(())
    }
}

struct Reader {
    listener: UnixListener,
    open: Vec<UnixStream>,
}

impl ManyEnd for Reader {
    fn move_all(&mut self, streams: usize) -> Result<(), Failure> {
        self.open.clear();
        let mut words = private(LENGTH);
        for _ in 0..streams {
            let (mut socket, _) = self.listener.accept().trying("accept a stream")?;
            socket.read_exact(bytes_mut(&mut words)).trying("read from a stream")?;
            Seen::reading(&words).check(LENGTH)?;
            self.open.push(socket);
        }
        Ok(())
    }
}
