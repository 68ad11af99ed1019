//! Calls of a driver that take long are told to the log: whoever waits for one of them seems to hang.

use crate::device::Context;
use std::time::{Duration, Instant};

/// Longer than any call takes on a device that is well.
const SLOW: Duration = Duration::from_millis(100);

/// Carries out a call, and tells the log if it takes long. The call reads its own error number: here it could change.
pub(crate) fn timed<T>(context: &Context, action: &str, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    let took = start.elapsed();
    if took >= SLOW {
        tracing::warn!("it took {} {took:.1?} to {action}", context.name());
    }
    result
}
