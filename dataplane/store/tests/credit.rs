//! Credit and memory in workflows of any shape: in whichever order functions read, every byte arrives, no function
//! waits for ever, and memory stays within the budget and the least that every stream must have.

use dflow_function::{Context, Error, Input, Output};
use dflow_protocol::limits::{ARENA_SLOT, MIN_WINDOW};
use dflow_store::ProcessId;
use dflow_testkit::node::{Function, Node, byte_at, key, now, produce, verify};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1 << 20;
const INPUTS: [&str; 4] = ["i0", "i1", "i2", "i3"];
const OUTPUTS: [&str; 2] = ["o0", "o1"];

/// How a function reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Whichever input has bytes.
    Together,
    /// One input after the other, the first one first or last.
    Forwards,
    Backwards,
}

/// A function that reads streams of earlier ones, and writes in step with what it has read.
#[derive(Clone, Debug)]
struct Spec {
    /// Indices among the streams of earlier functions, to be taken modulo their number; and whether it wants a slice
    /// over everything.
    reads: Vec<(usize, bool)>,
    order: Order,
    /// Lengths of the streams that it writes.
    writes: Vec<u64>,
    /// How much it writes at once, at the most.
    chunk: usize,
    /// How long it rests after each chunk that it reads.
    pause: Duration,
    restartable: bool,
    /// How many steps of the node pass before it is started.
    late: usize,
    /// Until then, it waits for a slot.
    queued: bool,
}

impl Spec {
    /// Reads and writes everything.
    fn work(&self, ctx: &mut Context, reads: &[(u32, u64)], writes: &[(u32, u64)]) -> Result<(), Error> {
        let mut inputs = Vec::new();
        for (name, &(stream, length)) in INPUTS.iter().zip(reads) {
            inputs.push((ctx.input(name)?, stream, length));
        }
        if self.order == Order::Backwards {
            inputs.reverse();
        }
        let mut outputs = Vec::new();
        for (name, &(stream, length)) in OUTPUTS.iter().zip(writes) {
            outputs.push((ctx.output(name)?, stream, length, 0));
        }
        let all: u64 = reads.iter().map(|(_, length)| length).sum();
        let mut read = 0;
        while !inputs.is_empty() {
            let which = if self.order == Order::Together {
                let mut waiting: Vec<&mut Input> = inputs.iter_mut().map(|(input, ..)| input).collect();
                ctx.wait_any(&mut waiting)?.unwrap_or(0)
            } else {
                0
            };
            let (input, stream, length) = &mut inputs[which];
            let got = read_chunk(input, *stream)?;
            if got == 0 {
                if input.position() != *length {
                    return Err(Error::new(format!("stream {stream} ends at {}, not {length}", input.position())));
                }
                inputs.remove(which);
                continue;
            }
            read += got;
            write_up_to(
                &mut outputs,
                |length| (u128::from(length) * u128::from(read) / u128::from(all)) as u64,
                self.chunk,
            )?;
            if !self.pause.is_zero() {
                std::thread::sleep(self.pause);
            }
        }
        write_up_to(&mut outputs, |length| length, self.chunk)
    }
}

/// Reads what is there and checks it; 0 at the end.
fn read_chunk(input: &mut Input, stream: u32) -> Result<u64, Error> {
    let position = input.position();
    let Some(chunk) = input.chunk()? else { return Ok(0) };
    match chunk.iter().zip(position..).find(|(byte, at)| **byte != byte_at(stream, *at)) {
        Some((_, at)) => Err(Error::new(format!("stream {stream} has a wrong byte at {at}"))),
        None => Ok(chunk.len() as u64),
    }
}

/// Writes on in all streams in turn, each to where `target` of its length says.
fn write_up_to(
    outputs: &mut [(Output, u32, u64, u64)],
    target: impl Fn(u64) -> u64,
    chunk: usize,
) -> Result<(), Error> {
    loop {
        let mut written = false;
        for (output, stream, length, at) in &mut *outputs {
            let take = (target(*length) - *at).min(chunk as u64) as usize;
            if take > 0 {
                let mut room = output.reserve(take)?;
                for (byte, offset) in room[..take].iter_mut().zip(*at..) {
                    *byte = byte_at(*stream, offset);
                }
                room.commit(take)?;
                *at += take as u64;
                written = true;
            }
        }
        if !written {
            return Ok(());
        }
    }
}

/// Runs a workflow; an error says what went wrong.
fn run(budget: u64, specs: &[Spec]) -> Result<(), String> {
    let mut streams: Vec<(u32, u64)> = Vec::new();
    let mut functions = Vec::new();
    for (id, spec) in (1u32..).zip(specs) {
        let reads: Vec<(u32, u64)> = match streams.len() {
            0 => Vec::new(),
            known => spec.reads.iter().map(|(index, _)| streams[index % known]).collect(),
        };
        let first = streams.len() as u32 + 1;
        let writes: Vec<(u32, u64)> = (first..).zip(spec.writes.iter().copied()).collect();
        streams.extend(&writes);
        let function = Function {
            inputs: (INPUTS.iter().zip(&reads).zip(&spec.reads))
                .map(|((name, (stream, _)), (_, slice))| (*name, vec![*stream], *slice))
                .collect(),
            outputs: OUTPUTS.iter().zip(&writes).map(|(name, (stream, _))| (*name, vec![*stream])).collect(),
            restartable: spec.restartable,
            ..Function::default()
        };
        functions.push((id, function, reads, writes, spec.clone()));
    }
    let mut node = Node::new(budget);
    let ids: Vec<u32> = streams.iter().map(|(id, _)| *id).collect();
    let plan: Vec<(u32, &Function)> = functions.iter().map(|(id, function, ..)| (*id, function)).collect();
    node.plan(&ids, &plan);
    let readers: usize = functions.iter().map(|(_, _, reads, ..)| reads.len()).sum();
    functions.sort_by_key(|(.., spec)| spec.late);
    let mut steps = 0;
    let mut queued = VecDeque::new();
    for (id, function, reads, writes, spec) in functions {
        if spec.queued {
            queued.push_back((spec.late, id));
            node.queue(id, &function, move |ctx| spec.work(ctx, &reads, &writes));
            continue;
        }
        while steps < spec.late {
            node.step();
            steps += 1;
            while queued.front().is_some_and(|(late, _)| *late <= steps) {
                queued.pop_front().into_iter().for_each(|(_, id)| node.get_slot(id));
            }
        }
        node.start(id, &function, move |ctx| spec.work(ctx, &reads, &writes));
    }
    for (late, id) in queued {
        while steps < late {
            node.step();
            steps += 1;
        }
        node.get_slot(id);
    }
    node.run_within(Duration::from_secs(30))?;
    for (process, outcome) in &node.outcomes {
        if let Err((reason, _)) = outcome {
            return Err(format!("{process:?}: {reason}"));
        }
    }
    if !node.misbehaved.is_empty() {
        return Err(format!("{:?}", node.misbehaved));
    }
    // Beyond any budget: the first bytes of every stream, the window that is written, and one for each reader.
    let window = specs.iter().map(|spec| (spec.chunk as u64).next_power_of_two()).max().unwrap_or(0).max(MIN_WINDOW);
    let least = (ARENA_SLOT + window) * streams.len() as u64 + window * readers as u64;
    let peak = node.store.usage().peak;
    if peak > budget + least {
        return Err(format!("{peak} bytes of memory with a budget of {budget} and {least} for what must be"));
    }
    Ok(())
}

fn spec() -> impl Strategy<Value = Spec> {
    let length = prop_oneof![Just(0), 1..200_000u64, 200_000..3_000_000u64];
    let order = prop_oneof![Just(Order::Together), Just(Order::Forwards), Just(Order::Backwards)];
    let chunk = prop_oneof![2 => 1000..10_000usize, 2 => 10_000..60_000usize, 1 => 60_000..200_000usize];
    let pause = prop_oneof![4 => Just(0u64), 1 => 1..2000u64];
    (
        prop::collection::vec((any::<usize>(), prop::bool::weighted(0.15)), 1..=INPUTS.len()),
        order,
        prop::collection::vec(length, 0..=OUTPUTS.len()),
        chunk,
        pause,
        prop::bool::weighted(0.2),
        prop_oneof![2 => Just(0usize), 1 => 1..60usize],
        any::<bool>(),
    )
        .prop_map(|(reads, order, writes, chunk, pause, restartable, late, queued)| Spec {
            reads,
            order,
            writes,
            chunk,
            pause: Duration::from_micros(pause),
            restartable,
            late,
            queued,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_with_any_budget(
        budget in prop_oneof![Just(256 * KIB), 300 * KIB..MIB, MIB..8 * MIB],
        specs in prop::collection::vec(spec(), 2..7),
    ) {
        let ran = run(budget, &specs);
        prop_assert_eq!(ran, Ok(()));
    }
}

fn source(writes: &[u64]) -> Spec {
    Spec {
        reads: Vec::new(),
        order: Order::Forwards,
        writes: writes.to_vec(),
        chunk: 30_000,
        pause: Duration::ZERO,
        restartable: false,
        late: 0,
        queued: false,
    }
}

/// Bytes that a restartable consumer has read are on disk, not in memory, although it was attached to all of them.
#[test]
fn a_restartable_reader_holds_no_memory() {
    let reader = Spec { reads: vec![(0, false)], writes: vec![20 * MIB], restartable: true, ..source(&[]) };
    assert_eq!(run(2 * MIB, &[source(&[20 * MIB]), reader]), Ok(()));
}

/// So are bytes that all running consumers have read, but that are kept for later ones.
#[test]
fn what_is_kept_for_others_holds_no_memory() {
    let (budget, length) = (2 * MIB, 20 * MIB);
    let mut node = Node::new(budget);
    let source = Function { outputs: vec![("out", vec![1])], ..Function::default() };
    let reader = Function { inputs: vec![("in", vec![1], false)], ..Function::default() };
    node.plan(&[1], &[(2, &reader)]);
    node.store.reopen_stream(key(1), true);
    node.start(2, &reader, |ctx| verify(&mut ctx.input("in")?, 1).map(|_| ()));
    node.start(1, &source, move |ctx| produce(ctx, "out", 1, length, 30_000));
    node.run();
    assert!(node.outcomes.values().all(Result::is_ok), "{:?}", node.outcomes);
    let usage = node.store.usage();
    // Beyond the budget: the window that is written, and the one that is read.
    assert!(usage.peak <= budget + ARENA_SLOT + 2 * MIN_WINDOW, "{usage:?}");
    assert!(usage.spilled >= length - budget, "{usage:?}");
}

/// A reader that only waits for a slot gets one when its producer waits: the disk is not needed.
#[test]
fn a_producer_waits_for_a_reader_without_a_slot() {
    let (budget, length) = (16 * MIB, 64 * MIB);
    let mut node = Node::new(budget);
    let source = Function { outputs: vec![("out", vec![1])], ..Function::default() };
    let reader = Function { inputs: vec![("in", vec![1], false)], ..Function::default() };
    node.plan(&[1], &[(2, &reader)]);
    node.queue(2, &reader, |ctx| verify(&mut ctx.input("in")?, 1).map(|_| ()));
    node.start(1, &source, move |ctx| produce(ctx, "out", 1, length, 30_000));
    let producer = ProcessId(1);
    node.run_until(|node| node.store.is_waiting(producer) || node.is_gone(1));
    // Also if much time passes: a reader that runs counts as stuck after a tenth of a second.
    let end = now() + Duration::from_millis(300);
    while now() < end {
        node.step();
    }
    let usage = node.store.usage();
    assert!(node.store.is_waiting(producer) && usage.spilled == 0 && usage.memory < budget / 2, "{usage:?}");
    node.get_slot(2);
    node.run();
    assert!(node.outcomes.values().all(Result::is_ok), "{:?}", node.outcomes);
    assert_eq!(node.store.usage().spilled, 0);
}

/// A slice over everything consists of the spill file where there is no memory for it.
#[test]
fn a_slicing_reader_holds_no_more_memory_than_there_is() {
    let slow = Duration::from_micros(300);
    let reader = Spec { reads: vec![(0, true)], ..source(&[]) };
    let other = Spec { reads: vec![(0, false)], pause: slow, ..source(&[]) };
    assert_eq!(run(2 * MIB, &[source(&[20 * MIB]), reader.clone()]), Ok(()));
    assert_eq!(run(2 * MIB, &[source(&[10 * MIB]), reader.clone(), other, reader]), Ok(()));
}

/// Many stuck readers, each of a stream whose producer must continue.
#[test]
fn stuck_readers_hold_a_least_window_each() {
    // Each of the first ones writes two streams in step; the last function reads all second ones before the first ones.
    let mut specs = vec![source(&[3 * MIB, 3 * MIB]), source(&[3 * MIB, 3 * MIB])];
    specs.push(Spec { reads: vec![(1, false), (3, false), (0, false), (2, false)], ..source(&[]) });
    specs.push(Spec { reads: vec![(2, false), (0, false), (3, false), (1, false)], ..source(&[]) });
    assert_eq!(run(512 * KIB, &specs), Ok(()));
}

/// A reservation must be contiguous, and so may take more than is left of the budget.
#[test]
fn a_large_write_does_not_wait_for_memory_that_nobody_gives_back() {
    // The first bytes of four streams, and no more than those, are in memory for good.
    let large = Spec { reads: vec![(1, false)], chunk: 158_750, ..source(&[103_110, 3 * MIB]) };
    assert_eq!(run(256 * KIB, &[source(&[84_390, 14_037]), large]), Ok(()));
}
