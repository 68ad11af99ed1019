//! Topic `runs`: what a run costs that does nothing, as its user sees it: from the start of the process that drives it to
//! that process's end, on one node and over workers that serve already; and many such runs at once.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::failure::{Failure, Trying};
use crate::latency::{histogram, median};
use crate::node::{self, Run};
use crate::nodes::Cluster;
use crate::ours::Ours;
use crate::report::{Column, Report, Row, Table, Unit};
use crate::settings::Settings;
use crate::subject::{Card, Role, Subject, Waiting};

/// The numbers of worker nodes beside the node that drives the run.
const WORKERS: &[usize] = &[0, 1, 2];
/// The numbers of runs at once, and in quick runs.
const AT_ONCE: [&[u32]; 2] = [&[1, 20, 200], &[1, 20]];

const COLUMNS: &[Column] = &[
    Column::P50,
    Column::P90,
    Column::MAX,
    Column { key: "first_ready_p50_ns", head: "ready", unit: Unit::Time },
    Column { key: "p50_over_limit", head: "p50/limit", unit: Unit::Ratio },
];

const MANY_COLUMNS: &[Column] = &[Column { key: "runs_per_second", head: "runs", unit: Unit::Rate }];

/// dflow.
static RUNS: Ours = Ours {
    name: "dflow-run",
    about: "a run of one function that does nothing, by a process that begins with it and ends with it",
    waiting: Waiting::Sleeping,
};

/// The limit: two programs, one after the other, as the driver and the function of a run are two.
struct TwoPrograms;

/// A run that is over.
#[derive(Clone, Copy)]
struct Over {
    took: u64,
    /// From the begin of the run until the program of its function was ready.
    ready: Option<u64>,
}

trait Empty: Subject {
    /// One run over this many workers.
    fn run(&self, cluster: &Cluster, workers: usize) -> Result<Over, Failure>;
}

const ALL: &[&dyn Empty] = &[&TwoPrograms, &RUNS];

/// Many at once on one node.
trait Many: Subject {
    fn run_many(&self, cluster: &Cluster, count: u32) -> Result<(), Failure>;
}

const MANY: &[&dyn Many] = &[&TwoPrograms, &RUNS, &ONE_NODE];

/// dflow, all runs in one process.
static ONE_NODE: OneNode = OneNode;

struct OneNode;

impl Subject for OneNode {
    fn card(&self) -> Card {
        Card {
            name: "dflow-one-node",
            about: "all runs driven by one process, on one node with one budget, one launcher and the slots of the cores",
            role: Role::Ours,
            waiting: Waiting::Sleeping,
        }
    }

    fn missing(&self) -> Option<String> {
        node::missing()
    }
}

impl Many for OneNode {
    fn run_many(&self, _: &Cluster, count: u32) -> Result<(), Failure> {
        let functions = nothing();
        let slots = u32::try_from(dflow_worker::cores()).unwrap_or(1);
        Run { functions: &functions, outputs: &[], slots, memory: None }.run_copies(count, None).map(|_| ())
    }
}

impl Many for TwoPrograms {
    fn run_many(&self, cluster: &Cluster, count: u32) -> Result<(), Failure> {
        side_by_side(self, cluster, count)
    }
}

impl Many for Ours {
    fn run_many(&self, cluster: &Cluster, count: u32) -> Result<(), Failure> {
        side_by_side(self, cluster, count)
    }
}

/// A thread for each.
fn side_by_side(subject: &dyn Empty, cluster: &Cluster, count: u32) -> Result<(), Failure> {
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..count).map(|_| scope.spawn(|| subject.run(cluster, 1))).collect();
        let gone = |_| Err(Failure::new("a run has panicked"));
        all.into_iter().try_for_each(|run| run.join().unwrap_or_else(gone).map(|_| ()))
    })
}

fn nothing() -> [(&'static str, String); 1] {
    [("nothing", "params: { does: nothing }".to_owned())]
}

impl Subject for TwoPrograms {
    fn card(&self) -> Card {
        Card {
            name: "two-programs",
            about: "posix_spawn and wait of the function's program, twice one after the other",
            role: Role::Limit,
            waiting: Waiting::Sleeping,
        }
    }

    fn missing(&self) -> Option<String> {
        node::missing()
    }
}

impl Empty for TwoPrograms {
    fn run(&self, _: &Cluster, _: usize) -> Result<Over, Failure> {
        let began = Instant::now();
        for _ in 0..2 {
            let mut command = Command::new(node::function()?);
            command.arg("first-instruction").stdin(Stdio::null()).stdout(Stdio::null());
            command.status().trying("run a program")?;
        }
        Ok(Over { took: elapsed(began), ready: None })
    }
}

impl Empty for Ours {
    fn run(&self, cluster: &Cluster, workers: usize) -> Result<Over, Failure> {
        // With workers, the function is on the last one.
        let placement = BTreeMap::from([("nothing".to_owned(), workers.saturating_sub(1))]);
        let others = (workers > 0).then(|| cluster.others(workers, &placement));
        let functions = nothing();
        let run = Run { functions: &functions, outputs: &[], slots: 1, memory: None };
        let began = Instant::now();
        let ran = run.run_with(others.as_ref())?;
        let took = elapsed(began);
        Ok(Over { took, ready: ran.report.instances.first().and_then(|attempt| attempt.ready_ns) })
    }
}

fn elapsed(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Measures the topic.
pub fn measure(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let cluster = Cluster::start(WORKERS.iter().copied().max().unwrap_or(0))?;
    let mut rows = Vec::new();
    for workers in WORKERS.iter().copied() {
        let case = match workers {
            0 => "one node".to_owned(),
            1 => "one worker".to_owned(),
            _ => format!("{workers} workers"),
        };
        let found = settings.in_turns(&format!("runs, {case}"), &settings.wanted(ALL), |subject| {
            repeat(settings, || subject.run(&cluster, workers))
        });
        let p50 = |repeats: &Vec<Vec<Over>>| figures(repeats)[0];
        let limit = found.iter().find(|(subject, _)| subject.card().role == Role::Limit);
        let limit = limit.and_then(|(_, repeats)| p50(repeats.as_ref().ok()?));
        for (subject, repeats) in &found {
            let figures = repeats.as_ref().map_err(Failure::clone).map(|repeats| {
                let mut figures = figures(repeats);
                figures.push(figures[0].zip(limit).map(|(p50, limit)| p50 / limit));
                figures
            });
            rows.push(Row::new(&case, *subject, figures));
        }
    }
    report.add(Table {
        topic: "runs",
        title: "a run that does nothing, from the start of its process to the end".into(),
        notes: vec![
            "the process drives the run, so it brings its own store and launcher; the workers serve already, and their \
             connection with each other is there from the first run on"
                .into(),
            "ready: from the begin of the run in that process until the program of its function is ready".into(),
        ],
        columns: COLUMNS,
        rows,
    })?;
    measure_many(settings, report, &cluster)
}

/// Repeats something for the time of one repeat, at least five times.
fn repeat(settings: &Settings, mut run: impl FnMut() -> Result<Over, Failure>) -> Result<Vec<Over>, Failure> {
    run()?;
    let began = Instant::now();
    let mut all = Vec::new();
    while all.len() < 5 || began.elapsed() < settings.budget {
        all.push(run()?);
    }
    Ok(all)
}

/// Of all columns but the last: the median over the repeats of each percentile.
fn figures(repeats: &[Vec<Over>]) -> Vec<Option<f64>> {
    let over = |quantile: f64| {
        let of = |runs: &Vec<Over>| {
            let mut histogram = histogram();
            runs.iter().for_each(|over| histogram.saturating_record(over.took));
            histogram.value_at_quantile(quantile) as f64
        };
        median(repeats.iter().map(of).collect())
    };
    let ready = repeats.iter().flatten().filter_map(|over| over.ready.map(|ready| ready as f64)).collect();
    vec![over(0.5), over(0.9), over(1.0), median(ready)]
}

/// So many runs at once on one worker: how many a second.
fn measure_many(settings: &Settings, report: &mut Report, cluster: &Cluster) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for at_once in AT_ONCE[usize::from(settings.quick)].iter().copied() {
        let case = format!("{at_once} at once");
        let found = settings.in_turns(&format!("runs, {case}"), &settings.wanted(MANY), |subject| {
            let began = Instant::now();
            subject.run_many(cluster, at_once)?;
            Ok(f64::from(at_once) / began.elapsed().as_secs_f64())
        });
        for (subject, repeats) in found {
            rows.push(Row::new(&case, subject, repeats.map(|repeats| vec![median(repeats)])));
        }
    }
    report.add(Table {
        topic: "runs",
        title: "runs that do nothing at the same time, on one node".into(),
        notes: vec![
            "dflow-run: each is driven by a process of its own, and its function runs on one worker, whose budget, launcher \
             and slots all share; dflow-one-node: the start of that one process counts as well"
                .into(),
            "two programs stand beside each run, without anything else".into(),
        ],
        columns: MANY_COLUMNS,
        rows,
    })
}
