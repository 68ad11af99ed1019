//! The data of workflow inputs: found, opened once, and read as what it is.
//!
//! | file | holds |
//! | --- | --- |
//! | `open` | from a path to what is read: a file of a known size, or something that is read to its end |
//! | `directory` | which files of a folder are data |
//! | `live` | reading what has no size: pipes, devices, files of `/proc` |
//! | `changes` | files that others changed while a run read them |
//!
//! A regular file is handed to functions as it is, without a copy, with the size that it has when it is opened. Whatever
//! has no size that can be trusted is read to its end by a thread, as it comes.

mod changes;
mod directory;
mod live;
mod open;
#[cfg(test)]
mod tests;

pub(crate) use changes::SeenFile;
pub(crate) use live::{LiveError, LiveReader};
pub(crate) use open::{LiveFile, Opener};

use dflow_store::InputFile;
use std::path::PathBuf;

/// Where the bytes of one stream come from.
#[derive(Debug)]
pub(crate) enum InputStream {
    /// Files, each with its length, one after the other.
    Files(Vec<(InputFile, u64)>),
    /// What is read to its end by a thread, one after the other.
    Live(Vec<LiveFile>),
}

impl Default for InputStream {
    fn default() -> Self {
        Self::Files(Vec::new())
    }
}

/// The most streams that are read by a thread each, over all inputs of a run.
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
    /// A file was given for something that is no input.
    #[error("the workflow has no input '{name}'; it has {known}")]
    Unknown {
        /// The name that was given.
        name: String,
        /// The inputs there are.
        known: String,
    },
    /// The file or folder cannot be opened.
    #[error("the input '{name}' cannot be read: {path}: {source}")]
    Unreadable {
        /// The input.
        name: String,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A link in a folder leads nowhere.
    #[error("the input '{name}' cannot be read: {path} is a link to {to}, which does not exist")]
    BrokenLink {
        /// The input.
        name: String,
        /// The link.
        path: PathBuf,
        /// Where it leads.
        to: PathBuf,
    },
    /// A folder has no data.
    #[error("the input '{name}' cannot be read: the folder {path} holds no files to read{left_out}")]
    EmptyFolder {
        /// The input.
        name: String,
        /// The folder.
        path: PathBuf,
        /// What it holds instead, as the end of the sentence.
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
    /// Too many inputs that have no size.
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
    /// What to do about it, where the text does not say that already.
    pub(crate) fn help(&self) -> Option<&'static str> {
        match self {
            Self::BrokenLink { .. } => Some("remove the link, or make what it leads to"),
            Self::EmptyFolder { .. } => {
                Some("name the files, or a folder that holds files whose names begin with no dot")
            }
            Self::Socket { .. } => {
                Some("connect to it with a program, as in: nc -U SOCKET | dflow run … --input NAME=-")
            }
            Self::TooManyLive { .. } => Some("copy them to regular files first"),
            _ => None,
        }
    }
}
