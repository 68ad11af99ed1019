//! A function that does what its parameters say: it generates, copies, checks and discards streams, and fails in every
//! way a function can. The workflows of the fault tests consist of it. It is also useful for trying out a cluster.
//!
//! It reads every input to its end and writes `bytes` (default 0) test bytes to every output, or copies its first input
//! to all outputs where `bytes` is not set. Parameters, all optional:
//!
//! | parameter | meaning |
//! | --- | --- |
//! | `bytes` | how many bytes to write to each output |
//! | `chunk` | how many of them at once; default 65536 |
//! | `order` | `together` (default): read whichever input has bytes; `one-by-one`: one input after the other |
//! | `pause_us` | how long to sleep after each chunk read or written |
//! | `vary` | the offset of a test byte that is another one in each attempt |
//! | `check` | `true`: fail if an input is not made of test bytes |
//! | `read` | how many bytes of each input to read before leaving it; default all |
//! | `parts` | for an output whose parts are discovered: how many to open |
//! | `fail` | what to do at the byte `fail_at`: see [`fail`] |
//! | `fail_at` | after how many bytes read or written to fail; default 0 |
//! | `fail_attempts` | fail only in this many first attempts; default all |

mod fail;
mod hostile;

use dflow_function::{Context, Error, Input, Output};
use fail::Failure;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    if hostile::is_wanted() {
        return hostile::run();
    }
    dflow_function::run(probe)
}

struct Settings {
    bytes: Option<u64>,
    chunk: usize,
    one_by_one: bool,
    pause: Duration,
    vary: Option<u64>,
    attempt: u32,
    check: bool,
    read: u64,
    failure: Failure,
}

fn probe(ctx: &mut Context) -> Result<(), Error> {
    let mut settings = Settings {
        bytes: ctx.param("bytes")?,
        chunk: ctx.param("chunk")?.unwrap_or(65_536).max(1),
        one_by_one: ctx.param_text("order")? == Some("one-by-one"),
        pause: Duration::from_micros(ctx.param("pause_us")?.unwrap_or(0)),
        vary: ctx.param("vary")?,
        attempt: ctx.attempt(),
        check: ctx.param("check")?.unwrap_or(false),
        read: ctx.param("read")?.unwrap_or(u64::MAX),
        failure: Failure::from_params(ctx)?,
    };
    let mut inputs = open_inputs(ctx)?;
    let mut outputs = open_outputs(ctx)?;
    settings.failure.after(0)?;
    match settings.bytes {
        Some(bytes) => {
            swallow(ctx, &mut inputs, &mut settings)?;
            make(&mut outputs, bytes, &mut settings)
        }
        None if outputs.is_empty() => swallow(ctx, &mut inputs, &mut settings),
        None => copy(ctx, &mut inputs, &mut outputs, &mut settings),
    }
}

fn open_inputs(ctx: &mut Context) -> Result<Vec<Input>, Error> {
    let specs: Vec<_> = ctx.setup().inputs.iter().map(|input| (input.name.clone(), input.many)).collect();
    let mut inputs = Vec::new();
    for (name, many) in specs {
        if many {
            let mut streams = ctx.inputs(&name)?;
            while let Some(input) = streams.next()? {
                inputs.push(input);
            }
        } else {
            inputs.push(ctx.input(&name)?);
        }
    }
    Ok(inputs)
}

fn open_outputs(ctx: &mut Context) -> Result<Vec<Output>, Error> {
    let parts: u32 = ctx.param("parts")?.unwrap_or(0);
    let names: Vec<_> = ctx.setup().outputs.iter().map(|output| (output.name.clone(), output.streams)).collect();
    let mut outputs = Vec::new();
    for (name, streams) in names {
        if streams == dflow_function::OutputStreams::Discovered {
            let mut partition = ctx.partition(&name)?;
            for _ in 0..parts {
                outputs.push(partition.open()?);
            }
        } else {
            outputs.extend(ctx.outputs(&name)?);
        }
    }
    Ok(outputs)
}

/// The byte of a test stream at an offset.
fn byte_at(offset: u64) -> u8 {
    (offset ^ (offset >> 8) ^ (offset >> 17)) as u8
}

fn make(outputs: &mut [Output], bytes: u64, settings: &mut Settings) -> Result<(), Error> {
    let mut at = 0;
    while at < bytes {
        let take = (settings.chunk as u64).min(bytes - at) as usize;
        for output in &mut *outputs {
            let mut room = output.reserve(take)?;
            for (byte, offset) in room[..take].iter_mut().zip(at..) {
                *byte = byte_at(offset);
                if settings.vary == Some(offset) {
                    *byte = byte.wrapping_add(settings.attempt as u8);
                }
            }
            settings.failure.in_the_middle(at + take as u64)?;
            room.commit(take)?;
        }
        at += take as u64;
        settings.failure.after(at)?;
        pause(settings);
    }
    Ok(())
}

fn copy(
    ctx: &mut Context,
    inputs: &mut Vec<Input>,
    outputs: &mut [Output],
    settings: &mut Settings,
) -> Result<(), Error> {
    each_chunk(ctx, inputs, settings, |chunk| {
        for output in &mut *outputs {
            output.write_all(chunk)?;
        }
        Ok(())
    })
}

fn swallow(ctx: &mut Context, inputs: &mut Vec<Input>, settings: &mut Settings) -> Result<(), Error> {
    each_chunk(ctx, inputs, settings, |_| Ok(()))
}

fn each_chunk(
    ctx: &mut Context,
    inputs: &mut Vec<Input>,
    settings: &mut Settings,
    mut take: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut total = 0;
    // Each in its turn, so that those that have nothing are not looked at again and again for those behind them.
    let mut turn = 0;
    while !inputs.is_empty() {
        let which = if settings.one_by_one {
            Some(0)
        } else {
            turn %= inputs.len();
            let mut all: Vec<&mut Input> = inputs.iter_mut().collect();
            all.rotate_left(turn);
            let found = ctx.wait_any(&mut all)?;
            found.map(|found| (turn + found) % inputs.len())
        };
        let Some(which) = which else { return Ok(()) };
        let position = inputs[which].position();
        let Some(chunk) = inputs[which].chunk()? else {
            inputs.remove(which);
            continue;
        };
        turn = which + 1;
        let length = chunk.len() as u64;
        if settings.check && chunk.iter().zip(position..).any(|(byte, offset)| *byte != byte_at(offset)) {
            return Err(Error::new(format!("the input {} has a wrong byte after {position}", inputs[which].name())));
        }
        take(chunk)?;
        total += length;
        settings.failure.after(total)?;
        if position + length >= settings.read {
            inputs.remove(which);
        }
        pause(settings);
    }
    Ok(())
}

fn pause(settings: &Settings) {
    if !settings.pause.is_zero() {
        std::thread::sleep(settings.pause);
    }
}
