//! A single output to standard output.
//!
//! A function may fail late, and its next attempt begins again. So the output is kept in an unnamed file until it is
//! final: a program that reads standard output never sees bytes of a failed attempt.

use super::{OutputError, Planned, Staging};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Checks that the workflow has one output of one file.
///
/// # Errors
/// If it has none, several, or one in parts.
pub(crate) fn check_stdout(planned: &[Planned]) -> Result<(), OutputError> {
    let outputs = match planned {
        [output] if !output.many => return Ok(()),
        [] => "none".to_owned(),
        [output] => format!("'{}', which is a directory of parts", output.name),
        several => {
            let names: Vec<String> = several.iter().map(|output| format!("'{}'", output.name)).collect();
            format!("{}: {}", several.len(), names.join(", "))
        }
    };
    Err(OutputError::NotOneOutput { outputs })
}

/// The place where the outputs of a run are written.
#[derive(Debug)]
pub(crate) enum Destination {
    /// Files in a staging directory.
    Folder(Box<Staging>),
    /// A file that is copied to standard output at the end.
    Stdout(Delivery),
}

/// The file to which one output is written.
#[derive(Debug)]
pub(crate) enum SinkFile {
    /// A file to be created, and its name in errors.
    Path { path: PathBuf, shown: PathBuf },
    /// An unnamed file.
    Unnamed(File),
}

impl Destination {
    /// The file for an output.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub(crate) fn sink(&self, name: &str, part: Option<u32>) -> io::Result<SinkFile> {
        match self {
            Self::Folder(staging) => {
                Ok(SinkFile::Path { path: staging.path(name, part), shown: staging.final_path(name, part) })
            }
            Self::Stdout(delivery) => delivery.0.try_clone().map(SinkFile::Unnamed),
        }
    }

    /// How many bytes have been written to it.
    ///
    /// # Errors
    /// It was removed while the run went on.
    pub(crate) fn length(&self, name: &str, part: Option<u32>) -> io::Result<u64> {
        let metadata = match self {
            Self::Folder(staging) => std::fs::metadata(staging.path(name, part)),
            Self::Stdout(delivery) => delivery.0.metadata(),
        };
        metadata.map(|metadata| metadata.len())
    }

    /// Its path in the report.
    pub(crate) fn final_path(&self, name: &str, part: Option<u32>) -> PathBuf {
        match self {
            Self::Folder(staging) => staging.final_path(name, part),
            Self::Stdout(_) => "-".into(),
        }
    }
}

/// The output until it is final.
#[derive(Debug)]
pub(crate) struct Delivery(File);

impl Delivery {
    /// `folder`: the directory of the unnamed file.
    ///
    /// # Errors
    /// If no file can be created there.
    pub(crate) fn create(folder: &Path) -> io::Result<Self> {
        crate::node::sink::unnamed_file(folder).map(Self)
    }

    /// Writes the output to standard output. A reader that stops early is not an error.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub(crate) fn deliver(mut self) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(0))?;
        let mut out = io::stdout().lock();
        match io::copy(&mut self.0, &mut out).and_then(|_| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}
