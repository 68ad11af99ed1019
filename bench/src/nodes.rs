//! Topic `nodes`: streams between functions on different nodes, with real daemons. Each node has a daemon in a process
//! of its own, one of which drives the run. Functions are processes, and the nodes are connected over loopback.

mod cluster;
mod paper;

use std::collections::BTreeMap;

use crate::failure::Failure;
use crate::memory::PAGE;
use crate::node::{self, Ran, Run};
use crate::ours::Ours;
use crate::quic::bulk::{self, Bulk};
use crate::quic::net::Net;
use crate::quic::rendezvous::RendezvousKeeper;
use crate::quic::{BULK_COLUMNS, Iperf, MESSAGE, TUNED, Transfer, bulk_figures};
use crate::report::{Column, Report, Row, Table, Unit, size};
use crate::settings::Settings;
use crate::subject::{Card, Role, Subject, Waiting};
pub use cluster::{Cluster, WorkerOptions, serve};

/// The default length of a stream in bytes, and in quick runs.
const LENGTH: [usize; 2] = [512 << 20, 64 << 20];

/// The number of bytes that functions write and commit at once.
const CHUNK: usize = 64 << 10;

/// The numbers of nodes that read a stream.
const READERS: &[usize] = &[1, 4];

const COLUMNS: &[Column] = &[
    BULK_COLUMNS[0],
    BULK_COLUMNS[1],
    BULK_COLUMNS[2],
    BULK_COLUMNS[3],
    Column { key: "sent_by_producer_of_stream", head: "sent", unit: Unit::Ratio },
];

/// dflow, from function to function.
static FUNCTIONS: Ours = Ours {
    name: "dflow-nodes",
    about: "from a function on the driving node to functions on other nodes; CPU of all daemons and functions",
    waiting: Waiting::Sleeping,
};

/// The result of sending a stream to one or several nodes.
struct Crossed {
    /// Bytes that each reader has read; the processor time is divided by the number of readers.
    bulk: Bulk,
    /// How often the producer's node has sent the stream; not known for every subject.
    sent: Option<f64>,
}

/// A way to send a stream to several nodes.
trait Crossing: Subject {
    /// Whether this many readers are supported.
    fn reaches(&self, readers: usize) -> bool;

    /// Sends a stream of `bytes` to this many readers at once.
    fn cross(&self, cluster: &Cluster, readers: usize, bytes: u64) -> Result<Crossed, Failure>;
}

/// All subjects. A new subject is one more line here.
const CROSSINGS: &[&dyn Crossing] = &[&Bare, &FUNCTIONS, &OneIperf];

/// Measures the topic.
pub fn measure(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let cluster = Cluster::start(READERS.iter().copied().max().unwrap_or(1))?;
    let mut rows = Vec::new();
    for length in settings.sizes_or(&[LENGTH[usize::from(settings.quick)]]) {
        // A multiple of the chunk size, so that readers can check whole chunks.
        let length = length.next_multiple_of(CHUNK);
        for readers in READERS.iter().copied() {
            let case = match readers {
                1 => format!("{} to another node", size(length)),
                _ => format!("{} to {readers} nodes", size(length)),
            };
            let all = settings.wanted(CROSSINGS);
            let wanted: Vec<_> = all.into_iter().filter(|subject| subject.reaches(readers)).collect();
            let found = settings.in_turns(&case, &wanted, |subject| subject.cross(&cluster, readers, length as u64));
            rows.extend(crossing_rows(&case, found));
        }
    }
    report.add(Table {
        topic: "nodes",
        title: "one stream between functions on different nodes".into(),
        notes: vec![
            "from the producer's first byte until the last reader has read and checked the last one; a separate run \
             each time, so connections, windows and their pages are new; without RDMA"
                .into(),
            "bytes: received by each reader per second; CPU/GiB: of all nodes and functions, per GiB received by a \
             reader; sent: bytes sent by the producer's node, relative to the length of the stream"
                .into(),
            "all nodes share the cores of this machine, so each additional reader adds its work to the same \
             cores"
                .into(),
        ],
        columns: COLUMNS,
        rows,
    })?;
    paper::measure(settings, &cluster, report)
}

/// All repeats of a subject.
type Found<'a> = (&'a dyn Crossing, Result<Vec<Crossed>, Failure>);

fn crossing_rows(case: &str, found: Vec<Found<'_>>) -> Vec<Row> {
    let median = |repeats: Vec<Crossed>| {
        let bulks: Vec<_> = repeats.iter().map(|crossed| crossed.bulk).collect();
        let bulk = Bulk::median(&bulks).ok_or_else(|| Failure::new("not measured"))?;
        Ok(Crossed { bulk, sent: repeats.last().and_then(|crossed| crossed.sent) })
    };
    let found: Vec<_> = found.into_iter().map(|(subject, repeats)| (subject, repeats.and_then(median))).collect();
    let limit = found.iter().find(|(subject, _)| subject.card().role == Role::Limit);
    let limit = limit.and_then(|(_, crossed)| Some(crossed.as_ref().ok()?.bulk));
    let figures = |crossed: Crossed| {
        let mut figures = bulk_figures(crossed.bulk, limit);
        figures.push(crossed.sent);
        figures
    };
    found.into_iter().map(|(subject, crossed)| Row::new(case, subject, crossed.map(figures))).collect()
}

impl Crossing for Ours {
    fn reaches(&self, _: usize) -> bool {
        true
    }

    fn cross(&self, cluster: &Cluster, readers: usize, bytes: u64) -> Result<Crossed, Failure> {
        let name = |reader: usize| format!("read-{reader}");
        let names: Vec<_> = (0..readers).map(name).collect();
        let write =
            format!("outputs: [data, times], params: {{ does: write, bytes: \"{bytes}\", chunk: \"{CHUNK}\" }}");
        let read =
            format!("inputs: {{ data: write.data }}, outputs: [times], params: {{ does: read, chunk: \"{CHUNK}\" }}");
        let mut functions = vec![("write", write)];
        functions.extend(names.iter().map(|name| (name.as_str(), read.clone())));
        let outputs: Vec<_> = functions.iter().map(|(name, _)| format!("{name}.times")).collect();
        let placement = names.iter().cloned().zip(0..).collect();
        let before = cluster.processor_time()?;
        let ran = run(cluster, readers, &functions, &outputs, &placement)?;
        let workers = cluster.processor_time()?.saturating_sub(before);
        let functions: u64 = ran.report.instances.iter().map(|attempt| attempt.user_ns + attempt.system_ns).sum();
        let mut ended = 0;
        for name in &names {
            ended = ended.max(ran.time(name, 0)?);
        }
        let took = ended.saturating_sub(ran.time("write", 0)?) as f64;
        let cpu = (workers + ran.cpu + functions) as f64 / readers as f64;
        // The producer is on the driving node, which reports its own links.
        let own = ran.report.links.iter().filter(|link| link.from == cluster::DRIVER);
        let sent: u64 = own.map(|link| link.bytes_sent).sum();
        Ok(Crossed { bulk: Bulk { bytes, took, cpu }, sent: Some(sent as f64 / bytes as f64) })
    }
}

/// Runs functions on the driving node and the first `count` others.
fn run(
    cluster: &Cluster,
    count: usize,
    functions: &[(&str, String)],
    outputs: &[String],
    placement: &BTreeMap<String, usize>,
) -> Result<Ran, Failure> {
    if let Some(reason) = node::missing() {
        return Err(Failure::new(reason));
    }
    let outputs: Vec<_> = outputs.iter().map(String::as_str).collect();
    // Enough slots that no function waits for one.
    let slots = u32::try_from(functions.len()).unwrap_or(u32::MAX);
    let ran =
        Run { functions, outputs: &outputs, slots, memory: None }.run_with(Some(&cluster.others(count, placement)))?;
    if ran.report.memory.spilled_bytes > 0 {
        return Err(Failure::new(format!("{} bytes were spilled to disk", ran.report.memory.spilled_bytes)));
    }
    Ok(ran)
}

/// Bare quinn: a pair of processes for each reader.
struct Bare;

impl Subject for Bare {
    fn card(&self) -> Card {
        Card {
            name: TUNED.card().name,
            about: "bare quinn with dflow's tuning between two processes; for several nodes, as many pairs at once",
            role: Role::Limit,
            waiting: Waiting::Sleeping,
        }
    }
}

impl Crossing for Bare {
    fn reaches(&self, _: usize) -> bool {
        true
    }

    fn cross(&self, _: &Cluster, readers: usize, bytes: u64) -> Result<Crossed, Failure> {
        let rendezvous: Vec<_> =
            (0..readers).map(|_| RendezvousKeeper::new(&Net::Loopback, PAGE)).collect::<Result<_, _>>()?;
        let rendezvous: Vec<_> = rendezvous.iter().map(RendezvousKeeper::rendezvous).collect();
        let bulk = bulk::carry_between(self.card().name, MESSAGE, &rendezvous, bytes)?;
        Ok(Crossed { bulk: Bulk { cpu: bulk.cpu / readers as f64, ..bulk }, sent: Some(readers as f64) })
    }
}

/// iperf3, which supports one reader.
struct OneIperf;

impl Subject for OneIperf {
    fn card(&self) -> Card {
        Card { name: Iperf.card().name, about: Iperf.card().about, role: Role::Peer, waiting: Waiting::Sleeping }
    }

    fn missing(&self) -> Option<String> {
        Iperf.missing()
    }
}

impl Crossing for OneIperf {
    fn reaches(&self, readers: usize) -> bool {
        readers == 1
    }

    fn cross(&self, _: &Cluster, _: usize, bytes: u64) -> Result<Crossed, Failure> {
        Ok(Crossed { bulk: Iperf.stream(&Net::Loopback, bytes)?, sent: Some(1.0) })
    }
}
