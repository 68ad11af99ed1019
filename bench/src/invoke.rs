//! Topic `invoke`: the latency from the start to the first instruction of a program, and instances per second.
//!
//! A *ready* program is a process that waits for its start, so the minimum cost of a start is a wake-up. A *cold*
//! program has no process yet, so the minimum cost is a `posix_spawn`.

mod ours;
mod spawn;
mod wake;

use std::time::Duration;

use crate::failure::Failure;
use crate::latency::{Repeat, Summary, median, write_log};
use crate::report::{Column, LATENCY_COLUMNS, Report, Row, Table, Unit, latency_figures};
use crate::settings::Settings;
use crate::subject::{Role, Subject};

pub use wake::WakeTask;

/// The pause before each start whose latency is measured. By its end, all activity of the previous start is over and
/// the waiting processes sleep.
const REST: Duration = Duration::from_millis(5);

/// How many times the usual budget a repeat of latencies takes, because of the pause before each start.
const PATIENCE: u32 = 4;

/// The numbers of concurrent instances in measurements of the rate.
const AT_ONCE: &[u32] = &[1, 2, 4];

const RATE_COLUMNS: &[Column] = &[
    Column { key: "instances_per_second", head: "instances", unit: Unit::Rate },
    Column { key: "of_limit", head: "/limit", unit: Unit::Ratio },
];

/// The state of a program before its start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// A process waits for the start.
    Ready,
    /// There is no process.
    Cold,
}

/// A way to start programs.
trait Invoke: Subject {
    /// The state from which it starts programs.
    fn from(&self) -> From;

    /// Starts `count` programs, [`REST`] apart. Returns the nanoseconds until the first instruction of each.
    fn starts(&self, count: u32) -> Result<Repeat, Failure>;
}

/// A way to run programs that do nothing.
trait Rate: Subject {
    /// Runs programs to completion for about `budget`, `at_once` at a time. Returns the number per second.
    fn per_second(&self, at_once: u32, budget: Duration) -> Result<f64, Failure>;
}

/// All subjects for latency. A new subject is one more line here.
const STARTS: &[&dyn Invoke] = &[
    &wake::FUTEX,
    &wake::PACKET,
    &ours::READY,
    &ours::READY_FROM_COMMIT,
    &spawn::SMALLEST_PROGRAM,
    &spawn::RUST_PROGRAM,
    &ours::COLD,
];

/// All subjects for the rate.
const RATES: &[&dyn Rate] = &[&spawn::SMALLEST_PROGRAM, &spawn::RUST_PROGRAM, &ours::NOTHING];

/// Starts of a ready program of dflow's, one at a time.
pub fn ready_starts(count: u32) -> Result<Repeat, Failure> {
    ours::READY.starts(count)
}

/// Measures the topic.
pub fn measure(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let count = u32::try_from((settings.budget * PATIENCE).as_nanos() / REST.as_nanos()).unwrap_or(u32::MAX);
    let mut rows = Vec::new();
    for (from, case) in [(From::Ready, "a ready program"), (From::Cold, "a cold program")] {
        let starts: Vec<_> = STARTS.iter().copied().filter(|subject| subject.from() == from).collect();
        let found = settings.in_turns(case, &settings.wanted(&starts), |subject| subject.starts(count));
        let limits = found.iter().filter(|(subject, _)| subject.card().role == Role::Limit);
        let limits = limits.filter_map(|(_, repeats)| Summary::of_repeats(repeats.as_ref().ok()?));
        let limit = limits.min_by(|one, other| one.p50.total_cmp(&other.p50));
        for (subject, repeats) in &found {
            let repeats = repeats.as_ref().map_err(Failure::clone);
            if let (Ok(repeats), Some(dir)) = (&repeats, &settings.hlog) {
                write_log(dir, &format!("invoke-{}", subject.card().name), repeats)?;
            }
            let figures = repeats.map(|repeats| {
                Summary::of_repeats(repeats).map_or_else(Vec::new, |summary| latency_figures(summary, limit))
            });
            rows.push(Row::new(case, *subject, figures));
        }
    }
    report.add(Table {
        topic: "invoke",
        title: "from the start to the first instruction of user code".into(),
        notes: vec![
            format!(
                "{count} starts per repeat, one at a time, after a pause of {} ms each, so every start wakes sleeping \
                 cores and processes; percentiles from p99.9 up are based on few starts",
                REST.as_millis()
            ),
            "dflow: a real daemon (dflow_worker::run) and launcher, with a foreach over parts that its producer \
             writes one after another; no process is pinned"
                .into(),
        ],
        columns: LATENCY_COLUMNS,
        rows,
    })?;
    measure_rates(settings, report)
}

fn measure_rates(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for at_once in AT_ONCE.iter().copied() {
        let case = format!("{at_once} at a time");
        let found = settings.in_turns(&format!("instances, {case}"), &settings.wanted(RATES), |subject| {
            subject.per_second(at_once, settings.budget)
        });
        let found: Vec<_> = found
            .into_iter()
            .map(|(subject, rates)| (subject, rates.map(|rates| median(rates).unwrap_or(f64::NAN))))
            .collect();
        let limit = found.iter().find(|(subject, _)| subject.card().role == Role::Limit);
        let limit = limit.and_then(|(_, rate)| rate.as_ref().ok().copied());
        let figures = |rate: f64| vec![Some(rate), limit.map(|limit| rate / limit)];
        rows.extend(found.into_iter().map(|(subject, rate)| Row::new(&case, subject, rate.map(figures))));
    }
    report.add(Table {
        topic: "invoke",
        title: "instances that do nothing".into(),
        notes: vec![
            "from the first start to the last end; at a time: threads that start programs and wait for them, or slots \
             of the daemon, which also prepares further programs ahead of their start"
                .into(),
        ],
        columns: RATE_COLUMNS,
        rows,
    })
}
