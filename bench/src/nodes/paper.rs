//! The measurement of the DFlow paper's store: putting an object on one node and getting it on another.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::failure::Failure;
use crate::latency::{Repeat, Summary, histogram, write_log};
use crate::node::Ran;
use crate::nodes::cluster::Cluster;
use crate::nodes::run;
use crate::report::{Column, Report, Row, Table, Unit};
use crate::settings::Settings;
use crate::subject::{Card, Role, Subject, Waiting};

/// The object sizes in bytes, with the paper's times of put and get in nanoseconds.
const OBJECTS: &[Object] = &[
    Object { name: "100 KB", file: "100kb", bytes: 100_000, put: 0.77e6, get: 0.81e6 },
    Object { name: "1 MB", file: "1mb", bytes: 1_000_000, put: 1.5e6, get: 2.2e6 },
    Object { name: "10 MB", file: "10mb", bytes: 10_000_000, put: 11e6, get: 20e6 },
    Object { name: "100 MB", file: "100mb", bytes: 100_000_000, put: 241e6, get: 328e6 },
];

/// The number of bytes that the producer writes and commits at once. It divides every object size.
const CHUNK: usize = 100_000;

/// The number of objects put and got in a run, one after another, and in quick runs.
const TRANSFERS: [usize; 2] = [8, 2];

const COLUMNS: &[Column] = &[
    Column { key: "put_p50_ns", head: "put", unit: Unit::Time },
    Column { key: "get_p50_ns", head: "get", unit: Unit::Time },
    Column { key: "put_to_got_p50_ns", head: "put→got", unit: Unit::Time },
    Column { key: "put_to_got_max_ns", head: "max", unit: Unit::Time },
    Column { key: "put_to_got_of_paper", head: "/paper", unit: Unit::Ratio },
];

struct Object {
    name: &'static str,
    file: &'static str,
    bytes: usize,
    put: f64,
    get: f64,
}

/// A way to put and get objects.
struct Store {
    name: &'static str,
    about: &'static str,
    /// The consumer's gate; `None` for the paper's own figures, which are not measured here.
    gate: Option<&'static str>,
}

const STORES: &[&Store] = &[
    &Store {
        name: "dflow-nodes",
        about: "from a function on the driving node to functions on other nodes; CPU of all daemons and functions",
        gate: Some("stream"),
    },
    &Store {
        name: "dflow-whole",
        about: "the same with a consumer that starts when the object is complete (gate: whole)",
        gate: Some("whole"),
    },
    &Store { name: "paper", about: "the paper's figures for its own store, on its own hardware", gate: None },
];

impl Subject for Store {
    fn card(&self) -> Card {
        Card {
            name: self.name,
            about: self.about,
            role: if self.gate.is_some() { Role::Ours } else { Role::Peer },
            waiting: Waiting::Sleeping,
        }
    }
}

/// The latencies of one run.
#[derive(Clone)]
struct Times {
    put: Repeat,
    get: Repeat,
    both: Repeat,
}

/// Measures the table.
pub fn measure(settings: &Settings, cluster: &Cluster, report: &mut Report) -> Result<(), Failure> {
    let transfers = TRANSFERS[usize::from(settings.quick)];
    let mut rows = Vec::new();
    for object in OBJECTS {
        let wanted = settings.wanted(STORES);
        let measured: Vec<_> = wanted.iter().copied().filter(|store| store.gate.is_some()).collect();
        let found = settings.in_turns(&format!("put and get of {}", object.name), &measured, |store| {
            transfer(cluster, object, store.gate.unwrap_or_default(), transfers)
        });
        for (store, repeats) in found {
            if let (Ok(repeats), Some(dir)) = (&repeats, &settings.hlog) {
                log(dir, store, object, repeats)?;
            }
            rows.push(Row::new(object.name, store, repeats.map(|repeats| figures(object, &repeats))));
        }
        for store in wanted.into_iter().filter(|store| store.gate.is_none()) {
            let both = object.put + object.get;
            let figures = vec![Some(object.put), Some(object.get), Some(both), None, Some(1.0)];
            rows.push(Row::new(object.name, store, Ok(figures)));
        }
    }
    report.add(Table {
        topic: "nodes",
        title: "putting an object on one node and getting it on another".into(),
        notes: vec![
            "the paper's figures were reported by its authors for other hardware, with a network between machines: \
             they say what order of magnitude to expect, not which is faster"
                .into(),
            "put: from the producer's first write until it has committed everything; get: from the consumer's first \
             instruction until it has read and checked everything; put→got: from the one's first write to the other's \
             last read (paper: the sum)"
                .into(),
            format!(
                "dflow's consumer starts on the first bytes, so that put and get overlap; {transfers} objects in a \
                 run, one after the other"
            ),
        ],
        columns: COLUMNS,
        rows,
    })
}

fn figures(object: &Object, repeats: &[Times]) -> Vec<Option<f64>> {
    let summary = |of: fn(&Times) -> &Repeat| {
        let repeats: Vec<_> = repeats.iter().map(|times| of(times).clone()).collect();
        Summary::of_repeats(&repeats)
    };
    let both = summary(|times| &times.both);
    vec![
        summary(|times| &times.put).map(|put| put.p50),
        summary(|times| &times.get).map(|get| get.p50),
        both.map(|both| both.p50),
        both.map(|both| both.max),
        both.map(|both| both.p50 / (object.put + object.get)),
    ]
}

fn log(dir: &Path, store: &Store, object: &Object, repeats: &[Times]) -> Result<(), Failure> {
    let write = |what, of: fn(&Times) -> &Repeat| {
        let repeats: Vec<_> = repeats.iter().map(|times| of(times).clone()).collect();
        write_log(dir, &format!("nodes-{what}-{}-{}", object.file, store.name), &repeats)
    };
    write("put", |times| &times.put)?;
    write("get", |times| &times.get)?;
    write("put-to-got", |times| &times.both)
}

/// Puts and gets this many objects in one run.
fn transfer(cluster: &Cluster, object: &Object, gate: &str, transfers: usize) -> Result<Times, Failure> {
    let names: Vec<_> = (0..transfers).map(|number| (format!("put-{number}"), format!("get-{number}"))).collect();
    let mut functions = Vec::new();
    for (number, (put, get)) in names.iter().enumerate() {
        // Each transfer begins after the previous one has ended.
        let after = match number.checked_sub(1).and_then(|last| names.get(last)) {
            Some((_, last)) => format!("inputs: {{ after: {{ from: {last}.times, gate: whole }} }}, "),
            None => String::new(),
        };
        let params = |does| format!("params: {{ does: {does}, bytes: \"{}\", chunk: \"{CHUNK}\" }}", object.bytes);
        functions.push((put.as_str(), format!("{after}outputs: [data, times], {}", params("write"))));
        let data = format!("inputs: {{ data: {{ from: {put}.data, gate: {gate} }} }}");
        functions.push((get.as_str(), format!("{data}, outputs: [times], {}", params("read"))));
    }
    let outputs: Vec<_> = functions.iter().map(|(name, _)| format!("{name}.times")).collect();
    let placement: BTreeMap<_, _> = names.iter().map(|(_, get)| (get.clone(), 0)).collect();
    let began = SystemTime::now();
    let ran = run(cluster, 1, &functions, &outputs, &placement)?;
    let took = began.elapsed().unwrap_or_default();
    times(&ran, &names, began, took)
}

fn times(ran: &Ran, names: &[(String, String)], began: SystemTime, took: Duration) -> Result<Times, Failure> {
    let (mut puts, mut gets, mut both) = (histogram(), histogram(), histogram());
    for (put, get) in names {
        let (written_from, written) = (ran.time(put, 0)?, ran.time(put, 1)?);
        let (read, read_from) = (ran.time(get, 0)?, ran.time(get, 1)?);
        puts.saturating_record(written.saturating_sub(written_from));
        gets.saturating_record(read.saturating_sub(read_from));
        both.saturating_record(read.saturating_sub(written_from));
    }
    let repeat = |histogram| Repeat { began, took, histogram };
    Ok(Times { put: repeat(puts), get: repeat(gets), both: repeat(both) })
}
