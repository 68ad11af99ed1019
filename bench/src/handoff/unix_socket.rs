//! A Unix stream socket: the payload is copied into the kernel and out again while the reader sleeps.

use crate::failure::Failure;
use crate::handoff::Handoff;
use crate::peers::unix_socket::SocketEnd;
use crate::subject::{Card, End, Place, Role, Side, Subject, Waiting};

/// A Unix socket.
pub struct UnixSocket;

impl Subject for UnixSocket {
    fn card(&self) -> Card {
        Card {
            name: "unix-socket",
            about: "a blocking Unix stream socket between the two processes",
            role: Role::Peer,
            waiting: Waiting::Sleeping,
        }
    }
}

impl Handoff for UnixSocket {
    fn join(&self, side: Side, place: &Place, size: usize) -> Result<Box<dyn End>, Failure> {
        Ok(Box::new(SocketEnd::join(side, place, size)?))
    }
}
