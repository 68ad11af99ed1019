//! `wordcount-merge`: adds up the records of the fan-in `counts`, and writes the output `total`: a line `count word`
//! for each word, the most frequent first. The parameter `top` limits the number of lines; 0 or unset means all.

use dflow_function::{Context, Error};
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use wordcount::{Counts, decode, rank};

/// How many bytes of lines become readable at once.
const LINES: usize = 64 * 1024;

fn main() -> ExitCode {
    dflow_function::run(merge)
}

fn merge(ctx: &mut Context) -> Result<(), Error> {
    let top = ctx.param("top")?.unwrap_or(0);
    let mut streams = ctx.inputs("counts")?;
    let total = ctx.output("total")?;

    let mut counts = Counts::default();
    // Which stream is first makes no difference to a sum.
    while let Some((_, stream)) = streams.ready()? {
        while let Some(record) = stream.records().next()? {
            let (word, count) = decode(record)?;
            counts.add(word, count);
            if stream.peek()?.is_empty() {
                break;
            }
        }
    }

    let mut lines = BufWriter::with_capacity(LINES, total);
    for word in rank(&counts, top) {
        write!(lines, "{} ", word.count())?;
        word.write_word(&mut lines)?;
        lines.write_all(b"\n")?;
    }
    lines.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_function::testing::Test;
    use wordcount::{Counter, encode};

    /// The records that `count` writes for a part.
    fn counted(part: &str) -> Vec<u8> {
        let mut counter = Counter::default();
        counter.feed(part.as_bytes()).unwrap();
        let mut records = Vec::new();
        for word in counter.finish().sorted() {
            encode(&word, &mut records).unwrap();
        }
        records
    }

    #[test]
    fn adds_up_and_ranks() {
        for piece in [1, 7, 1000] {
            let parts = [counted("a b b"), counted(""), counted("b c a b")];
            let run = Test::new(merge).inputs("counts", &parts).param("top", 2).pieces(piece).run().unwrap();
            assert_eq!(run.output("total"), b"4 b\n2 a\n");
        }
    }

    #[test]
    fn records_that_are_none_are_an_error() {
        let error = Test::new(merge).inputs("counts", ["not records"]).run().unwrap_err().to_string();
        assert!(error.contains("'counts'"), "{error}");
    }
}
