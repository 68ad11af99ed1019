//! From a pipe into an output stream.

use crate::pipe::PIPE_BYTES;
use dflow_function::{Error, Output};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Counts the program's outputs that are still read; all of them share it.
pub(crate) struct Audience(AtomicUsize);

impl Audience {
    /// For a program with this many outputs.
    pub(crate) fn new(outputs: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(outputs)))
    }

    /// One output is no longer read. Says whether it was the last.
    fn leave(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) == 1
    }

    fn is_gone(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// Copies a pipe of the program into an output.
pub(crate) struct Drain {
    pub(crate) output: Output,
    pub(crate) pipe: OwnedFd,
    pub(crate) audience: Arc<Audience>,
}

impl Drain {
    /// Empties the pipe until its last writer has closed it. The output stays unfinished.
    ///
    /// If no output of the program is read any more, `unread` gets the error, and then the pipe is closed.
    pub(crate) fn run(mut self, unread: impl FnOnce(Error)) -> Result<(), Error> {
        match copy(&self.pipe, &mut self.output) {
            Err(error) if error.is_unread() => {
                if self.audience.leave() {
                    unread(error);
                    Ok(())
                } else {
                    self.discard()
                }
            }
            ended => ended,
        }
    }

    /// Discards the output, so that the program can continue to write its other outputs.
    fn discard(&self) -> Result<(), Error> {
        let mut bytes = vec![0; 64 << 10];
        while !self.audience.is_gone() && read(&self.pipe, &mut bytes, self.output.name())? > 0 {}
        Ok(())
    }
}

/// A program that writes more often than this writes in bulk. Its pipe is given a [`NAP`] to fill between two reads,
/// unless a read has found a [`BATCH`]. That costs a little latency and saves most wake-ups of the stream's readers. A
/// program that writes rarely never waits.
const BULK: Duration = Duration::from_millis(1);
const NAP: Duration = Duration::from_micros(200);
const BATCH: usize = 256 << 10;

fn copy(pipe: &OwnedFd, output: &mut Output) -> Result<(), Error> {
    let name = output.name().to_owned();
    let mut last: Option<Instant> = None;
    loop {
        let mut room = output.reserve(1)?;
        let most = room.len().min(PIPE_BYTES);
        match read(pipe, &mut room[..most], &name)? {
            0 => return Ok(()),
            length => {
                room.commit(length)?;
                let now = Instant::now();
                let bulk = last.replace(now).is_some_and(|last| now - last < BULK);
                if bulk && length < BATCH.min(most) {
                    std::thread::sleep(NAP);
                }
            }
        }
    }
}

fn read(pipe: &OwnedFd, bytes: &mut [u8], name: &str) -> Result<usize, Error> {
    loop {
        match rustix::io::read(pipe, &mut *bytes) {
            Ok(length) => return Ok(length),
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::new(format!(
                    "cannot read the output '{name}' from the pipe of the program: {errno}"
                )));
            }
        }
    }
}
