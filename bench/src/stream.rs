//! Topic `stream`: one long stream of messages from one process to another.
//!
//! There are two layouts. *Window*: the reader keeps up, and the bytes pass through a small ring that stays in the
//! cache. *Kept*: every byte of the stream has its own memory.

mod bare;
#[cfg(feature = "peers")]
mod iceoryx;
mod node;
mod ours;
mod unix_socket;

use serde::{Deserialize, Serialize};

use crate::clock::now;
use crate::failure::Failure;
use crate::latency::{Recorded, median};
use crate::process::{Actor, Actors, Findings, Round, Task};
use crate::report::{Column, Report, Row, Table, Unit, size};
use crate::settings::Settings;
use crate::subject::{End, Place, PlaceKeeper, Role, Side, Subject};
use crate::topology::available_memory;

/// The default message sizes.
const SIZES: &[usize] = &[64, 64 << 10, 1 << 20];

/// Minimum window of a stream whose reader keeps up.
const WINDOW: usize = 1 << 20;

/// Minimum number of messages in a window.
const MESSAGES_IN_WINDOW: usize = 4;

/// The length of a kept stream, if there is enough memory, and in quick runs.
const KEPT: [usize; 2] = [4 << 30, 256 << 20];

/// A kept stream uses at most this fraction of free memory.
const KEPT_PART: u64 = 3;

/// The size of messages in a kept stream.
const KEPT_MESSAGE: usize = 1 << 20;

/// Minimum and maximum number of messages in a repeat.
const MESSAGES: (u64, u64) = (64, 50_000_000);

const COLUMNS: &[Column] = &[
    Column { key: "bytes_per_second", head: "bytes", unit: Unit::Bandwidth },
    Column { key: "messages_per_second", head: "messages", unit: Unit::Rate },
    Column { key: "of_one_core", head: "/one-core", unit: Unit::Ratio },
];

/// The layout: how much of a stream fits in memory before memory is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The size of a message in bytes.
    pub message: usize,
    /// The size of the window in bytes, a multiple of `message`; for a kept stream, its length.
    pub window: usize,
}

/// A way to stream from process to process.
pub trait Stream: Subject {
    /// The bytes of shared memory that its two ends need.
    fn memory(&self, layout: Layout) -> usize {
        let _ = layout;
        0
    }

    /// Whether a single process sends and receives in turns.
    fn is_one_process(&self) -> bool {
        false
    }

    /// Whether it supports kept streams.
    fn can_keep(&self) -> bool {
        false
    }

    /// The end of one side. The first side sends.
    fn join(&self, side: Side, place: &Place, layout: Layout) -> Result<Box<dyn End>, Failure>;
}

/// All subjects. A new subject is one more line here.
fn subjects() -> Vec<&'static dyn Stream> {
    vec![
        &bare::ONE_CORE,
        &bare::RING,
        &ours::SPINNING,
        &ours::SLEEPING,
        #[cfg(feature = "peers")]
        &iceoryx::Iceoryx,
        &unix_socket::UnixSocket,
    ]
}

/// Measures the topic.
pub fn measure(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let wanted = settings.wanted(&subjects());
    let mut rows = Vec::new();
    for message in settings.sizes_or(SIZES) {
        let window = (WINDOW / message).max(MESSAGES_IN_WINDOW) * message;
        let layout = Layout { message, window };
        let case = format!("{} messages, reader keeps up", size(message));
        rows.extend(compare(settings, &case, &wanted, layout, None));
    }
    let length = kept_length(settings.quick);
    let layout = Layout { message: KEPT_MESSAGE, window: length };
    let keeping: Vec<_> = wanted.iter().copied().filter(|subject| subject.can_keep()).collect();
    let case = format!("{} kept", size(length));
    let kept = compare(settings, &case, &keeping, layout, Some((length / KEPT_MESSAGE) as u64));
    let one_core = kept.iter().find(|row| row.subject == bare::ONE_CORE.card().name);
    let one_core = one_core.and_then(|row| row.figures.as_ref().ok()?.first().copied().flatten());
    rows.extend(kept);
    rows.extend(node::rows(settings, &case, length, one_core));
    report.add(Table {
        topic: "stream",
        title: "one stream from process to process".into(),
        notes: vec![
            "one process writes, the other reads and checks every word; memory is faulted in before".into(),
            "/one-core: relative to a single process that writes and reads the same buffers".into(),
            "dflow-node-fresh is limited by the kernel, which allocates and zeroes every page; in a virtual machine \
             that returns free memory to its host, also by the host"
                .into(),
        ],
        columns: COLUMNS,
        rows,
    })
}

fn compare(
    settings: &Settings,
    case: &str,
    subjects: &[&'static dyn Stream],
    layout: Layout,
    count: Option<u64>,
) -> Vec<Row> {
    let found =
        settings.in_turns(&format!("stream {case}"), subjects, |subject| one_repeat(settings, subject, layout, count));
    let found: Vec<_> = found
        .into_iter()
        .map(|(subject, repeats)| (subject, repeats.map(|repeats| median(repeats).unwrap_or(f64::NAN))))
        .collect();
    let limit = found.iter().find(|(subject, _)| subject.is_one_process() && subject.card().role == Role::Limit);
    let limit = limit.and_then(|(_, rate)| rate.as_ref().ok().copied());
    let figures = |rate: f64| vec![Some(rate), Some(rate / layout.message as f64), limit.map(|limit| rate / limit)];
    found.into_iter().map(|(subject, rate)| Row::new(case, subject, rate.map(figures))).collect()
}

/// The bytes per second of one repeat, of `count` messages or as many as fit the budget.
fn one_repeat(settings: &Settings, subject: &dyn Stream, layout: Layout, count: Option<u64>) -> Result<f64, Failure> {
    let (first, second) = settings.two_cores()?;
    let keeper = PlaceKeeper::new(subject.memory(layout))?;
    let _service = subject.service(keeper.place())?;
    let task = |side| StreamTask { subject: subject.card().name.into(), side, place: keeper.place().clone(), layout };
    let mut tasks = vec![(task(Side::First), Some(first))];
    if !subject.is_one_process() {
        tasks.push((task(Side::Second), Some(second)));
    }
    let mut actors = Actors::start(tasks)?;
    let count = match count {
        Some(count) => {
            // The first pass fills the page tables of both sides.
            actors.round(Round { count, interval: 0 })?;
            count
        }
        None => actors.calibrate(settings.budget, MESSAGES)?,
    };
    let findings = actors.round(Round { count, interval: 0 })?;
    let began = findings.iter().map(|found| found.began).min().unwrap_or(0);
    let ended = findings.iter().map(|found| found.ended).max().unwrap_or(0);
    let bytes = count as f64 * layout.message as f64;
    Ok(bytes / ended.saturating_sub(began).max(1) as f64 * 1e9)
}

/// The configured length, reduced to what free memory allows.
fn kept_length(quick: bool) -> usize {
    let free = usize::try_from(available_memory() / KEPT_PART).unwrap_or(usize::MAX);
    let length = KEPT[usize::from(quick)].min(free);
    (length / KEPT_MESSAGE).max(MESSAGES_IN_WINDOW) * KEPT_MESSAGE
}

/// The task of one process of a stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamTask {
    subject: String,
    side: Side,
    place: Place,
    layout: Layout,
}

impl Task for StreamTask {
    const TOPIC: &str = "stream";

    fn actor(self) -> Result<Box<dyn Actor>, Failure> {
        let subjects = subjects();
        let subject = subjects.iter().find(|subject| subject.card().name == self.subject);
        let subject = subject.ok_or_else(|| Failure::new(format!("there is no stream subject {}", self.subject)))?;
        let end = subject.join(self.side, &self.place, self.layout)?;
        let part = match (subject.is_one_process(), self.side) {
            (true, _) => Part::Both,
            (false, Side::First) => Part::Writer,
            (false, Side::Second) => Part::Reader,
        };
        Ok(Box::new(Streamer { end, part, message: self.layout.message, next: 0 }))
    }
}

#[derive(Clone, Copy)]
enum Part {
    Writer,
    Reader,
    Both,
}

struct Streamer {
    end: Box<dyn End>,
    part: Part,
    message: usize,
    next: u64,
}

impl Actor for Streamer {
    fn round(&mut self, round: Round) -> Result<Findings, Failure> {
        let began = now();
        for _ in 0..round.count {
            if matches!(self.part, Part::Writer | Part::Both) {
                self.end.send(self.next)?;
            }
            if matches!(self.part, Part::Reader | Part::Both) {
                let seen = self.end.receive()?;
                if seen.first != self.next {
                    let words = format!("message {} arrived in place of message {}", seen.first, self.next);
                    return Err(Failure::new(words));
                }
                seen.check(self.message)?;
            }
            self.next += 1;
        }
        if matches!(self.part, Part::Writer) {
            self.end.flush()?;
        }
        Ok(Findings { began, ended: now(), latency: Recorded::default(), ..Findings::default() })
    }
}
