//! How fast streams pass between two stores through real carriers, over a simulated network with a bandwidth and a delay;
//! and what a carrier costs that has many streams, or runs, on which nothing happens.
//! `carrier_speed [MiB] [streams] [runs]`

#[path = "../tests/cluster/mod.rs"]
mod cluster;

use cluster::Cluster;
use cluster::crowd::{Crowd, cpu_of_carriers};
use dflow_testkit::node::Function;
use dflow_transport::sim::SimConfig;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Bytes in a microsecond: 1 GB/s.
const BANDWIDTH: u64 = 1000;
const ROUNDS: usize = 500;
/// So long nothing happens while the CPU time of that is measured.
const PERIOD: Duration = Duration::from_secs(2);

fn main() {
    let number = |place: usize, or: u64| std::env::args().nth(place).and_then(|word| word.parse().ok()).unwrap_or(or);
    let length = number(1, 256) * MIB;
    for delay in [0, 1_000, 20_000] {
        for keep in [true, false] {
            let mut cluster = Cluster::over(network(delay), true, 2, 1024 * MIB);
            cluster.keep = keep;
            // The first one finds no memory that was used before.
            let seconds =
                (1..5).map(|stream| pass(&mut cluster, stream, length)).skip(1).min().expect("three").as_secs_f64();
            let ideal = length as f64 / (BANDWIDTH * 1_000_000) as f64 + 2.0 * delay as f64 / 1e6;
            println!(
                "{} MiB, {}, {delay} µs each way, 1 GB/s: {seconds:.3} s, ideal {ideal:.3} s: {:.2}",
                length / MIB,
                if keep { "kept" } else { "not kept" },
                seconds / ideal
            );
        }
    }
    for streams in [0, 100, number(2, 2000)] {
        among_idle(u32::try_from(streams).expect("a number of streams"), 0);
    }
    among_idle(0, u32::try_from(number(3, 200)).expect("a number of runs"));
}

fn network(delay: u64) -> SimConfig {
    let delay = (delay, delay);
    SimConfig {
        delay,
        loss_per_mille: 0,
        duplicate_per_mille: 0,
        packet: 0,
        bandwidth: BANDWIDTH,
        in_flight: 128 * MIB,
        ..SimConfig::default()
    }
}

/// The time from the first byte written to the last one read.
fn pass(cluster: &mut Cluster, stream: u32, length: u64) -> Duration {
    let reader = 100 + stream;
    cluster.cross(stream, 0, 1, &[(reader, 0)]);
    let (done, told) = mpsc::channel();
    let sink = Function { inputs: vec![("in", vec![stream], false)], ..Function::default() };
    cluster.on(1, move |node| {
        node.start(reader, &sink, move |ctx| {
            let mut input = ctx.input("in")?;
            let mut read = 0;
            while let Some(chunk) = input.chunk()? {
                read += chunk.len() as u64;
            }
            assert_eq!(read, length);
            let _ = done.send(Instant::now());
            Ok(())
        });
    });
    let source = Function { outputs: vec![("out", vec![stream])], ..Function::default() };
    let (begun, start) = mpsc::channel();
    cluster.on(0, move |node| {
        node.start(stream, &source, move |ctx| {
            let mut output = ctx.output("out")?;
            let _ = begun.send(Instant::now());
            let bytes = vec![7; 64 * 1024];
            for _ in 0..length / bytes.len() as u64 {
                output.write_all(&bytes)?;
            }
            Ok(())
        });
    });
    let end = told.recv_timeout(Duration::from_secs(60)).expect("it arrives");
    for node in 0..2 {
        cluster.until(node, dflow_testkit::node::Node::is_idle);
    }
    cluster.forget(stream, 0, 1, reader);
    end - start.recv().expect("it has begun")
}

/// The round trip of a few bytes over two streams among many others of their run, or among many runs, on which nothing happens;
/// and the CPU time of the carriers while nothing at all happens, and for each round.
fn among_idle(idle: u32, runs: u32) {
    let mut cluster = Cluster::over(SimConfig { delay: (0, 0), ..network(0) }, false, 2, 1024 * MIB);
    let start = Instant::now();
    let mut crowds = Crowd::of_runs(&mut cluster, runs);
    crowds.extend((idle > 0).then(|| Crowd::open(&mut cluster, 10..10 + idle, 5, 101)));
    let opened = start.elapsed();
    cluster.cross(1, 0, 1, &[(102, 0)]);
    cluster.cross(2, 1, 0, &[(3, 0)]);
    let echo =
        Function { inputs: vec![("in", vec![1], false)], outputs: vec![("out", vec![2])], ..Function::default() };
    cluster.on(1, move |node| {
        node.start(102, &echo, |ctx| {
            let (mut input, mut output) = (ctx.input("in")?, ctx.output("out")?);
            while let Some(chunk) = input.chunk()? {
                output.write_all(chunk)?;
            }
            Ok(())
        });
    });
    let before = cpu_of_carriers();
    std::thread::sleep(PERIOD);
    let share = (cpu_of_carriers() - before).as_secs_f64() / PERIOD.as_secs_f64();
    let asks =
        Function { inputs: vec![("in", vec![2], false)], outputs: vec![("out", vec![1])], ..Function::default() };
    let (done, told) = mpsc::channel();
    cluster.on(0, move |node| {
        node.start(3, &asks, move |ctx| {
            let (mut input, mut output) = (ctx.input("in")?, ctx.output("out")?);
            let mut times = Vec::new();
            for _ in 0..ROUNDS {
                let start = Instant::now();
                output.write_all(&[7; 64])?;
                let mut left = 64;
                while left > 0 {
                    left -= input.chunk()?.map_or(left, <[u8]>::len);
                }
                times.push(start.elapsed());
                std::thread::sleep(Duration::from_micros(500));
            }
            times.sort_unstable();
            let _ = done.send((times[ROUNDS / 2], times[ROUNDS * 99 / 100]));
            Ok(())
        });
    });
    let before = cpu_of_carriers();
    let (median, worst) = told.recv_timeout(Duration::from_secs(60)).expect("it goes on");
    let cost = (cpu_of_carriers() - before) / ROUNDS as u32;
    println!(
        "{idle} idle streams, {runs} idle runs, opened in {opened:.1?}: {:.2} % of a core while idle; 64 B there and back \
         {median:.0?}, p99 {worst:.0?}, {cost:.0?} of CPU each",
        share * 100.0
    );
    crowds.into_iter().for_each(Crowd::finish);
    cluster.finish();
}
