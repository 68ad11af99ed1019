//! From input streams into a pipe.

use crate::pipe::PIPE_BYTES;
use dflow_function::{Error, Input, Inputs};
use rustix::io::Errno;
use std::io::BufRead;
use std::os::fd::OwnedFd;

/// Streams to be read one after the other.
#[expect(clippy::large_enum_variant, reason = "there are few of them, and they are moved only before the start")]
pub(crate) enum Streams {
    /// One, until it has been taken.
    One(Option<Input>),
    /// A fan-in, which may still grow.
    List(Inputs),
}

impl Streams {
    /// The next stream; waits for it if more may come.
    pub(crate) fn next(&mut self) -> Result<Option<Input>, Error> {
        match self {
            Self::One(input) => Ok(input.take()),
            Self::List(inputs) => inputs.next(),
        }
    }
}

/// Copies streams into a pipe of the program.
pub(crate) struct Feed {
    pub(crate) streams: Streams,
    pub(crate) pipe: OwnedFd,
}

impl Feed {
    /// Fills the pipe until the streams have ended or its last reader has closed it. The pipe and the streams are closed on
    /// return.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        while let Some(mut input) = self.streams.next()? {
            if copy(&mut input, &self.pipe)? == Reader::Gone {
                break;
            }
        }
        Ok(())
    }
}

#[derive(PartialEq, Eq)]
enum Reader {
    Reads,
    Gone,
}

fn copy(input: &mut Input, pipe: &OwnedFd) -> Result<Reader, Error> {
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            return Ok(Reader::Reads);
        }
        // In pieces, so that the stream's producer gets room back while a slow program reads on.
        match rustix::io::write(pipe, &chunk[..chunk.len().min(PIPE_BYTES)]) {
            Ok(length) => input.consume(length),
            Err(Errno::INTR) => {}
            Err(Errno::PIPE) => return Ok(Reader::Gone),
            Err(errno) => {
                return Err(Error::new(format!(
                    "cannot write the input '{}' into the pipe of the program: {errno}",
                    input.name()
                )));
            }
        }
    }
}
