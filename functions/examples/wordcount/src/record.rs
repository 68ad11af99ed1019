//! A word and its count as they travel from `wordcount-count` to `wordcount-merge`: a length-delimited record that
//! holds the count as a little-endian `u64` and the letters.

use crate::counts::WordCount;
use std::io::Write;

const LENGTH: usize = size_of::<u32>();
const COUNT: usize = size_of::<u64>();

/// How many bytes [`encode`] writes.
#[must_use]
pub fn record_length(word: &WordCount) -> usize {
    LENGTH + COUNT + word.length()
}

/// Writes a record.
///
/// # Errors
/// Those of `to`; a slice that is shorter than [`record_length`] is one.
pub fn encode(word: &WordCount, to: &mut impl Write) -> std::io::Result<()> {
    // A word has at most `MAX_WORD` letters.
    to.write_all(&((COUNT + word.length()) as u32).to_le_bytes())?;
    to.write_all(&word.count().to_le_bytes())?;
    word.write_word(to)
}

/// A record is too short for a count and a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARecord {
    length: usize,
}

impl std::fmt::Display for NotARecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a record of {} bytes cannot hold a count and a word: was this written by wordcount-count?",
            self.length
        )
    }
}

impl std::error::Error for NotARecord {}

/// Takes a record apart: the letters and the count. `record` is without its length.
///
/// # Errors
/// If it is too short.
pub fn decode(record: &[u8]) -> Result<(&[u8], u64), NotARecord> {
    match record.split_first_chunk() {
        Some((count, word)) if !word.is_empty() => Ok((word, u64::from_le_bytes(*count))),
        _ => Err(NotARecord { length: record.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Counts;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_holds_the_word_and_its_count(word in "[a-z]{1,40}", count in any::<u64>()) {
            let mut counts = Counts::default();
            counts.add(word.as_bytes(), count);
            let counted = counts.sorted()[0];
            let mut record = vec![0; record_length(&counted)];
            encode(&counted, &mut record.as_mut_slice()).unwrap();
            let (length, body) = record.split_at(LENGTH);
            prop_assert_eq!(length, (body.len() as u32).to_le_bytes());
            prop_assert_eq!(decode(body), Ok((word.as_bytes(), count)));
            prop_assert!(encode(&counted, &mut &mut record[1..]).is_err());
        }

        #[test]
        fn truncated_records_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..9)) {
            prop_assert_eq!(decode(&bytes), Err(NotARecord { length: bytes.len() }));
        }
    }
}
