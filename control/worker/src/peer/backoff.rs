//! A process without a connection: when it is dialed again.

use std::time::Duration;

/// The first and the longest pause before a redial.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// How often a process could not be reached, or was lost soon after.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// The last pause, if its connections do not last.
    pause: Duration,
    /// Why it could not be dialed, or was lost, the last time.
    reason: Option<String>,
}

impl Backoff {
    /// There is no connection, or none any more. `has_settled`: it had lasted for a while. Returns the pause before the next
    /// dial.
    pub(crate) fn disconnected(&mut self, has_settled: bool, reason: String) -> Duration {
        self.reason = Some(reason);
        self.pause = if has_settled { Duration::ZERO } else { (self.pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE) };
        self.pause
    }

    /// Why there was no connection the last time.
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_hangs_up_at_once_is_dialed_less_and_less_often() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..7).map(|_| backoff.disconnected(false, "goodbye".to_owned()).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.disconnected(true, String::new()), Duration::ZERO, "this time it was there for a while");
        assert_eq!(backoff.disconnected(false, "again".to_owned()).as_millis(), 50);
        assert_eq!(backoff.reason(), Some("again".to_owned()));
    }
}
