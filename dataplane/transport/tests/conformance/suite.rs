//! The guarantees over every path if both ends follow the protocol; [`super::hostile`] tests peers that violate it.

use super::node::Layout;
use super::world::{Network, World, epoch, stream};
use dflow_protocol::limits::ARENA_SLOT;
use dflow_transport::{Link, LinkEvent};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

pub fn streams_of_every_length_arrive_as_they_are(network: impl Network) {
    let mut world = World::new(network);
    let lengths = [0, 1, 4095, 4096, 4097, ARENA_SLOT - 1, ARENA_SLOT, ARENA_SLOT + 1, MIB + 7, 3 * MIB];
    for (number, length) in (0..).zip(lengths) {
        for side in 0..2 {
            let [mine, theirs] = [2 * number + side as u32, 2 * number + 1 - side as u32].map(stream);
            world.nodes[side].write(mine, length);
            let layout = if number % 2 == 0 { Layout::Ring } else { Layout::Extents };
            let (node, link) = (&mut world.nodes[side], &mut world.links[side]);
            node.read(link, theirs, layout);
        }
    }
    world.until_done();
    world.rest();
    world.assert_undisturbed();
    for node in &world.nodes {
        assert_eq!(node.sinks.values().map(|sink| sink.read).sum::<u64>(), lengths.iter().sum::<u64>());
        assert!(node.readers.is_empty(), "both sides forget a flow that has ended");
    }
}

pub fn a_large_stream_passes_through_small_windows(network: impl Network) {
    let large = network.large();
    let mut world = World::new(network);
    world.nodes[0].write(stream(1), large);
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    node.read(link, stream(1), Layout::Ring);
    world.until_done();
    assert_eq!(world.nodes[1].sinks.values().map(|sink| sink.read).sum::<u64>(), large);
    world.assert_undisturbed();
}

pub fn the_order_of_reader_and_writer_does_not_matter(network: impl Network) {
    let mut world = World::new(network);
    // Written before there is a reader.
    world.nodes[0].write(stream(1), 100 * KIB);
    world.rest();
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    node.read(link, stream(1), Layout::Ring);
    // Read before it is written.
    node.read(link, stream(2), Layout::Extents);
    world.rest();
    assert!(!world.nodes[1].is_done());
    world.nodes[0].write(stream(2), 300 * KIB);
    world.until_done();
    world.assert_undisturbed();
}

pub fn a_reader_that_stops_holds_its_own_stream_alone(network: impl Network) {
    let mut world = World::new(network);
    for number in 1..=4 {
        world.nodes[0].write(stream(number), 4 * MIB);
    }
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    let slow = node.read(link, stream(1), Layout::Ring);
    node.sinks.get_mut(&slow).expect("just made").limit = 100 * KIB;
    for number in 2..=4 {
        node.read(link, stream(number), Layout::Ring);
    }
    world.until(|world| world.nodes[1].sinks.values().filter(|sink| sink.ended == Some(sink.read)).count() == 3);
    world.rest();
    let sink = &world.nodes[1].sinks[&slow];
    assert_eq!(sink.read, 100 * KIB);
    assert!(sink.arrived <= 100 * KIB + 512 * KIB, "unread bytes are not sent: {}", sink.arrived);
    assert!(sink.ended.is_none());
    world.nodes[1].sinks.get_mut(&slow).expect("it is there").limit = u64::MAX;
    world.until_done();
    world.assert_undisturbed();
}

pub fn thousands_of_streams_at_once(network: impl Network) {
    let mut world = World::new(network);
    let count = 4000;
    for number in 0..count {
        let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
        node.read(link, stream(number), Layout::Ring);
    }
    for number in 0..count {
        world.nodes[0].write(stream(number), 64 + u64::from(number % 7));
    }
    world.until_done();
    world.rest();
    world.assert_undisturbed();
    assert!(world.nodes[0].readers.is_empty());
}

/// Unlike those above, which travel inside of messages, each of these has a window, at the same time as all the others.
pub fn hundreds_of_windows_at_once(network: impl Network) {
    windows_at_once(network, 300);
}

pub fn windows_at_once(network: impl Network, count: u32) {
    let mut world = World::new(network);
    let open = ARENA_SLOT + 16 * KIB;
    let length = |number: u32| open + 8 * KIB + u64::from(number);
    for number in 0..count {
        world.nodes[0].write(stream(number), length(number)).limit = open;
        let layout = if number % 2 == 0 { Layout::Ring } else { Layout::Extents };
        let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
        node.read(link, stream(number), layout);
    }
    world.until(|world| world.nodes[1].sinks.values().all(|sink| sink.read == open));
    assert!(world.nodes[1].sinks.values().all(|sink| sink.ended.is_none()));
    assert_eq!(world.nodes[0].readers.len(), count as usize);
    world.nodes[0].sources.values_mut().for_each(|source| source.limit = u64::MAX);
    world.until_done();
    world.rest();
    world.assert_undisturbed();
    assert_eq!(world.nodes[1].sinks.values().map(|sink| sink.read).sum::<u64>(), (0..count).map(length).sum::<u64>());
    assert!(world.nodes[0].readers.is_empty());
}

pub fn a_stream_that_is_given_up_ends_there_and_nowhere_else(network: impl Network) {
    let mut world = World::new(network);
    world.nodes[0].write(stream(1), 8 * MIB).limit = 500 * KIB;
    world.nodes[0].write(stream(2), 2 * MIB);
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    let flow = node.read(link, stream(1), Layout::Ring);
    node.read(link, stream(2), Layout::Ring);
    world.until(|world| world.nodes[1].sinks[&flow].read > 200 * KIB);
    let (node, link) = (&mut world.nodes[0], &mut world.links[0]);
    node.abort(link, stream(1), "its producer was killed");
    world.until_done();
    assert_eq!(world.nodes[1].sinks[&flow].aborted.as_deref(), Some("its producer was killed"));
    world.rest();
    assert!(world.nodes[0].readers.is_empty());
    world.assert_undisturbed();
}

pub fn a_new_epoch_is_a_new_stream(network: impl Network) {
    let mut world = World::new(network);
    world.nodes[0].write(epoch(1, 1), 8 * MIB).limit = 300 * KIB;
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    let first = node.read(link, epoch(1, 1), Layout::Ring);
    world.until(|world| world.nodes[1].sinks[&first].read > 64 * KIB);
    // Both at once: the messages cross.
    let (node, link) = (&mut world.nodes[0], &mut world.links[0]);
    node.abort(link, epoch(1, 1), "retried");
    node.write(epoch(1, 2), MIB);
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    node.close(link, first);
    let second = node.read(link, epoch(1, 2), Layout::Ring);
    world.until_done();
    assert_eq!(world.nodes[1].sinks[&second].read, MIB);
    world.rest();
    world.assert_undisturbed();
    assert!(world.nodes[0].readers.is_empty());
}

pub fn a_reader_that_leaves_does_not_affect_others(network: impl Network) {
    let mut world = World::new(network);
    world.nodes[0].write(stream(1), 64 * MIB);
    world.nodes[0].write(stream(2), 2 * MIB);
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    let leaves = node.read(link, stream(1), Layout::Ring);
    node.read(link, stream(2), Layout::Ring);
    world.until(|world| world.nodes[1].sinks[&leaves].read > MIB);
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    node.close(link, leaves);
    world.until(|world| world.nodes[1].sinks[&leaves].quiet);
    assert_eq!(world.nodes[0].unsubscribed, [stream(1)]);
    world.until_done();
    world.rest();
    assert_eq!(world.nodes[0].unsubscribed.len(), 2);
    world.assert_undisturbed();
}

pub fn a_lost_path_loses_and_doubles_nothing(network: impl Network) {
    let mut world = World::new(network);
    let length = 6 * MIB + 11;
    for (number, layout) in [(1, Layout::Ring), (2, Layout::Extents)] {
        world.nodes[0].write(stream(number), length);
        let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
        node.read(link, stream(number), layout);
        world.nodes[1].write(stream(number + 10), length);
        let (node, link) = (&mut world.nodes[0], &mut world.links[0]);
        node.read(link, stream(number + 10), layout);
    }
    for cut in 1..=4u64 {
        let enough = cut * length / 5;
        world.until(|world| world.nodes[1].sinks.values().any(|sink| sink.read >= enough));
        world.network.cut();
        if cut % 2 == 0 {
            // Both sides know before there is another path; otherwise neither needs to.
            world.until(|world| world.links.iter().all(|link| link.path_kind().is_none()));
        }
        world.connect();
    }
    world.until_done();
    for node in &world.nodes {
        assert!(node.sinks.values().all(|sink| sink.ended == Some(length) && sink.aborted.is_none()));
    }
    let sent: u64 = world.links.iter().map(|link| link.stats().total().sent).sum();
    assert!(sent >= 4 * length, "everything was sent at least once");
}

pub fn bytes_in_transit_are_sent_again_without_duplicates(network: impl Network) {
    let mut world = World::new(network);
    let length = 3 * MIB;
    world.nodes[0].write(stream(1), length).limit = 100 * KIB;
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    let flow = node.read(link, stream(1), Layout::Ring);
    world.until(|world| world.nodes[1].sinks[&flow].read == 100 * KIB);
    world.rest();
    // The reading side has granted more credit but processes nothing: bytes that arrive from here on are lost.
    world.nodes[0].sources.get_mut(&stream(1)).expect("it is there").limit = u64::MAX;
    while world.links[0].stats().total().sent < 200 * KIB {
        let (node, link) = (&mut world.nodes[0], &mut world.links[0]);
        if !(node.work_on_all(link) | link.step(node)) {
            let _later = link.settle(node);
            assert!(world.network.idle(), "it has credit for more");
        }
    }
    world.network.cut();
    world.connect();
    world.until_done();
    assert_eq!(world.nodes[1].sinks[&flow].read, length);
    assert!(world.links[0].stats().total().sent >= length + 100 * KIB, "the lost bytes were to be sent again");
}

pub fn a_path_that_is_silent_is_lost(network: impl Network) {
    use std::time::{Duration, Instant};
    let mut world = World::new(network);
    world.rest();
    let limit = Duration::from_secs(8);
    let start = Instant::now();
    // The other side does not answer, as it is not run.
    for second in 0..5 {
        world.links[0].tick(start + Duration::from_secs(second), limit);
        assert!(world.links[0].path_kind().is_some());
    }
    // This side was stopped in between: it is unknown whether anything would have arrived.
    world.links[0].tick(start + Duration::from_secs(3604), limit);
    assert!(world.links[0].path_kind().is_some());
    world.links[0].tick(start + Duration::from_secs(3606), limit);
    assert!(world.links[0].path_kind().is_none());
    assert!(matches!(world.links[0].take_events()[..], [LinkEvent::PathLost(_)]));
}

pub fn a_peer_that_answers_is_not_lost(network: impl Network) {
    use std::time::{Duration, Instant};
    let mut world = World::new(network);
    world.rest();
    world.links[0].tick(Instant::now() + Duration::from_secs(3), Duration::from_secs(8));
    let messages = world.links[0].stats().messages_received;
    world.until(|world| world.links[0].stats().messages_received > messages);
    world.assert_undisturbed();
}

pub fn a_restarted_peer_does_not_know_its_streams(network: impl Network) {
    let mut world = World::new(network);
    world.nodes[0].write(stream(1), 64 * MIB);
    world.nodes[1].write(stream(2), 64 * MIB);
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    let flow = node.read(link, stream(1), Layout::Ring);
    let (node, link) = (&mut world.nodes[0], &mut world.links[0]);
    node.read(link, stream(2), Layout::Ring);
    world.until(|world| world.nodes[1].sinks[&flow].read > MIB);
    world.links[0] = Link::new(73);
    world.nodes[0] = Default::default();
    world.nodes[0].write(stream(3), 100 * KIB);
    world.connect();
    world.until(|world| world.nodes[1].sinks[&flow].aborted.is_some());
    assert_eq!(world.nodes[1].unsubscribed, [stream(2)]);
    // The new life works.
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    let flow = node.read(link, stream(3), Layout::Ring);
    world.until(|world| world.nodes[1].sinks[&flow].ended.is_some());
}

pub fn streams_share_the_path(network: impl Network) {
    let mut world = World::new(network);
    for number in 1..=2 {
        world.nodes[0].write(stream(number), 16 * MIB);
        let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
        node.read(link, stream(number), Layout::Ring);
    }
    let mut worst = 0;
    let mut small = None;
    world.until(|world| {
        let read: Vec<u64> = world.nodes[1].sinks.values().map(|sink| sink.arrived).collect();
        if read.iter().all(|&read| read < 16 * MIB) {
            worst = worst.max(read[0].abs_diff(read[1]));
        }
        read[0] + read[1] > 8 * MIB
    });
    assert!(worst <= 2 * MIB, "one of two equal streams was {worst} bytes ahead");
    // A small stream is not stuck behind the large ones.
    world.nodes[0].write(stream(3), 1000);
    let before: u64 = world.nodes[1].sinks.values().map(|sink| sink.arrived).sum();
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    let flow = *small.insert(node.read(link, stream(3), Layout::Ring));
    world.until(|world| world.nodes[1].sinks[&flow].ended.is_some());
    let passed = world.nodes[1].sinks.values().map(|sink| sink.arrived).sum::<u64>() - before;
    assert!(passed <= 8 * MIB, "{passed} bytes of others passed before a small stream was there");
    world.until_done();
}

pub fn a_note_on_stuck_readers_reaches_the_producer(network: impl Network) {
    let mut world = World::new(network);
    world.nodes[0].write(stream(1), MIB);
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    let flow = node.read(link, stream(1), Layout::Ring);
    node.sinks.get_mut(&flow).expect("just made").limit = 10 * KIB;
    world.rest();
    world.links[1].stuck(flow, true);
    world.until(|world| world.nodes[0].stuck.get(&stream(1)) == Some(&true));
    world.links[1].stuck(flow, false);
    world.until(|world| world.nodes[0].stuck.get(&stream(1)) == Some(&false));
    world.assert_undisturbed();
}

/// The suite as tests over one kind of network; `$network` is an expression that makes one.
#[macro_export]
macro_rules! conformance {
    ($network:expr; $($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            $crate::conformance::suite::$name($network);
        })*
    };
    ($network:expr) => {
        $crate::conformance! {
            $network;
            streams_of_every_length_arrive_as_they_are,
            a_large_stream_passes_through_small_windows,
            the_order_of_reader_and_writer_does_not_matter,
            a_reader_that_stops_holds_its_own_stream_alone,
            thousands_of_streams_at_once,
            hundreds_of_windows_at_once,
            a_stream_that_is_given_up_ends_there_and_nowhere_else,
            a_new_epoch_is_a_new_stream,
            a_reader_that_leaves_does_not_affect_others,
            a_lost_path_loses_and_doubles_nothing,
            bytes_in_transit_are_sent_again_without_duplicates,
            a_path_that_is_silent_is_lost,
            a_peer_that_answers_is_not_lost,
            a_restarted_peer_does_not_know_its_streams,
            streams_share_the_path,
            a_note_on_stuck_readers_reaches_the_producer,
        }

        #[test]
        fn a_peer_that_breaks_the_rules_is_cut_off() {
            $crate::conformance::hostile::a_peer_that_breaks_the_rules_is_cut_off(|| $network);
        }

        #[test]
        fn a_peer_that_begins_badly_is_cut_off() {
            $crate::conformance::hostile::a_peer_that_begins_badly_is_cut_off(|| $network);
        }

        #[test]
        fn bytes_past_the_credit_are_cut_off() {
            $crate::conformance::hostile::bytes_past_the_credit_are_cut_off($network);
        }
    };
}
