//! Topic `invoke`: from "start" to the first instruction of a program.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::clock::now;
use crate::failure::{Failure, Trying};
use crate::latency::{Repeat, Summary, histogram, median, write_log};
use crate::report::{Column, LATENCY_COLUMNS, Report, Row, Table, Unit, latency_figures};
use crate::settings::Settings;
use crate::subject::{Role, Subject, Waiting};

/// The word by which this program is told to be the ordinary Rust program that is started.
pub const FIRST_INSTRUCTION: &str = "first-instruction";

/// The program beside this one that does nothing before its first instruction.
const SMALLEST: &str = "dflow-bench-first-instruction";

/// How many starts go before the ones that count.
const WARM_UP: u32 = 10;

const RATE_COLUMNS: &[Column] = &[
    Column { key: "instances_per_second", head: "instances", unit: Unit::Rate },
    Column { key: "of_limit", head: "/limit", unit: Unit::Ratio },
];

/// Something that starts programs.
trait Invoke: Subject {
    /// Gets ready to start them.
    fn starter(&self) -> Result<Box<dyn Starter>, Failure>;
}

/// Starts a program again and again.
trait Starter {
    /// Starts it, and waits until it has ended; the nanoseconds until its first instruction.
    fn start(&mut self) -> Result<u64, Failure>;
}

/// Everything that is compared. A new subject is one more line here.
const SUBJECTS: &[&dyn Invoke] = &[&SMALLEST_PROGRAM, &RUST_PROGRAM];

/// What an ordinary Rust program does when only its first instruction counts: tells when that was.
pub fn tell_first_instruction() -> Result<(), Failure> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let mut told = [0; 16];
    told[..8].copy_from_slice(&now.tv_sec.to_ne_bytes());
    told[8..].copy_from_slice(&now.tv_nsec.to_ne_bytes());
    std::io::stdout().write_all(&told).trying("tell the time")
}

/// Measures the topic.
pub fn measure(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let wanted = settings.wanted(SUBJECTS);
    let found = settings.in_turns("invoke", &wanted, |subject| one_repeat(subject, settings.budget));
    let limit = found.iter().find(|(subject, _)| subject.role() == Role::Limit);
    let limit = limit.and_then(|(_, repeats)| Summary::of_repeats(repeats.as_ref().ok()?));
    let limit_rate = found.iter().find(|(subject, _)| subject.role() == Role::Limit);
    let limit_rate = limit_rate.and_then(|(_, repeats)| rate(repeats.as_ref().ok()?));
    let (mut latencies, mut rates) = (Vec::new(), Vec::new());
    for (subject, repeats) in &found {
        let repeats = repeats.as_ref().map_err(Failure::clone);
        if let (Ok(repeats), Some(dir)) = (&repeats, &settings.hlog) {
            write_log(dir, &format!("invoke-{}", subject.name()), repeats)?;
        }
        let latency = repeats.clone().map(|repeats| {
            Summary::of_repeats(repeats).map_or_else(Vec::new, |summary| latency_figures(summary, limit))
        });
        let own_rate = repeats.map(|repeats| {
            let own = rate(repeats);
            vec![own, own.zip(limit_rate).map(|(own, limit)| own / limit)]
        });
        latencies.push(Row::new("one at a time", *subject, latency));
        rates.push(Row::new("one at a time", *subject, own_rate));
    }
    report.add(Table {
        topic: "invoke",
        title: "from the start to the first instruction".into(),
        notes: vec!["closed loop: the next start follows the end of the last; nothing to correct".into()],
        columns: LATENCY_COLUMNS,
        rows: latencies,
    })?;
    report.add(Table {
        topic: "invoke",
        title: "instances that do nothing, one after the other".into(),
        notes: vec!["from one start to the next, the program's end included".into()],
        columns: RATE_COLUMNS,
        rows: rates,
    })
}

fn one_repeat(subject: &dyn Invoke, budget: Duration) -> Result<Repeat, Failure> {
    let mut starter = subject.starter()?;
    for _ in 0..WARM_UP {
        starter.start()?;
    }
    let mut histogram = histogram();
    let (at, began) = (SystemTime::now(), Instant::now());
    while began.elapsed() < budget {
        histogram.saturating_record(starter.start()?);
    }
    Ok(Repeat { began: at, took: began.elapsed(), histogram })
}

/// The starts per second.
fn rate(repeats: &[Repeat]) -> Option<f64> {
    median(repeats.iter().map(|repeat| repeat.histogram.len() as f64 / repeat.took.as_secs_f64()).collect())
}

/// posix_spawn of the smallest program there is.
static SMALLEST_PROGRAM: Spawn = Spawn {
    name: "posix-spawn-smallest",
    about: "posix_spawn of a static program whose first instruction is the measured one: the limit of a cold start",
    role: Role::Limit,
    program: || Ok(std::env::current_exe().trying("find this program")?.with_file_name(SMALLEST)),
    arguments: &[],
};

/// posix_spawn of an ordinary program.
static RUST_PROGRAM: Spawn = Spawn {
    name: "posix-spawn-rust",
    about: "posix_spawn of an ordinary Rust program, to the first instruction of its main",
    role: Role::Peer,
    program: || std::env::current_exe().trying("find this program"),
    arguments: &[FIRST_INSTRUCTION],
};

struct Spawn {
    name: &'static str,
    about: &'static str,
    role: Role,
    program: fn() -> Result<PathBuf, Failure>,
    arguments: &'static [&'static str],
}

impl Subject for Spawn {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn role(&self) -> Role {
        self.role
    }

    fn waiting(&self) -> Waiting {
        Waiting::Sleeping
    }

    fn missing(&self) -> Option<String> {
        let program = (self.program)().ok()?;
        let there = program.is_file();
        (!there).then(|| format!("{} is not built (cargo build -p dflow-bench)", program.display()))
    }
}

impl Invoke for Spawn {
    fn starter(&self) -> Result<Box<dyn Starter>, Failure> {
        // The standard library starts programs by posix_spawn where nothing asks for more.
        let mut command = Command::new((self.program)()?.as_os_str() as &OsStr);
        command.args(self.arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Box::new(Spawner(command)))
    }
}

struct Spawner(Command);

impl Starter for Spawner {
    fn start(&mut self) -> Result<u64, Failure> {
        let began = now();
        let mut child = self.0.spawn().trying("start the program")?;
        let mut told = [0; 16];
        let mut out = child.stdout.take().ok_or_else(|| Failure::new("the program has no standard output"))?;
        let outcome = out.read_exact(&mut told).trying("hear from the program");
        child.wait().trying("wait for the program")?;
        outcome?;
        let (seconds, nanoseconds) = told.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
        Ok((number(seconds) * 1_000_000_000 + number(nanoseconds)).saturating_sub(began))
    }
}
