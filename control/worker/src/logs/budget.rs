//! The size limit of all logs of a run together.

use super::MIN_ATTEMPT_BYTES;

/// The bytes that the logs of a run may still take.
#[derive(Debug)]
pub(super) struct RunBudget {
    limit: u64,
    left: u64,
}

impl RunBudget {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, left: limit }
    }

    /// The limit, for messages.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Lets a log grow from one size to another, or refuses that. A log that shrinks gives back what it held.
    pub(super) fn resize(&mut self, from: u64, to: u64) -> bool {
        let (from, to) = (cost(from), cost(to));
        if let Some(shrunk) = from.checked_sub(to) {
            self.left += shrunk;
            return true;
        }
        match self.left.checked_sub(to - from) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// The space that a log of this size takes. Even a few bytes take a block, which also limits the number of logs.
fn cost(size: u64) -> u64 {
    if size == 0 { 0 } else { size.max(MIN_ATTEMPT_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_logs_count_as_a_block_and_shrinking_gives_back() {
        let mut budget = RunBudget::new(3 * MIN_ATTEMPT_BYTES);
        assert!(budget.resize(0, 1) && budget.resize(1, 4096), "both fit into the first block");
        assert!(budget.resize(0, 8192));
        assert!(!budget.resize(0, 1), "no space is left");
        assert!(budget.resize(8192, 4096));
        assert!(budget.resize(0, 1));
    }
}
