//! The data of workflow inputs: finds it, opens it once, and determines how it is read.
//!
//! | file | holds |
//! | --- | --- |
//! | `open` | opens a path: a file of a known size, or a file that is read to its end |
//! | `directory` | the files of a directory that are data |
//! | `live` | reads files without a size: pipes, devices, files of `/proc` |
//! | `sizes` | the sizes of an input, for plans |
//! | `changes` | detects files that were changed while a run read them |
//!
//! A regular file is passed to functions without a copy, with the size that it has when it is opened. A file without a
//! reliable size is read to its end by a thread.

mod changes;
mod directory;
mod live;
mod open;
mod sizes;
#[cfg(test)]
mod tests;

pub(crate) use changes::SeenFile;
pub(crate) use live::{LiveError, LiveReader};
pub(crate) use open::{LiveFile, Opener};
pub use sizes::input_sizes;
pub(crate) use sizes::size;

use dflow_store::InputFile;
use std::path::PathBuf;

/// The source of the bytes of one stream.
#[derive(Debug)]
pub(crate) enum InputStream {
    /// Files, each with its length, one after the other.
    Files(Vec<(InputFile, u64)>),
    /// Files that a thread reads to their end, one after the other.
    Live(Vec<LiveFile>),
}

impl Default for InputStream {
    fn default() -> Self {
        Self::Files(Vec::new())
    }
}

/// Maximum number of streams that are read by threads, over all inputs of a run.
pub(crate) const MAX_LIVE_STREAMS: usize = 256;

/// Why an input cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// An input of the workflow has no file.
    #[error("the input '{name}' of the workflow has no file; add --input {name}=PATH")]
    Missing {
        /// The input.
        name: String,
    },
    /// A file was given for an unknown input.
    #[error("the workflow has no input '{name}'; its inputs: {known}")]
    Unknown {
        /// The name that was given.
        name: String,
        /// The inputs of the workflow.
        known: String,
    },
    /// The file or directory cannot be opened.
    #[error("the input '{name}' cannot be read: {path}: {source}")]
    Unreadable {
        /// The input.
        name: String,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A link in a directory is dangling.
    #[error("the input '{name}' cannot be read: {path} is a link to {to}, which does not exist")]
    BrokenLink {
        /// The input.
        name: String,
        /// The link.
        path: PathBuf,
        /// Its target.
        to: PathBuf,
    },
    /// A directory has no data.
    #[error("the input '{name}' cannot be read: the directory {path} holds no files to read{left_out}")]
    EmptyFolder {
        /// The input.
        name: String,
        /// The directory.
        path: PathBuf,
        /// The entries that are left out, as the end of the sentence.
        left_out: String,
    },
    /// A socket.
    #[error("the input '{name}' cannot be read: {path} is a socket")]
    Socket {
        /// The input.
        name: String,
        /// The socket.
        path: PathBuf,
    },
    /// Too many inputs without a size.
    #[error(
        "more than {MAX_LIVE_STREAMS} parts of the input '{name}' are pipes, devices or files without a known size; each of \
         these is read by a thread"
    )]
    TooManyLive {
        /// The input.
        name: String,
    },
}

impl InputError {
    /// What to do about it, if the text does not say so.
    pub(crate) fn help(&self) -> Option<&'static str> {
        match self {
            Self::BrokenLink { .. } => Some("remove the link, or create its target"),
            Self::EmptyFolder { .. } => Some("name the files, or a directory with files that are not hidden"),
            Self::Socket { .. } => Some("connect to it with a program: nc -U SOCKET | dflow run … --input NAME=-"),
            Self::TooManyLive { .. } => Some("copy them to regular files first"),
            _ => None,
        }
    }
}
