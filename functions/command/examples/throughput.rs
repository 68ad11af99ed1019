//! What the adapter costs: bytes per second through `cat` and `cat`, connected by a store, beside the same two in a
//! shell's pipeline, and the start of a program. Prints; compare on one machine and in one run only.
//!
//! `cargo run --release -p dflow-command --example throughput [MEBIBYTES]`

#[path = "../tests/common/mod.rs"]
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
mod common;

use common::{Flow, Ports};
use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const ROUNDS: usize = 5;
const STARTS: u32 = 100;

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some(dflow_command::ARGUMENT) {
        return dflow_command::main();
    }
    let mebibytes = argument.and_then(|text| text.parse().ok()).unwrap_or(2048);
    for round in 1..=ROUNDS {
        let (one_shell, two_shell) = (shell("cat", mebibytes), shell("cat | cat", mebibytes));
        let (one_flow, two_flow) = (flow(1, mebibytes), flow(2, mebibytes));
        println!(
            "round {round}: cat: shell {}, dflow {}; cat | cat: shell {}, dflow {}",
            rate(mebibytes, one_shell),
            rate(mebibytes, one_flow),
            rate(mebibytes, two_shell),
            rate(mebibytes, two_flow)
        );
    }
    println!("start to end of `true`: by itself {:?}", starts_alone());
    println!("start to end of `true`: in an adapter {:?}", starts(false));
    println!("start to end of `true`: in an adapter, with a path {:?}", starts(true));
    ExitCode::SUCCESS
}

fn rate(mebibytes: usize, time: Duration) -> String {
    format!("{:.2} GiB/s", mebibytes as f64 / 1024.0 / time.as_secs_f64())
}

fn touch(bytes: &[u8]) -> u64 {
    bytes.iter().map(|&byte| u64::from(byte)).sum()
}

fn shell(pipeline: &str, mebibytes: usize) -> Duration {
    let start = Instant::now();
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
    start.elapsed()
}

fn new_flow() -> Flow {
    Flow::new(std::env::current_exe().expect("this program has a path").to_str().expect("in UTF-8"))
}

fn flow(cats: usize, mebibytes: usize) -> Duration {
    let mut flow = new_flow();
    let (_, mut stream) = flow.source(move |out| {
        for _ in 0..mebibytes {
            let mut room = out.reserve(MIB / 4)?;
            let length = room.len().min(MIB);
            room[..length].fill(7);
            room.commit(length)?;
        }
        Ok(())
    });
    for _ in 0..cats {
        let (ports, output) = Ports::none().stdin(&[stream]).stdout(&mut flow);
        flow.command(ports, &["cat"]);
        stream = output;
    }
    let sink = flow.sink(stream, |input| {
        let mut sum = 0;
        while let Some(chunk) = input.chunk()? {
            sum += touch(chunk);
        }
        std::hint::black_box(sum);
        Ok(())
    });
    let start = Instant::now();
    flow.run().well(sink);
    start.elapsed()
}

fn starts_alone() -> Duration {
    let start = Instant::now();
    for _ in 0..STARTS {
        Command::new("/bin/true").stdin(Stdio::null()).status().expect("it starts");
    }
    start.elapsed() / STARTS
}

fn starts(with_path: bool) -> Duration {
    let mut flow = new_flow();
    for _ in 0..STARTS {
        let (ports, _) = Ports::none().stdout(&mut flow);
        let ports = if with_path { ports.output("path", &mut flow).0 } else { ports };
        flow.command(ports, if with_path { &["true", "{out.path}"] } else { &["true"] });
    }
    let start = Instant::now();
    flow.run();
    start.elapsed() / STARTS
}
