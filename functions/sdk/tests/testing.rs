//! Functions run alone on bytes, and behave as in a workflow.

use dflow_function::testing::{Test, record};
use dflow_function::{Context, Error, View};
use std::io::{Read, Write};
use std::path::Path;

fn copy(ctx: &mut Context) -> Result<(), Error> {
    let (mut from, mut to) = (ctx.input("from")?, ctx.output("to")?);
    while let Some(chunk) = from.chunk()? {
        to.write_all(chunk)?;
    }
    Ok(())
}

/// Bytes in which no two neighbourhoods are the same.
fn bytes(length: u64) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)) as u8).collect()
}

#[test]
fn every_length_through_arena_and_rings() {
    for length in [0, 1, 65_535, 65_536, 65_537, 3 << 20] {
        let all = bytes(length);
        let run = Test::new(copy).input("from", &all).run().unwrap();
        assert!(run.output("to") == all, "{length} bytes");
    }
}

#[test]
fn records_larger_than_a_window() {
    let lengths = [0, 5, 70_000, 3 << 20, 1];
    let run = Test::new(|ctx: &mut Context| {
        let mut out = ctx.output("out")?;
        lengths.iter().try_for_each(|&length| out.record(&bytes(length)))
    })
    .run()
    .unwrap();
    let records = run.records("out").unwrap();
    assert!(records.iter().map(|it| it.to_vec()).eq(lengths.iter().map(|&length| bytes(length))));
}

#[test]
fn pieces_cut_everything_and_nothing_is_lost() {
    let lines = "one\n\nthree is longer\nlast";
    let records = [record(b"a"), record(b""), record(b"longer than a piece")].concat();
    for piece in [1, 2, 3, 5, 100] {
        let run = Test::new(|ctx: &mut Context| {
            let (mut text, mut out) = (ctx.input("text")?, ctx.output("out")?);
            let mut lines = text.lines_bytes();
            while let Some(line) = lines.next()? {
                out.record(line)?;
            }
            let (mut from, mut sizes) = (ctx.input("records")?, ctx.output("sizes")?);
            let mut records = from.records();
            while let Some(record) = records.next()? {
                sizes.write_all(&[record.len() as u8])?;
            }
            Ok(())
        })
        .input("text", lines)
        .input("records", &records)
        .pieces(piece)
        .run()
        .unwrap();
        assert_eq!(run.records("out").unwrap(), [&b"one"[..], b"", b"three is longer", b"last"]);
        assert_eq!(run.output("sizes"), [1, 0, 19]);
    }
}

#[test]
fn one_slice_over_everything_in_pieces_or_not() {
    let all = bytes(300_000);
    for piece in [4096, 10_000, 1 << 30] {
        Test::new(|ctx: &mut Context| {
            let mut from = ctx.input("from")?;
            assert!(from.wait_for(200_000)? >= 200_000);
            let early = from.view_so_far()?;
            assert_eq!(from.wait_for(u64::MAX)?, 300_000);
            assert!(from.so_far()? == all);
            let whole = from.view_so_far()?;
            drop(from);
            assert!(*early == all[..early.len()] && *whole == all[..], "views outlive their input");
            Ok(())
        })
        .input("from", &all)
        .pieces(piece)
        .run()
        .unwrap();
    }
}

#[test]
fn views_may_be_kept_and_sent_to_other_threads() {
    let all = bytes(1 << 20);
    Test::new(|ctx: &mut Context| {
        let mut from = ctx.input("from")?;
        let mut views: Vec<View> = Vec::new();
        while let Some(view) = from.view(50_000)? {
            views.push(view);
        }
        drop(from);
        let joined = std::thread::spawn(move || views.iter().flat_map(|view| view.to_vec()).collect::<Vec<u8>>());
        assert!(joined.join().unwrap() == all);
        Ok(())
    })
    .input("from", &all)
    .run()
    .unwrap();
}

#[test]
fn fan_ins_in_order_and_as_they_come() {
    // More than there would be addresses for if each stream had a terabyte of them.
    let streams: Vec<Vec<u8>> = (0..200u64).map(|stream| bytes(stream * 37)).collect();
    let run = Test::new(|ctx: &mut Context| {
        let (mut all, mut out) = (ctx.inputs("all")?, ctx.output("out")?);
        assert_eq!(all.count()?, 200);
        while let Some(mut stream) = all.next()? {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            out.record(&bytes)?;
        }
        let (mut any, mut total) = (ctx.inputs("any")?, 0);
        while let Some((_, stream)) = any.ready()? {
            let length = stream.peek()?.len();
            stream.consume_bytes(length);
            total += length;
        }
        ctx.output("total")?.write_all(total.to_string().as_bytes())
    })
    .inputs("all", &streams)
    .inputs("any", &streams)
    .run()
    .unwrap();
    assert!(run.records("out").unwrap() == streams);
    assert_eq!(run.output("total"), streams.iter().map(Vec::len).sum::<usize>().to_string().as_bytes());
}

#[test]
fn hundreds_of_parts() {
    let run = Test::new(|ctx: &mut Context| {
        let mut parts = ctx.partition("parts")?;
        for part in 0..300u32 {
            let mut out = parts.open()?;
            out.write_all(&part.to_le_bytes())?;
            if part % 2 == 0 {
                out.finish()?;
            }
        }
        Ok(())
    })
    .run()
    .unwrap();
    let expected: Vec<Vec<u8>> = (0..300u32).map(|part| part.to_le_bytes().to_vec()).collect();
    assert!(run.parts("parts") == expected);
}

#[test]
fn parameters_part_and_attempt_of_a_test() {
    Test::new(|ctx: &mut Context| {
        assert_eq!((ctx.part(), ctx.attempt()), (Some(3), 2));
        assert_eq!(ctx.part_file(), Some(Path::new("reads/a.fq")));
        assert_eq!(ctx.param::<u32>("top")?, Some(7));
        assert!(ctx.param::<u8>("name").unwrap_err().to_string().contains("'name'"));
        assert_eq!(ctx.param_text("none")?, None);
        Ok(())
    })
    .part(3)
    .part_file("reads/a.fq")
    .attempt(2)
    .param("top", 7)
    .param("name", "x")
    .run()
    .unwrap();
}

type Work = fn(&mut Context) -> Result<(), Error>;

#[test]
fn a_misspelt_parameter_is_an_error_that_names_the_known_ones() {
    let asks: Work = |ctx| ctx.param::<u32>("tpo").map(drop);
    let error = Test::new(asks).param("top", 7).param("name", "x").run().unwrap_err().to_string();
    assert_eq!(error, "the test sets no parameter 'tpo' of its function; did you mean 'top'? It sets: top, name");
    // A parameter that the function knows, too, is not meant; one that is not set at all is optional.
    let knows_both: Work = |ctx| {
        assert_eq!(ctx.param::<u32>("row")?, Some(1));
        assert_eq!((ctx.param::<u32>("rows")?, ctx.param::<u32>("other")?), (None, None));
        Ok(())
    };
    Test::new(knows_both).param("row", 1).run().unwrap();
}

#[test]
fn errors_are_those_of_the_function_or_name_what_the_test_lacks() {
    let error = |test: Test<Work>| test.run().unwrap_err().to_string();
    assert_eq!(error(Test::new(|_| Err(Error::new("no such luck")))), "no such luck");
    let missing: Work = |ctx| ctx.input("b").map(drop);
    let text = error(Test::new(missing).input("a", ""));
    assert_eq!(text, "the test gives no input 'b' to its function; it gives: a");
    let twice: Work = |ctx| {
        ctx.output("a")?;
        ctx.output("a").map(drop)
    };
    assert!(error(Test::new(twice)).contains("has already been taken"));
}

/// `?` preserves an error of `std::io`: a function that writes through a `BufWriter` succeeds, too, if it has no reader
/// left.
#[test]
fn an_unread_output_stays_one_through_io() {
    let endless: Work = |ctx| {
        let mut out = std::io::BufWriter::new(ctx.output("out")?);
        loop {
            out.write_all(&[0; 1000])?;
        }
    };
    // The sink of this test accepts no byte, so the function sees that it has no reader left.
    let error = Test::new(|ctx: &mut Context| {
        let error = endless(ctx).unwrap_err();
        assert!(error.is_unread(), "{error}");
        Err(error)
    })
    .limit(0)
    .run()
    .unwrap_err();
    assert!(error.to_string().contains("Test::limit"), "{error}");
}

#[test]
fn outputs_have_a_limit() {
    let endless: Work = |ctx| {
        let mut out = ctx.output("out")?;
        loop {
            out.write_all(&[0; 10_000])?;
        }
    };
    let error = Test::new(endless).limit(1 << 20).run().unwrap_err().to_string();
    assert!(error.contains("'out'") && error.contains("Test::limit"), "{error}");
}

#[test]
#[should_panic(expected = "no output 'b' of one stream; it has: a")]
fn an_output_that_was_not_written_is_named() {
    let run = Test::new(|ctx: &mut Context| ctx.output("a").map(drop)).run().unwrap();
    let _ = run.output("b");
}
