//! Payloads: 64-bit words that count up from the message's number, so that a reader can detect a wrong byte.

use zerocopy::{FromBytes, IntoBytes};

use crate::failure::Failure;

/// The size of a word in bytes. Every payload is a whole number of words.
pub const WORD: usize = size_of::<u64>();

/// Writes a payload: `first`, `first + 1`, …
pub fn fill(words: &mut [u64], first: u64) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { fill_by_avx2(words, first) };
    }
    fill_words(words, first);
}

/// The values that a reader computed from a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The first word.
    pub first: u64,
    /// The sum of all words, which requires reading each.
    pub sum: u64,
}

impl Seen {
    /// Reads every word.
    pub fn reading(words: &[u64]) -> Seen {
        Seen { first: words.first().copied().unwrap_or(0), sum: sum(words) }
    }

    /// Fails if these are not the `size` bytes of a payload.
    pub fn check(self, size: usize) -> Result<(), Failure> {
        let count = (size / WORD) as u64;
        // The sum of 0..count; one of the two factors is even.
        let steps = if count.is_multiple_of(2) {
            (count / 2).wrapping_mul(count.wrapping_sub(1))
        } else {
            count.wrapping_mul((count - 1) / 2)
        };
        let expected = count.wrapping_mul(self.first).wrapping_add(steps);
        if self.sum == expected {
            return Ok(());
        }
        Err(Failure::new(format!("the payload of {size} bytes that begins with {} was corrupted", self.first)))
    }
}

/// The sum of all words.
fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { sum_by_avx2(words) };
    }
    sum_words(words)
}

// The same loops for wider registers. With the registers that every x86-64 processor has, the loops would dominate the
// measurement of payloads in the cache.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn fill_by_avx2(words: &mut [u64], first: u64) {
    fill_words(words, first);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_by_avx2(words: &[u64]) -> u64 {
    sum_words(words)
}

#[inline(always)]
fn fill_words(words: &mut [u64], first: u64) {
    for (index, word) in words.iter_mut().enumerate() {
        *word = first.wrapping_add(index as u64);
    }
}

#[inline(always)]
fn sum_words(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

/// Private memory for a payload, for subjects that copy.
pub fn private(size: usize) -> Vec<u64> {
    vec![0; size / WORD]
}

/// Words as bytes, to write to a socket.
pub fn bytes(words: &[u64]) -> &[u8] {
    words.as_bytes()
}

/// Words as mutable bytes, to read into from a socket.
pub fn bytes_mut(words: &mut [u64]) -> &mut [u8] {
    words.as_mut_bytes()
}

/// Bytes as words. Empty if they are not aligned to words, as windows and messages are.
pub fn from_bytes(bytes: &[u8]) -> &[u64] {
    FromBytes::ref_from_bytes(bytes).unwrap_or_default()
}

/// Bytes as mutable words, like [`from_bytes`].
pub fn from_bytes_mut(bytes: &mut [u8]) -> &mut [u64] {
    FromBytes::mut_from_bytes(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filled_payload_passes_and_a_changed_one_fails() {
        for count in [1, 2, 7, 8, 512] {
            let mut words = vec![0; count];
            fill(&mut words, u64::MAX - 3);
            Seen::reading(&words).check(count * WORD).unwrap();
            words[count - 1] ^= 1;
            let changed = Seen::reading(&words).check(count * WORD);
            assert_eq!(changed.is_err(), count > 1, "{count} words");
        }
    }
}
