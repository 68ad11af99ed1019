//! Times and random numbers in the form in which messages and reports have them.

use dflow_protocol::RunId;
use dflow_shm::now_nanos;
use std::time::Duration;

/// Nanoseconds, for messages and reports.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A number that nobody guesses.
pub(crate) fn random_u64() -> u64 {
    let [low, high] = [0, 64].map(|shift| (random_id().0 >> shift) as u64);
    low ^ high
}

/// The id of a new run: another node that has not been told it cannot name the run's streams.
pub(crate) fn random_id() -> RunId {
    let mut bytes = [0; 16];
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        bytes[..8].copy_from_slice(&now_nanos().to_le_bytes());
        bytes[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    }
    RunId(u128::from_le_bytes(bytes))
}
