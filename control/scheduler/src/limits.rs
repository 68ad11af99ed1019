//! The limits of a run. A function that opens too many parts gets an error instead of exhausting memory.

/// Maximum number of parts that one instance may open on one output with discovered parts.
pub const MAX_PARTS: u32 = 65_536;

/// Maximum number of nodes that decide a run together.
pub const MAX_PLACES: usize = (1 << (32 - MAX_OF_LANE.trailing_zeros())) - 1;

/// Maximum number of instances, and of streams, that the plan contains or that the instances of one node discover.
pub(crate) const MAX_OF_LANE: u32 = 1 << 20;

/// Maximum number of facts about instances that a node has not heard of yet.
pub(crate) const MAX_EARLY_FACTS: usize = 1 << 20;

/// Maximum number of instances of a run, including workflow inputs and outputs.
pub const MAX_INSTANCES: usize = 1 << 20;

/// Maximum number of streams of a run.
pub const MAX_STREAMS: usize = 1 << 20;

/// Maximum number of subscriptions (pairs of a stream and a reader) of a run.
pub const MAX_SUBSCRIPTIONS: usize = 1 << 22;

/// The number of attempts of one instance that a report keeps; older ones are dropped.
pub const MAX_RECORDS: usize = 64;

/// An instance that was running on this many nodes when they were lost ends the run: it may have taken them down.
pub const MAX_NODES_TAKEN_DOWN: usize = 3;
