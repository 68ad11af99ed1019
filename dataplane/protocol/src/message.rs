//! The messages between an attempt of a function and its node's daemon, over a `SOCK_SEQPACKET` Unix socket: one
//! message is one packet. They are sent when a stream begins, ends, changes its window or stalls, never for a chunk.
//!
//! The daemon trusts nothing that it receives here. [`ToDaemon::decode`] validates the bytes, and the daemon checks
//! every port and offset against what it has granted.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use crate::ids::{PortId, SegmentId};
use crate::limits::{MAX_MESSAGE, MAX_SETUP};
use rkyv::{Archive, Deserialize, Serialize, rancor};

/// From the daemon to an attempt. [`ToFunction::Segment`] precedes the first message that refers to a segment.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub enum ToFunction {
    /// The first message. Carries the descriptor of the daemon's page of bells.
    Setup(Setup),
    /// A part of a setup that does not fit into one packet. The parts come instead of [`ToFunction::Setup`], in order; the
    /// first one carries its descriptor.
    SetupPart {
        /// The next bytes of the encoded [`Setup`].
        bytes: Vec<u8>,
        /// No more parts follow.
        last: bool,
    },
    /// The gate is open: the function may run.
    Start,
    /// Carries the descriptor of a segment.
    Segment {
        /// Its id, by which later messages refer to it.
        segment: SegmentId,
        /// Its kind, and so how it is mapped.
        kind: SegmentUse,
    },
    /// An input has one more stream, read through this port.
    AddStream {
        /// Index of the input.
        input: u32,
        /// The port for the stream's position.
        port: PortId,
    },
    /// An input has all of its streams: no more will be added.
    StreamsComplete {
        /// Index of the input.
        input: u32,
    },
    /// The next bytes of a stream, from the end of the previous piece.
    Piece {
        /// The reading port.
        port: PortId,
        /// Where they are.
        piece: Piece,
    },
    /// The current piece of this port ends at this offset; later bytes are in another piece.
    PieceEnd {
        /// The reading port.
        port: PortId,
        /// The offset in the stream.
        end: u64,
    },
    /// The stream is finished with this length, or aborted.
    StreamEnd {
        /// The reading port.
        port: PortId,
        /// Its length, or why it was aborted.
        end: Result<u64, String>,
    },
    /// A window for an output's next bytes, from its watermark on. It replaces the current one. An attempt that
    /// continues the stream of an earlier attempt may use only part of its arena slot, and receives this message before
    /// its start.
    Window {
        /// The writing port.
        port: PortId,
        /// The window.
        window: Window,
    },
    /// This output has a new reader. Its position limits how far a ring may be overwritten; its ticket shows whether it
    /// sleeps.
    AddReader {
        /// The writing port.
        port: PortId,
        /// The reader's control page.
        control: SegmentId,
        /// The reader's port there.
        reader: PortId,
    },
    /// This reader has left.
    DropReader {
        /// The writing port.
        port: PortId,
        /// The reader's control page.
        control: SegmentId,
        /// The reader's port there.
        reader: PortId,
    },
    /// The answer to [`ToDaemon::NeedWindow`] if no other window is available: keep the current one, and ask again
    /// later if it still has no room. Also the answer to [`ToDaemon::Verify`] if the stream continues: keep the current
    /// piece, and load the producer's words again.
    Stay {
        /// The writing or reading port.
        port: PortId,
    },
    /// Only to the carrier: this node's readers are stalled, and the producer on the stream's own node should not wait
    /// for them.
    Stuck {
        /// The writing port.
        port: PortId,
        /// This is the answer to [`ToDaemon::NeedWindow`], like [`ToFunction::Stay`]. Otherwise a window follows when
        /// the readers advance.
        answer: bool,
    },
    /// This output has no reader and will have none.
    Unread {
        /// The writing port.
        port: PortId,
    },
    /// Only to the carrier: nothing uses this port any more, which the carrier has closed. It resets the port's words and
    /// answers with [`ToDaemon::Retired`]; the port is used for another stream after that.
    Retire {
        /// The reading or writing port.
        port: PortId,
    },
    /// The port of a newly opened part of a discovered partition.
    PartOpened {
        /// Index of the output.
        output: u32,
        /// Its port, or why the part cannot be opened.
        port: Result<PortId, String>,
    },
}

/// The kind of a segment, which determines how the attempt maps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum SegmentUse {
    /// The attempt's own arena of this many bytes, writable. Stays mapped as long as the attempt runs.
    OwnArena(u64),
    /// Another attempt's arena of this many bytes. Stays mapped as long as the attempt runs.
    Arena(u64),
    /// Another attempt's control page. Stays mapped as long as the attempt runs.
    Control,
    /// Memory or a file for the window or piece in the next message, and for nothing else.
    Once,
}

/// The identity of an attempt, its ports and its settings.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct Setup {
    /// [`crate::limits::PROTOCOL_VERSION`] of the daemon.
    pub version: u32,
    /// The run's id in hexadecimal.
    pub run: String,
    /// The instance's name, as `count[3]`.
    pub instance: String,
    /// In a `foreach`, the part that this instance processes.
    pub part: Option<u32>,
    /// In a `foreach` over files, the path of the part's file as the caller has named it, in bytes. It need not exist
    /// on the attempt's node.
    pub part_file: Option<Vec<u8>>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The function's parameters.
    pub params: Vec<(String, String)>,
    /// The input ports in the order of the workflow file.
    pub inputs: Vec<InputSpec>,
    /// The output ports in the order of the workflow file.
    pub outputs: Vec<OutputSpec>,
    /// The attempt's index in the page of bells.
    pub bell: u32,
    /// The arena: the segment with the first window of every output in [`Self::outputs`]. Slot `i` of
    /// [`crate::limits::ARENA_SLOT`] bytes belongs to port `i`. The next message carries its descriptor.
    pub arena: SegmentId,
    /// How long a waiter polls its words before it sleeps, in nanoseconds, if no more threads are runnable than there
    /// are cores.
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
    /// No bytes are dropped while the function runs, so that it can get a slice of the whole stream so far.
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
    /// Literal text.
    Text(String),
    /// The path of the input with this index.
    Input(u32),
    /// The path of the output with this index.
    Output(u32),
}

/// A part of a stream, for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Piece {
    /// In memory to which the stream's producer writes or has written.
    Memory {
        /// The window.
        window: Window,
        /// The producer's control page and port; `None` if all bytes up to `end` are committed.
        producer: Option<(SegmentId, PortId)>,
        /// Where the piece ends, if this is known already.
        end: Option<u64>,
    },
    /// In a file: an input file of the run, or a spill file.
    File {
        /// The file.
        file: SegmentId,
        /// File offset of the first byte of the piece.
        file_offset: u64,
        /// Offset in the stream.
        base: u64,
        /// Stream offset just past the last byte.
        end: u64,
    },
}

/// Memory through which a stream passes: the byte at stream offset `o` is at `(o - base) mod size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Window {
    /// The segment.
    pub segment: SegmentId,
    /// Byte offset of the window in the segment, a multiple of the page size.
    pub segment_offset: u64,
    /// The stream offset of its first byte.
    pub base: u64,
    /// Its size in bytes. The size of a ring is a power of two and a multiple of the page size; a window that is filled
    /// once may have any size.
    pub size: u64,
    /// `true`: a ring, whose bytes may be overwritten once every reader has passed them. `false`: the window is filled
    /// once.
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
    /// The window is full, too small for the function's next write, or held by a reader. The attempt writes nothing
    /// more to this output until the answer, [`ToFunction::Window`] or [`ToFunction::Stay`].
    NeedWindow {
        /// The writing port.
        port: PortId,
        /// Its watermark.
        at: u64,
        /// The minimum number of contiguous bytes in the next window.
        least: u64,
        /// The current window is large enough; only its readers have to advance.
        held: bool,
    },
    /// This port has read its whole piece and no longer uses it.
    NextPiece {
        /// The reading port.
        port: PortId,
        /// The reader's position.
        at: u64,
        /// Bytes of this or earlier pieces are still lent or viewed. Their memory has to stay until
        /// [`ToDaemon::GivenUp`].
        lends: bool,
    },
    /// The producer's words announce the end of the stream, or an impossible progress. The daemon decides which: the
    /// attempt reads nothing more of the stream until the answer, [`ToFunction::StreamEnd`], [`ToFunction::Piece`] or
    /// [`ToFunction::Stay`].
    Verify {
        /// The reading port.
        port: PortId,
        /// The reader's position.
        at: u64,
    },
    /// The function will read nothing more from this port.
    CloseInput {
        /// The reading port.
        port: PortId,
    },
    /// Only from the carrier: the stream's readers on another node have stalled, or advance again.
    ReaderStuck {
        /// The reading port.
        port: PortId,
        /// Whether they have stalled.
        stuck: bool,
    },
    /// Bytes of pieces that were used up ([`ToDaemon::NextPiece`] with `lends`) are no longer lent or viewed.
    GivenUp {
        /// The reading port.
        port: PortId,
        /// Every piece that lies between this offset of the stream ...
        from: u64,
        /// ... and this one.
        to: u64,
    },
    /// Only from the carrier: nothing, not even a local process, writes to this output any more.
    CloseOutput {
        /// The writing port.
        port: PortId,
    },
    /// Only from the carrier: the answer to [`ToFunction::Retire`]. The words of the port are as they were at first.
    Retired {
        /// The port.
        port: PortId,
    },
    /// The instance has been asleep for a while. The tickets in its control page show on which words.
    Parked,
    /// Only from the adapter of commands: what the program does, whatever the adapter's ports wait for.
    Program(ProgramState),
    /// The stream of this output is complete.
    Finished {
        /// The writing port.
        port: PortId,
    },
    /// The function opens one more part of a discovered partition.
    OpenPart {
        /// Index of the output.
        output: u32,
    },
    /// The function has succeeded and all its outputs are finished.
    Done,
    /// The function has failed.
    Failed {
        /// The function's own reason.
        reason: String,
        /// It ended because its outputs have no reader any more, which does not count as a failure.
        unread: bool,
    },
}

/// What the program of a command does.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum ProgramState {
    /// It uses a processor.
    Computing,
    /// It does not.
    Idle,
    /// It has ended, and other processes hold its outputs open.
    HeldOpen {
        /// Which, as far as they are known: `process 17 (sleep)`.
        by: String,
    },
}

/// Why a message cannot be sent or decoded.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// It does not fit in one packet.
    #[error(
        "a message of {size} bytes exceeds the maximum of {MAX_MESSAGE} bytes for one packet; \
         shorten the function's parameters, arguments or port names"
    )]
    TooLong {
        /// The size of the encoded message.
        size: usize,
    },
    /// A setup has more bytes than all its packets may have.
    #[error(
        "the names, parameters and arguments of the function take {size} bytes, and at most {MAX_SETUP} are allowed; \
         shorten them"
    )]
    SetupTooLong {
        /// The size of the encoded setup.
        size: usize,
    },
    /// The bytes are not a message of this version.
    #[error(
        "{size} bytes are not a valid message of protocol version {}; build both sides from the same release",
        crate::limits::PROTOCOL_VERSION
    )]
    Malformed {
        /// The number of bytes received.
        size: usize,
    },
    /// There is no memory for its bytes.
    #[error("a message cannot be encoded: there is no memory for it")]
    Memory,
}

macro_rules! codec {
    ($name:ident) => {
        impl $name {
            /// Encodes the message as one packet.
            ///
            /// # Errors
            /// [`MessageError::TooLong`] if it would have more than [`MAX_MESSAGE`] bytes.
            pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
                let bytes = rkyv::to_bytes::<rancor::Failure>(self).map_err(|_| MessageError::Memory)?;
                if bytes.len() > MAX_MESSAGE {
                    return Err(MessageError::TooLong { size: bytes.len() });
                }
                Ok(bytes.into_vec())
            }

            /// Decodes a packet. The bytes are fully validated.
            ///
            /// # Errors
            /// [`MessageError`] for anything that is not a message of this version.
            pub fn decode(packet: &[u8]) -> Result<Self, MessageError> {
                if packet.len() > MAX_MESSAGE {
                    return Err(MessageError::TooLong { size: packet.len() });
                }
                // What the validator would say of it in a debug build is for nobody who could do something about it.
                rkyv::from_bytes::<Self, rancor::Failure>(packet)
                    .map_err(|_| MessageError::Malformed { size: packet.len() })
            }
        }
    };
}

codec!(ToFunction);
codec!(ToDaemon);

/// The bytes of a setup that one packet takes, beside what the encoding of a message adds.
const SETUP_PART: usize = MAX_MESSAGE - 1024;

impl ToFunction {
    /// Encodes the message as one packet, or as several if it is a setup that does not fit into one.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] if a message other than a setup has more than [`MAX_MESSAGE`] bytes,
    /// [`MessageError::SetupTooLong`] if a setup has more than [`MAX_SETUP`].
    pub fn packets(&self) -> Result<Vec<Vec<u8>>, MessageError> {
        let setup = match (self, self.encode()) {
            (Self::Setup(setup), Err(MessageError::TooLong { .. })) => setup,
            (_, packet) => return packet.map(|packet| vec![packet]),
        };
        let bytes = rkyv::to_bytes::<rancor::Failure>(setup).map_err(|_| MessageError::Memory)?;
        if bytes.len() > MAX_SETUP {
            return Err(MessageError::SetupTooLong { size: bytes.len() });
        }
        let count = bytes.len().div_ceil(SETUP_PART);
        let parts = bytes.chunks(SETUP_PART).enumerate();
        parts.map(|(index, part)| Self::SetupPart { bytes: part.to_vec(), last: index + 1 == count }.encode()).collect()
    }
}

impl Setup {
    /// Decodes the bytes of all [`ToFunction::SetupPart`]. They are fully validated.
    ///
    /// # Errors
    /// [`MessageError`] for anything that is not a setup of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MAX_SETUP {
            return Err(MessageError::SetupTooLong { size: bytes.len() });
        }
        let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        rkyv::from_bytes::<Self, rancor::Failure>(&aligned).map_err(|_| MessageError::Malformed { size: bytes.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::PROTOCOL_VERSION;

    fn setup(inputs: usize, name: &str) -> Setup {
        let input = |n| InputSpec { name: format!("{name}{n}"), many: false, keep: false, stdin: false };
        Setup {
            version: PROTOCOL_VERSION,
            run: "run".into(),
            instance: "f".into(),
            part: None,
            part_file: None,
            attempt: 1,
            params: Vec::new(),
            inputs: (0..inputs).map(input).collect(),
            outputs: Vec::new(),
            bell: 1,
            arena: SegmentId(1),
            spin_nanos: 0,
            command: None,
        }
    }

    #[test]
    fn a_setup_longer_than_a_packet_comes_in_parts() {
        assert_eq!(ToFunction::Setup(setup(10, "short")).packets().unwrap().len(), 1);
        let sent = setup(16_384, &"x".repeat(250));
        let packets = ToFunction::Setup(sent.clone()).packets().unwrap();
        assert!(packets.len() > 30 && packets.iter().all(|packet| packet.len() <= MAX_MESSAGE));
        let mut encoded = Vec::new();
        for (index, packet) in packets.iter().enumerate() {
            let ToFunction::SetupPart { bytes, last } = ToFunction::decode(packet).unwrap() else { panic!() };
            assert_eq!(last, index + 1 == packets.len());
            encoded.extend(bytes);
        }
        assert_eq!(Setup::decode(&encoded).unwrap(), sent);
        assert!(Setup::decode(&encoded[..encoded.len() - 8]).is_err());
        assert!(matches!(Setup::decode(&vec![0; MAX_SETUP + 1]), Err(MessageError::SetupTooLong { .. })));
        let error = ToFunction::Setup(setup(100, &"x".repeat(100_000))).packets().unwrap_err();
        assert!(matches!(error, MessageError::SetupTooLong { .. }), "{error}");
    }
}
