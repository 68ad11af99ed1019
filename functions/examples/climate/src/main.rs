//! `report`: the figures and the histogram of the readings as one text, with a bar for each degree.

use dflow_function::{Context, Error};
use std::fmt::Write;
use std::process::ExitCode;

/// The longest bar, in characters.
const WIDTH: u64 = 50;

/// The most degrees of a histogram: all that exist, and more.
const MAX_BINS: usize = 10_000;

fn main() -> ExitCode {
    dflow_function::run(report)
}

fn report(ctx: &mut Context) -> Result<(), Error> {
    let (mut bins, mut figures) = (ctx.input("bins")?, ctx.input("figures")?);
    let mut text = ctx.output("text")?;

    while let Some(chunk) = figures.chunk()? {
        text.write_all(chunk)?;
    }
    let mut counts = Vec::new();
    let mut lines = bins.lines_bytes();
    while let Some(line) = lines.next()? {
        counts.push(bin(line)?);
        if counts.len() > MAX_BINS {
            return Err(Error::new(format!("the histogram has more than {MAX_BINS} bins")));
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(1);
    for (degree, count) in counts {
        let length = (count * WIDTH).div_ceil(most);
        let mut line = format!("{degree:>4} ");
        line.extend(std::iter::repeat_n('#', length as usize));
        writeln!(line, " {count}")?;
        text.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// A degree and its count.
fn bin(line: &[u8]) -> Result<(i64, u64), Error> {
    let wrong = || Error::new(format!("'{}' is not a degree and a count", String::from_utf8_lossy(line)));
    let line = std::str::from_utf8(line).map_err(|_| wrong())?;
    let (degree, count) = line.split_once(' ').ok_or_else(wrong)?;
    let count: u64 = count.parse().map_err(|_| wrong())?;
    // So that a bar is computed without overflow.
    if count > u64::MAX / WIDTH {
        return Err(wrong());
    }
    Ok((degree.parse().map_err(|_| wrong())?, count))
}
