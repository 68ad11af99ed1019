//! Why a port cannot go on: one error for each operation.

use dflow_protocol::limits::{MAX_WINDOW, PROTOCOL_VERSION};
use dflow_protocol::message::MessageError;
use dflow_shm::{SegmentError, StagingError};
use rustix::io::Errno;

/// The connection to the daemon cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The daemon has closed the channel.
    #[error("the daemon is gone")]
    Gone,
    /// The channel failed.
    #[error("the daemon is gone: {0}")]
    Channel(#[from] Errno),
    /// The daemon speaks another version of the protocol.
    #[error("this function speaks dflow protocol {PROTOCOL_VERSION}, the daemon {0}; build both from the same release")]
    Version(u32),
    /// A message cannot be encoded or decoded.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// Memory that the daemon sent cannot be mapped.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The daemon sent a message that makes no sense at this point.
    #[error("the daemon broke the protocol: {0}")]
    Protocol(String),
}

/// An input cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The producer failed, or the run gave the stream up.
    #[error("the input '{input}' was given up: {reason}")]
    Abandoned {
        /// The input's name.
        input: String,
        /// Why, as the daemon says.
        reason: String,
    },
    /// A slice over the whole stream was asked for, but its bytes are dropped once they are read.
    #[error(
        "a slice over the whole input '{input}' needs all its bytes: set 'keep: true' (or 'gate: whole') for it in the \
         workflow file, or pass '--keep {input}' where the program runs alone"
    )]
    NotKept {
        /// The input's name.
        input: String,
    },
    /// The file behind the input is shorter than it was when the run began.
    #[error(
        "the file behind the input '{input}' ends at {at} bytes, before its {length} bytes have been read: was it changed \
         during the run?"
    )]
    Truncated {
        /// The input's name.
        input: String,
        /// Where the file ends now, in bytes.
        at: u64,
        /// Where it should end, in bytes.
        length: u64,
    },
    /// The file behind the input cannot be read.
    #[error("cannot read the file behind the input '{input}': {source}")]
    File {
        /// The input's name.
        input: String,
        /// Why not.
        source: Errno,
    },
    /// Bytes of a file cannot be staged for a network card.
    #[error(transparent)]
    Staging(#[from] StagingError),
}

/// An output cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Every reader has closed the stream, so that writing more of it is of no use.
    #[error("nobody reads the output '{output}' any more")]
    Unread {
        /// The output's name.
        output: String,
    },
    /// More contiguous room was asked for than a window can have.
    #[error("{length} bytes at once are more than the {MAX_WINDOW} that a window can have; write '{output}' in parts")]
    TooLarge {
        /// The output's name.
        output: String,
        /// The room that was asked for, in bytes.
        length: u64,
    },
    /// More was committed than had been reserved.
    #[error("{length} bytes were committed to the output '{output}', where {room} were reserved")]
    Overcommitted {
        /// The output's name.
        output: String,
        /// How many bytes were committed.
        length: u64,
        /// How many were reserved.
        room: u64,
    },
    /// Bytes landed outside every window of the output.
    #[error("bytes of the output '{output}' have landed where it has no window")]
    NoWindow {
        /// The output's name.
        output: String,
    },
    /// The daemon refuses to open one more part.
    #[error("the output '{output}' gets no further part: {reason}")]
    PartRefused {
        /// The output's name.
        output: String,
        /// Why, as the daemon says.
        reason: String,
    },
}

impl WriteError {
    /// Whether the reason is that nobody reads the output any more, which is a reason to end rather than a failure.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        matches!(self, Self::Unread { .. })
    }
}

impl From<SegmentError> for ReadError {
    fn from(error: SegmentError) -> Self {
        Self::Session(error.into())
    }
}

impl From<SegmentError> for WriteError {
    fn from(error: SegmentError) -> Self {
        Self::Session(error.into())
    }
}

/// A value from the daemon that does not fit into this machine's addresses.
pub(crate) fn too_large(value: u64) -> SessionError {
    SessionError::Protocol(format!("it named {value} bytes, more than this machine can address"))
}

/// A number of bytes as this machine addresses them.
pub(crate) fn to_usize(value: u64) -> Result<usize, SessionError> {
    usize::try_from(value).map_err(|_| too_large(value))
}
