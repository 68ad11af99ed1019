//! The messages between an attempt of a function and its node's daemon, over a `SOCK_SEQPACKET` Unix socket: one
//! message is one packet. They are sent where a stream begins, ends, changes its window or gets stuck, never for a
//! chunk on its way.
//!
//! The daemon believes nothing that it reads here: the bytes are validated on [`ToDaemon::decode`], and every port and offset is
//! checked against what it granted.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use crate::ids::{PortId, SegmentId};
use crate::limits::MAX_MESSAGE;
use rkyv::{Archive, Deserialize, Serialize, rancor};

/// From the daemon to an attempt. A message that names a segment for the first time is preceded by
/// [`ToFunction::Segment`].
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub enum ToFunction {
    /// The first message. Carries the descriptor of the daemon's page of bells.
    Setup(Setup),
    /// The gate is open: the function may run.
    Start,
    /// A segment's descriptor comes along.
    Segment {
        /// Its id, under which a later message names it.
        segment: SegmentId,
        /// What it is.
        kind: SegmentUse,
    },
    /// An input has one more stream, read through this port.
    AddStream {
        /// Index of the input.
        input: u32,
        /// The port for the stream's position.
        port: PortId,
    },
    /// An input gets no more streams than it has.
    StreamsComplete {
        /// Index of the input.
        input: u32,
    },
    /// The next bytes of a stream, from the offset at which the piece before ended.
    Piece {
        /// The reading port.
        port: PortId,
        /// Where they are.
        piece: Piece,
    },
    /// The piece that this port reads ends here: bytes past this offset are elsewhere.
    PieceEnd {
        /// The reading port.
        port: PortId,
        /// The offset in the stream.
        end: u64,
    },
    /// The stream has this length and nobody writes it any more, or it was given up.
    StreamEnd {
        /// The reading port.
        port: PortId,
        /// Its length, or why it was given up.
        end: Result<u64, String>,
    },
    /// Room for an output's next bytes, from its watermark on; it takes the place of the present window. An attempt that
    /// continues an earlier one's stream begins with less than its slot of the arena: then this comes before its start.
    Window {
        /// The writing port.
        port: PortId,
        /// Where the room is.
        window: Window,
    },
    /// Somebody reads this output from now on: its position limits a ring, its ticket says whether it sleeps.
    AddReader {
        /// The writing port.
        port: PortId,
        /// The reader's control page.
        control: SegmentId,
        /// The reader's port there.
        reader: PortId,
    },
    /// This reader is gone.
    DropReader {
        /// The writing port.
        port: PortId,
        /// The reader's control page.
        control: SegmentId,
        /// The reader's port there.
        reader: PortId,
    },
    /// The answer to [`ToDaemon::NeedWindow`] where there is no other window at present: stay in the one there is, and
    /// ask again after a while if it still has no room. The answer to [`ToDaemon::Verify`] where the stream goes on: stay
    /// in the present piece, and look again.
    Stay {
        /// The writing or reading port.
        port: PortId,
    },
    /// To an attempt that carries streams: this node's readers do not move, and whoever writes the stream on its own node
    /// should not wait for them.
    Stuck {
        /// The writing port.
        port: PortId,
        /// It is the answer to [`ToDaemon::NeedWindow`], as [`ToFunction::Stay`]; otherwise a window follows when they
        /// move.
        answer: bool,
    },
    /// Nobody reads this output any more, and nobody will.
    Unread {
        /// The writing port.
        port: PortId,
    },
    /// The port of a newly opened part of a discovered partition.
    PartOpened {
        /// Index of the output.
        output: u32,
        /// The port, or why there is none.
        port: Result<PortId, String>,
    },
}

/// What a segment is, and so how the attempt maps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum SegmentUse {
    /// The attempt's own arena, of this many bytes; writable. Kept for the attempt's life.
    OwnArena(u64),
    /// Another attempt's arena, of this many bytes. Kept for the attempt's life.
    Arena(u64),
    /// Another attempt's control page. Kept for the attempt's life.
    Control,
    /// Memory or a file for the window or piece that the next message names, and for nothing else.
    Once,
}

/// What an attempt is and what it may use.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct Setup {
    /// [`crate::limits::PROTOCOL_VERSION`] of the daemon.
    pub version: u32,
    /// The run's id in hexadecimal.
    pub run: String,
    /// The instance's name, as `count[3]`.
    pub instance: String,
    /// In a `foreach`, the part that this instance works on.
    pub part: Option<u32>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The function's parameters.
    pub params: Vec<(String, String)>,
    /// The input ports in the order of the workflow file.
    pub inputs: Vec<InputSpec>,
    /// The output ports in the order of the workflow file.
    pub outputs: Vec<OutputSpec>,
    /// The attempt's place in the page of bells.
    pub bell: u32,
    /// The segment in which every output of [`Self::outputs`] has its first window: slot `i` of
    /// [`crate::limits::ARENA_SLOT`] bytes belongs to port `i`. Comes as the message after this one.
    pub arena: SegmentId,
    /// How long a waiter looks at its words before it sleeps, in nanoseconds, where the cores are not crowded.
    pub spin_nanos: u64,
    /// For an existing program: its arguments. `None` for a program that links the SDK.
    pub command: Option<Vec<Vec<ArgPiece>>>,
}

/// An input port.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct InputSpec {
    /// Its name.
    pub name: String,
    /// A list of streams rather than one.
    pub many: bool,
    /// Nothing is dropped, so that a slice over everything so far can be had.
    pub keep: bool,
    /// For a command: the standard input.
    pub stdin: bool,
}

/// An output port.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct OutputSpec {
    /// Its name.
    pub name: String,
    /// How many streams it has.
    pub streams: OutputStreams,
    /// For a command: the standard output.
    pub stdout: bool,
}

/// How many streams an output port has.
#[derive(Clone, Copy, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub enum OutputStreams {
    /// One, written through this port.
    Single(PortId),
    /// This many, written through this port and those after it.
    Fixed(PortId, u32),
    /// As many as the function opens.
    Discovered,
}

/// A piece of a command's argument.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub enum ArgPiece {
    /// Text as it stands.
    Text(String),
    /// The path of the input with this index.
    Input(u32),
    /// The path of the output with this index.
    Output(u32),
}

/// A part of a stream, for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Piece {
    /// In memory that the stream's producer writes, or has written.
    Memory {
        /// The window.
        window: Window,
        /// The producer's control page and its port there; `None` if everything up to `end` is committed.
        producer: Option<(SegmentId, PortId)>,
        /// Where the piece ends, if that is known already.
        end: Option<u64>,
    },
    /// In a file: the caller's own, or bytes that were spilled.
    File {
        /// The file.
        file: SegmentId,
        /// Where in the file the piece starts, in bytes.
        file_offset: u64,
        /// Offset in the stream.
        base: u64,
        /// Offset in the stream behind the last byte.
        end: u64,
    },
}

/// Memory through which a stream passes: the byte at stream offset `o` lies at `(o - base) mod size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Window {
    /// The segment.
    pub segment: SegmentId,
    /// Where in the segment the window starts, in bytes; a multiple of the page size.
    pub segment_offset: u64,
    /// The stream offset of its first byte.
    pub base: u64,
    /// Its size in bytes; for a ring a power of two and a multiple of the page size. One that is filled once may end
    /// anywhere.
    pub size: u64,
    /// `true`: a ring, whose bytes are overwritten once every reader is past them. `false`: it is filled once.
    pub ring: bool,
}

/// From an attempt to the daemon.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub enum ToDaemon {
    /// The program is ready. Carries the descriptor of its control page.
    Hello {
        /// [`crate::limits::PROTOCOL_VERSION`] of the SDK.
        version: u32,
    },
    /// The first bytes of this output are committed.
    FirstBytes {
        /// The writing port.
        port: PortId,
    },
    /// The window is full, too small for what the function wants to write next, or held by a reader. The attempt writes
    /// nothing more to this output until [`ToFunction::Window`] or [`ToFunction::Stay`] answers.
    NeedWindow {
        /// The writing port.
        port: PortId,
        /// Its watermark.
        at: u64,
        /// How many contiguous bytes the next window must have at least.
        least: u64,
        /// The present window would do, if its readers moved.
        held: bool,
    },
    /// The piece that this port reads is used up; the attempt does not look at it any more.
    NextPiece {
        /// The reading port.
        port: PortId,
        /// The reader's position.
        at: u64,
        /// Bytes of the piece below that position are still lent or viewed. Its memory has to stay until
        /// [`ToDaemon::GivenUp`], or until the published position has passed it.
        lends: bool,
    },
    /// The producer's words say that the stream ends here, or what cannot be. That is for the daemon to judge: the attempt
    /// reads nothing more of it until [`ToFunction::StreamEnd`], [`ToFunction::Piece`] or [`ToFunction::Stay`] answers.
    Verify {
        /// The reading port.
        port: PortId,
        /// The reader's position.
        at: u64,
    },
    /// Nothing more will be read through this port.
    CloseInput {
        /// The reading port.
        port: PortId,
    },
    /// From an attempt that carries streams: the stream's readers on another node do not move, or do again.
    ReaderStuck {
        /// The reading port.
        port: PortId,
        /// Whether they are stuck.
        stuck: bool,
    },
    /// Bytes of pieces that were used up ([`ToDaemon::NextPiece`] with `lends`) are not needed any more below the published
    /// position.
    GivenUp {
        /// The reading port.
        port: PortId,
    },
    /// From an attempt that carries streams: nothing is written to this output any more, by nobody.
    CloseOutput {
        /// The writing port.
        port: PortId,
    },
    /// The instance sleeps and has slept for a while; the tickets in its control page say on what.
    Parked,
    /// The stream of this output is complete.
    Finished {
        /// The writing port.
        port: PortId,
    },
    /// The function wants one more part of a discovered partition.
    OpenPart {
        /// Index of the output.
        output: u32,
    },
    /// The function has ended well; all its outputs are finished.
    Done,
    /// The function has failed.
    Failed {
        /// What it says about it.
        reason: String,
        /// It ended because nobody reads its outputs any more, which is no failure.
        unread: bool,
    },
}

/// A message that cannot be sent or understood.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// It does not fit into one packet.
    #[error(
        "a message of {size} bytes is larger than the {MAX_MESSAGE} bytes that fit into one packet; \
         shorten the function's parameters, arguments or port names"
    )]
    TooLong {
        /// The size of the encoded message.
        size: usize,
    },
    /// The bytes are no message of this version.
    #[error("{size} bytes that are no message of protocol version {}: {detail}", crate::limits::PROTOCOL_VERSION)]
    Malformed {
        /// How many bytes came.
        size: usize,
        /// What the validator says.
        detail: String,
    },
}

macro_rules! codec {
    ($name:ident) => {
        impl $name {
            /// The message as the bytes of one packet.
            ///
            /// # Errors
            /// [`MessageError::TooLong`] if they are more than [`MAX_MESSAGE`].
            pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
                let bytes = rkyv::to_bytes::<rancor::Error>(self)
                    .map_err(|error| MessageError::Malformed { size: 0, detail: error.to_string() })?;
                if bytes.len() > MAX_MESSAGE {
                    return Err(MessageError::TooLong { size: bytes.len() });
                }
                Ok(bytes.into_vec())
            }

            /// The message that a packet holds; every byte is checked.
            ///
            /// # Errors
            /// [`MessageError`] for anything that is no message of this version.
            pub fn decode(packet: &[u8]) -> Result<Self, MessageError> {
                if packet.len() > MAX_MESSAGE {
                    return Err(MessageError::TooLong { size: packet.len() });
                }
                rkyv::from_bytes::<Self, rancor::Error>(packet)
                    .map_err(|error| MessageError::Malformed { size: packet.len(), detail: error.to_string() })
            }
        }
    };
}

codec!(ToFunction);
codec!(ToDaemon);
