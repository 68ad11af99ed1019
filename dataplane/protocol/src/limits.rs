//! Limits and fixed sizes on which both sides of a protocol rely.

/// The version of the control words and of the messages between function and daemon. Each side states its version first
/// and rejects a peer with another.
pub const PROTOCOL_VERSION: u32 = 1;

/// Maximum size of an encoded message, in bytes. A message is one packet.
pub const MAX_MESSAGE: usize = 128 * 1024;

/// Maximum size of an encoded setup, in bytes. It may be longer than a packet, because it names every input and output
/// of a function and every argument of its command.
pub const MAX_SETUP: usize = 8 * 1024 * 1024;

/// Maximum number of file descriptors attached to one message.
pub const MAX_FDS: usize = 4;

/// Maximum number of ports of one attempt, input and output streams together.
pub const MAX_PORTS: u32 = 65_536;

/// Bytes of one port in a control page: two pairs of cache lines, because the processor prefetches the neighbour of
/// each line that it reads, so a single line would still be shared falsely.
pub const PORT_BYTES: usize = 256;

/// Size of an attempt's control page in bytes. Only the part that belongs to ports in use is ever touched, and so takes
/// memory.
pub const CONTROL_BYTES: usize = MAX_PORTS as usize * PORT_BYTES;

/// Bytes of one attempt in the daemon's page of bells: a pair of cache lines, as in [`PORT_BYTES`].
pub const BELL_BYTES: usize = 128;

/// Maximum number of attempts that have a bell at the same time.
pub const MAX_BELLS: usize = 65_536;

/// Size of the daemon's page of bells in bytes.
pub const BELLS_BYTES: usize = MAX_BELLS * BELL_BYTES;

/// Size in bytes of the first window of every output, a slot of its process's arena. A stream that stays below this
/// size needs no segment of its own.
pub const ARENA_SLOT: u64 = 64 * 1024;

/// Maximum size of a window, in bytes. Well below 2^30, the range within which the low half of a
/// [`crate::words::Progress`] distinguishes two watermarks.
pub const MAX_WINDOW: u64 = 256 * 1024 * 1024;

/// Minimum size of a window that is not an arena slot, in bytes.
pub const MIN_WINDOW: u64 = 64 * 1024;

/// Maximum length of a length-delimited record, in bytes.
pub const MAX_RECORD: u32 = 64 * 1024 * 1024;

/// Maximum length of the text of an error, in bytes. Longer text is truncated.
pub const MAX_REASON: usize = 16 * 1024;

/// The version of the messages between nodes, [`crate::wire`]. Each side states its version first and rejects a peer
/// with another.
pub const PEER_VERSION: u32 = 1;

/// Maximum size of an encoded message between two nodes, in bytes. Every receive buffer posted to an RDMA device has
/// this size.
pub const MAX_PEER_MESSAGE: usize = 8 * 1024;

/// Maximum number of stream bytes in one message.
pub const MAX_INLINE: usize = 4 * 1024;

/// Maximum length of the reason that other nodes receive for an aborted stream, in bytes.
pub const MAX_PEER_REASON: usize = 2 * 1024;

/// Maximum number of concurrent flows from one node to another, of all runs together. A run alone may have half of them, which
/// is as many as it has ports.
pub const MAX_FLOWS: usize = 131_072;
