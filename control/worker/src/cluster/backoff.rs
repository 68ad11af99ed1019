//! Nodes of a run without a connection: when each is dialed again, and when the run has to give up on it.

use crate::nodes::Place;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The first and the longest pause before a redial.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Why each node could not be dialed, or was lost, the last time.
type Reasons = Rc<RefCell<BTreeMap<Place, String>>>;

/// Nodes without a connection, or without one that lasts.
#[derive(Default)]
pub(super) struct Backoff {
    /// Since when each required node is unreachable.
    since: BTreeMap<Place, Instant>,
    /// The last pause for each node whose connections do not last.
    pauses: BTreeMap<Place, Duration>,
    reasons: Reasons,
}

impl Backoff {
    /// The shared table of reasons.
    pub(super) fn reasons(&self) -> Reasons {
        Rc::clone(&self.reasons)
    }

    /// The connection to a node is lost. `has_settled`: it had lasted for a while. Returns the pause before the redial.
    pub(super) fn disconnected(&mut self, place: Place, has_settled: bool, reason: String) -> Duration {
        self.reasons.borrow_mut().insert(place, reason);
        if has_settled {
            self.pauses.remove(&place);
            return Duration::ZERO;
        }
        let pause = self.pauses.entry(place).or_default();
        *pause = longer(*pause);
        *pause
    }

    /// These required nodes are unreachable now. Returns one that has been so for all of `limit`, and the reason if known.
    pub(super) fn overdue(
        &mut self,
        missed: &[Place],
        now: Instant,
        limit: Duration,
    ) -> Option<(Place, Option<String>)> {
        self.since.retain(|place, _| missed.contains(place));
        for &place in missed {
            self.since.entry(place).or_insert(now);
        }
        let (&place, _) = self.since.iter().find(|(_, since)| now.duration_since(**since) >= limit)?;
        self.since.remove(&place);
        Some((place, self.reasons.borrow().get(&place).cloned()))
    }
}

/// The pause after this one.
pub(super) fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_hangs_up_at_once_is_dialed_less_and_less_often() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> =
            (0..7).map(|_| backoff.disconnected(1, false, "goodbye".to_owned()).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.disconnected(2, false, String::new()).as_millis(), 50, "another one");
        assert_eq!(backoff.disconnected(1, true, String::new()), Duration::ZERO, "this time it was there for a while");
        assert_eq!(backoff.disconnected(1, false, String::new()).as_millis(), 50);
    }

    #[test]
    fn a_node_is_missed_when_it_was_away_all_the_time() {
        let (mut backoff, start, limit) = (Backoff::default(), Instant::now(), Duration::from_secs(2));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(backoff.overdue(&[3], at(0), limit), None);
        assert_eq!(backoff.overdue(&[], at(1), limit), None);
        assert_eq!(backoff.overdue(&[3], at(2), limit), None, "it was there meanwhile");
        backoff.disconnected(3, false, "goodbye".to_owned());
        assert_eq!(backoff.overdue(&[3, 4], at(4), limit), Some((3, Some("goodbye".to_owned()))));
        assert_eq!(backoff.overdue(&[3, 4], at(5), limit), None, "that is said once in each time");
    }
}
