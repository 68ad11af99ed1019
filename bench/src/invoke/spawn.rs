//! Programs started with `posix_spawn`: the limit of a cold start.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::clock::now;
use crate::failure::{Failure, Trying};
use crate::invoke::{From, Invoke, REST, Rate};
use crate::latency::{Repeat, histogram};
use crate::node;
use crate::subject::{Card, Role, Subject, Waiting};

/// The program, in the same directory as this one, without a runtime before its first instruction.
const SMALLEST: &str = "dflow-bench-first-instruction";

/// The number of starts before the measured ones.
const WARM_UP: u32 = 10;

/// posix_spawn of the smallest possible program.
pub static SMALLEST_PROGRAM: Spawn = Spawn {
    name: "posix-spawn-smallest",
    about: "posix_spawn of a static program whose first instruction is the measured one: the limit of a cold start",
    role: Role::Limit,
    program: || Ok(std::env::current_exe().trying("find this program")?.with_file_name(SMALLEST)),
    arguments: &[],
};

/// posix_spawn of an ordinary program.
pub static RUST_PROGRAM: Spawn = Spawn {
    name: "posix-spawn-rust",
    about: "posix_spawn of the program that dflow starts as a function, to the first instruction of its main",
    role: Role::Peer,
    program: node::function,
    arguments: &["first-instruction"],
};

/// A program that prints the time of its first instruction.
pub struct Spawn {
    name: &'static str,
    about: &'static str,
    role: Role,
    program: fn() -> Result<PathBuf, Failure>,
    arguments: &'static [&'static str],
}

impl Subject for Spawn {
    fn card(&self) -> Card {
        Card { name: self.name, about: self.about, role: self.role, waiting: Waiting::Sleeping }
    }

    fn missing(&self) -> Option<String> {
        let program = (self.program)().ok()?;
        let there = program.is_file();
        (!there).then(|| format!("{} is not built (cargo build -p dflow-bench)", program.display()))
    }
}

impl Invoke for Spawn {
    fn from(&self) -> From {
        From::Cold
    }

    fn starts(&self, count: u32) -> Result<Repeat, Failure> {
        let mut spawner = self.spawner()?;
        for _ in 0..WARM_UP {
            spawner.start()?;
        }
        let mut histogram = histogram();
        let (at, began) = (SystemTime::now(), Instant::now());
        for _ in 0..count {
            std::thread::sleep(REST);
            histogram.saturating_record(spawner.start()?);
        }
        Ok(Repeat { began: at, took: began.elapsed(), histogram })
    }
}

impl Rate for Spawn {
    fn per_second(&self, at_once: u32, budget: Duration) -> Result<f64, Failure> {
        let began = Instant::now();
        let one_after_the_other = || {
            let mut spawner = self.spawner()?;
            let mut started = 0u32;
            while began.elapsed() < budget {
                spawner.start()?;
                started += 1;
            }
            Ok(started)
        };
        let started: Vec<Result<u32, Failure>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(one_after_the_other)).collect();
            let died = |_| Err(Failure::new("a thread that starts programs panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(died)).collect()
        });
        let started = started.into_iter().sum::<Result<u32, Failure>>()?;
        Ok(f64::from(started) / began.elapsed().as_secs_f64())
    }
}

impl Spawn {
    fn spawner(&self) -> Result<Spawner, Failure> {
        // The standard library uses posix_spawn for commands without special settings.
        let mut command = Command::new((self.program)()?);
        command.args(self.arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Spawner(command))
    }
}

struct Spawner(Command);

impl Spawner {
    /// Starts the program and waits for its end. Returns the nanoseconds until its first instruction.
    fn start(&mut self) -> Result<u64, Failure> {
        let began = now();
        let mut child = self.0.spawn().trying("start the program")?;
        let mut told = [0; 16];
        let mut out = child.stdout.take().ok_or_else(|| Failure::new("the program has no standard output"))?;
        let outcome = out.read_exact(&mut told).trying("read the output of the program");
        child.wait().trying("wait for the program")?;
        outcome?;
        let (seconds, nanoseconds) = told.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
        Ok((number(seconds) * 1_000_000_000 + number(nanoseconds)).saturating_sub(began))
    }
}
