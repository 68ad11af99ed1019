//! Logs slow calls of a driver, because a thread that waits for one appears to hang.

use crate::device::Context;
use std::time::{Duration, Instant};

/// Longer than any call takes on a healthy device.
const SLOW: Duration = Duration::from_millis(100);

/// Makes a call, and logs it if it is slow. The call must read errno itself, because logging could change it.
pub(crate) fn timed<T>(context: &Context, action: &str, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    let took = start.elapsed();
    if took >= SLOW {
        tracing::warn!("it took {} {took:.1?} to {action}", context.name());
    }
    result
}
