//! The ranges of a stream that have arrived, in any order.

use std::collections::BTreeMap;

/// The bytes that have arrived: everything below [`Ranges::contiguous`], and islands above.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    contiguous: u64,
    /// Start and end of each island; they neither touch nor overlap.
    islands: BTreeMap<u64, u64>,
}

impl Ranges {
    /// All bytes below this offset have arrived.
    pub(super) fn contiguous(&self) -> u64 {
        self.contiguous
    }

    pub(super) fn islands(&self) -> usize {
        self.islands.len()
    }

    /// Removes the islands.
    pub(super) fn keep_contiguous(&mut self) {
        self.islands.clear();
    }

    /// Bytes `start..end` have arrived, some of them perhaps again.
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        if end <= self.contiguous {
            return;
        }
        if start <= self.contiguous {
            self.contiguous = end;
            while let Some((&next, &its_end)) = self.islands.first_key_value() {
                if next > self.contiguous {
                    break;
                }
                self.contiguous = self.contiguous.max(its_end);
                self.islands.pop_first();
            }
            return;
        }
        let (mut start, mut end) = (start, end);
        // Islands that touch it are merged: at most one that begins before it, and those that begin inside.
        if let Some((&before, &its_end)) = self.islands.range(..=start).next_back()
            && its_end >= start
        {
            start = before;
            end = end.max(its_end);
        }
        while let Some((&next, &its_end)) = self.islands.range(start..=end).next() {
            end = end.max(its_end);
            self.islands.remove(&next);
        }
        self.islands.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_set_of_its_bytes(pieces in proptest::collection::vec((0u64..200, 1u64..40), 0..60)) {
            let mut ranges = Ranges::default();
            let mut bytes = vec![false; 256];
            for (start, length) in pieces {
                ranges.insert(start, start + length);
                bytes[start as usize..(start + length) as usize].fill(true);
                let contiguous = bytes.iter().position(|there| !there).unwrap_or(bytes.len());
                prop_assert_eq!(ranges.contiguous(), contiguous as u64);
                let mut islands = 0;
                for at in contiguous + 1..bytes.len() {
                    islands += usize::from(bytes[at] && !bytes[at - 1]);
                }
                prop_assert_eq!(ranges.islands(), islands);
            }
        }
    }
}
