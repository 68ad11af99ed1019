//! Ports in an event loop: a descriptor becomes readable when they can go on, and no event is lost.

use dflow_ports::{Armed, FanIn, InPort, Next, OutPort, OutputStreams, Poller, Port, Session};
use dflow_testkit::node::{Function, Node, byte_at, produce};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::channel;

const MIB: u64 = 1 << 20;

/// Waits for the descriptor, as an event loop does.
fn poll_for_event(poller: &Poller) {
    let minute = Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(poller, PollFlags::IN)], Some(&minute)).unwrap(), 1, "no event within a minute");
}

/// Waits until one of the ports may be able to go on.
fn wait(poller: &mut Poller, ports: &mut [&mut dyn Port]) {
    if poller.arm(ports).unwrap() == Armed::Waiting {
        poll_for_event(poller);
        poller.disarm(ports);
    }
}

fn is_silent(poller: &Poller) -> bool {
    poll(&mut [PollFd::new(poller, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 0
}

fn open(socket: OwnedFd) -> (Arc<Session>, Poller) {
    let session = Session::open(socket).unwrap();
    session.wait_for_start().unwrap();
    let poller = Poller::new(&session).unwrap();
    (session, poller)
}

/// A producer and a reader that never block but in poll(2), through arena, rings and back-pressure both ways.
#[test]
fn both_ends_in_event_loops() {
    const LENGTH: u64 = 12 * MIB;
    let mut node = Node::new(8 * MIB);
    let write = Function { outputs: vec![("out", vec![1])], ..Function::default() };
    let read = Function { inputs: vec![("in", vec![1], false)], ..Function::default() };
    node.plan(&[1], &[(2, &read)]);
    let (done, ended) = channel();
    let tell = done.clone();
    node.start_raw(1, &write, move |socket| {
        let (session, mut poller) = open(socket);
        let OutputStreams::Single(port) = session.setup().outputs[0].streams else { panic!("one stream") };
        let mut output = OutPort::new(Arc::clone(&session), "out".into(), port);
        let (mut at, mut step) = (0, 1);
        while at < LENGTH {
            step = (step * 7 + 13) % 100_000 + 1;
            let bytes: Vec<u8> = (at..LENGTH.min(at + step)).map(|at| byte_at(1, at)).collect();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match output.try_write(rest).unwrap() {
                    0 => wait(&mut poller, &mut [&mut output]),
                    written => rest = &rest[written..],
                }
            }
            at += bytes.len() as u64;
        }
        output.finish().unwrap();
        session.end(Ok(()), false).unwrap();
        tell.send(()).unwrap();
    });
    node.start_raw(2, &read, move |socket| {
        let (session, mut poller) = open(socket);
        let mut streams = FanIn::<InPort>::new(Arc::clone(&session), "in".into(), 0, false);
        let mut input = loop {
            match streams.try_next().unwrap() {
                Next::Ready(input) => break input,
                Next::End => panic!("there is a stream"),
                Next::WouldBlock => {
                    if poller.arm_fan_in(&mut streams).unwrap() == Armed::Waiting {
                        poll_for_event(&poller);
                        poller.disarm_fan_in(&mut streams);
                    }
                }
            }
        };
        let mut at = 0;
        loop {
            match input.try_next_chunk().unwrap() {
                Next::Ready(chunk) => {
                    assert!(chunk.iter().zip(at..).all(|(byte, at)| *byte == byte_at(1, at)));
                    at += chunk.len() as u64;
                }
                Next::End => break,
                Next::WouldBlock => wait(&mut poller, &mut [&mut input]),
            }
        }
        assert_eq!(at, LENGTH);
        session.end(Ok(()), false).unwrap();
        done.send(()).unwrap();
    });
    node.run();
    assert_eq!(ended.iter().count(), 2, "neither has panicked");
    assert_eq!(node.misbehaved, []);
}

/// Any of several streams, until all have ended; in the order in which bytes come.
#[test]
fn a_fan_in_of_many_streams() {
    const STREAMS: u32 = 40;
    let mut node = Node::new(64 * MIB);
    let streams: Vec<u32> = (1..=STREAMS).collect();
    let read = Function { inputs: vec![("in", streams.clone(), false)], ..Function::default() };
    node.plan(&streams, &[(1000, &read)]);
    for &stream in &streams {
        let write = Function { outputs: vec![("out", vec![stream])], ..Function::default() };
        node.start(stream, &write, move |ctx| produce(ctx, "out", stream, 300_000, 50_000));
    }
    let (done, ended) = channel();
    node.start_raw(1000, &read, move |socket| {
        let (session, mut poller) = open(socket);
        let mut streams = FanIn::<InPort>::new(Arc::clone(&session), "in".into(), 0, false);
        let mut total = 0;
        loop {
            match streams.try_ready().unwrap() {
                Next::Ready((number, input)) => {
                    let at = input.position();
                    let Next::Ready(chunk) = input.try_next_chunk().unwrap() else { continue };
                    assert!(chunk.iter().zip(at..).all(|(byte, at)| *byte == byte_at(number + 1, at)));
                    total += chunk.len() as u64;
                }
                Next::End => break,
                Next::WouldBlock => {
                    if poller.arm_fan_in(&mut streams).unwrap() == Armed::Waiting {
                        poll_for_event(&poller);
                        poller.disarm_fan_in(&mut streams);
                    }
                }
            }
        }
        assert_eq!(total, u64::from(STREAMS) * 300_000);
        session.end(Ok(()), false).unwrap();
        done.send(()).unwrap();
    });
    node.run();
    ended.recv().expect("the reader has not panicked");
}

/// After disarming, the descriptor is not readable, whatever happens; an interrupt makes it readable.
#[test]
fn a_disarmed_descriptor_is_silent() {
    let mut node = Node::new(16 * MIB);
    let write = Function { outputs: vec![("out", vec![1])], ..Function::default() };
    let read = Function { inputs: vec![("in", vec![1], false)], ..Function::default() };
    node.plan(&[1], &[(2, &read)]);
    let (go, gate) = channel::<()>();
    node.start(1, &write, move |ctx| {
        let mut out = ctx.output("out")?;
        while gate.recv().is_ok() {
            out.write_all(b"x")?;
        }
        Ok(())
    });
    let (done, ended) = channel();
    node.start_raw(2, &read, move |socket| {
        let (session, mut poller) = open(socket);
        let mut streams = FanIn::<InPort>::new(Arc::clone(&session), "in".into(), 0, false);
        let Next::Ready(mut input) = streams.try_next().unwrap() else { panic!("there is a stream") };
        for round in 0..300 {
            // Armed and disarmed while the byte comes, before it, or after it.
            while matches!(input.try_next_chunk().unwrap(), Next::Ready(_)) {}
            let armed = poller.arm(&mut [&mut input]).unwrap();
            go.send(()).unwrap();
            if armed == Armed::Waiting && round % 3 > 0 {
                poll_for_event(&poller);
            }
            poller.disarm(&mut [&mut input]);
            assert!(is_silent(&poller), "round {round}");
            while !matches!(input.try_next_chunk().unwrap(), Next::Ready(_)) {
                wait(&mut poller, &mut [&mut input]);
            }
        }
        let interrupter = session.interrupter();
        while poller.arm(&mut [&mut input]).unwrap() == Armed::Ready {
            let _ = input.try_next_chunk().unwrap();
        }
        interrupter.interrupt();
        poll_for_event(&poller);
        poller.disarm(&mut [&mut input]);
        assert_eq!(poller.arm(&mut [&mut input]).unwrap(), Armed::Ready, "interrupted until it is cleared");
        drop((go, poller));
        session.end(Ok(()), false).unwrap();
        done.send(()).unwrap();
    });
    node.run();
    ended.recv().expect("the reader has not panicked");
}
