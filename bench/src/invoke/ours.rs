//! dflow: a real daemon starts instances of a real function.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::failure::Failure;
use crate::invoke::{From, Invoke, REST, Rate};
use crate::latency::{Repeat, histogram};
use crate::node::{self, Ran, Run};
use crate::subject::{Card, Role, Subject, Waiting};

/// The slots for starts one at a time: more than are in use, and enough that many programs are prepared ahead.
const SLOTS: u32 = 32;

/// How long the producer of the parts waits before the first one, so that programs are ready.
const BEFORE_FIRST: Duration = Duration::from_millis(300);

/// A start counts only if the program was ready for at least this long before its gate opened.
const READY_FOR: u64 = 2_000_000;

/// The number of instances in measurements of the rate, per second of the budget.
const INSTANCES_A_SECOND: u64 = 1500;

/// A ready program, from the opening of its gate.
pub static READY: Start = Start {
    name: "dflow-ready",
    about: "from the time at which the scheduler sees that the gate of a ready program is open to the program's user \
        code",
    from: From::Ready,
    since: |_, attempt| attempt.started,
};

/// A ready program, from the commit that opens its gate.
pub static READY_FROM_COMMIT: Start = Start {
    name: "dflow-ready-from-commit",
    about: "the same, from just before another function commits the first byte: includes two wake-ups, of daemon and \
        program",
    from: From::Ready,
    since: |committed, _| committed,
};

/// A program without a process.
pub static COLD: Start = Start {
    name: "dflow-cold",
    about: "from the time at which the scheduler requests a program whose gate is open: launcher, process, SDK, gate",
    from: From::Cold,
    since: |_, attempt| attempt.prepared,
};

/// Instances that do nothing.
pub static NOTHING: Nothing = Nothing;

/// The start of a function.
pub struct Start {
    name: &'static str,
    about: &'static str,
    from: From,
    /// When the start began, computed from the commit time of its input and the times of its attempt.
    since: fn(u64, &Times) -> u64,
}

/// The times of an attempt, on the monotonic clock.
struct Times {
    prepared: u64,
    ready: u64,
    started: u64,
}

impl Subject for Start {
    fn card(&self) -> Card {
        Card { name: self.name, about: self.about, role: Role::Ours, waiting: Waiting::Sleeping }
    }

    fn missing(&self) -> Option<String> {
        node::missing()
    }
}

impl Invoke for Start {
    fn from(&self) -> From {
        self.from
    }

    fn starts(&self, count: u32) -> Result<Repeat, Failure> {
        // For known parts programs are prepared ahead; for a part that the producer opens only now there is none.
        let (partition, rest) = match self.from {
            From::Ready => (count.to_string(), BEFORE_FIRST),
            From::Cold => ("discovered".to_owned(), Duration::ZERO),
        };
        let pause = REST.as_micros();
        let open = format!(
            "outputs: {{ parts: {{ partition: {partition} }} }}, params: {{ does: open, count: \"{count}\", \
             pause_us: \"{pause}\", rest_us: \"{}\" }}",
            rest.as_micros()
        );
        let start = "foreach: open.parts, outputs: [times], params: { does: clock }".to_owned();
        let collect =
            "inputs: { times: start.times }, gate: whole, outputs: [times], params: { does: collect }".to_owned();
        let began = SystemTime::now();
        let ran = Run {
            functions: &[("open", open), ("start", start), ("collect", collect)],
            outputs: &["collect.times"],
            slots: SLOTS,
            memory: None,
        }
        .run()?;
        let took = began.elapsed().unwrap_or_default();
        let mut histogram = histogram();
        for nanoseconds in self.latencies(&ran) {
            histogram.saturating_record(nanoseconds);
        }
        if histogram.len() * 2 < u64::from(count) {
            return Err(Failure::new(format!(
                "only {} of {count} programs were in the expected state when they started",
                histogram.len()
            )));
        }
        Ok(Repeat { began, took, histogram })
    }
}

impl Start {
    fn latencies(&self, ran: &Ran) -> Vec<u64> {
        let start = ran.report.monotonic_start_ns;
        let attempts: HashMap<u64, Times> = ran
            .report
            .attempts_of("start")
            .filter_map(|attempt| {
                let times = Times {
                    prepared: start + attempt.prepared_ns,
                    ready: start + attempt.ready_ns?,
                    started: start + attempt.started_ns?,
                };
                Some((attempt.part.as_ref()?.parse().ok()?, times))
            })
            .collect();
        let told = ran.outputs.get("collect").map_or(&[][..], Vec::as_slice).as_chunks().0;
        told.iter()
            .filter_map(|[part, committed, first]| {
                let times = attempts.get(part)?;
                let counts = self.from == From::Cold || times.ready + READY_FOR < times.started;
                counts.then(|| first.saturating_sub((self.since)(*committed, times)))
            })
            .collect()
    }
}

/// Instances that do nothing.
pub struct Nothing;

impl Subject for Nothing {
    fn card(&self) -> Card {
        Card {
            name: "dflow",
            about: "a foreach under a real daemon over complete parts: launcher, process, SDK, gate and end, for each",
            role: Role::Ours,
            waiting: Waiting::Sleeping,
        }
    }

    fn missing(&self) -> Option<String> {
        node::missing()
    }
}

impl Rate for Nothing {
    fn per_second(&self, at_once: u32, budget: Duration) -> Result<f64, Failure> {
        let count = (budget.as_millis() as u64 * INSTANCES_A_SECOND / 1000).max(100);
        let open = format!("outputs: {{ parts: {{ partition: {count} }} }}, params: {{ does: open }}");
        let nothing = "foreach: open.parts, params: { does: nothing }".to_owned();
        let ran = Run { functions: &[("open", open), ("start", nothing)], outputs: &[], slots: at_once, memory: None };
        let report = ran.run()?.report;
        let began = report.attempts_of("start").map(|attempt| attempt.prepared_ns).min().unwrap_or(0);
        let ended = report.attempts_of("start").filter_map(|attempt| attempt.ended_ns).max().unwrap_or(0);
        Ok(count as f64 * 1e9 / ended.saturating_sub(began).max(1) as f64)
    }
}
