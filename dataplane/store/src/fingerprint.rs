//! Hashes of a stream's bytes, which show whether a later attempt writes the same.

use dflow_protocol::limits::MIN_WINDOW;
use twox_hash::XxHash3_128;

/// The number of bytes that have one hash. Every window of a hashed stream begins at a multiple of it, so that no block
/// lies in two windows. The hashes take 16 bytes for each 64 KiB.
pub(crate) const BLOCK: u64 = MIN_WINDOW;

/// The hash of each block of a stream up to a watermark, the last and incomplete block included.
///
/// XXH3 tells apart what differs by accident, at the speed of memory. It is no defence against a function that forges
/// its output; but that function could have written the forged bytes in the first place.
#[derive(Debug, Default)]
pub(crate) struct Fingerprint {
    hashes: Vec<u128>,
    length: u64,
}

impl Fingerprint {
    /// Records the bytes at `at`, the beginning of a block: all of the block, or the last bytes of the stream so far.
    /// Replaces earlier records from there on.
    pub(crate) fn record(&mut self, at: u64, bytes: &[u8]) {
        self.hashes.truncate(index(at));
        self.hashes.push(XxHash3_128::oneshot(bytes));
        self.length = at + bytes.len() as u64;
    }

    /// Whether the bytes at `at`, the beginning of a block, are those that were recorded. They must be all of the
    /// block, or the last bytes that were recorded.
    pub(crate) fn matches(&self, at: u64, bytes: &[u8]) -> bool {
        let end = at + bytes.len() as u64;
        let noted = end <= self.length && (end == self.length || end == at + BLOCK);
        noted && self.hashes.get(index(at)) == Some(&XxHash3_128::oneshot(bytes))
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at / BLOCK).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(print: &mut Fingerprint, bytes: &[u8], from: usize) {
        for (index, block) in bytes[from..].chunks(BLOCK as usize).enumerate() {
            print.record(from as u64 + index as u64 * BLOCK, block);
        }
    }

    fn same(print: &Fingerprint, bytes: &[u8]) -> bool {
        (0..).zip(bytes.chunks(BLOCK as usize)).all(|(index, block)| print.matches(index * BLOCK, block))
    }

    #[test]
    fn a_stream_is_noted_in_steps_and_matches_itself_alone() {
        const B: usize = BLOCK as usize;
        let bytes: Vec<u8> = (0..3 * B + 100).map(|at| (at ^ (at >> 8)) as u8).collect();
        for steps in [&[3 * B + 100][..], &[1, 3 * B + 100], &[B - 1, B, B + 1, 3 * B, 3 * B + 100]] {
            let mut print = Fingerprint::default();
            let mut from = 0;
            for &step in steps {
                note(&mut print, &bytes[..step], from);
                from = step / B * B;
            }
            assert!(same(&print, &bytes), "{steps:?}");
            for wrong in [0, B - 1, B, 3 * B, 3 * B + 99] {
                let mut other = bytes.clone();
                other[wrong] ^= 1;
                assert!(!same(&print, &other), "{steps:?} {wrong}");
            }
            assert!(!same(&print, &bytes[..3 * B + 99]), "a begun block has one length");
        }
    }
}
