//! Owned views over the real store: what they show never changes, and what they cost a producer is what a slow reader costs.

use dflow_ports::{InPort, MAX_VIEWED, Next, Session, View, Waited};
use dflow_testkit::node::{Function, Node, byte_at, produce};
use proptest::prelude::*;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const STREAM: u32 = 1;

fn is_right(view: &View) -> bool {
    view.iter().zip(view.offset()..).all(|(byte, at)| *byte == byte_at(STREAM, at))
}

/// The only input of a session, which has started.
fn input(session: &Arc<Session>, keep: bool) -> InPort {
    let mut streams = dflow_ports::FanIn::<InPort>::new(Arc::clone(session), "in".into(), 0, keep);
    match streams.try_next().unwrap() {
        Next::Ready(input) => input,
        other => panic!("{:?}", matches!(other, Next::End)),
    }
}

/// Runs a producer of `length` bytes and a reader of them, `read`; the most memory may be `memory`.
fn run(memory: u64, length: u64, keep: bool, read: impl FnOnce(&Arc<Session>, InPort) + Send + 'static) {
    let mut node = Node::new(memory);
    let write = Function { outputs: vec![("out", vec![STREAM])], ..Function::default() };
    let reader = Function { inputs: vec![("in", vec![STREAM], keep)], ..Function::default() };
    node.plan(&[STREAM], &[(2, &reader)]);
    node.start(1, &write, move |ctx| produce(ctx, "out", STREAM, length, 200_000));
    let (done, ended) = channel();
    node.start_raw(2, &reader, move |socket: OwnedFd| {
        let session = Session::open(socket).unwrap();
        session.wait_for_start().unwrap();
        read(&session, input(&session, keep));
        session.end(Ok(()), false).unwrap();
        done.send(()).unwrap();
    });
    node.run();
    ended.recv().expect("the reader has not panicked");
    assert_eq!(node.misbehaved, []);
}

/// The next view, as soon as there is one.
fn next(session: &Session, input: &mut InPort, most: usize) -> Option<View> {
    loop {
        match input.try_next_view(most).unwrap() {
            Next::Ready(view) => return Some(view),
            Next::End => return None,
            Next::WouldBlock => assert_eq!(session.wait(input, None), Waited::Ready),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Views of any size are held across many commits, while the producer goes round its ring, and dropped in any order.
    #[test]
    fn views_never_change(
        sizes in prop::collection::vec(1usize..300_000, 1..20),
        held in 0usize..24,
        drops in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
        keep in any::<bool>(),
        length in (4 * MIB)..(12 * MIB),
    ) {
        run(64 * MIB, length, keep, move |session, mut input| {
            let (mut views, mut turn, mut seen) = (Vec::new(), 0, 0);
            while let Some(view) = next(session, &mut input, sizes[turn % sizes.len()]) {
                assert_eq!(view.offset(), seen);
                seen += view.len() as u64;
                views.push(view);
                turn += 1;
                while views.len() > held {
                    let view = views.swap_remove(drops[turn % drops.len()].index(views.len()));
                    let part = view.slice(view.len() / 3..view.len());
                    assert!(is_right(&view) && is_right(&part), "changed while it was held: {view:?}");
                }
            }
            assert_eq!(seen, length);
            drop(input);
            assert!(views.iter().all(is_right), "changed after the port was gone");
        });
    }
}

/// One view of the first bytes is kept to the end: the producer goes on, as it does past a reader that is stuck.
#[test]
fn a_view_that_is_kept_for_ever_does_not_stop_its_producer() {
    run(16 * MIB, 24 * MIB, false, |session, mut input| {
        let first = next(session, &mut input, 1000).unwrap();
        let mut late = None;
        while let Some(view) = next(session, &mut input, usize::MAX) {
            assert!(is_right(&view));
            // In a ring, once the arena's slot is behind.
            if view.offset() > 2 * MIB && late.is_none() {
                late = Some(view);
            }
        }
        assert!(is_right(&first) && is_right(&late.unwrap()));
    });
}

/// A view may outlive its port and the end of the attempt, and be read and dropped on another thread.
#[test]
fn a_view_outlives_port_and_session() {
    let (send, views) = channel::<View>();
    let checker = std::thread::spawn(move || {
        let views: Vec<View> = views.iter().collect();
        assert!(views.len() > 3 && views.iter().all(is_right));
    });
    run(64 * MIB, 3 * MIB, false, move |session, mut input| {
        while let Some(view) = next(session, &mut input, 100_000) {
            send.send(view).unwrap();
        }
    });
    checker.join().unwrap();
}

/// A wait on the port ends when a view is dropped elsewhere: its position has to be told to the producer.
#[test]
fn a_drop_on_another_thread_gives_the_room_back() {
    run(64 * MIB, 6 * MIB, false, |session, mut input| {
        let (send, views) = channel::<View>();
        let dropper = std::thread::spawn(move || views.iter().for_each(drop));
        let mut seen = 0;
        while let Some(view) = next(session, &mut input, 64 * 1024) {
            seen += view.len() as u64;
            send.send(view).unwrap();
        }
        drop(send);
        dropper.join().unwrap();
        assert_eq!(seen, 6 * MIB);
    });
}

/// Memory under views cannot be used for anything else, so beyond a limit they are copies.
#[test]
fn too_many_views_become_copies() {
    let length = MAX_VIEWED + 16 * MIB;
    run(256 * MIB, length, true, move |session, mut input| {
        let mut views = Vec::new();
        while let Some(view) = next(session, &mut input, usize::MAX) {
            views.push(view);
        }
        let mapped: u64 = views.iter().filter(|view| !view.is_copy()).map(|view| view.len() as u64).sum();
        let all: u64 = views.iter().map(|view| view.len() as u64).sum();
        assert!(mapped <= MAX_VIEWED && all == length, "{mapped} of {all} are mapped");
        assert!(views.iter().all(is_right));
        // The whole of a kept stream is no further memory.
        let whole = input.view_so_far().unwrap();
        drop((input, views));
        assert!(whole.len() as u64 == length && is_right(&whole));
    });
}

#[test]
fn waits_have_limits_and_can_be_interrupted() {
    let (first, second) = (channel::<()>(), channel::<()>());
    let mut node = Node::new(16 * MIB);
    let write = Function { outputs: vec![("out", vec![STREAM])], ..Function::default() };
    let reader = Function { inputs: vec![("in", vec![STREAM], false)], ..Function::default() };
    node.plan(&[STREAM], &[(2, &reader)]);
    let (go, tell) = (first.1, second.0);
    node.start(1, &write, move |ctx| {
        let _ = go.recv();
        ctx.output("out")?.write_all(b"late")
    });
    let (release, done) = (first.0, second.1);
    node.start_raw(2, &reader, move |socket| {
        let session = Session::open(socket).unwrap();
        session.wait_for_start().unwrap();
        let mut input = input(&session, false);
        let interrupter = session.interrupter();
        // The producer's piece may come meanwhile; it has no bytes.
        let silent = |input: &mut InPort, session: &Session| loop {
            assert!(matches!(input.try_next_chunk().unwrap(), Next::WouldBlock));
            match session.wait(input, Some(Duration::from_millis(5))) {
                Waited::Ready => {}
                waited => return waited,
            }
        };
        assert_eq!(silent(&mut input, &session), Waited::TimedOut);
        let other = interrupter.clone();
        let thread = std::thread::spawn(move || other.interrupt());
        assert!(matches!(input.try_next_chunk().unwrap(), Next::WouldBlock));
        assert_eq!(session.wait(&mut input, None), Waited::Interrupted);
        thread.join().unwrap();
        assert_eq!(session.wait(&mut input, None), Waited::Interrupted, "until it is cleared");
        interrupter.clear();
        release.send(()).unwrap();
        let view = next(&session, &mut input, 100).unwrap();
        assert_eq!(*view, *b"late");
        assert!(next(&session, &mut input, 100).is_none());
        session.end(Ok(()), false).unwrap();
        tell.send(()).unwrap();
    });
    node.run();
    done.recv().expect("the reader has not panicked");
}
