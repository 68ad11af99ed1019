//! A resource over time.

/// Nanoseconds since the start of the run.
pub(super) type Time = u64;

/// How much of a resource is free over time: a list of steps. Reservations may be made in any order, so an instance can
/// use a gap before a later one.
///
/// The number of steps is limited. Beyond it, the oldest half is closed: nothing more is reserved before the end of
/// those. A reservation therefore takes time in proportion to the limit, and not to what was reserved before.
#[derive(Clone, Debug)]
pub(super) struct Capacity {
    /// Each holds until the next one begins; the last holds for ever, with everything free.
    steps: Vec<Step>,
    limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    from: Time,
    free: u64,
}

/// Minimum number of steps that are kept.
const MIN_STEPS: usize = 128;
/// Maximum number of steps that are kept.
const MAX_STEPS: usize = 2048;

impl Capacity {
    /// A resource with `total` units. `users` is how many reservations are usual at the same time.
    pub(super) fn new(total: u64, users: u32) -> Self {
        let limit = (users as usize * 4).clamp(MIN_STEPS, MAX_STEPS);
        Self { steps: vec![Step { from: 0, free: total }], limit }
    }

    /// The earliest time from `release` on at which `units` are free for `length`. No more than the total may be asked
    /// for.
    pub(super) fn earliest(&self, release: Time, length: Time, units: u64) -> Time {
        if units == 0 || length == 0 {
            return release;
        }
        let mut at = release.max(self.steps[0].from);
        let mut step = self.step_at(at);
        'candidate: loop {
            let until = at.saturating_add(length);
            let mut next = step;
            while next < self.steps.len() && (next == step || self.steps[next].from < until) {
                if self.steps[next].free < units {
                    // Everything is free in the last step, so there is a later one.
                    step = next + 1;
                    let Some(later) = self.steps.get(step) else { return at };
                    at = later.from;
                    continue 'candidate;
                }
                next += 1;
            }
            return at;
        }
    }

    /// The units that are free during the whole of a time.
    pub(super) fn free_during(&self, from: Time, to: Time) -> u64 {
        let first = self.step_at(from);
        let during = self.steps[first..].iter().enumerate();
        let during = during.take_while(|(index, step)| *index == 0 || step.from < to);
        during.map(|(_, step)| step.free).min().unwrap_or(0)
    }

    /// The time from which on at least one unit is free.
    pub(super) fn open_from(&self) -> Time {
        let full = self.steps.iter().rposition(|step| step.free == 0);
        full.and_then(|full| self.steps.get(full + 1)).map_or(self.steps[0].from, |step| step.from)
    }

    /// Takes units from `from` to `to`.
    pub(super) fn reserve(&mut self, from: Time, to: Time, units: u64) {
        if units == 0 || to <= from {
            return;
        }
        let first = self.split(from);
        let end = self.split(to);
        for step in &mut self.steps[first..end] {
            step.free = step.free.saturating_sub(units);
        }
        // Only the steps at both ends can have become equal to their neighbours.
        for index in [end, first] {
            if index > 0 && self.steps[index].free == self.steps[index - 1].free {
                self.steps.remove(index);
            }
        }
        if self.steps.len() > self.limit {
            self.steps.drain(..self.limit / 2);
        }
    }

    /// The step that holds at a time; the first one before that.
    fn step_at(&self, at: Time) -> usize {
        self.steps.partition_point(|step| step.from <= at).saturating_sub(1)
    }

    /// The step that begins at a time, which is created if necessary.
    fn split(&mut self, at: Time) -> usize {
        let index = self.step_at(at);
        if self.steps[index].from >= at {
            return index;
        }
        let free = self.steps[index].free;
        self.steps.insert(index + 1, Step { from: at, free });
        index + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn gaps_are_used() {
        let mut slots = Capacity::new(2, 2);
        slots.reserve(0, 10, 2);
        slots.reserve(20, 30, 1);
        slots.reserve(25, 40, 1);
        assert_eq!(slots.earliest(0, 5, 1), 10);
        assert_eq!(slots.earliest(0, 15, 2), 40, "the gap from 10 to 20 is too short");
        assert_eq!(slots.earliest(0, 10, 2), 10);
        assert_eq!(slots.earliest(22, 3, 1), 22);
        assert_eq!(slots.earliest(22, 4, 1), 30, "both are taken from 25 on");
        assert_eq!((slots.free_during(0, 50), slots.free_during(12, 22)), (0, 1));
        assert_eq!(slots.open_from(), 30);
        assert_eq!(slots.earliest(3, 0, 1), 3, "no time needs no slot");
    }

    proptest! {
        /// Whatever is reserved where it was said to be free, no unit is reserved twice.
        #[test]
        fn never_exceeded(asked in prop::collection::vec((0_u64..500, 1_u64..40, 1_u64..=3), 1..400)) {
            let mut slots = Capacity::new(3, 0);
            let mut used = vec![0_u64; 40_000];
            for (release, length, units) in asked {
                let at = slots.earliest(release, length, units);
                prop_assert!(at >= release);
                slots.reserve(at, at + length, units);
                for moment in &mut used[at as usize..(at + length) as usize] {
                    *moment += units;
                    prop_assert!(*moment <= 3);
                }
                prop_assert!(slots.steps.len() <= MIN_STEPS + 1);
                prop_assert!(slots.steps.windows(2).all(|pair| pair[0].from < pair[1].from));
                prop_assert_eq!(slots.steps.last().map(|step| step.free), Some(3));
            }
        }
    }
}
