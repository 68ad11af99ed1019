//! The cost of the adapter: bytes per second through `cat` and `cat`, connected by a store, beside the same two in a
//! shell's pipeline, and the start of a program. Prints; compare on one machine and in one run only. Most of the time
//! of a start is the fork of this large process, which the real launcher spares.
//!
//! `cargo run --release -p dflow-command --example throughput [MEBIBYTES]`

#[path = "../tests/common/mod.rs"]
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
mod common;

use common::{Flow, Ports};
use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

const MIB: usize = 1 << 20;
const ROUNDS: usize = 3;
const STARTS: u32 = 300;

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some(dflow_command::ARGUMENT) {
        return dflow_command::main();
    }
    let mebibytes = argument.and_then(|text| text.parse().ok()).unwrap_or(2048);
    println!("{mebibytes} MiB; GiB per second of the clock, GiB per second of processor time");
    for round in 1..=ROUNDS {
        println!(
            "round {round}: cat: shell {}, dflow {}; cat | cat: shell {}, dflow {}",
            rate(mebibytes, || shell("cat", mebibytes)),
            rate(mebibytes, || flow(1, mebibytes)),
            rate(mebibytes, || shell("cat | cat", mebibytes)),
            rate(mebibytes, || flow(2, mebibytes)),
        );
    }
    println!(
        "start to end of `true`, {STARTS} times: milliseconds of the clock, milliseconds of processor time for each"
    );
    println!("by itself {}", per_start(starts_alone));
    println!("in an adapter {}, with a path {}", per_start(|| starts(false)), per_start(|| starts(true)));
    ExitCode::SUCCESS
}

fn rate(mebibytes: usize, work: impl FnOnce()) -> String {
    let (start, used) = (Instant::now(), processor_time());
    work();
    let gibibytes = mebibytes as f64 / 1024.0;
    let (time, used) = (start.elapsed().as_secs_f64(), processor_time() - used);
    format!("{:.2} {:.2}", gibibytes / time, gibibytes / used)
}

fn per_start(work: impl FnOnce()) -> String {
    let (start, used) = (Instant::now(), processor_time());
    work();
    let each = |seconds: f64| 1000.0 * seconds / f64::from(STARTS);
    format!("{:.2} {:.2}", each(start.elapsed().as_secs_f64()), each(processor_time() - used))
}

/// Seconds that this process and those that it has waited for have spent on processors.
fn processor_time() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux has it");
    // User and system time, own and of children: the 14th to 17th field; the second may hold blanks.
    let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').skip(11).take(4);
    fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

fn touch(bytes: &[u8]) -> u64 {
    bytes.iter().map(|&byte| u64::from(byte)).sum()
}

fn shell(pipeline: &str, mebibytes: usize) {
    let mut child = Command::new("sh")
        .args(["-c", pipeline])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell starts");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let writer = std::thread::spawn(move || {
        let block = vec![7; MIB];
        for _ in 0..mebibytes {
            stdin.write_all(&block).expect("the pipeline reads all");
        }
    });
    let mut buffer = vec![0; MIB];
    let mut sum = 0;
    loop {
        let length = stdout.read(&mut buffer).expect("a pipe can be read");
        if length == 0 {
            break;
        }
        sum += touch(&buffer[..length]);
    }
    writer.join().expect("the writer ends well");
    child.wait().expect("the shell ends");
    assert_eq!(sum, 7 * (mebibytes * MIB) as u64);
}

fn new_flow() -> Flow {
    Flow::new(std::env::current_exe().expect("this program has a path").to_str().expect("in UTF-8"))
}

fn flow(cats: usize, mebibytes: usize) {
    let mut flow = new_flow();
    let (_, mut stream) = flow.source(move |out| {
        let mut left = mebibytes * MIB;
        while left > 0 {
            let mut room = out.reserve(1)?;
            let length = room.len().min(MIB).min(left);
            room[..length].fill(7);
            room.commit(length)?;
            left -= length;
        }
        Ok(())
    });
    for _ in 0..cats {
        let (ports, output) = Ports::none().stdin(&[stream]).stdout(&mut flow);
        flow.command(ports, &["cat"]);
        stream = output;
    }
    let sink = flow.sink(stream, move |input| {
        let mut sum = 0;
        while let Some(chunk) = input.chunk()? {
            sum += touch(chunk);
        }
        assert_eq!(sum, 7 * (mebibytes * MIB) as u64);
        Ok(())
    });
    flow.run().well(sink);
}

fn starts_alone() {
    for _ in 0..STARTS {
        Command::new("/bin/true").stdin(Stdio::null()).status().expect("it starts");
    }
}

fn starts(with_path: bool) {
    let mut flow = new_flow();
    for _ in 0..STARTS {
        let (ports, _) = Ports::none().stdout(&mut flow);
        let ports = if with_path { ports.output("path", &mut flow).0 } else { ports };
        flow.command(ports, if with_path { &["true", "{out.path}"] } else { &["true"] });
    }
    flow.run();
}
