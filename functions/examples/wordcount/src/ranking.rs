//! The words by their counts.

use crate::counts::{Counts, WordCount};
use std::cmp::Ordering;

/// The `top` most frequent words, all of them if it is 0: by count, the highest first, and by word where counts are
/// equal.
#[must_use]
pub fn rank(counts: &Counts, top: usize) -> Vec<WordCount<'_>> {
    let mut words: Vec<WordCount> = counts.iter().collect();
    if 0 < top && top < words.len() {
        words.select_nth_unstable_by(top - 1, by_count);
        words.truncate(top);
    }
    words.sort_unstable_by(by_count);
    words
}

fn by_count(one: &WordCount, other: &WordCount) -> Ordering {
    other.count().cmp(&one.count()).then_with(|| one.cmp(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Few letters and few counts, so that many words are equal or have equal counts or the same beginning.
    fn words() -> impl Strategy<Value = Vec<(String, u64)>> {
        prop::collection::vec(("(abcdefgh)?[ab]{1,3}", 1_u64..4), 0..60)
    }

    fn counts(words: &[(String, u64)]) -> Counts {
        let mut counts = Counts::default();
        words.iter().for_each(|(word, count)| counts.add(word.as_bytes(), *count));
        counts
    }

    fn ranked(counts: &Counts, top: usize) -> Vec<(Vec<u8>, u64)> {
        rank(counts, top).iter().map(|word| (word.to_vec(), word.count())).collect()
    }

    proptest! {
        #[test]
        fn the_most_frequent_words_come_first(words in words(), top in 1_usize..80) {
            let mut sums = BTreeMap::<Vec<u8>, u64>::new();
            words.iter().for_each(|(word, count)| *sums.entry(word.clone().into_bytes()).or_default() += count);
            let mut expected: Vec<_> = sums.into_iter().collect();
            // Stable, so words of the same count stay in the order of the map.
            expected.sort_by_key(|&(_, count)| std::cmp::Reverse(count));

            let counts = counts(&words);
            prop_assert_eq!(&expected, &ranked(&counts, 0));
            expected.truncate(top);
            prop_assert_eq!(&expected, &ranked(&counts, top));
        }

        #[test]
        fn parts_add_up_to_the_whole(words in words(), cut in 0_usize..60) {
            let (one, other) = words.split_at(cut.min(words.len()));
            let mut merged = Counts::default();
            for part in [counts(one), counts(other)] {
                part.sorted().iter().for_each(|word| merged.add(&word.to_vec(), word.count()));
            }
            prop_assert_eq!(ranked(&counts(&words), 0), ranked(&merged, 0));
        }
    }
}
