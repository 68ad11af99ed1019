//! The last bytes of an output.

use std::collections::VecDeque;

/// Keeps the last `limit` bytes that are pushed.
#[derive(Debug)]
pub(crate) struct Tail {
    limit: usize,
    kept: VecDeque<u8>,
    total: u64,
}

impl Tail {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, kept: VecDeque::new(), total: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let excess = (self.kept.len() + bytes.len()).saturating_sub(self.limit);
        self.kept.drain(..excess);
        self.kept.extend(bytes);
    }

    /// The kept bytes, oldest first, and the total number of bytes pushed.
    pub(crate) fn into_parts(self) -> (Vec<u8>, u64) {
        (self.kept.into(), self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keeps_the_end_of_everything(limit in 0usize..40, pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..20)) {
            let mut tail = Tail::new(limit);
            for piece in &pieces {
                tail.push(piece);
            }
            let all = pieces.concat();
            let expected = all[all.len().saturating_sub(limit)..].to_vec();
            prop_assert_eq!(tail.into_parts(), (expected, all.len() as u64));
        }
    }
}
