//! A process's ends of its streams: non-blocking, with waits that have a limit and can be interrupted, and with owned views.
//!
//! The floors below know nothing of the daemon's messages (`dflow-shm`) or nothing of memory (`dflow-protocol`); this crate
//! ties them together for one attempt. What stands on it: the Rust SDK (`dflow-function`), which blocks; the carrier, which
//! serves many streams with one thread; the daemon's own threads; and bindings for other languages. There is no runtime in
//! here, and no thread unless one is asked for.
//!
//! | type | is |
//! | --- | --- |
//! | [`Session`] | the connection of one attempt to its daemon; waits |
//! | [`InPort`], [`FanIn`] | the reading end of a stream, and those of a list of streams |
//! | [`OutPort`], [`Parts`] | the writing end of a stream, and an output that opens more of them |
//! | [`View`] | bytes of a stream that outlive the call that found them |
//! | [`Poller`] | a descriptor for `poll(2)`, `epoll(7)` and event loops |
//! | [`Interrupter`] | ends the waits of a session from another thread |
//! | [`Attachment`] | many streams lent to, and landing from, other nodes |
//! | [`local`] | a node for one attempt in its own process: streams from files, pipes and bytes |
//!
//! # Try, then wait
//! A call that starts with `try_` or `poll` never waits for another process: it answers [`Next::WouldBlock`], and
//! [`Session::wait`] waits until it is worth to try again. It may wait for microseconds for a message that the daemon has
//! announced already.
//!
//! ```no_run
//! use dflow_ports::{InPort, Next, ReadError, Session, Waited};
//! use std::time::Duration;
//!
//! /// How many bytes come within ten seconds of each other.
//! fn count(session: &Session, input: &mut InPort) -> Result<u64, ReadError> {
//!     let mut bytes = 0;
//!     loop {
//!         match input.try_next_chunk()? {
//!             Next::Ready(chunk) => bytes += chunk.len() as u64,
//!             Next::End => return Ok(bytes),
//!             Next::WouldBlock => {
//!                 if session.wait(input, Some(Duration::from_secs(10))) == Waited::TimedOut {
//!                     return Ok(bytes);
//!                 }
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! # Borrowed and owned
//! [`InPort::try_next_chunk`] borrows: it costs two loads and no reference count, and the next call gives the bytes back to
//! the producer. [`InPort::try_next_view`] owns: a [`View`] may be cloned, sent to other threads and kept after the port and
//! the session are gone. While it lives, the position that the producer knows stays at or below it, so a view that is kept
//! for ever costs the producer what a slow reader costs it.

//!
//! # Event loops
//! Streams are waited for by futexes on shared words, which no `epoll` can watch. A [`Poller`] bridges that: only while it
//! is armed, a thread of its own sleeps on those words and then makes a descriptor readable. Nothing of that is paid by
//! [`Session::wait`], nor by a program without a poller.

mod attachment;
mod error;
mod fan_in;
mod inbox;
mod input;
pub mod local;
mod opening;
mod output;
mod parts;
mod poller;
mod session;

pub use attachment::{Attaching, Attachment, Incoming, Outgoing, RoomFor};
pub use dflow_protocol::PortId;
pub use dflow_protocol::message::{ArgPiece, InputSpec, OutputSpec, OutputStreams, ProgramState, Setup};
pub use dflow_shm::View;
pub use error::{ReadError, SessionError, WriteError};
pub use fan_in::FanIn;
pub use input::{Available, InPort, Lent, MAX_VIEWED, Next};
pub use output::{OutPort, Reservation, Reserve, Space, Suspended};
pub use parts::Parts;
pub use poller::{Armed, Poller};
pub use session::{Interrupter, Port, Session, Waited};
