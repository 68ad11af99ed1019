//! The run times and sizes that the author of a workflow file expects. The planner uses them; a run does not enforce
//! them.

use std::time::Duration;

/// The expectations for one instance of a function. Every field is optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expect {
    /// How long it computes, without the time that it waits for data or for a slot.
    pub time: Option<Duration>,
    /// How much of that time passes before its first output byte; at most [`Expect::time`].
    pub first_output: Option<Duration>,
    /// How much of that time remains after the last byte of its input; at most [`Expect::time`]. A function that needs
    /// its whole input before it begins has a tail as long as its time.
    pub tail: Option<Duration>,
    /// The bytes of each output, in the order of the function's outputs; all streams of a partitioned output together.
    pub outputs: Vec<Option<Amount>>,
    /// How many parts it opens on each output whose parts are discovered.
    pub parts: Option<u32>,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// This many.
    Bytes(u64),
    /// This share of the input: 0.5 is half as many bytes as the instance reads. Finite and at least 0.
    OfInput(f64),
}

impl Amount {
    /// The bytes of an instance that reads `input` bytes.
    #[must_use]
    pub fn of(self, input: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            // The conversion saturates.
            Self::OfInput(share) => (input as f64 * share) as u64,
        }
    }
}

/// The expectations for an input of the workflow, for plans without its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpectInput {
    /// Its size in bytes, all files together.
    pub size: Option<u64>,
    /// The number of its files; only for an input whose files are parts.
    pub parts: Option<u32>,
}
