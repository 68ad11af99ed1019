//! How large a run may grow. A function that opens too many parts gets an error here instead of exhausting the memory.

/// The most parts that one instance may open on one output whose number of parts is discovered.
pub const MAX_PARTS: u32 = 65_536;

/// The most instances of a run, workflow inputs and outputs included.
pub const MAX_INSTANCES: usize = 1 << 20;

/// The most streams of a run.
pub const MAX_STREAMS: usize = 1 << 20;

/// The most subscriptions (pairs of a stream and a reader) of a run.
pub const MAX_SUBSCRIPTIONS: usize = 1 << 22;

/// The number of attempts of one instance that a report keeps; older ones are dropped.
pub const MAX_RECORDS: usize = 64;
