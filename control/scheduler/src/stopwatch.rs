//! How long one attempt has computed and waited, and whether that is longer than its function may.
//!
//! Kept by the node where the attempt runs, which knows first when it waits, when it has ended, and when the node itself did
//! not run. The time is an argument: it is counted from any moment, and never goes back.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The time limits of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimits {
    /// From the start of its program until that is ready.
    pub start: Duration,
    /// For its own time: what it computes, not what it waits for.
    pub computing: Option<Duration>,
    /// From its start, whatever it waits for.
    pub total: Option<Duration>,
    /// Until its processes have ended, after it has said that it is done, or has closed its channel.
    pub ending: Duration,
}

/// What an attempt waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// Bytes of this input.
    Input(u32),
    /// Room in one of its outputs.
    Room,
    /// The end of processes that it has left behind, which hold its outputs open.
    Helpers,
}

/// Counts the time of one attempt.
#[derive(Clone, Debug)]
pub struct Stopwatch {
    limits: TimeLimits,
    stage: Stage,
    /// When the present stretch of the stage began; put off by the time that does not count.
    since: Duration,
    /// When it started, likewise.
    started: Duration,
    computed: Duration,
    waited: BTreeMap<Wait, Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its program has not become ready.
    Starting,
    /// It waits for its gate or for a slot.
    Ready,
    Computing,
    Waiting(Wait),
    /// It can do nothing more.
    Ending,
    /// A limit is exceeded, or it is to end for another reason.
    Over,
}

/// Which limit an attempt has exceeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overrun {
    /// It has not become ready in time.
    Start {
        /// The limit.
        limit: Duration,
    },
    /// It has computed for too long.
    Computing {
        /// The limit.
        limit: Duration,
        /// What it has done with its time.
        spent: Spent,
    },
    /// It has taken too long altogether.
    Total {
        /// The limit.
        limit: Duration,
        /// What it has done with its time.
        spent: Spent,
    },
    /// It has not ended, although it can do nothing more.
    Ending {
        /// The limit.
        limit: Duration,
    },
}

/// What an attempt has done with its time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// How long it has computed.
    pub computed: Duration,
    /// How long it has waited for what, the longest first.
    pub waited: Vec<(Wait, Duration)>,
}

impl Stopwatch {
    /// The start of an attempt's program.
    #[must_use]
    pub fn new(now: Duration, limits: TimeLimits) -> Self {
        let (computed, waited) = (Duration::ZERO, BTreeMap::new());
        Self { limits, stage: Stage::Starting, since: now, started: now, computed, waited }
    }

    /// Its program is ready.
    pub fn ready(&mut self, now: Duration) {
        if self.stage == Stage::Starting {
            self.enter(now, Stage::Ready);
        }
    }

    /// The attempt starts.
    pub fn start(&mut self, now: Duration) {
        if matches!(self.stage, Stage::Starting | Stage::Ready) {
            self.enter(now, Stage::Computing);
            self.started = now;
        }
    }

    /// It waits.
    pub fn park(&mut self, now: Duration, wait: Wait) {
        if matches!(self.stage, Stage::Computing | Stage::Waiting(_)) {
            self.enter(now, Stage::Waiting(wait));
        }
    }

    /// It goes on.
    pub fn resume(&mut self, now: Duration) {
        if matches!(self.stage, Stage::Waiting(_)) {
            self.enter(now, Stage::Computing);
        }
    }

    /// It has said that it is done, or cannot say anything any more: it has to end now.
    pub fn ending(&mut self, now: Duration) {
        if !matches!(self.stage, Stage::Ending | Stage::Over) {
            self.enter(now, Stage::Ending);
        }
    }

    /// It was told to end: no limit matters any more.
    pub fn stop(&mut self, now: Duration) {
        self.enter(now, Stage::Over);
    }

    /// The node has not run for so long before `now`: nobody knows what the attempt could have done in that time.
    pub fn skip(&mut self, now: Duration, gap: Duration) {
        self.since = self.since.saturating_add(gap).min(now);
        self.started = self.started.saturating_add(gap).min(now);
    }

    /// When a limit will be exceeded, if nothing else happens until then.
    #[must_use]
    pub fn expires(&self) -> Option<Duration> {
        let total = self.limits.total.map(|limit| self.started.saturating_add(limit));
        let computing = self.limits.computing;
        match self.stage {
            Stage::Starting => Some(self.since.saturating_add(self.limits.start)),
            Stage::Ending => Some(self.since.saturating_add(self.limits.ending)),
            Stage::Computing => {
                let computing = computing.map(|limit| self.since.saturating_add(limit.saturating_sub(self.computed)));
                computing.into_iter().chain(total).min()
            }
            Stage::Waiting(_) => total,
            Stage::Ready | Stage::Over => None,
        }
    }

    /// The limit that is exceeded now. Says so once.
    pub fn check(&mut self, now: Duration) -> Option<Overrun> {
        if self.expires().is_none_or(|at| at > now) {
            return None;
        }
        let (stage, limits) = (self.stage, self.limits);
        self.enter(now, Stage::Over);
        Some(match stage {
            Stage::Starting => Overrun::Start { limit: limits.start },
            Stage::Ending => Overrun::Ending { limit: limits.ending },
            _ => match (limits.computing, limits.total) {
                (Some(limit), _) if self.computed >= limit => Overrun::Computing { limit, spent: self.spent() },
                (_, limit) => Overrun::Total { limit: limit.unwrap_or_default(), spent: self.spent() },
            },
        })
    }

    fn enter(&mut self, now: Duration, stage: Stage) {
        let took = now.saturating_sub(self.since);
        match self.stage {
            Stage::Computing => self.computed += took,
            Stage::Waiting(wait) => *self.waited.entry(wait).or_default() += took,
            Stage::Starting | Stage::Ready | Stage::Ending | Stage::Over => {}
        }
        (self.stage, self.since) = (stage, now);
    }

    fn spent(&self) -> Spent {
        let mut waited: Vec<_> = self.waited.iter().map(|(&wait, &time)| (wait, time)).collect();
        waited.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        Spent { computed: self.computed, waited }
    }
}

impl Overrun {
    /// Says what was exceeded; `name` gives the name of what was waited for.
    #[must_use]
    pub fn describe(&self, name: impl Fn(Wait) -> String) -> String {
        match self {
            Self::Start { limit } => format!("it was not ready within {limit:?} (its 'start_timeout')"),
            Self::Ending { limit } => format!("it did not end within {limit:?}"),
            Self::Computing { limit, spent } => {
                let mut text =
                    format!("it timed out: it computed for {} (its 'timeout' is {limit:?})", Time(spent.computed));
                if let Some((wait, time)) = spent.waited.first() {
                    text += &format!("; it waited {} for {}, which does not count", Time(*time), name(*wait));
                }
                text
            }
            Self::Total { limit, spent } => {
                let mut text = format!(
                    "it missed its deadline: it did not end within {limit:?} of its start; it computed for {}",
                    Time(spent.computed)
                );
                for (wait, time) in spent.waited.iter().take(3) {
                    text += &format!(", waited {} for {}", Time(*time), name(*wait));
                }
                text
            }
        }
    }
}

/// A duration to three digits at most.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs_f64() {
            seconds if seconds < 1.0 => write!(f, "{} ms", self.0.as_millis()),
            seconds if seconds < 100.0 => write!(f, "{seconds:.1} s"),
            seconds => write!(f, "{seconds:.0} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn limits(computing: Option<u64>, total: Option<u64>) -> TimeLimits {
        TimeLimits {
            start: seconds(60),
            computing: computing.map(seconds),
            total: total.map(seconds),
            ending: seconds(3),
        }
    }

    fn running(limits: TimeLimits) -> Stopwatch {
        let mut watch = Stopwatch::new(seconds(0), limits);
        watch.ready(seconds(1));
        watch.start(seconds(10));
        watch
    }

    fn name(wait: Wait) -> String {
        match wait {
            Wait::Input(0) => "gen.out".into(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn what_it_waits_for_does_not_count() {
        let mut watch = running(limits(Some(2), None));
        assert_eq!(watch.expires(), Some(seconds(12)));
        watch.park(seconds(11), Wait::Input(0));
        assert_eq!(watch.expires(), None);
        watch.resume(seconds(1000));
        assert_eq!(watch.expires(), Some(seconds(1001)));
        assert_eq!(watch.check(seconds(1000)), None);
        let overrun = watch.check(seconds(1001)).unwrap();
        assert_eq!(
            overrun.describe(name),
            "it timed out: it computed for 2.0 s (its 'timeout' is 2s); it waited 989 s for gen.out, which does not count"
        );
        assert_eq!((watch.check(seconds(9999)), watch.expires()), (None, None), "it says so once");
    }

    #[test]
    fn a_deadline_counts_everything() {
        let mut watch = running(limits(Some(50), Some(20)));
        watch.park(seconds(11), Wait::Input(0));
        watch.park(seconds(16), Wait::Room);
        assert_eq!(watch.expires(), Some(seconds(30)));
        let overrun = watch.check(seconds(30)).unwrap();
        assert_eq!(
            overrun.describe(name),
            "it missed its deadline: it did not end within 20s of its start; it computed for 1.0 s, waited 14.0 s for Room, \
             waited 5.0 s for gen.out"
        );
    }

    #[test]
    fn a_program_that_does_not_become_ready_and_one_that_waits_for_its_gate() {
        let mut watch = Stopwatch::new(seconds(5), limits(Some(1), Some(1)));
        assert_eq!(watch.expires(), Some(seconds(65)));
        watch.ready(seconds(64));
        assert_eq!(watch.expires(), None, "its gate is not its fault");
        let mut watch = Stopwatch::new(seconds(5), limits(None, None));
        assert_eq!(watch.check(seconds(65)), Some(Overrun::Start { limit: seconds(60) }));
    }

    #[test]
    fn one_that_is_done_has_to_end() {
        let mut watch = running(limits(Some(1), None));
        watch.ending(seconds(10));
        watch.ending(seconds(12));
        watch.park(seconds(12), Wait::Room);
        assert_eq!(watch.expires(), Some(seconds(13)));
        assert_eq!(watch.check(seconds(13)), Some(Overrun::Ending { limit: seconds(3) }));
        watch.ending(seconds(14));
        assert_eq!(watch.expires(), None);
    }

    #[test]
    fn time_in_which_the_node_did_not_run_does_not_count() {
        let mut watch = running(limits(Some(2), Some(4)));
        watch.skip(seconds(101), seconds(90));
        assert_eq!(watch.expires(), Some(seconds(102)));
        watch.park(seconds(101), Wait::Input(0));
        assert_eq!(watch.expires(), Some(seconds(104)));
        watch.skip(seconds(1101), seconds(1000));
        watch.resume(seconds(1101));
        assert_eq!(watch.expires(), Some(seconds(1102)));
    }

    proptest! {
        /// Whatever happens in whatever order, what was computed, waited and skipped is all the time that has passed.
        #[test]
        fn no_time_is_counted_twice(steps in prop::collection::vec((0..5u8, 0..1000u64, 0..100u64), 0..60)) {
            let mut watch = running(limits(None, None));
            let (mut now, mut skipped) = (seconds(10), Duration::ZERO);
            for (step, passed, gap) in steps {
                let stretch = watch.since;
                now += Duration::from_millis(passed);
                match step {
                    0 => watch.park(now, Wait::Input(0)),
                    1 => watch.park(now, Wait::Room),
                    2 | 3 => watch.resume(now),
                    _ => {
                        // A gap is never longer than what has passed since the node was heard of last.
                        let gap = Duration::from_millis(gap.min(passed)).min(now - stretch);
                        watch.skip(now, gap);
                        skipped += gap;
                    }
                }
                prop_assert!(watch.since <= now);
            }
            watch.stop(now);
            let spent = watch.spent();
            let waited: Duration = spent.waited.iter().map(|(_, time)| *time).sum();
            prop_assert_eq!(spent.computed + waited + skipped, now - seconds(10));
        }
    }
}
