//! The nodes of a run with which there is no connection: when they are dialed again, and when the run cannot wait for them
//! any more.

use crate::nodes::Place;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The first and the longest pause before a node is dialed again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Why nodes could not be dialed, or were lost, the last time.
type Reasons = Rc<RefCell<BTreeMap<Place, String>>>;

/// Nodes with which there is no connection, or none that lasts.
#[derive(Default)]
pub(super) struct Apart {
    /// Since when those are missed that a stream is to come from.
    since: BTreeMap<Place, Instant>,
    /// The last pauses of those whose connections do not last.
    pauses: BTreeMap<Place, Duration>,
    reasons: Reasons,
}

impl Apart {
    /// Where it is noted why a node cannot be dialed.
    pub(super) fn reasons(&self) -> Reasons {
        Rc::clone(&self.reasons)
    }

    /// The connection with a node is lost for this reason, and was there for a while (`has_settled`) or not: after how long
    /// it is to be dialed again.
    pub(super) fn parted(&mut self, place: Place, has_settled: bool, reason: String) -> Duration {
        self.reasons.borrow_mut().insert(place, reason);
        if has_settled {
            self.pauses.remove(&place);
            return Duration::ZERO;
        }
        let pause = self.pauses.entry(place).or_default();
        *pause = longer(*pause);
        *pause
    }

    /// These are missed now; one of them that was missed all the time for so long, and why, where that is known.
    pub(super) fn note(&mut self, missed: &[Place], now: Instant, limit: Duration) -> Option<(Place, Option<String>)> {
        self.since.retain(|place, _| missed.contains(place));
        for &place in missed {
            self.since.entry(place).or_insert(now);
        }
        let (&place, _) = self.since.iter().find(|(_, since)| now.duration_since(**since) >= limit)?;
        self.since.remove(&place);
        Some((place, self.reasons.borrow().get(&place).cloned()))
    }
}

/// The pause after one of this length that did not help.
pub(super) fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_hangs_up_at_once_is_dialed_less_and_less_often() {
        let mut apart = Apart::default();
        let pauses: Vec<u128> = (0..7).map(|_| apart.parted(1, false, "goodbye".to_owned()).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(apart.parted(2, false, String::new()).as_millis(), 50, "another one");
        assert_eq!(apart.parted(1, true, String::new()), Duration::ZERO, "this time it was there for a while");
        assert_eq!(apart.parted(1, false, String::new()).as_millis(), 50);
    }

    #[test]
    fn a_node_is_missed_when_it_was_away_all_the_time() {
        let (mut apart, start, limit) = (Apart::default(), Instant::now(), Duration::from_secs(2));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(apart.note(&[3], at(0), limit), None);
        assert_eq!(apart.note(&[], at(1), limit), None);
        assert_eq!(apart.note(&[3], at(2), limit), None, "it was there meanwhile");
        apart.parted(3, false, "goodbye".to_owned());
        assert_eq!(apart.note(&[3, 4], at(4), limit), Some((3, Some("goodbye".to_owned()))));
        assert_eq!(apart.note(&[3, 4], at(5), limit), None, "that is said once in each time");
    }
}
