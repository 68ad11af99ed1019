//! A Unix stream socket: the payload is copied into the kernel and out again, the reader asleep in between.

use crate::failure::Failure;
use crate::handoff::Handoff;
use crate::peers::unix_socket::SocketEnd;
use crate::subject::{End, Place, Role, Side, Subject, Waiting};

/// The socket.
pub struct UnixSocket;

impl Subject for UnixSocket {
    fn name(&self) -> &'static str {
        "unix-socket"
    }

    fn about(&self) -> &'static str {
        "a Unix stream socket between the two, blocking"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn waiting(&self) -> Waiting {
        Waiting::Sleeping
    }
}

impl Handoff for UnixSocket {
    fn join(&self, side: Side, place: &Place, size: usize) -> Result<Box<dyn End>, Failure> {
        Ok(Box::new(SocketEnd::join(side, place, size)?))
    }
}
