//! The ends of a workflow that are no processes: threads of the daemon that write output files, and that read inputs
//! which are no regular files. Each is one attempt to the store, with ports like every function's.

use crate::input::{LiveError, LiveFile, LiveReader};
use crate::options::file_size_limit;
use crate::output::SinkFile;
use crate::setup::PORT;
use dflow_ports::{FanIn, InPort, Next, OutPort, OutputStreams, ReadError, Reserve, Session, SessionError, WriteError};
use std::fs::File;
use std::io::{ErrorKind, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The stack of such a thread, in bytes.
const STACK: usize = 256 * 1024;

/// A sink or a source cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SinkError {
    /// The store has ended the session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The stream cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The stream cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The output file cannot be written.
    #[error("cannot {action} the output {}: {source}{hint}", shown.display())]
    Output {
        /// What failed.
        action: &'static str,
        /// The file, as its user knows it.
        shown: PathBuf,
        /// What to do about it.
        hint: String,
        /// Why.
        source: std::io::Error,
    },
    /// The workflow's input cannot be read.
    #[error("the input '{name}': {source}")]
    Input {
        /// Its name.
        name: String,
        /// Why not.
        source: LiveError,
    },
}

/// Starts a thread that is an attempt of its own; `ended` is called with its outcome.
pub(crate) fn start(
    name: &str,
    socket: OwnedFd,
    work: impl FnOnce(&Arc<Session>) -> Result<(), SinkError> + Send + 'static,
    ended: impl FnOnce(Result<(), String>) + Send + 'static,
) -> std::io::Result<()> {
    let name: String = name.chars().take(15).collect();
    let body = move || ended(serve(socket, work).map_err(|error| error.to_string()));
    std::thread::Builder::new().name(name).stack_size(STACK).spawn(body).map(|_| ())
}

fn serve(socket: OwnedFd, work: impl FnOnce(&Arc<Session>) -> Result<(), SinkError>) -> Result<(), SinkError> {
    let session = Session::open(socket)?;
    session.wait_for_start()?;
    let result = work(&session);
    if result.is_ok() {
        session.finish_outputs([]);
    }
    let unread = matches!(&result, Err(SinkError::Write(error)) if error.is_unread());
    session.end(result.as_ref().map(|_| ()).map_err(ToString::to_string), unread)?;
    result
}

/// Writes a stream to an output file.
pub(crate) fn write_file(session: &Arc<Session>, to: SinkFile) -> Result<(), SinkError> {
    let (mut file, shown) = match to {
        SinkFile::Path { path, shown } => {
            let failed = |error| write_error("create", &shown, error);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
            (File::create(&path).map_err(failed)?, shown)
        }
        SinkFile::Unnamed(mut file) => {
            let shown = Path::new("for standard output").to_owned();
            // What an earlier attempt has written.
            let emptied = file.set_len(0).and_then(|()| file.rewind());
            emptied.map_err(|error| write_error("write", &shown, error))?;
            (file, shown)
        }
    };
    let mut streams = FanIn::<InPort>::new(Arc::clone(session), PORT.into(), 0, false);
    loop {
        match streams.try_next()? {
            Next::Ready(mut input) => copy(session, &mut input, &mut file, &shown)?,
            Next::End => return Ok(()),
            Next::WouldBlock => _ = streams.wait_for_streams(None),
        }
    }
}

fn copy(session: &Session, input: &mut InPort, file: &mut File, shown: &Path) -> Result<(), SinkError> {
    loop {
        match input.try_next_chunk()? {
            Next::Ready(chunk) => file.write_all(chunk).map_err(|error| write_error("write", shown, error))?,
            Next::End => return Ok(()),
            Next::WouldBlock => _ = session.wait(input, None),
        }
    }
}

/// Why an output cannot be written, and which limit is in the way if it is one.
fn write_error(action: &'static str, shown: &Path, source: std::io::Error) -> SinkError {
    let hint = match source.kind() {
        ErrorKind::FileTooLarge => match file_size_limit() {
            Some(limit) => format!("; this process may write files of at most {limit} bytes: see 'ulimit -f'"),
            None => "; the filesystem takes no larger files".into(),
        },
        ErrorKind::StorageFull => "; make room there, or name a directory on another disk with --output".into(),
        ErrorKind::QuotaExceeded => "; the quota of its owner is used up: make room, or name another directory with \
                                     --output"
            .into(),
        _ => String::new(),
    };
    SinkError::Output { action, shown: shown.to_owned(), hint, source }
}

/// Reads what has no size into a stream, as it comes.
pub(crate) fn read_live(
    session: &Arc<Session>,
    files: Vec<LiveFile>,
    name: &str,
    mut note: impl FnMut(String),
) -> Result<(), SinkError> {
    let Some(OutputStreams::Single(port)) = session.setup().outputs.first().map(|output| output.streams) else {
        return Err(SessionError::Protocol("a source has one output of one stream".into()).into());
    };
    let mut output = OutPort::new(Arc::clone(session), PORT.into(), port);
    let mut reader = LiveReader::new(files);
    loop {
        if let Reserve::Ready(mut room) = output.try_reserve(1)? {
            let read = reader.read(&mut room, &mut note);
            match read.map_err(|source| SinkError::Input { name: name.to_owned(), source })? {
                0 => return Ok(()),
                length => _ = room.commit(length)?,
            }
            continue;
        }
        session.wait(&mut output, None);
    }
}

/// A file that is gone with its last descriptor.
pub(crate) fn unnamed_file(folder: &Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?))
}
