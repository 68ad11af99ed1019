//! A stream as records or as lines: in place where one lies in one piece, otherwise copied together.

use crate::error::Error;
use crate::input::Input;
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

impl Records<'_> {
    /// The next record, in place where it lies in one piece; `None` at the end of the stream.
    ///
    /// # Errors
    /// If the stream ends within a record, a record is longer than [`MAX_RECORD`], or the stream cannot be read.
    #[expect(clippy::should_implement_trait, reason = "the record borrows from the input, which Iterator cannot say")]
    pub fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        const HEADER: usize = 4;
        let input = &mut *self.input;
        let cut = |name: &str| Error::new(format!("the input '{name}' ends in the middle of a record"));
        let Some(have) = input.wait()? else { return Ok(None) };
        let head: [u8; HEADER] = match input.port.bytes(have).first_chunk() {
            Some(head) => {
                let head = *head;
                input.port.advance(HEADER as u64);
                head
            }
            None => {
                input.joined.clear();
                if !input.join(HEADER)? {
                    return Err(cut(input.name()));
                }
                *input.joined.first_chunk().ok_or_else(|| cut(input.name()))?
            }
        };
        let length = u32::from_le_bytes(head);
        if length > MAX_RECORD {
            return Err(Error::new(format!(
                "the input '{}' has a record of {length} bytes at offset {}; {MAX_RECORD} is the most, so these are \
                 probably no records",
                input.name(),
                input.position() - HEADER as u64
            )));
        }
        if length == 0 {
            return Ok(Some(&[]));
        }
        let Some(have) = input.wait()? else { return Err(cut(input.name())) };
        if have >= u64::from(length) {
            return Ok(Some(input.port.take(u64::from(length))));
        }
        input.joined.clear();
        if !input.join(length as usize)? {
            return Err(cut(input.name()));
        }
        Ok(Some(&input.joined))
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

impl Lines<'_> {
    /// The next line without its newline, in place where it lies in one piece; `None` at the end of the stream. A last
    /// line without a newline counts.
    ///
    /// # Errors
    /// If the stream cannot be read.
    #[expect(clippy::should_implement_trait, reason = "the line borrows from the input, which Iterator cannot say")]
    pub fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        let input = &mut *self.input;
        input.joined.clear();
        loop {
            let Some(have) = input.wait()? else {
                return Ok((!input.joined.is_empty()).then_some(&input.joined[..]));
            };
            let found = memchr::memchr(b'\n', input.port.bytes(have));
            match found {
                Some(at) if input.joined.is_empty() => {
                    return Ok(Some(&input.port.take(at as u64 + 1)[..at]));
                }
                Some(at) => {
                    let mut joined = std::mem::take(&mut input.joined);
                    joined.extend_from_slice(&input.port.bytes(have)[..at]);
                    input.joined = joined;
                    input.port.advance(at as u64 + 1);
                    return Ok(Some(&input.joined));
                }
                None => {
                    let mut joined = std::mem::take(&mut input.joined);
                    joined.extend_from_slice(input.port.bytes(have));
                    input.joined = joined;
                    input.port.advance(have);
                }
            }
        }
    }
}

impl Input {
    /// Collects exactly `length` bytes into `joined`, which holds some already; `false` if the stream ends before.
    fn join(&mut self, length: usize) -> Result<bool, Error> {
        while self.joined.len() < length {
            let Some(have) = self.wait()? else { return Ok(false) };
            let take = (length - self.joined.len()).min(have as usize);
            let mut joined = std::mem::take(&mut self.joined);
            joined.extend_from_slice(&self.port.bytes(have)[..take]);
            self.joined = joined;
            self.port.advance(take as u64);
        }
        Ok(true)
    }
}
