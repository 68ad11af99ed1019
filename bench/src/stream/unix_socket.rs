//! A Unix stream socket: every byte is copied into the kernel and out again.

use crate::failure::Failure;
use crate::peers::unix_socket::SocketEnd;
use crate::stream::{Layout, Stream};
use crate::subject::{End, Place, Role, Side, Subject, Waiting};

/// The socket.
pub struct UnixSocket;

impl Subject for UnixSocket {
    fn name(&self) -> &'static str {
        "unix-socket"
    }

    fn about(&self) -> &'static str {
        "a Unix stream socket, one write and one read a message"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn waiting(&self) -> Waiting {
        Waiting::Sleeping
    }
}

impl Stream for UnixSocket {
    fn join(&self, side: Side, place: &Place, layout: Layout) -> Result<Box<dyn End>, Failure> {
        Ok(Box::new(SocketEnd::join(side, place, layout.message)?))
    }
}
