//! A node for one attempt, in the attempt's own process: functions run on files, pipes and bytes without a daemon.
//!
//! It speaks the daemon's side of the protocol over an ordinary channel, so that a function sees the same session, ports,
//! chunks and back-pressure as in a workflow. It knows one attempt, and neither retries nor spilling.
//!
//! | thread | does |
//! | --- | --- |
//! | the caller's | runs the function |
//! | `dflow-local` | answers its messages (`host.rs`) |
//! | one for each pipe that is read | reads it into a file that the function reads (`source.rs`) |
//! | one for each output | writes committed bytes to their [`Sink`] (`drain.rs`) |

mod drain;
mod host;
mod source;

pub use host::{Declarer, Local};

use dflow_protocol::message::MessageError;
use dflow_shm::SegmentError;
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

/// The most input streams of a function that runs alone.
pub const MAX_SOURCES: usize = 16_384;
/// The most output streams of a function that runs alone; each has a file, or a buffer, that is open all the time.
pub const MAX_SINKS: usize = 1024;

/// What a function that runs alone is given.
pub struct LocalRun {
    /// The name under which it appears in messages.
    pub instance: String,
    /// In a `foreach`, the number of the part that it works on.
    pub part: Option<u32>,
    /// In a `foreach` over files, the path of the part's file.
    pub part_file: Option<PathBuf>,
    /// Which attempt it is, from 1 on.
    pub attempt: u32,
    /// Parameters.
    pub params: Vec<(String, String)>,
    /// Inputs.
    pub inputs: Vec<LocalInput>,
    /// Outputs.
    pub outputs: Vec<LocalOutput>,
    /// The most bytes that a piece of an input has, so that tests see lines and records that are cut. `None`: no limit.
    pub piece: Option<u64>,
}

/// An input of a function that runs alone.
pub struct LocalInput {
    /// Its name.
    pub name: String,
    /// Whether it is a list of streams.
    pub many: bool,
    /// Whether it keeps all its bytes.
    pub keep: bool,
    /// Where its streams come from.
    pub sources: Vec<Source>,
}

/// Where an input stream comes from.
pub enum Source {
    /// A regular file, read where it is.
    File(File),
    /// Anything else, read as it comes. What is not kept is held back after 1 MiB; what is kept goes to an unnamed file in
    /// the directory for temporary files.
    Live(Box<dyn Read + Send>),
}

/// An output of a function that runs alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalOutput {
    /// Its name.
    pub name: String,
    /// How many streams it has.
    pub streams: LocalStreams,
}

/// How many streams an output has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalStreams {
    /// One.
    Single,
    /// This many.
    Fixed(u32),
    /// As many as the function opens.
    Discovered,
}

/// Where outputs go.
pub trait Sinks: Send + Sync {
    /// Opens the sink of one stream of an output; `part` is its number if the output has parts.
    ///
    /// # Errors
    /// Why it cannot be written.
    fn open(&self, output: &str, part: Option<u32>) -> std::io::Result<Box<dyn Sink>>;
}

/// Where one stream goes. [`std::io::ErrorKind::BrokenPipe`] says that nobody reads it any more.
pub trait Sink: Write + Send {
    /// Called once at the end; `complete` says that the function has succeeded.
    ///
    /// # Errors
    /// Why the bytes are not where they should be.
    fn finish(self: Box<Self>, complete: bool) -> std::io::Result<()>;
}

/// A function cannot be run alone.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// There are too many streams.
    #[error("{count} {what} are more than the {most} of a function that runs alone; run it in a workflow")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// An output cannot be written.
    #[error("cannot write the output '{output}': {source}")]
    Output {
        /// The output's name.
        output: String,
        /// Why not.
        source: std::io::Error,
    },
    /// An input cannot be read.
    #[error("cannot read the input '{input}': {source}")]
    Input {
        /// The input's name.
        input: String,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no memory, descriptor or thread.
    #[error("cannot {action}: {source}")]
    System {
        /// What failed.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// There is no memory for streams.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The names and parameters are too long for a message.
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl LocalError {
    fn system(action: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::System { action, source: errno.into() }
    }
}
