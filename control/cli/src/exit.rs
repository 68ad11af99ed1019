//! The exit statuses, which scripts rely on.

use std::process::ExitCode;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Success,
    /// The run failed, or something keeps workflows from running on this machine.
    Failed,
    /// The call or the file was wrong; nothing was started.
    Wrong,
    /// Ended by this signal; the status is the one that shells give to that.
    Signalled(i32),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failed => 1,
            Exit::Wrong => 2,
            Exit::Signalled(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(0)),
        })
    }
}
