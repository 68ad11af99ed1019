//! Why another node cannot be used, for people and for programs.

use serde::Serialize;

/// Why a peer cannot be used.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// `authority`, `validity`, `name`, `certificate`, `version`, `silence`, `busy` or `closed`.
    pub cause: &'static str,
    /// What happened.
    pub reason: String,
    /// What to do about it.
    pub help: String,
}
