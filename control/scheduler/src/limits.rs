//! How large a run may grow. What a function can make grow (the parts that it opens) ends here with an error, never
//! with a full memory.

/// The most parts that one instance may open on one output whose number of parts is discovered.
pub const MAX_PARTS: u32 = 65_536;

/// The most instances of a run, workflow inputs and outputs included.
pub const MAX_INSTANCES: usize = 1 << 20;

/// The most streams of a run.
pub const MAX_STREAMS: usize = 1 << 20;

/// The most subscriptions (pairs of a stream and a reader) of a run.
pub const MAX_SUBSCRIPTIONS: usize = 1 << 22;

/// The attempts of one instance that a report keeps; older ones are forgotten.
pub const MAX_RECORDS: usize = 64;
