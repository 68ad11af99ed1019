//! Limits and fixed sizes that both sides of the protocol rely on.

/// The version of everything in this crate. Both sides name theirs first and refuse another.
pub const PROTOCOL_VERSION: u32 = 1;

/// The longest encoded message, in bytes: it travels as one packet.
pub const MAX_MESSAGE: usize = 128 * 1024;

/// The most file descriptors that travel with one message.
pub const MAX_FDS: usize = 4;

/// The most ports (input streams and output streams together) of one attempt.
pub const MAX_PORTS: u32 = 65_536;

/// The bytes of a control page that belong to one port: two pairs of cache lines, because the adjacent line is
/// prefetched with the one that is read.
pub const PORT_BYTES: usize = 256;

/// The size of an attempt's control page in bytes. Only the pages of ports in use are ever touched.
pub const CONTROL_BYTES: usize = MAX_PORTS as usize * PORT_BYTES;

/// The bytes of the daemon's page that belong to one attempt.
pub const BELL_BYTES: usize = 128;

/// The most attempts that have a bell at the same time.
pub const MAX_BELLS: usize = 65_536;

/// The size of the daemon's page in bytes.
pub const BELLS_BYTES: usize = MAX_BELLS * BELL_BYTES;

/// The first window of every output: a slot of its process's arena, in bytes. A stream that stays below costs no
/// segment of its own.
pub const ARENA_SLOT: u64 = 64 * 1024;

/// The largest window, in bytes. Well below 2^30, the range in which the low half of a [`crate::words::Progress`]
/// tells two watermarks apart.
pub const MAX_WINDOW: u64 = 256 * 1024 * 1024;

/// The smallest window that is not an arena slot, in bytes.
pub const MIN_WINDOW: u64 = 64 * 1024;

/// The longest record of length-delimited records, in bytes.
pub const MAX_RECORD: u32 = 64 * 1024 * 1024;

/// The longest text that travels in an error message, in bytes; more is cut.
pub const MAX_REASON: usize = 16 * 1024;

/// The version of the messages between nodes, [`crate::wire`]. Both sides name theirs first and refuse another.
pub const PEER_VERSION: u32 = 1;

/// The longest encoded message between two nodes, in bytes: every receive buffer of a network card has this size.
pub const MAX_PEER_MESSAGE: usize = 8 * 1024;

/// The most bytes of a stream that travel in one message.
pub const MAX_INLINE: usize = 4 * 1024;

/// The longest reason for which a stream is given up, as other nodes are told of it, in bytes.
pub const MAX_PEER_REASON: usize = 2 * 1024;

/// The most flows that one node may have from another at the same time.
pub const MAX_FLOWS: usize = 65_536;
