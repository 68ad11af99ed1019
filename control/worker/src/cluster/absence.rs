//! Nodes that a run needs and that have no connection: when the run has to give up.

use dflow_scheduler::Place;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Since when each required node is absent.
#[derive(Debug, Default)]
pub(super) struct Absence {
    since: BTreeMap<Place, Instant>,
}

impl Absence {
    /// These required nodes are absent now. Returns one that has been so for all of `limit`.
    pub(super) fn overdue(&mut self, absent: &[Place], now: Instant, limit: Duration) -> Option<Place> {
        self.since.retain(|place, _| absent.contains(place));
        for &place in absent {
            self.since.entry(place).or_insert(now);
        }
        let (&place, _) = self.since.iter().find(|(_, since)| now.duration_since(**since) >= limit)?;
        self.since.remove(&place);
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_missed_when_it_was_away_all_the_time() {
        let (mut absence, start, limit) = (Absence::default(), Instant::now(), Duration::from_secs(2));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(absence.overdue(&[3], at(0), limit), None);
        assert_eq!(absence.overdue(&[], at(1), limit), None);
        assert_eq!(absence.overdue(&[3], at(2), limit), None, "it was there meanwhile");
        assert_eq!(absence.overdue(&[3, 4], at(4), limit), Some(3));
        assert_eq!(absence.overdue(&[3, 4], at(5), limit), None, "that is said once in each time");
    }
}
