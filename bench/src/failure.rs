//! Why a measurement could not be made.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What was tried, and what came of it, in words; it travels between processes and into the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure(String);

impl Failure {
    /// A failure in words.
    pub fn new(words: impl Into<String>) -> Failure {
        Failure(words.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Says what was tried when an error came.
pub trait Trying<T> {
    /// Turns an error into "cannot `what`: error".
    fn trying(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Trying<T> for Result<T, E> {
    fn trying(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure(format!("cannot {what}: {error}")))
    }
}
