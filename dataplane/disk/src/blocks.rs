//! The division of a transfer into blocks, some of which may bypass the page cache.

/// Direct I/O takes file offsets, lengths and addresses that are multiples of this many bytes: the largest logical
/// block size in common use, and the page size.
pub(crate) const ALIGNMENT: usize = 4096;

/// The fewest aligned bytes for direct I/O. With fewer, the page cache is cheaper than waiting for the device.
const DIRECT_MIN: usize = 64 << 10;

/// A part of a transfer: one request to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The offset in the file.
    pub(crate) offset: u64,
    /// The offset in the transfer.
    pub(crate) at: usize,
    /// The number of bytes, at least 1.
    pub(crate) len: usize,
    /// Whether it may bypass the page cache.
    pub(crate) direct: bool,
}

impl Block {
    /// The rest of the block after its first `done` bytes have moved, if there is one.
    pub(crate) fn rest(self, done: usize) -> Option<Block> {
        let len = self.len.checked_sub(done).filter(|left| *left > 0)?;
        // The end of a direct block is aligned, so only the beginning of the rest can be unaligned.
        let direct = self.direct && done.is_multiple_of(ALIGNMENT);
        Some(Block { offset: self.offset + done as u64, at: self.at + done, len, direct })
    }
}

/// The blocks of a transfer in order: together they cover it exactly once.
#[derive(Debug)]
pub(crate) struct Blocks {
    offset: u64,
    at: usize,
    left: usize,
    largest: usize,
    direct: bool,
}

impl Blocks {
    /// Cuts `len` bytes between file offset `offset` and memory at `address` into blocks of at most `largest` bytes (a
    /// multiple of [`ALIGNMENT`]); none is direct if `direct` is false.
    ///
    /// `offset + len` must not overflow.
    pub(crate) fn new(offset: u64, address: usize, len: usize, largest: usize, direct: bool) -> Blocks {
        debug_assert!(largest > 0 && largest.is_multiple_of(ALIGNMENT));
        let congruent = misalignment(offset) == address % ALIGNMENT;
        let head = (ALIGNMENT - misalignment(offset)) % ALIGNMENT;
        let direct = direct && congruent && len >= head + DIRECT_MIN;
        Blocks { offset, at: 0, left: len, largest, direct }
    }
}

impl Iterator for Blocks {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        if self.left == 0 {
            return None;
        }
        let past = misalignment(self.offset);
        let (len, direct) = if !self.direct {
            (self.left.min(self.largest), false)
        } else if past > 0 {
            (self.left.min(ALIGNMENT - past), false)
        } else if self.left >= ALIGNMENT {
            ((self.left - self.left % ALIGNMENT).min(self.largest), true)
        } else {
            (self.left, false)
        };
        let block = Block { offset: self.offset, at: self.at, len, direct };
        self.offset += len as u64;
        self.at += len;
        self.left -= len;
        Some(block)
    }
}

/// How far `offset` is past a multiple of [`ALIGNMENT`].
fn misalignment(offset: u64) -> usize {
    (offset % ALIGNMENT as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LARGEST: usize = 1 << 20;

    proptest! {
        #[test]
        fn blocks_cover_the_transfer_once_and_direct_ones_are_aligned(
            offset in 0u64..1 << 40, shift in 0usize..ALIGNMENT, len in 0usize..5 << 20, direct: bool, same_phase: bool,
        ) {
            let address = (1 << 30) + if same_phase { misalignment(offset) } else { shift };
            let (mut next, mut at) = (offset, 0);
            for block in Blocks::new(offset, address, len, LARGEST, direct) {
                prop_assert_eq!((block.offset, block.at), (next, at));
                prop_assert!(block.len > 0 && block.len <= LARGEST);
                if block.direct {
                    prop_assert!(direct);
                    prop_assert!(block.offset.is_multiple_of(ALIGNMENT as u64));
                    prop_assert!((address + block.at).is_multiple_of(ALIGNMENT) && block.len.is_multiple_of(ALIGNMENT));
                }
                next += block.len as u64;
                at += block.len;
            }
            prop_assert_eq!(at, len);
        }

        #[test]
        fn the_rest_of_a_block_ends_where_the_block_ends(pages in 1usize..64, done in 0usize..64 * ALIGNMENT) {
            let block = Block { offset: 1 << 20, at: 8192, len: pages * ALIGNMENT, direct: true };
            match block.rest(done) {
                None => prop_assert!(done >= block.len),
                Some(rest) => {
                    prop_assert_eq!(rest.offset + rest.len as u64, block.offset + block.len as u64);
                    prop_assert_eq!(rest.at + rest.len, block.at + block.len);
                    prop_assert_eq!(rest.direct, rest.offset.is_multiple_of(ALIGNMENT as u64));
                }
            }
        }
    }

    #[test]
    fn large_aligned_transfers_are_direct() {
        let blocks: Vec<_> = Blocks::new(4096, 1 << 20, LARGEST + 5000, LARGEST, true).collect();
        let shape: Vec<_> = blocks.iter().map(|block| (block.len, block.direct)).collect();
        assert_eq!(shape, [(LARGEST, true), (4096, true), (904, false)]);
    }
}
