//! A stream as records or as lines: in place where one lies in one piece, otherwise copied together.

use crate::error::Error;
use crate::input::Input;
use dflow_ports::{Available, Next};
use dflow_protocol::limits::MAX_RECORD;

/// The length-delimited records of an input: [`Input::records`].
///
/// ```
/// # use dflow_function::{Context, Error, testing::{Test, record}};
/// fn longest(ctx: &mut Context) -> Result<(), Error> {
///     let mut words = ctx.input("words")?;
///     let mut records = words.records();
///     let mut longest = Vec::new();
///     while let Some(word) = records.next()? {
///         if word.len() > longest.len() {
///             longest = word.to_vec();
///         }
///     }
///     ctx.output("longest")?.record(&longest)
/// }
/// let words = [record(b"red"), record(b"green"), record(b"blue")].concat();
/// let run = Test::new(longest).input("words", words).run()?;
/// assert_eq!(run.records("longest")?, [b"green"]);
/// # Ok::<(), Error>(())
/// ```
pub struct Records<'a> {
    pub(crate) input: &'a mut Input,
}

impl<'a> Records<'a> {
    /// The next record, in place where it lies in one piece; `None` at the end of the stream.
    ///
    /// # Errors
    /// If the stream ends within a record, a record is longer than [`MAX_RECORD`], or the stream cannot be read.
    #[expect(clippy::should_implement_trait, reason = "the record borrows from the input, which Iterator cannot say")]
    pub fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        loop {
            match self.find()? {
                Next::Ready(place) => return Ok(Some(self.input.framed(place))),
                Next::End => return Ok(None),
                Next::WouldBlock => self.input.block(),
            }
        }
    }

    /// Like [`Records::next`], but does not wait. A record of which a part has come is continued by the next call.
    ///
    /// # Errors
    /// As [`Records::next`].
    pub fn try_next(&mut self) -> Result<Next<&[u8]>, Error> {
        Ok(match self.find()? {
            Next::Ready(place) => Next::Ready(self.input.framed(place)),
            Next::End => Next::End,
            Next::WouldBlock => Next::WouldBlock,
        })
    }

    /// [`Records::try_next`] with the lifetime of the input.
    #[doc(hidden)]
    pub fn into_next(mut self) -> Result<Next<&'a [u8]>, Error> {
        Ok(match self.find()? {
            Next::Ready(place) => Next::Ready(self.input.framed(place)),
            Next::End => Next::End,
            Next::WouldBlock => Next::WouldBlock,
        })
    }

    fn find(&mut self) -> Result<Next<Framed>, Error> {
        const HEADER: usize = 4;
        let input = &mut *self.input;
        if !input.begin_frame() {
            let have = match input.port.poll()? {
                Available::Bytes(have) => have,
                Available::Nothing => return Ok(Next::WouldBlock),
                Available::End => return Ok(Next::End),
            };
            if let Some(&head) = input.port.bytes(have).first_chunk::<HEADER>() {
                let whole = HEADER as u64 + u64::from(input.checked_length(head)?);
                if have >= whole {
                    return Ok(Next::Ready(Framed::InPlace { before: HEADER, whole, after: 0 }));
                }
            }
            input.is_partial = true;
        }
        loop {
            let need = match input.joined.first_chunk::<HEADER>() {
                None => HEADER,
                Some(&head) => HEADER + input.checked_length(head)? as usize,
            };
            if need <= input.joined.len() && input.joined.len() >= HEADER {
                input.is_partial = false;
                return Ok(Next::Ready(Framed::Joined { before: HEADER }));
            }
            match input.port.poll()? {
                Available::Bytes(have) => input.join(have.min((need - input.joined.len()) as u64)),
                Available::Nothing => return Ok(Next::WouldBlock),
                Available::End => {
                    input.is_partial = false;
                    return Err(Error::new(format!("the input '{}' ends in the middle of a record", input.name())));
                }
            }
        }
    }
}

/// The lines of an input: [`Input::lines_bytes`].
///
/// ```
/// # use dflow_function::{Context, Error, testing::Test};
/// fn grep(ctx: &mut Context) -> Result<(), Error> {
///     let (mut text, mut found) = (ctx.input("text")?, ctx.output("found")?);
///     let mut lines = text.lines_bytes();
///     while let Some(line) = lines.next()? {
///         if line.starts_with(b"ERROR") {
///             found.write_all(&[line, b"\n"].concat())?;
///         }
///     }
///     Ok(())
/// }
/// let run = Test::new(grep).input("text", b"ok\nERROR 1\nok").run()?;
/// assert_eq!(run.output("found"), b"ERROR 1\n");
/// # Ok::<(), Error>(())
/// ```
pub struct Lines<'a> {
    pub(crate) input: &'a mut Input,
}

impl<'a> Lines<'a> {
    /// The next line without its newline, in place where it lies in one piece; `None` at the end of the stream. A last
    /// line without a newline counts.
    ///
    /// # Errors
    /// If the stream cannot be read.
    #[expect(clippy::should_implement_trait, reason = "the line borrows from the input, which Iterator cannot say")]
    pub fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        loop {
            match self.find()? {
                Next::Ready(place) => return Ok(Some(self.input.framed(place))),
                Next::End => return Ok(None),
                Next::WouldBlock => self.input.block(),
            }
        }
    }

    /// Like [`Lines::next`], but does not wait. A line of which a part has come is continued by the next call.
    ///
    /// # Errors
    /// As [`Lines::next`].
    pub fn try_next(&mut self) -> Result<Next<&[u8]>, Error> {
        Ok(match self.find()? {
            Next::Ready(place) => Next::Ready(self.input.framed(place)),
            Next::End => Next::End,
            Next::WouldBlock => Next::WouldBlock,
        })
    }

    /// [`Lines::try_next`] with the lifetime of the input.
    #[doc(hidden)]
    pub fn into_next(mut self) -> Result<Next<&'a [u8]>, Error> {
        Ok(match self.find()? {
            Next::Ready(place) => Next::Ready(self.input.framed(place)),
            Next::End => Next::End,
            Next::WouldBlock => Next::WouldBlock,
        })
    }

    fn find(&mut self) -> Result<Next<Framed>, Error> {
        let input = &mut *self.input;
        input.begin_frame();
        loop {
            let have = match input.port.poll()? {
                Available::Bytes(have) => have,
                Available::Nothing => {
                    input.is_partial = !input.joined.is_empty();
                    return Ok(Next::WouldBlock);
                }
                Available::End => {
                    input.is_partial = false;
                    let ended = input.joined.is_empty();
                    return Ok(if ended { Next::End } else { Next::Ready(Framed::Joined { before: 0 }) });
                }
            };
            match memchr::memchr(b'\n', input.port.bytes(have)) {
                Some(at) if input.joined.is_empty() => {
                    return Ok(Next::Ready(Framed::InPlace { before: 0, whole: at as u64 + 1, after: 1 }));
                }
                Some(at) => {
                    input.join(at as u64);
                    input.port.advance(1);
                    input.is_partial = false;
                    return Ok(Next::Ready(Framed::Joined { before: 0 }));
                }
                None => input.join(have),
            }
        }
    }
}

/// Where a record or line is.
enum Framed {
    /// In the next `whole` bytes of the stream, without `before` at their beginning and `after` at their end.
    InPlace { before: usize, whole: u64, after: usize },
    /// In `joined`, behind `before` bytes.
    Joined { before: usize },
}

impl Input {
    /// Whether a record or line was begun by an earlier call; otherwise a new one begins.
    fn begin_frame(&mut self) -> bool {
        if !self.is_partial {
            self.joined.clear();
        }
        self.is_partial
    }

    /// The record or line, which stays there until the next call.
    fn framed(&mut self, place: Framed) -> &[u8] {
        match place {
            Framed::InPlace { before, whole, after } => {
                let bytes = self.port.take(whole);
                &bytes[before..bytes.len() - after]
            }
            Framed::Joined { before } => &self.joined[before..],
        }
    }

    /// Moves the next `length` bytes to `joined`.
    fn join(&mut self, length: u64) {
        let bytes = self.port.bytes(length);
        self.joined.extend_from_slice(bytes);
        self.port.advance(length);
    }

    /// The length of the record that begins with `head`.
    fn checked_length(&self, head: [u8; 4]) -> Result<u32, Error> {
        let length = u32::from_le_bytes(head);
        if length > MAX_RECORD {
            return Err(Error::new(format!(
                "the input '{}' has a record of {length} bytes at offset {}; {MAX_RECORD} is the most, so these are \
                 probably no records",
                self.name(),
                self.position() - self.joined.len() as u64
            )));
        }
        Ok(length)
    }
}
