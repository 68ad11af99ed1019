//! Topic `rdma`: one chunk, and a stream of chunks, between two machines with RDMA devices, compared with perftest;
//! push compared with pull; and the cost of setting up connections.
//!
//! There is one process on each machine. The *first* measures and reports; the *second* executes its part of the orders
//! that it receives over a TCP connection ([`mod@line`]). A subject is one implementation of [`Transfer`].

mod line;
mod link;
mod path;
mod perftest;
mod setup;
mod verbs;

use std::net::SocketAddr;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use dflow_shm::Idle;
use dflow_transport::rdma::{RdmaConfig, RdmaDevice, RdmaPath};
use dflow_verbs::{Context, Devices, GidChoice, GidEntry};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Trying};
use crate::latency::{Recorded, Repeat, Summary, histogram, median, write_log};
use crate::report::{Column, Report, Row, Table, Unit, figures_of, size};
use crate::settings::{Options, Settings};
use crate::subject::{Side, Subject};
use crate::topology::Topology;
use line::Line;

/// The chunk sizes for latency, in bytes.
const CHUNKS: &[usize] = &[64, 4 << 10, 64 << 10, 1 << 20];
/// The chunk sizes of streams, in bytes.
const STREAMED: &[usize] = &[64 << 10, 1 << 20];
/// Minimum chunk size of a stream: with smaller chunks, the overhead of the programs would dominate.
const LEAST_STREAMED: usize = 4 << 10;
/// Minimum and maximum number of round trips of one repeat.
const ROUND_TRIPS: (u64, u64) = (16, 50_000);
/// Round trips before the measured ones.
const WARM_UP: u64 = 4;
/// Minimum and maximum number of bytes of one repeat of a stream.
const STREAM_BYTES: (u64, u64) = (8 << 20, 4 << 30);
/// The time limit for a sign of life from the other machine.
const SILENCE: Duration = Duration::from_secs(10);

const CHUNK_COLUMNS: &[Column] = &[
    Column { key: "p10_ns", head: "p10", unit: Unit::Time },
    Column::P50,
    Column::P90,
    Column::P99,
    Column::MAX,
    Column { key: "p10_over_limit", head: "p10/limit", unit: Unit::Ratio },
    Column::P50_OVER_LIMIT,
    Column::P99_OVER_LIMIT,
];

const STREAM_COLUMNS: &[Column] = &[
    Column { key: "bytes_per_second", head: "bandwidth", unit: Unit::Bandwidth },
    Column { key: "of_limit", head: "/limit", unit: Unit::Ratio },
    Column { key: "writer_cpu_ns_per_gib", head: "CPU/GiB w", unit: Unit::Time },
    Column { key: "reader_cpu_ns_per_gib", head: "CPU/GiB r", unit: Unit::Time },
];

/// The options of the topic: the common ones, and which of the two machines this is.
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Be the second machine: listen at this address for the first one, and follow its orders
    #[arg(long, value_name = "ADDRESS:PORT", required_unless_present = "peer", conflicts_with = "peer")]
    listen: Option<SocketAddr>,
    /// Be the first machine: connect to the second one at this address, measure and report
    #[arg(long, value_name = "ADDRESS:PORT")]
    peer: Option<SocketAddr>,
    /// The RDMA device of this machine, such as rxe0, or with the index of a GID, such as rxe0:1
    /// [default: the device on the route to the other machine]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

const HELP: &str = "\
On two machines with RDMA devices:
  there:  dflow-bench rdma --listen 10.0.0.2:7400
  here:   dflow-bench rdma --peer 10.0.0.2:7400
On a machine without an RDMA device, 'scripts/bench rdma' measures in two virtual machines with soft-RoCE.";

/// The work of a subject.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Work {
    /// The size of a chunk in bytes.
    pub size: usize,
    /// The number of chunks.
    pub count: u64,
}

/// A way to move data between the machines. Both machines call the same method at the same time.
pub trait Transfer: Subject {
    /// This machine's end for a ping-pong of chunks.
    fn chunks(&self, machine: &mut Machine, work: &Work) -> Result<Option<Box<dyn Chunks>>, Failure> {
        let _ = (machine, work);
        Ok(None)
    }

    /// Sends `work.count` chunks there and back, and measures half of each round trip, in nanoseconds.
    fn latency(&self, machine: &mut Machine, work: &Work) -> Result<Histogram<u64>, Failure> {
        let mut chunks = self.chunks(machine, work)?.ok_or_else(|| Failure::new("no such measurement"))?;
        let mut histogram = histogram();
        machine.line.swap(&())?;
        for number in 0..WARM_UP + work.count {
            if machine.side == Side::Second {
                chunks.receive()?;
                chunks.send()?;
                continue;
            }
            let began = Instant::now();
            chunks.send()?;
            chunks.receive()?;
            if number >= WARM_UP {
                histogram.saturating_record((began.elapsed() / 2).as_nanos() as u64);
            }
        }
        // The last chunk may not have arrived yet, and would be lost if this end were dropped.
        chunks.part(machine)?;
        Ok(histogram)
    }

    /// Moves `work.count` chunks from the first machine to the second. Returns the duration as measured by the first.
    fn stream(&self, machine: &mut Machine, work: &Work) -> Result<Option<Duration>, Failure>;
}

/// One end of a ping-pong of chunks.
pub trait Chunks {
    /// Sends a chunk.
    fn send(&mut self) -> Result<(), Failure>;

    /// Waits for the next chunk.
    fn receive(&mut self) -> Result<(), Failure>;

    /// Waits until the other machine has finished too.
    fn part(&mut self, machine: &mut Machine) -> Result<(), Failure> {
        machine.line.swap(&())
    }
}

/// All subjects. A new subject is one more line here.
fn subjects() -> Vec<&'static dyn Transfer> {
    vec![
        &perftest::Perftest,
        &verbs::Verbs::Write,
        &verbs::Verbs::WriteWithImmediate,
        &verbs::Verbs::Read,
        &path::OurPath,
        &link::OurLink::Spin,
        &link::OurLink::SpinThenSleep,
        &link::OurLink::Sleep,
    ]
}

/// An order from the first machine to the second.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Latency(String, Work),
    Stream(String, Work),
    SetUp(setup::Work),
}

/// The result of an order on one machine.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Found {
    latency: Recorded,
    took: Option<Duration>,
    /// The busy time of all of the machine's cores.
    busy: Duration,
}

/// One machine's resources for measurements.
pub struct Machine {
    /// Whether this is the first or the second machine.
    pub side: Side,
    /// The connection to the other machine.
    pub line: Line,
    context: Context,
    port: u8,
    gid: GidEntry,
    device: RdmaDevice,
}

impl Machine {
    fn new(side: Side, line: Line, device: Option<&str>) -> Result<Machine, Failure> {
        let devices = Devices::list().trying("find an RDMA device")?;
        let (context, port, gid) = match device {
            None => devices.open_towards(line.peer()?.ip()).trying("find an RDMA device on the route")?,
            Some(name) => {
                let (name, choice) = match name.rsplit_once(':').map(|(name, index)| (name, index.parse())) {
                    Some((name, Ok(index))) => (name, GidChoice::Index(index)),
                    _ => (name, GidChoice::Any),
                };
                let context = devices.named(name).and_then(dflow_verbs::Device::open).trying("open the device")?;
                let gid = context.choose_gid(1, choice).trying("choose a GID")?;
                (context, 1, gid)
            }
        };
        let device = RdmaDevice::open_named(context.name(), port, GidChoice::Index(gid.index))
            .trying("open the device for dflow")?;
        Ok(Machine { side, line, context, port, gid, device })
    }

    /// The address of the other machine.
    pub fn peer(&self) -> Result<SocketAddr, Failure> {
        self.line.peer()
    }

    /// The device's name.
    pub fn device_name(&self) -> String {
        self.context.name().to_owned()
    }

    /// The index of this machine's address in the device's GID table.
    pub fn gid_index(&self) -> u8 {
        self.gid.index
    }

    /// The device, its port, and this machine's address.
    pub fn open(&self) -> (Context, u8, GidEntry) {
        (self.context.clone(), self.port, self.gid.clone())
    }

    /// The device as dflow's paths use it.
    pub fn device(&self) -> &RdmaDevice {
        &self.device
    }

    /// Creates one of dflow's paths. The other machine must do so at the same time.
    pub fn path(&mut self, waker: Waker, idle: Idle) -> Result<RdmaPath, Failure> {
        let config = RdmaConfig { idle, ..RdmaConfig::default() };
        let prepared = RdmaPath::prepare(&self.device, &config, waker).trying("prepare a path")?;
        let theirs = self.line.swap(&prepared.endpoint())?;
        let path = prepared.connect(&theirs).trying("connect a path")?;
        self.line.swap(&())?;
        Ok(path)
    }

    /// Executes this machine's part of an order.
    fn obey(&mut self, order: &Order) -> Result<Found, Failure> {
        let find = |name: &str| {
            let found = subjects().into_iter().find(|subject| subject.card().name == name);
            found.ok_or_else(|| Failure::new(format!("there is no subject {name}")))
        };
        let busy = busy()?;
        let mut found = Found::default();
        match order {
            Order::Latency(name, work) => found.latency = Recorded::of(&find(name)?.latency(self, work)?),
            Order::Stream(name, work) => found.took = find(name)?.stream(self, work)?,
            Order::SetUp(work) => found.latency = Recorded::of(&setup::act(self, *work)?),
        }
        found.busy = self::busy()?.saturating_sub(busy);
        Ok(found)
    }

    /// Executes an order on both machines. Returns the results here and there.
    fn both(&mut self, order: &Order) -> Result<(Found, Found), Failure> {
        self.line.send(order)?;
        let here = self.obey(order);
        if let Err(failure) = &here {
            self.line.send_failure(failure)?;
        }
        let there = self.line.outcome();
        Ok((here?, there?))
    }
}

/// Runs the topic on this machine.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { options, listen, peer, device } = arguments;
    if let Some(address) = listen {
        return serve(Machine::new(Side::Second, Line::listen(address)?, device.as_deref())?);
    }
    let peer = peer.ok_or_else(|| Failure::new("--listen or --peer is required"))?;
    let mut machine = Machine::new(Side::First, Line::call(peer)?, device.as_deref())?;
    let topology = Topology::of_this_machine()?;
    let settings = Settings::new(options, topology.clone())?;
    let mut report = Report::new(topology, &settings)?;
    measure(&settings, &mut report, &mut machine)?;
    report.finish()
}

/// The loop of the second machine.
fn serve(mut machine: Machine) -> Result<(), Failure> {
    while let Some(order) = machine.line.order::<Order>()? {
        match machine.obey(&order) {
            Ok(found) => machine.line.send(&found)?,
            Err(failure) => machine.line.send_failure(&failure)?,
        }
    }
    Ok(())
}

fn measure(settings: &Settings, report: &mut Report, machine: &mut Machine) -> Result<(), Failure> {
    let about = format!("{}, between two machines", machine.device().describe());
    latencies(settings, report, machine, &about)?;
    streams(settings, report, machine, &about)?;
    setup::measure(settings, report, machine)
}

fn latencies(settings: &Settings, report: &mut Report, machine: &mut Machine, about: &str) -> Result<(), Failure> {
    let wanted = settings.wanted(&subjects());
    let mut rows = Vec::new();
    for chunk in settings.sizes_or(CHUNKS) {
        // The number that fits in the time budget, measured with the fastest subject.
        let trial = Order::Latency(verbs::Verbs::Write.card().name.into(), Work { size: chunk, count: ROUND_TRIPS.0 });
        let (trial, _) = machine.both(&trial)?;
        let round_trip = 2 * trial.latency.median().max(1);
        let budget = settings.budget.as_nanos() as u64 / 3;
        let work = Work { size: chunk, count: (budget / round_trip).clamp(ROUND_TRIPS.0, ROUND_TRIPS.1) };
        let found = settings.in_turns(&format!("rdma latency {}", size(chunk)), &wanted, |subject| {
            let began = SystemTime::now();
            let (here, _) = machine.both(&Order::Latency(subject.card().name.into(), work.clone()))?;
            let mut histogram = histogram();
            here.latency.add_to(&mut histogram);
            Ok(Repeat { began, took: began.elapsed().unwrap_or_default(), histogram })
        });
        let limit = found.iter().find(|(subject, _)| subject.card().name == perftest::Perftest.card().name);
        let limit = limit.and_then(|(_, repeats)| Summary::of_repeats(repeats.as_ref().ok()?));
        for (subject, repeats) in &found {
            if let (Ok(repeats), Some(dir)) = (repeats, &settings.hlog) {
                write_log(dir, &format!("rdma-{}-{chunk}", subject.card().name), repeats)?;
            }
            let figures = repeats.as_ref().map_err(Failure::clone).map(|repeats| {
                Summary::of_repeats(repeats).map_or_else(Vec::new, |own| chunk_figures(&own, limit.as_ref()))
            });
            rows.push(Row::new(&size(chunk), *subject, figures));
        }
    }
    report.add(Table {
        topic: "rdma",
        title: "one chunk to the other machine".into(),
        notes: vec![
            about.into(),
            "half a round trip of chunks of this size; perftest's programs are the limit".into(),
            "p10 shows an uninterrupted round trip where the machines share their cores with other work".into(),
            "goal: at most 1.25× at p50 for dflow-link-spin, which polls like perftest, with 64 B and 4 KiB".into(),
        ],
        columns: CHUNK_COLUMNS,
        rows,
    })
}

/// The figures of [`CHUNK_COLUMNS`].
fn chunk_figures(summary: &Summary, limit: Option<&Summary>) -> Vec<Option<f64>> {
    figures_of(
        summary,
        limit,
        &[|all| all.p10, |all| all.p50, |all| all.p90, |all| all.p99, |all| all.max],
        &[|all| all.p10, |all| all.p50, |all| all.p99],
    )
}

fn streams(settings: &Settings, report: &mut Report, machine: &mut Machine, about: &str) -> Result<(), Failure> {
    let wanted = settings.wanted(&subjects());
    let mut rows = Vec::new();
    for chunk in settings.sizes_or(STREAMED).into_iter().filter(|chunk| *chunk >= LEAST_STREAMED) {
        let count = |bytes: u64| (bytes / chunk as u64).max(8);
        let trial =
            Order::Stream(verbs::Verbs::Write.card().name.into(), Work { size: chunk, count: count(STREAM_BYTES.0) });
        let (trial, _) = machine.both(&trial)?;
        let speed = STREAM_BYTES.0 as f64 / trial.took.unwrap_or_default().as_secs_f64().max(1e-9);
        let bytes = (speed * settings.budget.as_secs_f64() / 2.0) as u64;
        let work = Work { size: chunk, count: count(bytes.clamp(STREAM_BYTES.0, STREAM_BYTES.1)) };
        let total = (work.count * chunk as u64) as f64;
        let found = settings.in_turns(&format!("rdma stream {}", size(chunk)), &wanted, |subject| {
            let (here, there) = machine.both(&Order::Stream(subject.card().name.into(), work.clone()))?;
            let took = here.took.ok_or_else(|| Failure::new("neither machine has measured the time"))?;
            let gibibytes = total / f64::from(1 << 30);
            let each = |found: &Found| found.busy.as_nanos() as f64 / gibibytes;
            Ok([total / took.as_secs_f64(), each(&here), each(&there)])
        });
        let medians = |repeats: &Vec<[f64; 3]>| {
            let of = |at: usize| median(repeats.iter().map(|repeat| repeat[at]).collect());
            [of(0), of(1), of(2)]
        };
        let limit = found.iter().find(|(subject, _)| subject.card().name == perftest::Perftest.card().name);
        let limit = limit.and_then(|(_, repeats)| medians(repeats.as_ref().ok()?)[0]);
        for (subject, repeats) in &found {
            let figures = repeats.as_ref().map_err(Failure::clone).map(|repeats| {
                let [speed, here, there] = medians(repeats);
                vec![speed, speed.zip(limit).map(|(speed, limit)| speed / limit), here, there]
            });
            rows.push(Row::new(&format!("chunks of {}", size(chunk)), *subject, figures));
        }
    }
    report.add(Table {
        topic: "rdma",
        title: "a stream to the other machine".into(),
        notes: vec![
            about.into(),
            "from the first write until the writer knows that everything has arrived".into(),
            "CPU: the busy time of all cores of the writer's (w) and the reader's (r) machine, including the kernel's \
             packet processing and the start of the programs"
                .into(),
            format!("goal: at least 0.95× for {}, the default on this machine", link::OurLink::default().card().name),
        ],
        columns: STREAM_COLUMNS,
        rows,
    })
}

/// The duration of a call.
fn timed(what: impl FnOnce() -> Result<(), Failure>) -> Result<Option<Duration>, Failure> {
    let began = Instant::now();
    what()?;
    Ok(Some(began.elapsed()))
}

/// The busy time of the machine's cores since boot.
fn busy() -> Result<Duration, Failure> {
    let text = std::fs::read_to_string("/proc/stat").trying("read /proc/stat")?;
    let ticks = busy_ticks(&text).ok_or_else(|| Failure::new("/proc/stat has no usable line for the cores"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// The sum of the first line without idle time, I/O wait, and guest time (which user time already includes).
fn busy_ticks(stat: &str) -> Option<u64> {
    let numbers: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_ascii_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let counts = |at: usize| matches!(at, 0..=2 | 5..=6);
    (numbers.len() > 6).then(|| numbers.iter().enumerate().filter(|(at, _)| counts(*at)).map(|(_, ticks)| ticks).sum())
}

/// A time limit for polling loops.
struct Patience {
    looks: u32,
    since: Option<Instant>,
}

impl Patience {
    fn new() -> Patience {
        Patience { looks: 0, since: None }
    }

    /// Must be called in every iteration. Reads the clock only in some of them, because that would slow down polling.
    fn check(&mut self) -> Result<(), Failure> {
        self.looks = self.looks.wrapping_add(1);
        if !self.looks.is_multiple_of(64) {
            return Ok(());
        }
        match self.since {
            Some(since) if since.elapsed() > SILENCE => {
                Err(Failure::new("nothing was received from the other machine for too long"))
            }
            _ => {
                self.since.get_or_insert_with(Instant::now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::busy_ticks;

    #[test]
    fn idle_time_is_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 2000 8 16 32 64 0\ncpu0 1 1 1 1\n"), Some(31));
        assert_eq!(busy_ticks("nonsense"), None);
    }
}
