//! Streams from functions on one store to functions on another, through real carriers and a simulated network.

mod cluster;

use cluster::Cluster;
use dflow_function::Error;
use dflow_store::ProcessId;
use dflow_testkit::node::{Function, produce, verify};
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn expect(have: u64, want: u64) -> Result<(), Error> {
    if have == want { Ok(()) } else { Err(Error::new(format!("{have} bytes instead of {want}"))) }
}

/// A function that writes stream `stream`.
fn source(stream: u32) -> Function {
    Function { outputs: vec![("out", vec![stream])], ..Function::default() }
}

/// A function that reads stream `stream`.
fn sink(stream: u32) -> Function {
    Function { inputs: vec![("in", vec![stream], false)], ..Function::default() }
}

fn start_source(cluster: &Cluster, node: usize, id: u32, stream: u32, length: u64) {
    cluster
        .on(node, move |node| node.start(id, &source(stream), move |ctx| produce(ctx, "out", stream, length, 90_000)));
}

fn start_sink(cluster: &Cluster, node: usize, id: u32, stream: u32, length: u64) {
    cluster.on(node, move |node| {
        node.start(id, &sink(stream), move |ctx| {
            let mut input = ctx.input("in")?;
            expect(verify(&mut input, stream)?, length)
        });
    });
}

#[test]
fn streams_of_every_length_cross() {
    let lengths = [0, 1, 4096, 65_535, 65_536, 65_537, MIB, 3 * MIB + 17, 20 * MIB];
    let mut cluster = Cluster::new(2, 64 * MIB);
    for (stream, length) in (1..).zip(lengths) {
        cluster.cross(stream, 0, 1, &[(stream + 100, 0)]);
        start_source(&cluster, 0, stream, stream, length);
        start_sink(&cluster, 1, stream + 100, stream, length);
    }
    cluster.finish();
}

#[test]
fn streams_that_wait_for_their_first_byte_take_no_memory() {
    const STREAMS: u32 = 30_000;
    let mut cluster = Cluster::new(2, 64 * MIB);
    let all: Vec<u32> = (1..=STREAMS).collect();
    cluster.cross_all(&all, 0, 1, &[(STREAMS + 1, 0)]);
    // A stream after all of them has room.
    start_source(&cluster, 0, STREAMS, STREAMS, MIB);
    start_sink(&cluster, 1, STREAMS + 1, STREAMS, MIB);
    cluster.until(1, |node| node.store.traffic(dflow_testkit::node::CARRIER).written == MIB);
    let peak = cluster.on(1, |node| node.store.usage().peak);
    assert!(peak < 8 * MIB, "{peak} bytes");
    cluster.finish();
}

#[test]
fn many_readers_on_a_node_cost_one_crossing() {
    let mut cluster = Cluster::new(2, 64 * MIB);
    let length = 5 * MIB;
    cluster.cross(1, 0, 1, &[(101, 0), (102, 0), (103, 0)]);
    start_source(&cluster, 0, 1, 1, length);
    (101..=103).for_each(|id| start_sink(&cluster, 1, id, 1, length));
    let traffic = cluster.finish();
    assert!(traffic.sent >= length && traffic.sent < length + MIB, "{traffic:?}");
}

#[test]
fn a_node_forwards_streams() {
    let mut cluster = Cluster::new(3, 64 * MIB);
    let length = 8 * MIB;
    cluster.cross(1, 0, 1, &[(101, 0)]);
    cluster.pass_on(1, 1, 2, &[(102, 0)]);
    start_source(&cluster, 0, 1, 1, length);
    start_sink(&cluster, 1, 101, 1, length);
    start_sink(&cluster, 2, 102, 1, length);
    let traffic = cluster.finish();
    assert!(traffic.sent < length + MIB, "the producer's link carried it once: {traffic:?}");
}

/// Four nodes get it, each from the one before.
#[test]
fn a_broadcast_costs_its_producers_link_about_one_crossing() {
    let mut cluster = Cluster::new(5, 64 * MIB);
    let length = 8 * MIB;
    cluster.cross(1, 0, 1, &[(101, 0)]);
    (2..5).for_each(|node| cluster.pass_on(1, node - 1, node, &[(100 + node as u32, 0)]));
    start_source(&cluster, 0, 1, 1, length);
    (1..5).for_each(|node| start_sink(&cluster, node, 100 + node as u32, 1, length));
    let traffic = cluster.finish();
    assert!(traffic.sent >= length && traffic.sent < length + MIB, "{traffic:?}");
    assert_eq!(cluster.traffic_of(0), traffic.sent, "only to the first of them");
}

#[test]
fn a_stream_that_cannot_be_read_any_more_is_reported_and_aborted() {
    let mut cluster = Cluster::new(2, 16 * MIB);
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(2 * MIB).expect("room");
    let input = file.reopen().expect("a descriptor");
    cluster.cross(1, 0, 1, &[(101, 0)]);
    cluster.cross_file(2, 0, 1, 102, input, 3 * MIB);
    cluster.on(1, |node| {
        node.start(102, &sink(2), |ctx| {
            let mut input = ctx.input("in")?;
            while input.chunk()?.is_some() {}
            Ok(())
        });
    });
    cluster.until_reported(0, "ExportFailed");
    // Another stream of the run goes on.
    start_source(&cluster, 0, 1, 1, MIB);
    start_sink(&cluster, 1, 101, 1, MIB);
    cluster.until(1, |node| node.outcomes.values().any(Result::is_ok));
    cluster.until_crossing(0, 1, 0);
    cluster.kill(1, 102);
    cluster.finish();
}

#[test]
fn a_reader_that_comes_late_finds_everything_and_the_producer_has_not_waited() {
    let mut cluster = Cluster::new(2, 8 * MIB);
    let length = 40 * MIB;
    cluster.cross(1, 0, 1, &[(101, 0)]);
    start_source(&cluster, 0, 1, 1, length);
    cluster.until(0, |node| node.outcomes.len() == 1);
    let here = cluster.on(0, |node| node.store.usage());
    let there = cluster.on(1, |node| node.store.usage());
    assert!(here.spilled > 20 * MIB, "it is kept where it is written: {here:?}");
    assert!(there.spilled == 0 && there.peak <= 4 * MIB, "it has no reader here yet: {there:?}");
    start_sink(&cluster, 1, 101, 1, length);
    cluster.finish();
}

#[test]
fn a_slow_reader_slows_its_producer_on_the_other_node() {
    let mut cluster = Cluster::new(2, 32 * MIB);
    let length = 24 * MIB;
    cluster.cross(1, 0, 1, &[(101, 0)]);
    start_source(&cluster, 0, 1, 1, length);
    cluster.on(1, move |node| {
        node.start(101, &sink(1), move |ctx| {
            let mut input = ctx.input("in")?;
            let mut read = 0;
            while let Some(chunk) = input.chunk()? {
                // Slower than the network, and always on its way.
                read += chunk.len() as u64;
                std::thread::sleep(Duration::from_millis(2));
            }
            expect(read, length)
        });
    });
    cluster.finish();
    let here = cluster.on(0, |node| node.store.usage());
    assert_eq!(here.spilled, 0, "it waits instead: {here:?}");
    assert!(here.peak <= 12 * MIB, "{here:?}");
}

/// The diamond of the design, over two nodes: A feeds B and C, both feed D, D reads B first.
#[test]
fn a_diamond_over_two_nodes_does_not_stop() {
    let mut cluster = Cluster::new(2, 4 * MIB);
    let length = 12 * MIB;
    let copy = |from: u32, to: u32| Function {
        inputs: vec![("in", vec![from], false)],
        outputs: vec![("out", vec![to])],
        ..Function::default()
    };
    let join = Function { inputs: vec![("b", vec![2], false), ("c", vec![3], false)], ..Function::default() };
    cluster.cross(1, 0, 1, &[(102, 0), (103, 0)]);
    cluster.cross(2, 1, 0, &[(4, 0)]);
    cluster.cross(3, 1, 0, &[(4, 1)]);
    start_source(&cluster, 0, 1, 1, length);
    for (id, to) in [(102, 2), (103, 3)] {
        cluster.on(1, move |node| {
            node.start(id, &copy(1, to), move |ctx| {
                let (mut input, mut output) = (ctx.input("in")?, ctx.output("out")?);
                while let Some(chunk) = input.chunk()? {
                    output.write_all(chunk)?;
                }
                Ok(())
            });
        });
    }
    cluster.on(0, move |node| {
        node.start(4, &join, move |ctx| {
            for name in ["b", "c"] {
                expect(verify(&mut ctx.input(name)?, 1)?, length)?;
            }
            Ok(())
        });
    });
    cluster.finish();
}

#[test]
fn a_reader_that_leaves_early_lets_the_producer_go() {
    let mut cluster = Cluster::new(2, 16 * MIB);
    cluster.cross(1, 0, 1, &[(101, 0)]);
    start_source(&cluster, 0, 1, 1, 1 << 40);
    cluster.on(1, |node| {
        node.start(101, &sink(1), |ctx| {
            let mut input = ctx.input("in")?;
            while input.position() < 2 * MIB {
                input.chunk()?;
            }
            Ok(())
        });
    });
    cluster.until(0, |node| node.outcomes.len() == 1);
    let outcome = cluster.on(0, |node| node.outcomes.values().next().cloned());
    assert!(matches!(outcome, Some(Err((_, true)))), "it is told that it has no reader: {outcome:?}");
}

#[test]
fn a_lost_path_does_not_affect_functions() {
    let mut cluster = Cluster::new(2, 16 * MIB);
    let length = 30 * MIB;
    cluster.cross(1, 0, 1, &[(101, 0)]);
    cluster.cross(2, 1, 0, &[(3, 0)]);
    start_source(&cluster, 0, 1, 1, length);
    start_source(&cluster, 1, 102, 2, length);
    start_sink(&cluster, 1, 101, 1, length);
    start_sink(&cluster, 0, 3, 2, length);
    for cut in 1..=4 {
        cluster.until_passed(cut * length / 5);
        cluster.cut();
        cluster.connect(0, 1);
    }
    cluster.finish();
}

#[test]
fn an_epoch_that_is_aborted_begins_again() {
    let mut cluster = Cluster::new(2, 16 * MIB);
    cluster.cross(1, 0, 1, &[(101, 0)]);
    // The first attempt fails after a while, whatever its readers have done with it.
    cluster.on(0, |node| {
        node.start(1, &source(1), |ctx| {
            produce(ctx, "out", 1, 3 * MIB, 50_000)?;
            Err(Error::new("it fails"))
        });
    });
    cluster.on(1, |node| {
        node.start(101, &sink(1), |ctx| verify(&mut ctx.input("in")?, 1).map(|_| ()));
    });
    cluster.until_passed(MIB);
    // The next epoch begins when nothing of the attempt runs any more.
    cluster.until(0, |node| node.is_gone(1));
    cluster.abort(1, 0, 1, 101, 102);
    let length = 4 * MIB;
    start_source(&cluster, 0, 2, 1, length);
    start_sink(&cluster, 1, 102, 1, length);
    cluster.until(0, |node| node.outcomes.len() == 2);
    cluster.until(1, |node| node.outcomes.values().any(Result::is_ok));
}

/// More streams than one sleep can watch, each with a little now and then, and something both ways.
#[test]
fn bytes_on_any_of_hundreds_of_idle_streams_arrive() {
    const STREAMS: u32 = 400;
    const ROUNDS: u32 = 12;
    let mut cluster = Cluster::new(2, 64 * MIB);
    let names: Vec<u32> = (10..10 + STREAMS).collect();
    cluster.cross_all(&names, 0, 1, &[(101, 0)]);
    cluster.cross(1, 1, 0, &[(5, 0)]);
    let source =
        Function { inputs: vec![("in", vec![1], false)], outputs: vec![("out", names.clone())], ..Function::default() };
    let sink = Function { inputs: vec![("in", names, false)], outputs: vec![("out", vec![1])], ..Function::default() };
    // A round begins when everything of the one before has arrived and all is idle again.
    cluster.on(0, move |node| {
        node.start(5, &source, |ctx| {
            let mut back = ctx.input("in")?;
            let mut parts = ctx.outputs("out")?;
            for round in 0..ROUNDS {
                let some = parts.iter_mut().enumerate().filter(|(part, _)| *part as u32 % ROUNDS == round);
                for (_, part) in some {
                    part.write_all(&[round as u8])?;
                }
                let done = back.chunk()?.map(<[u8]>::len);
                expect(done.unwrap_or(0) as u64, 1)?;
            }
            Ok(())
        });
    });
    cluster.on(1, move |node| {
        node.start(101, &sink, |ctx| {
            let mut back = ctx.output("out")?;
            let mut inputs = ctx.inputs("in")?;
            for round in 0..ROUNDS {
                for _ in 0..(0..STREAMS).filter(|part| part % ROUNDS == round).count() {
                    let (part, input) = inputs.ready()?.ok_or_else(|| Error::new("they have ended"))?;
                    expect(u64::from(part % ROUNDS), round.into())?;
                    let length = input.chunk()?.map_or(0, <[u8]>::len);
                    expect(length as u64, 1)?;
                }
                back.write_all(&[round as u8])?;
            }
            Ok(())
        });
    });
    cluster.finish();
}

/// However a stream ends, its ports are there for others, also while functions go on that have written or read it.
#[test]
fn ports_are_used_again_within_a_run() {
    const ROUNDS: u32 = 30;
    const STREAMS: u32 = 8;
    let mut cluster = Cluster::new(2, 64 * MIB);
    // One that is open all the time, and one that is never read.
    cluster.cross(1, 0, 1, &[(2, 0)]);
    cluster.cross(2, 0, 1, &[(3, 0)]);
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    cluster.on(0, move |node| {
        node.start(1, &source(1), move |ctx| {
            let mut out = ctx.output("out")?;
            out.write_all(&[1; 100_000])?;
            let _ = wait.recv();
            out.write_all(&[1; 100_000])
        });
    });
    start_source(&cluster, 0, 2, 2, 10_000);
    for round in 1..=ROUNDS {
        let streams = round * 100..round * 100 + STREAMS;
        for stream in streams.clone() {
            let (from, to) = if stream % 2 == 0 { (0, 1) } else { (1, 0) };
            cluster.cross(stream, from, to, &[(stream + 50, 0)]);
            match stream % 8 {
                // It fits into the first slot, needs windows, or is empty.
                0..4 => {
                    let length = [1, 300_000, 0, 65_536][stream as usize % 4];
                    start_source(&cluster, from, stream, stream, length);
                    start_sink(&cluster, to, stream + 50, stream, length);
                }
                // Its reader leaves early.
                4 | 5 => {
                    start_source(&cluster, from, stream, stream, 1 << 40);
                    cluster.on(to, move |node| {
                        node.start(stream + 50, &sink(stream), |ctx| ctx.input("in")?.chunk().map(|_| ()));
                    });
                }
                // Its epoch is aborted.
                _ => {
                    start_source(&cluster, from, stream, stream, 1 << 40);
                    start_sink(&cluster, to, stream + 50, stream, 0);
                    let reader = ProcessId(u64::from(stream) + 50);
                    cluster.until(to, move |node| node.store.traffic(reader).read > 0);
                    cluster.kill(from, stream);
                    cluster.kill(to, stream + 50);
                    cluster.abort(stream, from, to, stream + 50, stream + 60);
                    start_source(&cluster, from, stream + 10, stream, 200_000);
                    start_sink(&cluster, to, stream + 60, stream, 200_000);
                }
            }
        }
        for stream in streams.filter(|stream| stream % 8 == 4 || stream % 8 == 5) {
            let from = stream as usize % 2;
            cluster.until(from, move |node| node.is_gone(stream));
            cluster.kill(from, stream);
        }
        for node in 0..2 {
            let open = usize::from(node == 0);
            cluster.until(node, move |node| node.functions() == open);
        }
        cluster.until_crossing(0, 1, 1);
        cluster.until_crossing(1, 0, 0);
    }
    // Two streams are open at the end, and those of a round may overlap with those of the one before.
    for node in 0..2 {
        assert!(cluster.ports(node) <= 2 + 4 * STREAMS, "{} ports", cluster.ports(node));
    }
    drop(go_on);
    cluster.on(1, |node| {
        node.start(2, &sink(1), |ctx| {
            let mut input = ctx.input("in")?;
            while input.chunk()?.is_some() {}
            Ok(())
        });
    });
    start_sink(&cluster, 1, 3, 2, 10_000);
    cluster.finish();
}
