//! Topic `rdma`: one chunk, and a stream of them, between two machines with RDMA devices; beside perftest, pushed beside
//! pulled, and what it takes to set things up.
//!
//! One process on each machine: the *first* one measures and reports, the *second* one does its part of what it is told
//! over a TCP connection ([`mod@line`]). A subject is one implementation of [`Way`].

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

/// The chunks whose latency is measured, in bytes.
const CHUNKS: &[usize] = &[64, 4 << 10, 64 << 10, 1 << 20];
/// The chunks of which streams consist.
const STREAMED: &[usize] = &[64 << 10, 1 << 20];
/// The least of them: in smaller ones the programs measure themselves.
const LEAST_STREAMED: usize = 4 << 10;
/// Round trips of one repeat, at least and at most.
const ROUND_TRIPS: (u64, u64) = (16, 50_000);
/// Round trips before those that count.
const WARM_UP: u64 = 4;
/// Bytes of one repeat of a stream, at least and at most.
const STREAM_BYTES: (u64, u64) = (8 << 20, 4 << 30);
/// How long nothing may come from the other machine.
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

/// The options of the topic: those that all topics share, and which machine this is.
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Be the second machine: wait at this address for the first one, and do what it says
    #[arg(long, value_name = "ADDRESS:PORT", required_unless_present = "peer", conflicts_with = "peer")]
    listen: Option<SocketAddr>,
    /// Be the first machine: measure together with the second one, which listens there, and report
    #[arg(long, value_name = "ADDRESS:PORT")]
    peer: Option<SocketAddr>,
    /// The RDMA device of this machine, as rxe0, or with the index of one of its GIDs, as rxe0:1
    /// [default: that on the route to the other machine]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

const HELP: &str = "\
On two machines with RDMA devices:
  there:  dflow-bench rdma --listen 10.0.0.2:7400
  here:   dflow-bench rdma --peer 10.0.0.2:7400
Without RDMA devices, 'scripts/bench rdma' does the same in two virtual machines with soft-RoCE.";

/// What a subject is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Work {
    /// The bytes of a chunk.
    pub size: usize,
    /// How many chunks.
    pub count: u64,
}

/// A way from machine to machine. Both machines call the same method at the same time.
pub trait Way: Subject {
    /// An end that chunks go to and fro with.
    fn chunks(&self, ground: &mut Ground, work: &Work) -> Result<Option<Box<dyn Chunks>>, Failure> {
        let _ = (ground, work);
        Ok(None)
    }

    /// Has `work.count` chunks go there and back, and measures half of each round trip, in nanoseconds.
    fn latency(&self, ground: &mut Ground, work: &Work) -> Result<Histogram<u64>, Failure> {
        let mut chunks = self.chunks(ground, work)?.ok_or_else(|| Failure::new("no such measurement"))?;
        let mut histogram = histogram();
        ground.line.swap(&())?;
        for number in 0..WARM_UP + work.count {
            if ground.side == Side::Second {
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
        // What was sent last may not have arrived, and goes with its end.
        chunks.part(ground)?;
        Ok(histogram)
    }

    /// Moves `work.count` chunks from the first machine to the second; how long it took, as the first one saw it.
    fn stream(&self, ground: &mut Ground, work: &Work) -> Result<Option<Duration>, Failure>;
}

/// One end of a way, between which chunks go to and fro.
pub trait Chunks {
    /// Sends a chunk.
    fn send(&mut self) -> Result<(), Failure>;

    /// Waits until the next one is there.
    fn receive(&mut self) -> Result<(), Failure>;

    /// Stays until the other machine is done, too.
    fn part(&mut self, ground: &mut Ground) -> Result<(), Failure> {
        ground.line.swap(&())
    }
}

/// Everything that is compared. A new subject is one more line here.
fn subjects() -> Vec<&'static dyn Way> {
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

/// What the first machine tells the second one to do.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Latency(String, Work),
    Stream(String, Work),
    SetUp(setup::Work),
}

/// What came of an order on one machine.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Found {
    latency: Recorded,
    took: Option<Duration>,
    /// How long the machine's cores were busy.
    busy: Duration,
}

/// What one machine has of a measurement.
pub struct Ground {
    /// Which machine this is.
    pub side: Side,
    /// The connection with the other one.
    pub line: Line,
    context: Context,
    port: u8,
    gid: GidEntry,
    device: RdmaDevice,
}

impl Ground {
    fn new(side: Side, line: Line, device: Option<&str>) -> Result<Ground, Failure> {
        let devices = Devices::list().trying("find an RDMA device")?;
        let (context, port, gid) = match device {
            None => devices.open_towards(line.peer()?.ip()).trying("find an RDMA device on the way")?,
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
        Ok(Ground { side, line, context, port, gid, device })
    }

    /// The address of the other machine.
    pub fn peer(&self) -> Result<SocketAddr, Failure> {
        self.line.peer()
    }

    /// The device's name.
    pub fn device_name(&self) -> String {
        self.context.name().to_owned()
    }

    /// The place of the own address in the device's table.
    pub fn gid_index(&self) -> u8 {
        self.gid.index
    }

    /// The device, its port, and the own address.
    pub fn open(&self) -> (Context, u8, GidEntry) {
        (self.context.clone(), self.port, self.gid.clone())
    }

    /// The device, as our paths use it.
    pub fn device(&self) -> &RdmaDevice {
        &self.device
    }

    /// One of our paths, which the other machine makes at the same time.
    pub fn path(&mut self, waker: Waker, idle: Idle) -> Result<RdmaPath, Failure> {
        let config = RdmaConfig { idle, ..RdmaConfig::default() };
        let prepared = RdmaPath::prepare(&self.device, &config, waker).trying("prepare a path")?;
        let theirs = self.line.swap(&prepared.endpoint())?;
        let path = prepared.connect(&theirs).trying("connect a path")?;
        self.line.swap(&())?;
        Ok(path)
    }

    /// Does this machine's part.
    fn obey(&mut self, order: &Order) -> Result<Found, Failure> {
        let find = |name: &str| {
            let found = subjects().into_iter().find(|subject| subject.card().name == name);
            found.ok_or_else(|| Failure::new(format!("nothing is called {name}")))
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

    /// Has both machines do their part: what came of it here and there.
    fn both(&mut self, order: &Order) -> Result<(Found, Found), Failure> {
        self.line.tell(order)?;
        let here = self.obey(order);
        if let Err(failure) = &here {
            self.line.tell_failure(failure)?;
        }
        let there = self.line.outcome();
        Ok((here?, there?))
    }
}

/// Runs the topic on this machine.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { options, listen, peer, device } = arguments;
    if let Some(address) = listen {
        return serve(Ground::new(Side::Second, Line::listen(address)?, device.as_deref())?);
    }
    let peer = peer.ok_or_else(|| Failure::new("--listen or --peer is needed"))?;
    let mut ground = Ground::new(Side::First, Line::call(peer)?, device.as_deref())?;
    let topology = Topology::of_this_machine()?;
    let settings = Settings::new(options, topology.clone())?;
    let mut report = Report::new(topology, &settings)?;
    measure(&settings, &mut report, &mut ground)?;
    report.finish()
}

/// What the second machine does.
fn serve(mut ground: Ground) -> Result<(), Failure> {
    while let Some(order) = ground.line.order::<Order>()? {
        match ground.obey(&order) {
            Ok(found) => ground.line.tell(&found)?,
            Err(failure) => ground.line.tell_failure(&failure)?,
        }
    }
    Ok(())
}

fn measure(settings: &Settings, report: &mut Report, ground: &mut Ground) -> Result<(), Failure> {
    let about = format!("{}, between two machines", ground.device().describe());
    latencies(settings, report, ground, &about)?;
    streams(settings, report, ground, &about)?;
    setup::measure(settings, report, ground)
}

fn latencies(settings: &Settings, report: &mut Report, ground: &mut Ground, about: &str) -> Result<(), Failure> {
    let wanted = settings.wanted(&subjects());
    let mut rows = Vec::new();
    for chunk in settings.sizes_or(CHUNKS) {
        // How many fit into the time, by the fastest way.
        let trial = Order::Latency(verbs::Verbs::Write.card().name.into(), Work { size: chunk, count: ROUND_TRIPS.0 });
        let (trial, _) = ground.both(&trial)?;
        let round_trip = 2 * trial.latency.median().max(1);
        let budget = settings.budget.as_nanos() as u64 / 3;
        let work = Work { size: chunk, count: (budget / round_trip).clamp(ROUND_TRIPS.0, ROUND_TRIPS.1) };
        let found = settings.in_turns(&format!("rdma latency {}", size(chunk)), &wanted, |subject| {
            let began = SystemTime::now();
            let (here, _) = ground.both(&Order::Latency(subject.card().name.into(), work.clone()))?;
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
            "where the machines share cores with other work, p10 says what a round trip takes that is not interrupted"
                .into(),
            "the goal is at most 1.25× at p50 for dflow-link-spin, which waits as perftest does, with 64 B and 4 KiB"
                .into(),
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

fn streams(settings: &Settings, report: &mut Report, ground: &mut Ground, about: &str) -> Result<(), Failure> {
    let wanted = settings.wanted(&subjects());
    let mut rows = Vec::new();
    for chunk in settings.sizes_or(STREAMED).into_iter().filter(|chunk| *chunk >= LEAST_STREAMED) {
        let count = |bytes: u64| (bytes / chunk as u64).max(8);
        let trial =
            Order::Stream(verbs::Verbs::Write.card().name.into(), Work { size: chunk, count: count(STREAM_BYTES.0) });
        let (trial, _) = ground.both(&trial)?;
        let speed = STREAM_BYTES.0 as f64 / trial.took.unwrap_or_default().as_secs_f64().max(1e-9);
        let bytes = (speed * settings.budget.as_secs_f64() / 2.0) as u64;
        let work = Work { size: chunk, count: count(bytes.clamp(STREAM_BYTES.0, STREAM_BYTES.1)) };
        let total = (work.count * chunk as u64) as f64;
        let found = settings.in_turns(&format!("rdma stream {}", size(chunk)), &wanted, |subject| {
            let (here, there) = ground.both(&Order::Stream(subject.card().name.into(), work.clone()))?;
            let took = here.took.ok_or_else(|| Failure::new("nobody has measured the time"))?;
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
            "CPU: all that the machines' cores did meanwhile for the writer (w) and the reader (r), the kernel's packets \
             and the start of the programs included"
                .into(),
            format!("the goal is at least 0.95× for {}, this machine's default", link::OurLink::default().card().name),
        ],
        columns: STREAM_COLUMNS,
        rows,
    })
}

/// How long something takes.
fn timed(what: impl FnOnce() -> Result<(), Failure>) -> Result<Option<Duration>, Failure> {
    let began = Instant::now();
    what()?;
    Ok(Some(began.elapsed()))
}

/// How long the machine's cores were busy since it was started.
fn busy() -> Result<Duration, Failure> {
    let text = std::fs::read_to_string("/proc/stat").trying("read /proc/stat")?;
    let ticks = busy_ticks(&text).ok_or_else(|| Failure::new("/proc/stat does not say how busy the machine is"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// All of the first line but what was idle, waited for a disk, or belongs to guests (which is counted already).
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

/// Ends a wait in which nothing happens.
struct Patience {
    looks: u32,
    since: Option<Instant>,
}

impl Patience {
    fn new() -> Patience {
        Patience { looks: 0, since: None }
    }

    /// To be called at every look; the clock is seldom read.
    fn check(&mut self) -> Result<(), Failure> {
        self.looks = self.looks.wrapping_add(1);
        if !self.looks.is_multiple_of(64) {
            return Ok(());
        }
        match self.since {
            Some(since) if since.elapsed() > SILENCE => Err(Failure::new("nothing comes from the other machine")),
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
