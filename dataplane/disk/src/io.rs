//! The trait that moves bytes, and the choice of its implementation.

use std::fmt;
use std::str::FromStr;

use crate::plain::Plain;
use crate::ring::Ring;
use crate::{DiskError, SharedBytes, SpillFile};

/// Moves bytes between memory and a spill file. Calls block until the bytes have moved.
///
/// A value serves one thread at a time; a pool of spill threads has one each.
pub trait SpillIo: Send {
    /// The name of this implementation, as `--spill-io` and `dflow doctor` write it.
    fn name(&self) -> &'static str;

    /// Writes all of `bytes` at `offset` of `file`.
    ///
    /// When it returns, with or without an error, the kernel no longer uses the memory. After an error, any part of the
    /// range may have been written.
    ///
    /// # Errors
    /// [`DiskError::NoSpace`] if the filesystem is full, [`DiskError::FileTooLarge`] past a file size limit,
    /// [`DiskError::Io`] otherwise.
    fn write(&mut self, file: &SpillFile, offset: u64, bytes: SharedBytes<'_>) -> Result<(), DiskError>;

    /// Fills all of `into` with the bytes at `offset` of `file`.
    ///
    /// # Errors
    /// [`DiskError::Io`], of kind `UnexpectedEof` if the file ends before `into` does.
    fn read(&mut self, file: &SpillFile, offset: u64, into: &mut [u8]) -> Result<(), DiskError>;
}

/// The implementation that a user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// io_uring where the machine allows it, else plain.
    #[default]
    Auto,
    /// io_uring, or an error that says why it cannot be used.
    IoUring,
    /// Plain reads and writes.
    Plain,
}

/// Opens the implementation that `setting` asks for. Returns it with the reason, a phrase for `dflow doctor`.
///
/// # Errors
/// [`DiskError::Unsupported`] if io_uring is asked for and the machine does not allow it.
pub fn choose(setting: IoChoice) -> Result<(Box<dyn SpillIo>, String), DiskError> {
    if setting == IoChoice::Plain {
        return Ok((Box::new(Plain), "asked for by the setting".into()));
    }
    match (Ring::open(), setting) {
        (Ok(ring), IoChoice::IoUring) => Ok((Box::new(ring), "asked for by the setting".into())),
        (Ok(ring), _) => Ok((Box::new(ring), "this machine allows it".into())),
        (Err(reason), IoChoice::IoUring) => Err(DiskError::Unsupported {
            what: "io_uring",
            reason,
            remedy: "choose auto or plain spill I/O, or let the machine allow io_uring",
        }),
        (Err(reason), _) => {
            tracing::info!(%reason, "io_uring cannot be used; spilling with plain reads and writes");
            Ok((Box::new(Plain), format!("io_uring cannot be used: {reason}")))
        }
    }
}

impl fmt::Display for IoChoice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            IoChoice::Auto => "auto",
            IoChoice::IoUring => "io-uring",
            IoChoice::Plain => "plain",
        })
    }
}

/// A setting that names no implementation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a kind of spill I/O: use auto, io-uring or plain")]
pub struct UnknownIoChoice(String);

impl FromStr for IoChoice {
    type Err = UnknownIoChoice;

    fn from_str(text: &str) -> Result<IoChoice, UnknownIoChoice> {
        match text {
            "auto" => Ok(IoChoice::Auto),
            "io-uring" => Ok(IoChoice::IoUring),
            "plain" => Ok(IoChoice::Plain),
            _ => Err(UnknownIoChoice(text.into())),
        }
    }
}
