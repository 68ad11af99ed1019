//! Splits text into blocks between words, and distributes the blocks over the parts in turn.

/// Splits a text that arrives in chunks into blocks, and distributes them over a number of parts in turn.
///
/// A block of full size ends at the next byte that is not a letter, so a word is never split, however long it
/// is. The boundaries depend on the text alone, not on its chunks.
#[derive(Debug)]
pub struct Splitter {
    parts: usize,
    block: usize,
    /// The part that gets the present block.
    part: usize,
    /// How many bytes of the present block have been dealt.
    filled: usize,
}

impl Splitter {
    /// Distributes blocks of `block` bytes (and a little more) to `parts` parts.
    ///
    /// # Panics
    /// If either is 0.
    #[must_use]
    pub fn new(parts: usize, block: usize) -> Self {
        assert!(parts > 0 && block > 0, "a text needs parts and blocks to be split into");
        Self { parts, block, part: 0, filled: 0 }
    }

    /// Takes the bytes of one block from the front of `text`, and returns the part that gets them; `None` if `text`
    /// is empty.
    pub fn deal<'a>(&mut self, text: &mut &'a [u8]) -> Option<(usize, &'a [u8])> {
        if text.is_empty() {
            return None;
        }
        // The block's last byte can be nowhere before this.
        let least = (self.block - 1).saturating_sub(self.filled).min(text.len());
        let last = text[least..].iter().position(|byte| !byte.is_ascii_alphabetic());
        let length = last.map_or(text.len(), |at| least + at + 1);
        let piece = text.split_off(..length)?;
        let part = self.part;
        if last.is_some() {
            self.part = (part + 1) % self.parts;
            self.filled = 0;
        } else {
            self.filled += length;
        }
        Some((part, piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes of each part for a text in these chunks.
    fn split(chunks: &[&[u8]], parts: usize, block: usize) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::new(parts, block);
        let mut got = vec![Vec::new(); parts];
        for chunk in chunks {
            let mut rest = *chunk;
            while let Some((part, piece)) = splitter.deal(&mut rest) {
                got[part].extend_from_slice(piece);
            }
        }
        got
    }

    #[test]
    fn blocks_end_behind_words() {
        let got = split(&[b"one two three, four"], 2, 4);
        assert_eq!(got, [b"one three,".as_slice(), b"two  four"].map(<[u8]>::to_vec));
    }

    #[test]
    fn a_word_longer_than_a_block_stays_whole() {
        let got = split(&[b"ab abcdefgh", b"ijklmnop x"], 3, 3);
        assert_eq!(got, [b"ab ".as_slice(), b"abcdefghijklmnop ", b"x"].map(<[u8]>::to_vec));
    }

    proptest! {
        #[test]
        fn no_word_is_cut(
            text in "[a-dA-D]{0,30}([ ,\n][a-d]{0,30}){0,30}",
            parts in 1_usize..5,
            block in 1_usize..40,
        ) {
            let words = |texts: &[&[u8]]| {
                let words = texts.iter().flat_map(|text| text.split(|byte| !byte.is_ascii_alphabetic()));
                let mut words: Vec<Vec<u8>> = words.filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect();
                words.sort_unstable();
                words
            };
            let parts = split(&[text.as_bytes()], parts, block);
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(words(&[text.as_bytes()]), words(&parts));
        }

        #[test]
        fn cuts_depend_on_the_text_alone(
            text in "[a-zA-Z ,\n\u{e9}]{0,300}",
            cut in 0_usize..300,
            parts in 1_usize..5,
            block in 1_usize..40,
        ) {
            let text = text.as_bytes();
            let (head, tail) = text.split_at(cut.min(text.len()));
            let whole = split(&[text], parts, block);
            prop_assert_eq!(&whole, &split(&[head, tail], parts, block));
            prop_assert_eq!(&whole, &split(&text.chunks(1).collect::<Vec<_>>(), parts, block));
        }
    }
}
