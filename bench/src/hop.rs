//! Topic `hop`: a chain of small functions. Each hop is the time from just before one function commits its output until the
//! first instruction of the next one, on one node, and alternating between two.

use std::collections::BTreeMap;
use std::time::SystemTime;

use dflow_worker::report::CoordinationReport;

use crate::failure::Failure;
use crate::invoke;
use crate::latency::{Repeat, Summary, histogram, median, write_log};
use crate::node::{self, Run};
use crate::nodes::Cluster;
use crate::ours::Ours;
use crate::quic::{self, net::Net};
use crate::report::{Column, Report, Row, Table, Unit};
use crate::settings::Settings;
use crate::subject::{Card, Role, Subject, Waiting};

/// The functions of a chain.
const FUNCTIONS: usize = 20;
/// How long the first function waits, so that programs are ready.
const BEFORE_FIRST_US: u32 = 100_000;
/// Ready programs whose wake-up is measured, a repeat.
const STARTS: u32 = 50;

const COLUMNS: &[Column] = &[
    Column::P50,
    Column::P90,
    Column::P99,
    Column::MAX,
    Column { key: "p50_over_parts", head: "p50/parts", unit: Unit::Ratio },
];

/// The nodes of a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nodes {
    One,
    Two,
}

/// A part of a hop, or a hop.
trait Hop: Subject {
    fn measure(&self, settings: &Settings, cluster: &Cluster, nodes: Nodes) -> Result<Repeat, Failure>;
}

/// The wake-up of a ready function.
struct Wake;

/// A round trip between two nodes.
struct RoundTrip;

/// A chain of functions that link the SDK.
static HOP: Ours = Ours {
    name: "dflow-hop",
    about: "from the commit of one function until the first instruction of the next one, which is a process of its own",
    waiting: Waiting::Sleeping,
};

impl Subject for Wake {
    fn card(&self) -> Card {
        Card {
            name: "dflow-ready",
            about: "part of a hop: a ready function, from the opening of its gate to its user code",
            role: Role::Limit,
            waiting: Waiting::Sleeping,
        }
    }

    fn missing(&self) -> Option<String> {
        node::missing()
    }
}

impl Hop for Wake {
    fn measure(&self, _: &Settings, _: &Cluster, _: Nodes) -> Result<Repeat, Failure> {
        invoke::ready_starts(STARTS)
    }
}

impl Subject for RoundTrip {
    fn card(&self) -> Card {
        Card {
            name: "quinn-round-trip",
            about: "part of a hop between nodes: 64 B there and back over bare quinn",
            role: Role::Limit,
            waiting: Waiting::Sleeping,
        }
    }
}

impl Hop for RoundTrip {
    fn measure(&self, settings: &Settings, _: &Cluster, _: Nodes) -> Result<Repeat, Failure> {
        quic::bare_round_trips(settings, &Net::Loopback)
    }
}

impl Hop for Ours {
    fn measure(&self, settings: &Settings, cluster: &Cluster, nodes: Nodes) -> Result<Repeat, Failure> {
        let name = |index: usize| format!("f{index:02}");
        let function = |index: usize| {
            let input = match index {
                0 => String::new(),
                _ => format!("inputs: {{ times: {}.times }}, ", name(index - 1)),
            };
            let rest = if index == 0 { BEFORE_FIRST_US } else { 0 };
            format!("{input}outputs: [times], params: {{ does: hop, rest_us: \"{rest}\" }}")
        };
        let names: Vec<String> = (0..FUNCTIONS).map(name).collect();
        let functions: Vec<(&str, String)> =
            names.iter().enumerate().map(|(index, name)| (name.as_str(), function(index))).collect();
        let output = format!("{}.times", name(FUNCTIONS - 1));
        let placement: BTreeMap<String, usize> =
            names.iter().enumerate().map(|(index, name)| (name.clone(), index % 2)).collect();
        let others = (nodes == Nodes::Two).then(|| cluster.others(2, &placement));
        let slots = u32::try_from(dflow_worker::cores()).unwrap_or(1);
        let run = Run { functions: &functions, outputs: &[&output], slots, memory: None };
        let (began, mut histogram) = (SystemTime::now(), histogram());
        while began.elapsed().unwrap_or_default() < settings.budget || histogram.is_empty() {
            let ran = run.run_with(others.as_ref())?;
            let told = ran.outputs.get(&name(FUNCTIONS - 1)).map_or(&[][..], Vec::as_slice).as_chunks().0;
            for pair in told.windows(2) {
                let ([_, committed], [began, _]) = (pair[0], pair[1]);
                histogram.saturating_record(began.saturating_sub(committed));
            }
        }
        Ok(Repeat { began, took: began.elapsed().unwrap_or_default(), histogram })
    }
}

/// Instances that do nothing, spread over nodes.
static SPREAD: Ours = Ours {
    name: "dflow-spread",
    about: "a foreach over complete parts, whose instances are spread over nodes that decide by themselves when they start",
    waiting: Waiting::Sleeping,
};

const SPREAD_COLUMNS: &[Column] = &[
    Column { key: "instances_per_second", head: "instances", unit: Unit::Rate },
    Column { key: "facts_per_instance", head: "facts", unit: Unit::Ratio },
    Column { key: "messages_per_instance", head: "messages", unit: Unit::Ratio },
    Column { key: "bytes_per_instance", head: "bytes", unit: Unit::Ratio },
];

/// Spreads instances over so many workers; with none, they run where the run is driven. How many a second, and what the
/// coordinator heard of each.
fn spread(settings: &Settings, cluster: &Cluster, workers: usize) -> Result<Vec<Option<f64>>, Failure> {
    let count = if settings.quick { 300 } else { 3000 };
    let open = format!("outputs: {{ parts: {{ partition: {count} }} }}, params: {{ does: open }}");
    let nothing = "foreach: open.parts, params: { does: nothing }".to_owned();
    let functions = [("open", open), ("start", nothing)];
    let slots = u32::try_from(dflow_worker::cores()).unwrap_or(1);
    let others = (workers > 0).then(|| {
        let mut others = cluster.others(workers, &BTreeMap::new());
        let nodes = others.nodes.iter().map(|(name, _)| name.clone()).collect();
        others.placement.insert("start".to_owned(), nodes);
        others
    });
    let report = Run { functions: &functions, outputs: &[], slots, memory: None }.run_with(others.as_ref())?.report;
    let began = report.attempts_of("start").map(|attempt| attempt.prepared_ns).min().unwrap_or(0);
    let ended = report.attempts_of("start").filter_map(|attempt| attempt.ended_ns).max().unwrap_or(0);
    let per_second = f64::from(count) * 1e9 / ended.saturating_sub(began).max(1) as f64;
    let told = |of: fn(CoordinationReport) -> u64| report.coordination.map(|it| of(it) as f64 / f64::from(count));
    Ok(vec![Some(per_second), told(|it| it.facts), told(|it| it.messages), told(|it| it.bytes)])
}

fn measure_spread(settings: &Settings, cluster: &Cluster, report: &mut Report) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for (workers, case) in [(0, "the driver's node"), (1, "one other node"), (2, "two other nodes")] {
        let found = settings.in_turns(case, &settings.wanted(&[&SPREAD]), |_| spread(settings, cluster, workers));
        for (subject, repeats) in found {
            let figures = repeats.map(|repeats| {
                (0..SPREAD_COLUMNS.len()).map(|at| median(repeats.iter().filter_map(|one| one[at]).collect())).collect()
            });
            rows.push(Row::new(case, subject, figures));
        }
    }
    report.add(Table {
        topic: "hop",
        title: "instances that do nothing, spread over nodes, and what the coordinator hears of each".into(),
        notes: vec![
            "all nodes share the cores of this machine, so more nodes cannot start more a second".into(),
            "facts, messages, bytes: from the other nodes to the coordinator, per instance; no start waits for them"
                .into(),
        ],
        columns: SPREAD_COLUMNS,
        rows,
    })
}

/// Measures the topic.
pub fn measure(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let cluster = Cluster::start(2)?;
    let mut rows = Vec::new();
    for (nodes, case) in [(Nodes::One, "one node"), (Nodes::Two, "two nodes")] {
        let all: &[&dyn Hop] = match nodes {
            Nodes::One => &[&Wake, &HOP],
            Nodes::Two => &[&Wake, &RoundTrip, &HOP],
        };
        let found = settings.in_turns(&format!("hops, {case}"), &settings.wanted(all), |subject| {
            subject.measure(settings, &cluster, nodes)
        });
        let summary = |repeats: &Result<Vec<Repeat>, Failure>| Summary::of_repeats(repeats.as_ref().ok()?);
        let parts = found.iter().filter(|(subject, _)| subject.card().role == Role::Limit);
        let parts: f64 = parts.filter_map(|(_, repeats)| Some(summary(repeats)?.p50)).sum();
        for (subject, repeats) in &found {
            if let (Ok(repeats), Some(dir)) = (repeats, &settings.hlog) {
                write_log(dir, &format!("hop-{}-{}", case.replace(' ', "-"), subject.card().name), repeats)?;
            }
            let is_whole = subject.card().role == Role::Ours && parts > 0.0;
            let figures = repeats.as_ref().map_err(Failure::clone).map(|repeats| {
                Summary::of_repeats(repeats).map_or_else(Vec::new, |it| {
                    let over = is_whole.then(|| it.p50 / parts);
                    vec![Some(it.p50), Some(it.p90), Some(it.p99), Some(it.max), over]
                })
            });
            rows.push(Row::new(case, *subject, figures));
        }
    }
    report.add(Table {
        topic: "hop",
        title: format!("a chain of {FUNCTIONS} small functions, each hop"),
        notes: vec![
            "from just before a function commits 16 bytes and more until the first instruction of the next function; two \
             nodes: the functions are on them in turn, and a third node drives the run"
                .into(),
            format!(
                "as many slots as cores on each node, so few programs are ready ahead; the first function waits {} ms",
                BEFORE_FIRST_US / 1000
            ),
            "p50/parts: relative to the sum of the medians of its parts".into(),
        ],
        columns: COLUMNS,
        rows,
    })?;
    measure_spread(settings, &cluster, report)
}
