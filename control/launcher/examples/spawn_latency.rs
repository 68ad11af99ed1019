//! How long it takes from a request until the program runs, and until its end is known, under each containment.
//!
//! `cargo run --release -p dflow-launcher --example spawn_latency [COUNT]`

use std::error::Error;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use dflow_launcher::{ARGUMENT, ContainmentChoice, Launcher, LauncherEvent, LauncherOptions, SpawnRequest};
use rustix::event::{PollFd, PollFlags};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some(ARGUMENT) {
        return Ok(dflow_launcher::serve());
    }
    let count = argument.map_or(Ok(1000), |count| count.parse())?;
    measure_plain(count)?;
    for containment in [ContainmentChoice::Cgroup, ContainmentChoice::Subreaper] {
        let options = LauncherOptions { containment, ..LauncherOptions::default() };
        match Launcher::start(&options) {
            Ok(launcher) => measure(launcher, containment, count)?,
            Err(error) => println!("{containment:?}: {error}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The same program without a launcher: the latency on this machine for a small process without containment.
fn measure_plain(count: u64) -> Result<(), Box<dyn Error>> {
    let mut running = Vec::new();
    let mut gone = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        let mut process = Command::new("/bin/true").stdin(Stdio::null()).env_clear().spawn()?;
        running.push(start.elapsed());
        process.wait()?;
        gone.push(start.elapsed());
    }
    print("posix_spawn: call → program runs", running);
    print("posix_spawn: call → end known", gone);
    Ok(())
}

fn measure(mut launcher: Launcher, containment: ContainmentChoice, count: u64) -> Result<(), Box<dyn Error>> {
    println!("{}", launcher.containment().describe());
    let mut running = Vec::new();
    let mut gone = Vec::new();
    for id in 0..count {
        let start = Instant::now();
        launcher.spawn(id, SpawnRequest::new("/bin/true"))?;
        loop {
            match next(&mut launcher)? {
                LauncherEvent::Spawned { .. } => running.push(start.elapsed()),
                LauncherEvent::Output { .. } => {}
                LauncherEvent::Exited { .. } => break gone.push(start.elapsed()),
                LauncherEvent::SpawnFailed { error, .. } => return Err(error.into()),
            }
        }
    }
    print(&format!("{containment:?}: request → program runs"), running);
    print(&format!("{containment:?}: request → end known"), gone);

    let start = Instant::now();
    let (mut sent, mut ended) = (0, 0);
    while ended < count {
        while sent < count && sent - ended < 64 {
            launcher.spawn(sent, SpawnRequest::new("/bin/true"))?;
            sent += 1;
        }
        if let LauncherEvent::Exited { .. } = next(&mut launcher)? {
            ended += 1;
        }
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!("{containment:?}: {rate:.0} programs a second, 64 at a time");
    launcher.shutdown()?;
    Ok(())
}

fn next(launcher: &mut Launcher) -> Result<LauncherEvent, Box<dyn Error>> {
    loop {
        launcher.flush()?;
        match launcher.recv()? {
            Some(event) => return Ok(event),
            None => rustix::event::poll(&mut [PollFd::new(launcher, PollFlags::IN)], None)?,
        };
    }
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!("{what}: p50 {:?}, p99 {:?}, max {:?}", at(0.5), at(0.99), at(1.0));
}
