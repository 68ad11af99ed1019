//! Picking one of many, some more often than others, in constant time: Walker's alias method with whole numbers.

use crate::random::{Random, scale};

/// Some things, each with its share.
#[derive(Debug)]
pub(crate) struct Choice<T> {
    things: Vec<T>,
    columns: Vec<Column>,
}

/// All columns are equally likely; each holds one thing and the part of another that fills it up.
#[derive(Clone, Copy, Debug)]
struct Column {
    /// The thing of this column itself is chosen by numbers below this.
    own: u64,
    other: u32,
}

/// The height of a column.
const FULL: u64 = 1 << 32;

/// The weight of the first item under Zipf's law; the n-th item has an n-th of it.
const FIRST: u64 = 1 << 24;

impl<T> Choice<T> {
    /// The n-th of the things is chosen an n-th as often as the first.
    pub(crate) fn zipf(things: impl IntoIterator<Item = T>) -> Self {
        Self::weighted((1..).zip(things).map(|(rank, thing)| (FIRST / rank, thing)))
    }

    /// Each thing is chosen as often as its weight says. At least one weight is not 0, and their sum fits in 32 bits.
    pub(crate) fn weighted(things: impl IntoIterator<Item = (u64, T)>) -> Self {
        let (weights, things): (Vec<u64>, Vec<T>) = things.into_iter().unzip();
        let sum: u64 = weights.iter().sum();
        // The heights add up to `sum` for each column.
        let mut heights: Vec<u64> = weights.iter().map(|weight| weight * weights.len() as u64).collect();
        let (mut low, mut high): (Vec<usize>, Vec<usize>) = (0..heights.len()).partition(|&at| heights[at] < sum);
        let mut columns: Vec<Column> = (0..).take(heights.len()).map(|at| Column { own: FULL, other: at }).collect();
        while let (Some(&filler), Some(short)) = (high.last(), low.pop()) {
            columns[short] = Column { own: heights[short] * FULL / sum, other: filler as u32 };
            heights[filler] -= sum - heights[short];
            if heights[filler] < sum {
                high.pop();
                low.push(filler);
            }
        }
        Self { things, columns }
    }

    pub(crate) fn pick(&self, random: &mut Random) -> &T {
        let number = random.next();
        let column = scale((number >> 32) as u32, self.columns.len() as u32);
        let Column { own, other } = self.columns[column as usize];
        let chosen = if number % FULL < own { column } else { other };
        &self.things[chosen as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl<T> Choice<T> {
        /// The fraction of all numbers, in units of 1 / ([`FULL`] × columns), that chooses each item.
        fn shares(&self) -> Vec<u64> {
            let mut shares = vec![0; self.columns.len()];
            for (at, column) in self.columns.iter().enumerate() {
                shares[at] += column.own;
                shares[column.other as usize] += FULL - column.own;
            }
            shares
        }
    }

    proptest! {
        #[test]
        fn each_thing_has_its_share(weights in prop::collection::vec(0_u64..1000, 1..50)) {
            prop_assume!(weights.iter().any(|&weight| weight > 0));
            let sum: u64 = weights.iter().sum();
            let count = weights.len() as u64;
            let choice = Choice::weighted(weights.iter().map(|&weight| (weight, ())));
            for (share, weight) in choice.shares().into_iter().zip(weights) {
                let expected = weight * count * FULL / sum;
                // Each column rounds once.
                prop_assert!(share.abs_diff(expected) <= count, "{share} instead of {expected}");
                prop_assert!(weight > 0 || share == 0);
            }
        }
    }
}
