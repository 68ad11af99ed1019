//! Sends output to the node that drives the run.
//!
//! Output shares a connection with orders, notices and streams, so its rate is limited, and it is sent only while the
//! connection has room. The queue is bounded ([`Tails`]).

pub(crate) use super::tails::Chunk;
use super::tails::Tails;
use std::time::Duration;

/// Bytes a second that are sent to the driver, except for a burst.
const BYTES_PER_SECOND: u64 = 2 << 20;
/// Size of a burst in bytes.
const BURST: u64 = 1 << 20;

/// The output of the attempts on a node that has not been sent.
#[derive(Debug)]
pub(crate) struct Relay<K> {
    tails: Tails<K>,
    /// Bytes that may be sent now.
    allowance: u64,
    refilled_at: Duration,
}

impl<K: Clone + Ord> Relay<K> {
    pub(crate) fn new() -> Self {
        Self { tails: Tails::new(), allowance: BURST, refilled_at: Duration::ZERO }
    }

    /// Queues output of an attempt; `lost` bytes before it are already missing.
    pub(crate) fn push(&mut self, key: K, bytes: &[u8], lost: u64) {
        self.tails.push(key, bytes, lost);
    }

    /// The next output to be sent, at this time; `None` if there is none, or the rate is reached.
    pub(crate) fn next(&mut self, now: Duration) -> Option<Chunk<K>> {
        let passed = u64::try_from(now.saturating_sub(self.refilled_at).as_micros()).unwrap_or(u64::MAX);
        let earned = passed.saturating_mul(BYTES_PER_SECOND) / 1_000_000;
        if earned > 0 {
            self.allowance = self.allowance.saturating_add(earned).min(BURST);
            self.refilled_at = now;
        }
        if self.allowance == 0 {
            return None;
        }
        let chunk = self.tails.next()?;
        self.allowance = self.allowance.saturating_sub(chunk.bytes.len().max(1) as u64);
        Some(chunk)
    }

    /// The remaining output of an attempt that has ended: it is sent at once, before the notice of its end.
    pub(crate) fn end(&mut self, key: &K) -> Vec<Chunk<K>> {
        std::iter::from_fn(|| self.tails.take(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tails::{MAX_ALL_WAITING, MAX_CHUNK, MAX_WAITING};
    use super::*;

    fn everything(relay: &mut Relay<u32>, now: Duration) -> (Vec<u8>, u64) {
        let (mut bytes, mut lost) = (Vec::new(), 0);
        while let Some(chunk) = relay.next(now) {
            assert!(chunk.bytes.len() <= MAX_CHUNK);
            bytes.extend(chunk.bytes);
            lost += chunk.lost;
        }
        (bytes, lost)
    }

    #[test]
    fn a_little_output_is_sent_at_once_and_complete() {
        let mut relay = Relay::new();
        relay.push(1, b"hello ", 0);
        relay.push(1, b"world", 0);
        assert_eq!(everything(&mut relay, Duration::ZERO), (b"hello world".to_vec(), 0));
        assert_eq!(relay.tails.bytes(), 0);
    }

    #[test]
    fn the_last_bytes_are_kept_and_the_others_counted() {
        let mut relay = Relay::new();
        let all: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
        all.chunks(1000).for_each(|chunk| relay.push(1, chunk, 0));
        relay.push(2, &[7; 200_000], 5);
        let rest = relay.end(&1);
        assert_eq!(rest.iter().map(|chunk| chunk.lost).sum::<u64>(), (all.len() - MAX_WAITING) as u64);
        assert_eq!(
            rest.iter().flat_map(|chunk| chunk.bytes.clone()).collect::<Vec<_>>(),
            all[all.len() - MAX_WAITING..]
        );
        assert_eq!(everything(&mut relay, Duration::ZERO), (vec![7; MAX_WAITING], 5 + 200_000 - MAX_WAITING as u64));
        assert_eq!(relay.tails.bytes(), 0);
    }

    #[test]
    fn the_rate_is_limited_after_a_burst() {
        let mut relay = Relay::new();
        let mut sent = 0;
        for _ in 0..1000 {
            relay.push(1, &[0; MAX_WAITING], 0);
            sent += everything(&mut relay, Duration::ZERO).0.len() as u64;
        }
        assert!((BURST..BURST + MAX_CHUNK as u64).contains(&sent), "{sent}");
        relay.push(1, &[0; MAX_WAITING], 0);
        assert!(relay.next(Duration::ZERO).is_none());
        assert!(relay.next(Duration::from_millis(1)).is_some());
    }

    #[test]
    fn the_queue_is_bounded_over_all_attempts() {
        let mut relay = Relay::new();
        (0..1000u32).for_each(|attempt| relay.push(attempt, &[0; MAX_WAITING], 0));
        assert_eq!(relay.tails.bytes(), MAX_ALL_WAITING);
        let lost: u64 = (0..1000).flat_map(|attempt| relay.end(&attempt)).map(|chunk| chunk.lost).sum();
        assert_eq!(lost, (1000 * MAX_WAITING - MAX_ALL_WAITING) as u64);
    }
}
