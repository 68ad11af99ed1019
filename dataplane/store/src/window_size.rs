//! The size of a stream's next window.

use crate::process::Want;
use dflow_protocol::limits::MIN_WINDOW;

/// The first and the largest extent, in bytes. Each extent costs a message and a mapping in every process, so larger
/// ones are better; but an extent goes to disk as a whole, and the unused part of the last one is wasted.
const FIRST_EXTENT: u64 = 256 * 1024;
const LARGEST_EXTENT: u64 = 32 << 20;
/// An extent takes at most this fraction of its run's share, but always up to [`SMALL_EXTENT`] if that is at most an
/// eighth of the share.
const EXTENT_PART: u64 = 32;
const SMALL_EXTENT: u64 = 4 << 20;

/// The figures that decide the size of a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizing {
    /// The share of the stream's run, in bytes.
    pub(crate) allotment: u64,
    /// How many streams of the run have a producer.
    pub(crate) producing: u64,
    /// The usual size of a ring.
    pub(crate) ring: u64,
}

impl Sizing {
    /// The size of a ring if memory allows it.
    pub(crate) fn ring(self, want: Want) -> u64 {
        self.fair(self.ring.next_power_of_two(), want)
    }

    /// The size of an extent if memory allows it: about as much as the stream has already.
    pub(crate) fn extent(self, want: Want) -> u64 {
        let most = (self.allotment / EXTENT_PART).max(SMALL_EXTENT).min(self.allotment / 8);
        let size = self.fair(extent(want.at).min(most), want);
        aligned_extent(want.at, size, want.window())
    }

    /// The wish, but at most so much that each producing stream of the run can have two windows, and at least the size
    /// that is needed.
    fn fair(self, wish: u64, want: Want) -> u64 {
        let share = (self.allotment / (2 * (self.producing + 1))).max(MIN_WINDOW);
        (1u64 << wish.max(1).ilog2()).min(1u64 << share.ilog2()).max(want.window())
    }
}

/// The size of the next extent of a stream of this length.
fn extent(length: u64) -> u64 {
    length.next_power_of_two().clamp(FIRST_EXTENT, LARGEST_EXTENT)
}

/// The size up to `size` with which the extent at `at` ends at a multiple of `size`. The extents that follow then begin
/// at multiples of their size, which huge pages in one slice over the whole stream require.
fn aligned_extent(at: u64, size: u64, least: u64) -> u64 {
    let aligned = size - at % size;
    if at.is_multiple_of(MIN_WINDOW) && aligned >= least { aligned } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_protocol::limits::ARENA_SLOT;

    #[test]
    fn extents_soon_begin_at_multiples_of_a_huge_page() {
        let mut at = ARENA_SLOT;
        let mut sizes = Vec::new();
        while at < 256 << 20 {
            let size = aligned_extent(at, extent(at), MIN_WINDOW);
            assert!(size.is_multiple_of(MIN_WINDOW) && size <= LARGEST_EXTENT);
            sizes.push(size >> 10);
            at += size;
        }
        assert_eq!(sizes[..7], [192, 256, 512, 1024, 2048, 4096, 8192]);
        // After smaller ones, forced by a budget, alignment is restored.
        assert_eq!(aligned_extent((5 << 20) + MIN_WINDOW, 4 << 20, MIN_WINDOW), (3 << 20) - MIN_WINDOW);
        // A large reservation, or a stream that left its ring at an odd offset, takes precedence over alignment.
        assert_eq!(aligned_extent(3 << 20, 4 << 20, 2 << 20), 4 << 20);
        assert_eq!(aligned_extent(12_345, 1 << 20, MIN_WINDOW), 1 << 20);
    }
}
