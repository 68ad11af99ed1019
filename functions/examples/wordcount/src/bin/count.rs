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

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_function::testing::Test;
    use wordcount::decode;

    #[test]
    fn one_record_for_each_word_in_their_order() {
        for piece in [1, 3, 1000] {
            let run = Test::new(count).input("part", "b a B c a b").pieces(piece).run().unwrap();
            let records = run.records("counts").unwrap();
            let counts: Vec<(&[u8], u64)> = records.iter().map(|record| decode(record).unwrap()).collect();
            assert_eq!(counts, [(&b"a"[..], 2), (b"b", 3), (b"c", 1)]);
        }
    }
}
