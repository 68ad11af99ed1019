//! Topic `fanout`: one stream to 1, 4 and 16 readers; many small streams ([`many`]).

mod bare;
#[cfg(feature = "peers")]
mod iceoryx;
pub mod many;
mod ours;
mod unix_socket;

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::clock::{now, wait_until};
use crate::failure::Failure;
use crate::latency::{Recorded, Repeat, Summary, histogram, median, write_log};
use crate::process::{Actor, Actors, Findings, Round, Task};
use crate::report::{Column, LATENCY_COLUMNS, Report, Row, Table, Unit, latency_figures, size};
use crate::settings::Settings;
use crate::subject::{End, Place, PlaceKeeper, Role, Subject};

/// The numbers of readers.
const READERS: &[usize] = &[1, 4, 16];

/// The size of a message in bytes.
const MESSAGE: usize = 64 << 10;

/// Nanoseconds between two messages in latency measurements: 500 messages per second, a rate that every subject can
/// sustain on two cores.
const INTERVAL: u64 = 2_000_000;

/// Minimum and maximum number of messages in a repeat at full speed.
const MESSAGES: (u64, u64) = (64, 1_000_000);

const THROUGHPUT_COLUMNS: &[Column] = &[
    Column { key: "delivered_bytes_per_second", head: "delivered", unit: Unit::Bandwidth },
    Column { key: "messages_per_second", head: "messages", unit: Unit::Rate },
    Column { key: "of_limit", head: "/limit", unit: Unit::Ratio },
];

/// The shape of a fan-out.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Shape {
    /// The number of readers.
    pub readers: usize,
    /// The bytes of a message.
    pub message: usize,
}

/// A way to send one stream to many readers, which sleep while there is nothing to read.
pub trait Fanout: Subject {
    /// The bytes of shared memory that its ends need.
    fn memory(&self, shape: Shape) -> usize {
        let _ = shape;
        0
    }

    /// The end that writes.
    fn writer(&self, place: &Place, shape: Shape) -> Result<Box<dyn End>, Failure>;

    /// The end of reader `index`, counted from 0.
    fn reader(&self, index: usize, place: &Place, shape: Shape) -> Result<Box<dyn End>, Failure>;
}

/// All subjects. A new subject is one more line here.
fn subjects() -> Vec<&'static dyn Fanout> {
    vec![
        &bare::Bare,
        &ours::SLEEPING,
        #[cfg(feature = "peers")]
        &iceoryx::Iceoryx,
        &unix_socket::UnixSocket,
    ]
}

/// Measures the topic.
pub fn measure(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let wanted = settings.wanted(&subjects());
    let mut latencies = Vec::new();
    let mut throughputs = Vec::new();
    for readers in READERS.iter().copied() {
        let shape = Shape { readers, message: MESSAGE };
        let case = format!("{readers} reader{}, {}", if readers == 1 { "" } else { "s" }, size(MESSAGE));
        let found =
            settings.in_turns(&format!("fanout {case}"), &wanted, |subject| one_repeat(settings, subject, shape));
        let limit = found.iter().find(|(subject, _)| subject.card().role == Role::Limit);
        let limit = limit.and_then(|(_, repeats)| Figures::of(repeats.as_ref().ok()?));
        for (subject, repeats) in &found {
            if let (Ok(repeats), Some(dir)) = (repeats, &settings.hlog) {
                let latencies: Vec<_> = repeats.iter().map(|(latency, _)| latency.clone()).collect();
                write_log(dir, &format!("fanout-{}-{readers}", subject.card().name), &latencies)?;
            }
            let figures = repeats.as_ref().map_err(Failure::clone).map(|repeats| Figures::of(repeats));
            let latency = figures.clone().map(|figures| {
                figures.map_or_else(Vec::new, |own| latency_figures(own.latency, limit.map(|limit| limit.latency)))
            });
            let throughput = figures.map(|figures| {
                figures.map_or_else(Vec::new, |Figures { rate, .. }| {
                    let delivered = rate * (MESSAGE * readers) as f64;
                    vec![Some(delivered), Some(rate), limit.map(|limit| rate / limit.rate)]
                })
            });
            latencies.push(Row::new(&case, *subject, latency));
            throughputs.push(Row::new(&case, *subject, throughput));
        }
    }
    report.add(Table {
        topic: "fanout",
        title: format!("one stream to many readers, latency at {} messages per second", 1_000_000_000 / INTERVAL),
        notes: vec![
            "from the time at which a message was due until a reader has read every word of it; all readers together"
                .into(),
            "open loop: messages are due at fixed times, whether or not the previous one was late, which avoids \
             coordinated omission"
                .into(),
            "the writer is pinned to one core, the readers run on any".into(),
        ],
        columns: LATENCY_COLUMNS,
        rows: latencies,
    })?;
    report.add(Table {
        topic: "fanout",
        title: "one stream to many readers, at full speed".into(),
        notes: vec!["delivered: the sum of the bytes of all readers".into()],
        columns: THROUGHPUT_COLUMNS,
        rows: throughputs,
    })?;
    many::measure(settings, report)
}

/// The medians of a subject's repeats.
#[derive(Clone, Copy)]
struct Figures {
    latency: Summary,
    rate: f64,
}

impl Figures {
    fn of(repeats: &[(Repeat, f64)]) -> Option<Figures> {
        let (latencies, rates): (Vec<_>, Vec<_>) = repeats.iter().cloned().unzip();
        Some(Figures { latency: Summary::of_repeats(&latencies)?, rate: median(rates)? })
    }
}

/// The latencies of a paced run, and the messages per second of a run at full speed.
fn one_repeat(settings: &Settings, subject: &dyn Fanout, shape: Shape) -> Result<(Repeat, f64), Failure> {
    let (first, _) = settings.two_cores()?;
    let keeper = PlaceKeeper::new(subject.memory(shape))?;
    let _service = subject.service(keeper.place())?;
    let task = |reader| {
        let (subject, place) = (subject.card().name.into(), keeper.place().clone());
        FanoutTask { subject, place, shape, reader }
    };
    let mut tasks = vec![(task(None), Some(first))];
    tasks.extend((0..shape.readers).map(|reader| (task(Some(reader)), None)));
    let mut actors = Actors::start(tasks)?;

    let count = actors.calibrate(settings.budget / 2, MESSAGES)?;
    let findings = actors.round(Round { count, interval: 0 })?;
    let began = findings.iter().map(|found| found.began).min().unwrap_or(0);
    let ended = findings.iter().map(|found| found.ended).max().unwrap_or(0);
    let rate = count as f64 / ended.saturating_sub(began).max(1) as f64 * 1e9;

    let count = (settings.budget.as_nanos() as u64 / INTERVAL).max(20);
    let began = SystemTime::now();
    let findings = actors.round(Round { count, interval: INTERVAL })?;
    let mut histogram = histogram();
    for found in &findings {
        found.latency.add_to(&mut histogram);
    }
    Ok((Repeat { began, took: began.elapsed().unwrap_or_default(), histogram }, rate))
}

/// The task of one process of a fan-out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FanoutTask {
    subject: String,
    place: Place,
    shape: Shape,
    /// The index of the reader; `None` for the writer.
    reader: Option<usize>,
}

impl Task for FanoutTask {
    const TOPIC: &str = "fanout";

    fn actor(self) -> Result<Box<dyn Actor>, Failure> {
        let subjects = subjects();
        let subject = subjects.iter().find(|subject| subject.card().name == self.subject);
        let subject = subject.ok_or_else(|| Failure::new(format!("there is no fan-out subject {}", self.subject)))?;
        Ok(match self.reader {
            None => Box::new(Writer { end: subject.writer(&self.place, self.shape)? }),
            Some(index) => Box::new(Reader {
                end: subject.reader(index, &self.place, self.shape)?,
                message: self.shape.message,
                last: 0,
            }),
        })
    }
}

struct Writer {
    end: Box<dyn End>,
}

impl Actor for Writer {
    fn round(&mut self, round: Round) -> Result<Findings, Failure> {
        let began = now();
        for message in 0..round.count {
            // A message begins with the time at which it was due, so that readers can compute its latency.
            let due = if round.interval > 0 { began + (message + 1) * round.interval } else { now() };
            wait_until(due);
            self.end.send(due)?;
        }
        self.end.flush()?;
        Ok(Findings { began, ended: now(), latency: Recorded::default(), ..Findings::default() })
    }
}

struct Reader {
    end: Box<dyn End>,
    message: usize,
    /// When the last message was due.
    last: u64,
}

impl Actor for Reader {
    fn round(&mut self, round: Round) -> Result<Findings, Failure> {
        let began = now();
        let mut histogram = histogram();
        for _ in 0..round.count {
            let seen = self.end.receive()?;
            histogram.saturating_record(now().saturating_sub(seen.first));
            seen.check(self.message)?;
            if seen.first < self.last {
                return Err(Failure::new("messages arrived out of order"));
            }
            self.last = seen.first;
        }
        Ok(Findings { began, ended: now(), latency: Recorded::of(&histogram), ..Findings::default() })
    }
}
