//! Attempts that continue the streams of earlier ones: readers get every byte once, and notice nothing.

use dflow_function::{Context, Error};
use dflow_protocol::limits::PROTOCOL_VERSION;
use dflow_protocol::message::ToDaemon;
use dflow_protocol::words::Progress;
use dflow_protocol::{PortId, StreamId};
use dflow_shm::{Control, channel};
use dflow_store::{ProcessId, RunStream, StoreEvent};
use dflow_testkit::node::{Function, Node, RUN, byte_at, key, now, produce, verify, verify_slice};
use proptest::prelude::*;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// The bytes that have one hash.
const BLOCK: u64 = 64 * KIB;
/// Ids of the producer's attempts; its readers have those below.
const FIRST: u32 = 100;
const STREAM: RunStream = RunStream { run: RUN, stream: StreamId(1) };

fn source() -> Function {
    Function { outputs: vec![("out", vec![1])], ..Function::default() }
}

fn sink(keep: bool) -> Function {
    Function { inputs: vec![("in", vec![1], keep)], ..Function::default() }
}

/// A node with one stream whose producer may be continued, and its readers.
fn node(memory: u64, readers: &[(u32, &Function)]) -> Node {
    let mut node = Node::new(memory);
    node.plan(&[1], readers);
    node.store.remember(STREAM);
    node
}

/// Starts an attempt of the producer.
fn attempt(node: &mut Node, number: u32, work: impl FnOnce(&mut Context) -> Result<(), Error> + Send + 'static) {
    if number > 0 {
        node.store.continue_stream(now(), STREAM, false);
    }
    node.start(FIRST + number, &source(), work);
}

/// Runs an attempt that fails after so many bytes.
fn fail_at(node: &mut Node, number: u32, length: u64, most: usize) {
    attempt(node, number, move |ctx| {
        produce(ctx, "out", 1, length, most)?;
        Err(Error::new("it was told to fail"))
    });
    node.run_until(|node| node.is_gone(FIRST + number));
}

fn read_all(length: u64) -> impl FnOnce(&mut Context) -> Result<(), Error> + Send + 'static {
    move |ctx| {
        let have = verify(&mut ctx.input("in")?, 1)?;
        if have == length { Ok(()) } else { Err(Error::new(format!("{have} bytes instead of {length}"))) }
    }
}

/// Reads a few bytes at a time, so that it is in the middle of a window whenever its producer dies.
fn read_in_steps(length: u64) -> impl FnOnce(&mut Context) -> Result<(), Error> + Send + 'static {
    move |ctx| {
        let mut input = ctx.input("in")?;
        let mut at = 0;
        while at < length {
            ctx.wait_any(&mut [&mut input])?;
            let bytes = input.peek()?;
            let take = bytes.len().min(10_007);
            if let Some((_, wrong)) = bytes[..take].iter().zip(at..).find(|(byte, at)| **byte != byte_at(1, *at)) {
                return Err(Error::new(format!("wrong byte at {wrong}")));
            }
            input.consume_bytes(take);
            at += take as u64;
        }
        if input.chunk()?.is_some() { Err(Error::new("it goes on")) } else { Ok(()) }
    }
}

/// Looks at everything so far as one slice.
fn read_as_a_whole(length: u64) -> impl FnOnce(&mut Context) -> Result<(), Error> + Send + 'static {
    move |ctx| {
        let have = verify_slice(&mut ctx.input("in")?, 1)?;
        if have == length { Ok(()) } else { Err(Error::new(format!("{have} bytes"))) }
    }
}

fn diverged(node: &Node) -> bool {
    node.events.iter().any(|event| matches!(event, StoreEvent::Diverged(..)))
}

fn all_well(node: &Node, ids: &[u32]) {
    for id in ids {
        assert_eq!(node.outcomes[&ProcessId(u64::from(*id))], Ok(()), "{id}");
    }
    assert_eq!(node.misbehaved, []);
    assert!(!diverged(node), "{:?}", node.events);
}

/// All kinds of readers, with attempts that fail at these offsets before one succeeds.
fn spares_readers(memory: u64, failures: &[u64], length: u64, most: usize) {
    let (plain, keep) = (sink(false), sink(true));
    let mut node = node(memory, &[(2, &plain), (3, &plain), (4, &keep), (5, &plain), (6, &plain)]);
    node.start(2, &plain, read_all(length));
    node.start(3, &plain, read_in_steps(length));
    node.start(4, &keep, read_as_a_whole(length));
    for (number, &at) in (0..).zip(failures) {
        fail_at(&mut node, number, at, most);
        if number == 0 {
            node.start(5, &plain, read_all(length));
        }
    }
    let last = failures.len() as u32;
    attempt(&mut node, last, move |ctx| produce(ctx, "out", 1, length, most));
    node.run();
    node.start(6, &plain, read_all(length));
    node.run();
    all_well(&node, &[2, 3, 4, 5, 6, FIRST + last]);
}

#[test]
fn a_new_attempt_goes_on_where_the_old_one_died() {
    for old in [0, 1, 4095, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 320 * KIB, 2 * MIB + 17, 6 * MIB] {
        for more in [0, 1, 3000, 3 * MIB + 5] {
            spares_readers(64 * MIB, &[old], old + more, 100_000);
        }
    }
}

#[test]
fn attempts_fail_before_and_after_the_old_watermark() {
    spares_readers(64 * MIB, &[3 * MIB, MIB, 0, 3 * MIB, 3 * MIB + 9, 5 * MIB, 77], 6 * MIB, 200_000);
}

/// From the old watermark on every byte arrives at once, though the producer waits for nothing but its reader.
#[test]
fn a_waiting_reader_is_served_by_the_new_attempt() {
    const ROUNDS: u64 = 200;
    for old in [1, 5000, BLOCK, 3 * MIB + 9] {
        let mut node = node(64 * MIB, &[(2, &sink(false))]);
        let (reached, reader_at) = std::sync::mpsc::channel();
        node.start(2, &sink(false), move |ctx| {
            let mut input = ctx.input("in")?;
            while input.chunk()?.is_some() {
                let _ = reached.send(input.position());
            }
            Ok(())
        });
        fail_at(&mut node, 0, old, 50_000);
        attempt(&mut node, 1, move |ctx| {
            let mut out = ctx.output("out")?;
            out.write_all(&(0..old).map(|at| byte_at(1, at)).collect::<Vec<u8>>())?;
            for round in 1..=ROUNDS {
                out.write_all(&[7])?;
                while reader_at.recv_timeout(Duration::from_secs(10))? < old + round {}
            }
            Ok(())
        });
        node.run();
        all_well(&node, &[2, FIRST + 1]);
    }
}

#[test]
fn old_bytes_may_be_on_disk() {
    let mut node = node(2 * MIB, &[(2, &sink(false)), (3, &sink(true))]);
    fail_at(&mut node, 0, 9 * MIB + 1234, 50_000);
    fail_at(&mut node, 1, 12 * MIB + 77, 50_000);
    attempt(&mut node, 2, |ctx| produce(ctx, "out", 1, 15 * MIB, 50_000));
    node.run_until(|node| node.is_gone(FIRST + 2));
    assert!(node.store.usage().spilled > 10 * MIB, "{:?}", node.store.usage());
    assert!(node.store.usage().peak <= 3 * MIB, "{:?}", node.store.usage());
    node.start(2, &sink(false), read_all(15 * MIB));
    node.start(3, &sink(true), read_as_a_whole(15 * MIB));
    node.run();
    all_well(&node, &[2, 3, FIRST + 2]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_failures_are_invisible(
        failures in prop::collection::vec(0..4 * MIB, 1..5),
        more in 0..MIB,
        most in prop_oneof![1000..70_000usize, Just(3 << 20)],
        memory in prop_oneof![Just(2 * MIB), Just(64 * MIB)],
    ) {
        let longest = failures.iter().max().copied().unwrap_or(0);
        spares_readers(memory, &failures, longest + more, most);
    }
}

/// Writes a test stream with one byte that is not as it should be.
fn produce_wrong(ctx: &mut Context, length: u64, wrong: u64) -> Result<(), Error> {
    let bytes: Vec<u8> = (0..length).map(|at| byte_at(1, at) ^ u8::from(at == wrong)).collect();
    ctx.output("out")?.write_all(&bytes)
}

#[test]
fn a_different_byte_is_found_before_anything_new_is_readable() {
    for old in [1, 5000, BLOCK, BLOCK + 1, 3 * MIB + 9] {
        for wrong in [0, BLOCK - 1, BLOCK, BLOCK + 1, old - 1, old] {
            if wrong > old {
                continue;
            }
            let mut node = node(64 * MIB, &[(2, &sink(false))]);
            let (seen, reader_saw) = std::sync::mpsc::channel();
            node.start(2, &sink(false), move |ctx| {
                let mut input = ctx.input("in")?;
                while let Some(chunk) = input.chunk()? {
                    let _ = seen.send(chunk.len() as u64);
                }
                Ok(())
            });
            fail_at(&mut node, 0, old, 50_000);
            attempt(&mut node, 1, move |ctx| produce_wrong(ctx, old + MIB, wrong));
            if wrong == old {
                node.run();
                assert!(!diverged(&node), "what nobody has read may be anything");
                assert_eq!(reader_saw.iter().sum::<u64>(), old + MIB);
            } else {
                node.run_until(diverged);
                assert!(reader_saw.try_iter().sum::<u64>() <= old, "{old} {wrong}");
                assert_eq!(node.misbehaved, []);
            }
        }
    }
}

#[test]
fn after_a_difference_everything_begins_again() {
    let (plain, length) = (sink(false), 2 * MIB);
    let mut node = node(64 * MIB, &[(2, &plain)]);
    fail_at(&mut node, 0, MIB, 50_000);
    attempt(&mut node, 1, move |ctx| produce_wrong(ctx, length, 10));
    node.run_until(diverged);
    node.store.end(now(), ProcessId(u64::from(FIRST) + 1), false);
    node.store.abort(STREAM);
    node.store.reopen_stream(STREAM, false);
    node.store.remember(STREAM);
    node.events.clear();
    node.start(FIRST + 2, &source(), move |ctx| produce(ctx, "out", 1, length, 50_000));
    node.start(2, &plain, read_all(length));
    node.run_until(|node| node.is_gone(2) && node.is_gone(FIRST + 2));
    assert_eq!(node.outcomes[&ProcessId(2)], Ok(()));
    assert!(!diverged(&node));
}

#[test]
fn an_earlier_end_is_a_difference() {
    for (old, new) in [(1, 0), (5000, 4999), (BLOCK + 1, BLOCK), (3 * MIB, MIB), (3 * MIB, 3 * MIB - 1)] {
        let mut node = node(64 * MIB, &[(2, &sink(false))]);
        fail_at(&mut node, 0, old, 50_000);
        attempt(&mut node, 1, move |ctx| produce(ctx, "out", 1, new, 50_000));
        node.run_until(diverged);
        assert!(!node.is_gone(FIRST + 1), "it is told before the attempt's end");
        assert!(!node.events.iter().any(|event| matches!(event, StoreEvent::Finished(..))));
    }
}

fn finish_and_fail(ctx: &mut Context, length: u64) -> Result<(), Error> {
    let mut out = ctx.output("out")?;
    out.write_all(&(0..length).map(|at| byte_at(1, at)).collect::<Vec<u8>>())?;
    out.finish()?;
    Err(Error::new("it was told to fail"))
}

/// The first attempt finishes the stream and then fails.
#[test]
fn a_finished_stream_has_the_same_length_again() {
    for (old, new) in [(0, 0), (0, 1), (5000, 5000), (5000, 5001), (MIB, MIB), (MIB, MIB + 1), (MIB, 9 * MIB)] {
        let mut node = node(64 * MIB, &[(2, &sink(false)), (3, &sink(false))]);
        node.start(2, &sink(false), read_all(old));
        attempt(&mut node, 0, move |ctx| finish_and_fail(ctx, old));
        node.run();
        attempt(&mut node, 1, move |ctx| produce(ctx, "out", 1, new, 50_000));
        if new == old {
            node.run();
            node.start(3, &sink(false), read_all(old));
            node.run();
            all_well(&node, &[2, 3, FIRST + 1]);
        } else {
            node.run_until(diverged);
        }
    }
}

/// Its readers have all they wanted, but the function has not succeeded yet.
#[test]
fn an_attempt_whose_readers_have_read_everything_is_not_unread() {
    for new in [5000, 4000] {
        let mut node = node(64 * MIB, &[(2, &sink(false))]);
        node.start(2, &sink(false), read_all(5000));
        attempt(&mut node, 0, |ctx| finish_and_fail(ctx, 5000));
        node.run();
        attempt(&mut node, 1, move |ctx| produce(ctx, "out", 1, new, 1000));
        if new == 5000 {
            node.run();
            all_well(&node, &[2, FIRST + 1]);
        } else {
            node.run_until(diverged);
        }
    }
}

/// A producer that asks for room before it knows whether there is more, as one that reads a pipe does.
#[test]
fn asking_for_room_at_the_end_is_no_difference() {
    let mut node = node(64 * MIB, &[(2, &sink(false))]);
    node.start(2, &sink(false), read_all(5000));
    let work = |fail: bool| {
        move |ctx: &mut Context| {
            let mut out = ctx.output("out")?;
            out.write_all(&(0..5000).map(|at| byte_at(1, at)).collect::<Vec<u8>>())?;
            out.reserve(1)?;
            out.finish()?;
            if fail { Err(Error::new("it was told to fail")) } else { Ok(()) }
        }
    };
    attempt(&mut node, 0, work(true));
    node.run_until(|node| node.is_gone(FIRST));
    attempt(&mut node, 1, work(false));
    node.run();
    all_well(&node, &[2, FIRST + 1]);
}

#[test]
fn an_attempt_that_nobody_reads_any_more_is_told_so() {
    for old in [3000, MIB] {
        let mut node = node(64 * MIB, &[(2, &sink(false))]);
        node.start(2, &sink(false), |ctx| {
            ctx.input("in")?.chunk()?;
            Ok(())
        });
        attempt(&mut node, 0, move |ctx| {
            let mut out = ctx.output("out")?;
            out.write_all(&vec![7; old as usize])?;
            Err(Error::new("it was told to fail"))
        });
        node.run();
        attempt(&mut node, 1, |ctx| produce(ctx, "out", 1, 100 * MIB, 50_000));
        node.run();
        assert!(matches!(&node.outcomes[&ProcessId(u64::from(FIRST) + 1)], Err((_, true))), "{:?}", node.outcomes);
        assert!(!diverged(&node), "nobody would notice");
    }
}

/// A hostile attempt lowers its watermark after its reader has seen it.
#[test]
fn a_watermark_that_was_taken_back_cannot_be_continued() {
    let mut node = node(64 * MIB, &[(2, &sink(false))]);
    let (seen, has_seen) = std::sync::mpsc::channel();
    node.start(2, &sink(false), move |ctx| {
        let mut input = ctx.input("in")?;
        let length = input.chunk()?.map_or(0, <[u8]>::len);
        let _ = seen.send(length);
        input.chunk().map(|_| ())
    });
    node.start_raw(FIRST, &source(), move |socket| {
        let control = Control::create().unwrap();
        let hello = ToDaemon::Hello { version: PROTOCOL_VERSION }.encode().unwrap();
        channel::send(socket.as_fd(), &hello, &[control.segment().as_fd()], true).unwrap();
        let publish = |offset| control.port(PortId(0)).progress.store(Progress::open(offset).encode(), SeqCst);
        publish(5000);
        let first = ToDaemon::FirstBytes { port: PortId(0) }.encode().unwrap();
        channel::send(socket.as_fd(), &first, &[], true).unwrap();
        assert_eq!(has_seen.recv().unwrap(), 5000);
        publish(1000);
    });
    node.run_until(|node| node.is_gone(FIRST) && node.store.is_waiting(ProcessId(2)));
    attempt(&mut node, 1, |ctx| produce(ctx, "out", 1, 9000, 1000));
    node.run_until(diverged);
    // The liar is, if the store had looked before it took its words back.
    let is_liar = |(process, _): &(ProcessId, String)| *process == ProcessId(u64::from(FIRST));
    assert!(node.misbehaved.iter().all(is_liar), "the reader is not to blame: {:?}", node.misbehaved);
}

/// Tiny streams stay in their slots of the arena, whichever attempt writes them.
#[test]
fn a_thousand_tiny_streams_are_continued() {
    const COUNT: u32 = 1000;
    let streams: Vec<u32> = (1..=COUNT).collect();
    let producer = Function { outputs: vec![("parts", streams.clone())], ..Function::default() };
    let reader = Function { inputs: vec![("parts", streams.clone(), false)], ..Function::default() };
    let mut node = Node::new(64 * MIB);
    node.plan(&streams, &[(2, &reader)]);
    let write = |each: usize, fail: bool| {
        move |ctx: &mut Context| {
            for (part, out) in ctx.outputs("parts")?.iter_mut().enumerate() {
                out.write_all(&vec![part as u8; each + part % 3])?;
            }
            if fail { Err(Error::new("it was told to fail")) } else { Ok(()) }
        }
    };
    for &stream in &streams {
        node.store.remember(key(stream));
    }
    node.start(2, &reader, |ctx| {
        let mut parts = ctx.inputs("parts")?;
        let mut number = 0usize;
        while let Some(mut input) = parts.next()? {
            let mut bytes = 0;
            while let Some(chunk) = input.chunk()? {
                if chunk.iter().any(|&byte| byte != number as u8) {
                    return Err(Error::new(format!("part {number} is wrong")));
                }
                bytes += chunk.len();
            }
            if bytes != 100 + number % 3 {
                return Err(Error::new(format!("part {number} has {bytes} bytes")));
            }
            number += 1;
        }
        Ok(())
    });
    node.start(FIRST, &producer, write(60, true));
    node.run_until(|node| node.is_gone(FIRST));
    for &stream in &streams {
        node.store.continue_stream(now(), key(stream), false);
    }
    node.start(FIRST + 1, &producer, write(100, false));
    node.run();
    all_well(&node, &[2, FIRST + 1]);
    assert!(node.store.usage().peak <= 16 * MIB, "{:?}", node.store.usage());
}
