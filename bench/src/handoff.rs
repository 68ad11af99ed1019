//! Topic `handoff`: one chunk from one process to another.
//!
//! Measured as a ping-pong: the first process writes a payload, and the second reads every word of it and answers with
//! a payload of the same size, which the first reads. Half of a round trip is one hand-off: a write, a notification, a
//! read.

pub mod bare;
#[cfg(feature = "peers")]
mod iceoryx;
mod ours;
mod redis;
mod unix_socket;

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::clock::{Ticks, now};
use crate::failure::Failure;
use crate::latency::{Recorded, Repeat, Summary, histogram, write_log};
use crate::payload::Seen;
use crate::process::{Actor, Actors, Findings, Round, Task};
use crate::report::{LATENCY_COLUMNS, Report, Row, Table, latency_figures, size};
use crate::settings::Settings;
use crate::subject::{End, Place, PlaceKeeper, Role, Side, Subject, Waiting};

/// The default payload sizes.
const SIZES: &[usize] = &[64, 4 << 10, 64 << 10, 1 << 20, 4 << 20];

/// Minimum and maximum number of round trips in a repeat.
const TRIPS: (u64, u64) = (100, 1_000_000);

/// Nanoseconds for which the first process spins before each trip to a sleeping reader. Without this pause the two
/// processes can fall into lockstep: each is still in the system call that wakes the other when the answer arrives, so
/// neither ever sleeps.
const REST: f64 = 100_000.0;

/// A way to hand chunks from process to process.
pub trait Handoff: Subject {
    /// The bytes of shared memory that its two ends need.
    fn memory(&self, size: usize) -> usize {
        let _ = size;
        0
    }

    /// The end of one side, for payloads of `size` bytes.
    fn join(&self, side: Side, place: &Place, size: usize) -> Result<Box<dyn End>, Failure>;
}

/// All subjects. A new subject is one more line here.
fn subjects() -> Vec<&'static dyn Handoff> {
    vec![
        &bare::ATOMIC,
        &bare::ATOMIC_WINDOW,
        &bare::FUTEX,
        &ours::SPINNING,
        &ours::SLEEPING,
        #[cfg(feature = "peers")]
        &iceoryx::SPINNING,
        #[cfg(feature = "peers")]
        &iceoryx::EVENTS,
        #[cfg(not(feature = "peers"))]
        &NotBuilt,
        &unix_socket::UnixSocket,
        &redis::Redis,
    ]
}

/// Measures the topic.
pub fn measure(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let wanted = settings.wanted(&subjects());
    let mut rows = Vec::new();
    for bytes in settings.sizes_or(SIZES) {
        let case = size(bytes);
        let found =
            settings.in_turns(&format!("handoff {case}"), &wanted, |subject| one_repeat(settings, subject, bytes));
        for (waiting, name) in [(Waiting::Spinning, "spinning"), (Waiting::Sleeping, "sleeping")] {
            let found: Vec<_> = found.iter().filter(|(subject, _)| subject.card().waiting == waiting).collect();
            // The fastest subject with the role of a limit is the reference.
            let limit = found
                .iter()
                .filter(|(subject, _)| subject.card().role == Role::Limit)
                .filter_map(|(_, repeats)| Summary::of_repeats(repeats.as_ref().ok()?))
                .min_by(|one, other| one.p50.total_cmp(&other.p50));
            for (subject, repeats) in found {
                let repeats = repeats.as_ref().map_err(Failure::clone);
                if let (Ok(repeats), Some(dir)) = (&repeats, &settings.hlog) {
                    write_log(dir, &format!("handoff-{}-{bytes}", subject.card().name), repeats)?;
                }
                let summary = repeats.map(|repeats| Summary::of_repeats(repeats));
                let figures =
                    summary.map(|summary| summary.map_or_else(Vec::new, |summary| latency_figures(summary, limit)));
                rows.push(Row::new(&format!("{case}, {name}"), *subject, figures));
            }
        }
    }
    report.add(Table {
        topic: "handoff",
        title: "one chunk from process to process, one way".into(),
        notes: vec![
            "half of a round trip with the payload in both directions; one process writes, the other reads every \
             word"
                .into(),
            "closed loop: each trip begins when the previous one has ended; without correction for coordinated \
             omission, a stall counts once, and half"
                .into(),
            format!("sleeping: {:.0} µs between trips, so that both processes really sleep", REST / 1e3),
        ],
        columns: LATENCY_COLUMNS,
        rows,
    })
}

fn one_repeat(settings: &Settings, subject: &dyn Handoff, size: usize) -> Result<Repeat, Failure> {
    let (first, second) = settings.two_cores()?;
    let keeper = PlaceKeeper::new(subject.memory(size))?;
    let _service = subject.service(keeper.place())?;
    let task = |side| HandoffTask { subject: subject.card().name.into(), side, place: keeper.place().clone(), size };
    let mut actors = Actors::start(vec![(task(Side::First), Some(first)), (task(Side::Second), Some(second))])?;
    let count = actors.calibrate(settings.budget, TRIPS)?;
    let began = SystemTime::now();
    let findings = actors.round(Round { count, interval: 0 })?;
    let mut histogram = histogram();
    findings[0].latency.add_to(&mut histogram);
    Ok(Repeat { began, took: began.elapsed().unwrap_or_default(), histogram })
}

/// The task of one process of a hand-off.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HandoffTask {
    subject: String,
    side: Side,
    place: Place,
    size: usize,
}

impl Task for HandoffTask {
    const TOPIC: &str = "handoff";

    fn actor(self) -> Result<Box<dyn Actor>, Failure> {
        let subjects = subjects();
        let subject = subjects.iter().find(|subject| subject.card().name == self.subject);
        let subject = subject.ok_or_else(|| Failure::new(format!("there is no hand-off subject {}", self.subject)))?;
        let end = subject.join(self.side, &self.place, self.size)?;
        let rest = if subject.card().waiting == Waiting::Sleeping { REST } else { 0.0 };
        Ok(Box::new(Player { end, side: self.side, size: self.size, ticks: Ticks::calibrated(), rest, next: 0 }))
    }
}

/// One player of the ping-pong.
struct Player {
    end: Box<dyn End>,
    side: Side,
    size: usize,
    ticks: Ticks,
    /// Nanoseconds for which the first player waits before each trip.
    rest: f64,
    /// The first word of the next payload, in both directions.
    next: u64,
}

impl Player {
    /// Spins for the pause before a trip; returns the time at which it ends.
    fn be_busy(&self) -> u64 {
        let began = self.ticks.read();
        loop {
            let at = self.ticks.read();
            if self.ticks.nanoseconds(at - began) >= self.rest {
                return at;
            }
        }
    }

    fn check(&self, seen: Seen) -> Result<(), Failure> {
        if seen.first != self.next {
            return Err(Failure::new(format!("chunk {} arrived in place of chunk {}", seen.first, self.next)));
        }
        seen.check(self.size)
    }
}

impl Actor for Player {
    fn round(&mut self, round: Round) -> Result<Findings, Failure> {
        let began = now();
        let mut latency = Recorded::default();
        match self.side {
            Side::First => {
                let mut trips = Vec::with_capacity(usize::try_from(round.count).unwrap_or(0));
                let mut last = self.ticks.read();
                for _ in 0..round.count {
                    if self.rest > 0.0 {
                        last = self.be_busy();
                    }
                    self.end.send(self.next)?;
                    let seen = self.end.receive()?;
                    let at = self.ticks.read();
                    trips.push(at - last);
                    last = at;
                    self.check(seen)?;
                    self.next += 1;
                }
                let mut histogram = histogram();
                for trip in trips {
                    histogram.saturating_record((self.ticks.nanoseconds(trip) / 2.0).round() as u64);
                }
                latency = Recorded::of(&histogram);
            }
            Side::Second => {
                for _ in 0..round.count {
                    let seen = self.end.receive()?;
                    self.end.send(self.next)?;
                    self.check(seen)?;
                    self.next += 1;
                }
            }
        }
        Ok(Findings { began, ended: now(), latency, ..Findings::default() })
    }
}

/// A placeholder for iceoryx2 in a build without it, so that the report shows its absence.
#[cfg(not(feature = "peers"))]
struct NotBuilt;

#[cfg(not(feature = "peers"))]
impl Subject for NotBuilt {
    fn card(&self) -> crate::subject::Card {
        crate::subject::Card {
            name: "iceoryx2",
            about: "iceoryx2, publish-subscribe",
            role: Role::Peer,
            waiting: Waiting::Spinning,
        }
    }

    fn missing(&self) -> Option<String> {
        Some(crate::peers::NOT_BUILT.into())
    }
}

#[cfg(not(feature = "peers"))]
impl Handoff for NotBuilt {
    fn join(&self, _: Side, _: &Place, _: usize) -> Result<Box<dyn End>, Failure> {
        Err(Failure::new(crate::peers::NOT_BUILT))
    }
}
