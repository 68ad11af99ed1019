//! Reads files without a size: pipes, devices, files of `/proc`.

use super::LiveFile;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// How long a named pipe may have no writer before a note tells the user. A writer that was started just before needs
/// less time.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Reads several files, one after the other, each to its end.
#[derive(Debug)]
pub(crate) struct LiveReader {
    todo: std::vec::IntoIter<LiveFile>,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    path: PathBuf,
    file: File,
    /// A named pipe that has had no writer yet. Reading it would return the end of the file, so it is not read.
    without_writer: bool,
}

/// A file cannot be read to its end.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be read{}: {source}", path.display(), if *begun { " any further" } else { "" })]
pub(crate) struct LiveError {
    path: PathBuf,
    begun: bool,
    source: io::Error,
}

impl LiveReader {
    pub(crate) fn new(files: Vec<LiveFile>) -> Self {
        Self { todo: files.into_iter(), current: None }
    }

    /// Waits for bytes and reads them; 0 at the end of the last file. `note` is called with notes for the user about
    /// the wait.
    ///
    /// # Errors
    /// If a file cannot be opened or read.
    pub(crate) fn read(&mut self, buffer: &mut [u8], note: &mut dyn FnMut(String)) -> Result<usize, LiveError> {
        loop {
            if self.current.is_none() {
                let Some(next) = self.todo.next() else { return Ok(0) };
                self.current = Some(Current::open(next)?);
            }
            let Some(current) = &mut self.current else { return Ok(0) };
            match current.read(buffer, note).map_err(|source| current.failed(source))? {
                0 => self.current = None,
                length => return Ok(length),
            }
        }
    }
}

impl Current {
    fn open(file: LiveFile) -> Result<Self, LiveError> {
        let LiveFile { path, fd, is_fifo } = file;
        let opened = match fd {
            Some(fd) => Ok(File::from(fd)),
            None => File::open(&path),
        };
        match opened {
            Ok(file) => Ok(Self { path, file, without_writer: is_fifo }),
            Err(source) => Err(LiveError { path, begun: false, source }),
        }
    }

    fn failed(&self, source: io::Error) -> LiveError {
        LiveError { path: self.path.clone(), begun: true, source }
    }

    fn read(&mut self, buffer: &mut [u8], note: &mut dyn FnMut(String)) -> io::Result<usize> {
        loop {
            match self.file.read(buffer) {
                Ok(0) if self.without_writer => self.wait_for_writer(note)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.without_writer = false;
                    wait(&self.file, None)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    self.without_writer = false;
                    return result;
                }
            }
        }
    }

    /// Waits until a writer has written to the pipe, or has opened and closed it: the kernel reports the end of a pipe
    /// only to readers that had it open while it had a writer.
    fn wait_for_writer(&mut self, note: &mut dyn FnMut(String)) -> io::Result<()> {
        if !wait(&self.file, Some(&PATIENCE))? {
            note(format!("waiting for a writer of {}", self.path.display()));
            wait(&self.file, None)?;
        }
        self.without_writer = false;
        Ok(())
    }
}

/// Whether bytes or the end of the file arrive within this time.
fn wait(file: &File, timeout: Option<&Timespec>) -> io::Result<bool> {
    loop {
        match poll(&mut [PollFd::new(file, PollFlags::IN)], timeout) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result? > 0),
        }
    }
}

/// Makes reads of a descriptor block again. It was opened non-blocking so that `open` did not block.
pub(super) fn make_blocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags.difference(OFlags::NONBLOCK))?)
}
