//! The errors on the daemon's side.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::{MAX_ATTEMPTS, MAX_DESCRIPTORS, MAX_QUEUED, MAX_REQUEST_BYTES, MAX_TARGET, MessageError};

/// An error of [`Launcher`](crate::Launcher).
///
/// A program that cannot be started is not one of these: that is a
/// [`LauncherEvent::SpawnFailed`](crate::LauncherEvent::SpawnFailed).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The launcher process could not be started.
    #[error("cannot start the launcher `{}`: {source}", program.display())]
    Start {
        /// The program that was to become the launcher.
        program: PathBuf,
        /// Why it could not.
        source: io::Error,
    },
    /// The launcher process started but cannot work here.
    #[error("the launcher cannot run here: {0}")]
    Refused(String),
    /// The launcher process did not report itself ready.
    #[error("the launcher was not ready after {0:?}: does the started program call dflow_launcher::serve?")]
    NotReady(Duration),
    /// The launcher process has ended unexpectedly. Its attempts have been killed.
    #[error("the launcher process has ended unexpectedly ({0}): its attempts were killed; start a new launcher")]
    Ended(String),
    /// The socket to the launcher failed.
    #[error("the socket to the launcher failed while {action}: {source}")]
    Socket {
        /// The operation.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A message cannot be sent, or the launcher sent one that cannot be read.
    #[error("daemon and launcher cannot talk to each other: {0}; do both processes run the same program?")]
    Message(#[from] MessageError),
    /// The launcher sent a message at a time at which it must not.
    #[error("the launcher sent an unexpected message ({0}): do both processes run the same program?")]
    Unexpected(&'static str),
    /// An attempt with this id has not ended yet.
    #[error("attempt {0} has not ended yet: an id can be used again only after its Exited or SpawnFailed event")]
    IdInUse(u64),
    /// Too many attempts live at the same time.
    #[error("{MAX_ATTEMPTS} attempts are alive, which is the limit: wait until one of them has ended")]
    TooManyAttempts,
    /// More descriptors than one attempt can be given.
    #[error("{0} descriptors for one attempt, but the limit is {MAX_DESCRIPTORS}: pass further ones over a socket")]
    TooManyDescriptors(usize),
    /// A descriptor number that an attempt cannot be given.
    #[error("descriptor number {0} is outside of 0..={MAX_TARGET}")]
    Target(i32),
    /// Two descriptors were to get the same number.
    #[error("descriptor number {0} is given twice")]
    TargetTwice(i32),
    /// A string for the program contains a NUL byte, which the kernel cannot pass on.
    #[error("{what} contains a zero byte: `{text}`")]
    ZeroByte {
        /// Which string: the program, an argument, …
        what: &'static str,
        /// The string, with invalid UTF-8 replaced.
        text: String,
    },
    /// The name of an environment variable is empty or contains `=`.
    #[error("`{0}` cannot be the name of an environment variable: it is empty or contains `=`")]
    VariableName(String),
    /// The request is larger than what can be sent to the launcher.
    #[error(
        "the program's arguments and environment take {0} bytes, but the limit is {MAX_REQUEST_BYTES}: \
         pass large data through an input or a file"
    )]
    RequestTooLarge(usize),
    /// Too many requests wait for the launcher.
    #[error("{MAX_QUEUED} requests wait for the launcher, which is the limit: send again when its socket is writable")]
    QueueFull,
}
