//! A stream as records or as lines, in place where one lies in one piece.

use super::Input;
use crate::error::Error;
use dflow_protocol::limits::MAX_RECORD;

/// The length-delimited records of an input: [`Input::records`].
pub struct Records<'a> {
    pub(super) input: &'a mut Input,
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
        let head: [u8; HEADER] = match input.bytes(have).first_chunk() {
            Some(head) => {
                let head = *head;
                input.advance(HEADER as u64);
                head
            }
            None => {
                input.joined.clear();
                if !input.join(HEADER)? {
                    return Err(cut(&input.name));
                }
                *input.joined.first_chunk().ok_or_else(|| cut(&input.name))?
            }
        };
        let length = u32::from_le_bytes(head);
        if length > MAX_RECORD {
            return Err(Error::new(format!(
                "the input '{}' has a record of {length} bytes at offset {}; {MAX_RECORD} is the most, so these are \
                 probably no records",
                input.name,
                input.position() - HEADER as u64
            )));
        }
        if length == 0 {
            return Ok(Some(&[]));
        }
        let Some(have) = input.wait()? else { return Err(cut(&input.name)) };
        if have >= u64::from(length) {
            input.lent = u64::from(length);
            return Ok(Some(&input.bytes(have)[..length as usize]));
        }
        input.joined.clear();
        if !input.join(length as usize)? {
            return Err(cut(&input.name));
        }
        Ok(Some(&input.joined))
    }
}

/// The lines of an input: [`Input::lines_bytes`].
pub struct Lines<'a> {
    pub(super) input: &'a mut Input,
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
            let found = memchr::memchr(b'\n', input.bytes(have));
            match found {
                Some(at) if input.joined.is_empty() => {
                    input.lent = at as u64 + 1;
                    return Ok(Some(&input.bytes(have)[..at]));
                }
                Some(at) => {
                    let mut joined = std::mem::take(&mut input.joined);
                    joined.extend_from_slice(&input.bytes(have)[..at]);
                    input.joined = joined;
                    input.advance(at as u64 + 1);
                    return Ok(Some(&input.joined));
                }
                None => {
                    let mut joined = std::mem::take(&mut input.joined);
                    joined.extend_from_slice(input.bytes(have));
                    input.joined = joined;
                    input.advance(have);
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
            joined.extend_from_slice(&self.bytes(have)[..take]);
            self.joined = joined;
            self.advance(take as u64);
        }
        Ok(true)
    }
}
