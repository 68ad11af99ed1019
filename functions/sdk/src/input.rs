//! Reading one stream.

use crate::error::Error;
use crate::framing::{Lines, Records};
use dflow_ports::{Available, InPort, View};

/// One input stream of a function.
///
/// It can be read in several ways, which can be mixed, because each continues where the previous one
/// stopped:
///
/// | call | gives |
/// | --- | --- |
/// | [`Input::chunk`] | all bytes that are there now |
/// | [`Input::lines_bytes`], [`Input::records`] | one line or one length-delimited record after the other |
/// | [`Input::so_far`] | one slice over the whole stream up to now |
/// | [`Input::view`] | bytes that may be kept and sent to other threads |
/// | [`std::io::BufRead`], [`std::io::Read`] | the traits of the standard library, which other crates expect |
///
/// All but `Read` give bytes in place, in the memory that the producer wrote them to. They stay there until the next
/// call.
///
/// Dropping an input, or [`Input::close`], tells its producer that no more bytes will be read.
///
/// ```
/// use dflow_function::testing::Test;
/// use dflow_function::{Context, Error};
///
/// /// Copies the header line, and then everything after the first empty line.
/// fn body(ctx: &mut Context) -> Result<(), Error> {
///     let mut mail = ctx.input("mail")?;
///     let mut out = ctx.output("out")?;
///     let mut lines = mail.lines_bytes();
///     while let Some(line) = lines.next()? {
///         if line.is_empty() {
///             break;
///         }
///     }
///     while let Some(chunk) = mail.chunk()? {
///         out.write_all(chunk)?;
///     }
///     Ok(())
/// }
///
/// let run = Test::new(body).input("mail", b"From: a\nTo: b\n\nHello\n").run()?;
/// assert_eq!(run.output("out"), b"Hello\n");
/// # Ok::<(), Error>(())
/// ```
pub struct Input {
    pub(crate) port: InPort,
    /// A record or line that does not lie in one piece.
    pub(crate) joined: Vec<u8>,
    /// `joined` holds the beginning of one that has not come completely.
    pub(crate) is_partial: bool,
}

impl Input {
    /// The input's name in the workflow file.
    #[must_use]
    pub fn name(&self) -> &str {
        self.port.name()
    }

    /// The offset in the stream of the next byte, in bytes.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.port.position()
    }

    /// All bytes that are there now, in place; waits for the first. `None` at the end of the stream.
    ///
    /// How the stream is cut into chunks depends on time: it has no meaning. The next call gives the bytes back to the
    /// producer.
    ///
    /// # Errors
    /// If the stream is given up by its producer or cannot be read.
    pub fn chunk(&mut self) -> Result<Option<&[u8]>, Error> {
        let Some(length) = self.wait()? else { return Ok(None) };
        Ok(Some(self.port.take(length)))
    }

    /// The next bytes, at most `most`, as a [`View`], which may be kept after the next call, cloned and sent to other
    /// threads; waits for the first. `None` at the end of the stream.
    ///
    /// The bytes are not copied: while the view exists, they count as unread for the producer, which may have to wait
    /// or to write to other memory. Drop views when they are no longer needed.
    ///
    /// # Errors
    /// As [`Input::chunk`].
    pub fn view(&mut self, most: usize) -> Result<Option<View>, Error> {
        loop {
            match self.port.try_next_view(most)? {
                dflow_ports::Next::Ready(view) => return Ok(Some(view)),
                dflow_ports::Next::End => return Ok(None),
                dflow_ports::Next::WouldBlock => self.block(),
            }
        }
    }

    /// All bytes that are there now, without waiting and without moving past them: they come again until
    /// [`Input::consume_bytes`]. Empty if there are none at present.
    ///
    /// # Errors
    /// As [`Input::chunk`].
    pub fn peek(&mut self) -> Result<&[u8], Error> {
        match self.port.poll()? {
            Available::Bytes(length) => Ok(self.port.bytes(length)),
            Available::Nothing | Available::End => {
                // A reader that only peeks never waits, and its producer may wait for room.
                self.port.publish();
                Ok(&[])
            }
        }
    }

    /// Moves past `length` bytes that [`Input::peek`] has shown.
    pub fn consume_bytes(&mut self, length: usize) {
        self.port.advance(length as u64);
    }

    /// Whether everything has been read and nothing more will come. Does not wait: `false` while that is not known.
    ///
    /// # Errors
    /// If the stream is given up by its producer.
    pub fn is_finished(&mut self) -> Result<bool, Error> {
        let ended = self.port.poll()? == Available::End;
        self.port.publish();
        Ok(ended)
    }

    /// One slice over the stream from its first byte to the last that is there now, in place. Moves to its end:
    /// [`Input::chunk`] continues after it, and so does [`Input::wait_for`].
    ///
    /// # Errors
    /// If the workflow file says neither `keep: true` nor `gate: whole` for this input, so that bytes may be gone; or
    /// if the address space has no room for the stream.
    pub fn so_far(&mut self) -> Result<&[u8], Error> {
        Ok(self.port.so_far()?)
    }

    /// [`Input::so_far`] as a [`View`].
    ///
    /// # Errors
    /// As [`Input::so_far`].
    pub fn view_so_far(&mut self) -> Result<View, Error> {
        Ok(self.port.view_so_far()?)
    }

    /// Waits until the stream has at least `length` bytes in all or is finished, and says how many it has.
    ///
    /// ```
    /// # use dflow_function::{Context, Error, testing::Test};
    /// /// Writes the length of the input, which must be kept to be seen as a whole.
    /// fn length(ctx: &mut Context) -> Result<(), Error> {
    ///     let mut all = ctx.input("all")?;
    ///     let length = all.wait_for(u64::MAX)?;
    ///     assert_eq!(all.so_far()?.len() as u64, length);
    ///     ctx.output("length")?.write_all(length.to_string().as_bytes())
    /// }
    /// assert_eq!(Test::new(length).input("all", b"abc").run()?.output("length"), b"3");
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Input::so_far`].
    pub fn wait_for(&mut self, length: u64) -> Result<u64, Error> {
        loop {
            let have = self.port.so_far()?.len() as u64;
            if have >= length || self.wait()?.is_none() {
                return Ok(have);
            }
        }
    }

    /// Reads length-delimited records: each is a little-endian `u32` and as many bytes.
    pub fn records(&mut self) -> Records<'_> {
        Records { input: self }
    }

    /// Reads lines as bytes.
    pub fn lines_bytes(&mut self) -> Lines<'_> {
        Lines { input: self }
    }

    /// Says that nothing more will be read, so that the producer need not wait for this reader.
    pub fn close(self) {}

    /// Waits for bytes; their number, or `None` at the end.
    pub(crate) fn wait(&mut self) -> Result<Option<u64>, Error> {
        loop {
            match self.port.poll()? {
                Available::Bytes(length) => return Ok(Some(length)),
                Available::End => return Ok(None),
                Available::Nothing => self.block(),
            }
        }
    }

    pub(crate) fn block(&mut self) {
        let session = std::sync::Arc::clone(self.port.session());
        session.wait(&mut self.port, None);
    }
}

impl From<InPort> for Input {
    fn from(port: InPort) -> Self {
        Self { port, joined: Vec::new(), is_partial: false }
    }
}

impl AsMut<InPort> for Input {
    fn as_mut(&mut self) -> &mut InPort {
        &mut self.port
    }
}

impl std::io::BufRead for Input {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        match self.wait().map_err(Error::into_io)? {
            Some(length) => Ok(self.port.bytes(length)),
            None => Ok(&[]),
        }
    }

    fn consume(&mut self, amount: usize) {
        self.port.advance(amount as u64);
    }
}

impl std::io::Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = std::io::BufRead::fill_buf(self)?;
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        self.port.advance(length as u64);
        Ok(length)
    }
}
