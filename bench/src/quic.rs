//! Topic `quic`: streams, round trips and set-up between two nodes without RDMA.
//!
//! Two processes communicate over loopback and, given the permission to create them, across two network namespaces
//! joined by a veth pair. The limit is bare quinn with the same tuning, because dflow encrypts every byte with it.

mod bare;
pub mod bulk;
mod handed;
pub mod iperf;
mod linked;
pub mod net;
mod ours;
mod pipe;
mod redis;
pub mod rendezvous;
mod tcp;
mod transfer;

use std::time::SystemTime;

use crate::failure::Failure;
use crate::latency::{Repeat, Summary, histogram, write_log};
use crate::memory::PAGE;
use crate::process::{Actors, Round};
use crate::quic::bulk::Bulk;
use crate::quic::net::Net;
use crate::quic::rendezvous::RendezvousKeeper;
use crate::report::{Column, LATENCY_COLUMNS, Report, Row, Table, Unit, latency_figures, size};
use crate::settings::Settings;
use crate::subject::{Role, Side, Subject};

pub use bare::TUNED;
pub use iperf::Iperf;
pub use transfer::{MESSAGE, QuicTask, Transfer};
use transfer::{PART, Work};

/// The default length of a stream in bytes, and in quick runs.
const LENGTH: [usize; 2] = [512 << 20, 64 << 20];

/// Minimum and maximum number of round trips or set-ups in a repeat.
const STEPS: (u64, u64) = (20, 50_000);

/// The columns for long streams; the figures come from [`bulk_figures`].
pub const BULK_COLUMNS: &[Column] = &[
    Column { key: "bytes_per_second", head: "bytes", unit: Unit::Bandwidth },
    Column { key: "of_limit", head: "/limit", unit: Unit::Ratio },
    Column { key: "cpu_ns_per_gib", head: "CPU/GiB", unit: Unit::Time },
    Column { key: "cpu_over_limit", head: "CPU/limit", unit: Unit::Ratio },
];

/// All subjects. A new subject is one more line here.
fn subjects() -> Vec<&'static dyn Transfer> {
    vec![
        &bare::TUNED,
        &bare::HANDED,
        &ours::WINDOW,
        &ours::MESSAGES,
        &bare::DEFAULTS,
        &tcp::Tcp,
        &iperf::Iperf,
        &redis::Redis,
    ]
}

/// Measures the topic.
pub fn measure(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let (nets, notes) = nets(settings);
    measure_streams(settings, &nets, &notes, report)?;
    let trips = "closed loop: the next one begins when the previous one has ended; no process is pinned, and waiting \
        processes sleep"
        .to_owned();
    report.add(Table {
        topic: "quic",
        title: format!("round trip of {}", size(PART)),
        notes: [vec![trips], notes.clone()].concat(),
        columns: LATENCY_COLUMNS,
        rows: measure_steps(settings, &nets, Work::RoundTrip)?,
    })?;
    let mut rows = measure_steps(settings, &nets, Work::Connection)?;
    rows.extend(measure_steps(settings, &nets, Work::Open)?);
    report.add(Table {
        topic: "quic",
        title: "set-up".into(),
        notes: [
            vec![
                "a connection: until the other side has answered on it, so that each side has accepted the other's \
                 certificate (TCP has none)"
                    .into(),
                format!(
                    "a stream: from the reader's request until its first {} have arrived, on an open connection",
                    size(PART)
                ),
            ],
            notes,
        ]
        .concat(),
        columns: LATENCY_COLUMNS,
        rows,
    })
}

/// The available networks, and why others are not available.
fn nets(settings: &Settings) -> (Vec<Net>, Vec<String>) {
    let mut nets = vec![Net::Loopback];
    let mut notes = Vec::new();
    let caps = [Some(None), settings.cap.as_deref().map(Some)];
    for cap in caps.into_iter().flatten() {
        match Net::veth(cap) {
            Ok(net) => nets.push(net),
            Err(failure) => {
                let rate = cap.map_or_else(String::new, |cap| format!(" at {cap}"));
                notes.push(format!("not measured across network namespaces{rate}, which requires root: {failure}"));
            }
        }
    }
    (nets, notes)
}

fn measure_streams(settings: &Settings, nets: &[Net], notes: &[String], report: &mut Report) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for length in settings.sizes_or(&[LENGTH[usize::from(settings.quick)]]) {
        for net in nets {
            let case = format!("{}, {net}", size(length));
            let wanted = wanted(settings, Work::Stream);
            let found =
                settings.in_turns(&format!("stream of {case}"), &wanted, |subject| subject.stream(net, length as u64));
            rows.extend(bulk_rows(&case, found));
        }
    }
    let both =
        "one process writes and the other reads and checks every word, except for iperf3; the first part of the \
                stream is sent before the measurement; CPU: of both processes, and of the server if there is one"
            .to_owned();
    report.add(Table {
        topic: "quic",
        title: "one stream from process to process, over a network".into(),
        notes: [vec![both], notes.to_vec()].concat(),
        columns: BULK_COLUMNS,
        rows,
    })
}

/// The rows of a case of long streams.
pub fn bulk_rows<S: Subject + ?Sized>(case: &str, found: Vec<(&S, Result<Vec<Bulk>, Failure>)>) -> Vec<Row> {
    let median = |(subject, repeats): (_, Result<Vec<Bulk>, Failure>)| {
        let none = || Failure::new("it was not measured");
        (subject, repeats.and_then(|repeats| Bulk::median(&repeats).ok_or_else(none)))
    };
    let found: Vec<(&S, _)> = found.into_iter().map(median).collect();
    let limit = found.iter().find(|(subject, _)| subject.card().role == Role::Limit);
    let limit = limit.and_then(|(_, bulk)| bulk.as_ref().ok().copied());
    found
        .into_iter()
        .map(|(subject, bulk)| Row::new(case, subject, bulk.map(|bulk| bulk_figures(bulk, limit))))
        .collect()
}

/// The figures of [`BULK_COLUMNS`].
pub fn bulk_figures(bulk: Bulk, limit: Option<Bulk>) -> Vec<Option<f64>> {
    vec![
        Some(bulk.rate()),
        limit.map(|limit| bulk.rate() / limit.rate()),
        Some(bulk.cpu_of_gib()),
        limit.map(|limit| bulk.cpu_of_gib() / limit.cpu_of_gib()),
    ]
}

fn measure_steps(settings: &Settings, nets: &[Net], work: Work) -> Result<Vec<Row>, Failure> {
    let (what, file) = match work {
        Work::Stream => ("a long stream", "stream"),
        Work::RoundTrip => ("a round trip", "trip"),
        Work::Connection => ("a connection", "connection"),
        Work::Open => ("a stream", "open"),
    };
    let wanted = wanted(settings, work);
    let mut rows = Vec::new();
    for net in nets {
        let case = format!("{what}, {net}");
        let found = settings.in_turns(&case, &wanted, |subject| steps(settings, subject, work, net));
        let limit = found.iter().find(|(subject, _)| subject.card().role == Role::Limit);
        let limit = limit.and_then(|(_, repeats)| Summary::of_repeats(repeats.as_ref().ok()?));
        for (subject, repeats) in &found {
            let repeats = repeats.as_ref().map_err(Failure::clone);
            if let (Ok(repeats), Some(dir)) = (&repeats, &settings.hlog) {
                write_log(dir, &format!("quic-{file}-{}-{}", net.name(), subject.card().name), repeats)?;
            }
            let figures = repeats.map(|repeats| {
                Summary::of_repeats(repeats).map_or_else(Vec::new, |summary| latency_figures(summary, limit))
            });
            rows.push(Row::new(&case, *subject, figures));
        }
    }
    Ok(rows)
}

/// One repeat of round trips of [`PART`] bytes over bare quinn.
pub fn bare_round_trips(settings: &Settings, net: &Net) -> Result<Repeat, Failure> {
    steps(settings, &TUNED, Work::RoundTrip, net)
}

fn wanted(settings: &Settings, work: Work) -> Vec<&'static dyn Transfer> {
    settings.wanted(&subjects()).into_iter().filter(|subject| subject.does(work)).collect()
}

/// One repeat of a measurement of single steps.
fn steps(settings: &Settings, subject: &dyn Transfer, work: Work, net: &Net) -> Result<Repeat, Failure> {
    let keeper = RendezvousKeeper::new(net, PAGE)?;
    let task = |side| {
        let rendezvous = keeper.rendezvous().clone();
        (QuicTask { subject: subject.card().name.into(), work, side, rendezvous }, None)
    };
    let mut actors = Actors::start(vec![task(Side::First), task(Side::Second)])?;
    let count = actors.calibrate(settings.budget, STEPS)?;
    let began = SystemTime::now();
    let findings = actors.round(Round { count, interval: 0 })?;
    let mut histogram = histogram();
    findings[0].latency.add_to(&mut histogram);
    Ok(Repeat { began, took: began.elapsed().unwrap_or_default(), histogram })
}
