//! A Unix stream socket: every byte is copied into the kernel and out again.

use crate::failure::Failure;
use crate::peers::unix_socket::SocketEnd;
use crate::stream::{Layout, Stream};
use crate::subject::{Card, End, Place, Role, Side, Subject, Waiting};

/// A Unix socket.
pub struct UnixSocket;

impl Subject for UnixSocket {
    fn card(&self) -> Card {
        Card {
            name: "unix-socket",
            about: "a Unix stream socket, one write and one read per message",
            role: Role::Peer,
            waiting: Waiting::Sleeping,
        }
    }
}

impl Stream for UnixSocket {
    fn join(&self, side: Side, place: &Place, layout: Layout) -> Result<Box<dyn End>, Failure> {
        Ok(Box::new(SocketEnd::join(side, place, layout.message)?))
    }
}
