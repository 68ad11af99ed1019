//! Finding the words in chunks of text, eight bytes at a time.

use crate::counts::Counts;

/// Maximum length of a word in bytes: a word must fit into memory as a whole, and no real text has longer ones.
pub const MAX_WORD: usize = 16 << 20;

/// A word is longer than [`MAX_WORD`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordTooLong;

impl std::fmt::Display for WordTooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the text has a run of more than {MAX_WORD} letters, the longest word that is counted: is it a text?")
    }
}

impl std::error::Error for WordTooLong {}

/// Counts the words of a text that comes in chunks.
#[derive(Debug, Default)]
pub struct Counter {
    counts: Counts,
    /// The letters of the word in which the last chunk ended.
    open: Vec<u8>,
    /// The letters of a long word behind those in its key.
    rest: Vec<u8>,
}

impl Counter {
    /// Counts the words that end in this chunk.
    ///
    /// # Errors
    /// If a word is too long.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), WordTooLong> {
        let mut at = self.feed_open(chunk)?;
        while let Some(bytes) = chunk[at..].first_chunk() {
            let bytes = u64::from_be_bytes(*bytes);
            let letters = letters(bytes);
            let run = (!letters & HIGH_BITS).leading_zeros() as usize / 8;
            if run == 0 {
                at += letters.leading_zeros() as usize / 8;
            } else if run < 8 {
                let key = (bytes | LOWER_CASE) & !(u64::MAX >> (8 * run));
                self.counts.add_key(key, &[], 1);
                // The byte after the word is known not to be a letter.
                at += run + 1;
            } else {
                let rest = &chunk[at + 8..];
                let Some(length) = rest.iter().position(|byte| !byte.is_ascii_alphabetic()) else { break };
                if length > MAX_WORD - 8 {
                    return Err(WordTooLong);
                }
                self.rest.clear();
                self.rest.extend(rest[..length].iter().map(|letter| letter | CASE_BIT));
                self.counts.add_key(bytes | LOWER_CASE, &self.rest, 1);
                at += 8 + length + 1;
            }
        }
        self.feed_slowly(&chunk[at..])
    }

    /// Ends the text.
    #[must_use]
    pub fn finish(mut self) -> Counts {
        self.close_word();
        self.counts
    }

    /// Goes on with the word in which the last chunk ended, and says where in `chunk` it ends.
    fn feed_open(&mut self, chunk: &[u8]) -> Result<usize, WordTooLong> {
        if self.open.is_empty() {
            return Ok(0);
        }
        let end = chunk.iter().position(|byte| !byte.is_ascii_alphabetic());
        let length = end.unwrap_or(chunk.len());
        self.open_word(&chunk[..length])?;
        if end.is_some() {
            self.close_word();
        }
        Ok(length)
    }

    /// The last bytes of a chunk, whose word may continue in the next one.
    fn feed_slowly(&mut self, bytes: &[u8]) -> Result<(), WordTooLong> {
        let mut runs = bytes.split(|byte| !byte.is_ascii_alphabetic());
        if let Some(run) = runs.next() {
            self.open_word(run)?;
        }
        for run in runs {
            self.close_word();
            self.open_word(run)?;
        }
        Ok(())
    }

    fn open_word(&mut self, letters: &[u8]) -> Result<(), WordTooLong> {
        if self.open.len() + letters.len() > MAX_WORD {
            return Err(WordTooLong);
        }
        self.open.extend(letters.iter().map(|letter| letter | CASE_BIT));
        Ok(())
    }

    fn close_word(&mut self) {
        if !self.open.is_empty() {
            self.counts.add(&self.open, 1);
            self.open.clear();
        }
    }
}

/// The bit that is set in a small letter and not in a capital.
const CASE_BIT: u8 = 0x20;

const EACH_BYTE: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x80 * EACH_BYTE;
const LOWER_CASE: u64 = CASE_BIT as u64 * EACH_BYTE;

/// Sets the high bit of each byte that is an ASCII letter.
#[inline]
fn letters(bytes: u64) -> u64 {
    // Without their high bits, no sum below carries into the next byte.
    let low = (bytes | LOWER_CASE) & !HIGH_BITS;
    let from_a = low + u64::from(0x80 - b'a') * EACH_BYTE;
    let past_z = low + u64::from(0x80 - b'z' - 1) * EACH_BYTE;
    from_a & !past_z & !bytes & HIGH_BITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// The definition of a word, as plainly as it can be said.
    fn by_definition(text: &[u8]) -> BTreeMap<Vec<u8>, u64> {
        let mut counts = BTreeMap::new();
        for word in text.split(|byte| !byte.is_ascii_alphabetic()).filter(|word| !word.is_empty()) {
            *counts.entry(word.to_ascii_lowercase()).or_default() += 1;
        }
        counts
    }

    fn count(chunks: &[&[u8]]) -> Vec<(Vec<u8>, u64)> {
        let mut counter = Counter::default();
        for chunk in chunks {
            counter.feed(chunk).unwrap();
        }
        let counts = counter.finish();
        counts.sorted().iter().map(|word| (word.to_vec(), word.count())).collect()
    }

    /// Mostly letters, and the bytes beside them in the table, with and without their high bit.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            6 => prop::sample::select(b"abAB".as_slice()),
            2 => prop::sample::select(b"@AZ[`az{ \n\x00\x7f\x80\xc1\xda\xe1\xfa\xff".as_slice()),
            1 => any::<u8>(),
        ];
        prop::collection::vec(byte, 0..200)
    }

    proptest! {
        #[test]
        fn words_match_the_definition(text in text(), size in 1_usize..60) {
            let expected: Vec<_> = by_definition(&text).into_iter().collect();
            prop_assert_eq!(&expected, &count(&[&text]));
            prop_assert_eq!(&expected, &count(&text.chunks(size).collect::<Vec<_>>()));
        }
    }

    #[test]
    fn every_byte_is_a_letter_or_not() {
        for byte in 0..=u8::MAX {
            let found = count(&[&[byte, b' ', b' ', b' ', b' ', b' ', b' ', b' ', b' ']]);
            let expected: Vec<_> = by_definition(&[byte]).into_iter().collect();
            assert_eq!(expected, found, "{byte:#x}");
        }
    }

    #[test]
    fn a_word_has_an_end() {
        let letters = vec![b'x'; MAX_WORD];
        assert_eq!(count(&[&letters]).len(), 1);
        assert_eq!(count(&[&letters, b" "]).len(), 1);

        let too_long = vec![b'x'; MAX_WORD + 1];
        assert_eq!(Counter::default().feed(&too_long), Err(WordTooLong));
        let mut text = too_long;
        text.push(b' ');
        assert_eq!(Counter::default().feed(&text), Err(WordTooLong));
        let mut counter = Counter::default();
        counter.feed(&letters).unwrap();
        assert_eq!(counter.feed(b"x "), Err(WordTooLong));
    }
}
