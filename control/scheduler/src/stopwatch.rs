//! Measures how long one attempt has computed and waited, and checks its time limits.
//!
//! The node on which the attempt runs keeps it, because it knows first when the attempt waits or has ended, and when
//! the node itself did not run. The time is an argument: its origin is arbitrary, and it never moves backwards.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The time limits of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimits {
    /// From the start of its program until the program is ready.
    pub start: Duration,
    /// The time that it computes, without the time that it waits.
    pub computing: Option<Duration>,
    /// From its start, including all waiting.
    pub total: Option<Duration>,
    /// From its report that it is done, or the close of its channel, until its processes have ended.
    pub ending: Duration,
}

/// The reason for which an attempt waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// Bytes of this input.
    Input(u32),
    /// Room in one of its outputs.
    Room,
    /// The end of processes that it has left behind and that hold its outputs open.
    Helpers,
}

/// Measures the time of one attempt.
#[derive(Clone, Debug)]
pub struct Stopwatch {
    limits: TimeLimits,
    stage: Stage,
    /// The beginning of the present stage, shifted by the time that does not count.
    since: Duration,
    /// The start of the attempt, shifted likewise.
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
    /// It is done or has lost its channel, and must exit.
    Ending,
    /// A limit is exceeded, or it is being ended for another reason.
    Over,
}

/// The limit that an attempt has exceeded.
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
        /// How it has spent its time.
        spent: Spent,
    },
    /// It has taken too long in total.
    Total {
        /// The limit.
        limit: Duration,
        /// How it has spent its time.
        spent: Spent,
    },
    /// It has not exited although it is done or has lost its channel.
    Ending {
        /// The limit.
        limit: Duration,
    },
}

/// How an attempt has spent its time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// How long it has computed.
    pub computed: Duration,
    /// How long it has waited, by reason, the longest first.
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

    /// It continues.
    pub fn resume(&mut self, now: Duration) {
        if matches!(self.stage, Stage::Waiting(_)) {
            self.enter(now, Stage::Computing);
        }
    }

    /// It has reported that it is done, or has lost its channel: it must exit now.
    pub fn ending(&mut self, now: Duration) {
        if !matches!(self.stage, Stage::Ending | Stage::Over) {
            self.enter(now, Stage::Ending);
        }
    }

    /// It is being ended: no limit applies any more.
    pub fn stop(&mut self, now: Duration) {
        self.enter(now, Stage::Over);
    }

    /// The node did not run for this long before `now`. This time does not count, because it is unknown whether the
    /// attempt ran in it.
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

    /// The limit that is exceeded now. Reported only once.
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
    /// Describes what was exceeded; `name` returns the name of an input or output that it waited for.
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

/// A duration with at most three digits.
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
    fn waiting_does_not_count() {
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
        assert_eq!((watch.check(seconds(9999)), watch.expires()), (None, None), "it is reported once");
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
    fn a_program_must_become_ready_in_time_but_may_wait_for_its_gate() {
        let mut watch = Stopwatch::new(seconds(5), limits(Some(1), Some(1)));
        assert_eq!(watch.expires(), Some(seconds(65)));
        watch.ready(seconds(64));
        assert_eq!(watch.expires(), None, "its gate is not its fault");
        let mut watch = Stopwatch::new(seconds(5), limits(None, None));
        assert_eq!(watch.check(seconds(65)), Some(Overrun::Start { limit: seconds(60) }));
    }

    #[test]
    fn an_attempt_that_is_done_must_exit() {
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
        /// For any sequence of events, the computed, waited and skipped times add up to the elapsed time.
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
                        // A gap is never longer than the time since the last event.
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
