//! The ports of a carrier are used again, and only when no process looks at the words of their last stream any more.

mod pair;
mod sim;

use dflow_protocol::limits::PROTOCOL_VERSION;
use dflow_protocol::message::{OutputSpec, OutputStreams, Piece, ToDaemon, ToFunction};
use dflow_protocol::words::State;
use dflow_protocol::{InstanceId, PortId, StreamId};
use dflow_shm::Control;
use dflow_store::{ProcessId, RunStream, Subscriber};
use dflow_testkit::node::RUN;
use pair::{PORT, PRODUCER, Pair, READER, STREAM};
use std::os::fd::AsFd;
use std::time::Duration;

const NEXT: RunStream = RunStream { run: RUN, stream: StreamId(2) };
const RETIRE: ToFunction = ToFunction::Retire { port: PORT };
const RETIRED: ToDaemon = ToDaemon::Retired { port: PORT };

/// A carrier has written a stream, which its reader has in front of it, and is about to end it.
fn carried() -> Pair {
    let mut pair = Pair::with(true);
    pair.publish(PRODUCER, 1000);
    pair.say(READER, ToDaemon::NextPiece { port: PORT, at: 0, lends: false });
    pair.publish(READER, 1000);
    pair
}

fn import(pair: &mut Pair) -> Option<PortId> {
    pair.store.open_stream(NEXT, false);
    pair.store.import(PRODUCER, NEXT).expect("a port")
}

#[test]
fn a_writing_port_is_retired_when_no_reader_has_its_stream_mapped() {
    for finishes in [true, false] {
        let mut pair = carried();
        if finishes {
            pair.publish_state(PRODUCER, 1000, State::Finished);
            pair.say(PRODUCER, ToDaemon::Finished { port: PORT });
        } else {
            pair.say(PRODUCER, ToDaemon::CloseOutput { port: PORT });
        }
        assert!(!pair.told_to(PRODUCER).contains(&RETIRE), "the reader may still look at its words");
        pair.say(READER, ToDaemon::NextPiece { port: PORT, at: 1000, lends: false });
        assert_eq!(pair.told_to(PRODUCER), [RETIRE]);
        assert_eq!(import(&mut pair), Some(PortId(1)), "the carrier has not answered yet");
        pair.producer.reset(PORT);
        pair.say(PRODUCER, RETIRED);
        assert_eq!((import(&mut pair), pair.blamed()), (Some(PORT), vec![]));
        // The next stream begins there as if the port were new.
        pair.store.subscribe(Duration::ZERO, NEXT, Subscriber { instance: InstanceId(3), input: 0 }, false);
        pair.publish(PRODUCER, 5);
        pair.say(PRODUCER, ToDaemon::FirstBytes { port: PORT });
        pair.publish_state(PRODUCER, 7, State::Finished);
        pair.say(PRODUCER, ToDaemon::Finished { port: PORT });
        assert!(pair.is_finished() && pair.blamed().is_empty());
        assert_eq!(pair.store.traffic(PRODUCER).written, 1007);
    }
}

#[test]
fn a_port_is_used_again_while_its_slot_holds_bytes_only_where_there_is_no_other() {
    let mut pair = Pair::with(true);
    pair.publish_state(PRODUCER, 1000, State::Finished);
    pair.say(PRODUCER, ToDaemon::Finished { port: PORT });
    assert!(pair.told_to(PRODUCER).contains(&RETIRE), "nobody has come to read it yet");
    pair.producer.reset(PORT);
    pair.say(PRODUCER, RETIRED);
    assert_eq!(import(&mut pair), Some(PortId(1)));
    // What is in the slot is still there for its reader.
    pair.reader_at(0);
    pair.publish(READER, 1000);
    pair.say(READER, ToDaemon::NextPiece { port: PORT, at: 1000, lends: false });
    assert_eq!(pair.told(), [ToFunction::StreamEnd { port: PORT, end: Ok(1000) }]);
    assert_eq!((import(&mut pair), pair.blamed()), (Some(PORT), vec![]));
}

#[test]
fn the_end_of_a_stream_may_cross_the_abort_of_its_epoch() {
    let mut pair = carried();
    pair.say(PRODUCER, ToDaemon::NeedWindow { port: PORT, at: 1000, least: 100_000, held: false });
    pair.store.abort(STREAM);
    assert!(pair.store.usage().memory > 0, "another node might still write into it");
    pair.publish_state(PRODUCER, 1000, State::Finished);
    pair.say(PRODUCER, ToDaemon::Finished { port: PORT });
    assert_eq!(pair.store.usage().memory, 0);
    assert!(pair.told_to(PRODUCER).contains(&RETIRE) && pair.blamed().is_empty());
}

#[test]
fn a_port_that_waits_for_its_readers_is_retired_with_its_epoch() {
    let mut pair = carried();
    pair.publish_state(PRODUCER, 1000, State::Finished);
    pair.say(PRODUCER, ToDaemon::Finished { port: PORT });
    assert!(!pair.told_to(PRODUCER).contains(&RETIRE));
    pair.store.abort(STREAM);
    assert_eq!(pair.told_to(PRODUCER), [RETIRE]);
}

#[test]
fn a_reading_port_is_retired_when_it_is_closed_and_its_producer_told() {
    let mut pair = Pair::with(true);
    // A function writes what the carrier reads for another node.
    let (writer, mut stream) = (ProcessId(3), RunStream { run: RUN, stream: StreamId(5) });
    let other = Subscriber { instance: InstanceId(9), input: 0 };
    pair.store.open_stream(stream, false);
    let output = OutputSpec { name: "o".into(), streams: OutputStreams::Single(PORT), stdout: false };
    pair.store.begin(RUN, writer, pair::setup(Vec::new(), vec![output]), &[vec![stream.stream]]).expect("room");
    let page = Control::create().expect("a page").segment().as_fd().try_clone_to_owned().expect("a descriptor");
    pair.store.receive(Duration::ZERO, writer, ToDaemon::Hello { version: PROTOCOL_VERSION }, vec![page]);
    pair.store.start(writer);
    pair.store.subscribe(Duration::ZERO, stream, other, false);
    let port = pair.store.export(PRODUCER, other, stream).expect("a port").expect("a carrier");
    pair.say(PRODUCER, ToDaemon::NextPiece { port, at: 0, lends: false });
    let told = pair.store.take_outgoing();
    let is_known = |message: &ToFunction| matches!(message, ToFunction::AddReader { reader, .. } if *reader == port);
    assert!(told.iter().any(|it| it.process == writer && is_known(&it.message)), "{told:?}");
    pair.say(PRODUCER, ToDaemon::CloseInput { port });
    let told = pair.store.take_outgoing();
    let is_dropped = |message: &ToFunction| matches!(message, ToFunction::DropReader { reader, .. } if *reader == port);
    let [first, second, ..] = &told[..] else { panic!("{told:?}") };
    assert!(first.process == writer && is_dropped(&first.message), "first of all: {told:?}");
    assert_eq!((second.process, &second.message), (PRODUCER, &ToFunction::Retire { port }));
    pair.producer.reset(port);
    pair.say(PRODUCER, ToDaemon::Retired { port });
    stream.stream = StreamId(8);
    pair.store.open_stream(stream, false);
    assert_eq!((pair.store.export(PRODUCER, other, stream).expect("a port"), pair.blamed()), (Some(port), vec![]));
}

#[test]
fn a_port_is_not_retired_by_words_that_are_not_reset_nor_by_anybody_else() {
    let mut pair = carried();
    pair.say(PRODUCER, ToDaemon::CloseOutput { port: PORT });
    pair.say(READER, ToDaemon::NextPiece { port: PORT, at: 1000, lends: false });
    pair.say(PRODUCER, RETIRED);
    assert_eq!(pair.blamed(), [PRODUCER], "its words are those of the last stream");
    let mut pair = Pair::with(true);
    pair.say(PRODUCER, RETIRED);
    assert_eq!(pair.blamed(), [PRODUCER], "it was not told to");
    let mut pair = Pair::new();
    pair.say(PRODUCER, RETIRED);
    assert_eq!(pair.blamed(), [PRODUCER], "it is no carrier");
}

#[test]
fn the_piece_that_a_reader_has_names_the_port_of_its_stream() {
    let mut pair = Pair::with(true);
    pair.publish(PRODUCER, 10);
    pair.say(READER, ToDaemon::NextPiece { port: PORT, at: 0, lends: false });
    let told = pair.told();
    let names = |message: &ToFunction| {
        matches!(message, ToFunction::Piece { piece: Piece::Memory { producer: Some((_, PORT)), .. }, .. })
    };
    assert!(told.iter().any(names), "that is what a port must not be used again for: {told:?}");
}
