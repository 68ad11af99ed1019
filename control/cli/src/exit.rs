//! The exit statuses, which scripts rely on.

use std::process::ExitCode;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Success.
    Success,
    /// The run failed, or workflows cannot run on this machine.
    Failed,
    /// The command line or the workflow file is wrong; nothing was started.
    Wrong,
    /// Ended by this signal. The status is 128 plus its number, as in shells.
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
