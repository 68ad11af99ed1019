//! `wordcount-count`: counts the words of one part while the part is being written, and writes them to the output
//! `counts` when it has ended, as records in the order of the words.

use dflow_function::{Context, Error, Output};
use std::process::ExitCode;
use wordcount::{Counter, Counts, encode, record_length};

/// How many bytes of records become readable at once.
const ROOM: usize = 64 * 1024;

fn main() -> ExitCode {
    dflow_function::run(count)
}

fn count(ctx: &mut Context) -> Result<(), Error> {
    let mut part = ctx.input("part")?;
    let mut output = ctx.output("counts")?;
    let mut counter = Counter::default();
    while let Some(chunk) = part.chunk()? {
        counter.feed(chunk)?;
    }
    write(&counter.finish(), &mut output)
}

/// Writes the records in place, many to a commit.
fn write(counts: &Counts, output: &mut Output) -> Result<(), Error> {
    let words = counts.sorted();
    let mut words = words.iter().peekable();
    while let Some(first) = words.peek() {
        let size = record_length(first).max(ROOM);
        let mut room = output.reserve(size)?;
        let mut filled = 0;
        while let Some(word) = words.next_if(|word| filled + record_length(word) <= size) {
            encode(word, &mut &mut room[filled..size])?;
            filled += record_length(word);
        }
        room.commit(filled)?;
    }
    Ok(())
}
