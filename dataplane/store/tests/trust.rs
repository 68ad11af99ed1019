//! Hostile control words: the process that wrote them is condemned, and no other is blamed.

mod pair;
mod sim;

use dflow_protocol::limits::PROTOCOL_VERSION;
use dflow_protocol::message::{Piece, ToDaemon, ToFunction};
use dflow_protocol::words::{Progress, State};
use dflow_shm::{Control, channel};
use dflow_store::StoreEvent;
use dflow_testkit::node::{Function, Node};
use pair::{PORT, PRODUCER, Pair, READER, STREAM};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

#[test]
fn a_reader_is_not_blamed_for_a_watermark_that_its_producer_took_back() {
    let mut pair = Pair::new();
    pair.publish(PRODUCER, 1000);
    pair.publish(READER, 1000);
    pair.publish(PRODUCER, 10);
    pair.say(READER, ToDaemon::NextPiece { port: PORT, at: 1000, lends: false });
    assert_eq!(pair.blamed(), []);
    // The producer is, once the store has observed its earlier watermark.
    pair.publish(PRODUCER, 1000);
    pair.say(PRODUCER, ToDaemon::NeedWindow { port: PORT, at: 1000, least: 100_000, held: false });
    assert_eq!(pair.blamed(), []);
    pair.publish(PRODUCER, 10);
    pair.say(PRODUCER, ToDaemon::FirstBytes { port: PORT });
    assert_eq!(pair.blamed(), [PRODUCER]);
}

#[test]
fn positions_that_go_back_or_leave_the_room_are_found_out() {
    // The arena's slot is all that the producer has been granted.
    for wrong in [499, 65_537] {
        let mut pair = Pair::new();
        pair.publish(PRODUCER, 1000);
        pair.publish(READER, 500);
        pair.say(READER, ToDaemon::NextPiece { port: PORT, at: 500, lends: false });
        assert_eq!(pair.blamed(), []);
        pair.publish(READER, wrong);
        pair.say(READER, ToDaemon::NextPiece { port: PORT, at: wrong, lends: false });
        assert_eq!(pair.blamed(), [READER]);
    }
    let mut pair = Pair::new();
    pair.publish(PRODUCER, 65_537);
    pair.say(PRODUCER, ToDaemon::FirstBytes { port: PORT });
    assert_eq!(pair.blamed(), [PRODUCER]);
}

#[test]
fn an_end_counts_when_its_producer_has_said_so() {
    let mut pair = Pair::new();
    pair.publish_state(PRODUCER, 1000, State::Finished);
    pair.reader_at(1000);
    pair.verify(1000);
    pair.store.tick(Duration::ZERO);
    assert_eq!(pair.told(), []);
    pair.say(PRODUCER, ToDaemon::Finished { port: PORT });
    assert!(pair.told().contains(&ToFunction::StreamEnd { port: PORT, end: Ok(1000) }));
    assert!(pair.is_finished());
    // A reader that asks later is answered at once.
    let mut pair = Pair::new();
    pair.publish_state(PRODUCER, 1000, State::Finished);
    pair.reader_at(1000);
    pair.say(PRODUCER, ToDaemon::Done);
    pair.told();
    pair.verify(1000);
    assert_eq!(pair.told(), [ToFunction::StreamEnd { port: PORT, end: Ok(1000) }]);
    assert_eq!(pair.blamed(), []);
}

#[test]
fn an_end_that_was_shown_cannot_be_taken_back() {
    for (offset, state) in [(1000, State::Open), (2000, State::Open), (2000, State::Finished), (0, State::Finished)] {
        let mut pair = Pair::new();
        pair.publish_state(PRODUCER, 1000, State::Finished);
        pair.reader_at(1000);
        pair.verify(1000);
        assert_eq!(pair.blamed(), []);
        pair.publish_state(PRODUCER, offset, state);
        pair.store.tick(Duration::ZERO);
        assert_eq!((pair.blamed(), pair.told()), (vec![PRODUCER], vec![]), "{state:?} at {offset}");
        // Its later words do not count, even where they could be true.
        pair.publish_state(PRODUCER, 1000, State::Finished);
        pair.say(PRODUCER, ToDaemon::Finished { port: PORT });
        pair.say(PRODUCER, ToDaemon::Done);
        pair.store.end(Duration::ZERO, PRODUCER, true);
        assert!(!pair.is_finished() && pair.told().iter().all(|it| !matches!(it, ToFunction::StreamEnd { .. })));
    }
}

#[test]
fn what_a_reader_cannot_believe_is_judged_here() {
    // It may be true again when it is looked at: then the reader goes on.
    let mut pair = Pair::new();
    pair.publish(PRODUCER, 1000);
    pair.reader_at(1000);
    pair.verify(1000);
    assert_eq!((pair.blamed(), pair.told()), (vec![], vec![ToFunction::Stay { port: PORT }]));
    for (offset, state) in [(1000, State::Aborted), (u64::MAX >> 2, State::Open), (999, State::Finished)] {
        pair.publish_state(PRODUCER, offset, state);
        pair.verify(1000);
        assert_eq!((pair.blamed(), pair.told()), (vec![PRODUCER], vec![]), "{state:?} at {offset}");
        pair = Pair::new();
        pair.publish(PRODUCER, 1000);
        pair.say(PRODUCER, ToDaemon::FirstBytes { port: PORT });
        pair.reader_at(1000);
    }
}

#[test]
fn an_output_that_cannot_be_true_is_not_finished() {
    for message in [ToDaemon::Finished { port: PORT }, ToDaemon::Done] {
        for (offset, state) in [(65_537, State::Finished), (999, State::Finished), (1000, State::Aborted)] {
            let mut pair = Pair::new();
            pair.publish(PRODUCER, 1000);
            pair.say(PRODUCER, ToDaemon::FirstBytes { port: PORT });
            pair.publish_state(PRODUCER, offset, state);
            pair.say(PRODUCER, message.clone());
            let events = pair.store.take_events();
            assert!(matches!(events[..], [.., StoreEvent::Misbehaved(PRODUCER, _)]), "{events:?}");
            assert!(!events.iter().any(|event| matches!(event, StoreEvent::Finished(..) | StoreEvent::Ended(..))));
        }
    }
    // Nor is one of which only the message says so.
    let mut pair = Pair::new();
    pair.publish(PRODUCER, 1000);
    pair.say(PRODUCER, ToDaemon::Finished { port: PORT });
    assert_eq!(pair.blamed(), [PRODUCER]);
}

#[test]
fn what_is_finished_stays_as_it_is() {
    for (offset, state) in [(2000, State::Finished), (10, State::Finished), (1000, State::Open)] {
        let mut pair = Pair::new();
        pair.publish_state(PRODUCER, 1000, State::Finished);
        pair.say(PRODUCER, ToDaemon::Finished { port: PORT });
        pair.say(PRODUCER, ToDaemon::Done);
        pair.store.examine(PRODUCER);
        assert_eq!(pair.blamed(), []);
        pair.publish_state(PRODUCER, offset, state);
        pair.store.examine(PRODUCER);
        assert_eq!(pair.blamed(), [PRODUCER], "{state:?} at {offset}");
    }
}

#[test]
fn a_ring_is_never_further_than_a_window_past_its_reader() {
    let mut pair = Pair::new();
    pair.publish(PRODUCER, 1000);
    pair.reader_at(1000);
    pair.say(PRODUCER, ToDaemon::NeedWindow { port: PORT, at: 1000, least: 100_000, held: false });
    pair.say(READER, ToDaemon::NextPiece { port: PORT, at: 1000, lends: false });
    let told = pair.told();
    let size = told.iter().find_map(|message| match message {
        ToFunction::Piece { piece: Piece::Memory { window, .. }, .. } if window.ring => Some(window.size),
        _ => None,
    });
    let size = size.unwrap_or_else(|| panic!("no ring: {told:?}"));
    pair.publish(PRODUCER, 1000 + size);
    pair.verify(1000);
    assert_eq!((pair.blamed(), pair.told()), (vec![], vec![ToFunction::Stay { port: PORT }]));
    pair.publish(PRODUCER, 1001 + size);
    pair.verify(1000);
    assert_eq!((pair.blamed(), pair.told()), (vec![PRODUCER], vec![]));
}

/// The end of its stream may arrive while the question is under way.
#[test]
fn a_carrier_may_ask_for_room_where_its_stream_ends() {
    for carried in [true, false] {
        let mut pair = Pair::with(carried);
        pair.publish(PRODUCER, 1000);
        pair.reader_at(1000);
        pair.say(PRODUCER, ToDaemon::NeedWindow { port: PORT, at: 1000, least: 100_000, held: false });
        pair.say(READER, ToDaemon::NextPiece { port: PORT, at: 1000, lends: false });
        let told = pair.told();
        let is_ring = |message: &ToFunction| matches!(message, ToFunction::Piece { piece: Piece::Memory { window, .. }, .. } if window.ring);
        assert!(told.iter().any(is_ring), "{told:?}");
        pair.publish_state(PRODUCER, 5000, State::Finished);
        pair.say(PRODUCER, ToDaemon::NeedWindow { port: PORT, at: 5000, least: 1, held: true });
        pair.say(PRODUCER, ToDaemon::Finished { port: PORT });
        assert_eq!(pair.is_finished(), carried, "a function waits for the answer before it ends its output");
    }
}

/// Shows 1000 bytes and then this; ends when the test has seen enough.
fn lie(socket: &OwnedFd, progress: Progress, enough: &std::sync::mpsc::Receiver<()>) {
    let control = Control::create().unwrap();
    let hello = ToDaemon::Hello { version: PROTOCOL_VERSION }.encode().unwrap();
    channel::send(socket.as_fd(), &hello, &[control.segment().as_fd()], true).unwrap();
    let word = &control.port(PORT).progress;
    word.store(Progress::open(1000).encode(), Ordering::SeqCst);
    let first = ToDaemon::FirstBytes { port: PORT }.encode().unwrap();
    channel::send(socket.as_fd(), &first, &[], true).unwrap();
    word.store(progress.encode(), Ordering::SeqCst);
    let _ = enough.recv();
}

/// The SDK reads from a hostile producer: it neither fails by that one's fault, nor ends on a false end.
#[test]
fn a_reader_leaves_the_judgement_to_the_daemon() {
    for (offset, state) in [(1000, State::Aborted), (1000, State::Finished), (65_537, State::Open)] {
        for remembered in [false, true] {
            let mut node = Node::new(1 << 20);
            let reader = Function { inputs: vec![("in", vec![STREAM.stream.0], false)], ..Function::default() };
            node.plan(&[STREAM.stream.0], &[(2, &reader)]);
            if remembered {
                node.store.remember(STREAM);
            }
            node.start(2, &reader, |ctx| {
                let mut input = ctx.input("in")?;
                while input.chunk()?.is_some() {}
                Ok(())
            });
            let writer = Function { outputs: vec![("out", vec![STREAM.stream.0])], ..Function::default() };
            let (tell, enough) = std::sync::mpsc::channel();
            node.start_raw(1, &writer, move |socket| lie(&socket, Progress { offset, state }, &enough));
            let has_read = |node: &Node| node.store.traffic(READER).read >= 1000 && node.store.is_waiting(READER);
            node.run_until(has_read);
            drop(tell);
            node.run_until(|node| node.is_gone(1));
            // Whether it is blamed or just dead: its stream is aborted, or continued, and this reader waits for that.
            assert!(state == State::Finished || node.misbehaved.iter().any(|(process, _)| *process == PRODUCER));
            assert!(node.misbehaved.iter().all(|(process, _)| *process == PRODUCER), "{:?}", node.misbehaved);
            assert!(!node.outcomes.contains_key(&READER) && !node.is_gone(2), "{:?}", node.outcomes);
            assert!(!node.events.iter().any(|event| matches!(event, StoreEvent::Finished(..))), "{:?}", node.events);
            if remembered && state != State::Finished {
                // What its readers have seen is unknown.
                node.store.continue_stream(dflow_testkit::node::now(), STREAM, false);
                node.start(3, &writer, |ctx| dflow_testkit::node::produce(ctx, "out", 1, 5000, 1000));
                node.run_until(|node| node.events.iter().any(|event| matches!(event, StoreEvent::Diverged(..))));
            }
        }
    }
}
