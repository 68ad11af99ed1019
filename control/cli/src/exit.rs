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
    /// Ended by Ctrl-C; the number is the one that shells give to it.
    Cancelled,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failed => 1,
            Exit::Wrong => 2,
            Exit::Cancelled => 130,
        })
    }
}
