//! The error of a failed measurement.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A failure and its reason as text. It is sent between processes and included in the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure(String);

impl Failure {
    /// A failure with this message.
    pub fn new(words: impl Into<String>) -> Failure {
        Failure(words.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Adds the failed action to an error.
pub trait Trying<T> {
    /// Turns an error into "cannot `what`: error".
    fn trying(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Trying<T> for Result<T, E> {
    fn trying(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure(format!("cannot {what}: {error}")))
    }
}
