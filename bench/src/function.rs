//! The functions of the workflows that `dflow-bench` runs with a real daemon. The parameter `does` selects what one
//! does:
//!
//! | `does` | inputs, outputs | what |
//! | --- | --- | --- |
//! | `nothing` | any | exits at once |
//! | `hop` | in `times` if it has one, out `times` | copies its input and adds the times of its first instruction and of its commit |
//! | `open` | out `parts` | writes the time to one part after the other, `pause_us` apart, after the first `rest_us` |
//! | `clock` | in `part`, out `times` | writes its part, the time in its input and the time of its first instruction |
//! | `collect` | in and out `times` | copies one input after the other |
//! | `write` | in `after` if it has one, out `data`, `times` | writes `bytes` in chunks of `chunk`; then its start and end times |
//! | `read` | in `data`, out `times` | reads and checks everything; then its end and start times |
//!
//! Times are nanoseconds of the monotonic clock. The program links only what every Rust function links.

#[allow(dead_code, reason = "the other program of this crate uses the rest")]
mod failure;
#[allow(dead_code, reason = "the other program of this crate uses the rest")]
mod payload;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use dflow_function::{Context, Error, Input, Output, OutputStreams};
use payload::{Seen, WORD, fill, from_bytes, from_bytes_mut};

/// With this argument, the program is not a function but the ordinary Rust program whose start is measured.
const FIRST_INSTRUCTION: &str = "first-instruction";

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == FIRST_INSTRUCTION) {
        return tell_first_instruction();
    }
    dflow_function::run(work)
}

/// Prints the time of the first instruction of `main`, like `dflow-bench-first-instruction`.
fn tell_first_instruction() -> ExitCode {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let told = words(&[now.tv_sec.cast_unsigned(), now.tv_nsec.cast_unsigned()]);
    if std::io::stdout().write_all(&told).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn work(ctx: &mut Context) -> Result<(), Error> {
    let began = now();
    match ctx.param_text("does")? {
        Some("nothing") => Ok(()),
        Some("hop") => hop(ctx, began),
        Some("open") => open(ctx),
        Some("clock") => clock(ctx, began),
        Some("collect") => collect(ctx),
        Some("write") => write(ctx),
        Some("read") => read(ctx, began),
        other => Err(Error::new(format!("unknown value of the parameter 'does': {}", other.unwrap_or_default()))),
    }
}

fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

fn open(ctx: &mut Context) -> Result<(), Error> {
    let pause = Duration::from_micros(ctx.param("pause_us")?.unwrap_or(0));
    std::thread::sleep(Duration::from_micros(ctx.param("rest_us")?.unwrap_or(0)));
    let tell = |mut part: Output| {
        part.write_all(&now().to_ne_bytes())?;
        part.finish()?;
        std::thread::sleep(pause);
        Ok(())
    };
    let discovered = ctx.setup().outputs.iter().any(|output| output.streams == OutputStreams::Discovered);
    if !discovered {
        return ctx.outputs("parts")?.into_iter().try_for_each(tell);
    }
    let mut parts = ctx.partition("parts")?;
    for _ in 0..ctx.param("count")?.unwrap_or(0u32) {
        tell(parts.open()?)?;
    }
    Ok(())
}

fn hop(ctx: &mut Context, began: u64) -> Result<(), Error> {
    std::thread::sleep(Duration::from_micros(ctx.param("rest_us")?.unwrap_or(0)));
    let mut times = Vec::new();
    if !ctx.setup().inputs.is_empty() {
        std::io::Read::read_to_end(&mut ctx.input("times")?, &mut times)?;
    }
    let mut output = ctx.output("times")?;
    times.extend(began.to_ne_bytes());
    times.extend(now().to_ne_bytes());
    output.write_all(&times)
}

fn clock(ctx: &mut Context, began: u64) -> Result<(), Error> {
    let part = u64::from(ctx.part().unwrap_or(0));
    let mut told = [0; WORD];
    std::io::Read::read_exact(&mut ctx.input("part")?, &mut told)?;
    ctx.output("times")?.write_all(&words(&[part, u64::from_ne_bytes(told), began]))
}

fn collect(ctx: &mut Context) -> Result<(), Error> {
    let mut inputs = ctx.inputs("times")?;
    let mut output = ctx.output("times")?;
    while let Some(mut input) = inputs.next()? {
        while let Some(chunk) = input.chunk()? {
            output.write_all(chunk)?;
        }
    }
    Ok(())
}

fn write(ctx: &mut Context) -> Result<(), Error> {
    let (bytes, chunk): (u64, usize) = (ctx.param("bytes")?.unwrap_or(0), ctx.param("chunk")?.unwrap_or(1 << 20));
    let mut outputs = ctx.outputs("data")?;
    let began = now();
    for output in &mut outputs {
        while output.written() < bytes {
            let first = output.written();
            let mut room = output.reserve(chunk)?;
            fill(from_bytes_mut(&mut room[..chunk]), first);
            room.commit(chunk)?;
        }
    }
    let ended = now();
    ctx.output("times")?.write_all(&words(&[began, ended]))
}

fn read(ctx: &mut Context, began: u64) -> Result<(), Error> {
    let chunk: usize = ctx.param("chunk")?.unwrap_or(1 << 20);
    let mut inputs = ctx.inputs("data")?;
    // All inputs stay borrowed until everything has been read.
    let mut open = Vec::new();
    while let Some(mut input) = inputs.next()? {
        read_all(&mut input, chunk)?;
        open.push(input);
    }
    let ended = now();
    ctx.output("times")?.write_all(&words(&[ended, began]))
}

/// Reads a stream as it arrives and checks every word against the chunks in which it was written.
fn read_all(input: &mut Input, chunk: usize) -> Result<(), Error> {
    let mut seen = Progress { left: 0, at: input.position(), chunk };
    // The received part of a word: bytes from another node arrive in packets, which may end inside a word.
    let mut begun = Vec::with_capacity(WORD);
    while let Some(bytes) = input.chunk()? {
        let (rest, others) = bytes.split_at(((WORD - begun.len()) % WORD).min(bytes.len()));
        begun.extend_from_slice(rest);
        if let Some(word) = begun.as_chunks().0.first() {
            seen.read(&[u64::from_ne_bytes(*word)])?;
            begun.clear();
        }
        let (whole, next) = others.split_at(others.len() - others.len() % WORD);
        seen.read(from_bytes(whole))?;
        begun.extend_from_slice(next);
    }
    if begun.is_empty() { Ok(()) } else { Err(Error::new("the stream ends within a word")) }
}

/// The position of a reader.
struct Progress {
    /// The words of the current chunk that have not arrived yet.
    left: usize,
    /// The offset of the next byte.
    at: u64,
    chunk: usize,
}

impl Progress {
    fn read(&mut self, mut words: &[u64]) -> Result<(), Error> {
        while !words.is_empty() {
            if self.left == 0 {
                self.left = self.chunk / WORD;
            }
            let take = self.left.min(words.len());
            let seen = Seen::reading(&words[..take]);
            // A chunk begins with its offset and counts up in words.
            let into = (self.chunk / WORD - self.left) as u64;
            let start = self.at - into * WORD as u64;
            if seen.first != start + into {
                return Err(Error::new(format!("the word at {} is {}", self.at, seen.first)));
            }
            seen.check(take * WORD).map_err(|failure| Error::new(failure.to_string()))?;
            self.left -= take;
            self.at += (take * WORD) as u64;
            words = &words[take..];
        }
        Ok(())
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
