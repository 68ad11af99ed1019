//! Streams from function to function through a real store, with the real SDK.

use dflow_function::{Error, Output};
use dflow_protocol::InstanceId;
use dflow_store::{ProcessId, Subscriber};
use dflow_testkit::node::{Function, Node, byte_at, key, now, produce, verify, verify_slice};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn expect(have: u64, want: u64) -> Result<(), Error> {
    if have == want { Ok(()) } else { Err(Error::new(format!("{have} bytes instead of {want}"))) }
}

fn all_well(node: &Node, count: usize) {
    assert_eq!(node.outcomes.len(), count);
    for (process, outcome) in &node.outcomes {
        assert_eq!(outcome, &Ok(()), "{process:?}");
    }
    assert_eq!(node.misbehaved, []);
}

fn source() -> Function {
    Function { outputs: vec![("out", vec![1])], ..Function::default() }
}

fn sink() -> Function {
    Function { inputs: vec![("in", vec![1], false)], ..Function::default() }
}

/// One producer and one consumer; the sizes are those where windows begin and end.
#[test]
fn every_length_comes_through() {
    for length in [0, 1, 63, 4096, 65_535, 65_536, 65_537, MIB, 3 * MIB + 17, 40 * MIB] {
        for spin in [Duration::ZERO, Duration::from_micros(50)] {
            let mut node = Node::new(64 * MIB);
            let (a, b) = (Function { spin, ..source() }, Function { spin, ..sink() });
            node.plan(&[1], &[(2, &b)]);
            node.start(1, &a, move |ctx| produce(ctx, "out", 1, length, 100_000));
            node.start(2, &b, move |ctx| {
                let mut input = ctx.input("in")?;
                expect(verify(&mut input, 1)?, length)
            });
            node.run();
            all_well(&node, 2);
        }
    }
}

/// A consumer that starts after its producer has ended finds everything, some of it on disk.
#[test]
fn a_late_reader_starts_at_offset_0() {
    let mut node = Node::new(8 * MIB);
    let (a, b) = (source(), sink());
    node.plan(&[1], &[(2, &b)]);
    node.start(1, &a, |ctx| produce(ctx, "out", 1, 30 * MIB, 70_000));
    node.run();
    assert!(node.store.usage().spilled > 15 * MIB, "{:?}", node.store.usage());
    assert!(node.store.usage().peak <= 9 * MIB, "{:?}", node.store.usage());
    node.start(2, &b, |ctx| {
        let mut input = ctx.input("in")?;
        expect(verify(&mut input, 1)?, 30 * MIB)
    });
    node.run();
    all_well(&node, 2);
}

/// Many readers, one of which is slow and one of which stops early.
#[test]
fn a_fast_reader_a_slow_one_and_one_that_stops() {
    let mut node = Node::new(16 * MIB);
    let (a, b) = (source(), sink());
    node.plan(&[1], &[(2, &b), (3, &b), (4, &b)]);
    node.start(1, &a, |ctx| produce(ctx, "out", 1, 20 * MIB, 50_000));
    node.start(2, &b, |ctx| {
        let mut input = ctx.input("in")?;
        expect(verify(&mut input, 1)?, 20 * MIB)
    });
    node.start(3, &b, |ctx| {
        let mut input = ctx.input("in")?;
        let mut at = 0;
        while let Some(chunk) = input.chunk()? {
            if let Some(wrong) = chunk.iter().zip(at..).find(|(byte, at)| **byte != byte_at(1, *at)) {
                return Err(Error::new(format!("wrong byte {wrong:?}")));
            }
            at += chunk.len() as u64;
            std::thread::sleep(Duration::from_millis(1));
        }
        expect(at, 20 * MIB)
    });
    node.start(4, &b, |ctx| {
        let mut input = ctx.input("in")?;
        let first = input.chunk()?.map(<[u8]>::to_vec).unwrap_or_default();
        expect(u64::from(first[0]), u64::from(byte_at(1, 0)))
    });
    node.run();
    all_well(&node, 4);
}

/// A reader that has left the epoch before early reads the next one from its first byte, however late it comes.
#[test]
fn a_reader_that_had_left_reads_the_next_epoch() {
    let mut node = Node::new(16 * MIB);
    let (a, b) = (source(), sink());
    node.plan(&[1], &[(2, &b), (3, &b)]);
    node.start(1, &a, |ctx| produce(ctx, "out", 1, MIB, 50_000));
    for reader in [2, 3] {
        node.start(reader, &b, |ctx| ctx.input("in")?.chunk().map(|_| ()));
    }
    node.run();
    node.store.reopen_stream(key(1), false);
    node.start(11, &a, |ctx| produce(ctx, "out", 1, 3 * MIB, 50_000));
    node.start(2, &b, |ctx| expect(verify(&mut ctx.input("in")?, 1)?, 3 * MIB));
    node.run_until(|node| node.is_gone(11) && node.is_gone(2));
    node.start(3, &b, |ctx| expect(verify(&mut ctx.input("in")?, 1)?, 3 * MIB));
    node.run();
    assert_eq!(node.outcomes[&dflow_store::ProcessId(3)], Ok(()));
}

/// A producer without readers is told so.
#[test]
fn a_producer_without_readers_is_told() {
    let mut node = Node::new(16 * MIB);
    let (a, b) = (source(), sink());
    node.plan(&[1], &[(2, &b)]);
    node.start(1, &a, |ctx| produce(ctx, "out", 1, u64::MAX / 8, 50_000));
    node.start(2, &b, |ctx| {
        let mut input = ctx.input("in")?;
        input.chunk()?;
        Ok(())
    });
    node.run();
    assert_eq!(node.outcomes[&dflow_store::ProcessId(2)], Ok(()));
    assert!(matches!(&node.outcomes[&dflow_store::ProcessId(1)], Err((_, true))), "{:?}", node.outcomes);
}

/// An output that nothing in the workflow reads is no error: its bytes are dropped.
#[test]
fn an_output_without_subscribers_costs_nothing() {
    let mut node = Node::new(4 * MIB);
    let a = source();
    node.plan(&[1], &[]);
    node.start(1, &a, |ctx| produce(ctx, "out", 1, 20 * MIB, 50_000));
    node.run();
    all_well(&node, 1);
    assert_eq!(node.store.usage().spilled, 0);
}

/// The diamond: A feeds B and C, both feed D, and D reads all of B first. With windows alone, C fills, A stops, B
/// starves and D waits for ever.
#[test]
fn the_diamond_does_not_deadlock() {
    let mut node = Node::new(4 * MIB);
    let a = Function { outputs: vec![("left", vec![1]), ("right", vec![2])], ..Function::default() };
    let b = Function { inputs: vec![("in", vec![1], false)], outputs: vec![("out", vec![3])], ..Function::default() };
    let c = Function { inputs: vec![("in", vec![2], false)], outputs: vec![("out", vec![4])], ..Function::default() };
    let d = Function { inputs: vec![("b", vec![3], false), ("c", vec![4], false)], ..Function::default() };
    node.plan(&[1, 2, 3, 4], &[(2, &b), (3, &c), (4, &d)]);
    let length = 12 * MIB;
    node.start(1, &a, move |ctx| {
        let (mut left, mut right) = (ctx.output("left")?, ctx.output("right")?);
        let mut at = 0;
        while at < length {
            let chunk: Vec<u8> = (at..at + 65_536).map(|at| byte_at(9, at)).collect();
            left.write_all(&chunk)?;
            right.write_all(&chunk)?;
            at += 65_536;
        }
        Ok(())
    });
    for (id, function) in [(2, &b), (3, &c)] {
        node.start(id, function, |ctx| {
            let (mut input, mut out) = (ctx.input("in")?, ctx.output("out")?);
            while let Some(chunk) = input.chunk()? {
                out.write_all(chunk)?;
            }
            Ok(())
        });
    }
    node.start(4, &d, move |ctx| {
        let (mut b, mut c) = (ctx.input("b")?, ctx.input("c")?);
        expect(verify(&mut b, 9)?, length)?;
        expect(verify(&mut c, 9)?, length)
    });
    node.run();
    all_well(&node, 4);
    assert!(node.store.usage().spilled > 0);
}

/// Ten thousand streams of 64 bytes from one function to another.
#[test]
fn ten_thousand_tiny_streams() {
    const COUNT: u32 = 10_000;
    let streams: Vec<u32> = (1..=COUNT).collect();
    let a = Function { outputs: vec![("parts", streams.clone())], ..Function::default() };
    let b = Function { inputs: vec![("parts", streams.clone(), false)], ..Function::default() };
    let mut node = Node::new(256 * MIB);
    node.plan(&streams, &[(2, &b)]);
    node.start(1, &a, |ctx| {
        for (part, out) in ctx.outputs("parts")?.iter_mut().enumerate() {
            out.write_all(&[part as u8; 64])?;
        }
        Ok(())
    });
    node.start(2, &b, |ctx| {
        let mut parts = ctx.inputs("parts")?;
        let mut number = 0u32;
        while let Some(mut input) = parts.next()? {
            let mut bytes = 0;
            while let Some(chunk) = input.chunk()? {
                if chunk.iter().any(|&byte| byte != number as u8) {
                    return Err(Error::new(format!("part {number} is wrong")));
                }
                bytes += chunk.len() as u64;
            }
            expect(bytes, 64)?;
            number += 1;
        }
        expect(u64::from(number), u64::from(COUNT))
    });
    node.run();
    all_well(&node, 2);
    assert!(node.store.usage().peak <= 64 * MIB, "{:?}", node.store.usage());
}

/// One slice over everything, in place, while it grows.
#[test]
fn a_slice_over_everything_so_far() {
    let length = 9 * MIB + 4321;
    let mut node = Node::new(64 * MIB);
    let (a, b) = (source(), Function { inputs: vec![("in", vec![1], true)], ..Function::default() });
    node.plan(&[1], &[(2, &b)]);
    node.start(1, &a, move |ctx| produce(ctx, "out", 1, length, 30_000));
    node.start(2, &b, move |ctx| expect(verify_slice(&mut ctx.input("in")?, 1)?, length));
    node.run();
    all_well(&node, 2);
}

/// Lines and records that lie across the ends of windows.
#[test]
fn lines_and_records_across_windows() {
    let mut node = Node::new(64 * MIB);
    let a = Function { outputs: vec![("lines", vec![1]), ("records", vec![2])], ..Function::default() };
    let b = Function { inputs: vec![("lines", vec![1], false), ("records", vec![2], false)], ..Function::default() };
    node.plan(&[1, 2], &[(2, &b)]);
    let text = |number: u32| "x".repeat((number as usize * 37) % 301) + &number.to_string();
    const COUNT: u32 = 20_000;
    node.start(1, &a, move |ctx| {
        let (mut lines, mut records) = (ctx.output("lines")?, ctx.output("records")?);
        for number in 0..COUNT {
            lines.write_all((text(number) + "\n").as_bytes())?;
            records.record(text(number).as_bytes())?;
        }
        lines.write_all(b"last")?;
        records.record(&vec![7; 2_000_000])
    });
    node.start(2, &b, move |ctx| {
        let (mut lines, mut records) = (ctx.input("lines")?, ctx.input("records")?);
        let (mut lines, mut records) = (lines.lines_bytes(), records.records());
        for number in 0..COUNT {
            if lines.next()? != Some(text(number).as_bytes()) || records.next()? != Some(text(number).as_bytes()) {
                return Err(Error::new(format!("line or record {number} is wrong")));
            }
        }
        if lines.next()? != Some(b"last") || lines.next()?.is_some() {
            return Err(Error::new("the last line is wrong"));
        }
        expect(records.next()?.map_or(0, <[u8]>::len) as u64, 2_000_000)?;
        expect(u64::from(records.next()?.is_some()), 0)
    });
    node.run();
    all_well(&node, 2);
}

/// Whichever of several inputs has bytes.
#[test]
fn whichever_input_has_bytes() {
    let mut node = Node::new(64 * MIB);
    let a = Function { outputs: vec![("x", vec![1]), ("y", vec![2])], ..Function::default() };
    let b = Function { inputs: vec![("x", vec![1], false), ("y", vec![2], false)], ..Function::default() };
    node.plan(&[1, 2], &[(2, &b)]);
    node.start(1, &a, |ctx| {
        let (mut x, mut y) = (ctx.output("x")?, ctx.output("y")?);
        for round in 0..2000u32 {
            let out = if round % 3 == 0 { &mut x } else { &mut y };
            out.write_all(&round.to_le_bytes())?;
        }
        Ok(())
    });
    node.start(2, &b, |ctx| {
        let (mut x, mut y) = (ctx.input("x")?, ctx.input("y")?);
        let mut bytes = [0u64; 2];
        while let Some(which) = ctx.wait_any(&mut [&mut x, &mut y])? {
            let input = if which == 0 { &mut x } else { &mut y };
            let length = input.peek()?.len();
            input.consume_bytes(length);
            bytes[which] += length as u64;
        }
        expect(bytes[0], 667 * 4)?;
        expect(bytes[1], 1333 * 4)
    });
    node.run();
    all_well(&node, 2);
}

/// Rooms larger than any window so far.
#[test]
fn large_rooms() {
    let mut node = Node::new(64 * MIB);
    let (a, b) = (source(), sink());
    node.plan(&[1], &[(2, &b)]);
    node.start(1, &a, |ctx| produce(ctx, "out", 1, 60 * MIB, 4 << 20));
    node.start(2, &b, |ctx| {
        let mut input = ctx.input("in")?;
        expect(verify(&mut input, 1)?, 60 * MIB)
    });
    node.run();
    all_well(&node, 2);
}

/// A slow end slows the whole chain: nothing upstream runs ahead to memory or disk, though its readers wait for room in
/// outputs of their own, and though the first reader starts when the stream has left its ring already.
#[test]
fn a_slow_end_slows_everything_before_it() {
    let mut node = Node::new(64 * MIB);
    let a = source();
    let b = Function { inputs: vec![("in", vec![1], false)], outputs: vec![("out", vec![2])], ..Function::default() };
    let c = Function { inputs: vec![("in", vec![2], false)], ..Function::default() };
    node.plan(&[1, 2], &[(2, &b), (3, &c)]);
    let length = 60 * MIB;
    node.start(1, &a, move |ctx| produce(ctx, "out", 1, length, 60_000));
    // Until its first reader runs, the producer may go on: a reader that does not run holds back no producer.
    while node.store.usage().memory < 2 * MIB {
        node.step();
    }
    node.start(2, &b, |ctx| {
        let (mut input, mut out) = (ctx.input("in")?, ctx.output("out")?);
        while let Some(chunk) = input.chunk()? {
            out.write_all(chunk)?;
        }
        Ok(())
    });
    node.start(3, &c, move |ctx| {
        let mut input = ctx.input("in")?;
        while let Some(chunk) = input.chunk()? {
            // A millisecond for each 300,000 bytes.
            std::thread::sleep(Duration::from_micros(chunk.len() as u64 / 300));
        }
        expect(input.position(), length)
    });
    node.run();
    all_well(&node, 3);
    let usage = node.store.usage();
    assert_eq!(usage.spilled, 0, "{usage:?}");
    assert!(usage.peak < 40 * MIB, "{usage:?}");
}

/// It does not ask for it again and again.
#[test]
fn a_reader_at_the_end_of_a_full_window_waits_for_the_next() {
    let mut node = Node::new(64 * MIB);
    let (a, b) = (source(), sink());
    node.plan(&[1], &[(2, &b)]);
    let (go_on, may_go_on) = std::sync::mpsc::channel();
    node.start(1, &a, move |ctx| {
        let mut out = ctx.output("out")?;
        out.write_all(&[7; 65_536])?;
        may_go_on.recv()?;
        out.write_all(&[7; 1000])
    });
    node.start(2, &b, |ctx| {
        let mut input = ctx.input("in")?;
        while input.chunk()?.is_some() {}
        expect(input.position(), 66_536)
    });
    let reader = ProcessId(2);
    node.run_until(|node| node.store.traffic(reader).read == 65_536 && node.store.is_waiting(reader));
    go_on.send(()).unwrap();
    node.run();
    all_well(&node, 2);
}

/// One of its outputs has no readers left. That another was finished before makes no difference.
#[test]
fn a_finished_output_does_not_keep_its_producer_from_being_unread() {
    for goes_on_with in ["b", "c"] {
        let mut node = Node::new(64 * MIB);
        // Nothing is meant to read the last one.
        let outputs = vec![("a", vec![1]), ("b", vec![2]), ("c", vec![3])];
        let a = Function { outputs, ..Function::default() };
        let readers =
            [1, 2].map(|stream| Function { inputs: vec![("in", vec![stream], false)], ..Function::default() });
        node.plan(&[1, 2, 3], &[(2, &readers[0]), (3, &readers[1])]);
        node.start(1, &a, move |ctx| {
            let mut first = ctx.output("a")?;
            first.write_all(&[7; 1000])?;
            first.finish()?;
            let mut out = ctx.output(goes_on_with)?;
            loop {
                let mut room = out.reserve(1000)?;
                room.fill(0);
                room.commit(1000)?;
            }
        });
        node.start(2, &readers[0], |ctx| {
            let mut input = ctx.input("in")?;
            while input.chunk()?.is_some() {}
            Ok(())
        });
        node.start(3, &readers[1], |_| Ok(()));
        node.run();
        assert!(matches!(node.outcomes[&ProcessId(1)], Err((_, true))), "{:?}", node.outcomes);
        assert!(node.told_unread.contains(&ProcessId(1)));
    }
}

/// At each end the store looks for another output with readers. That must not walk through all of them.
#[test]
fn thousands_of_outputs_end_in_turn_although_nobody_reads_one_of_them() {
    let time_to_end = |one_is_unread: bool| {
        let mut node = Node::new(64 * MIB);
        let streams: Vec<u32> = (1..=8000).collect();
        let source = Function { outputs: vec![("out", streams.clone())], ..Function::default() };
        // Of these only the first is started.
        let readers = [&streams[..1], &streams[1..]]
            .map(|read| Function { inputs: vec![("in", read.to_vec(), false)], ..Function::default() });
        node.plan(&streams, &[(2, &readers[0]), (3, &readers[1])]);
        let (ended, told) = std::sync::mpsc::channel();
        node.start(1, &source, move |ctx| {
            let mut parts = ctx.outputs("out")?;
            while one_is_unread && parts[0].write_all(b"x").is_ok() {}
            let start = Instant::now();
            parts.into_iter().try_for_each(Output::finish)?;
            ended.send(start).unwrap();
            Ok(())
        });
        node.start(2, &readers[0], move |ctx| {
            let mut input = ctx.input("in")?;
            while !one_is_unread && input.chunk()?.is_some() {}
            Ok(())
        });
        node.run();
        told.recv().unwrap().elapsed()
    };
    let (alone, beside) = (time_to_end(false), time_to_end(true));
    assert!(beside < 4 * alone + Duration::from_millis(300), "{beside:?} instead of {alone:?}");
}

/// What a node has of a stream, which a run must know when another node is lost.
#[test]
fn a_copy_is_whole_as_long_as_no_byte_is_released() {
    let mut node = Node::new(64 * MIB);
    let (a, b) = (source(), sink());
    assert_eq!(node.store.copy_of(key(1), 0), None);
    node.plan(&[1], &[(2, &b)]);
    node.start(1, &a, |ctx| produce(ctx, "out", 1, 3 * MIB, 70_000));
    node.run();
    let copy = node.store.copy_of(key(1), 0).unwrap();
    assert!(copy.is_whole && copy.is_complete, "{copy:?}");
    node.store.hold(key(1));
    for _ in 0..2 {
        node.start(2, &b, |ctx| expect(verify(&mut ctx.input("in")?, 1)?, 3 * MIB));
        node.run();
        assert!(node.store.copy_of(key(1), 1).unwrap().is_whole);
        // As if it had never read: so does the run for an instance that runs again.
        let reader = Subscriber { instance: InstanceId(2), input: 0 };
        node.store.forget_reader(key(1), reader);
        node.store.subscribe(now(), key(1), reader, false);
    }
    node.store.unhold(key(1));
    node.start(2, &b, |ctx| expect(verify(&mut ctx.input("in")?, 1)?, 3 * MIB));
    node.run();
    let copy = node.store.copy_of(key(1), 0).unwrap();
    assert!(!copy.is_whole && copy.is_complete, "{copy:?}");
    all_well(&node, 2);
}

#[test]
fn an_attempt_that_was_not_started_has_read_nothing() {
    let mut node = Node::new(64 * MIB);
    let (a, b) = (source(), sink());
    node.plan(&[1], &[(2, &b)]);
    node.queue(2, &b, |_| Ok(()));
    node.start(1, &a, |ctx| produce(ctx, "out", 1, 3 * MIB, 70_000));
    node.run_until(|node| node.is_gone(1));
    node.kill(2);
    node.run_until(|node| node.is_gone(2));
    node.start(2, &b, |ctx| expect(verify(&mut ctx.input("in")?, 1)?, 3 * MIB));
    node.run();
    all_well(&node, 2);
}
