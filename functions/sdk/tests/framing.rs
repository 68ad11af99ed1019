//! Lines and records that are taken without waiting: one of which only a part has come is continued by the next call.

use dflow_function::{Context, Error, Next, serve};
use dflow_ports::local::{Local, LocalInput, LocalRun, Sink, Sinks, Source};
use std::io::Write;
use std::sync::Arc;

struct Nowhere;

impl Sinks for Nowhere {
    fn open(&self, _: &str, _: Option<u32>) -> std::io::Result<Box<dyn Sink>> {
        Err(std::io::Error::other("these functions write nothing"))
    }
}

/// Runs a function whose input is read from a pipe.
fn run(work: impl FnOnce(&mut Context, std::io::PipeWriter) -> Result<(), Error>) -> Result<(), Error> {
    let (from, to) = std::io::pipe()?;
    let input = LocalInput { name: "in".into(), many: false, keep: false, sources: vec![Source::Live(Box::new(from))] };
    let run = LocalRun {
        instance: "test".into(),
        part: None,
        part_file: None,
        attempt: 1,
        params: Vec::new(),
        inputs: vec![input],
        outputs: Vec::new(),
        piece: None,
    };
    let (local, socket) = Local::start(run, Arc::new(Nowhere))?;
    let result = serve(socket, |ctx| work(ctx, to));
    local.join()?;
    result
}

#[test]
fn a_line_that_comes_in_parts() {
    run(|ctx, mut to| {
        let mut input = ctx.input("in")?;
        let mut lines = input.lines_bytes();
        assert_eq!(lines.try_next()?, Next::WouldBlock);
        to.write_all(b"one\ntw")?;
        assert_eq!(lines.next()?, Some(&b"one"[..]));
        // The beginning of a line may come, and is taken or not.
        for part in [&b""[..], b"o", b" and more"] {
            to.write_all(part)?;
            assert_eq!(lines.try_next()?, Next::WouldBlock);
        }
        to.write_all(b"\n\nlast")?;
        assert_eq!(lines.next()?, Some(&b"two and more"[..]));
        assert_eq!(lines.next()?, Some(&b""[..]));
        assert_eq!(lines.try_next()?, Next::WouldBlock);
        drop(to);
        assert_eq!(lines.next()?, Some(&b"last"[..]));
        assert_eq!(lines.next()?, None);
        assert_eq!(lines.try_next()?, Next::End);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_record_that_comes_in_parts() {
    run(|ctx, mut to| {
        let mut input = ctx.input("in")?;
        let mut records = input.records();
        for part in [&b"\x06"[..], b"\0\0", b"\0", b"ab", b"cde"] {
            to.write_all(part)?;
            assert_eq!(records.try_next()?, Next::WouldBlock);
        }
        to.write_all(b"f\0\0\0\0\x01\0\0\0g\x02\0")?;
        assert_eq!(records.next()?, Some(&b"abcdef"[..]));
        assert_eq!(records.next()?, Some(&b""[..]));
        assert_eq!(records.next()?, Some(&b"g"[..]));
        assert_eq!(records.try_next()?, Next::WouldBlock);
        drop(to);
        let error = records.next().unwrap_err().to_string();
        assert_eq!(error, "the input 'in' ends in the middle of a record");
        Ok(())
    })
    .unwrap();
}
