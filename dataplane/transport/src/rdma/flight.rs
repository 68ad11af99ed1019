//! Requests that were posted to the send queue and have not completed.

use std::collections::VecDeque;

/// Requests in flight, in order. Only some are signalled; a completion also completes all earlier ones.
#[derive(Debug)]
pub(super) struct Flight {
    /// The bytes of each request.
    posted: VecDeque<u64>,
    depth: usize,
    /// The number of the first request.
    first: u64,
    bytes: u64,
    /// Trailing requests without a signalled one behind them.
    silent: usize,
    silent_bytes: u64,
    /// A request is signalled after this many, or this many bytes, without.
    every: usize,
    every_bytes: u64,
    report_next: bool,
}

impl Flight {
    /// `limit`: the most bytes in flight.
    pub(super) fn new(depth: usize, limit: u64) -> Self {
        Self {
            posted: VecDeque::with_capacity(depth),
            depth,
            first: 0,
            bytes: 0,
            silent: 0,
            silent_bytes: 0,
            every: (depth / 4).max(1),
            every_bytes: limit / 8,
            report_next: false,
        }
    }

    /// How many more requests can be posted.
    pub(super) fn free(&self) -> usize {
        self.depth - self.posted.len()
    }

    /// The bytes in flight.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The slot of the next request, of `depth` slots; no request in flight uses it.
    pub(super) fn slot(&self) -> usize {
        let next = self.first + self.posted.len() as u64;
        usize::try_from(next % self.depth as u64).unwrap_or(0)
    }

    /// Adds a request. Returns its number and whether it has to be signalled.
    pub(super) fn push(&mut self, bytes: u64) -> (u64, bool) {
        let number = self.first + self.posted.len() as u64;
        self.posted.push_back(bytes);
        self.bytes += bytes;
        self.silent += 1;
        self.silent_bytes += bytes;
        let report = std::mem::take(&mut self.report_next)
            || self.silent >= self.every
            || self.silent_bytes >= self.every_bytes.max(1);
        if report {
            self.silent = 0;
            self.silent_bytes = 0;
        }
        (number, report)
    }

    /// The request of this number and all before it have completed.
    pub(super) fn complete(&mut self, number: u64) {
        while self.first <= number
            && let Some(bytes) = self.posted.pop_front()
        {
            self.first += 1;
            self.bytes -= bytes;
        }
    }

    /// It may take a while until the next request: that one ends what is silent now.
    pub(super) fn rest(&mut self) {
        self.report_next = self.silent > 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whoever waits for room gets it: there is a report to come whenever the queue or the bytes are used up.
        #[test]
        fn what_is_full_is_reported(
            depth in 4usize..64,
            limit in 1u64..100_000,
            steps in prop::collection::vec((any::<bool>(), 0u64..40_000), 1..300),
        ) {
            let mut flight = Flight::new(depth, limit);
            let mut reports = VecDeque::new();
            let mut slots = VecDeque::new();
            for (post, bytes) in steps {
                if post && flight.free() > 0 && flight.bytes() < limit {
                    let slot = flight.slot();
                    prop_assert!(!slots.contains(&slot), "in use");
                    let (number, report) = flight.push(bytes);
                    slots.push_back(slot);
                    if report {
                        reports.push_back(number);
                    }
                } else if let Some(number) = reports.pop_front() {
                    let before = flight.free();
                    flight.complete(number);
                    slots.drain(..flight.free() - before);
                } else {
                    prop_assert!(flight.free() > 0 && flight.bytes() < limit);
                }
            }
            while let Some(number) = reports.pop_front() {
                flight.complete(number);
            }
            prop_assert!(flight.free() > 0 && flight.bytes() < limit);
        }
    }
}
