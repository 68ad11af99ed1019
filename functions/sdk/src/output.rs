//! Writing one stream.

use crate::error::Error;
use dflow_ports::{OutPort, Space};
use dflow_protocol::limits::MAX_RECORD;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// One output stream of a function.
///
/// Everything that is written can be read at once: each write commits. A commit costs a few loads and stores, and a
/// system call if a reader sleeps. A function that writes many small things fills a [`Output::reserve`]d room with
/// them, or wraps the output in a [`std::io::BufWriter`].
///
/// A write waits while readers still need the bytes that it would overwrite. If the output has no reader left, it fails
/// with an error whose [`Error::is_unread`] is true; a function that returns it has not failed.
///
/// Outputs are finished when the function returns `Ok`; [`Output::finish`] does so earlier. Dropping an output does not
/// finish it.
///
/// ```
/// use dflow_function::testing::Test;
/// use dflow_function::{Context, Error};
/// use std::io::Write;
///
/// fn squares(ctx: &mut Context) -> Result<(), Error> {
///     let mut out = std::io::BufWriter::new(ctx.output("squares")?);
///     for number in 1..=3 {
///         writeln!(out, "{}", number * number)?;
///     }
///     out.flush()?;
///     Ok(())
/// }
///
/// assert_eq!(Test::new(squares).run()?.output("squares"), b"1\n4\n9\n");
/// # Ok::<(), Error>(())
/// ```
pub struct Output {
    port: OutPort,
}

impl Output {
    pub(crate) fn new(port: OutPort) -> Self {
        Self { port }
    }

    /// The output's name in the workflow file.
    #[must_use]
    pub fn name(&self) -> &str {
        self.port.name()
    }

    /// How many bytes have been committed.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.port.written()
    }

    /// Room for at least `length` bytes in the stream itself, to be filled in place and committed. At most 256 MiB
    /// (`dflow_protocol::limits::MAX_WINDOW`).
    ///
    /// The room may be longer than `length`, and its contents are undefined before it is filled.
    ///
    /// ```
    /// # use dflow_function::{Context, Error, testing::Test};
    /// fn upper(ctx: &mut Context) -> Result<(), Error> {
    ///     let mut text = ctx.input("text")?;
    ///     let mut out = ctx.output("out")?;
    ///     while let Some(chunk) = text.chunk()? {
    ///         let mut room = out.reserve(chunk.len())?;
    ///         for (to, from) in room.iter_mut().zip(chunk) {
    ///             *to = from.to_ascii_uppercase();
    ///         }
    ///         room.commit(chunk.len())?;
    ///     }
    ///     Ok(())
    /// }
    /// assert_eq!(Test::new(upper).input("text", b"abc").run()?.output("out"), b"ABC");
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// If this output has no reader left ([`Error::is_unread`]), or the room is larger than a window can be.
    pub fn reserve(&mut self, length: usize) -> Result<Reservation<'_>, Error> {
        let space = loop {
            match self.port.poll_room(length as u64)? {
                Space::WouldBlock => block(&mut self.port),
                space => break space,
            }
        };
        Ok(Reservation { room: self.port.reservation(length, space) })
    }

    /// Writes and commits all of `bytes`.
    ///
    /// # Errors
    /// As [`Output::reserve`].
    pub fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            match self.port.try_write(bytes)? {
                0 => block(&mut self.port),
                written => bytes = &bytes[written..],
            }
        }
        Ok(())
    }

    /// Writes one length-delimited record: a little-endian `u32` and the bytes. [`crate::Input::records`] reads them.
    ///
    /// # Errors
    /// As [`Output::reserve`]; or if the record is longer than 64 MiB (`dflow_protocol::limits::MAX_RECORD`).
    pub fn record(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let length = u32::try_from(bytes.len()).ok().filter(|&length| length <= MAX_RECORD).ok_or_else(|| {
            Error::new(format!(
                "a record of {} bytes for the output '{}' is longer than the {MAX_RECORD} that one may have",
                bytes.len(),
                self.name()
            ))
        })?;
        let mut room = self.reserve(bytes.len() + 4)?;
        room[..4].copy_from_slice(&length.to_le_bytes());
        room[4..bytes.len() + 4].copy_from_slice(bytes);
        room.commit(bytes.len() + 4)
    }

    /// Finishes the stream, so that its readers reach its end while the function continues.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn finish(self) -> Result<(), Error> {
        Ok(self.port.finish()?)
    }
}

/// For bindings to other languages, which wait in their own way.
impl AsMut<OutPort> for Output {
    fn as_mut(&mut self) -> &mut OutPort {
        &mut self.port
    }
}

fn block(port: &mut OutPort) {
    let session = Arc::clone(port.session());
    session.wait(port, None);
}

impl std::io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.write_all(bytes).map_err(Error::into_io)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Room in an output: [`Output::reserve`]. Nothing is readable before [`Reservation::commit`]; dropping it leaves the
/// stream as it was.
pub struct Reservation<'a> {
    room: dflow_ports::Reservation<'a>,
}

impl Reservation<'_> {
    /// Makes the first `length` bytes readable.
    ///
    /// # Errors
    /// If there is less room than `length`, the output has no reader left, or the daemon is gone.
    pub fn commit(self, length: usize) -> Result<(), Error> {
        let port = self.room.commit(length)?;
        while !port.try_flush()? {
            block(port);
        }
        Ok(())
    }
}

impl Deref for Reservation<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.room
    }
}

impl DerefMut for Reservation<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.room
    }
}
