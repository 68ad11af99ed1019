//! Unix stream sockets that carry payloads.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Trying};
use crate::payload::{Seen, bytes, bytes_mut, fill, private};
use crate::subject::{End, Place, Side};

/// How long the two sides may take to connect.
const MEETING_LIMIT: Duration = Duration::from_secs(10);

/// The name of the socket.
const NAME: &str = "socket";

/// One end of a socket.
pub struct SocketEnd {
    socket: UnixStream,
    words: Vec<u64>,
}

impl SocketEnd {
    /// Connects the two sides, for payloads of `size` bytes.
    pub fn join(side: Side, place: &Place, size: usize) -> Result<SocketEnd, Failure> {
        let socket = match side {
            Side::First => listen(place)?.accept().trying("accept the other process")?.0,
            Side::Second => connect(place)?,
        };
        Ok(SocketEnd::new(socket, size))
    }

    /// Uses a connected socket.
    pub fn new(socket: UnixStream, size: usize) -> SocketEnd {
        SocketEnd { socket, words: private(size) }
    }
}

impl End for SocketEnd {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        fill(&mut self.words, first);
        self.socket.write_all(bytes(&self.words)).trying("write to the socket")
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        self.socket.read_exact(bytes_mut(&mut self.words)).trying("read from the socket")?;
        Ok(Seen::reading(&self.words))
    }
}

/// Listens on the socket of a place.
pub fn listen(place: &Place) -> Result<UnixListener, Failure> {
    UnixListener::bind(place.path(NAME)).trying("listen on a Unix socket")
}

/// Connects to the listening side, which may not listen yet.
pub fn connect(place: &Place) -> Result<UnixStream, Failure> {
    connect_to(&place.path(NAME))
}

/// Connects to a path, on which the other side may not listen yet.
pub fn connect_to(path: &Path) -> Result<UnixStream, Failure> {
    let deadline = Instant::now() + MEETING_LIMIT;
    loop {
        match UnixStream::connect(path) {
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            outcome => return outcome.trying(format_args!("connect to {}", path.display())),
        }
    }
}
