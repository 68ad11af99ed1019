//! Many small streams, all open at the same time: the time and memory that each takes.

mod bare;
mod ours;
mod tmpfs;
mod unix_socket;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::clock::now;
use crate::failure::{Failure, Trying};
use crate::latency::{Recorded, median};
use crate::process::{Actor, Actors, Findings, Round, Task};
use crate::report::{Column, Report, Row, Table, Unit, size};
use crate::settings::Settings;
use crate::subject::{Place, PlaceKeeper, Side, Subject};
use crate::topology::available_memory;

/// The number of streams, and in quick runs.
const STREAMS: [usize; 2] = [10_000, 1_000];

/// The length of a stream in bytes.
pub const LENGTH: usize = 64;

const COLUMNS: &[Column] = &[
    Column { key: "streams_per_second", head: "streams", unit: Unit::Rate },
    Column { key: "ns_per_stream", head: "each", unit: Unit::Time },
    Column { key: "bytes_of_memory_per_stream", head: "memory", unit: Unit::Size },
    Column { key: "bytes_of_memory", head: "of all", unit: Unit::Size },
    Column { key: "time_over_limit", head: "/limit", unit: Unit::Ratio },
];

/// A way to move many small streams.
pub trait Many: Subject {
    /// Opens `streams` streams and moves [`LENGTH`] bytes through each. All of them are open at the end.
    fn one_repeat(&self, settings: &Settings, streams: usize) -> Result<Found, Failure>;
}

/// The cost of one repeat.
#[derive(Clone, Copy)]
pub struct Found {
    /// The time for all streams.
    pub nanoseconds: f64,
    /// The memory of all streams and of the processes that move them, in bytes.
    pub memory: f64,
}

/// A way whose two ends are processes of this program.
pub trait Ends: Subject {
    /// The bytes of shared memory that its two ends need.
    fn memory(&self, streams: usize) -> usize {
        let _ = streams;
        0
    }

    /// The end of one side; the first writes.
    fn join(&self, side: Side, place: &Place, streams: usize) -> Result<Box<dyn ManyEnd>, Failure>;
}

/// One process's end of many streams.
pub trait ManyEnd {
    /// Opens `streams` streams and moves [`LENGTH`] bytes through each. Keeps all of them open until the next call or
    /// the drop. A reader checks every byte.
    fn move_all(&mut self, streams: usize) -> Result<(), Failure>;
}

/// All subjects. A new subject is one more line here.
fn subjects() -> Vec<&'static dyn Many> {
    vec![&bare::Bare, &tmpfs::Files, &unix_socket::UnixSocket, &ours::Ours]
}

/// The subjects whose ends are processes of this program.
fn pairs() -> Vec<&'static dyn Ends> {
    vec![&bare::Bare, &tmpfs::Files, &unix_socket::UnixSocket]
}

/// Measures many small streams.
pub fn measure(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let wanted = settings.wanted(&subjects());
    let streams = STREAMS[usize::from(settings.quick)];
    let case = format!("{streams} of {}", size(LENGTH));
    let found =
        settings.in_turns(&format!("many streams, {case}"), &wanted, |subject| subject.one_repeat(settings, streams));
    let found: Vec<_> = found
        .into_iter()
        .map(|(subject, repeats)| {
            let medians = repeats.map(|repeats| {
                let over = |of: fn(&Found) -> f64| median(repeats.iter().map(of).collect()).unwrap_or(f64::NAN);
                Found { nanoseconds: over(|found| found.nanoseconds), memory: over(|found| found.memory) }
            });
            (subject, medians)
        })
        .collect();
    // The reference is the limit of the kernel: like streams, its objects have names and independent lifetimes, which
    // bare slots do not.
    let limit = found.iter().find(|(subject, _)| subject.card().name == tmpfs::Files.card().name);
    let limit = limit.and_then(|(_, figures)| figures.as_ref().ok()).map(|found| found.nanoseconds);
    let figures = |Found { nanoseconds, memory }: Found| {
        let each = nanoseconds / streams as f64;
        let over = limit.map(|limit| nanoseconds / limit);
        vec![Some(1e9 / each), Some(each), Some(memory / streams as f64), Some(memory), over]
    };
    let rows = found.into_iter().map(|(subject, found)| Row::new(&case, subject, found.map(figures))).collect();
    report.add(Table {
        topic: "fanout",
        title: "many small streams, open at once".into(),
        notes: vec![
            "opened, written and read by the other process; memory is what the machine had less while all were open, \
             and includes whatever else went on; /limit is against files in memory"
                .into(),
        ],
        columns: COLUMNS,
        rows,
    })
}

impl<T: Ends> Many for T {
    fn one_repeat(&self, settings: &Settings, streams: usize) -> Result<Found, Failure> {
        let (first, second) = settings.two_cores()?;
        let before = available_memory();
        let keeper = PlaceKeeper::new(self.memory(streams))?;
        let _service = self.service(keeper.place())?;
        let task = |side| ManyTask { subject: self.card().name.into(), side, place: keeper.place().clone(), streams };
        let mut actors = Actors::start(vec![(task(Side::First), Some(first)), (task(Side::Second), Some(second))])?;
        let findings = actors.round(Round { count: streams as u64, interval: 0 })?;
        let memory = before.saturating_sub(available_memory());
        let began = findings.iter().map(|found| found.began).min().unwrap_or(0);
        let ended = findings.iter().map(|found| found.ended).max().unwrap_or(0);
        Ok(Found { nanoseconds: ended.saturating_sub(began) as f64, memory: memory as f64 })
    }
}

/// The task of one process of many streams.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ManyTask {
    subject: String,
    side: Side,
    place: Place,
    streams: usize,
}

impl Task for ManyTask {
    const TOPIC: &str = "many";

    fn actor(self) -> Result<Box<dyn Actor>, Failure> {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
            .trying("raise the limit on open descriptors")?;
        let pairs = pairs();
        let subject = pairs.iter().find(|subject| subject.card().name == self.subject);
        let subject =
            subject.ok_or_else(|| Failure::new(format!("there is no subject {} for many streams", self.subject)))?;
        Ok(Box::new(Mover { end: subject.join(self.side, &self.place, self.streams)?, streams: self.streams }))
    }
}

struct Mover {
    end: Box<dyn ManyEnd>,
    streams: usize,
}

impl Actor for Mover {
    fn round(&mut self, _: Round) -> Result<Findings, Failure> {
        let began = now();
        self.end.move_all(self.streams)?;
        Ok(Findings { began, ended: now(), latency: Recorded::default(), ..Findings::default() })
    }
}
